"""Bases for models of one's own, by MMEngine's names: modules with an ``init_cfg``, a model that loops can train."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.models.detectors.base import Base3DDetector
from raydet3d.models.weight_init import initialize
from raydet3d.registry import MODELS

InitCfg = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class BaseModule(nn.Module):
    """A module that knows how its weights begin.

    Args:
        init_cfg: A dict or several, see ``first_values.initialize``; what they do not name keeps torch's first values.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self.init_cfg = copy.deepcopy(init_cfg)
        self._is_init = False

    @property
    def is_init(self) -> bool:
        """Whether ``init_weights`` was called."""
        return self._is_init

    def init_weights(self) -> None:
        """Give this module and its parts their first values; a pretrained checkpoint comes last, over everything."""
        given = self.init_cfg
        cfgs = [given] if isinstance(given, Mapping) else list(given or [])
        pretrained = [
            cfg for cfg in cfgs if str(cfg.get("type", "")).rpartition(".")[2] in ("Pretrained", "PretrainedInit")
        ]
        initialize(self, [cfg for cfg in cfgs if cfg not in pretrained])
        for child in self.children():
            init = getattr(child, "init_weights", None)
            if init is not None and not getattr(child, "is_init", False):
                init()
        initialize(self, pretrained)
        self._is_init = True


class Sequential(BaseModule, nn.Sequential):
    """``nn.Sequential`` with an ``init_cfg``."""

    def __init__(self, *modules: nn.Module, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *modules)
        self.init_cfg, self._is_init = copy.deepcopy(init_cfg), False


class ModuleList(BaseModule, nn.ModuleList):
    """``nn.ModuleList`` with an ``init_cfg``."""

    def __init__(self, modules: Iterable[nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)
        self.init_cfg, self._is_init = copy.deepcopy(init_cfg), False


class ModuleDict(BaseModule, nn.ModuleDict):
    """``nn.ModuleDict`` with an ``init_cfg``."""

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)
        self.init_cfg, self._is_init = copy.deepcopy(init_cfg), False


@MODELS.register_module()
class BaseDataPreprocessor(nn.Module):
    """Moves what a loader gives to the model's device, and changes nothing else.

    Args:
        non_blocking: Do not wait for copies from pinned memory.
    """

    def __init__(self, non_blocking: bool | None = False) -> None:
        super().__init__()
        self._non_blocking = bool(non_blocking)
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where data go."""
        return self._device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # `to`, `cuda` and `cpu` meet here
        self._device = fn(torch.empty(0, device=self._device)).device
        return self

    def cast_data(self, data: Any) -> Any:
        """Data with everything that can move on the device; containers keep their kind."""
        if isinstance(data, Mapping):
            return {key: self.cast_data(value) for key, value in data.items()}
        if isinstance(data, tuple) and hasattr(data, "_fields"):
            return type(data)(*(self.cast_data(value) for value in data))
        if isinstance(data, (list, tuple)):
            return type(data)(self.cast_data(value) for value in data)
        if isinstance(data, Tensor):
            return data.to(self._device, non_blocking=self._non_blocking)
        return data.to(self._device) if hasattr(data, "to") else data

    def forward(self, data: Any, training: bool = False) -> Any:
        """Prepare a batch.

        Args:
            data: As the loader gives it.
            training: Whether it is for training.
        """
        return self.cast_data(data)


class BaseModel(BaseModule):
    """A model that loops can train, validate and test: fill in ``forward(..., mode=)``.

    ``mode='loss'`` gives a dict of losses, ``'predict'`` the samples with predictions, ``'tensor'`` raw outputs.

    Args:
        data_preprocessor: A module, or its config; ``BaseDataPreprocessor`` by default.
        init_cfg: See ``BaseModule``.
    """

    parse_losses = staticmethod(Base3DDetector.parse_losses)

    def __init__(
        self, data_preprocessor: Mapping[str, Any] | nn.Module | None = None, init_cfg: InitCfg = None
    ) -> None:
        super().__init__(init_cfg)
        made: Any = data_preprocessor
        if not isinstance(made, nn.Module):
            made = MODELS.build(made or {}, {"type": "BaseDataPreprocessor"})
        self.data_preprocessor: nn.Module = made

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Run the model; see the class."""
        raise NotImplementedError

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            data: A collated batch.
            optim_wrapper: Knows how to run forward, and how to update.

        Returns:
            What to log.
        """
        with optim_wrapper.optim_context(self):
            losses = self._run_forward(self.data_preprocessor(data, True), mode="loss")
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data: Any) -> list[Any]:
        """Predict on one collated batch."""
        found: list[Any] = self._run_forward(self.data_preprocessor(data, False), mode="predict")
        return found

    def test_step(self, data: Any) -> list[Any]:
        """Predict on one collated batch."""
        return self.val_step(data)

    def _run_forward(self, data: Any, mode: str) -> Any:
        if isinstance(data, Mapping):
            return self(**data, mode=mode)
        return self(*data, mode=mode) if isinstance(data, (list, tuple)) else self(data, mode=mode)
