"""`BaseModule` and its containers, by MMEngine's names: modules with an `init_cfg`; models from lists of configs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from raydet3d.models.weight_init import initialize
from raydet3d.registry import MODELS, Registry, build_from_cfg
from raydet3d.structures import Boxes3D, DataElement

ConfigType: TypeAlias = Mapping[str, Any]
"""A config dict, as MMDetection3D calls its type."""

InitCfg: TypeAlias = ConfigType | Sequence[ConfigType] | None
"""An `init_cfg`: one dict or several."""

BatchData: TypeAlias = (
    "Mapping[str, BatchData] | Sequence[BatchData] | Tensor | DataElement | Boxes3D | str | float | None"
)
"""A batch as the collate function returns it: tensors and data samples in nested containers."""


class BaseModule(nn.Module):
    """A module whose weights are initialized as its `init_cfg` says.

    Args:
        init_cfg: A config dict or several, see `weight_init.initialize`; parameters it does not reach keep torch's
            initialization.
    """

    def __init__(self, init_cfg: InitCfg = None) -> None:
        super().__init__()
        self.init_cfg = copy.deepcopy(init_cfg)
        self._is_init = False

    @property
    def is_init(self) -> bool:
        """Whether `init_weights` was called."""
        return self._is_init

    def init_weights(self) -> None:
        """Initialize this module, then its children; a pretrained checkpoint is loaded last, over everything."""
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
    """`nn.Sequential` with an `init_cfg`."""

    def __init__(self, *modules: nn.Module, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.Sequential.__init__(self, *modules)
        self.init_cfg, self._is_init = copy.deepcopy(init_cfg), False


class ModuleList(BaseModule, nn.ModuleList):
    """`nn.ModuleList` with an `init_cfg`."""

    def __init__(self, modules: Iterable[nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleList.__init__(self, modules)
        self.init_cfg, self._is_init = copy.deepcopy(init_cfg), False


class ModuleDict(BaseModule, nn.ModuleDict):
    """`nn.ModuleDict` with an `init_cfg`."""

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, init_cfg: InitCfg = None) -> None:
        BaseModule.__init__(self, init_cfg)
        nn.ModuleDict.__init__(self, modules)
        self.init_cfg, self._is_init = copy.deepcopy(init_cfg), False


def build_model_from_cfg(
    cfg: ConfigType | Sequence[ConfigType], registry: Registry, default_args: ConfigType | None = None
) -> Any:
    """Build a model from its config; a list of configs gives an `nn.Sequential`.

    Args:
        cfg: A config dict, or a list of them.
        registry: The registry of the models.
        default_args: Arguments for what a config leaves out.
    """
    if isinstance(cfg, list | tuple):
        return nn.Sequential(*(build_from_cfg(one, registry, default_args) for one in cfg))
    return build_from_cfg(cfg, registry, default_args)


MODELS.build_func = build_model_from_cfg
