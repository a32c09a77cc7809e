"""The generated town: its rays against shapes whose answer is known, its files against each other, its splits.

Checked against: distances and angles worked out by hand; casting without windows; the strict readers of KITTI's raw
files and the points-in-boxes op, neither of which the generator uses.
"""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydet3d.data.datasets.kitti_io import (
    camera_to_lidar,
    read_calib,
    read_image_size,
    read_labels,
    read_plane,
)
from raydet3d.data.point_cloud_file import read_cloud
from raydet3d.data.synthetic.camera_images import calibration, camera_grid, look, paint
from raydet3d.data.synthetic.kitti_layout import Frame, frame_names, write_town
from raydet3d.data.synthetic.labels import make_labels
from raydet3d.data.synthetic.lidar import ELEVATIONS, lidar_grid, scan
from raydet3d.data.synthetic.ray_casting import NOTHING, Grid, Solids, cast
from raydet3d.data.synthetic.scene import Scene, make_scene
from raydet3d.data.synthetic.shapes import Look, Thing, ball, block, make_car
from raydet3d.data.synthetic.street import Ground, Side, Street
from raydet3d.data.synthetic.town_settings import TownSettings
from raydet3d.errors import InputError
from raydet3d.ops.bev_collision import overlaps
from raydet3d.ops.points import bev_corners, points_in_boxes

SMALL = TownSettings(seed=3, num_train=16, num_val=4)
CLEAN = replace(SMALL, range_noise_m=0.0, drop_rate=0.0)
GREY = Look((100, 100, 100), 1.0)
LEVEL = Ground((0.0, 0.0), np.zeros((0, 4)))
BARE = Street(
    heading=0.0, curvature=0.0, lane=3.5, lanes_right=0, lanes_left=1, one_way=False, crossing=None,
    left=Side(1, 5.25, "none", 0.0, "houses"), right=Side(-1, 1.75, "none", 0.0, "houses"),
)  # fmt: skip


def scene_of(*things: Thing) -> Scene:
    return Scene(tuple(things), LEVEL, BARE)


def wall(x: float, *, width: float = 20.0, height: float = 6.0, y: float = 0.0, kind: str = "wall") -> Thing:
    part = block((-0.1, 0.1), (-width / 2, width / 2), (0.0, height), GREY)
    return Thing(kind, None, (x, y, -1.73), (0.2, width, height), 0.0, (part,))


def car_at(x: float, y: float, yaw: float = 0.0) -> Thing:
    return replace(make_car("hatchback", np.random.default_rng(0)), center=(x, y, -1.73), yaw=yaw)


def labels_of(*things: Thing):
    scene = scene_of(*things)
    solids = Solids.of(scene.things)
    seen = scan(scene, solids, CLEAN, np.random.default_rng(0))
    return make_labels(scene.things, seen, look(scene, solids), calibration(), CLEAN)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("town")
    assert list(write_town(root, SMALL)) == list(range(1, 21))
    return root


# ---------------------------------------------------------------------------------------------- rays


def test_distances_to_wall_and_road():
    scene = scene_of(wall(10.1))  # its face is at x = 10
    seen = scan(scene, Solids.of(scene.things), CLEAN, np.random.default_rng(0))
    on_wall = seen.points[seen.thing == 0]
    on_road = seen.points[(seen.thing == NOTHING) & (seen.points[:, 0] < 10)]
    np.testing.assert_allclose(on_wall[:, 0], 10.0, atol=1e-4)
    np.testing.assert_allclose(on_road[:, 2], -1.73, atol=1e-3)
    assert np.all(seen.points[np.abs(seen.points[:, 1]) < 9, 0] < 10.01)  # nothing is seen through it
    # Beams that go below -1.73 / 10 meet the road first.
    assert on_wall[:, 2].min() > -1.73
    assert on_wall[:, 2].max() == pytest.approx(10 * np.tan(np.deg2rad(2)) / np.cos(np.deg2rad(45)), rel=0.02)


def test_sixty_four_beams_at_the_real_elevations():
    assert len(ELEVATIONS) == 64
    assert np.rad2deg(ELEVATIONS[[0, 31, 32, 63]]) == pytest.approx([2.0, -8.333, -8.83, -24.33], abs=1e-3)
    scene = scene_of(wall(20.0, width=60.0, height=30.0))
    points = scan(scene, Solids.of(scene.things), CLEAN, np.random.default_rng(0)).points.astype(np.float64)
    measured = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    assert np.abs(measured[:, None] - ELEVATIONS).min(axis=1).max() < 1e-5
    azimuth = np.unique(np.rad2deg(np.arctan2(points[:, 1], points[:, 0])).round(3))
    assert np.diff(azimuth).min() == pytest.approx(0.2, abs=2e-3)
    assert azimuth[-1] - azimuth[0] == pytest.approx(89.8, abs=0.5)


