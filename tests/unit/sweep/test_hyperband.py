"""HyperBand as a sweep's scheduler."""

from pathlib import Path

from tests.unit.sweep.test_trial_schedulers import make


def test_hyperband_takes_its_longest_time_from_the_sweep(tmp_path: Path) -> None:
    scheduler = make(tmp_path, {"type": "hyperband", "reduction_factor": 2, "max_t": 8}, [])
    assert type(scheduler).__name__ == "HyperBandScheduler"
    assert scheduler._max_t_attr == 8
    assert make(tmp_path, {"type": "hyperband"}, [])._max_t_attr == 9
