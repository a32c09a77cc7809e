import pickle

import numpy as np
import pytest
import torch

from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from tests.kit.close import assert_close


def frame() -> Det3DDataSample:
    sample = Det3DDataSample(metainfo={"sample_idx": 134, "lidar_path": "a.bin"})
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.ones(2, 7)), labels_3d=torch.tensor([0, 1])
    )
    sample.eval_ann_info = {"gt_labels_3d": np.array([0, 1])}
    return sample


def test_fields_and_meta_are_attributes_and_items() -> None:
    sample = frame()
    assert sample.sample_idx == sample["sample_idx"] == 134
    assert "lidar_path" in sample
    assert "gt_instances_3d" in sample
    assert "pred_instances_3d" not in sample
    assert sample.get("pred_instances_3d") is None
    assert sample.metainfo == {"sample_idx": 134, "lidar_path": "a.bin"}
    assert list(sample.keys()) == ["gt_instances_3d", "eval_ann_info"]
    with pytest.raises(AttributeError, match="no field 'pred_instances_3d'"):
        _ = sample.pred_instances_3d
    with pytest.raises(KeyError, match="pred_instances_3d"):
        _ = sample["pred_instances_3d"]
    sample.set_metainfo({"num_pts_feats": 4, "sample_idx": 135})
    assert (sample.num_pts_feats, sample.sample_idx) == (4, 135)


def test_to_dict_is_flat_in_meta_and_nested_in_data() -> None:
    plain = frame().to_dict()
    assert plain["sample_idx"] == 134
    assert type(plain["gt_instances_3d"]) is dict
    assert set(plain["gt_instances_3d"]) == {"bboxes_3d", "labels_3d"}
    assert set(plain) == {"sample_idx", "lidar_path", "gt_instances_3d", "eval_ann_info"}


def test_moves_what_is_nested_and_leaves_the_original() -> None:
    sample = frame()
    moved = sample.to("meta")
    assert moved.gt_instances_3d.labels_3d.device.type == "meta"
    assert moved.gt_instances_3d.bboxes_3d.device.type == "meta"
    assert moved.sample_idx == 134
    assert sample.gt_instances_3d.labels_3d.device.type == "cpu"
    assert sample.cpu().gt_instances_3d.labels_3d.tolist() == [0, 1]


def test_pickle() -> None:
    other = pickle.loads(pickle.dumps(frame()))
    assert other.metainfo == frame().metainfo
    assert_close(other.gt_instances_3d.bboxes_3d.tensor, np.ones((2, 7)))


def test_update_and_new() -> None:
    sample, other = frame(), Det3DDataSample(metainfo={"extra": 1})
    other.update(sample)
    assert other.extra == 1
    assert other.sample_idx == 134
    assert other.gt_instances_3d is sample.gt_instances_3d
    empty = sample.new(data={})
    assert list(empty.keys()) == []
    assert empty.sample_idx == 134


def test_changing_the_given_dict_changes_nothing() -> None:
    meta = {"a": 1}
    sample = Det3DDataSample(metainfo=meta)
    meta["a"] = 2
    sample.metainfo["a"] = 3
    assert sample.a == 1


def test_a_derived_class_may_have_properties() -> None:
    class Mine(Det3DDataSample):
        @property
        def proposals(self) -> int:
            return self.get("found", 0)

        @proposals.setter
        def proposals(self, value: int) -> None:
            self.found = value

    sample = Mine()
    sample.proposals = 4
    assert sample.found == sample.proposals == 4


def test_repr_names_what_there_is() -> None:
    text = repr(frame())
    assert "meta sample_idx: 134" in text
    assert "labels_3d: Tensor(2,)" in text
