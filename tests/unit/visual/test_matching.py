"""Matching of predictions with ground truth, by IoU and by distance."""

import numpy as np
import pytest

from raydet3d.errors import InputError
from raydet3d.visual.bev import BoxSet
from raydet3d.visual.matching import MatchRule, match_boxes

RULE = MatchRule()


def boxes(*places, labels=None, scores=None):
    rows = np.array([[x, y, -1.0, 4.0, 2.0, 1.5, 0.0] for x, y in places]).reshape(-1, 7)
    labels = np.zeros(len(rows), int) if labels is None else np.array(labels)
    return BoxSet(rows, labels, None if scores is None else np.array(scores))


def test_the_best_score_takes_an_object_and_a_second_one_is_false():
    found = boxes((10.2, 0), (10, 0), (30, 0), scores=[0.9, 0.5, 0.8])
    matches = match_boxes(boxes((10, 0), (50, 0)), found, RULE)
    assert matches.truth_of.tolist() == [0, -1, -1]
    assert matches.iou == pytest.approx([3.8 / 4.2, 1, 0])  # of false ones: with any object
    assert matches.best_iou == pytest.approx([1, 0])
    assert matches.count_errors(found.scores, 0.3) == (1, 2)
    assert matches.count_errors(found.scores, 0.6) == (1, 1)
    assert matches.count_errors(found.scores, 0.95) == (2, 0)


def test_a_minimum_score_does_not_change_the_matches_of_the_others():
    rng = np.random.default_rng(0)
    truth = boxes(*rng.uniform(0, 20, (12, 2)))
    found = boxes(*(truth.boxes[rng.integers(0, 12, 40), :2] + rng.normal(0, 0.5, (40, 2))), scores=rng.random(40))
    every = match_boxes(truth, found, RULE)
    kept = found.scores >= 0.5
    some = match_boxes(truth, BoxSet(found.boxes[kept], found.labels[kept], found.scores[kept]), RULE)
    assert (some.truth_of == every.truth_of[kept]).all()
    assert some.count_errors(found.scores[kept], 0.5) == every.count_errors(found.scores, 0.5)


def test_other_classes_do_not_match():
    matches = match_boxes(boxes((10, 0), labels=[1]), boxes((10, 0), labels=[0], scores=[0.9]), RULE)
    assert matches.truth_of.tolist() == [-1]
    assert matches.iou == pytest.approx([1])


def test_by_distance_the_nearest_object_counts_without_overlap():
    truth = boxes((10, 0), (11, 5))
    found = boxes((10, 1.9), (11, 3.1), (20, 0), scores=[0.5, 0.9, 0.9])
    matches = match_boxes(truth, found, MatchRule(distance=2.0))
    assert matches.truth_of.tolist() == [0, 1, -1]


@pytest.mark.parametrize(("num_found", "num_truth"), [(0, 3), (3, 0), (0, 0)])
def test_frames_without_objects_or_predictions(num_found, num_truth):
    found = boxes(*[(10 * i, 0) for i in range(num_found)], scores=[0.9] * num_found)
    matches = match_boxes(boxes(*[(10 * i, 30) for i in range(num_truth)]), found, RULE)
    assert matches.count_errors(found.scores, 0.3) == (num_truth, num_found)


def test_impossible_rules_are_refused():
    with pytest.raises(InputError, match="match_iou"):
        MatchRule(iou=1.5)
    with pytest.raises(InputError, match="match_distance"):
        MatchRule(distance=0)
