"""Map between MMEngine's param groups, one per parameter, and merged groups in the optimizer.

MMEngine creates one group per parameter if `paramwise_cfg` is set. Here parameters with equal settings share a group,
which saves kernel launches; state dicts, learning rates and list-valued arguments keep MMEngine's order.

Terms: a *logical* group is one of MMEngine's groups; a *physical* group is one of `optimizer.param_groups`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from torch import Tensor
from torch.optim import Optimizer

from raydet3d.errors import InputError, some_of

Group = dict[str, Any]
"""A param group as torch holds it: `params` and their settings."""
Value = float | Tensor
"""A scheduled setting: a number, or a tensor for optimizers that are captured in a graph."""
Setting: TypeAlias = "Value | bool | str | Sequence[Setting] | Mapping[str, Setting] | None"


class OptimizerState(TypedDict):
    """State of a torch optimizer: entries by the parameter's number, and groups of those numbers."""

    state: dict[int, dict[str, Value]]
    param_groups: list[Group]


# State entries that have the parameter's shape in every optimizer.
FULL_SIZE = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"})


def plain_name(name: str) -> str:
    """Strip the prefixes of model wrappers and of `torch.compile` from a parameter's name."""
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def settings_of(group: Group) -> Group:
    """Return the settings of a group, without its parameters."""
    return {k: v for k, v in group.items() if k not in ("params", "param_names")}


