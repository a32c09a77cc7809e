"""Visualizers: which backends hear what, on which rank; what of a data sample is drawn."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from raydet3d.dist import get_rank
from raydet3d.errors import InputError
from raydet3d.registry import VISUALIZERS
from raydet3d.structures import CameraInstance3DBoxes, Det3DDataSample, InstanceData, LiDARInstance3DBoxes
from raydet3d.visual import BaseVisBackend, LocalVisBackend, Visualizer
from raydet3d.visual.bev import GROUND_TRUTH_COLOR, PALETTE
from tests.kit.spawn import run_ranks

LOCAL = {"type": "LocalVisBackend"}
POINTS = torch.rand(200, 4) * torch.tensor([40.0, 40, 2, 1]) - torch.tensor([0.0, 20, 2, 0])


def build(folder, **kwargs):
    cfg = {"type": "Det3DLocalVisualizer", "vis_backends": [LOCAL], "save_dir": str(folder), "bev_size": 400, **kwargs}
    visualizer = VISUALIZERS.build(cfg)
    visualizer.dataset_meta = {"classes": ("Pedestrian", "Cyclist", "Car")}
    return visualizer


def sample(*, scores=(0.9, 0.2), **metainfo):
    """A car as ground truth at (20, 5), predicted 1 m off, and a low-scored pedestrian at (10, -10)."""
    out = Det3DDataSample(metainfo={"sample_idx": 8, **metainfo})
    boxes = torch.tensor([[20.0, 5, -1.7, 4, 2, 1.5, 0.3], [10.0, -10, -1.7, 1, 1, 1.7, 0]])
    out.eval_ann_info = {
        "gt_bboxes_3d": LiDARInstance3DBoxes(boxes[:1] + torch.eye(7)[0]),
        "gt_labels_3d": np.array([2]),
    }
    out.pred_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes), scores_3d=torch.tensor(scores), labels_3d=torch.tensor([2, 0])
    )
    return out


def has(picture, color):
    """Whether a colour is in the picture, below the header."""
    header = int(np.argmax((picture[:, 2] != picture[0, 2]).any(-1)))
    return bool((np.abs(picture[header:].astype(int) - color).sum(-1) < 40).any())


def test_scalars_go_to_the_runs_folder(tmp_path):
    visualizer = Visualizer(vis_backends=LOCAL, save_dir=tmp_path)
    visualizer.add_scalar("lr", 0.1, 2)
    visualizer.add_scalars({"loss": 1.0}, step=3, file_path="more.json")
    visualizer.add_config({"a": 1})
    visualizer.close()
    written = (tmp_path / "vis_data/scalars.json").read_text().splitlines()
    assert [json.loads(line) for line in written] == [{"lr": 0.1, "step": 2}, {"loss": 1.0, "step": 3}]
    assert {f.name for f in (tmp_path / "vis_data").iterdir()} == {"scalars.json", "more.json", "config.py"}


def test_two_visualizers_of_one_name_share_nothing(tmp_path):
    first, second = (Visualizer("visualizer", vis_backends=[LOCAL], save_dir=tmp_path / str(i)) for i in range(2))
    first.add_scalar("a", 1)
    assert not (tmp_path / "1").exists()
    assert first.get_backend("LocalVisBackend") is not second.get_backend("LocalVisBackend")


def test_backends_by_name(tmp_path, caplog):
    named = {**LOCAL, "name": "other", "save_dir": str(tmp_path / "elsewhere")}
    visualizer = Visualizer(
        vis_backends=[
            LOCAL,
            named,
        ],
        save_dir=tmp_path,
    )
    visualizer.add_scalar("a", 1)
    assert (tmp_path / "elsewhere/scalars.json").is_file()
    assert (tmp_path / "vis_data/scalars.json").is_file()
    with pytest.raises(KeyError, match="it has LocalVisBackend, other"):
        visualizer.get_backend("Wandb")
    with pytest.raises(InputError, match="two backends 'LocalVisBackend'; give one a name="):
        Visualizer(vis_backends=[LOCAL, LOCAL], save_dir=tmp_path)
    Visualizer(vis_backends=[LOCAL]).add_scalar("a", 1)
    assert "LocalVisBackend is not used: neither it nor the visualizer has a save_dir" in caplog.text
    ready = LocalVisBackend(tmp_path / "ready")
    Visualizer(vis_backends=ready).add_scalar("a", 1)
    assert (tmp_path / "ready/scalars.json").is_file()


class Broken(BaseVisBackend):
    """A back end that cannot write anything."""

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        raise ConnectionError("no network")

    def close(self):
        raise ConnectionError("no network")


def test_a_failing_back_end_warns_once_and_the_others_go_on(tmp_path, caplog):
    visualizer = Visualizer(vis_backends=[Broken(), LocalVisBackend(tmp_path)])
    for step in range(3):
        visualizer.add_scalars({"loss": 1.0}, step)
    visualizer.close()
    assert caplog.text.count("Broken") == 1
    assert "back end Broken failed in add_scalars (ConnectionError: no network); the run goes on" in caplog.text
    assert len((tmp_path / "scalars.json").read_text().splitlines()) == 3


def test_a_back_end_without_its_package_is_bad_input(tmp_path):
    class Missing(BaseVisBackend):
        def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
            raise InputError("needs a package")

    with pytest.raises(InputError, match="needs a package"):
        Visualizer(vis_backends=[Missing()]).add_scalar("a", 1)


def on_a_rank(folder):
    visualizer = build(folder)
    visualizer.add_scalar("rank", get_rank())
    visualizer.add_datasample("frame", {"points": POINTS}, sample(), step=1)
    visualizer.add_datasample("own", {"points": POINTS}, sample(), out_file=f"{folder}/own_{get_rank()}.png")


def test_only_rank_0_writes_to_backends(tmp_path):
    run_ranks(on_a_rank, 2, str(tmp_path))
    assert (tmp_path / "vis_data/scalars.json").read_text() == '{"rank": 0, "step": 0}\n'
    assert [f.name for f in (tmp_path / "vis_data/vis_image").iterdir()] == ["frame_1.png"]
    assert (tmp_path / "own_0.png").is_file()
    assert (tmp_path / "own_1.png").is_file()


def test_a_validation_frame(tmp_path):
    visualizer = build(tmp_path)
    visualizer.add_datasample("val_000008", {"points": POINTS}, sample(), step=120)
    picture = np.asarray(Image.open(tmp_path / "vis_data/vis_image/val_000008_120.png"))
    assert (picture == visualizer.get_image()).all()
    assert has(picture, GROUND_TRUTH_COLOR)
    assert has(picture, PALETTE[2])
    assert not has(picture, PALETTE[0])  # below the threshold
    assert max(picture.shape) < 1400


@pytest.mark.parametrize(("truth", "found"), [(True, False), (False, True), (False, False)])
def test_what_is_drawn_can_be_chosen(tmp_path, truth, found):
    visualizer = build(tmp_path, bbox_color=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    visualizer.add_datasample("a", {"points": POINTS}, sample(), draw_gt=truth, draw_pred=found, pred_score_thr=0.1)
    picture = visualizer.get_image()
    assert has(picture, GROUND_TRUTH_COLOR) is truth
    assert has(picture, (0, 0, 255)) is has(picture, (255, 0, 0)) is found


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_left_out(tmp_path, wrong):
    given = sample(scores=(0.9, 0.8))
    given.pred_instances_3d.bboxes_3d.tensor[1, 3] = wrong
    visualizer = build(tmp_path)
    visualizer.add_datasample("val", {"points": POINTS}, given)
    assert has(visualizer.get_image(), PALETTE[2])
    assert not has(visualizer.get_image(), PALETTE[0])


def test_training_samples_dicts_and_nothing_at_all(tmp_path):
    visualizer = build(tmp_path)
    training = Det3DDataSample(gt_instances_3d=InstanceData(bboxes_3d=sample().eval_ann_info["gt_bboxes_3d"],
                                                            labels_3d=torch.tensor([2])))  # fmt: skip
    for one in (training, training.to_dict()):
        visualizer.add_datasample("a", {"points": POINTS.numpy()}, one)
        assert has(visualizer.get_image(), GROUND_TRUTH_COLOR)
    nothing_found = sample()
    nothing_found.pred_instances_3d = nothing_found.pred_instances_3d[:0]
    for one in (None, {}, Det3DDataSample(), nothing_found, sample(scores=(0.1, 0.1))):
        for points in (POINTS[:0], None):
            visualizer.add_datasample("a", {"points": points}, one)
    assert not has(visualizer.get_image(), PALETTE[2])


def test_camera_boxes_are_converted_to_the_lidar_frame(tmp_path):
    """A camera box drawn with its lidar2cam gives the LiDAR box's picture."""
    lidar2cam = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, -0.3], [1, 0, 0, -0.5], [0, 0, 0, 1]])
    boxes = LiDARInstance3DBoxes(torch.tensor([[20.0, 5, -1.7, 4, 2, 1.5, 0.3]]))
    in_camera = boxes.convert_to("camera", lidar2cam)
    assert isinstance(in_camera, CameraInstance3DBoxes)
    pictures = []
    for given in (boxes, in_camera):
        instances = {"bboxes_3d": given, "labels_3d": torch.tensor([2])}
        visualizer = build(tmp_path, point_cloud_range=[0, -20, 40, 20])
        visualizer.add_datasample("a", {"points": POINTS}, {"gt_instances_3d": instances, "lidar2cam": lidar2cam})
        pictures.append(visualizer.get_image())
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() < 40
    assert (np.abs(pictures[0].astype(int) - pictures[1]).max(-1) > 0).mean() < 1e-3


