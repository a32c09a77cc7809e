"""Det3DVisualizationHook: which frames it draws, under which names, from what."""

import logging
import logging.handlers
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from raydet3d import dist
from raydet3d.errors import InputError
from raydet3d.hooks.visualization import Det3DVisualizationHook
from raydet3d.registry import HOOKS
from raydet3d.structures import Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from raydet3d.visual import Det3DLocalVisualizer, Visualizer
from raydet3d.visual.bev import GROUND_TRUTH_COLOR, PALETTE
from tests.kit.spawn import run_ranks

CAR = torch.tensor([[20.0, 5, -1.7, 4, 2, 1.5, 0.3]])


def run_at(folder, *, rank=0):
    """What the hook asks of a runner."""
    visualizer = Det3DLocalVisualizer(vis_backends=[{"type": "LocalVisBackend"}], save_dir=folder, bev_size=300)
    logger = logging.getLogger("hook_test")
    logger.setLevel(logging.INFO)
    return SimpleNamespace(
        visualizer=visualizer, iter=40, rank=rank, log_dir=folder, logger=logger, experiment_name="run"
    )


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


def test_v1_v2_v3_all_samples_of_every_nth_batch_without_out_file_or_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    hook = Det3DVisualizationHook(draw=True, interval=2, vis_task="lidar_det")
    runner = run_at(tmp_path)
    validate(hook, runner, 5)
    assert pictures(tmp_path) == [f"val_{n:06d}_40.png" for n in (0, 1, 20, 21, 40, 41)]
    assert has(runner.visualizer.get_image(), GROUND_TRUTH_COLOR)
    assert has(runner.visualizer.get_image(), PALETTE[2])


def test_a_limit_holds_for_each_validation(tmp_path):
    hook = Det3DVisualizationHook(draw=True, interval=1, max_frames=2)
    runner = run_at(tmp_path)
    validate(hook, runner, 4)
    runner.iter = 80
    validate(hook, runner, 4)
    names = ["val_000000_40.png", "val_000000_80.png", "val_000001_40.png", "val_000001_80.png"]
    assert pictures(tmp_path) == names


class Unread:
    """Stands for a batch that nobody may look into, let alone read files for."""

    def __getitem__(self, key):
        pytest.fail("a batch that is not drawn was looked into")


def test_v3_what_is_not_drawn_costs_nothing(tmp_path):
    _, outputs = batch(1, 2)
    for hook, rank, index in (
        (Det3DVisualizationHook(), 0, 0),
        (Det3DVisualizationHook(draw=True, interval=50), 0, 7),
        (Det3DVisualizationHook(draw=True, interval=1), 1, 0),
        (Det3DVisualizationHook(draw=True, interval=1, max_frames=0), 0, 0),
    ):
        hook.after_val_iter(run_at(tmp_path, rank=rank), index, Unread(), outputs)
    Det3DVisualizationHook(draw=True).after_test_iter(run_at(tmp_path, rank=1), 0, Unread(), outputs)
    assert not pictures(tmp_path)


def test_v3_test_out_dir_stays_where_it_is(tmp_path, monkeypatch):
    """Joined to the log folder once, and not once more at every batch; below a relative work dir too."""
    monkeypatch.chdir(tmp_path)
    hook = Det3DVisualizationHook(draw=True, test_out_dir="shown")
    runner = run_at(Path("work/now"))
    for number in range(3):
        hook.after_test_iter(runner, number, *batch(number))
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.png"))
    assert files == [f"work/now/shown/{number:06d}.png" for number in range(3)]


