"""Queue of a sweep's trials: those that were interrupted, the baselines, then what the search proposes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from pathlib import Path

from raydet3d.config import Config
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec
from raydet3d.sweep.ranking import Ranking
from raydet3d.sweep.search import make_search
from raydet3d.sweep.space import Setting
from raydet3d.sweep.spec import Sweep
from raydet3d.sweep.trial_config import TrialConfigBuilder, digest, find_values, run_length
from raydet3d.sweep.trial_retention import RetentionPolicy
from raydet3d.sweep.trial_spec import TrialSpec
from raydet3d.sweep.trial_store import OPEN, WAITING, Trial, TrialStore


class TrialQueue:
    """Makes trials, and the specs from which processes run them.

    Args:
        builder: Makes configs.
        store: The sweep's folder.
        trials: Those that are there already.
        metric: Whole name of the metric.
        longest: Length of the longest run that the space is known to have.
    """

    def __init__(
        self, builder: TrialConfigBuilder, store: TrialStore, trials: list[Trial], *, metric: str, longest: float = 0.0
    ) -> None:
        self.builder = builder
        self.sweep = builder.sweep
        self.settings = make_search(self.sweep.space, self.sweep.search, self.sweep.mode)
        self.store = store
        self.trials = {trial.id: trial for trial in trials}
        self.ranking = Ranking(trials, self.sweep.mode)
        self.metric = metric
        self.retention = RetentionPolicy(
            store.path, self.sweep.keep, metric=metric, mode=self.sweep.mode, ranking=self.ranking.ranks
        )
        self.base = builder.build({})
        self.longest = max([run_length(self.base)[1], longest, *(trial.length for trial in trials)])
        self._queue = deque(trial for trial in trials if trial.state in OPEN)
        for trial in self._queue:
            trial.state = WAITING
        self._number = max((trial.number for trial in trials), default=-1) + 1
        self._seen = {trial.digest for trial in trials}
        self._exhausted = False
        self._configs: dict[str, Config] = {}  # of trials that were made and have not started
        self._take_up(trials)

    # -- what comes next ------------------------------------------------------------------------------------------

    def next(self) -> Trial | None:
        """Return the next trial to run; None if there is none."""
        while not self._queue and self._make_setting():
            pass
        return self._queue.popleft() if self._queue else None

    @property
    def is_exhausted(self) -> bool:
        """Whether no trial will be added."""
        return self._exhausted and not self._queue

    @property
    def total(self) -> int | None:
        """Number of trials in the end, as far as it is known."""
        sweep, trials = self.sweep, None
        if self._exhausted:
            return len(self.trials)
        if sweep.trials is not None:
            trials = sweep.trials * sweep.num_seeds
        if sweep.budget.trials is not None:
            trials = min(trials or sweep.budget.trials, sweep.budget.trials)
        return trials

    def epochs(self) -> float:
        """Return the epochs (iterations) that all trials have trained."""
        return sum(trial.at for trial in self.trials.values())

    def _make_setting(self) -> bool:
        """Queue the trials of one more setting; False where there is none."""
        sweep = self.sweep
        full = sweep.trials is not None and self._number >= sweep.trials
        spent = sweep.budget.trials is not None and len(self.trials) >= sweep.budget.trials
        if self._exhausted or full or spent:
            self._exhausted = True
            return False
        number = self._number
        while True:
            is_baseline = number < len(sweep.baseline)
            setting = dict(sweep.baseline[number]) if is_baseline else self.settings.propose(number)
            if setting is None:
                self._exhausted = True
                return False
            cfg = self.builder.build(setting)
            self.settings.record(self.filled(setting))
            made = [self._make_trial(number, setting, cfg, place) for place in range(sweep.num_seeds)]
            if is_baseline or all(trial.digest not in self._seen for trial in made):
                break  # else: other values, and the same run; it has been tried
        self._number += 1
        for trial in made if sweep.budget.trials is None else made[: sweep.budget.trials - len(self.trials)]:
            self._enter(trial)
        return True

    def _enter(self, trial: Trial) -> None:
        self.trials[trial.id] = trial
        self.ranking.add(trial)
        self._seen.add(trial.digest)
        self.store.create(trial)
        self._queue.append(trial)

    def _make_trial(self, number: int, setting: Setting, cfg: Config, place: int) -> Trial:
        seed = self._seed(cfg, place)
        cfg = self._seeded(cfg.copy(), seed)
        name = f"{number:03d}" if self.sweep.seeds is None else f"{number:03d}-{seed}"
        _, length, _ = run_length(cfg)
        self.longest = max(self.longest, length)
        self._configs[name] = cfg
        return Trial(
            id=name, number=number, setting=setting, seed=seed, digest=digest(cfg), length=length, created=time.time()
        )

    def _seed(self, cfg: Config, place: int) -> int:
        if self.sweep.seeds is not None:
            return self.sweep.seeds[place]
        given = (cfg.get("randomness") or {}).get("seed")
        return self.sweep.search.seed if given is None else int(given)

    def _seeded(self, cfg: Config, seed: int) -> Config:
        cfg["randomness"] = {**(cfg.get("randomness") or {}), "seed": seed}
        return cfg

    # -- results ----------------------------------------------------------------------------------------

    def _take_up(self, trials: list[Trial]) -> None:
        """Tell the search of the trials of earlier starts; add seeds that are missing."""
        for number in sorted({trial.number for trial in trials}):
            some = sorted(self.ranking.of_setting(number), key=lambda trial: trial.id)
            setting = some[0].first_setting
            if not setting and number >= len(self.sweep.baseline):
                continue  # its record is lost
            self.settings.record(self.filled(setting))
            spent = self.sweep.budget.trials
            if len(some) < self.sweep.num_seeds and (spent is None or len(trials) < spent):
                cfg = self.builder.build(setting)
                for place in range(self.sweep.num_seeds):
                    trial = self._make_trial(number, setting, cfg, place)
                    if trial.id not in self.trials:
                        self._enter(trial)
            self.conclude(number)

    def conclude(self, number: int) -> None:
        """Tell the search the score of a setting, once all its trials have ended."""
        some = self.ranking.of_setting(number)
        if any(trial.state in OPEN for trial in some):
            return
        setting = min(some, key=lambda trial: trial.id).first_setting
        self.settings.tell(self.filled(setting), self.ranking.means.get(number))

    def filled(self, setting: Setting) -> Setting:
        """Fill a setting with the config's own values that are in the space."""
        out: Setting = {}
        for key, domain in self.sweep.space.domains.items():
            if key in setting:
                out[key] = setting[key]
            elif not domain.when and (found := find_values(self.base, key)):
                out |= {key: found[0]} if found[0] is not None and domain.contains(found[0]) else {}
        return out

    # -- tasks ------------------------------------------------------------------------------------------------------

    def config_of(self, trial: Trial) -> Config:
        """Return the config of a trial as it would train outside of the sweep, but for its work dir."""
        made = self._configs.pop(trial.id, None)
        return made if made is not None else self._seeded(self.builder.build(trial.setting), trial.seed or 0)

    def spec_of(self, trial: Trial) -> TrialSpec:
        """Return the spec from which processes run a trial."""
        cfg = self.config_of(trial)
        counter, length, _ = run_length(cfg)
        cfg["work_dir"] = str(self.store.folder(trial.id).absolute())
        cfg["resume"] = False
        # The sweep saves, by its own limits.
        cfg["default_hooks"] = {**(cfg.get("default_hooks") or {}), "checkpoint": None}
        _add_tensorboard(cfg)
        folder = self.store.folder(trial.id).absolute()
        start = trial.starts_from if trial.starts_from and Path(trial.starts_from).exists() else False
        options = trial_options(self.sweep, cfg)
        run = RunSpec(
            cfg=cfg.to_dict(),
            filename=cfg.filename,
            origin=cfg.origin,
            run_id=f"gen{trial.generation}",
            resume=start,
            retry=True,
            threads=options.threads_per_worker,
            lock_file=str(folder / ".lock"),
        )
        return TrialSpec(
            id=trial.id,
            sweep=str(self.store.path.absolute()),
            run=run,
            options=options,
            counter=counter,
            length=length,
            metric=self.metric,
            mode=self.sweep.mode,
            keep=self.sweep.keep,
            generation=trial.generation,
            pointers=self.sweep.scheduler.pauses_trials,
        )

    def is_over(self) -> bool:
        """Return whether every trial has ended and none will be added."""
        return self.is_exhausted and all(trial.state not in OPEN for trial in self.trials.values())


def trial_options(sweep: Sweep, cfg: Config) -> RayOptions:
    """Return what a trial asks of Ray: the config's `ray`, with the sweep's resources."""
    wanted = sweep.resources
    options = RayOptions.from_config(cfg.get("ray"))
    return replace(
        options,
        num_workers=wanted.workers,
        cpus_per_worker=wanted.cpus,
        gpus_per_worker=wanted.gpus,
        resources_per_worker={},
        threads_per_worker=wanted.threads or max(int(wanted.cpus), 1),
        batch_workers=None,
        max_failures=options.max_failures if wanted.max_failures is None else wanted.max_failures,
        time_limit_s=0,  # it is the whole sweep's
    )


def _add_tensorboard(cfg: Config) -> None:
    """Add TensorBoard files to what the config's visualizer writes."""
    visualizer = dict(cfg.get("visualizer") or {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]})
    backends = list(visualizer.get("vis_backends") or [])
    if not any(str(backend.get("type", "")).endswith("TensorboardVisBackend") for backend in backends):
        backends.append({"type": "TensorboardVisBackend"})
    cfg["visualizer"] = {**visualizer, "vis_backends": backends}
