"""Ranking of a sweep's trials while they report."""

from __future__ import annotations

from collections.abc import Iterable

from raydet3d.sweep.trial_store import FAILED, Rank, Trial


class Ranking:
    """Trials, best first: by the mean over their setting's seeds, then by their own value; failed ones come last.

    A setting of which a seed has failed comes after those of which none has, since its mean covers fewer seeds.

    Args:
        trials: The trials.
        mode: `max` or `min`.

    Attributes:
        means: Mean of the best values of a setting's trials that have not failed, by number of the setting.
    """

    def __init__(self, trials: Iterable[Trial], mode: str) -> None:
        self.mode = mode
        self.means: dict[int, float] = {}
        self._settings: dict[int, list[Trial]] = {}
        self._best: dict[str, float | None] = {}
        self._keys: dict[str, tuple[int, bool, float, float, str]] = {}
        self._trials: list[Trial] = []
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Add a trial."""
        self._trials.append(trial)
        self._settings.setdefault(trial.number, []).append(trial)
        self.update(trial)

    def update(self, trial: Trial) -> None:
        """Rank a trial that has reported or ended anew, and the other seeds of its setting."""
        some = self.of_setting(trial.number)
        self._best[trial.id] = trial.best(self.mode)
        values = [value for one in some if one.state != FAILED and (value := self._best[one.id]) is not None]
        if values:
            self.means[trial.number] = sum(values) / len(values)
        else:
            self.means.pop(trial.number, None)
        has_failed = any(one.state == FAILED for one in some)
        sign = -1.0 if self.mode == "max" else 1.0
        for one in some:
            value = self._best[one.id]
            if one.state == FAILED or value is None:
                self._keys[one.id] = (2 if one.state == FAILED else 1, False, 0.0, 0.0, one.id)
            else:
                self._keys[one.id] = (0, has_failed, sign * self.means[one.number], sign * value, one.id)

    def of_setting(self, number: int) -> list[Trial]:
        """Return the trials of a setting."""
        return self._settings[number]

    def trials(self) -> list[Trial]:
        """Return the trials, best first."""
        self._trials.sort(key=lambda trial: self._keys[trial.id])  # quick, since they are nearly sorted
        return list(self._trials)

    def ranks(self) -> list[Rank]:
        """Return their states and best values, best first."""
        return [Rank(id=trial.id, state=trial.state, best=self._best[trial.id]) for trial in self.trials()]