def test_rays_hit_a_ball_on_its_surface():
    solids = Solids.of(
        [Thing("ball", None, (10.0, 1.0, 0.0), (2, 2, 4), 0.7, (ball((0.0, 0.0, 0.0), 1.0, 2.0, GREY),))]
    )
    grid = lidar_grid(0.2)
    hits = cast(grid, solids, np.full(grid.rays.shape[1:], np.inf, np.float32))
    met = hits.solid == 0
    points = (grid.rays[:, met] * hits.depth[met]).T
    assert met.sum() > 300
    surface = ((points - [10, 1, 0]) / [1, 1, 2]) ** 2
    np.testing.assert_allclose(surface.sum(axis=1), 1.0, atol=1e-3)
    assert np.all((points - [10, 1, 0]) @ np.array([10.0, 1.0, 0.0]) < 0.5)  # its near side


def test_windows_contain_all_hits():
    """A window only saves work: casting every solid over the whole grid meets the same surfaces."""
    scene = make_scene(SMALL, np.random.default_rng(5))
    solids = Solids.of(scene.things)
    for grid in (lidar_grid(1.0), camera_grid()):
        whole = np.array([0, grid.rays.shape[1], 0, grid.rays.shape[2]], np.int32)
        if grid.rays.shape[2] > 300:  # the camera's rays, thinned
            thin = Grid(grid.origin, np.ascontiguousarray(grid.rays[:, ::5, ::5]), grid.windows)
            inside = cast(grid, solids, np.full(grid.rays.shape[1:], np.inf, np.float32))
            depth, solid = inside.depth[::5, ::5], inside.solid[::5, ::5]
            whole[[1, 3]] = thin.rays.shape[1:]
        else:
            thin, inside = grid, cast(grid, solids, np.full(grid.rays.shape[1:], np.inf, np.float32))
            depth, solid = inside.depth, inside.solid
        full = Grid(thin.origin, thin.rays, lambda corners, whole=whole: np.tile(whole, (len(corners), 1)))
        outside = cast(full, solids, np.full(thin.rays.shape[1:], np.inf, np.float32))
        assert (solid != outside.solid).mean() < 1e-4
        same = solid == outside.solid
        np.testing.assert_array_equal(depth[same], outside.depth[same])
        assert (solid != NOTHING).mean() > 0.05


def test_noise_and_drop_rate_match_the_settings():
    scene = scene_of(wall(10.1))
    solids = Solids.of(scene.things)
    clean = scan(scene, solids, CLEAN, np.random.default_rng(0))
    noisy = scan(scene, solids, replace(CLEAN, range_noise_m=0.05), np.random.default_rng(0))
    lossy = scan(scene, solids, replace(CLEAN, drop_rate=0.3), np.random.default_rng(0))
    off = np.linalg.norm(noisy.points[noisy.thing == 0, :3], axis=1) - np.linalg.norm(
        clean.points[clean.thing == 0, :3], axis=1
    )
    assert off.std() == pytest.approx(0.05, rel=0.1)
    assert abs(off.mean()) < 0.005
    assert (lossy.thing == 0).sum() / (clean.thing == 0).sum() == pytest.approx(0.7, abs=0.03)
    assert 0 <= clean.points[:, 3].min() <= clean.points[:, 3].max() <= 0.99


# ---------------------------------------------------------------------------------------------- labels


def test_label_of_a_car_straight_ahead():
    (label,) = labels_of(car_at(15.0, 0.0))
    assert (label.kind, label.occluded, label.truncated, label.cared) == ("Car", 0, 0.0, True)
    assert label.yaw == pytest.approx(-np.pi / 2, abs=0.01)  # heading away
    assert label.alpha == pytest.approx(-np.pi / 2, abs=0.02)
    assert label.center[2] == pytest.approx(15.0 - 0.27, abs=0.05)  # the camera is 0.27 m ahead
    assert label.center[1] == pytest.approx(1.65, abs=0.1)
    # Its rear face, 13 m away, is about 720 * 1.66 / 12.8 = 93 pixels wide and 84 tall.
    x1, y1, x2, y2 = label.box
    assert x2 - x1 == pytest.approx(93, abs=8)
    assert y2 - y1 == pytest.approx(84, abs=10)
    assert (x1 + x2) / 2 == pytest.approx(610, abs=12)


