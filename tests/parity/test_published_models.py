"""Every config that is shipped is whole; of a config that is not, every missing part is named before it is built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity.models import inspect_config, survey

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_every_shipped_config_is_whole() -> None:
    found, unread = survey(CONFIGS)
    assert unread == []
    assert len(found) >= 4
    assert {name: finding for name, finding in found.items() if not finding.is_whole} == {}


def test_missing_parts_are_named_by_section_and_nothing_is_built(tmp_path: Path) -> None:
    path = tmp_path / "c.py"
    path.write_text(
        "model = dict(type='VoteNet', bbox_head=dict(type='VoteHead', norm_cfg=dict(type='BN1d')))\n"
        "train_dataloader = dict(dataset=dict(type='KittiDataset', pipeline=[dict(type='PointSample')]))\n"
        "custom_hooks = [dict(type='EMAHook'), dict(type='NoSuchHook')]\n"
    )
    finding = inspect_config(path)
    assert finding is not None
    assert finding.missing == {
        "model": ["VoteHead", "VoteNet"],
        "train_dataloader": ["PointSample"],
        "custom_hooks": ["NoSuchHook"],
    }


@pytest.mark.skipif("RAYDET3D_MMDET3D_CONFIGS" not in os.environ, reason="RAYDET3D_MMDET3D_CONFIGS names no folder")
def test_published_configs_that_are_whole() -> None:
    found, _ = survey(Path(os.environ["RAYDET3D_MMDET3D_CONFIGS"]))
    assert sum(finding.is_whole for finding in found.values()) >= 40
