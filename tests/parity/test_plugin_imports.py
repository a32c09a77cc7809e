"""Names that public code bases import: they resolve, or the table says why not."""

from __future__ import annotations

from tests.parity.plugin_imports import read_table, resolves


def test_each_import_resolves_or_has_a_reason() -> None:
    rows = read_table()
    wrong = [name for _, name, reason in rows if resolves(name) == bool(reason)]
    assert wrong == []
    assert all(reason != "?" for _, _, reason in rows)
    resolved = sum(uses for uses, _, reason in rows if not reason)
    assert resolved >= 340
    assert sum(uses for uses, _, _ in rows) == 421
