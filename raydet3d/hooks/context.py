"""Protocols of a run, as used by hooks, loops and the log processor; `Runner` satisfies `RunContext`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from raydet3d.checkpoint.storage import Location
    from raydet3d.checkpoint.store import CheckpointStore
    from raydet3d.config import Config
    from raydet3d.hooks.base import Hook
    from raydet3d.optim import OptimWrapper, ParamScheduler, Schedule
    from raydet3d.runtime.evaluator import Evaluator
    from raydet3d.runtime.history import History
    from raydet3d.runtime.log_processor import LogProcessor
    from raydet3d.runtime.progress import Progress
    from raydet3d.runtime.rng import RngState
    from raydet3d.runtime.scalar_log import ScalarLog
    from raydet3d.visual import Visualizer

Mode = Literal["train", "val", "test"]
DataBatch: TypeAlias = dict[str, Any] | tuple[Any, ...] | list[Any] | None
"""A batch as returned by a data loader."""
PartCfg: TypeAlias = Mapping[str, Any]
"""Config of a part: `dict(type=..., **arguments)`; or of a section."""
StateDict: TypeAlias = dict[str, Any]
"""State for a checkpoint: containers, numbers, strings and tensors."""
Schedulers: TypeAlias = "list[ParamScheduler] | dict[str, list[ParamScheduler]]"
"""The schedulers of one optimizer, or of several by the optimizer's name."""


class DataSample(Protocol):
    """A prediction for one sample, together with its annotations and metadata from the dataset."""

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as a dict."""

    def get(self, key: str, default: object = None) -> Any:
        """Return a field, or the default."""


Losses: TypeAlias = Mapping[str, Tensor] | None
"""What a training step returned: scalars by name, `loss` first."""
Predictions: TypeAlias = Sequence[DataSample] | None
"""What a validation or test step returned: one data sample per sample."""
Metrics: TypeAlias = Mapping[str, Any] | None
"""What an evaluation returned, by name."""


class Dataset(Protocol):
    """A dataset: samples by index."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Any:
        """Return a sample."""


class DataLoader(Protocol):
    """Batches of this rank; `torch.utils.data.DataLoader` satisfies it."""

    @property
    def dataset(self) -> Any:
        """The dataset."""

    @property
    def batch_sampler(self) -> Any:
        """The batch sampler, or None."""

    def __len__(self) -> int:
        """Return the number of batches."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches."""


class TrainLoop(Protocol):
    """A training loop; custom loops may lack all members but `dataloader` and `run`."""

    dataloader: Any
    by_epoch: bool
    max_epochs: int | None
    max_iters: int | None
    val_begin: int
    val_interval: int
    stop_training: bool

    def run(self) -> object:
        """Train to the end."""


class EvalLoop(Protocol):
    """A validation or test loop."""

    dataloader: Any
    evaluator: Any

    def run(self) -> Mapping[str, Any]:
        """Evaluate once and return the metrics."""