def test_heading_left_looks_left_in_the_camera_too():
    (label,) = labels_of(car_at(15.0, 0.0, np.pi / 2))
    assert abs(abs(label.yaw) - np.pi) < 0.01  # x of the camera points right, so left is pi
    (side,) = labels_of(car_at(15.0, 5.0))
    assert side.alpha == pytest.approx(side.yaw - np.arctan2(side.center[0], side.center[2]), abs=1e-6)


@pytest.mark.parametrize(("share", "occluded"), [(0.0, 0), (0.3, 1), (0.65, 2), (0.9, 3)])
def test_occlusion_is_the_hidden_share(share: float, occluded: int):
    """A wall at 8.9 m hides a share of the car's rear, which is 1.66 m wide and 13 m away."""
    edge = (-0.83 + 1.66 * share) * 8.9 / 13
    car, barrier = car_at(15.0, 0.0), wall(9.0, width=2.0, y=edge - 1.0, height=3.0)
    (label,) = labels_of(car, barrier)
    assert (label.cared, label.occluded) == (True, occluded)


def test_hidden_objects_have_no_label():
    assert labels_of(car_at(15.0, 0.0), wall(9.0, width=6.0, height=3.0)) == []


def test_truncation_at_the_border_of_the_picture():
    (whole,) = labels_of(car_at(12.0, 6.5))
    (cut,) = labels_of(car_at(8.0, 6.5))
    assert whole.truncated == 0.0
    assert 0.3 < cut.truncated < 0.9
    assert cut.box[0] == 0.0
    assert labels_of(car_at(4.5, 9.0)) == []  # wholly outside of the picture


def test_objects_outside_the_range_are_dont_care():
    (label,) = labels_of(car_at(55.0, 0.0))
    assert not label.cared
    assert label.line().split()[0] == "DontCare"
    assert len(label.line().split()) == 15


def test_picture_shows_the_car_where_its_box_is():
    scene = scene_of(car_at(12.0, 2.0))
    solids = Solids.of(scene.things)
    seen = look(scene, solids)
    image = paint(scene, solids, seen)
    assert image.shape == (375, 1242, 3)
    (label,) = make_labels(
        scene.things, scan(scene, solids, CLEAN, np.random.default_rng(0)), seen, calibration(), CLEAN
    )
    rows, columns = np.nonzero(seen.solid != NOTHING)
    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 2
    np.testing.assert_allclose(drawn, label.box, atol=5)  # the box is 3 cm larger than the car
    assert image[2, 600, 2] > image[370, 600, 2]  # a blue sky over a grey road


# ---------------------------------------------------------------------------------------------- files


def test_files_parse_and_agree(town: Path):
    folder = town / "training"
    for path in sorted((folder / "velodyne").iterdir()):
        name = path.stem
        points, calib = read_cloud(path), read_calib(folder / "calib" / f"{name}.txt")
        labels, plane = read_labels(folder / "label_2" / f"{name}.txt"), read_plane(folder / "planes" / f"{name}.txt")
        assert read_image_size(folder / "image_2" / f"{name}.png") == ((375, 1242), True)
        assert 15_000 < len(points) < 29_000
        assert (folder / "image_2" / f"{name}.png").stat().st_size < 100_000
        boxes = camera_to_lidar(labels.boxes, calib.lidar2cam)
        cared = np.array([name != "DontCare" for name in labels.names])
        counts = points_in_boxes(points, boxes.astype(np.float32)).sum(axis=0)
        for level, least in ((0, 25), (1, 11), (2, 5)):  # one below the generator's: its count is of a thing's own
            assert (counts[cared & (labels.occluded == level)] >= least).all()
        # Every 2D box is the projection of its 3D box, clipped to the picture.
        for i in np.flatnonzero(cared):
            np.testing.assert_allclose(project(labels.boxes[i], calib.p[2]), labels.bbox[i], atol=0.02)
        # Boxes stand on the road, or on a pavement 12 cm above it; waves lift it by some centimetres.
        height = labels.boxes[cared, :3] @ plane[:3] + plane[3]
        assert height.min() > -0.1
        assert height.max() < 0.25
        x, y = boxes[cared, 0], boxes[cared, 1]
        assert ((x > 0) & (x < 40.96) & (np.abs(y) < 20.48)).all()