@pytest.mark.parametrize("task", ["lidar_det", "lidar_seg", "multi-modality_det", "mono_det", "multi-view_det"])
def test_v1_v5_every_task_draws_without_open3d_mmdet_or_opencv(tmp_path, task):
    image = np.full((60, 120, 3), 90, np.uint8)
    lidar2img = np.array([[60.0, -60, 0, 0], [30, 0, -60, 0], [1, 0, 0, 0]])
    data, outputs = batch(1)
    data["inputs"]["img"] = [torch.from_numpy(image).permute(2, 0, 1)]
    outputs[0].set_metainfo({"lidar2img": lidar2img})
    outputs[0].pred_pts_seg = {"pts_semantic_mask": np.arange(50) % 3}
    runner = run_at(tmp_path)
    Det3DVisualizationHook(draw=True, vis_task=task).after_val_iter(runner, 0, data, outputs)
    assert pictures(tmp_path) == ["val_000001_40.png"]
    assert not {"open3d", "mmdet", "mmcv", "cv2"} & set(sys.modules)


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
    assert has(runner.visualizer.get_image(), GROUND_TRUTH_COLOR)
    assert not has(runner.visualizer.get_image(), PALETTE[2])


def test_score_threshold_and_choice_are_passed_on(tmp_path):
    runner = run_at(tmp_path)
    hook = Det3DVisualizationHook(draw=True, score_thr=0.9, draw_gt=False)
    hook.after_val_iter(runner, 0, *batch(1))
    assert not has(runner.visualizer.get_image(), GROUND_TRUTH_COLOR)
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
    with pytest.raises(InputError, match="interval must be an integer of at least 1, got 0"):
        Det3DVisualizationHook(interval=0)


def frame(number, *, found, truth, score=0.8):
    """A frame with some of its objects found, and the batch that it was in."""
    places = torch.tensor([[20.0 + 8 * i, 5, -1.7, 4, 2, 1.5, 0.3] for i in range(max(found, truth))]).reshape(-1, 7)
    held = {"gt_bboxes_3d": LiDARInstance3DBoxes(places[:truth]), "gt_labels_3d": np.zeros(truth, int)}
    hits = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(places[:found]),
        scores_3d=torch.full((found,), score),
        labels_3d=torch.zeros(found, dtype=torch.long),
    )
    output = Det3DDataSample(metainfo={} if number is None else {"sample_idx": number}, pred_instances_3d=hits)
    output.eval_ann_info = held
    return {"inputs": {"points": [torch.rand(50, 4) * 30]}, "data_samples": [output]}, [output]


def validate_frames(hook, runner, *frames, mode="val"):
    getattr(hook, f"before_{mode}_epoch")(runner)
    for i, (data, outputs) in enumerate(frames):
        getattr(hook, f"after_{mode}_iter")(runner, batch_idx=i, data_batch=data, outputs=outputs)
    getattr(hook, f"after_{mode}_epoch")(runner, metrics={})


@pytest.mark.parametrize("mode", ["val", "test"])
def test_the_frames_with_most_errors_are_drawn(tmp_path, caplog, mode):
    frames = [
        frame(1, found=3, truth=3),
        frame(2, found=0, truth=2),
        frame(3, found=4, truth=1),
        frame(4, found=4, truth=0, score=0.2),  # below the minimum score
        frame(5, found=1, truth=2),
    ]
    validate_frames(Det3DVisualizationHook(draw=True, worst=2), run_at(tmp_path), *frames, mode=mode)
    assert pictures(tmp_path) == [f"{mode}_{n:06d}_40.png" for n in (2, 3)]
    assert "Worst of 5 frames: 000003 (0 missed, 3 false), 000002 (2 missed, 0 false)" in caplog.text


def rank_frames(folder):
    """On one of two ranks: rank two frames each has alone, one that both have, and unnamed ones."""
    rank = dist.get_rank()
    runner = run_at(folder, rank=rank)
    lines = logging.handlers.BufferingHandler(100)
    runner.logger.addHandler(lines)
    frames = [
        [frame(1, found=3, truth=3), frame(2, found=0, truth=2), frame(7, found=0, truth=4)],
        [frame(3, found=0, truth=2), frame(4, found=0, truth=5), frame(7, found=0, truth=4)],
    ][rank]
    unnamed = frame(None, found=0, truth=3 + rank)
    hook = Det3DVisualizationHook(draw=True, page=True, worst=5)
    validate_frames(hook, runner, *frames, unnamed)
    return [record.getMessage() for record in lines.buffer]


