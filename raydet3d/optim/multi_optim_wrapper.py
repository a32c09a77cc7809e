"""`OptimWrapperDict`: several named optim wrappers, for models with several optimizers such as GANs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from torch import Tensor, nn
from typing_extensions import Unpack, override

from raydet3d.errors import InputAssertionError, InputError, InputKeyError
from raydet3d.optim.nonfinite import Verdict
from raydet3d.optim.param_groups import Group
from raydet3d.optim.wrapper import BackwardArgs, OptimWrapper, StepArgs, WrapperState, ZeroGradArgs


class AmbiguousOptimizer(InputError, NotImplementedError):
    """Raised if a method of a single optim wrapper is called on an `OptimWrapperDict`."""


class OptimWrapperDict(OptimWrapper):
    """Hold optim wrappers by name; methods that take a loss must be called on one of them: `wrappers['name']`.

    It is returned by a custom constructor, or built from `optim_wrapper=dict(name=OptimWrapper(...), ...)`. Learning
    rates, gradient norms and states are prefixed with the names (`generator.lr`). With `accumulative_counts`, each
    wrapper counts its own `backward` calls, since their number per iteration is unknown; therefore a shorter last
    accumulation makes no step.

    Args:
        optim_wrappers: The wrappers.

    >>> import torch
    >>> one, two = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    >>> both = OptimWrapperDict(
    ...     one=OptimWrapper(torch.optim.SGD(one.parameters(), lr=0.1)),
    ...     two=OptimWrapper(torch.optim.SGD(two.parameters(), lr=0.2)),
    ... )
    >>> both["two"].update_params(two(torch.ones(1, 1)).sum())
    >>> both.get_lr()
    {'one.lr': [0.1], 'two.lr': [0.2]}
    """

    def __init__(self, **optim_wrappers: OptimWrapper) -> None:
        if not optim_wrappers:
            raise InputError("OptimWrapperDict needs at least one optim wrapper")
        for name, wrapper in optim_wrappers.items():
            if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
                raise InputAssertionError(
                    f"`OptimWrapperDict` only accepts OptimWrapper instances; {name} is a {type(wrapper).__name__}"
                )
        self.optim_wrappers = dict(optim_wrappers)

    # ---- mapping

    def __getitem__(self, name: str) -> OptimWrapper:
        if name not in self.optim_wrappers:
            raise InputKeyError(f"there is no optimizer {name!r}; there are {', '.join(self.optim_wrappers)}")
        return self.optim_wrappers[name]

    def __contains__(self, name: str) -> bool:
        return name in self.optim_wrappers

    def __iter__(self) -> Iterator[str]:
        return iter(self.optim_wrappers)

    def __len__(self) -> int:
        return len(self.optim_wrappers)

    def keys(self) -> Iterator[str]:
        """Iterate over the names."""
        yield from self.optim_wrappers.keys()

    def values(self) -> Iterator[OptimWrapper]:
        """Iterate over the wrappers."""
        yield from self.optim_wrappers.values()

    def items(self) -> Iterator[tuple[str, OptimWrapper]]:
        """Iterate over names and wrappers."""
        yield from self.optim_wrappers.items()

    # ---- methods of a single wrapper

    def update_params(
        self, loss: Tensor, step_kwargs: StepArgs | None = None, zero_kwargs: ZeroGradArgs | None = None
    ) -> None:
        """Raise `AmbiguousOptimizer`: the loss does not identify a wrapper."""
        self._refuse("update_params")

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Raise `AmbiguousOptimizer`."""
        self._refuse("scale_loss")

    def backward(self, loss: Tensor, **kwargs: Unpack[BackwardArgs]) -> None:
        """Raise `AmbiguousOptimizer`: loss scalers may differ."""
        self._refuse("backward")

    def step(self, **kwargs: Unpack[StepArgs]) -> None:
        """Raise `AmbiguousOptimizer`."""
        self._refuse("step")

    def optim_context(self, model: nn.Module) -> AbstractContextManager[None]:
        """Raise `AmbiguousOptimizer`: precision and accumulation may differ."""
        self._refuse("optim_context")

    def _refuse(self, what: str) -> NoReturn:
        name = next(iter(self))
        raise AmbiguousOptimizer(
            f"`{what}` should be called on one of the optimizers {', '.join(self)}: "
            f"in the model's train_step, write optim_wrapper[{name!r}].{what}(...)"
        )

    # ---- methods of all wrappers

    def zero_grad(self, **kwargs: Unpack[ZeroGradArgs]) -> None:
        """Clear the gradients of all wrappers."""
        for wrapper in self.values():
            wrapper.zero_grad(**kwargs)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set the first iteration of wrappers without accumulation; others continue from their saved count.

        Args:
            model: The model.
            init_counts: Number of finished iterations.
            max_counts: Not used, since the number of `backward` calls per iteration depends on the model.
        """
        for wrapper in self.values():
            if wrapper.accumulative_counts == 1:
                wrapper.initialize_count_status(model, init_counts, -1)

    def should_update(self) -> bool:
        """Raise `AmbiguousOptimizer`."""
        self._refuse("should_update")

    def should_sync(self) -> bool:
        """Raise `AmbiguousOptimizer`."""
        self._refuse("should_sync")

    def on_grad_norm(self, update: Callable[[str, Tensor], None], prefix: str = "") -> None:
        """Set the callback that receives each wrapper's gradient norm as `<name>.grad_norm`."""
        for name, wrapper in self.items():
            wrapper.on_grad_norm(update, f"{prefix}{name}.")

    @property
    def defaults(self) -> dict[str, Any]:
        """Raise `AmbiguousOptimizer`."""
        self._refuse("defaults")

    @property
    def accumulative_counts(self) -> int:
        """Maximum `accumulative_counts` of the wrappers."""
        return max(wrapper.accumulative_counts for wrapper in self.values())

    @property
    def inner_count(self) -> int:
        """Raise `AmbiguousOptimizer`."""
        self._refuse("inner_count")

    @property
    @override
    def is_guarded(self) -> bool:
        return any(wrapper.is_guarded for wrapper in self.values())

    @property
    @override
    def bad_steps(self) -> int:
        return sum(wrapper.bad_steps for wrapper in self.values())

    @override
    def verdicts(self, *, wait: bool = False) -> list[Verdict]:
        return sorted(
            verdict._replace(optimizer=name) for name, one in self.items() for verdict in one.verdicts(wait=wait)
        )

    @property
    def param_groups(self) -> dict[str, list[Group]]:  # type: ignore[override]
        """The param groups of each wrapper, by name."""
        return {name: wrapper.param_groups for name, wrapper in self.items()}

    def name_parameters(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Register the parameters' names in wrappers that do not have them yet."""
        named = list(named)
        for wrapper in self.values():
            if not wrapper.knows_names:
                mine = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
                wrapper.name_parameters((name, p) for name, p in named if id(p) in mine)

    def get_lr(self) -> dict[str, list[float]]:
        """Return the learning rates as `<name>.lr`, and `<name>.base_lr` if a wrapper has one."""
        return {f"{name}.{key}": rates for name, wrapper in self.items() for key, rates in wrapper.get_lr().items()}

    def get_momentum(self) -> dict[str, list[float]]:
        """Return the momentum of each wrapper as `<name>.momentum`."""
        return {f"{name}.{key}": values for name, w in self.items() for key, values in w.get_momentum().items()}

    def describe_groups(self) -> list[tuple[list[str], Group]]:
        """Return the parameter names and settings, including `optimizer`, of each physical group."""
        return [
            (names, {"optimizer": name, **settings})
            for name, wrapper in self.items()
            for names, settings in wrapper.describe_groups()
        ]

    def scale_lr(self, ratio: float) -> None:
        """Multiply all configured learning rates, before any scheduler is built."""
        for wrapper in self.values():
            wrapper.scale_lr(ratio)

    # ---- states

    def state_dict(self) -> dict[str, WrapperState]:  # type: ignore[override]
        """Return each wrapper's state by name."""
        return {name: wrapper.state_dict() for name, wrapper in self.items()}

    @override
    def checkpoint_state(self) -> dict[str, WrapperState]:  # type: ignore[override]
        states = {}
        for name, wrapper in self.items():
            states[name] = wrapper.checkpoint_state()
            if wrapper.accumulative_counts > 1:
                states[name]["inner_count"] = wrapper.inner_count
        return states

    def load_state_dict(self, state_dict: Mapping[str, WrapperState]) -> None:  # type: ignore[override]
        """Load states of raydet3d or MMEngine.

        Args:
            state_dict: The states by name; not modified.

        Raises:
            InputError: The names differ from those of this run's optimizers.
        """
        if set(state_dict) != set(self):
            raise InputError(
                f"the checkpoint has the state of optimizers {', '.join(map(str, state_dict))}; "
                f"this run has {', '.join(self)}"
            )
        for name, state in state_dict.items():
            wrapper = self[name]
            wrapper.load_state_dict(state)
            if wrapper.accumulative_counts > 1:
                wrapper._inner_count = int(state.get("inner_count", 0))

    def pending_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of unfinished accumulations, as `<name>/<parameter name>`."""
        return {f"{name}/{key}": g for name, wrapper in self.items() for key, g in wrapper.pending_gradients().items()}

    def load_pending_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Restore the gradients that `pending_gradients` returned."""
        for name, wrapper in self.items():
            mine = {key.removeprefix(f"{name}/"): g for key, g in gradients.items() if key.startswith(f"{name}/")}
            wrapper.load_pending_gradients(mine)

    def __repr__(self) -> str:
        return "".join(f"name: {name}\n{wrapper!r}\n" for name, wrapper in self.items())
