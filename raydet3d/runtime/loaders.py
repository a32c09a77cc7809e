"""Build data loaders: data set, sampler and collate function in a `DataLoader` whose indices carry their epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch.utils.data import BatchSampler, DataLoader
from typing_extensions import override

from raydet3d.config.provenance import config_context
from raydet3d.config.section_schemas import DataLoaderCfg, read_loader
from raydet3d.data.dataset import check_dataset
from raydet3d.data.global_batch import ElasticBatchSampler
from raydet3d.data.seeded import DatasetProxy, EpochBatchSampler, SeededDataset, seeded_generators
from raydet3d.dist import get_rank, get_world_size
from raydet3d.errors import InputError, InputTypeError
from raydet3d.hooks.context import DataLoader as LoaderProtocol
from raydet3d.hooks.context import Dataset, PartCfg
from raydet3d.log import get_logger
from raydet3d.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS, METRICS, Registry
from raydet3d.worker_process import init_worker_process, stop_signals_blocked

_LoaderT = TypeVar("_LoaderT")

_TORCHS = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "timeout", "pin_memory_device")


def build_dataloader(
    cfg: LoaderProtocol | PartCfg,
    *,
    seed: int,
    mp_start_method: str | None = None,
    key: str = "dataloader",
    batch_workers: int | None = None,
) -> DataLoader[Any]:
    """Build a data loader from its config.

    Args:
        cfg: `dataset`, `sampler` (or `batch_sampler`), `batch_size`, `num_workers`, `collate_fn`,
            `num_batch_per_epoch`, and other `DataLoader` arguments; or a data loader, which is returned.
        seed: Seed of the run.
        mp_start_method: Start method of the worker processes; None is the platform's default.
        key: Config path of the loader, for messages.
        batch_workers: Number of logical ranks, whose batches form the global batch; the world size by default.

    Raises:
        InputError: `cfg` is neither a data loader nor a dict.
    """
    if isinstance(cfg, DataLoader):
        return protect_workers(cfg)
    if not isinstance(cfg, Mapping):
        raise InputError(f"{key} must be a dict, got {cfg!r}")
    given = read_loader(cfg, key)
    batch_workers = _possible_batch_workers(given, batch_workers or get_world_size(), key)
    dataset = _build_dataset(given.dataset, key, seed)
    if given.num_batch_per_epoch is not None:
        dataset = Slice(dataset, given.num_batch_per_epoch * given.batch_size * batch_workers)
    options = {name: value for name in _TORCHS if (value := getattr(given, name)) is not None}
    if given.num_workers == 0:  # PyTorch rejects both without worker processes
        options.pop("persistent_workers", None)
        options.pop("prefetch_factor", None)
    elif mp_start_method is not None:
        options["multiprocessing_context"] = mp_start_method
    return RunLoader(
        SeededDataset(dataset, seed),
        batch_sampler=_build_batches(given, {"dataset": dataset, "seed": seed}, batch_workers, key),
        collate_fn=build_function(given.collate_fn or {"type": "pseudo_collate"}, f"{key}.collate_fn"),
        worker_init_fn=_worker_init(given.worker_init_fn, given.num_workers, seed, key),
        # Not the global generator: every `iter()` draws a seed, and a resumed run calls it once more often.
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


class ProtectedLoader(DataLoader[Any]):
    """`DataLoader` whose worker processes survive a stop signal sent to the process group.

    Its `worker_init_fn` calls `init_worker_process`.
    """

    @override
    def __iter__(self) -> Any:
        if self.num_workers == 0:
            return super().__iter__()
        context = self.multiprocessing_context
        with stop_signals_blocked(context.get_start_method() if context is not None else None):
            return super().__iter__()


class RunLoader(ProtectedLoader):
    """A loader of the config: `sampler` is the one that draws the indices, which the batch sampler holds."""

    @property
    def sampler(self) -> Any:
        """The sampler of the config."""
        return self.batch_sampler.sampler  # type: ignore[union-attr]

    @sampler.setter
    def sampler(self, placeholder: object) -> None:
        """Ignore the sampler that torch sets beside a batch sampler and never uses."""


def protect_workers(loader: _LoaderT) -> _LoaderT:
    """Make the worker processes of a ready `DataLoader` survive a stop signal sent to the process group.

    The loader stays the same object, because its owner may hold it; its class becomes a subclass of the one it had.
    Its own `worker_init_fn` is called as before. Persistent workers that are running already are started again.

    Args:
        loader: A loader; what is no `DataLoader` stays as it is.

    Returns:
        The loader.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader, ProtectedLoader) or loader.num_workers == 0:
        return loader
    kind = type(loader)
    loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
    loader._iterator = None
    loader.__class__ = ProtectedLoader if kind is DataLoader else type(kind.__name__, (ProtectedLoader, kind), {})
    return loader