def test_the_worst_frames_of_all_ranks_are_drawn_once(tmp_path):
    first, second = run_ranks(rank_frames, 2, tmp_path)
    names = ["000004", "000007", "batch3_0_rank1", "batch3_0", "000002"]  # of equals, the first name
    assert first[0] == "Worst of 7 frames: " + ", ".join(
        f"{name} ({missed} missed, 0 false)" for name, missed in zip(names, (5, 4, 4, 3, 2), strict=True)
    )
    assert second == []
    assert pictures(tmp_path) == sorted(f"val_{name}_40.png" for name in names)
    text = (tmp_path / "vis_data" / "scenes_val.html").read_text()
    assert re.findall(r'"name":"(\w+)","misses"', text) == names


def test_which_frames_are_the_worst_does_not_depend_on_their_order(tmp_path):
    for number, order in enumerate(((1, 2, 3), (3, 2, 1), (2, 3, 1))):
        hook = Det3DVisualizationHook(draw=True, worst=2)
        validate_frames(hook, run_at(tmp_path / str(number)), *(frame(n, found=0, truth=2) for n in order))
        assert pictures(tmp_path / str(number)) == ["val_000001_40.png", "val_000002_40.png"]


def test_the_drawn_frames_become_a_page_also_without_pictures(tmp_path):
    hook = Det3DVisualizationHook(page=True, interval=2)
    validate_frames(hook, run_at(tmp_path), *(frame(n, found=n, truth=3) for n in range(4)))
    text = (tmp_path / "vis_data" / "scenes_val.html").read_text()
    assert '"frames":[{"name":"000000","misses":3,"falses":0},{"name":"000002","misses":1,"falses":0}]' in text
    assert not pictures(tmp_path)
    hook = Det3DVisualizationHook(page=str(tmp_path / "elsewhere"), page_frames=1)
    validate_frames(hook, run_at(tmp_path), *(frame(n, found=n, truth=3) for n in range(4)), mode="test")
    text = (tmp_path / "elsewhere" / "index.html").read_text()
    assert '"frames":[{"name":"000000","misses":3,"falses":0}]' in text


def test_kept_frames_have_memory_of_their_own(tmp_path):
    hook = Det3DVisualizationHook(draw=True, worst=1)
    runner = run_at(tmp_path)
    data, outputs = frame(1, found=0, truth=1)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, data, outputs)
    data["inputs"]["points"][0].fill_(float("nan"))
    hook.after_val_epoch(runner)
    assert len(np.unique(runner.visualizer.get_image()[200:].reshape(-1, 3), axis=0)) > 20  # points of many heights


def test_without_ground_truth_frames_are_not_sorted_and_the_hook_says_so(tmp_path, caplog):
    data, outputs = batch(1, truth_in="batch")
    data["data_samples"] = None
    validate_frames(Det3DVisualizationHook(draw=True, worst=1), run_at(tmp_path), (data, outputs))
    assert pictures(tmp_path) == ["val_000001_40.png"]
    assert caplog.text.count("no errors to sort by") == 1


class Bare:
    """An output that is no data sample."""


def test_what_cannot_be_drawn_is_said_once(tmp_path, caplog):
    hook = Det3DVisualizationHook(draw=True, interval=1)
    data, outputs = batch(1, 2)
    for _ in range(2):
        hook.after_val_iter(run_at(tmp_path), 0, data, [Bare(), Bare()])
        hook.after_val_iter(run_at(tmp_path), 0, {"img": 1}, outputs)
        plain = run_at(tmp_path)
        plain.visualizer = Visualizer()
        hook.after_val_iter(plain, 0, data, outputs)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert "outputs are Bare, not data samples" in lines[0]
    assert "`inputs`" in lines[1]
    assert "use Det3DLocalVisualizer" in lines[2]
    assert not pictures(tmp_path)


def test_the_rule_for_a_detection_is_refused_where_it_is_impossible():
    with pytest.raises(InputError, match="match_iou must be a number above 0 and of at most 1, got 50"):
        Det3DVisualizationHook(match_iou=50)
