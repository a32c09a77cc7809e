"""Progress bars, under MMEngine's names."""

from __future__ import annotations

import io

import pytest

from raydet3d.compat import mmengine_progress


def _square(value: int) -> int:
    return value * value


def test_results_come_in_order() -> None:
    stream = io.StringIO()
    assert list(mmengine_progress.track_iter_progress([1, 2, 3], file=stream)) == [1, 2, 3]
    assert mmengine_progress.track_progress(_square, (iter([2, 3]), 2), file=stream) == [4, 9]  # type: ignore[arg-type]
    assert mmengine_progress.track_parallel_progress(_square, [1, 2, 3], 2, file=stream) == [1, 4, 9]
    assert "3/3" in stream.getvalue()


def test_tasks_without_a_number_are_refused() -> None:
    with pytest.raises(TypeError):
        list(mmengine_progress.track_iter_progress(iter([1])))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        mmengine_progress.track_parallel_progress(_square, [1], 1, initargs=[1])  # type: ignore[arg-type]
