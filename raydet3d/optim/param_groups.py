"""Param groups twice: merged in memory, and laid out as MMEngine would, one per parameter, for everyone else.

MMEngine makes a group of every parameter as soon as `paramwise_cfg` is set. Here parameters of equal settings
share one, which saves kernel launches; state dicts, learning rates and list-valued arguments keep MMEngine's order.

Legend: *logical* group: one of MMEngine's · *physical* group: one of `optimizer.param_groups`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from raydet3d.errors import InputError

Group = dict[str, Any]
Value = float | Tensor  # a scheduled setting: a number, or a tensor for optimizers that are captured in a graph
# State that has its parameter's shape, whatever the optimizer.
FULL_SIZE = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"})


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes of model wrappers and of torch.compile."""
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def settings_of(group: Mapping[str, Any]) -> Group:
    """A group without its parameters."""
    return {k: v for k, v in group.items() if k not in ("params", "param_names")}


def is_same(a: Any, b: Any) -> bool:
    """Whether two settings are equal; tensors are equal only to themselves."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(is_same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(is_same(a[k], b[k]) for k in a)
    return bool(type(a) is type(b) and a == b) or (_is_number(a) and _is_number(b) and a == b)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def merge(groups: Iterable[Group], defaults: Mapping[str, Any] | None = None) -> list[Group]:
    """Groups of equal settings as one each, in the order of their first.

    Args:
        groups: The groups.
        defaults: What a group has where it says nothing.
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
    """An optimizer's param groups, and how others see them.

    Args:
        optimizer: The optimizer.
        logical: Parameters of each of MMEngine's groups; None where they are as in memory.
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
        """Learn the parameters' names, by which states are saved and found."""
        self._all = []
        for name, param in named:
            self._names[id(param)] = plain_name(name)
            self._all.append(param)

    def name_of(self, param: Tensor) -> str | None:
        """A parameter's name, where it is known."""
        return self._names.get(id(param))

    def logical(self) -> list[list[Tensor]]:
        """Parameters of each logical group; groups that were added later come last."""
        physical = self.optimizer.param_groups
        if self._logical is None:
            return [group["params"] for group in physical]
        known = {id(p) for params in self._logical for p in params}
        return self._logical + [g["params"] for g in physical if not any(id(p) in known for p in g["params"])]

    def _stamp(self) -> tuple[int, ...]:
        return tuple(len(group["params"]) for group in self.optimizer.param_groups)

    def physical_index(self) -> list[int]:
        """Which physical group each logical group lives in."""
        if self._logical is None:
            return list(range(len(self.optimizer.param_groups)))
        stamp = self._stamp()
        if self._physical_index[0] != stamp:
            home = {id(p): i for i, g in enumerate(self.optimizer.param_groups) for p in g["params"]}
            self._physical_index = (stamp, [home[id(params[0])] for params in self.logical()])
        return self._physical_index[1]

    def params(self) -> list[Tensor]:
        """All parameters, in logical order."""
        stamp = self._stamp()
        if self._flat[0] != stamp:
            self._flat = (stamp, [p for params in self.logical() for p in params])
        return self._flat[1]

    def scale_configured(self, key: str, ratio: float) -> None:
        """Multiply a setting in the groups and in what counts as configured."""
        for group in self.optimizer.param_groups:
            group[key] *= ratio
            for param in group["params"]:
                self._configured[id(param)] = {**self._configured[id(param)], key: group[key]}

    def configured(self) -> list[Group]:
        """What the config gave each physical group, before any scheduler."""
        return [self._given(g["params"]) for g in self.optimizer.param_groups]

    def _given(self, params: Sequence[Tensor]) -> Group:
        return self._configured.get(id(params[0]), {}) if params else {}

    # ---- lists with one value per logical group

    def split(self, values: Sequence[Any]) -> list[Any]:
        """One value per physical group out of one per logical group; groups whose values differ are taken apart."""
        physical, physical_index = self.optimizer.param_groups, self.physical_index()
        parts: list[dict[Any, list[int]]] = [{} for _ in physical]
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

    def pack(self) -> dict[str, Any]:
        """The optimizer's state dict in the logical layout, with names where they are known."""
        packed = self.optimizer.state_dict()
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
        """What the config gave each logical group, to tell later what has changed."""
        return [dict(self._given(params)) for params in self.logical()]

    def unpack(self, saved: Mapping[str, Any], configured: Sequence[Group] | None) -> list[str]:
        """Load a state in either layout.

        Moments come back by parameter name (by order where the file has no names). A setting that this run's config
        gives as the saved run's did comes back with its saved value; one that the config has changed stays as is.

        Args:
            saved: `state` and `param_groups`.
            configured: What the saved run's config gave its groups, where the file says so.

        Returns:
            What the config has changed, one line each.

        Raises:
            InputError: The file's parameters are not this model's.
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
        """Form the physical groups anew, so that each logical group gets its settings."""
        physical = self.optimizer.param_groups
        wanted = [{**own, "params": params} for own, params in zip(settings, self.logical(), strict=True)]
        if self._logical is None:
            for group, own in zip(physical, wanted, strict=True):
                group.update(own)
        else:
            physical[:] = merge(wanted)
            self._physical_index, self._flat = ((), []), ((), [])

    def _match(self, groups: Sequence[Group], state: Mapping[Any, Any]) -> dict[int, tuple[Any, int]]:
        """For each of our parameters: its key in the file's `state`, and the place of its group there."""
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
                        f"{what} {', '.join(which[:4])}{' ...' if len(which) > 4 else ''}"
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

    def _check_shape(self, param: Tensor, state: Mapping[str, Any]) -> None:
        for key in FULL_SIZE & set(state):
            value = state[key]
            if isinstance(value, Tensor) and value.shape != param.shape:
                name = self._names.get(id(param), "a parameter")
                raise InputError(
                    f"the optimizer state does not fit the model: {key} of {name} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(param.shape)}"
                )


def reconcile(
    now: Mapping[str, Any],
    mine: Mapping[str, Any],
    saved: Mapping[str, Any],
    theirs: Mapping[str, Any] | None,
    changes: dict[str, int],
) -> Group:
    """One group's settings after loading: the saved values, but for those that the config has changed.

    Args:
        now: The group as it is, after the first tick of this run's schedulers.
        mine: What this run's config gives it.
        saved: The group in the file.
        theirs: What the saved run's config gave it, where known; else told from the group's `initial_...`.
        changes: Counts each change; added to.
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
