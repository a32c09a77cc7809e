"""Exit codes of commands, and which torchrun rank prints an error."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from raydet3d import dist
from raydet3d.cli import run_command
from raydet3d.errors import InputError
from tests.kit.spawn import run_ranks


def end(monkeypatch: pytest.MonkeyPatch, rank: str, local_rank: str, *, told: bool = False) -> None:
    def main() -> int:
        error = InputError("a.pkl does\nnot exist")
        if told:
            error.reported_by_rank0 = True  # type: ignore[attr-defined]
        raise error

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2


def test_before_the_process_group_exists_local_rank_0_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "raydet3d: error: a.pkl does not exist\n"
    for rank, local_rank, said in (("0", "0", line), ("1", "1", ""), ("8", "0", line)):
        end(monkeypatch, rank, local_rank)
        assert capsys.readouterr().err == said, rank


def test_an_error_that_rank_0_raised_is_printed_by_rank_0_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end(monkeypatch, "8", "0", told=True)
    assert capsys.readouterr().err == ""


def ends_of_a_process(everywhere: bool) -> tuple[object, str]:
    """Exit code and words of a rank, where rank 0 (or rank 1 by itself) has found something."""
    import contextlib
    import io
    import os

    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(dist.get_rank())

    def refuse() -> None:
        raise InputError("no data")

    def main() -> int:
        if everywhere:
            dist.on_rank0(refuse)
        elif dist.get_rank() == 1:
            raise InputError("frame 7 is damaged")
        return 0

    with contextlib.redirect_stderr(io.StringIO()) as words:
        try:
            run_command(main)
        except SystemExit as ended:
            code = ended.code
    dist.barrier()
    return code, words.getvalue()


def test_an_error_of_one_rank_is_printed_by_that_rank() -> None:
    assert run_ranks(ends_of_a_process, 2, True) == [(2, "raydet3d: error: no data\n"), (2, "")]
    # What nobody else has found must not be lost.
    assert run_ranks(ends_of_a_process, 2, False) == [(0, ""), (2, "raydet3d: error: frame 7 is damaged\n")]


def exit_code(main: Callable[[], int]) -> object:
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    return ended.value.code


def test_a_signal_stops_a_command_though_its_code_catches_exceptions(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except Exception:  # noqa: BLE001 - as a user's module may do
            return 0
        return 0

    assert exit_code(main) == 75
    assert capsys.readouterr().err.startswith("raydet3d: stopped (SIGTERM)")


def test_error_after_a_stop_request_exits_with_75(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(1)
        except BaseException:  # noqa: BLE001
            raise ValueError("a peer has left") from None
        return 0

    assert exit_code(main) == 75
    assert "Traceback" not in capsys.readouterr().err


def test_interrupt_exits_with_130() -> None:
    def main() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_code(main) == 130
    finally:
        signal.signal(signal.SIGINT, before)
