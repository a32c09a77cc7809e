"""Search algorithms: grid and random. A resumed sweep passes them the earlier settings."""

from __future__ import annotations

import importlib
import random
from abc import ABC, abstractmethod

from typing_extensions import override

from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.spec import Search

MAX_ATTEMPTS = 200  # samples without a new setting before a space counts as exhausted
OPTUNA = "raydet3d.sweep.optuna_search"  # loaded where a sweep names it


class SearchAlgorithm(ABC):
    """Proposes settings, each a function of the search's seed, the setting's number and the results so far.

    So a resumed sweep proposes what it would have proposed without the interruption.

    Args:
        space: The search space.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._known: list[Setting] = []

    def record(self, setting: Setting) -> None:
        """Record a setting that was handed out."""
        self._known.append(setting)

    @abstractmethod
    def propose(self, number: int) -> Setting | None:
        """Return a new setting, or None where none is left."""

    def tell(self, setting: Setting, value: float | None) -> None:  # noqa: B027 - only Optuna uses it
        """Report the score of a setting.

        Args:
            setting: The setting, with the config's own values filled in.
            value: Mean of its trials' best scores; None where it failed.
        """

    def _is_new(self, setting: Setting) -> bool:
        return setting not in self._known


class GridSearch(SearchAlgorithm):
    """All combinations, in the order of the sweep file."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self._points = space.grid()

    @override
    def propose(self, number: int) -> Setting | None:
        return next((dict(point) for point in self._points if self._is_new(point)), None)


class RandomSearch(SearchAlgorithm):
    """Independent samples; keys declared as `grid` are enumerated.

    Args:
        space: The search space.
        seed: Seed of the samples.
    """

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space)
        self.seed = seed
        self._points = space.grid(only_marked=True)  # [{}] where no key is declared so

    @override
    def propose(self, number: int) -> Setting | None:
        # Where the settings of this number's grid point are exhausted, those of the next points follow.
        for shift in range(len(self._points)):
            point = self._points[(number + shift) % len(self._points)]
            for attempt in range(MAX_ATTEMPTS):
                rng = random.Random(f"{self.seed}/{number}/{attempt}" + (f"/{shift}" if shift else ""))
                setting = self.space.sample(rng, fixed=point)
                if self._is_new(setting):
                    return setting
        return None


def make_search(space: Space, search: Search, mode: str) -> SearchAlgorithm:
    """Build the search algorithm of a sweep.

    Args:
        space: The search space.
        search: The sweep's `search` section.
        mode: `max` or `min`.
    """
    if search.type == "grid":
        return GridSearch(space)
    if search.type == "optuna":
        optional = importlib.import_module(OPTUNA)
        made: SearchAlgorithm = optional.OptunaSearch(space, search, mode)
        return made
    return RandomSearch(space, search.seed)
