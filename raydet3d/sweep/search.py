"""Which setting comes next: a grid, random draws, or Optuna. What has been tried already is told to a new search."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from raydet3d.errors import InputError
from raydet3d.sweep.domains import Choice
from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.spec import Search

TRIES = 200  # draws before a space counts as tried out


class Settings(ABC):
    """A source of settings, each a function of the search's seed, the setting's number and what was told before.

    So a sweep that goes on finds what it would have found without the stop.

    Args:
        space: What may come.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._known: list[Setting] = []

    def note(self, setting: Setting) -> None:
        """Remember a setting that has been given out."""
        self._known.append(setting)

    @abstractmethod
    def propose(self, number: int) -> Setting | None:
        """The setting of a number that nobody has had yet; None where there is none left."""

    def tell(self, setting: Setting, value: float | None) -> None:  # noqa: B027 - most searches do not listen
        """Say what a setting has come to.

        Args:
            setting: The setting, with the config's own values filled in.
            value: Mean of its trials' best values; None where it failed.
        """

    def _is_new(self, setting: Setting) -> bool:
        return setting not in self._known


class Grid(Settings):
    """All combinations, in the order in which the YAML lists them."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self._points = space.grid()

    def propose(self, number: int) -> Setting | None:
        """The next one that is not tried."""
        return next((dict(point) for point in self._points if self._is_new(point)), None)


class Random(Settings):
    """Independent draws; keys marked ``grid`` are gone through in turn.

    Args:
        space: What may come.
        seed: Of the draws.
    """

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space)
        self.seed = seed
        marked = any(isinstance(space[key], Choice) and space[key].grid for key in space)  # type: ignore[attr-defined]
        self._points = space.grid(only_marked=True) if marked else [{}]

    def propose(self, number: int) -> Setting | None:
        """A draw that has not come up before; where the number's point is used up, of the next one that is not."""
        for shift in range(len(self._points)):
            point = self._points[(number + shift) % len(self._points)]
            for attempt in range(TRIES):
                rng = random.Random(f"{self.seed}/{number}/{attempt}" + (f"/{shift}" if shift else ""))
                setting = self.space.sample(rng, fixed=point)
                if self._is_new(setting):
                    return setting
        return None


class Optuna(Settings):
    """Optuna's tree-structured Parzen estimator, asked and told.

    Args:
        space: What may come.
        seed: Of its draws.
        startup: Random settings before its model is used.
        mode: ``max`` or ``min``.
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

    def propose(self, number: int) -> Setting | None:
        """What its model likes best, given all that it has been told; settings that still run count as bad."""
        for attempt in range(TRIES):
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self.seed * 100_003 + number * 1_009 + attempt) % 2**32,
                n_startup_trials=self.startup,
                constant_liar=True,
            )
            trial = self._study.ask()
            setting = self.space.compose(lambda key, domain, trial=trial: domain.ask(trial, key))  # type: ignore[misc]
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)  # `tell` below says what it came to
            if self._is_new(setting):
                return setting
        return None

    def note(self, setting: Setting) -> None:
        """Remember a setting, and let the model know that it runs."""
        super().note(setting)
        parameters, distributions = {}, {}
        for key, domain in self.space.domains.items():
            chosen = domain.parameter(setting[key]) if key in setting else None
            if chosen is not None:
                parameters[key], distributions[key] = chosen, domain.distribution()
        running = self._optuna.trial.TrialState.RUNNING
        self._study.add_trial(
            self._optuna.trial.create_trial(params=parameters, distributions=distributions, state=running)
        )
        self._running.append((setting, len(self._study.trials) - 1))

    def tell(self, setting: Setting, value: float | None) -> None:
        """Say what a setting has come to."""
        for place, (other, number) in enumerate(self._running):
            if other == setting:
                failed = None if value is not None else self._optuna.trial.TrialState.FAIL
                self._study.tell(number, value, state=failed)
                del self._running[place]
                return


def make_settings(space: Space, search: Search, mode: str) -> Settings:
    """The source of settings that a sweep asks for.

    Args:
        space: The space.
        search: The sweep's ``search``.
        mode: ``max`` or ``min``.
    """
    if search.type == "grid":
        return Grid(space)
    if search.type == "optuna":
        return Optuna(space, search.seed, search.startup, mode)
    return Random(space, search.seed)
