"""`OptimWrapper`: loss scaling, gradient accumulation, backward, clipping and step in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from typing_extensions import Unpack

from raydet3d.dist import get_world_size
from raydet3d.errors import InputAssertionError, InputError, InputTypeError
from raydet3d.log import MMLogger
from raydet3d.optim.nonfinite import FiniteGuard, Verdict, whole
from raydet3d.optim.param_groups import Group, Groups, OptimizerState, Value, reconcile, settings_of
from raydet3d.registry import OPTIM_WRAPPERS

CLIPPERS: dict[str, tuple[Callable[..., Any], str]] = {
    "norm": (clip_grad_norm_, "max_norm"),
    "value": (clip_grad_value_, "clip_value"),
}
# Norm types whose result is finite if and only if all gradients are (except for overflow).
TELLING_NORMS = (1.0, 2.0, float("inf"))
NOTHING: AbstractContextManager[None] = nullcontext()


class ClipGrad(TypedDict, total=False):
    """Settings of `clip_grad`: the arguments of `clip_grad_norm_`, or of `clip_grad_value_` with `type='value'`."""

    type: str
    max_norm: float
    norm_type: float | str
    error_if_nonfinite: bool
    foreach: bool | None
    clip_value: float


class BackwardArgs(TypedDict, total=False):
    """Arguments of `Tensor.backward`."""

    gradient: Tensor | None
    retain_graph: bool | None
    create_graph: bool
    inputs: Sequence[Tensor] | None


class StepArgs(TypedDict, total=False):
    """Arguments of an optimizer's `step`."""

    closure: Callable[[], float] | None


class ZeroGradArgs(TypedDict, total=False):
    """Arguments of an optimizer's `zero_grad`."""

    set_to_none: bool


class WrapperState(OptimizerState, total=False):
    """State of an optim wrapper: the optimizer's in MMEngine's layout, and what `checkpoint_state` adds."""

    base_param_settings: Group
    configured: list[Group]
    pending_gradients: dict[str, Tensor]
    loss_scaler: dict[str, float]
    inner_count: int


def _read_clip(cfg: ClipGrad | None) -> tuple[str, dict[str, Any]]:
    """Return type and arguments of `clip_grad`; the type is empty if there is no clipping.

    Raises:
        InputError: The type or an argument is invalid.
    """
    if cfg is None:
        return "", {}
    if not isinstance(cfg, Mapping):
        raise InputAssertionError(
            f"If `clip_grad` is not None, it should be a dict such as dict(max_norm=10), got {cfg!r}"
        )
    args: dict[str, Any] = {**cfg}
    kind = args.pop("type", "norm")
    if kind not in CLIPPERS:
        raise InputError(f"clip_grad.type must be 'norm' or 'value', got {kind!r}")
    clip, needed = CLIPPERS[kind]
    if needed not in args:
        raise InputError(f"clip_grad of type {kind!r} needs {needed!r}; got {dict(cfg)!r}")
    known = [name for name in inspect.signature(clip).parameters if name != "parameters"]
    for key in args:
        if key not in known:
            raise InputError(f"clip_grad of type {kind!r} has no {key!r}; it takes {', '.join(known)}")
    limit = args[needed]
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 0:
        raise InputError(f"clip_grad.{needed} must be a number of at least 0, got {limit!r}")
    if kind == "norm":
        _read_norm_type(args.get("norm_type", 2))
    return kind, args


def _read_norm_type(given: float | str) -> float:
    """Return the `norm_type` of `clip_grad` as a float."""
    try:
        return float(given)
    except (TypeError, ValueError):
        raise InputError(f"clip_grad.norm_type must be a number or 'inf', got {given!r}") from None


