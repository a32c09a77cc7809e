"""Weight initialization: functions that models call, and `init_cfg` dicts that name them.

`init_cfg=dict(type='Kaiming', layer='Conv2d')` initializes every convolution of a module;
`override=dict(name='head', type='Normal', std=0.01)` initializes one submodule differently; `dict(type='Pretrained',
checkpoint=...)` loads a checkpoint. A list of dicts is applied in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydet3d.config import PartCfg
from raydet3d.download import fetch
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import WEIGHT_INITIALIZERS


def constant_init(module: nn.Module, val: float, bias: float = 0) -> None:
    """Fill a module's weight and bias with constants."""
    _fill(module, lambda weight: nn.init.constant_(weight, val), bias)


def xavier_init(module: nn.Module, gain: float = 1, bias: float = 0, distribution: str = "normal") -> None:
    """Initialize a module as in Glorot and Bengio, "Understanding the difficulty of training deep networks", 2010."""
    draw = _choose(distribution, uniform=nn.init.xavier_uniform_, normal=nn.init.xavier_normal_)
    _fill(module, lambda weight: draw(weight, gain=gain), bias)


def normal_init(module: nn.Module, mean: float = 0, std: float = 1, bias: float = 0) -> None:
    """Draw a module's weight from a normal distribution."""
    _fill(module, lambda weight: nn.init.normal_(weight, mean, std), bias)


def trunc_normal_init(
    module: nn.Module, mean: float = 0, std: float = 1, a: float = -2, b: float = 2, bias: float = 0
) -> None:
    """Draw a module's weight from a normal distribution truncated at `a` and `b`."""
    _fill(module, lambda weight: nn.init.trunc_normal_(weight, mean, std, a, b), bias)


def uniform_init(module: nn.Module, a: float = 0, b: float = 1, bias: float = 0) -> None:
    """Draw a module's weight uniformly from `a` to `b`."""
    _fill(module, lambda weight: nn.init.uniform_(weight, a, b), bias)


def kaiming_init(
    module: nn.Module,
    a: float = 0,
    mode: str = "fan_out",
    nonlinearity: str = "relu",
    bias: float = 0,
    distribution: str = "normal",
) -> None:
    """Initialize a module as in He et al., "Delving deep into rectifiers", 2015."""
    draw = _choose(distribution, uniform=nn.init.kaiming_uniform_, normal=nn.init.kaiming_normal_)
    _fill(module, lambda weight: draw(weight, a=a, mode=mode, nonlinearity=nonlinearity), bias)


def caffe2_xavier_init(module: nn.Module, bias: float = 0) -> None:
    """Initialize a module as Caffe2's XavierFill: Kaiming uniform over the fan-in, with a slope of 1."""
    kaiming_init(module, a=1, mode="fan_in", nonlinearity="leaky_relu", bias=bias, distribution="uniform")


def bias_init_with_prob(prior_prob: float) -> float:
    """Return the bias for which a sigmoid gives a probability."""
    return -math.log((1 - prior_prob) / prior_prob)


INITIALIZERS: dict[str, Callable[..., None]] = {
    "Constant": constant_init,
    "Xavier": xavier_init,
    "Normal": normal_init,
    "TruncNormal": trunc_normal_init,
    "Uniform": uniform_init,
    "Kaiming": kaiming_init,
    "Caffe2Xavier": caffe2_xavier_init,
}


class _LayerInit:
    """Initializes the layers of some classes in a module.

    Args:
        initializer: A function of `INITIALIZERS`.
        layer: Name or names of classes; a class matches by its own name and those of its direct bases.
        bias: Value of the bias.
        bias_prob: Probability that a sigmoid of the bias gives; replaces `bias`.
        **settings: Settings of the function.
    """

    def __init__(
        self,
        initializer: Callable[..., None],
        layer: str | Sequence[str] | None = None,
        bias: float = 0,
        bias_prob: float | None = None,
        **settings: float | str,
    ) -> None:
        self.initializer = initializer
        self.layers = {layer} if isinstance(layer, str) else set(layer or ())
        self.settings = {**settings, "bias": bias if bias_prob is None else bias_init_with_prob(bias_prob)}

    def __call__(self, module: nn.Module, *, whole: bool = False) -> None:
        """Initialize the layers of a module; with `whole`, every submodule that has a weight."""
        for part in module.modules():
            if whole or self.layers & _class_names(type(part)):
                self.initializer(part, **self.settings)


