"""The end of a command: which rank of torchrun's says a sentence."""

from __future__ import annotations

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


def test_before_the_ranks_have_met_the_first_of_each_machine_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "raydet3d: error: a.pkl does not exist\n"
    for rank, local_rank, said in (("0", "0", line), ("1", "1", ""), ("8", "0", line)):
        end(monkeypatch, rank, local_rank)
        assert capsys.readouterr().err == said, rank


def test_what_rank_0_has_told_it_says_alone(
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


def test_ranks_that_have_met() -> None:
    assert run_ranks(ends_of_a_process, 2, True) == [(2, "raydet3d: error: no data\n"), (2, "")]
    # What nobody else has found must not be lost.
    assert run_ranks(ends_of_a_process, 2, False) == [(0, ""), (2, "raydet3d: error: frame 7 is damaged\n")]