def is_same(a: Setting, b: Setting) -> bool:
    """Whether two settings are equal; tensors are compared by identity."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(is_same(a[k], b[k]) for k in a)
    return bool(type(a) is type(b) and a == b) or (_is_number(a) and _is_number(b) and a == b)


def _is_number(value: Setting) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def merge(groups: Iterable[Group], defaults: Mapping[str, Setting] | None = None) -> list[Group]:
    """Merge groups with equal settings, in order of first occurrence.

    Args:
        groups: The groups.
        defaults: Values of settings that a group does not define.
    """
    merged: list[Group] = []
    full: list[Group] = []
    for group in groups:
        own = {**(defaults or {}), **settings_of(group)}
        home = next((i for i, settings in enumerate(full) if is_same(settings, own)), None)
        if home is None:
            full.append(own)
            merged.append({**settings_of(group), "params": list(group["params"])})
        else:
            merged[home]["params"].extend(group["params"])
    return merged


class Groups:
    """Physical and logical param groups of an optimizer.

    Args:
        optimizer: The optimizer.
        logical: Parameters of each logical group; None if logical and physical groups are the same.
    """

    def __init__(self, optimizer: Optimizer, logical: Sequence[Sequence[Tensor]] | None = None) -> None:
        self.optimizer = optimizer
        self._logical = None if logical is None else [list(params) for params in logical]
        self._names: dict[int, str] = {}
        self._all: list[Tensor] = []
        self._configured = {id(p): settings_of(group) for group in optimizer.param_groups for p in group["params"]}
        self._physical_index: tuple[Any, list[int]] = ((), [])
        self._flat: tuple[Any, list[Tensor]] = ((), [])

    def name(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Register the parameters' names, which are saved with states and used to match them on loading."""
        self._all = []
        for name, param in named:
            self._names[id(param)] = plain_name(name)
            self._all.append(param)

    def name_of(self, param: Tensor) -> str | None:
        """Return a parameter's name, or None if it is unknown."""
        return self._names.get(id(param))

    def logical(self) -> list[list[Tensor]]:
        """Return the parameters of each logical group; physical groups that were added later come last."""
        physical = self.optimizer.param_groups
        if self._logical is None:
            return [group["params"] for group in physical]
        known = {id(p) for params in self._logical for p in params}
        return self._logical + [g["params"] for g in physical if not any(id(p) in known for p in g["params"])]

    def _stamp(self) -> tuple[int, ...]:
        return tuple([len(group["params"]) for group in self.optimizer.param_groups])

    def physical_index(self) -> list[int]:
        """Return the index of the physical group that contains each logical group."""
        if self._logical is None:
            return list(range(len(self.optimizer.param_groups)))
        stamp = self._stamp()
        if self._physical_index[0] != stamp:
            home = {id(p): i for i, g in enumerate(self.optimizer.param_groups) for p in g["params"]}
            self._physical_index = (stamp, [home[id(params[0])] for params in self.logical()])
        return self._physical_index[1]

    def params(self) -> list[Tensor]:
        """Return all parameters in logical order."""
        stamp = self._stamp()
        if self._flat[0] != stamp:
            self._flat = (stamp, [p for params in self.logical() for p in params])
        return self._flat[1]

    def scale_configured(self, key: str, ratio: float) -> None:
        """Multiply a setting in the physical groups and in the configured settings."""
        for group in self.optimizer.param_groups:
            group[key] *= ratio
            for param in group["params"]:
                self._configured[id(param)] = {**self._configured[id(param)], key: group[key]}

    def configured(self) -> list[Group]:
        """Return the configured settings of each physical group, before any scheduler."""
        return [self._given(g["params"]) for g in self.optimizer.param_groups]

    def _given(self, params: Sequence[Tensor]) -> Group:
        return self._configured.get(id(params[0]), {}) if params else {}

    # ---- lists with one value per logical group

    def split(self, values: Sequence[float]) -> list[float]:
        """Convert one value per logical group to one per physical group, splitting groups whose values differ."""
        physical, physical_index = self.optimizer.param_groups, self.physical_index()
        parts: list[dict[float, list[int]]] = [{} for _ in physical]
        for i, (owner, value) in enumerate(zip(physical_index, values, strict=True)):
            parts[owner].setdefault(value, []).append(i)
        if any(len(part) > 1 for part in parts):
            logical = self.logical()
            physical[:] = [
                {**group, "params": [p for i in which for p in logical[i]]}
                for group, part in zip(physical, parts, strict=True)
                for which in part.values()
            ]
            self._physical_index = ((), [])
        return [value for part in parts for value in part]

    # ---- states

    def pack(self) -> OptimizerState:
        """Return the optimizer's state dict in the logical layout, with parameter names if they are known."""
        packed: OptimizerState = self.optimizer.state_dict()  # type: ignore[assignment]  # a plain dict there
        if self._logical is None and not self._names:
            return packed
        in_memory = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        index = {id(p): i for i, p in enumerate(self.params())}
        state = {index[in_memory[k]] if isinstance(k, int) else k: v for k, v in packed["state"].items()}
        groups = []
        for params, owner in zip(self.logical(), self.physical_index(), strict=True):
            group = {**settings_of(packed["param_groups"][owner]), "params": [index[id(p)] for p in params]}
            if all(id(p) in self._names for p in params):
                group["param_names"] = [self._names[id(p)] for p in params]
            groups.append(group)
        order = sorted(state, key=lambda k: (not isinstance(k, int), k))
        return {**packed, "state": {k: state[k] for k in order}, "param_groups": groups}

    def pack_configured(self) -> list[Group]:
        """Return the configured settings of each logical group, used on loading to detect config changes."""
        return [dict(self._given(params)) for params in self.logical()]

    def unpack(self, saved: OptimizerState, configured: Sequence[Group] | None) -> list[str]:
        """Load a state in either layout.

        Moments are matched by parameter name, or by order if the state has no names. A setting that is equal in this
        run's config and in the saved run's is restored to its saved value; a changed one keeps its new value.

        Args:
            saved: State with `state` and `param_groups`.
            configured: Configured settings of the saved run's groups, if the state contains them.

        Returns:
            Settings that the config has changed, one line each.

        Raises:
            InputError: The parameters of the state do not match the model.
        """
        slots = self._match(saved["param_groups"], saved["state"])
        changes: dict[str, int] = {}
        settings: list[Group] = []
        physical = self.optimizer.param_groups
        for params, owner in zip(self.logical(), self.physical_index(), strict=True):
            place = next((slots[id(p)][1] for p in params if id(p) in slots), None)
            now, mine = settings_of(physical[owner]), self._given(params)
            if place is None:
                settings.append(now)
                continue
            theirs = configured[place] if configured is not None and place < len(configured) else None
            settings.append(reconcile(now, mine, saved["param_groups"][place], theirs, changes))
        self._arrange(settings)
        position = {id(p): i for i, p in enumerate(p for group in self.optimizer.param_groups for p in group["params"])}
        state = {position[i]: saved["state"][slot] for i, (slot, _) in slots.items() if slot in saved["state"]}
        groups = [
            {**settings_of(g), "params": [position[id(p)] for p in g["params"]]} for g in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        return [f"{change} ({n} parameter group{'s' * (n > 1)})" for change, n in changes.items()]

    def _arrange(self, settings: Sequence[Group]) -> None:
        """Rebuild the physical groups from the settings of each logical group."""
        physical = self.optimizer.param_groups
        wanted = [{**own, "params": params} for own, params in zip(settings, self.logical(), strict=True)]
        if self._logical is None:
            for group, own in zip(physical, wanted, strict=True):
                group.update(own)
        else:
            physical[:] = merge(wanted)
            self._physical_index, self._flat = ((), []), ((), [])

    def _match(self, groups: Sequence[Group], state: Mapping[int, Mapping[str, Value]]) -> dict[int, tuple[int, int]]:
        """Map the id of each parameter to its key in the saved `state` and the index of its saved group.

        Raises:
            InputError: Names, number or shapes of the parameters differ.
        """
        entries = [(slot, i) for i, group in enumerate(groups) for slot in group["params"]]
        ours = self.params()
        names = [name for group in groups for name in group.get("param_names", [])]
        if len(names) == len(entries) and all(id(p) in self._names for p in ours):
            there = {plain_name(name): entry for name, entry in zip(names, entries, strict=True)}
            found = {id(p): there[self._names[id(p)]] for p in ours if self._names[id(p)] in there}
            lost = [self._names[id(p)] for p in ours if id(p) not in found and p.requires_grad]
            mine = {self._names[id(p)] for p in ours}
            strange = [name for name, (slot, _) in there.items() if name not in mine and state.get(slot)]
            if lost or strange:
                raise InputError(
                    "the optimizer state does not fit the model: "
                    + "; ".join(
                        f"{what} {some_of(which, 4)}"
                        for what, which in (("it lacks", lost), ("the model has no", strange))
                        if which
                    )
                )
        else:
            trainable = [p for p in self._all if p.requires_grad]
            order = next((c for c in (ours, self._all, trainable) if len(c) == len(entries)), None)
            if order is None:
                raise InputError(
                    f"the optimizer state holds {len(entries)} parameters, the optimizer {len(ours)}: "
                    "it was saved for another model"
                )
            found = {id(p): entry for p, entry in zip(order, entries, strict=True)}
        for p in ours:
            self._check_shape(p, state.get(found[id(p)][0], {}) if id(p) in found else {})
        mine_ids = {id(p) for p in ours}
        return {i: entry for i, entry in found.items() if i in mine_ids}

    def _check_shape(self, param: Tensor, state: Mapping[str, Value]) -> None:
        for key in FULL_SIZE & set(state):
            value = state[key]
            if isinstance(value, Tensor) and value.shape != param.shape:
                name = self._names.get(id(param), "a parameter")
                raise InputError(
                    f"the optimizer state does not fit the model: {key} of {name} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(param.shape)}"
                )


def reconcile(
    now: Group,
    mine: Group,
    saved: Group,
    theirs: Group | None,
    changes: dict[str, int],
) -> Group:
    """Return a group's settings after loading: the saved values, except those that the config has changed.

    Args:
        now: Current settings, after the first step of this run's schedulers.
        mine: Settings from this run's config.
        saved: Settings in the saved state.
        theirs: Settings from the saved run's config; if None, inferred from the saved `initial_...` values.
        changes: Number of groups by change; updated in place.
    """
    out: Group = {}
    for key, value in now.items():
        if key not in mine or key not in saved:
            out[key] = value
            continue
        first = f"initial_{key}"
        if theirs is not None:
            before, after = theirs.get(key, saved[key]), mine[key]
        elif first in saved and first in now:
            before, after = saved[first], now[first]
        elif key == "betas" and "initial_momentum" in saved:
            before, after = (saved["initial_momentum"], *saved[key][1:]), mine[key]
        else:
            before, after = saved.get(first, saved[key]), mine[key]
        if is_same(before, after) or isinstance(after, Tensor):
            out[key] = tuple(saved[key]) if isinstance(value, tuple) else saved[key]
        else:
            out[key] = mine[key]
            line = f"{key}: {before} -> {after}"
            changes[line] = changes.get(line, 0) + 1
    if "momentum" in out and "momentum" not in mine and "betas" in out:
        out["momentum"] = out["betas"][0]
    derived = ("initial_", "max_", "min_", "momentum")
    for key, value in saved.items():
        if key not in out and key not in ("params", "param_names") and not key.startswith(derived):
            out[key] = value
    return out
