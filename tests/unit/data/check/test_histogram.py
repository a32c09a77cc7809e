"""Histograms of a data check: quantiles, merging, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from raydet3d.data.check.histogram import Histogram


def test_quantiles_agree_with_numpys_to_a_bin() -> None:
    values = np.random.default_rng(0).normal(3, 20, 5000)
    histogram = Histogram(0.5)
    histogram.add(values)
    for share in (0.0, 0.005, 0.16, 0.5, 0.84, 0.995, 1.0):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.5)
    assert histogram.mean == pytest.approx(values.mean())
    assert (histogram.low, histogram.high, len(histogram)) == (values.min(), values.max(), 5000)


def test_quantiles_of_whole_numbers_are_exact() -> None:
    histogram = Histogram()
    histogram.add([5, 1, 1, 9])
    assert [histogram.quantile(share) for share in (0.25, 0.5, 0.75, 1.0)] == [1, 1, 5, 9]


def test_merging_gives_the_histogram_of_all_values() -> None:
    values = np.random.default_rng(1).uniform(-9, 9, 300)
    whole, parts = Histogram(0.1), Histogram(0.1)
    whole.add(values)
    for part in np.split(values, 3):
        one = Histogram(0.1)
        one.add(part)
        parts.merge(Histogram.from_json(json.loads(json.dumps(one.to_json()))))
    assert parts.bins == whole.bins
    assert (parts.low, parts.high) == (whole.low, whole.high)
    assert parts.sum == pytest.approx(whole.sum)


def test_values_beyond_the_limit_are_counted_at_it() -> None:
    histogram = Histogram()
    histogram.add([1, 1e30, -1e30], limit=100)
    assert histogram.bins == {1: 1, 100: 1, -100: 1}
    assert histogram.high == 1e30


def test_an_empty_histogram_has_no_quantile_and_survives_json() -> None:
    histogram = Histogram.from_json(json.loads(json.dumps(Histogram(0.5).to_json(), allow_nan=False)))
    assert len(histogram) == 0
    assert np.isnan(histogram.quantile(0.5))
    assert np.isnan(histogram.mean)
    assert histogram.bars() == []


def test_bars_cover_all_values() -> None:
    histogram = Histogram(0.5)
    histogram.add(np.linspace(-10, 10, 401))
    bars = histogram.bars(10)
    assert sum(count for *_, count in bars) == 401
    assert bars[0][0] <= -10
    assert bars[-1][1] > 10
    assert len(bars) <= 10
