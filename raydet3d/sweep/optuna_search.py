"""Search with Optuna, loaded where a sweep names it: `search: optuna`, an extra of the package."""

from __future__ import annotations

from typing_extensions import override

from raydet3d.errors import InputError
from raydet3d.sweep.domains import Domain, Value
from raydet3d.sweep.search import MAX_ATTEMPTS, SearchAlgorithm
from raydet3d.sweep.space import Setting, Space
from raydet3d.sweep.spec import Search

try:
    import optuna
except ImportError:
    raise InputError("search: optuna is not installed; pip install 'raydet3d[optuna]'") from None


class OptunaSearch(SearchAlgorithm):
    """Optuna's tree-structured Parzen estimator through its ask-and-tell interface.

    Args:
        space: The search space.
        search: The sweep's `search` section; of its `startup` settings, the model is not used yet.
        mode: `max` or `min`.
    """

    def __init__(self, space: Space, search: Search, mode: str) -> None:
        super().__init__(space)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._search = search
        self._study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self._running: list[tuple[Setting, int]] = []

    @override
    def propose(self, number: int) -> Setting | None:
        # constant_liar: running settings count as bad ones.
        for attempt in range(MAX_ATTEMPTS):
            self._study.sampler = optuna.samplers.TPESampler(
                seed=(self._search.seed * 100_003 + number * 1_009 + attempt) % 2**32,
                n_startup_trials=self._search.startup,
                constant_liar=True,
            )
            trial = self._study.ask()

            def suggest(key: str, domain: Domain, trial: optuna.Trial = trial) -> Value:
                return domain.suggest(trial, key)

            setting = self.space.compose(suggest)
            # Its score comes through `record` and `tell`.
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if self._is_new(setting):
                return setting
        return None

    @override
    def record(self, setting: Setting) -> None:
        super().record(setting)
        chosen = {key: self.space[key].to_param(setting[key]) for key in self.space if key in setting}
        params = {key: value for key, value in chosen.items() if value is not None}
        known = optuna.trial.FixedTrial(params)
        for key in params:
            self.space[key].suggest(known, key)  # notes the distribution
        running = optuna.trial.TrialState.RUNNING
        self._study.add_trial(
            optuna.trial.create_trial(params=params, distributions=known.distributions, state=running)
        )
        self._running.append((setting, len(self._study.trials) - 1))

    @override
    def tell(self, setting: Setting, value: float | None) -> None:
        for place, (other, number) in enumerate(self._running):
            if other == setting:
                failed = None if value is not None else optuna.trial.TrialState.FAIL
                self._study.tell(number, value, state=failed)
                del self._running[place]
                return
