"""`WandbVisBackend`: log to Weights & Biases. Optional: no other module imports this one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from raydet3d.config import Config, ConfigValue
from raydet3d.config.dump import redact
from raydet3d.errors import InputError
from raydet3d.registry import VISBACKENDS
from raydet3d.visual.backends import BaseVisBackend, Picture, Scalar, check_picture, numbers_and_texts


@VISBACKENDS.register_module()
class WandbVisBackend(BaseVisBackend):
    """Log to Weights & Biases; needs the extra `raydet3d[wandb]`.

    Args:
        save_dir: Folder of wandb's local files.
        init_kwargs: Arguments of `wandb.init` (project, name, ...).
        define_metric_cfg: Summary by metric name, such as `{'loss': 'min'}`, or a list of arguments of
            `define_metric`.
        commit: Argument of `log`.
        log_code_name: Name under which the code of the working folder is logged.
        watch_kwargs: Arguments of `watch`, for `add_graph`.
    """

    def __init__(
        self,
        save_dir: str | Path | None = None,
        init_kwargs: Mapping[str, ConfigValue] | None = None,
        define_metric_cfg: Mapping[str, str] | list[Mapping[str, str]] | None = None,
        commit: bool = True,
        log_code_name: str | None = None,
        watch_kwargs: Mapping[str, ConfigValue] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self.init_kwargs = dict(init_kwargs or {})
        self.define_metric_cfg = define_metric_cfg
        self.commit = commit
        self.log_code_name = log_code_name
        self.watch_kwargs = dict(watch_kwargs or {})
        self._run: Any = None
        self._wandb: Any = None

    @property
    def experiment(self) -> Any:
        """Return the wandb run."""
        if self._run is None:
            try:
                self._wandb = importlib.import_module("wandb")
            except ImportError:
                raise InputError("WandbVisBackend needs wandb: pip install 'raydet3d[wandb]'") from None
            if self.save_dir is not None:
                self.save_dir.mkdir(parents=True, exist_ok=True)
                self.init_kwargs.setdefault("dir", str(self.save_dir))
            self._run = self._wandb.init(**self.init_kwargs)
            # wandb drops values of an earlier step than the last one, so the step is an ordinary field.
            self._run.define_metric("*", step_metric="step")
            given = self.define_metric_cfg or {}
            entries = (
                [{"name": name, "summary": summary} for name, summary in given.items()]
                if isinstance(given, Mapping)
                else given
            )
            for entry in entries:
                self._run.define_metric(**entry)
            if self.log_code_name is not None:
                self._run.log_code(name=self.log_code_name)
        return self._run

    def add_config(self, config: Config | Mapping[str, ConfigValue], **kwargs: object) -> None:
        """Set the config of the run."""
        plain = config.redacted() if isinstance(config, Config) else redact(dict(config))
        self.experiment.config.update(plain, allow_val_change=True)

    def add_graph(self, model: nn.Module, data_batch: object, **kwargs: object) -> None:
        """Watch the model."""
        self.experiment.watch(model, **self.watch_kwargs)

    def add_image(self, name: str, image: Picture, step: int = 0, **kwargs: object) -> None:
        """Add an image."""
        run = self.experiment
        run.log({name: self._wandb.Image(check_picture(image)), "step": step}, commit=self.commit)

    def add_scalars(
        self, scalar_dict: Mapping[str, Scalar], step: int = 0, file_path: str | None = None, **kwargs: object
    ) -> None:
        """Log the scalars."""
        self.experiment.log({"step": step} | numbers_and_texts(scalar_dict), commit=self.commit)

    def add_pr_curve(self, name: str, recall: Sequence[float], precision: Sequence[float], step: int = 0) -> None:
        """Add a precision-recall curve as a table with a line plot."""
        run = self.experiment
        table = self._wandb.Table(
            data=[list(row) for row in zip(recall, precision, strict=True)], columns=["recall", "precision"]
        )
        plot = self._wandb.plot.line(table, "recall", "precision", title=name)
        run.log({name: plot, "step": step}, commit=self.commit)

    def add_hparams(self, setting: Mapping[str, ConfigValue], scores: Mapping[str, float]) -> None:
        """Add the setting to the config as `setting`, and the scores to the summary."""
        self.experiment.config.update({"setting": redact(dict(setting))}, allow_val_change=True)
        self.experiment.summary.update(dict(scores))

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None
