"""nuScenes' metrics against the devkit's own evaluation (numbers stored by `nuscenes_devkit.py`)."""

import gzip
import json
from typing import Any

import numpy as np
import pytest

from raydet3d.metrics.nuscenes_ap import CLASSES, Objects, evaluate
from tests.kit.close import assert_close
from tests.parity import nuscenes_devkit as devkit

STORED = json.loads(gzip.decompress(devkit.FILE.read_bytes()))
CASES = devkit.make_cases()


def as_objects(columns: dict[str, Any]) -> Objects:
    return Objects(**columns)


@pytest.mark.parametrize("name", STORED)
def test_scores_equal_the_devkits(name: str) -> None:
    assert devkit.CLASSES == CLASSES
    scores, expected = evaluate(*map(as_objects, CASES[name])), STORED[name]
    for label in CLASSES:
        assert_close(list(scores.ap[label].values()), list(expected["ap"][label].values()), atol=1e-9, name=label)
        keys = list(expected["errors"][label])
        found = [scores.errors[label][key] for key in keys]
        assert_close(found, [expected["errors"][label][key] for key in keys], atol=1e-9, name=label)
    assert_close(scores.mean_ap, expected["mean_ap"], atol=1e-9)
    assert_close(scores.nds, expected["nds"], atol=1e-9)
    keys = list(expected["mean_errors"])
    assert_close([scores.mean_errors[key] for key in keys], list(expected["mean_errors"].values()), atol=1e-9)


def test_perfect_predictions_are_perfect() -> None:
    scores = evaluate(*map(as_objects, CASES["perfect"]))
    assert_close(scores.mean_ap, 1.0, atol=1e-12)
    assert_close(scores.nds, 1.0, atol=1e-12)
    assert np.nanmax(list(scores.mean_errors.values())) < 1e-12