def _class_names(cls: type) -> set[str]:
    """Return a class's name and those of its direct bases; a subclass under its base's name counts as the base."""
    names = {cls.__name__}
    for base in cls.__bases__:
        names |= _class_names(base) if base.__name__ == cls.__name__ else {base.__name__}
    return names


class PretrainedInit:
    """Loads a checkpoint into a module.

    Args:
        checkpoint: Path or `http(s)://` URL of a checkpoint or of a state dict, or a name of `download.PRETRAINED`.
        prefix: Load only the entries under this name, with the name removed.
        map_location: Accepted for MMEngine's configs; the file is always read to the host first.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: object = None) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix

    def __call__(self, module: nn.Module, *, whole: bool = False) -> None:
        """Load the checkpoint into a module."""
        path = Path(fetch(self.checkpoint))
        if not path.is_file():
            raise InputError(f"init_cfg: checkpoint {self.checkpoint} does not exist")
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types
            raise InputError(f"init_cfg: {path} is not a weights-only checkpoint, or is damaged: {error}") from error
        weights = weights.get("state_dict", weights)
        if self.prefix is not None:
            start = self.prefix.rstrip(".") + "."
            weights = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
            if not weights:
                raise InputError(f"init_cfg: {path} has no entries under prefix {self.prefix!r}")
        result = module.load_state_dict({name.removeprefix("module."): v for name, v in weights.items()}, strict=False)
        for title, names in (("missing", result.missing_keys), ("unexpected", result.unexpected_keys)):
            if names:
                get_logger().warning("%s: %s: %s", path, title, ", ".join(names))


def initialize(module: nn.Module, init_cfg: PartCfg | Sequence[PartCfg]) -> None:
    """Initialize a module as `init_cfg` says.

    Args:
        module: The module.
        init_cfg: A dict or several: `type`, `layer`, `override` and the settings of the type.

    Raises:
        InputError: A dict names no type, or a submodule that does not exist.
    """
    for cfg in [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg:
        args: dict[str, Any] = dict(cfg)
        parts = args.pop("override", None)
        WEIGHT_INITIALIZERS.build(args)(module)
        for part in [parts] if isinstance(parts, Mapping) else parts or []:
            own = dict(part)
            name = own.pop("name", None)
            if not isinstance(name, str) or not hasattr(module, name):
                raise InputError(f"init_cfg: override names {name!r}, which {type(module).__name__} does not have")
            if own and "type" not in own:
                raise InputError(f"init_cfg: the override of {name!r} has settings but no type")
            # A name alone means the same initialization for layers of other classes.
            own = own or {key: value for key, value in args.items() if key != "layer"}
            WEIGHT_INITIALIZERS.build(own)(getattr(module, name), whole=True)


def _fill(module: nn.Module, draw: Callable[[Tensor], Tensor], bias: float) -> None:
    weight, offset = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor):
        draw(weight)
    if isinstance(offset, Tensor):
        nn.init.constant_(offset, bias)


def _choose(distribution: str, **kinds: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if distribution not in kinds:
        raise InputError(f"distribution must be {' or '.join(map(repr, kinds))}, got {distribution!r}")
    return kinds[distribution]


def _register() -> None:
    """Register each initializer under its config name (`Kaiming`) and MMEngine's class name (`KaimingInit`)."""
    for name, function in INITIALIZERS.items():

        def make(*, _function: Callable[..., None] = function, **settings: Any) -> _LayerInit:
            return _LayerInit(_function, **settings)

        make.__name__ = f"{name}Init"
        WEIGHT_INITIALIZERS.register_module(name=[name, f"{name}Init"], module=make)
    WEIGHT_INITIALIZERS.register_module(name=["Pretrained", "PretrainedInit"], module=PretrainedInit)


_register()
