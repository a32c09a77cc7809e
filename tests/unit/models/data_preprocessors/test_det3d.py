"""Preprocessing: voxels of several frames in one batch, limits, devices."""

import numpy as np
import pytest
import torch

from raydet3d.data import pseudo_collate
from raydet3d.errors import InputError
from raydet3d.registry import MODELS, TRANSFORMS

LAYER = {
    "max_num_points": 2,
    "point_cloud_range": [0, 0, -1, 4, 4, 1],
    "voxel_size": [1, 1, 2],
    "max_voxels": (2, 3),
}
PREPROCESSOR = {"type": "Det3DDataPreprocessor", "voxel": True, "voxel_layer": LAYER}


def batch(*clouds):
    return {"inputs": {"points": [torch.tensor(c).reshape(-1, 4) for c in clouds]}, "data_samples": None}


ONE = [
    [0.5, 0.5, 0, 1.0],
    [2.5, 3.5, 0, 2.0],
    [0.6, 0.5, 0, 3.0],
    [3.5, 0.5, 0, 4.0],
    [0.7, 0.5, 0, 5.0],
    [9.0, 0, 0, 6],
]


def test_voxels_by_hand():
    """Two voxels in training, three in testing; the third point of the first voxel is one too many."""
    ready = MODELS.build(PREPROCESSOR)(batch(ONE, [], ONE[1:2]), training=True)
    voxels = ready["inputs"]["voxels"]
    assert voxels["coors"].tolist() == [[0, 0, 0, 0], [0, 0, 3, 2], [2, 0, 3, 2]]
    assert voxels["num_points"].tolist() == [2, 1, 1]
    assert voxels["voxels"][:, :, 3].tolist() == [[1, 3], [2, 0], [2, 0]]
    assert len(ready["inputs"]["points"]) == 3
    test = MODELS.build(PREPROCESSOR)(batch(ONE), training=False)["inputs"]["voxels"]
    assert test["coors"].tolist() == [[0, 0, 0, 0], [0, 0, 3, 2], [0, 0, 0, 3]]


def test_only_empty_clouds():
    voxels = MODELS.build(PREPROCESSOR)(batch([], []), training=True)["inputs"]["voxels"]
    assert voxels["voxels"].shape == (0, 2, 4)
    assert voxels["coors"].shape == (0, 4)


def test_without_voxels_only_moves():
    ready = MODELS.build({"type": "Det3DDataPreprocessor"})(batch(ONE))
    assert list(ready["inputs"]) == ["points"]


def test_knows_its_device():
    module = torch.nn.Sequential(MODELS.build(PREPROCESSOR))
    module.to("meta")
    assert module[0].device.type == "meta"
    assert not module.state_dict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"voxel_layer": None}, "needs a voxel_layer"),
        ({"voxel_type": "cylindrical"}, "'hard'"),
        ({"voxel_layer": {**LAYER, "max_voxel": 1}}, "did you mean 'max_voxels'"),
        ({"voxel_layer": {**LAYER, "voxel_size": [9, 9, 9]}}, "no voxel"),
        ({"voxel_layer": {**LAYER, "max_voxels": (2, -1)}}, "max_voxels must be at least 1 .* got -1"),
        ({"voxel_layer": {**LAYER, "max_num_points": -1}}, "max_num_points must be at least 1 .* got -1"),
    ],
)
def test_refuses(change, says):
    with pytest.raises(InputError, match=says):
        MODELS.build({**PREPROCESSOR, **change})


@pytest.mark.parametrize("voxel_type", ["hard", "dynamic"])
@pytest.mark.parametrize("training", [True, False])
def test_voxels_of_loader_workers_are_those_of_the_preprocessor(voxel_type, training):
    step = TRANSFORMS.build({"type": "VoxelizePoints", **LAYER, "voxel_type": voxel_type, "training": training})
    pack = TRANSFORMS.build({"type": "Pack3DDetInputs", "keys": ["points", "voxels"]})
    clouds = [np.array(rows, np.float32).reshape(-1, 4) for rows in (ONE, [], ONE[1:2])]
    made = pseudo_collate([pack(step({"points": cloud})) for cloud in clouds])
    preprocessor = MODELS.build({**PREPROCESSOR, "voxel_type": voxel_type})
    expected = preprocessor(batch(ONE, [], ONE[1:2]), training=training)["inputs"]["voxels"]
    found = preprocessor(made, training=training)["inputs"]["voxels"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert value.dtype == found[key].dtype
        assert torch.equal(value, found[key]), key


def test_voxels_made_with_other_settings_are_refused():
    step = TRANSFORMS.build({"type": "VoxelizePoints", **LAYER, "max_num_points": 3})
    pack = TRANSFORMS.build({"type": "Pack3DDetInputs", "keys": ["points", "voxels"]})
    made = pseudo_collate([pack(step({"points": np.array(ONE, np.float32)}))])
    with pytest.raises(InputError, match=r"max_num_points=2.*\(2, 3, 4\).*same settings"):
        MODELS.build(PREPROCESSOR)(made, training=True)
    with pytest.raises(InputError, match="dynamic"):
        MODELS.build({**PREPROCESSOR, "voxel_type": "dynamic"})(made, training=True)
    with pytest.raises(InputError, match="max_voxels must be at least 1"):
        TRANSFORMS.build({"type": "VoxelizePoints", **LAYER, "max_voxels": 0})
