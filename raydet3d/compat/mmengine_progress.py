"""Progress bars that scripts import from `mmengine.utils`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO, TypeAlias, TypeVar, cast

from raydet3d.progress_bar import ProgressBar

T = TypeVar("T")
R = TypeVar("R")
Tasks: TypeAlias = Sequence[T] | tuple[Iterable[T], int]
"""Tasks, or an iterable of them together with their number."""


def track_iter_progress(tasks: Tasks[T], bar_width: int = 50, file: TextIO | None = None) -> Iterator[T]:
    """Yield tasks and show how many are done.

    Args:
        tasks: The tasks, or (iterable, number).
        bar_width: Accepted as an argument of MMEngine's.
        file: Where to write; standard error by default.
    """
    yield from _track(*_count(tasks), file)


def track_progress(
    func: Callable[..., R], tasks: Tasks[T], bar_width: int = 50, file: TextIO | None = None, **kwargs: object
) -> list[R]:
    """Call a function for each task, show how many are done, and return the results.

    Args:
        func: Called with the task and `kwargs`.
        tasks: The tasks, or (iterable, number).
        bar_width: Accepted as an argument of MMEngine's.
        file: Where to write; standard error by default.
        **kwargs: For `func`.
    """
    return [func(task, **kwargs) for task in track_iter_progress(tasks, bar_width, file)]


def track_parallel_progress(
    func: Callable[[T], R],
    tasks: Tasks[T],
    nproc: int,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[object, ...] | None = None,
    bar_width: int = 50,
    chunksize: int = 1,
    skip_first: bool = False,
    keep_order: bool = True,
    file: TextIO | None = None,
) -> list[R]:
    """Call a function for each task in several processes, show how many are done, and return the results.

    Args:
        func: Called with the task.
        tasks: The tasks, or (iterable, number).
        nproc: Number of processes.
        initializer: Called in each process at its start.
        initargs: Arguments of `initializer`.
        bar_width: Accepted as an argument of MMEngine's, as is `skip_first`.
        chunksize: Tasks that a process takes at a time.
        skip_first: See `bar_width`.
        keep_order: Return the results in the order of the tasks; else as they come.
        file: Where to write; standard error by default.

    Raises:
        TypeError: `initargs` is no tuple.
    """
    if initargs is not None and not isinstance(initargs, tuple):
        raise TypeError(f"initargs must be a tuple, got {initargs!r}")
    items, count = _count(tasks)
    with multiprocessing.Pool(nproc, initializer, initargs or ()) as pool:
        run = pool.imap if keep_order else pool.imap_unordered
        return list(_track(run(func, items, chunksize), count, file))


def _track(items: Iterable[T], count: int, file: TextIO | None) -> Iterator[T]:
    with ProgressBar(count, "tasks", file) as bar:
        for item in items:
            yield item
            bar.step()


def _count(tasks: Tasks[T]) -> tuple[Iterable[T], int]:
    """Return tasks and their number.

    Raises:
        TypeError: `tasks` is neither a sequence nor (iterable, number).
    """
    if isinstance(tasks, tuple):
        if len(tasks) == 2 and isinstance(tasks[0], Iterable) and isinstance(tasks[1], int):
            return cast("tuple[Iterable[T], int]", tasks)
        raise AssertionError(f"tasks in a tuple must be (iterable, number), got {tasks!r}")
    if isinstance(tasks, Sequence):
        return cast("Sequence[T]", tasks), len(tasks)
    raise TypeError(f"tasks must be a sequence, or a tuple (iterable, number), got {tasks!r}")
