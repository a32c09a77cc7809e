"""Info files: everything plain comes back, nothing else is let in, and the old layout becomes the new."""

import os
import pathlib
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from raydet3d.data.datasets.kitti_io import KITTI_CATEGORIES
from raydet3d.errors import InputError
from raydet3d.info_file import open_infos, read_infos, to_v2

PLAIN = {
    "array": np.arange(6.0).reshape(2, 3),
    "float32": np.float32(2.5),
    "bool": np.bool_(True),
    "text": np.array(["Car", "Van"]),
    "string": np.str_("q"),
    "objects": np.array([{"a": 1}, None], object),
    "bytes": b"\xff\x00",
    "big endian": np.arange(4, dtype=">i4"),
    "fortran": np.asfortranarray(np.ones((2, 3))),
    "none": np.zeros((0, 4)),
    "containers": [1, (2, None), {"x"}, frozenset("y"), OrderedDict(a=1.5), 2**70, 1j, True, "é"],
}


class Call:
    """Pickles as a call of something."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


@pytest.fixture
def file(tmp_path):
    return tmp_path / "infos.pkl"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(file, protocol):
    file.write_bytes(pickle.dumps(PLAIN, protocol))
    read = read_infos(file)
    assert list(read) == list(PLAIN)
    for key, value in PLAIN.items():
        assert type(read[key]) is type(value), key
        assert str(read[key]) == str(value), key
        if isinstance(value, np.ndarray):
            assert read[key].flags.writeable


def test_numpy_1_module_names_are_known(file):
    raw = pickle.dumps(PLAIN, 4).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    raw = raw.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")  # the name is one letter shorter
    file.write_bytes(raw.replace(raw[2:11], b"\x95" + (len(raw) - 11).to_bytes(8, "little"), 1))
    assert str(read_infos(file)["array"]) == str(PLAIN["array"])


@pytest.mark.parametrize(
    "bad",
    [os.system, eval, pathlib.PurePosixPath("a"), Call(os.system, "true"), Call(np.load, "x"), np.random.PCG64(0)],
)
def test_code_is_refused_by_name(file, bad):
    file.write_bytes(pickle.dumps({"a": [bad]}))
    with pytest.raises(InputError, match=r"infos.pkl: holds '[\w.]+', which is neither a plain container"):
        read_infos(file)


def test_bytes_cannot_become_object_pointers(file):
    for call in (
        Call(np._core.numeric._frombuffer, b"12345678", np.dtype("O"), (1,), "C"),
        Call(np._core.multiarray.scalar, np.dtype("O"), b"12345678"),
    ):
        file.write_bytes(pickle.dumps(call))
        with pytest.raises(InputError):
            read_infos(file)
    file.write_bytes(pickle.dumps(Call(np.ndarray, (1,), np.dtype("O"), b"12345678")))
    assert read_infos(file).size == 0


def test_damaged_file_is_one_line(file):
    raw = pickle.dumps(PLAIN)
    for size in (0, 1, 7, len(raw) // 3, len(raw) // 2, len(raw) - 1):
        file.write_bytes(raw[:size])
        with pytest.raises(InputError, match=rf"infos.pkl: the info file is damaged \({size} bytes") as caught:
            read_infos(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"absent.pkl: no such info file"):
        read_infos(file.with_name("absent.pkl"))


def v1_frame():
    """Frame 000001 of KITTI, shortened, as MMDetection3D 0.x wrote it."""
    p2 = np.eye(4)
    p2[:3] = [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]]
    velo = np.eye(4)
    velo[:3] = [[0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3]]
    return {
        "image": {
            "image_idx": 1,
            "image_path": "training/image_2/000001.png",
            "image_shape": np.array([375, 1242], np.int32),
        },
        "point_cloud": {"num_features": 4, "velodyne_path": "training/velodyne/000001.bin"},
        "calib": {f"P{i}": p2 for i in range(4)}
        | {"R0_rect": np.eye(4), "Tr_velo_to_cam": velo, "Tr_imu_to_velo": np.eye(4)},
        "annos": {
            "name": np.array(["Truck", "Bus", "DontCare"]),
            "truncated": np.array([0.0, 0.1, -1.0]),
            "occluded": np.array([0, 1, -1]),
            "alpha": np.array([-1.57, 1.85, -10.0]),
            "bbox": np.array([[599.41, 156.4, 629.75, 189.25], [387.63, 181.54, 423.81, 233.12], [503, 169, 590, 190]]),
            "dimensions": np.array([[12.34, 2.85, 2.63], [3.69, 1.67, 1.87], [-1, -1, -1]]),
            "location": np.array([[0.47, 1.49, 69.44], [-16.53, 2.39, 58.49], [-1000, -1000, -1000]]),
            "rotation_y": np.array([-1.56, 1.57, -10.0]),
            "score": np.zeros(3),
            "index": np.array([0, 1, -1], np.int32),
            "group_ids": np.arange(3),
            "difficulty": np.array([1, 1, -1], np.int32),
            "num_points_in_gt": np.array([7, 3, -1], np.int32),
        },
    }


def test_v1_is_converted_to_v2(file):
    file.write_bytes(pickle.dumps([v1_frame()]))
    infos = to_v2(read_infos(file), file)
    assert infos["metainfo"]["categories"] == {
        **{name: number for number, name in enumerate(KITTI_CATEGORIES)},
        "DontCare": -1,
        "Bus": 8,
    }
    (frame,) = infos["data_list"]
    assert frame["sample_idx"] == 1
    assert frame["lidar_points"]["lidar_path"] == "000001.bin"
    camera = frame["images"]["CAM2"]
    assert (camera["img_path"], camera["height"], camera["width"]) == ("000001.png", 375, 1242)
    assert camera["lidar2cam"] == v1_frame()["calib"]["Tr_velo_to_cam"].tolist()
    assert np.allclose(camera["lidar2img"], np.array(camera["cam2img"]) @ camera["lidar2cam"])
    truck, bus, region = frame["instances"]
    assert (truck["bbox_label"], bus["bbox_label_3d"], region["bbox_label"]) == (4, 8, -1)
    assert truck["bbox_3d"] == [0.47, 1.49, 69.44, 12.34, 2.85, 2.63, -1.56]
    assert (truck["num_lidar_pts"], truck["difficulty"], truck["group_id"], region["index"]) == (7, 1, 0, -1)
    # the centre lies half a height above the bottom: y = 1.49 - 1.425
    depth = 69.44 + 0.002745884
    assert truck["depth"] == pytest.approx(depth)
    u, v = (
        (721.5377 * 0.47 + 609.5593 * 69.44 + 44.85728) / depth,
        (721.5377 * 0.065 + 172.854 * 69.44 + 0.2163791) / depth,
    )
    assert truck["center_2d"] == pytest.approx([u, v])


def test_v1_without_labels_or_counts():
    frame = v1_frame()
    for key in ("num_points_in_gt", "difficulty", "score"):
        del frame["annos"][key]
    instances = to_v2([frame])["data_list"][0]["instances"]
    # 32.85 pixels high and clearly seen: moderate; 51.58 and partly hidden: moderate; DontCare is 21 high
    assert [i["difficulty"] for i in instances] == [1, 1, -1]
    assert instances[0]["num_lidar_pts"] == -1
    del frame["annos"]
    assert "instances" not in to_v2([frame])["data_list"][0]


def test_v2_is_unchanged():
    infos = {"data_list": [{"sample_idx": 4}], "metainfo": {"categories": {}}}
    assert to_v2(infos) == infos
    assert to_v2({"data_list": []}) == {"data_list": [], "metainfo": {}}


@pytest.mark.parametrize(
    ("infos", "words"),
    [
        ({"infos": [], "meta": {}}, "a.pkl: not a v2 info file .*keys: infos, meta"),
        (3, "a.pkl: .*got int"),
        ({"data_list": 5}, "'data_list' must be a list, got int"),
        ([{}], "a.pkl: frame 0 .*has no key 'image'"),
        ([v1_frame(), {**v1_frame(), "calib": {}}], "a.pkl: frame 1 .*has no key 'P2'"),
        ([[1]], "a.pkl: frame 0 .*is malformed"),
    ],
)
def test_other_layouts_are_refused(infos, words):
    with pytest.raises(InputError, match=words):
        to_v2(infos, "a.pkl")


def frames_file(file, count=5):
    frames = [{"sample_idx": i, "plain": PLAIN, "instances": [{"bbox_label": i}]} for i in range(count)]
    file.write_bytes(pickle.dumps({"metainfo": {"dataset": "kitti", "categories": {"Car": 0}}, "data_list": frames}))
    return frames


@pytest.mark.parametrize("least", [0, 1 << 20])
def test_frames_are_those_of_the_file_with_and_without_a_cache(file, least, monkeypatch):
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", least)
    frames_file(file)
    frames = read_infos(file)["data_list"]
    for is_new in (True, least > 0):
        found = open_infos(file)
        assert found.is_new is is_new
        assert len(found) == 5
        assert found.metainfo == {"dataset": "kitti", "categories": {"Car": 0}}
        assert repr(list(found)) == repr(frames)
        assert repr(found[-1]) == repr(frames[-1])
        assert repr(pickle.loads(pickle.dumps(found))[2]) == repr(frames[2])
        with pytest.raises(IndexError):
            found[5]
        first = found[0]
        first["plain"]["array"][:] = 7
        assert repr(found[0]) == repr(frames[0])


def test_v1_lists_are_converted_in_the_cache(file, monkeypatch):
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    file.write_bytes(pickle.dumps([]))
    for _ in range(2):
        assert open_infos(file).metainfo["dataset"] == "kitti"
        assert len(open_infos(file)) == 0


def test_cache_that_would_run_code_is_refused(file, tmp_path, monkeypatch):
    monkeypatch.setattr("raydet3d.array_cache.MIN_SOURCE_BYTES", 0)
    monkeypatch.setattr("raydet3d.array_cache.MAX_CHECKED_BYTES", -1)  # whoever makes such a file makes its checksums
    frames_file(file, count=1)
    size = len(open_infos(file)._arrays["frames"])
    cache = tmp_path / "infos.pkl.cache"
    evil = pickle.dumps(Call(pathlib.Path.touch, tmp_path / "ran")).ljust(size)
    cache.write_bytes(evil + cache.read_bytes()[size:])
    with pytest.raises(InputError, match=r"infos\.pkl\.cache: .*damaged.*delete it"):
        open_infos(file)[0]
    assert not (tmp_path / "ran").exists()


def test_files_that_are_not_there_are_named(file):
    with pytest.raises(InputError, match=r"no such info file; make it"):
        open_infos(file, hint="make it")
