"""The model zoo page has every shipped config, with the figures of the store and the parameters of the models."""

from __future__ import annotations

import pytest

from raydet3d.config import Config
from raydet3d.runtime.model_profile import build_detector, profile_model
from tests.kit.docs import DOCS
from tests.kit.model_zoo import (
    CONFIGS,
    LANGUAGES,
    count_multiply_adds,
    fill_page,
    generated_frames,
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


def test_every_config_is_counted_and_every_published_config_ships() -> None:
    store = read_store()
    keys = {name: training_key(Config.fromfile(CONFIGS / name)) for name in run_configs()}
    assert not [name for name, key in keys.items() if key not in store["multiply_adds"]]
    assert set(store["measured"]) <= set(keys.values())
    assert set(store["published"]) <= set(keys)
    assert not [name for name in keys if name not in store["published"] and not name.startswith("custom/")]


def test_dense_parts_are_counted_as_if_they_were_computed() -> None:
    cfg = Config.fromfile(CONFIGS / "demo/second_town.py")
    model = build_detector(cfg)
    parts = profile_model(model, generated_frames(cfg, model).batch(1))
    assert count_multiply_adds(cfg) == sum(part.multiply_adds for part in parts)


def test_training_time_of_the_references_is_the_published_one() -> None:
    """107 samples/s for 160 passes over 3,712 frames are 1.54 hours."""
    cfg = Config.fromfile(CONFIGS / "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py")
    assert training_hours(cfg, 5.0, {"dense": 5.0, "sparse": 1.0}) == pytest.approx(160 * 3712 / 107 / 3600)
