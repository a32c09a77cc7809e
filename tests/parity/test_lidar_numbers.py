"""Reduced SECOND and CenterPoint models against MMDetection3D's own numbers (`lidar_numbers.py`).

Head maps within 1e-4, losses within 1e-5 (relative), gradients within 1e-3, targets and boxes within 1e-4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raydet3d.registry import MODELS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from tests.kit import lidar
from tests.parity.lidar_numbers import CASES, config_of, ground_truth

with np.load(Path(__file__).with_name("lidar_numbers.npz")) as _file:
    STORED = {name: _file[name] for name in _file.files}
POINTS = [torch.from_numpy(STORED[f"points.{i}"]) for i in range(2)]


def stored(prefix):
    return {name.removeprefix(prefix): value for name, value in STORED.items() if name.startswith(prefix)}


def model_of(case):
    model = MODELS.build(config_of(case))
    lidar.fill(model)
    return model


def batch_of(case):
    samples = []
    for i in range(2):
        rows = ground_truth(case, torch.from_numpy(STORED[f"boxes.{i}"]))
        sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(rows, box_dim=rows.shape[1]),
            labels_3d=torch.from_numpy(STORED[f"labels.{i}"]),
        )
        samples.append(sample)
    return {"inputs": {"points": list(POINTS)}, "data_samples": samples}


def near(ours, theirs, tolerance):
    scale = max(1.0, float(np.abs(theirs).max())) if theirs.size else 1.0
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) <= tolerance * scale


def voxels_of(model, batch):
    """Voxels with the limit of training, whatever the mode."""
    return model.data_preprocessor(batch, True)


@pytest.mark.parametrize("case", CASES[:-1])
def test_head_maps(case):
    model = model_of(case).train()
    maps = dict(lidar.flatten(model(**voxels_of(model, batch_of(case)), mode="tensor")))
    theirs = stored(f"{case}.map.")
    assert len(maps) == len(theirs)
    for name, value in maps.items():
        near(value.detach().numpy(), theirs[name.removeprefix("map.")], 1e-4)


@pytest.mark.parametrize("case", CASES[:-1])
def test_losses_and_gradients(case):
    model = model_of(case).train()
    losses = model(**voxels_of(model, batch_of(case)), mode="loss")
    theirs = stored(f"{case}.loss.")
    assert losses.keys() == theirs.keys()
    for name, value in losses.items():
        ours = (sum(value) if isinstance(value, list) else value).item()
        assert ours == pytest.approx(float(theirs[name]), rel=1e-5, abs=1e-7), name
    total, _ = model.parse_losses(losses)
    total.backward()
    gradients = stored(f"{case}.grad.")
    for name, parameter in model.named_parameters():
        (norm, along), (their_norm, their_along) = lidar.fingerprint(name, parameter.grad), gradients[name]
        # Biases before a normalization have no gradient but rounding.
        assert norm == pytest.approx(their_norm, rel=1e-3, abs=1e-5), name
        assert along == pytest.approx(their_along, abs=1e-3 * their_norm + 1e-5), name


def test_anchors_and_targets_of_second():
    model = model_of("second")
    head, batch = model.bbox_head, batch_of("second")
    truth = [sample.gt_instances_3d for sample in batch["data_samples"]]
    (anchors,) = head.prior_generator.grid_anchors([(16, 16)], device="cpu")
    near(anchors.numpy(), STORED["second.anchors"], 1e-6)
    targets = head.anchor_target_3d(
        [[anchors] for _ in truth], truth, [{}, {}], num_classes=3, label_channels=18, sampling=False
    )
    theirs = stored("second.targets.")
    assert np.array_equal(targets[0][0].numpy(), theirs["labels"])
    assert np.array_equal(targets[1][0].numpy(), theirs["weights"])
    near(targets[2][0].numpy(), theirs["boxes"], 1e-5)


@pytest.mark.parametrize("case", CASES[1:-1])
def test_targets_of_centerpoint(case):
    head = model_of(case).pts_bbox_head
    truth = [sample.gt_instances_3d for sample in batch_of(case)["data_samples"]]
    ours = dict(lidar.flatten(head.get_targets(truth), "target"))
    theirs = stored(f"{case}.targets.")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        near(value.numpy(), theirs[name], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_boxes(case):
    model = model_of(case).eval()
    batch = batch_of(case)
    with torch.no_grad():
        found = model(**voxels_of(model, batch), mode="predict")
    for i, sample in enumerate(found):
        ours, theirs = sample.pred_instances_3d, stored(f"{case}.found.{i}.")
        assert np.array_equal(ours.labels_3d.numpy(), theirs["labels"])
        near(ours.scores_3d.numpy(), theirs["scores"], 1e-4)
        near(ours.bboxes_3d.tensor.numpy(), theirs["boxes"], 1e-4)
