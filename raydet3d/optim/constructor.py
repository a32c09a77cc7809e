"""Build an optim wrapper from `optim_wrapper=dict(...)`: the optimizer and per-parameter settings.

Terms: `lr` and `wd` are the optimizer's configured learning rate and weight decay.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from raydet3d.config import ConfigValue, PartCfg
from raydet3d.config.provenance import config_context
from raydet3d.errors import InputAssertionError, InputError, InputKeyError, InputTypeError, nearest
from raydet3d.log import MMLogger
from raydet3d.optim.multi_optim_wrapper import OptimWrapperDict
from raydet3d.optim.optimizers import build_optimizer, param_group_settings
from raydet3d.optim.param_groups import Group, merge
from raydet3d.optim.wrapper import OptimWrapper
from raydet3d.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
DEFORMABLE = frozenset({"DeformConv2d", "ModulatedDeformConv2d"})
RULES = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "flat_decay_mult",
    "bypass_duplicate",
)
# Multipliers that require weight_decay in the config.
NEED_DECAY = ("bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult")


def _is_deformable(module: nn.Module) -> bool:
    return any(cls.__name__ in DEFORMABLE for cls in type(module).__mro__)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DefaultOptimWrapperConstructor:
    """Build an optim wrapper for a model, with per-parameter settings from `paramwise_cfg`.

    Without `paramwise_cfg` all parameters, including frozen ones, share one group. With it, the settings of each
    trainable parameter are determined as follows:

    * `custom_keys`: if keys are substrings of the parameter's name, only the longest one applies (ties: the
      alphabetically first): `lr * lr_mult`, `wd * decay_mult`, and all other items of its dict unchanged.
    * Otherwise, learning rate: `bias_lr_mult` for biases outside norms and deformable convolutions;
      `dcn_offset_lr_mult` for the offset convolution of a deformable convolution.
    * Otherwise, weight decay, the first that applies: `norm_decay_mult` (all parameters of a norm), `bias_decay_mult`
      (biases), `dwconv_decay_mult` (depthwise convolutions), `flat_decay_mult` (one-dimensional parameters).

    As in MMEngine, `bias_decay_mult` applies to a norm's bias if `norm_decay_mult` is not set. A parameter that is
    shared by two modules raises an error unless `bypass_duplicate` is true.

    Args:
        optim_wrapper_cfg: Config of the wrapper: `type` (`OptimWrapper` by default), `optimizer`, other arguments.
        paramwise_cfg: Rules for per-parameter settings.
    """

    def __init__(self, optim_wrapper_cfg: PartCfg, paramwise_cfg: Mapping[str, ConfigValue] | None = None) -> None:
        if not isinstance(optim_wrapper_cfg, Mapping):
            raise InputTypeError(f"optim_wrapper must be a dict, got {optim_wrapper_cfg!r}")
        if "optimizer" not in optim_wrapper_cfg:
            raise InputAssertionError(
                "`optim_wrapper_cfg` must contain an 'optimizer', such as optimizer=dict(type='AdamW', lr=0.001); "
                "was it removed by _delete_=True?"
            )
        if paramwise_cfg is not None and not isinstance(paramwise_cfg, Mapping):
            raise InputTypeError(f"paramwise_cfg must be a dict, got {paramwise_cfg!r}")
        self.optim_wrapper_cfg: dict[str, Any] = dict(optim_wrapper_cfg)
        self.optim_wrapper_cfg.setdefault("type", "OptimWrapper")
        self.optimizer_cfg = self.optim_wrapper_cfg.pop("optimizer")
        self.paramwise_cfg: dict[str, Any] = dict(paramwise_cfg or {})
        given = self.optimizer_cfg if isinstance(self.optimizer_cfg, Mapping) else {}
        self.base_lr: Any = given.get("lr")
        self.base_wd: Any = given.get("weight_decay")
        self._validate_cfg()
        self._names: dict[int, str] = {}

    def _validate_cfg(self) -> None:
        """Check for unknown rules, and for multipliers of settings that are missing in the config.

        Raises:
            InputError: A rule is unknown, or its base setting is missing.
        """
        unknown = [key for key in self.paramwise_cfg if key not in RULES]
        # Subclasses may define additional rules.
        if unknown and type(self) is DefaultOptimWrapperConstructor:
            raise InputKeyError(
                f"paramwise_cfg has no rule {unknown[0]!r}{nearest(unknown[0], RULES)}; there are {', '.join(RULES)}"
            )
        custom = self.paramwise_cfg.get("custom_keys", {})
        if not isinstance(custom, Mapping) or not all(isinstance(v, Mapping) for v in custom.values()):
            raise InputTypeError(f"paramwise_cfg.custom_keys must be a dict of dicts, got {custom!r}")
        self._check_custom_settings(custom)
        wanting = [key for key in NEED_DECAY if self.paramwise_cfg.get(key) is not None]
        wanting += [f"custom_keys[{key!r}].decay_mult" for key, v in custom.items() if "decay_mult" in v]
        if wanting and self.base_wd is None:
            raise InputError(
                f"base_wd should not be None: paramwise_cfg.{wanting[0]} multiplies the weight decay, "
                "and optim_wrapper.optimizer gives no weight_decay"
            )
        wanting = [key for key in ("bias_lr_mult", "dcn_offset_lr_mult") if self.paramwise_cfg.get(key) is not None]
        wanting += [f"custom_keys[{key!r}]" for key in custom]
        if wanting and self.base_lr is None:
            raise InputError(
                f"paramwise_cfg.{wanting[0]} multiplies the learning rate, and optim_wrapper.optimizer gives no lr"
            )

    def _check_custom_settings(self, custom: Mapping[str, Mapping[str, ConfigValue]]) -> None:
        """Check that each setting of the custom keys is known to the rules or the optimizer."""
        kind = self.optimizer_cfg.get("type") if isinstance(self.optimizer_cfg, Mapping) else None
        known = param_group_settings(kind)
        if known is None:
            return
        for key, settings in custom.items():
            for name in settings:
                if name not in ("lr_mult", "decay_mult", *known):
                    raise InputKeyError(
                        f"paramwise_cfg.custom_keys[{key!r}] has an unknown setting {name!r}"
                        f"{nearest(name, ['lr_mult', 'decay_mult', *known])}; there are lr_mult, decay_mult, "
                        f"{', '.join(known)}"
                    )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optim wrapper of a model."""
        model = getattr(model, "module", model)
        if isinstance(self.optimizer_cfg, Optimizer):
            return self._wrap(self.optimizer_cfg)
        if not isinstance(self.optimizer_cfg, Mapping):
            raise InputError(f"optim_wrapper.optimizer must be a dict with a 'type', got {self.optimizer_cfg!r}")
        if not self.paramwise_cfg:
            return self._wrap(self._build_optimizer(model.parameters()))
        self._names = {id(p): name for name, p in model.named_parameters()}
        groups: list[Group] = []
        self.add_params(groups, model)
        if not groups:
            raise InputError("the model has no trainable parameter for the optimizer")
        self._tell_idle_keys(model)
        for group in groups:
            params = group["params"]
            group["params"] = [params] if isinstance(params, Tensor) else list(params)
        wrapper = self._wrap(self._build_optimizer(merge(groups, self.optimizer_cfg)))
        if isinstance(wrapper, OptimWrapper):
            wrapper.set_logical_groups([group["params"] for group in groups])
        return wrapper

    def _tell_idle_keys(self, model: nn.Module) -> None:
        """Warn about custom keys that match no trainable parameter's name."""
        names = [f"{'' if '.' in name else '.'}{name}" for name, p in model.named_parameters() if p.requires_grad]
        for key in self.paramwise_cfg.get("custom_keys", {}):
            if not any(key in name for name in names):
                parts = {part for name in names for part in name.split(".") if part}
                near = difflib.get_close_matches(key.rpartition(".")[2], parts, n=1)
                MMLogger.get_current_instance().warning(
                    "paramwise_cfg.custom_keys: %r is part of no trainable parameter's name%s",
                    key,
                    f"; did you mean {near[0]!r}?" if near else "",
                )

    def _wrap(self, optimizer: Optimizer) -> OptimWrapper:
        wrapper: OptimWrapper = OPTIM_WRAPPERS.build({**self.optim_wrapper_cfg, "optimizer": optimizer})
        return wrapper

    def _build_optimizer(self, params: Iterable[Tensor] | list[Group]) -> Optimizer:
        with config_context("optim_wrapper.optimizer"):
            return build_optimizer(self.optimizer_cfg, params)

    def add_params(
        self, params: list[Group], module: nn.Module, prefix: str = "", is_dcn_module: bool | None = None
    ) -> None:
        """Add a group for each trainable parameter of a module, followed by those of its children.

        Args:
            params: Groups so far; extended in place.
            module: The module.
            prefix: The module's name.
            is_dcn_module: Whether the module's parent is a deformable convolution.
        """
        logger = MMLogger.get_current_instance()
        for name, param in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}"
            if self._is_in(param, params):
                if not self.paramwise_cfg.get("bypass_duplicate"):
                    raise InputError(
                        "some parameters appear in more than one parameter group: "
                        f"{full.lstrip('.')} is {self._names.get(id(param), 'one')} under another name; "
                        "set paramwise_cfg.bypass_duplicate=True to take it once"
                    )
                MMLogger.get_current_instance().warning(
                    "%s is a duplicate and is skipped (bypass_duplicate).", full.lstrip(".")
                )
                continue
            if not param.requires_grad:
                continue
            settings = self._custom(full)
            if settings is None:
                settings = self._by_kind(module, name, param, prefix, bool(is_dcn_module))
            for key, value in settings.items():
                logger.info("paramwise_options -- %s:%s=%s", full.lstrip("."), key, value)
            params.append({"params": [param], **settings})
        inside = _is_deformable(module)
        for name, child in module.named_children():
            self.add_params(params, child, prefix=f"{prefix}.{name}" if prefix else name, is_dcn_module=inside)

    def _is_in(self, param: Tensor, params: list[Group]) -> bool:
        """Whether a group already contains the parameter."""
        return any(param is p for group in params for p in group["params"])

    def _custom(self, full: str) -> Group | None:
        """Return the settings of the custom key that matches a name, or None if no key matches."""
        custom: Mapping[str, Mapping[str, Any]] = self.paramwise_cfg.get("custom_keys", {})
        for key in sorted(sorted(custom), key=len, reverse=True):
            if key in full:
                own = custom[key]
                settings = {"lr": self.base_lr * own.get("lr_mult", 1.0)}
                if self.base_wd is not None:
                    settings["weight_decay"] = self.base_wd * own.get("decay_mult", 1.0)
                return {**settings, **own}
        return None

    def _by_kind(self, module: nn.Module, name: str, param: Tensor, prefix: str, inside_dcn: bool) -> Group:
        """Return the settings that the rules other than `custom_keys` assign to a parameter."""
        rule = self.paramwise_cfg.get
        is_norm = isinstance(module, NORMS)
        is_bias = name == "bias" and not inside_dcn
        is_depthwise = isinstance(module, nn.Conv2d) and module.in_channels == module.groups
        settings: Group = {}
        if is_bias and not is_norm and rule("bias_lr_mult") is not None:
            settings["lr"] = self.base_lr * rule("bias_lr_mult")
        is_offset = "conv_offset" in prefix and inside_dcn and isinstance(module, nn.Conv2d)
        if is_offset and rule("dcn_offset_lr_mult") is not None:
            settings["lr"] = self.base_lr * rule("dcn_offset_lr_mult")
        if self.base_wd is None:
            return settings
        for applies, key in (
            (is_norm, "norm_decay_mult"),
            (is_bias, "bias_decay_mult"),
            (is_depthwise, "dwconv_decay_mult"),
            (param.ndim == 1 and not inside_dcn, "flat_decay_mult"),
        ):
            if applies and rule(key) is not None:
                return {**settings, "weight_decay": self.base_wd * rule(key)}
        return settings