class Loaders:
    """Chain several data loaders.

    Args:
        loaders: Data loaders in order.
    """

    def __init__(self, loaders: Sequence[DataLoader[Any]]) -> None:
        self.loaders = list(loaders)

    def __len__(self) -> int:
        """Return the total number of batches."""
        return sum(map(len, self.loaders))

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.loaders)

    @property
    def dataset(self) -> Any:
        """Data set of the first loader."""
        return self.loaders[0].dataset


def check_data(cfg: PartCfg) -> None:
    """Check, or create, the data of every data set in a config, and check the data that its metrics read.

    Called once, on the driver, before training, so that a metric that cannot be computed fails early.

    Args:
        cfg: The whole config.

    Raises:
        InputError: Data are missing; the message explains how to prepare them.
    """
    for mode in ("train", "val", "test"):
        given = cfg.get(f"{mode}_dataloader")
        for loader in given if isinstance(given, list | tuple) else [given]:
            if isinstance(loader, Mapping) and isinstance(loader.get("dataset"), Mapping):
                with config_context(f"{mode}_dataloader.dataset"):
                    check_dataset(loader["dataset"])
        for metric in _metrics_in(cfg.get(f"{mode}_evaluator")):
            kind = metric.get("type")
            if kind is not None:
                with config_context(f"{mode}_evaluator"):
                    made = METRICS.get(kind) if isinstance(kind, str) else kind
                    if hasattr(made, "check_data"):
                        made.check_data(metric)


def _metrics_in(given: object) -> Iterator[PartCfg]:
    """Yield the metric configs of an evaluator config, or of a list of them."""
    if isinstance(given, list | tuple):
        for item in given:
            yield from _metrics_in(item)
    elif isinstance(given, Mapping):
        if "metrics" in given:
            yield from _metrics_in(given["metrics"])
        else:
            yield given


def release(loader: LoaderProtocol) -> None:
    """Stop a loader's worker processes.

    Persistent workers otherwise live until the loader is garbage-collected. As part of a reference cycle (runner, loop,
    loader), it is collected late, and in an order in which PyTorch waits 5 s for each worker.
    """
    if isinstance(loader, Loaders):
        for one in loader.loaders:
            release(one)
    elif isinstance(loader, DataLoader):
        loader._iterator = None


class Slice(DatasetProxy):
    """Limit a data set to its first samples.

    Args:
        dataset: Data set to wrap.
        length: Maximum number of samples.
    """

    own = ("dataset", "length")

    def __init__(self, dataset: Dataset, length: int) -> None:
        super().__init__(dataset)
        self.length = min(length, len(dataset))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


def _build_dataset(cfg: Dataset | PartCfg, key: str, seed: int) -> Dataset:
    """Build a data set; what it draws meanwhile (`CBGSDataset` does) depends on the run's seed alone."""
    with config_context(f"{key}.dataset"), seeded_generators(seed):
        dataset: Dataset = _build(DATASETS, cfg, {})
        if hasattr(dataset, "full_init"):
            dataset.full_init()
    return dataset