@OPTIM_WRAPPERS.register_module()
class OptimWrapper:
    """Update the weights from a loss.

    `update_params(loss)` performs one training iteration: scale the loss, run backward and, every
    `accumulative_counts` iterations, clip over all parameters together, step, and clear the gradients. A step whose
    loss or gradients are not finite is skipped on the device and counted in `bad_steps`; the model's buffers
    (BatchNorm's statistics) are then restored to their values before the step's first forward pass in `optim_context`.

    Args:
        optimizer: The optimizer.
        accumulative_counts: Number of iterations whose gradients are accumulated for one step.
        clip_grad: `dict(max_norm=, norm_type=2)` or `dict(type='value', clip_value=)`.
        guard: Whether to skip steps that are not finite.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), clip_grad=dict(max_norm=10))
        >>> with wrapper.optim_context(model):
        ...     loss = model(torch.ones(4, 2)).square().mean()
        >>> wrapper.update_params(loss)
        >>> wrapper.get_lr()
        {'lr': [0.1]}
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int = 1,
        clip_grad: ClipGrad | None = None,
        *,
        guard: bool = True,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise InputTypeError(f"optimizer must be a torch optimizer, got {type(optimizer).__name__}")
        if isinstance(accumulative_counts, bool) or not isinstance(accumulative_counts, int) or accumulative_counts < 1:
            raise InputError(f"accumulative_counts must be an integer of at least 1, got {accumulative_counts!r}")
        self.optimizer = optimizer
        self.clip_type, clip_args = _read_clip(clip_grad)
        self.clip_grad_kwargs: dict[str, Any] | None = clip_args or None
        norm_type = _read_norm_type(clip_args.get("norm_type", 2))
        self._norm_tells = self.clip_type == "norm" and norm_type in TELLING_NORMS
        # Called with the gradients' total norm before clipping, as a tensor on the device.
        self.grad_norm_sink: Callable[[Tensor], None] | None = None
        # Settings that the config changes relative to the last loaded state, one line each.
        self.config_changes: list[str] = []
        self._accumulative_counts = accumulative_counts
        self._inner_count = 0
        self._max_counts = -1
        self._remainder_counts = 0
        self._has_pending = False
        # Weight of the next loss, and whether it completes its iteration.
        self._micro_batch: tuple[float, bool] = (1.0, True)
        self._guarded = guard
        device = next((p.device for group in optimizer.param_groups for p in group["params"]), torch.device("cpu"))
        self._guard = FiniteGuard(device)
        self._groups = Groups(optimizer)
        self.base_param_settings: Group | None = None
        self._set_base()

    # ---- the training step

    def update_params(
        self,
        loss: Tensor,
        step_kwargs: StepArgs | None = None,
        zero_kwargs: ZeroGradArgs | None = None,
    ) -> None:
        """Run backward; if an update is due, clip, step and clear the gradients.

        Args:
            loss: Scalar loss of this iteration.
            step_kwargs: Arguments of `step`.
            zero_kwargs: Arguments of `zero_grad`.
        """
        self.backward(self.scale_loss(loss))
        if self.should_update():
            self.step(**(step_kwargs or {}))
            self.zero_grad(**(zero_kwargs or {}))

    @contextmanager
    def micro_batch(self, *, weight: float, last: bool) -> Iterator[None]:
        """Train on a micro-batch: `update_params` accumulates gradients, and only the last part counts as an iteration.

        Args:
            weight: Factor of the micro-batch's loss.
            last: Whether this micro-batch completes the iteration.
        """
        self._micro_batch = (weight, last)
        try:
            yield
        finally:
            self._micro_batch = (1.0, True)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Scale the loss by the micro-batch weight, and divide it by the number of accumulated iterations."""
        if self._micro_batch[0] != 1:
            loss = loss * self._micro_batch[0]
        if self._accumulative_counts == 1:
            return loss
        tail = self._max_counts > 0 and self._inner_count >= self._max_counts - self._remainder_counts
        return loss / (self._remainder_counts if tail else self._accumulative_counts)

    def backward(self, loss: Tensor, **kwargs: Unpack[BackwardArgs]) -> None:
        """Accumulate the gradients of a loss, and count the iteration.

        A non-finite loss yields non-finite gradients, even if its non-finite term depends on no parameter. Therefore
        every rank detects it in the reduced gradients.

        Args:
            loss: Scalar loss.
            kwargs: Arguments of `loss.backward`.
        """
        if self._guarded and loss.numel() == 1 and kwargs.get("gradient") is None:
            kwargs["gradient"] = self._guard.loss_gradient(loss)
        loss.backward(**kwargs)  # type: ignore[no-untyped-call]
        self._inner_count += self._micro_batch[1]
        self._has_pending = True

    def zero_grad(self, **kwargs: Unpack[ZeroGradArgs]) -> None:
        """Clear the gradients."""
        self._has_pending = False
        if kwargs or type(self.optimizer).zero_grad is not Optimizer.zero_grad:
            self.optimizer.zero_grad(**kwargs)
            return
        for group in self.optimizer.param_groups:  # same as `optimizer.zero_grad`, about ten times faster
            for param in group["params"]:
                param.grad = None

    def step(self, **kwargs: Unpack[StepArgs]) -> None:
        """Clip the gradients, and step the optimizer unless a gradient is not finite."""
        active = [p for p in self._groups.params() if p.grad is not None]
        if not self._guarded or not active:
            self._clip(active)
            self.optimizer.step(**kwargs)  # type: ignore[arg-type]
            return
        if self._norm_tells:
            norm = self._clip(active)
            assert norm is not None
            self._guard.judge([whole(norm.detach())], self._inner_count)
        else:
            self._guard.judge([p.grad for p in active if p.grad is not None], self._inner_count)
            self._clip(active)
        self._guard.step(self.optimizer, active, **kwargs)
        self._guard.restore_buffers()

    def _clip(self, active: Sequence[Tensor]) -> Tensor | None:
        """Clip the gradients of the parameters together; return their norm before clipping, if it is computed."""
        if self.clip_grad_kwargs is None or not active:
            return None
        norm: Tensor | None = CLIPPERS[self.clip_type][0](active, **self.clip_grad_kwargs)
        if norm is not None and self.grad_norm_sink is not None:
            self.grad_norm_sink(whole(norm.detach()))
        return norm

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context of a forward pass, which disables gradient reduction on iterations without an update."""
        if self._guarded and not (self._has_pending and self._guard.has_kept_buffers):
            self._guard.keep_buffers(model)
        may_wait = self._accumulative_counts > 1 or not self._micro_batch[1]
        no_sync: Any = getattr(model, "no_sync", None) if may_wait else None
        if no_sync is None or self.should_sync():
            return NOTHING
        context: AbstractContextManager[None] = no_sync()
        return context

    def on_grad_norm(self, update: Callable[[str, Tensor], None], prefix: str = "") -> None:
        """Set the callback that receives the gradient norm at each step, if it is computed.

        Args:
            update: Called with the name `grad_norm` and the norm, as a tensor on the device.
            prefix: Prefix of the name.
        """
        self.grad_norm_sink = partial(update, f"{prefix}grad_norm")

    # ---- accumulation

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set the first and last iteration, so that a shorter last accumulation also makes a step.

        Args:
            model: The model, which is checked for BatchNorm layers.
            init_counts: Number of finished iterations.
            max_counts: Total number of iterations; -1 if unknown.
        """
        self._inner_count, self._max_counts = init_counts, max_counts
        self._remainder_counts = max_counts % self._accumulative_counts if max_counts > 0 else 0
        if self._accumulative_counts == 1:
            return
        if init_counts % self._accumulative_counts and not self._has_pending:
            MMLogger.get_current_instance().warning(
                "Resumed at iteration %d, within a group of accumulative_counts=%d: its first gradients are lost.",
                init_counts,
                self._accumulative_counts,
            )
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            MMLogger.get_current_instance().warning(
                "accumulative_counts=%d with BatchNorm: its statistics see single iterations.",
                self._accumulative_counts,
            )

    def should_update(self) -> bool:
        """Whether the last counted iteration makes a step."""
        if not self._micro_batch[1]:
            return False
        return self._inner_count % self._accumulative_counts == 0 or self._inner_count == self._max_counts

    def should_sync(self) -> bool:
        """Whether the next iteration makes a step and therefore reduces gradients."""
        if not self._micro_batch[1]:
            return False
        count = self._inner_count + 1
        return count % self._accumulative_counts == 0 or count == self._max_counts

    @property
    def accumulative_counts(self) -> int:
        """Number of iterations whose gradients are accumulated for one step."""
        return self._accumulative_counts

    @property
    def inner_count(self) -> int:
        """Number of iterations counted."""
        return self._inner_count

    # ---- non-finite steps

    @property
    def is_guarded(self) -> bool:
        """Whether non-finite steps are skipped."""
        return self._guarded

    @property
    def bad_steps(self) -> int:
        """Number of steps skipped so far; synchronises with the device."""
        self._guard.settle(self.optimizer)
        return int(self._guard.num_bad)

    def verdicts(self, *, wait: bool = False) -> list[Verdict]:
        """Return whether each step since the last call was skipped, as far as known.

        Args:
            wait: Synchronise with the device, so that all are known; for use at log points.
        """
        return self._guard.verdicts(self.optimizer, wait=wait)

    # ---- param groups

    @property
    def defaults(self) -> dict[str, Any]:
        """The optimizer's default settings."""
        return self.optimizer.defaults

    @property
    def param_groups(self) -> list[Group]:
        """The physical groups, followed by the base settings if MMEngine would have more than one group."""
        base = [] if self.base_param_settings is None else [self.base_param_settings]
        return [*self.optimizer.param_groups, *base]

    def set_logical_groups(self, groups: Sequence[Sequence[Tensor]]) -> None:
        """Set the logical groups, which are exposed instead of the physical ones.

        Args:
            groups: Parameters of each logical group, in order.
        """
        self._groups = Groups(self.optimizer, groups)
        self._set_base()

    def name_parameters(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Register the parameters' names, which are saved with states and used to match them on loading.

        Args:
            named: A model's `named_parameters()`.
        """
        self._groups.name(named)

    @property
    def knows_names(self) -> bool:
        """Whether the names of all parameters are registered."""
        return all(self._groups.name_of(p) is not None for p in self._groups.params())

    def _set_base(self) -> None:
        many = len(self._groups.logical()) > 1
        # Pseudo group without model parameters, in which schedulers update the base settings.
        self.base_param_settings = {"params": torch.tensor([0.0]), **self.optimizer.defaults} if many else None

    def expand_per_group(self, name: str, values: Sequence[float]) -> list[float]:
        """Convert a list with one value per logical group to one value per entry of `param_groups`.

        Physical groups are split if their values differ.

        Args:
            name: Name of the list, for the error message.
            values: The values; that of the base settings is last.
        """
        base = self.base_param_settings is not None
        count = len(self._groups.logical())
        if len(values) != count + base:
            raise InputError(f"{name} lists {len(values)} values for {count + base} param groups")
        return [*self._groups.split(values[:count]), *values[count:]]

    @property
    def num_logical_groups(self) -> int:
        """Number of param groups that MMEngine would have, without the base settings."""
        return len(self._groups.logical())

    def get_lr(self) -> dict[str, list[float]]:
        """Return the learning rate of each logical group, and the base rate if there is more than one group."""
        physical = [_number(group["lr"]) for group in self.optimizer.param_groups]
        if self.base_param_settings is None:
            return {"lr": physical}
        lr = [physical[owner] for owner in self._groups.physical_index()]
        return {"base_lr": [_number(self.base_param_settings["lr"])], "lr": lr}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return the momentum of each logical group: `momentum`, the first of `betas`, or 0."""
        physical = [
            _number(group["momentum"] if "momentum" in group else group["betas"][0] if "betas" in group else 0)
            for group in self.optimizer.param_groups
        ]
        return {"momentum": [physical[owner] for owner in self._groups.physical_index()]}

    def describe_groups(self) -> list[tuple[list[str], Group]]:
        """Return the parameter names and settings of each physical group."""
        return [
            ([self._groups.name_of(p) or "?" for p in group["params"]], settings_of(group))
            for group in self.optimizer.param_groups
        ]

    def configured(self) -> list[Group]:
        """Return the configured settings of each of `param_groups`, before any scheduler."""
        base = [] if self.base_param_settings is None else [self.optimizer.defaults]
        return [*self._groups.configured(), *base]

    # ---- states

    def state_dict(self) -> WrapperState:
        """Return the optimizer's state in MMEngine's layout."""
        self._guard.settle(self.optimizer)
        state = cast(WrapperState, self._groups.pack())
        if self.base_param_settings is not None:
            state["base_param_settings"] = dict(self.base_param_settings)
        return state

    def checkpoint_state(self) -> WrapperState:
        """Return the state for a run's checkpoint, which `load_state_dict` also accepts.

        In addition to `state_dict`, it contains `configured`, the configured settings of each group, and
        `pending_gradients` if a single process is within an accumulation.
        """
        state = self.state_dict()
        state["configured"] = self._groups.pack_configured()
        if self.base_param_settings is not None:
            state["configured"].append(dict(self.optimizer.defaults))
        if get_world_size() == 1 and (pending := self.pending_gradients()):
            state["pending_gradients"] = pending
        return state

    def load_state_dict(self, state_dict: WrapperState) -> None:
        """Load a state of raydet3d or MMEngine with any group layout; by parameter name if the state has names.

        Call it after the schedulers are built, since it overwrites the values that their first step has set. A setting
        that the config has changed since the state was saved (`config_changes`) keeps its new value;
        `resume_schedulers` then sets scheduled values to those of the new schedule.

        Args:
            state_dict: The state; not modified.
        """
        configured = state_dict.get("configured")
        self.config_changes = self._groups.unpack(state_dict, configured)
        if self.base_param_settings is not None:
            base = self.base_param_settings
            saved = settings_of(state_dict.get("base_param_settings") or state_dict["param_groups"][0])
            theirs = configured[-1] if configured else None
            self.base_param_settings = {**base, **reconcile(base, self.optimizer.defaults, saved, theirs, {})}
        self.load_pending_gradients(state_dict.get("pending_gradients") or {})

    def pending_gradients(self) -> dict[str, Tensor]:
        """Return this rank's gradients of an unfinished accumulation, by parameter name.

        In a distributed run they must be saved per rank; otherwise they are lost.
        """
        if not self._has_pending:
            return {}
        params = enumerate(self._groups.params())
        return {self._groups.name_of(p) or str(i): p.grad.clone() for i, p in params if p.grad is not None}

    def load_pending_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Restore the gradients that `pending_gradients` returned."""
        for i, param in enumerate(self._groups.params()):
            gradient = gradients.get(self._groups.name_of(param) or str(i))
            if gradient is not None:
                param.grad = gradient.detach().to(device=param.device, dtype=param.dtype, copy=True)
                self._has_pending = True

    def scale_lr(self, ratio: float) -> None:
        """Multiply the configured learning rates (not the base one).

        Raises:
            RuntimeError: A scheduler was already built.
        """
        if any("initial_lr" in group for group in self.optimizer.param_groups):
            raise RuntimeError("learning rates are scaled before schedulers are built")
        self._groups.scale_configured("lr", ratio)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(accumulative_counts={self._accumulative_counts}, "
            f"clip_grad={self.clip_grad_kwargs or None}, optimizer={self.optimizer!r})"
        )


def _number(value: Value) -> float:
    return value.item() if isinstance(value, Tensor) else value
