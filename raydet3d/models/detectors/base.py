"""Base classes of models: training, validation and test steps (`BaseModel`), and 3D detectors (`Base3DDetector`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypedDict

import torch
from torch import Tensor, nn

from raydet3d.models.module import BaseModule, BatchData, ConfigType, InitCfg
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData

Losses = Mapping[str, Tensor | Sequence[Tensor]]


class Voxels(TypedDict):
    """Voxels of a batch: `voxels` (V, P, C), `num_points` (V,), `coors` (V, 4) as batch, z, y, x."""

    voxels: Tensor
    num_points: Tensor
    coors: Tensor


class DetInputs(TypedDict, total=False):
    """Output of `Det3DDataPreprocessor`: the points of each frame, (N, C), and their voxels."""

    points: Sequence[Tensor]
    voxels: Voxels
    imgs: Tensor


class StepOptimizer(Protocol):
    """What a training step needs of an optim wrapper."""

    def optim_context(self, model: nn.Module, /) -> Any:
        """Return the context manager that the forward pass runs in (autocast, gradient synchronization)."""

    def update_params(self, loss: Tensor, /) -> None:
        """Run the backward pass and update the parameters."""


class BaseModel(BaseModule):
    """A model that loops can train, validate and test; subclasses define `forward(inputs, data_samples, mode)`.

    `mode="loss"` returns a dict of losses, `"predict"` the samples with predictions, `"tensor"` raw outputs. Every mode
    goes through `forward`, so that model wrappers (DDP) see each call.

    Args:
        data_preprocessor: A module, or its config; the class's default type unless it names one.
        init_cfg: See `BaseModule`.
    """

    default_preprocessor: ClassVar[str] = "BaseDataPreprocessor"

    def __init__(self, data_preprocessor: ConfigType | nn.Module | None = None, init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = MODELS.build(data_preprocessor or {}, {"type": self.default_preprocessor})
        assert isinstance(data_preprocessor, nn.Module)
        self.data_preprocessor: nn.Module = data_preprocessor

    def train_step(self, data: BatchData, optim_wrapper: StepOptimizer) -> dict[str, Tensor]:
        """Train on one batch.

        Args:
            data: A collated batch.
            optim_wrapper: Gives the context of the forward pass and updates the parameters.

        Returns:
            Values to log: `loss` and its parts.
        """
        with optim_wrapper.optim_context(self):
            losses = self._run_forward(self.data_preprocessor(data, True), mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    @torch.no_grad()
    def val_step(self, data: BatchData) -> list[Any]:
        """Predict on one collated batch."""
        predictions: list[Any] = self._run_forward(self.data_preprocessor(data, False), mode="predict")
        return predictions

    def test_step(self, data: BatchData) -> list[Any]:
        """Predict on one collated batch."""
        return self.val_step(data)

    @staticmethod
    def parse_losses(losses: Losses) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the losses of a batch.

        Args:
            losses: Tensors, of which the mean is taken, or lists of tensors, whose means are added.

        Returns:
            The sum of all entries whose name contains "loss", and the detached values to log, that sum ("loss") first.
        """
        parts = {
            name: value.mean() if isinstance(value, Tensor) else torch.stack([one.mean() for one in value]).sum()
            for name, value in losses.items()
        }
        total = torch.stack([value for name, value in parts.items() if "loss" in name]).sum()
        return total, {"loss": total.detach(), **{name: value.detach() for name, value in parts.items()}}

    def _run_forward(self, data: BatchData, mode: str) -> Any:
        """Call the model with the entries of a dict as keywords, or those of a list as positional arguments."""
        if isinstance(data, Mapping):
            return self(**data, mode=mode)
        return self(*data, mode=mode) if isinstance(data, list | tuple) else self(data, mode=mode)


class Base3DDetector(BaseModel):
    """Base class of 3D detectors; subclasses define `extract_feat`, `loss`, `predict` and `_forward`.

    Args:
        data_preprocessor: A module, or its config; `Det3DDataPreprocessor` unless it names a type.
        init_cfg: See `BaseModule`.
    """

    default_preprocessor = "Det3DDataPreprocessor"

    def forward(
        self,
        inputs: DetInputs,
        data_samples: Sequence[Det3DDataSample] | None = None,
        mode: str = "tensor",
        **kwargs: Any,
    ) -> Any:
        """Run the model.

        Args:
            inputs: Output of the data preprocessor.
            data_samples: Samples of the batch.
            mode: "loss" returns a dict of losses, "predict" the samples with predictions, "tensor" the head's maps.
            **kwargs: Passed to the method of the mode.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples or [], **kwargs)
        if mode == "predict":
            return self.predict(inputs, data_samples or [], **kwargs)
        if mode == "tensor":
            return self._forward(inputs, data_samples, **kwargs)
        raise ValueError(f"mode is 'loss', 'predict' or 'tensor', got {mode!r}")

    def extract_feat(self, batch_inputs_dict: DetInputs) -> Any:
        """Compute the feature maps of a batch."""
        raise NotImplementedError

    def loss(
        self, batch_inputs_dict: DetInputs, batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any
    ) -> Losses:
        """Compute the losses of a batch."""
        raise NotImplementedError

    def predict(
        self, batch_inputs_dict: DetInputs, batch_data_samples: Sequence[Det3DDataSample], **kwargs: Any
    ) -> list[Det3DDataSample]:
        """Return the samples of a batch with `pred_instances_3d`."""
        raise NotImplementedError

    def _forward(
        self,
        batch_inputs_dict: DetInputs,
        data_samples: Sequence[Det3DDataSample] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the raw outputs of the head."""
        raise NotImplementedError

    def add_pred_to_datasample(
        self,
        data_samples: Sequence[Det3DDataSample],
        data_instances_3d: Sequence[InstanceData] | None = None,
        data_instances_2d: Sequence[InstanceData] | None = None,
    ) -> list[Det3DDataSample]:
        """Put predictions into the samples of a batch.

        Args:
            data_samples: B samples.
            data_instances_3d: 3D predictions of each sample; empty ones by default.
            data_instances_2d: 2D predictions of each sample; empty ones by default.

        Returns:
            The samples with `pred_instances_3d` and `pred_instances`.
        """
        for i, sample in enumerate(data_samples):
            sample.pred_instances_3d = data_instances_3d[i] if data_instances_3d is not None else InstanceData()
            sample.pred_instances = data_instances_2d[i] if data_instances_2d is not None else InstanceData()
        return list(data_samples)
