"""Maps, losses, gradients, targets and boxes of reduced SECOND and CenterPoint models, by MMDetection3D itself.

Run in an environment with MMDetection3D 1.4.0 (`../shared/reference`), from the root of the checkout:
`PYTHONPATH=.:../shared/reference python tests/parity/lidar_numbers.py`; it writes `lidar_numbers.npz`.

The compiled operators that these models need are given here: pairs of a sparse convolution by a loop over a dict and
its products one kernel position at a time; rotated NMS and deformable convolution are raydet3d's, which unit tests
compare with a polygon library and with loops.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.kit import lidar

OUT = Path(__file__).with_name("lidar_numbers.npz")
CASES = ("second", "pillars", "voxels", "deformable", "circle")


def sparse_pairs(
    indices, batch_size, out_shape, shape, kernel, stride, padding, dilation, out_padding, subm, transpose
):
    """mmcv's `get_indice_pairs_3d_forward`."""
    assert not transpose
    inputs = [tuple(row) for row in indices.tolist()]
    positions = list(itertools.product(*(range(k) for k in kernel)))
    found: dict[tuple[int, ...], int] = {cell: i for i, cell in enumerate(inputs)} if subm else {}
    pairs: list[list[tuple[int, int]]] = [[] for _ in positions]
    for i, (batch, *place) in enumerate(inputs):
        for k, offset in enumerate(positions):
            if subm:
                out = [p - (o - size // 2) * d for p, o, size, d in zip(place, offset, kernel, dilation, strict=False)]
                if (batch, *out) in found:
                    pairs[k].append((i, found[batch, *out]))
                continue
            reached = [p + pad - o * d for p, pad, o, d in zip(place, padding, offset, dilation, strict=False)]
            if all(r % s == 0 and 0 <= r // s < size for r, s, size in zip(reached, stride, out_shape, strict=False)):
                cell = (batch, *(r // s for r, s in zip(reached, stride, strict=False)))
                pairs[k].append((i, found.setdefault(cell, len(found))))
    table = torch.full((len(positions), 2, len(inputs)), -1, dtype=torch.int32)
    for k, rows in enumerate(pairs):
        if rows:
            table[k, :, : len(rows)] = torch.tensor(rows, dtype=torch.int32).T
    counts = torch.tensor([len(rows) for rows in pairs], dtype=torch.int32)
    return torch.tensor(list(found), dtype=torch.int32).view(-1, 4), table, counts


def sparse_forward(features, filters, pairs, counts, num_out, inverse, subm):
    """mmcv's `indice_conv_forward`."""
    kernels = filters.reshape(-1, *filters.shape[-2:])
    out = features.new_zeros(num_out, filters.shape[-1])
    for k, count in enumerate(counts.tolist()):
        source, target = pairs[k, int(inverse), :count].long(), pairs[k, 1 - int(inverse), :count].long()
        out.index_add_(0, target, features[source] @ kernels[k])
    return out


def sparse_backward(features, filters, grad, pairs, counts, inverse, subm):
    """mmcv's `indice_conv_backward`."""
    kernels = filters.reshape(-1, *filters.shape[-2:])
    grad_features, grad_kernels = torch.zeros_like(features), torch.zeros_like(kernels)
    for k, count in enumerate(counts.tolist()):
        source, target = pairs[k, int(inverse), :count].long(), pairs[k, 1 - int(inverse), :count].long()
        grad_features.index_add_(0, source, grad[target] @ kernels[k].T)
        grad_kernels[k] = features[source].T @ grad[target]
    return grad_features, grad_kernels.view_as(filters)


def deform(x, offset, weight, **given):
    """raydet3d's deformable convolution with mmcv's arguments."""
    from raydet3d.ops.deform_conv import deform_conv2d

    return deform_conv2d(
        x,
        offset,
        weight,
        stride=(given["dH"], given["dW"]),
        padding=(given["padH"], given["padW"]),
        dilation=(given["dilationH"], given["dilationW"]),
        groups=given["group"],
    )


def deform_forward(x, weight, offset, output, columns, ones, **given):
    """mmcv's `deform_conv_forward`."""
    output.copy_(deform(x, offset, weight, **given))


def deform_backward_input(x, offset, grad, grad_x, grad_offset, weight, columns, **given):
    """mmcv's `deform_conv_backward_input`."""
    with torch.enable_grad():
        leaves = [one.detach().requires_grad_() for one in (x, offset)]
        grads = torch.autograd.grad(deform(*leaves, weight.detach(), **given), leaves, grad)
    grad_x.copy_(grads[0])
    grad_offset.copy_(grads[1])


def deform_backward_parameters(x, offset, grad, grad_weight, columns, ones, **given):
    """mmcv's `deform_conv_backward_parameters`."""
    with torch.enable_grad():
        leaf = torch.zeros_like(grad_weight).requires_grad_()
        (found,) = torch.autograd.grad(deform(x.detach(), offset.detach(), leaf, **given), [leaf], grad)
    grad_weight.copy_(found)


def rotated_nms(boxes, scores, order, ordered, labels, threshold, multi_label):
    """mmcv's `nms_rotated`."""
    from raydet3d.ops.nms import nms_rotated

    return nms_rotated(boxes, scores, threshold)


def frames() -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Points (N, 4), boxes (K, 7) and labels (K,) of two made-up frames."""
    rng = np.random.RandomState(0)
    points, boxes, labels = [], [], []
    sizes = np.array([[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]])
    for _ in range(2):
        label = np.array([2, 0, 1, 2, 1])
        box = np.concatenate(
            (
                rng.uniform([1, -4.5, -1.8], [9.5, 4.5, -1.5], (5, 3)),
                sizes[label] * rng.uniform(0.9, 1.1, (5, 3)),
                rng.uniform(-3, 3, (5, 1)),
            ),
            axis=1,
        )
        on = box[rng.randint(0, 5, 400)]
        around = rng.uniform([-0.5, -0.5, 0], [0.5, 0.5, 1], (400, 3)) * on[:, 3:6]
        c, s = np.cos(on[:, 6]), np.sin(on[:, 6])
        x, y = around[:, 0] * c - around[:, 1] * s, around[:, 0] * s + around[:, 1] * c
        objects = np.stack((x, y, around[:, 2]), 1) + on[:, :3]
        ground = rng.uniform([0, -5.1, -1.9], [10.2, 5.1, -1.7], (300, 3))
        cloud = np.concatenate((objects, ground))
        cloud = np.concatenate((cloud, rng.rand(len(cloud), 1)), axis=1)
        points.append(torch.from_numpy(cloud[rng.permutation(len(cloud))].astype(np.float32)))
        boxes.append(torch.from_numpy(box.astype(np.float32)))
        labels.append(torch.from_numpy(label))
    return points, boxes, labels


def config_of(case: str, published: Any = None) -> dict[str, Any]:
    """The reduced model of a case.

    Args:
        case: One of `CASES`.
        published: Function from the name of a published config to its model; the shipped ones by default.
    """
    if case == "second":
        name = "second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py"
        return lidar.second(published(name) if published else None)
    kind, dcn = ("voxel01" if case == "voxels" else "pillar02"), case == "deformable"
    name = lidar.center_point_name(kind, dcn=dcn)
    cfg = lidar.center_point(kind, velocity=True, dcn=dcn, cfg=published(name) if published else None)
    if case == "circle":
        cfg["test_cfg"]["pts"]["nms_type"] = "circle"
    return cfg


def ground_truth(case: str, boxes: torch.Tensor) -> torch.Tensor:
    """Boxes of a case: with velocities for CenterPoint."""
    if case == "second":
        return boxes
    return torch.cat((boxes, boxes[:, 3:5] - 1), dim=1)


def voxelize(points: list[torch.Tensor], layer: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Voxels of a batch; raydet3d's, which equals mmcv's bit for bit."""
    from raydet3d.ops.voxelize import voxelize_hard

    parts = []
    for frame, cloud in enumerate(points):
        voxels, coords, counts = voxelize_hard(
            cloud,
            voxel_size=layer["voxel_size"],
            point_cloud_range=layer["point_cloud_range"],
            max_num_points=layer["max_num_points"],
            max_voxels=layer["max_voxels"][0],
        )
        parts.append((voxels, counts, torch.nn.functional.pad(coords, (1, 0), value=frame)))
    voxels, counts, coors = (torch.cat(column) for column in zip(*parts, strict=False))
    return {"voxels": voxels, "num_points": counts, "coors": coors}


def main() -> None:
    """Write the file."""
    import standins
    from mmdet3d.registry import MODELS
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.config import Config, ConfigDict
    from mmengine.structures import InstanceData

    for name, function in {
        "get_indice_pairs_3d_forward": sparse_pairs,
        "indice_conv_forward": sparse_forward,
        "indice_conv_backward": sparse_backward,
        "deform_conv_forward": deform_forward,
        "deform_conv_backward_input": deform_backward_input,
        "deform_conv_backward_parameters": deform_backward_parameters,
        "nms_rotated": rotated_nms,
    }.items():
        standins.provide(name, function)
    points, boxes, labels = frames()
    stored: dict[str, np.ndarray] = {}
    for i in range(2):
        stored[f"points.{i}"], stored[f"boxes.{i}"], stored[f"labels.{i}"] = (
            one[i].numpy() for one in (points, boxes, labels)
        )
    for case in CASES:
        cfg = config_of(case, lambda name: Config.fromfile(standins.CONFIGS / name).to_dict()["model"])
        model = MODELS.build(ConfigDict(copy.deepcopy(cfg)))
        lidar.fill(model)
        inputs = {"points": points, "voxels": voxelize(points, cfg["data_preprocessor"]["voxel_layer"])}
        samples = []
        for box, label in zip(boxes, labels, strict=False):
            rows = ground_truth(case, box)
            sample = Det3DDataSample(metainfo={"box_type_3d": LiDARInstance3DBoxes})
            sample.gt_instances_3d = InstanceData(
                bboxes_3d=LiDARInstance3DBoxes(rows, box_dim=rows.shape[1]), labels_3d=label
            )
            samples.append(sample)
        metas = [sample.metainfo for sample in samples]
        truth = [sample.gt_instances_3d for sample in samples]
        model.train()
        if case == "second":
            head = model.bbox_head
            outs = head(model.extract_feat(inputs))
            maps = dict(lidar.flatten(outs))
            losses = head.loss_by_feat(*outs, truth, metas)
            (anchors,) = head.prior_generator.grid_anchors([outs[0][0].shape[-2:]], device="cpu")
            stored[f"{case}.anchors"] = anchors.numpy()
            targets = head.anchor_target_3d(
                [[anchors] for _ in samples], truth, metas, num_classes=3, label_channels=18, sampling=False
            )
            targets = {name: level[0] for name, level in zip(("labels", "weights", "boxes"), targets, strict=False)}
        else:
            head = model.pts_bbox_head
            outs = head(model.extract_feat(inputs, metas)[1])
            maps = {name: value.clone() for name, value in lidar.flatten(outs)}  # the loss changes its input
            targets = dict(lidar.flatten(head.get_targets(truth), "target"))
            losses = head.loss_by_feat(outs, truth)
        stored.update({f"{case}.{name}": value.detach().numpy() for name, value in maps.items()})
        stored.update({f"{case}.targets.{name}": value.numpy() for name, value in targets.items()})
        total, _ = model.parse_losses(losses)
        total.backward()
        for name, value in losses.items():
            stored[f"{case}.loss.{name}"] = np.asarray(sum(value).item() if isinstance(value, list) else value.item())
        for name, parameter in model.named_parameters():
            stored[f"{case}.grad.{name}"] = np.asarray(lidar.fingerprint(name, parameter.grad))
        lidar.fill(model)
        model.eval()
        with torch.no_grad():
            predictions = model.predict(inputs, samples)
        for i, sample in enumerate(predictions):
            found = sample.pred_instances_3d
            stored[f"{case}.found.{i}.boxes"] = found.bboxes_3d.tensor.numpy()
            stored[f"{case}.found.{i}.scores"] = found.scores_3d.numpy()
            stored[f"{case}.found.{i}.labels"] = found.labels_3d.numpy().astype(np.int64)
        if case == "circle":  # all but the boxes is as for pillars
            stored = {key: value for key, value in stored.items() if not key.startswith("circle.") or "found" in key}
        print(
            case,
            {name: float(value) for name, value in stored.items() if name.startswith(f"{case}.loss.")},
            [len(stored[f"{case}.found.{i}.scores"]) for i in range(2)],
        )
    np.savez_compressed(OUT, **stored)


if __name__ == "__main__":
    main()