def project(box: np.ndarray, p2: np.ndarray) -> np.ndarray:
    """The 2D box of a camera box (x, y, z, l, h, w, ry), corner by corner."""
    x, y, z, long, high, wide, turn = box
    pixels = []
    for a in (-0.5, 0.5):
        for b in (-0.5, 0.5):
            for up in (0, -1):
                corner = np.array([
                    x + a * long * np.cos(turn) + b * wide * np.sin(turn),
                    y + up * high,
                    z - a * long * np.sin(turn) + b * wide * np.cos(turn),
                    1.0,
                ])  # fmt: skip
                u, v, w = (p2 @ corner)[:3]
                pixels.append((u / w, v / w))
    low, high_ = np.min(pixels, axis=0), np.max(pixels, axis=0)
    return np.clip([*low, *high_], 0, [1241, 374, 1241, 374])


def test_points_of_cars_lie_in_their_boxes():
    own, inside = 0, 0
    for index in range(3):
        frame = Frame(SMALL, "train", index)
        for number, thing in enumerate(frame.scene.things):
            if thing.label == "Car":
                points = frame.scan.points[frame.scan.thing == number]
                box = np.array([[*thing.center, *thing.size, thing.yaw]], np.float32)
                own += len(points)
                inside += int(points_in_boxes(points, box).sum())
    assert own > 2000
    assert inside / own > 0.98


def test_frames_have_enough_labelled_objects(town: Path):
    counts = {}
    for path in sorted((town / "training" / "label_2").iterdir()):
        labels = read_labels(path)
        for name, level in zip(labels.names, labels.difficulty, strict=True):
            counts[name, int(level)] = counts.get((name, int(level)), 0) + 1
    frames = 20
    for name, least in (("Car", 4.0), ("Pedestrian", 1.5), ("Cyclist", 1.5)):
        assert sum(counts.get((name, level), 0) for level in (0, 1)) / frames > least
    assert counts["DontCare", -1] > 0


def test_things_do_not_overlap():
    for seed in range(3):
        scene = make_scene(SMALL, np.random.default_rng(seed))
        solid = [t for t in scene.things if t.kind != "kerb"]
        corners = bev_corners(np.array([[*t.center[:2], *t.size[:2], t.yaw] for t in solid]))
        assert (overlaps(corners, corners) == np.eye(len(solid), dtype=bool)).all()


# ---------------------------------------------------------------------------------------------- which town


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_whatever_the_number_of_processes(town: Path, tmp_path: Path):
    few = replace(SMALL, num_train=4, num_val=1)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    list(write_town(one, few))
    list(write_town(two, few, workers=2))
    assert digests(one) == digests(two)
    # A town with more frames begins with the same ones.
    first = (one / "training" / "velodyne" / "000003.bin").read_bytes()
    assert first == (town / "training" / "velodyne" / "000003.bin").read_bytes()


def test_splits_share_no_frame(town: Path):
    names = frame_names(SMALL)
    assert len(names["train"]) == 16
    assert len(names["val"]) == 4
    assert not set(names["train"]) & set(names["val"])
    for split in ("train", "val"):
        assert (town / "ImageSets" / f"{split}.txt").read_text().split() == names[split]
    assert (town / "ImageSets" / "trainval.txt").read_text().split() == names["train"] + names["val"]
    for folder in ("velodyne", "label_2", "image_2"):
        seen = [sha256(path.read_bytes()).hexdigest() for path in (town / "training" / folder).iterdir()]
        assert len(seen) == 20 == len(set(seen))


def test_another_seed_is_another_town():
    one, other = (make_scene(SMALL, np.random.default_rng([seed, 0, 0])) for seed in (0, 1))
    assert one.street != other.street


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"sed": 1}, "did you mean 'seed'"),
        ({"cars": 5}, r"town\.cars .*got 5"),
        ({"cars": [9, 3]}, "least <= most"),
        ({"cars": [1, 2, 3]}, r"town\.cars .*least"),
        ({"num_train": 0}, r"town\.num_train .*at least 1"),
        ({"num_val": 2.5}, "an integer.*got 2.5"),
        ({"range_m": [0, 1, 5, 2]}, r"town\.range_m .*x1 of 20"),
        ({"images": 1}, r"town\.images .*got 1"),
        ({"drop_rate": "much"}, "a number.*got 'much'"),
        ({"drop_rate": 0.95}, r"drop_rate.*at most 0\.9"),
        ({"seed": True}, "an integer.*got True"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], hint: str):
    with pytest.raises(InputError, match=hint):
        TownSettings.read(given)


def test_settings_return_from_their_file():
    settings = TownSettings.read({"seed": 4, "cars": [3, 5], "range_m": [0, -20, 40, 20]})
    plain = settings.to_dict()
    assert plain.pop("generator") >= 1
    assert TownSettings.read(plain) == settings
