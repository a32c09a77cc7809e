import copy
import doctest
import pickle

import numpy as np
import pytest
import torch

from raydet3d.structures import InstanceData, LiDARInstance3DBoxes, instances
from tests.kit.close import assert_close


def found() -> InstanceData:
    return InstanceData(
        metainfo={"frame": 8},
        bboxes_3d=LiDARInstance3DBoxes(torch.arange(28.0).reshape(4, 7)),
        scores_3d=torch.tensor([0.9, 0.2, 0.7, 0.1]),
        labels_3d=np.array([2, 0, 2, 1]),
        names=["Car", "Pedestrian", "Car", "Cyclist"],
    )


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(instances, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


MASK = [True, False, True, False]


@pytest.mark.parametrize(
    "index",
    [[0, 2], MASK, slice(0, 4, 2), torch.tensor([0, 2]), torch.tensor(MASK), np.array([0, 2]), np.array(MASK),
     torch.tensor([0, 2], dtype=torch.int32)],
    ids=["list", "list of bool", "slice", "long", "mask", "array", "array mask", "int32"],
)  # fmt: skip
def test_every_field_is_sliced(index) -> None:
    chosen = found()[index]
    assert len(chosen) == 2
    assert chosen.bboxes_3d.tensor[:, 0].tolist() == [0, 14]
    assert_close(chosen.scores_3d, np.float32([0.9, 0.7]))
    assert chosen.labels_3d.tolist() == [2, 2]
    assert chosen.names == ["Car", "Car"]
    assert chosen.frame == 8


def test_one_instance_by_its_number() -> None:
    assert found()[1].names == ["Pedestrian"]
    assert found()[-1].names == ["Cyclist"]
    assert found()[np.int64(2)].bboxes_3d.shape == (1, 7)
    for outside in (4, -5):
        with pytest.raises(IndexError, match="out of range for 4"):
            found()[outside]
    with pytest.raises(IndexError, match="mask of 3"):
        found()[torch.tensor([True, True, False])]


def test_none_chosen() -> None:
    for index in ([], torch.zeros(4, dtype=torch.bool), torch.zeros(0, dtype=torch.long), slice(0, 0)):
        none = found()[index]
        assert len(none) == 0
        assert none.bboxes_3d.shape == (0, 7)
        assert none.names == []


def test_an_order_with_repetition() -> None:
    chosen = found()[torch.tensor([3, 3, 0])]
    assert chosen.names == ["Cyclist", "Cyclist", "Car"]
    assert chosen.labels_3d.tolist() == [1, 1, 2]


def test_fields_have_one_length() -> None:
    some = found()
    with pytest.raises(ValueError, match="'extra' has 3 entries, but 'bboxes_3d' has 4"):
        some.extra = torch.zeros(3)
    with pytest.raises(ValueError, match="a single number"):
        some.extra = torch.tensor(1.0)
    with pytest.raises(TypeError, match="got a int"):
        some.extra = 4
    assert "extra" not in some
    alone = InstanceData(scores=torch.zeros(3))
    alone.scores = torch.zeros(5)  # the only field may change its length
    assert len(alone) == 5
    assert len(InstanceData()) == 0


def test_joining() -> None:
    both = InstanceData.cat([found(), found()[:1]])
    assert len(both) == 5
    assert both.names[-1] == "Car"
    assert both.bboxes_3d.tensor[-1, 0] == 0
    assert both.labels_3d.tolist() == [2, 0, 2, 1, 2]
    assert both.frame == 8
    with pytest.raises(ValueError, match="fields"):
        InstanceData.cat([found(), InstanceData(scores_3d=torch.zeros(1))])
    with pytest.raises(ValueError, match="at least one"):
        InstanceData.cat([])


def test_names_and_items() -> None:
    some = found()
    some["weights"] = torch.ones(4)
    assert list(some.keys()) == ["bboxes_3d", "scores_3d", "labels_3d", "names", "weights"]
    assert dict(some.items())["names"] is some.names is some["names"]
    assert some.get("nothing", 3) == 3
    assert some.pop("weights").sum() == 4
    assert "weights" not in some
    with pytest.raises(KeyError):
        some.pop("weights")
    assert some.pop("weights", None) is None
    del some.names
    with pytest.raises(AttributeError, match="no field 'names'; it has bboxes_3d, frame, labels_3d, scores_3d"):
        _ = some.names


def test_names_that_are_taken() -> None:
    some = found()
    with pytest.raises(AttributeError, match="meta information"):
        some.frame = torch.zeros(4)
    with pytest.raises(AttributeError, match="a data field already"):
        some.set_metainfo({"names": 1})
    with pytest.raises(AttributeError, match="attribute of the class"):
        some.keys = torch.zeros(4)
    with pytest.raises(AttributeError, match="'_'"):
        some._hidden = torch.zeros(4)


def test_other_kinds_of_the_same() -> None:
    some = found()
    arrays = some.numpy()
    assert isinstance(arrays.scores_3d, np.ndarray)
    assert isinstance(some.scores_3d, torch.Tensor)
    assert some.to("meta").scores_3d.device.type == "meta"
    assert some.to("meta").bboxes_3d.device.type == "meta"
    assert some.cpu().labels_3d is some.labels_3d
    copied = some.clone()
    copied.scores_3d[0] = 0
    copied.bboxes_3d.tensor[0] = -1
    assert some.scores_3d[0] > 0.8
    assert some.bboxes_3d.tensor[0, 0] == 0
    assert set(some.to_dict()) == {"frame", "bboxes_3d", "scores_3d", "labels_3d", "names"}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda some: pickle.loads(pickle.dumps(some))])
def test_copy_and_pickle(again) -> None:
    some, other = found(), again(found())
    assert list(other.keys()) == list(some.keys())
    assert_close(other.bboxes_3d.tensor, some.bboxes_3d.tensor)
    assert other.metainfo == {"frame": 8}
    assert other[1].names == ["Pedestrian"]
