"""The model zoo page has every shipped config, with the figures of the store and the parameters of the models."""

from __future__ import annotations

import pytest

from raydet3d.config import Config
from tests.kit.docs import DOCS
from tests.kit.model_zoo import (
    CONFIGS,
    LANGUAGES,
    fill_page,
    read_store,
    run_configs,
    tables,
    training_hours,
    training_key,
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_is_what_the_script_writes(language: str) -> None:
    text = (DOCS / language / "model_zoo.md").read_text(encoding="utf-8")
    assert fill_page(text, tables(read_store(), language)) == text, "run `python -m tests.kit.model_zoo`"
    missing = [name for name in run_configs() if f"`{name}`" not in text]
    assert not missing


def test_every_training_is_measured_and_every_published_config_ships() -> None:
    store = read_store()
    unmeasured = [
        name for name in run_configs() if training_key(Config.fromfile(CONFIGS / name)) not in store["measured"]
    ]
    assert not unmeasured
    assert set(store["published"]) == set(run_configs())


def test_training_time_of_the_references_is_the_published_one() -> None:
    """107 samples/s for 160 passes over 3,712 frames are 1.54 hours."""
    cfg = Config.fromfile(CONFIGS / "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py")
    same = {"multiply_adds": 5.0}
    assert training_hours(cfg, same, {"dense": same, "sparse": same}) == pytest.approx(160 * 3712 / 107 / 3600)