def test_the_cameras_image_is_added_where_it_is_known(tmp_path, caplog):
    lidar2img = np.array([[300.0, -300, 0, 0], [100, 0, -300, 0], [1, 0, 0, 0]])
    gray = np.full((200, 600, 3), 90, np.uint8)
    Image.fromarray(gray).save(tmp_path / "image.png")
    visualizer = build(tmp_path, bev_size=600)
    visualizer.add_datasample("a", {"points": POINTS}, sample(lidar2img=lidar2img))
    alone = visualizer.get_image()
    known = sample(lidar2img=lidar2img, img_path=str(tmp_path / "image.png"))
    tensor = torch.from_numpy(gray).permute(2, 0, 1)
    for inputs, one in (({}, known), ({"img": tensor}, sample(lidar2img=lidar2img)), ({"img": gray}, known)):
        visualizer.add_datasample("a", {"points": POINTS, **inputs}, one)
        both = visualizer.get_image()
        assert (both[: len(alone)] == alone).all()
        camera = both[len(alone) :]
        assert len(camera) == round(200 * alone.shape[1] / 600)
        assert (camera == 90).all(-1).mean() > 0.5
        assert (camera == PALETTE[2]).all(-1).any()
    # cam2img and lidar2cam will do as well
    visualizer.add_datasample("a", {"points": POINTS, "img": gray}, sample(cam2img=np.eye(3), lidar2cam=lidar2img))
    assert (visualizer.get_image() == both).all()
    (tmp_path / "image.png").write_bytes(b"no image")
    for _ in range(2):
        visualizer.add_datasample("a", {"points": POINTS}, known)
        assert (visualizer.get_image() == alone).all()
    assert caplog.text.count("cannot be read as an image") == 1


def test_unsupported_features_warn(tmp_path, caplog):
    visualizer = build(tmp_path)
    for _ in range(2):
        visualizer.add_datasample("a", {"points": POINTS}, sample(), show=True)
    assert caplog.text.count("opens no window") == 1
    with pytest.raises(InputError, match="vis_task='lidar' cannot be drawn; known: lidar_det"):
        visualizer.add_datasample("a", {"points": POINTS}, sample(), vis_task="lidar")
    with pytest.raises(InputError, match="point_cloud_range needs 4 or 6 numbers"):
        build(tmp_path, point_cloud_range=[1, 2, 3])
    with pytest.raises(ValueError, match="has no image yet"):
        build(tmp_path).get_image()
    with pytest.raises(NotImplementedError, match="Det3DLocalVisualizer"):
        Visualizer().add_datasample("a", {}, None)
