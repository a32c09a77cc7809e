"""Det3DVisualizationHook: which frames it draws, under which names, from what."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raydet3d.errors import InputError
from raydet3d.hooks.visual import Det3DVisualizationHook
from raydet3d.registry import HOOKS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from raydet3d.visual import Det3DLocalVisualizer
from raydet3d.visual.bev import PALETTE, TRUTH

CAR = torch.tensor([[20.0, 5, -1.7, 4, 2, 1.5, 0.3]])


def run_at(folder, *, rank=0):
    """What the hook asks of a runner."""
    visualizer = Det3DLocalVisualizer(vis_backends=[{"type": "LocalVisBackend"}], save_dir=folder, bev_size=300)
    return SimpleNamespace(visualizer=visualizer, iter=40, rank=rank, log_dir=folder)


def batch(*ids, truth_in="outputs"):
    """A batch of frames and what a model returns for it."""
    truth = {"gt_bboxes_3d": LiDARInstance3DBoxes(CAR), "gt_labels_3d": np.array([2])}
    given, outputs = [], []
    for number in ids:
        given.append(Det3DDataSample(metainfo={"sample_idx": number}, eval_ann_info=truth))
        found = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(CAR + torch.tensor([0.0, 9, 0, 0, 0, 0, 0])),
            scores_3d=torch.tensor([0.8]),
            labels_3d=torch.tensor([2]),
        )
        outputs.append(Det3DDataSample(metainfo={"sample_idx": number}, pred_instances_3d=found))
        if truth_in == "outputs":
            outputs[-1].eval_ann_info = truth
    return {"inputs": {"points": [torch.rand(50, 4) * 30 for _ in ids]}, "data_samples": given}, outputs


def has(picture, color):
    header = int(np.argmax((picture[:, 2] != picture[0, 2]).any(-1)))
    return bool((np.abs(picture[header:].astype(int) - color).sum(-1) < 40).any())


def pictures(folder):
    return sorted(file.name for file in folder.rglob("*.png"))


def validate(hook, runner, num_batches):
    hook.before_val_epoch(runner)
    for i in range(num_batches):
        data, outputs = batch(10 * i, 10 * i + 1)
        hook.after_val_iter(runner, batch_idx=i, data_batch=data, outputs=outputs)


def test_off_by_default(tmp_path):
    hook = HOOKS.build({"type": "Det3DVisualizationHook"})
    validate(hook, run_at(tmp_path), 3)
    hook.after_test_iter(run_at(tmp_path), 0, *batch(1))
    assert not pictures(tmp_path)


def test_first_sample_of_every_nth_batch(tmp_path):
    hook = Det3DVisualizationHook(draw=True, interval=2)
    runner = run_at(tmp_path)
    validate(hook, runner, 5)
    assert pictures(tmp_path) == ["val_000000_40.png", "val_000020_40.png", "val_000040_40.png"]
    assert has(runner.visualizer.get_image(), TRUTH)
    assert has(runner.visualizer.get_image(), PALETTE[2])


def test_a_limit_holds_for_each_validation(tmp_path):
    hook = Det3DVisualizationHook(draw=True, interval=1, max_frames=2)
    runner = run_at(tmp_path)
    validate(hook, runner, 4)
    runner.iter = 80
    validate(hook, runner, 4)
    names = ["val_000000_40.png", "val_000000_80.png", "val_000010_40.png", "val_000010_80.png"]
    assert pictures(tmp_path) == names


def test_other_ranks_do_not_draw_validation_frames(tmp_path):
    validate(Det3DVisualizationHook(draw=True, interval=1), run_at(tmp_path, rank=1), 2)
    assert not pictures(tmp_path)


def test_every_test_frame_into_a_folder_on_every_rank(tmp_path):
    hook = Det3DVisualizationHook(draw=True, test_out_dir="shown")
    for rank, ids in ((0, (1, 2)), (1, ("000003", "scene/4"))):
        hook.after_test_iter(run_at(tmp_path / "run", rank=rank), 0, *batch(*ids))
    assert pictures(tmp_path / "run/shown") == ["000001.png", "000002.png", "000003.png", "scene_4.png"]
    assert pictures(tmp_path) == pictures(tmp_path / "run/shown")
    hook = Det3DVisualizationHook(draw=True, test_out_dir=str(tmp_path / "absolute"))
    hook.after_test_iter(run_at(tmp_path / "run"), 0, *batch(7))
    assert pictures(tmp_path / "absolute") == ["000007.png"]


def test_test_frames_without_a_folder_go_to_the_backends(tmp_path):
    hook = Det3DVisualizationHook(draw=True)
    hook.after_test_iter(run_at(tmp_path), 3, *batch(1, 2))
    assert pictures(tmp_path) == ["test_000001_40.png", "test_000002_40.png"]


@pytest.mark.parametrize("truth_in", ["outputs", "batch"])
def test_ground_truth_is_found_on_either_side(tmp_path, truth_in):
    runner = run_at(tmp_path)
    hook = Det3DVisualizationHook(draw=True, draw_pred=False)
    hook.after_val_iter(runner, 0, *batch(1, truth_in=truth_in))
    assert has(runner.visualizer.get_image(), TRUTH)
    assert not has(runner.visualizer.get_image(), PALETTE[2])


def test_score_threshold_and_choice_are_passed_on(tmp_path):
    runner = run_at(tmp_path)
    hook = Det3DVisualizationHook(draw=True, score_thr=0.9, draw_gt=False)
    hook.after_val_iter(runner, 0, *batch(1))
    assert not has(runner.visualizer.get_image(), TRUTH)
    assert not has(runner.visualizer.get_image(), PALETTE[2])


def test_frames_without_an_id_are_named_by_their_place(tmp_path):
    data, outputs = batch(1)
    hook = Det3DVisualizationHook(draw=True, interval=3)
    hook.after_val_iter(run_at(tmp_path), 3, data, [Det3DDataSample(pred_instances_3d=outputs[0].pred_instances_3d)])
    assert pictures(tmp_path) == ["val_batch3_0_40.png"]


def test_mmdet3ds_arguments_are_accepted():
    Det3DVisualizationHook(
        True, 10, 0.1, False, "multi-modality_det", 1.0, "out", True, True, show_pcd_rgb=False, backend_args=None
    )
    with pytest.raises(InputError, match="interval must be 1 or more, got 0"):
        Det3DVisualizationHook(interval=0)