def build_optim_wrapper(model: nn.Module, cfg: PartCfg | OptimWrapper | Mapping[str, OptimWrapper]) -> OptimWrapper:
    """Build an optim wrapper from its config.

    Args:
        model: The model, on its device.
        cfg: `dict(type=, optimizer=, paramwise_cfg=, constructor=, clip_grad=, ...)`, an existing wrapper, or
            existing wrappers by name, which are combined in an `OptimWrapperDict`.
    """
    if isinstance(cfg, OptimWrapper):
        wrapper = cfg
    elif not isinstance(cfg, Mapping):
        raise InputTypeError(f"optim_wrapper must be an optim wrapper or a dict, got {cfg!r}")
    elif cfg and all(isinstance(value, OptimWrapper) for value in cfg.values()):
        wrapper = OptimWrapperDict(**cfg)
    else:
        args = dict(cfg)
        constructor = args.pop("constructor", None) or "DefaultOptimWrapperConstructor"
        spec = constructor if isinstance(constructor, Mapping) else {"type": constructor}
        paramwise = args.pop("paramwise_cfg", None)
        wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(spec, {"optim_wrapper_cfg": args, "paramwise_cfg": paramwise})(model)
    if isinstance(wrapper, OptimWrapper):
        wrapper.name_parameters(model.named_parameters())
    return wrapper