def num_batch_workers(loader: LoaderProtocol) -> int:
    """Return the number of logical ranks of a loader; the world size if it has none."""
    return int(getattr(loader.batch_sampler, "num_logical_ranks", get_world_size()))


def _possible_batch_workers(loader: DataLoaderCfg, batch_workers: int, key: str) -> int:
    """Return `batch_workers` if the sampler supports it; else log a warning and return the world size.

    The sampler must accept `rank` and `world_size`, and the config must not set a `batch_sampler`.
    """
    here = get_world_size()
    if batch_workers == here:
        return here
    kind = loader.sampler.get("type") if isinstance(loader.sampler, Mapping) else None
    with config_context(f"{key}.sampler"):
        made = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
    placed = made is not None and {"rank", "world_size"} <= set(inspect.signature(made).parameters)
    if placed and loader.batch_sampler is None:
        return batch_workers
    get_logger().warning(
        "%s: %s cannot be set to another number of ranks, so an iteration is %d batches here and not the %d that the "
        "run was laid out for; learning rates stay as they are scheduled",
        key,
        "a batch_sampler of one's own" if placed else f"the sampler {getattr(made, '__name__', kind)}",
        here,
        batch_workers,
    )
    return here


def _build_batches(loader: DataLoaderCfg, given: PartCfg, batch_workers: int, key: str) -> Any:
    """Build this rank's batch sampler of (epoch, index), or its share of the batches of all logical ranks."""
    rank, here = get_rank(), get_world_size()
    if batch_workers == here:
        return _build_stream(loader, given, key)
    streams = [
        _build_stream(loader, {**given, "rank": slot, "world_size": batch_workers}, key)
        for slot in range(batch_workers)
    ]
    return ElasticBatchSampler(streams, rank=rank, world_size=here)


def _build_stream(loader: DataLoaderCfg, given: PartCfg, key: str) -> EpochBatchSampler:
    """Build the sampler, and the batch sampler that groups its indices."""
    with config_context(f"{key}.sampler"):
        sampler = _build(DATA_SAMPLERS, loader.sampler, given)
    if loader.batch_sampler is None:
        return EpochBatchSampler(BatchSampler(sampler, loader.batch_size, loader.drop_last), sampler)
    with config_context(f"{key}.batch_sampler"):
        batches = _build(DATA_SAMPLERS, loader.batch_sampler, {"sampler": sampler, "batch_size": loader.batch_size})
    return EpochBatchSampler(batches, sampler)


def _build(table: Registry, cfg: object, given: PartCfg) -> Any:
    return table.build(cfg, given) if isinstance(cfg, Mapping) else cfg


def build_function(cfg: Callable[..., object] | PartCfg, key: str) -> Callable[..., object]:
    """Build a function from `dict(type=name, **arguments)`; return a function unchanged.

    Raises:
        InputTypeError: `cfg` is neither.
        InputError: The dict has no `type`.
    """
    if not isinstance(cfg, Mapping):
        if not callable(cfg):
            raise InputTypeError(f"{key} must be a function or a dict with a 'type', got {cfg!r}")
        return cfg
    args = dict(cfg)
    with config_context(key):
        kind = args.pop("type", None)
        if kind is None:
            raise InputError("needs a type")
        found = FUNCTIONS.get(kind) if isinstance(kind, str) else kind
    return partial(found, **args) if args else found


def _worker_init(
    cfg: Callable[..., object] | PartCfg | None, workers: int, seed: int, key: str
) -> Callable[[int], None]:
    """Build the `worker_init_fn`: set up the process, then call the config's function.

    It sets no seed: `SeededDataset` seeds each sample.
    """
    own = None
    if cfg is not None:
        own = partial(build_function(cfg, f"{key}.worker_init_fn"), num_workers=workers, rank=get_rank(), seed=seed)
    return partial(_init_worker, own)


def _init_worker(own: Callable[..., object] | None, worker_id: int) -> None:
    init_worker_process()
    if own is not None:
        own(worker_id)
