"""Scene pages: what is stored of points, boxes and images, how large it is, and that it is the same every time."""

import base64
import gzip
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from raydet3d.visual import scene_page
from raydet3d.visual.bev import BoxSet
from raydet3d.visual.matching import MatchRule
from raydet3d.visual.scene_page import Camera, PointColors, Scene, pack_scene, worst_first, write_scene_page

RULE = MatchRule()
CAR = [10.0, 2.0, -1.7, 4.0, 2.0, 1.5, 0.0]


def box_set(*rows, scores=None):
    rows = np.array(rows, float).reshape(-1, 7)
    return BoxSet(rows, np.zeros(len(rows), int), None if scores is None else np.array(scores))


def sweep(count, seed=0):
    """A cloud in the order of a spinning LiDAR with 64 rings: a rough ground, and walls at random distances."""
    rng = np.random.default_rng(seed)
    rings, turn = np.repeat(np.arange(64), count // 64), np.tile(np.linspace(-np.pi, np.pi, count // 64), 64)
    tilt = np.radians(np.linspace(2, -24.8, 64))[rings]
    walls = np.interp(turn, np.linspace(-np.pi, np.pi, 60), rng.uniform(8, 80, 60))
    reach = np.minimum(walls, 1.73 / np.maximum(np.sin(-tilt), 0.02)) + rng.normal(0, 0.02, len(turn))
    flat = reach * np.cos(tilt)
    places = [flat * np.cos(turn), flat * np.sin(turn), reach * np.sin(tilt)]
    return np.stack([*places, rng.random(len(turn))], 1).astype(np.float32)


def pack(scene, score_thr=0.3):
    return pack_scene(scene, rule=RULE, score_thr=score_thr)


def unpack(points):
    """Positions and planes of colours, as `scene.js` reads them."""
    planes = np.frombuffer(gzip.decompress(base64.b64decode(points["data"])), np.uint8)
    planes = planes.reshape(-1, points["count"]) if points["count"] else planes.reshape(6, 0)
    changes = planes[0:6:2].astype(np.int64) + 256 * planes[1:6:2].astype(np.int64)
    return np.array(points["low"]) + (changes.cumsum(1) % 65536).T * points["step"], planes[6:]


def test_points_are_stored_to_half_a_step():
    cloud = sweep(6400)
    points = pack(Scene("a", cloud, colors=[PointColors("intensity", cloud[:, 3])])).data["points"]
    places, colors = unpack(points)
    assert np.abs(places - cloud[:, :3]).max() <= points["step"] / 2 + 1e-4
    assert points["step"] == pytest.approx(0.005)
    assert np.abs(colors[0] / 255 - np.clip(cloud[:, 3] / np.quantile(cloud[:, 3], 0.99), 0, 1)).max() < 0.01
    far = pack(Scene("a", np.array([[-450.0, 0, 0], [450, 0, 0]]))).data["points"]
    assert np.abs(unpack(far)[0][:, 0] - [-450, 450]).max() < 0.01


def test_a_frame_of_120000_points_takes_less_than_1_3_megabytes():
    cloud = sweep(120_000)
    found = box_set(*([10.0 + i, *CAR[1:]] for i in range(60)), scores=np.linspace(0.1, 1, 60))
    scene = Scene("a", cloud, box_set(CAR), found, colors=[PointColors("intensity", cloud[:, 3])])
    assert len(json.dumps(pack(scene).data)) < 1_300_000


def test_points_that_are_not_finite_or_far_away_are_left_out():
    cloud = np.array([[1.0, 2, 3], [np.nan, 0, 0], [np.inf, 0, 0], [5000, 0, 0]])
    points = pack(Scene("a", cloud)).data["points"]
    assert (points["count"], points["of"]) == (1, 4)
    assert unpack(points)[0].tolist() == [[1, 2, 3]]
    assert pack(Scene("a", np.zeros((0, 4)))).data["points"]["count"] == 0


def test_of_too_many_points_every_nth_is_stored(monkeypatch):
    monkeypatch.setattr(scene_page, "MAX_POINTS", 100)
    assert pack(Scene("a", sweep(6400))).data["points"]["count"] == 100


def test_boxes_carry_their_match_and_their_points():
    inside = np.array(CAR[:3]) + np.array([[0, 0, 0.5], [1, 0.5, 1], [9, 9, 9]])
    found = box_set(CAR, [40, 0, -1, 4, 2, 1, 0], scores=[0.9, 0.8])
    scene = pack(Scene("a", inside, box_set(CAR, [20, 5, -1, 4, 2, 1, 0]), found))
    assert [one["match"] for one in scene.data["found"]] == [0, -1]
    assert [one["points"] for one in scene.data["found"]] == [2, 0]
    assert [one["iou"] for one in scene.data["truth"]] == [1, 0]
    assert (scene.misses, scene.false_positives) == (1, 1)
    assert scene.kinds == {"true", "false", "miss", "truth"}


def test_frames_that_cannot_be_compared_have_no_errors():
    assert pack(Scene("a", sweep(640), box_set(CAR))).kinds == {"truth"}
    only_found = pack(Scene("a", sweep(640), None, box_set(CAR, scores=[0.9])))
    assert only_found.kinds == {"found"}
    assert (only_found.misses, only_found.false_positives) == (0, 0)
    assert pack(Scene("a", sweep(640), box_set(CAR), pasted=np.array([True]))).kinds == {"truth", "pasted"}


def test_frames_are_sorted_by_their_errors():
    frames = [pack(Scene(str(n), sweep(640), box_set(*[CAR] * n), box_set(scores=[]))) for n in (1, 3, 0, 3)]
    assert [frame.misses for frame in worst_first(frames)] == [3, 3, 1, 0]


def test_reduced_images_keep_their_projection():
    """A pixel of the original image is where the reduced one has it."""
    matrix = np.array([[700.0, 0, 900, 0], [0, 700, 450, 0], [0, 0, 1, 0]])
    image = np.zeros((900, 1800, 3), np.uint8)
    image[600:610, 1200:1210] = 255
    (camera,) = pack(Scene("a", np.zeros((0, 3)), cameras=[Camera("front", image, matrix)])).data["cameras"]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(camera["jpeg"]))).convert("L"))
    assert list(seen.shape[::-1]) == camera["size"] == [960, 480]
    rows, columns = np.nonzero(seen > 128)
    point = np.array([(1204.5 - 900) / 700, (604.5 - 450) / 700, 1, 1])  # the middle of the white square
    x, y, depth = np.array(camera["matrix"]) @ point
    assert (x / depth, y / depth) == pytest.approx((columns.mean(), rows.mean()), abs=0.3)


def test_a_page_is_self_contained_safe_and_the_same_every_time(tmp_path):
    name = "</script><script>alert(1)</script>"
    cloud = sweep(640)
    texts = []
    for number in range(2):
        scenes = [pack(Scene(name, cloud, box_set(CAR), box_set(CAR, scores=[0.9])))]
        file = write_scene_page(tmp_path / f"{number}" / "index.html", scenes, title="<b>", classes=[name])
        texts.append(file.read_text())
    assert texts[0] == texts[1]
    assert "alert(1)</script>" not in texts[0]
    assert not re.findall(r"https?://(?!www\.w3\.org)|<link|@import", texts[0])
    assert "<title>&lt;b&gt;</title>" in texts[0]
