"""`MLflowVisBackend`: log to MLflow. Optional: no other module imports this one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydet3d.config import Config, ConfigValue
from raydet3d.config.config_dict import walk
from raydet3d.config.dump import redact
from raydet3d.errors import InputError
from raydet3d.registry import VISBACKENDS
from raydet3d.visual.backends import (
    BaseVisBackend,
    Picture,
    Scalar,
    check_picture,
    config_text,
    numbers_and_texts,
    tag_without_special_characters,
)

LONGEST_VALUE = 500  # characters of a parameter


@VISBACKENDS.register_module()
class MLflowVisBackend(BaseVisBackend):
    """Log to MLflow; needs the extra `raydet3d[mlflow]`.

    Args:
        save_dir: Folder; without a `tracking_uri`, runs are kept in `mlruns.db` and `mlruns` in it.
        exp_name: Name of the experiment; the project's default by default.
        run_name: Name of the run.
        tags: Tags of the run.
        params: Parameters of the run.
        tracking_uri: Where MLflow keeps runs: a server, or a local URI.
        artifact_suffix: Suffixes of files of `save_dir` that are uploaded at the end.
        tracked_config_keys: Top-level keys of the config that become parameters; all by default.
    """

    def __init__(
        self,
        save_dir: str | Path | None = None,
        exp_name: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, ConfigValue] | None = None,
        params: Mapping[str, ConfigValue] | None = None,
        tracking_uri: str | None = None,
        artifact_suffix: str | Sequence[str] = (".json", ".log", ".py", "yaml"),
        tracked_config_keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(save_dir)
        self.exp_name = exp_name
        self.run_name = run_name
        self.tags = dict(tags or {})
        self.params = dict(params or {})
        self.tracking_uri = tracking_uri
        self.artifact_suffix = (artifact_suffix,) if isinstance(artifact_suffix, str) else tuple(artifact_suffix)
        self.tracked_config_keys = tracked_config_keys
        self._client: Any = None
        self._run_id = ""

    @property
    def experiment(self) -> Any:
        """Return MLflow's client; `run_id` names the run.

        A client with a run of its own is used rather than MLflow's global run: a process may have several runs.
        """
        if self._client is None:
            try:
                mlflow = importlib.import_module("mlflow")
            except ImportError:
                raise InputError("MLflowVisBackend needs mlflow: pip install 'raydet3d[mlflow]'") from None
            uri, artifacts = self.tracking_uri, None
            if uri is None:
                if self.save_dir is None:
                    raise InputError("MLflowVisBackend needs tracking_uri, or a folder: set save_dir on it")
                folder = self.save_dir.absolute()
                folder.mkdir(parents=True, exist_ok=True)
                uri, artifacts = f"sqlite:///{folder}/mlruns.db", (folder / "mlruns").as_uri()
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            name = self.exp_name or "raydet3d"
            found = self._client.get_experiment_by_name(name)
            number = found.experiment_id if found else self._client.create_experiment(name, artifacts)
            tags = {key: str(value) for key, value in self.tags.items()}
            self._run_id = self._client.create_run(number, run_name=self.run_name, tags=tags).info.run_id
            self._log_params(self.params)
        return self._client

    @property
    def run_id(self) -> str:
        """Return the run's id."""
        _ = self.experiment
        return self._run_id

    def _log_params(self, params: Mapping[str, object]) -> None:
        for key, value in params.items():
            name = tag_without_special_characters(key)
            self.experiment.log_param(self._run_id, name, str(value)[:LONGEST_VALUE], synchronous=False)

    def add_config(self, config: Config | Mapping[str, ConfigValue], **kwargs: object) -> None:
        """Add the config as parameters by dotted key, and as a text file."""
        plain = config.redacted() if isinstance(config, Config) else redact(dict(config))
        keys = self.tracked_config_keys
        wanted = plain if keys is None else {key: value for key, value in plain.items() if key in keys}
        leaves = {".".join(map(str, place)): v for place, v in walk(wanted) if place and not isinstance(v, dict | list)}
        self._log_params(leaves)
        self.experiment.log_text(self.run_id, config_text(config), "config.py")

    def add_image(self, name: str, image: Picture, step: int = 0, **kwargs: object) -> None:
        """Add an image as an artifact."""
        file = f"images/{tag_without_special_characters(name)}_{step}.png"
        self.experiment.log_image(self.run_id, check_picture(image), file)

    def add_scalars(
        self, scalar_dict: Mapping[str, Scalar], step: int = 0, file_path: str | None = None, **kwargs: object
    ) -> None:
        """Log the scalars; skip texts."""
        numbers = numbers_and_texts(scalar_dict)
        step = int(numbers.pop("step", step))
        for name, value in numbers.items():
            if isinstance(value, int | float):
                tag = tag_without_special_characters(name)
                self.experiment.log_metric(self.run_id, tag, value, step=step, synchronous=False)

    def add_pr_curve(self, name: str, recall: Sequence[float], precision: Sequence[float], step: int = 0) -> None:
        """Add a precision-recall curve as a JSON artifact."""
        curve = {"recall": list(recall), "precision": list(precision)}
        self.experiment.log_dict(self.run_id, curve, f"{tag_without_special_characters(name)}_{step}.json")

    def add_hparams(self, setting: Mapping[str, ConfigValue], scores: Mapping[str, float]) -> None:
        """Add the setting as parameters `setting.KEY`, and the scores as metrics."""
        self._log_params({f"setting.{key}": value for key, value in redact(dict(setting)).items()})
        for name, value in scores.items():
            self.experiment.log_metric(self.run_id, tag_without_special_characters(f"best/{name}"), value)

    def close(self) -> None:
        """Upload the files of `artifact_suffix` and end the run."""
        if self._client is None:
            return
        if self.save_dir is not None:
            for path in sorted(self.save_dir.iterdir()):
                if path.is_file() and path.name.endswith(self.artifact_suffix):
                    self._client.log_artifact(self._run_id, str(path))
        self._client.set_terminated(self._run_id)
        self._client = None
