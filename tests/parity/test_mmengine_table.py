"""The table of MMEngine's test cases that do not pass: each has a kind, and deliberate ones quote the documentation."""

from __future__ import annotations

from tests.parity.mmengine_suite import TABLE, read_table, undocumented


def test_each_case_has_a_reason_and_deliberate_ones_are_documented() -> None:
    table = read_table()
    assert len(table) == len(TABLE.read_text().splitlines())
    assert all(reason for _, reason in table.values())
    assert undocumented(table) == []


def test_rows_are_sorted() -> None:
    names = [line.partition("\t")[0] for line in TABLE.read_text().splitlines()]
    assert names == sorted(names)
