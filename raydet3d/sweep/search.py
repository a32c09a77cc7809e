"""Search algorithms: grid, random and Optuna's TPE. A resumed sweep tells them what was tried before."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.sweep.domains import Choice
from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.spec import Search

MAX_ATTEMPTS = 200  # samples without a new setting before a space counts as exhausted


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
        marked = any(isinstance(space[key], Choice) and space[key].grid for key in space)  # type: ignore[attr-defined]
        self._points = space.grid(only_marked=True) if marked else [{}]

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


class OptunaSearch(SearchAlgorithm):
    """Optuna's tree-structured Parzen estimator through its ask-and-tell interface.

    Args:
        space: The search space.
        seed: Seed of the sampler.
        startup: Number of random settings before the model is used.
        mode: `max` or `min`.
    """

    def __init__(self, space: Space, seed: int, startup: int, mode: str) -> None:
        super().__init__(space)
        try:
            import optuna
        except ImportError:
            raise InputError("search: optuna is not installed; pip install 'raydet3d[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self.seed = seed
        self.startup = startup
        self._study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self._running: list[tuple[Setting, int]] = []

    @override
    def propose(self, number: int) -> Setting | None:
        # constant_liar: running settings count as bad ones.
        for attempt in range(MAX_ATTEMPTS):
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self.seed * 100_003 + number * 1_009 + attempt) % 2**32,
                n_startup_trials=self.startup,
                constant_liar=True,
            )
            trial = self._study.ask()
            setting = self.space.compose(lambda key, domain, trial=trial: domain.suggest(trial, key))  # type: ignore[misc]
            self._study.tell(
                trial, state=self._optuna.trial.TrialState.FAIL
            )  # its score comes through `record` and `tell`
            if self._is_new(setting):
                return setting
        return None

    @override
    def record(self, setting: Setting) -> None:
        super().record(setting)
        parameters, distributions = {}, {}
        for key, domain in self.space.domains.items():
            chosen = domain.to_param(setting[key]) if key in setting else None
            if chosen is not None:
                parameters[key], distributions[key] = chosen, domain.distribution()
        running = self._optuna.trial.TrialState.RUNNING
        self._study.add_trial(
            self._optuna.trial.create_trial(params=parameters, distributions=distributions, state=running)
        )
        self._running.append((setting, len(self._study.trials) - 1))

    @override
    def tell(self, setting: Setting, value: float | None) -> None:
        for place, (other, number) in enumerate(self._running):
            if other == setting:
                failed = None if value is not None else self._optuna.trial.TrialState.FAIL
                self._study.tell(number, value, state=failed)
                del self._running[place]
                return


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
        return OptunaSearch(space, search.seed, search.startup, mode)
    return RandomSearch(space, search.seed)
