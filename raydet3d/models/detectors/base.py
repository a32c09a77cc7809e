"""Detectors: what one training, validation or test step of a model is.

Legend: B batch · N points · C numbers per point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.errors import InputError
from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData


class Base3DDetector(nn.Module):
    """What loops ask of a model; detectors fill in `loss`, `predict` and `tensor`.

    Args:
        data_preprocessor: What brings a collated batch to the device and into shape; nothing but moving by default.
    """

    def __init__(self, data_preprocessor: Mapping[str, Any] | nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = MODELS.build(data_preprocessor or {}, {"type": "Det3DDataPreprocessor"})
        assert isinstance(data_preprocessor, nn.Module)
        self.data_preprocessor: nn.Module = data_preprocessor

    def init_weights(self) -> None:
        """Give all parts their published first values."""
        for child in self.children():
            init = getattr(child, "init_weights", None)
            if init is not None:
                init()

    # ------------------------------------------------------------------ what loops call

    def train_step(self, data: Mapping[str, Any], optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            data: A collated batch.
            optim_wrapper: Knows how to run forward, and how to update.

        Returns:
            What to log: `loss`, and each of its parts.
        """
        with optim_wrapper.optim_context(self):
            ready = self.data_preprocessor(data, True)
            losses = self(**ready, mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    @torch.no_grad()
    def val_step(self, data: Mapping[str, Any]) -> list[Det3DDataSample]:
        """Predict on one collated batch."""
        found: list[Det3DDataSample] = self(**self.data_preprocessor(data, False), mode="predict")
        return found

    def test_step(self, data: Mapping[str, Any]) -> list[Det3DDataSample]:
        """Predict on one collated batch."""
        return self.val_step(data)

    def forward(
        self,
        inputs: Mapping[str, Any],
        data_samples: Sequence[Det3DDataSample] | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Run the model; one entrance for all modes, so that wrappers (DDP) see every call.

        Args:
            inputs: What the preprocessor made.
            data_samples: Samples of the batch.
            mode: "loss" gives a dict of losses, "predict" the samples with predictions, "tensor" the head's raw maps.
        """
        if mode == "loss":
            return self.loss(inputs, data_samples or [])
        if mode == "predict":
            return self.predict(inputs, data_samples or [])
        if mode == "tensor":
            return self.tensor(inputs)
        raise ValueError(f"mode is 'loss', 'predict' or 'tensor', got {mode!r}")

    @staticmethod
    def parse_losses(losses: Mapping[str, Tensor | Sequence[Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum up what is to be minimised.

        Args:
            losses: Tensors, or lists of tensors whose means are summed.

        Returns:
            The sum of all entries whose name contains "loss", and a dict for the log that begins with it.
        """
        parts = {
            name: value.mean() if isinstance(value, Tensor) else torch.stack([one.mean() for one in value]).sum()
            for name, value in losses.items()
        }
        total = torch.stack([value for name, value in parts.items() if "loss" in name]).sum()
        return total, {"loss": total.detach(), **{name: value.detach() for name, value in parts.items()}}

    # ------------------------------------------------------------------ what detectors fill in

    def loss(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> dict[str, Tensor]:
        """Give the losses of a batch."""
        raise NotImplementedError

    def predict(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> list[Det3DDataSample]:
        """Give the samples of a batch with `pred_instances_3d`."""
        raise NotImplementedError

    def tensor(self, inputs: Mapping[str, Any]) -> Any:
        """Give the head's raw maps."""
        raise NotImplementedError

    @staticmethod
    def add_predictions(
        data_samples: Sequence[Det3DDataSample], found: Sequence[InstanceData]
    ) -> list[Det3DDataSample]:
        """Put what was found into the samples."""
        for sample, instances in zip(data_samples, found, strict=True):
            sample.pred_instances_3d = instances
            sample.pred_instances = InstanceData()
        return list(data_samples)


@MODELS.register_module()
class VoxelNet(Base3DDetector):
    """A detector of one stage on voxels: PointPillars, SECOND.

    Args:
        voxel_encoder: Points of a voxel to its feature.
        middle_encoder: Voxels to a bird's-eye map.
        backbone: Map to maps of several strides.
        neck: Those to one.
        bbox_head: Map to boxes.
        train_cfg: Handed to the head.
        test_cfg: Handed to the head.
        data_preprocessor: See `Base3DDetector`.
    """

    def __init__(
        self,
        voxel_encoder: Mapping[str, Any],
        middle_encoder: Mapping[str, Any],
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any] | None = None,
        bbox_head: Mapping[str, Any] | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        if bbox_head is None:
            raise InputError("VoxelNet needs a bbox_head")
        self.voxel_encoder = MODELS.build(voxel_encoder)
        self.middle_encoder = MODELS.build(middle_encoder)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck) if neck is not None else None
        self.bbox_head = MODELS.build({**bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg})

    def extract_feat(self, inputs: Mapping[str, Any]) -> Sequence[Tensor]:
        """Compute the maps that the head works on."""
        voxels = inputs["voxels"]
        features = self.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
        # The batch is as large as there are clouds: the last of them may be empty, and no voxel tells.
        x = self.middle_encoder(features, voxels["coors"], len(inputs["points"]))
        maps: Sequence[Tensor] = self.backbone(x)
        return self.neck(maps) if self.neck is not None else maps

    def loss(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> dict[str, Tensor]:
        """Give the losses of a batch."""
        losses: dict[str, Tensor] = self.bbox_head.loss(self.extract_feat(inputs), data_samples)
        return losses

    def predict(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> list[Det3DDataSample]:
        """Give the samples of a batch with `pred_instances_3d`."""
        return self.add_predictions(data_samples, self.bbox_head.predict(self.extract_feat(inputs), data_samples))

    def tensor(self, inputs: Mapping[str, Any]) -> Any:
        """Give the head's raw maps."""
        return self.bbox_head(self.extract_feat(inputs))
