"""Stop rules, by hand-worked curves."""

import pytest

from raydet3d.sweep.stop_rules import StopRule

UP = [{"at": i + 1, "score": s, "toy/loss": 9 - s} for i, s in enumerate([1.0, 2.0, 2.1, 2.05, 2.0])]


@pytest.mark.parametrize(
    ("rule", "count", "stops"),
    [
        (StopRule(above=1.5), 1, False),
        (StopRule(above=1.5), 2, True),
        (StopRule(below=1.5), 1, True),
        (StopRule(below=1.5, after=2), 1, False),
        (StopRule(plateau=2), 4, False),
        (StopRule(plateau=2), 5, True),
        (StopRule(plateau=2, min_delta=0.2), 4, True),
        (StopRule(metric="loss", below=7.2), 2, True),
        (StopRule(metric="unknown", below=7.2), 2, False),
    ],
)
def test_each_rule_stops_at_its_limit(rule: StopRule, count: int, stops: bool) -> None:
    reason = rule.reason(UP[:count], metric="toy/score", mode="max")
    assert (reason is not None) is stops
    assert reason is None or reason.startswith("stop rule: ")


def test_a_plateau_of_the_sweeps_metric_follows_its_mode() -> None:
    down = [{"at": i, "score": -float(i), "toy/loss": -float(i), "toy/depth": -float(i)} for i in range(6)]
    for name in (None, "loss", "toy/loss"):  # the sweep's metric, written out or not
        rule = StopRule(metric=name, plateau=2)
        assert rule.reason(down, metric="toy/loss", mode="min") is None
        assert rule.reason(down, metric="toy/loss", mode="max") is not None
    assert StopRule(metric="depth", plateau=2).reason(down, metric="toy/loss", mode="min") is not None