class StepModel(Protocol):
    """A model with the steps that loops call."""

    def train_step(self, data: DataBatch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Train on a batch and return the losses by name."""

    def val_step(self, data: DataBatch) -> Sequence[DataSample]:
        """Predict for a batch of validation."""

    def test_step(self, data: DataBatch) -> Sequence[DataSample]:
        """Predict for a batch of testing."""


class RunContext(Protocol):
    """A run as hooks, loops and the log processor see it."""

    model: nn.Module
    """The model, on its device and in its wrapper. Hooks may replace it."""
    training_rng: RngState | None
    """State of the random generators before the current evaluation; None while training."""
    is_resuming: bool
    """Whether the checkpoint passed to `after_load_checkpoint` is loaded to resume training."""

    # -- identity -----------------------------------------------------------------------------------------------

    @property
    def cfg(self) -> Config:
        """The resolved config."""

    @property
    def cfg_text(self) -> str:
        """The config as text, without secrets; empty if it holds live objects."""

    @property
    def work_dir(self) -> Path:
        """Folder of the run on this machine."""

    @property
    def log_dir(self) -> Path:
        """Folder of this start's logs: the timestamp's, below the work dir."""

    @property
    def timestamp(self) -> str:
        """Name of this start."""

    @property
    def experiment_name(self) -> str:
        """Name of the run with the timestamp."""

    @property
    def run_name(self) -> str:
        """Name under which the first start of the run wrote its checkpoints."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def device(self) -> torch.device:
        """Device of this rank."""

    @property
    def rank(self) -> int:
        """Rank of this process."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    @property
    def distributed(self) -> bool:
        """Whether there are several processes."""

    # -- progress -----------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """All counts."""

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""

    @property
    def iter(self) -> int:
        """Number of finished iterations."""

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; None if the run does not train, or the loop does not define it."""

    @property
    def max_iters(self) -> int | None:
        """Iterations to train; None if the run does not train, or the loop does not define it."""

    @property
    def val_interval(self) -> int:
        """Current number of epochs or iterations between two validations."""

    @property
    def val_begin(self) -> int:
        """First epoch or iteration that may be followed by a validation."""

    @property
    def is_training(self) -> bool:
        """Whether this run trains; false for a validation or a test on its own."""

    # -- parts --------------------------------------------------------------------------------------------------

    @property
    def train_loop(self) -> TrainLoop:
        """The training loop."""

    @property
    def val_loop(self) -> EvalLoop | None:
        """The validation loop; None if the config has none."""

    @property
    def test_loop(self) -> EvalLoop | None:
        """The test loop; None if the config has none."""

    @property
    def train_dataloader(self) -> DataLoader:
        """Batches for training."""

    @property
    def val_dataloader(self) -> DataLoader | None:
        """Batches for validation; None if the config has none."""

    @property
    def test_dataloader(self) -> DataLoader | None:
        """Batches for testing; None if the config has none."""

    @property
    def val_evaluator(self) -> Evaluator | list[Evaluator] | None:
        """Evaluators of the validation, one per data loader."""

    @property
    def test_evaluator(self) -> Evaluator | list[Evaluator] | None:
        """Evaluators of the test, one per data loader."""

    @property
    def optim_wrapper(self) -> OptimWrapper:
        """The optimizer in its wrapper."""

    @property
    def param_schedulers(self) -> Schedulers:
        """The schedulers of learning rate and momentum, in the config's order."""

    @property
    def schedule(self) -> Schedule:
        """All schedulers of the run, advanced together."""

    @property
    def hooks(self) -> list[Hook]:
        """The hooks in calling order."""

    @property
    def logger(self) -> logging.Logger:
        """Logger of this run."""

    @property
    def log_processor(self) -> LogProcessor:
        """Formats the history for the log."""

    @property
    def message_hub(self) -> History:
        """Scalars and facts of the run."""

    @property
    def scalar_log(self) -> ScalarLog:
        """The run's `scalars.json`, which is continued across starts."""

    @property
    def visualizer(self) -> Visualizer:
        """The visualizer, which receives scalars and images."""

    @property
    def store(self) -> CheckpointStore:
        """The checkpoint store of the work dir."""

    @property
    def stores(self) -> list[CheckpointStore]:
        """The checkpoint stores that this run has saved to, the work dir's first."""

    # -- actions ------------------------------------------------------------------------------------------------

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks at a stage."""

    def register_hook(self, hook: Hook | PartCfg, priority: str | int | None = None) -> None:
        """Add a hook."""

    def store_in(self, folder: Location) -> CheckpointStore:
        """Return the checkpoint store of a folder."""

    def save_checkpoint(
        self,
        out_dir: Location | str,
        filename: str,
        file_client_args: object = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: StateDict | None = None,
        by_epoch: bool = True,
        backend_args: object = None,
        *,
        group: str = "",
        limit: int = -1,
        scores: Mapping[str, float] | None = None,
        point: bool = False,
        milestone: bool = False,
        budget: int | None = None,
    ) -> Location:
        """Save a checkpoint; every rank calls it at the same step."""

    def push_logs(self) -> None:
        """Copy logs and images to the work dir if that is on remote storage."""

    def close(self) -> None:
        """Wait for pending writes and close files, without collective calls."""

    def roll_back(self, *, before: int, passed_over: Sequence[str] = ()) -> str | None:
        """Restore weights and moments from a checkpoint; return its name, or None if there is none."""

    def diagnose_nonfinite(self, data_batch: DataBatch) -> str:
        """Replay a batch and name what was not finite first."""
