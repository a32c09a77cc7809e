"""Order of a sweep's trials: by settings' means, failed ones last, and kept while trials report and end."""

import random

from raydet3d.sweep.ranking import Ranking
from raydet3d.sweep.trial_store import DONE, FAILED, RUNNING, WAITING, State, Trial


def trial(name: str, *scores: float, state: State = DONE, number: int = 0) -> Trial:
    reports = [{"at": i + 1, "score": score} for i, score in enumerate(scores)]
    return Trial(id=name, number=number, setting={}, seed=1, digest=name, state=state, length=4, reports=reports)


def ids(ranking: Ranking) -> list[str]:
    return [one.id for one in ranking.trials()]


def test_failed_trials_come_last_and_means_count_over_seeds() -> None:
    trials = [
        trial("000-0", 9.0, number=0),
        trial("000-1", 1.0, number=0),
        trial("001-0", 6.0, number=1),
        trial("001-1", 7.0, number=1),
        trial("002-0", 99.0, number=2, state=FAILED),
        trial("003-0", number=3, state=RUNNING),
    ]
    assert ids(Ranking(trials, "max")) == ["001-1", "001-0", "000-0", "000-1", "003-0", "002-0"]
    assert ids(Ranking(trials, "min"))[0] == "000-1"


def test_a_setting_with_a_failed_seed_ranks_behind_whole_ones() -> None:
    trials = [trial("000-0", 99.0, number=0), trial("000-1", state=FAILED, number=0)]
    trials += [trial("001-0", 70.0, number=1), trial("001-1", 72.0, number=1)]
    assert ids(Ranking(trials, "max")) == ["001-1", "001-0", "000-0", "000-1"]


def test_trials_that_report_and_end_are_sorted_as_all_would_be_anew() -> None:
    rng = random.Random(1)
    trials = [trial(f"{i // 2:03d}-{i % 2}", state=WAITING, number=i // 2) for i in range(20)]
    ranking = Ranking(trials[:10], "min")
    for one in trials[10:]:
        ranking.add(one)
    for _ in range(300):
        one = rng.choice(trials)
        score = rng.choice([1.0, 2.0, 3.0, float("nan")])
        one.reports = [*one.reports[-2:], {"at": len(one.reports) + 1, "score": score}]
        one.state = rng.choice([RUNNING, RUNNING, DONE, FAILED])
        ranking.update(one)
        anew = Ranking(trials, "min")
        assert ids(ranking) == ids(anew)
        assert (
            ranking.ranks()
            == anew.ranks()
            == [{"id": one.id, "state": one.state, "best": one.best("min")} for one in anew.trials()]
        )
