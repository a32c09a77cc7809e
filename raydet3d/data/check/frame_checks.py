"""Check one frame: its entry in the info file, its objects, its point cloud, and all of them against the config.

Boxes are (x, y, z of the bottom centre, dx, dy, dz, yaw) in the LiDAR frame. Legend: N points · C columns · K boxes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from raydet3d.config import ConfigDict
from raydet3d.data.check.expectations import Expectations, loading_steps
from raydet3d.data.check.findings import Finding
from raydet3d.data.check.tally import Tally
from raydet3d.data.dataset import Det3DDataset
from raydet3d.data.pipeline import Compose, Sample
from raydet3d.data.prepare.preparers import RawFrame
from raydet3d.data.seeded import seed_generators
from raydet3d.errors import InputError, nearest_or_all
from raydet3d.info_file import Instance
from raydet3d.ops.points import points_in_boxes
from raydet3d.registry import DATASETS

Floats = NDArray[np.float64]
Points = NDArray[np.float32]

# A box or a point beyond these is taken for a mistake: metres, metres, radians (degrees exceed 10 almost always).
MAX_COORDINATE_M, MAX_SIZE_M, MAX_ANGLE = 1000.0, 100.0, 10.0
PILLAR_M = 0.16
"""Size of the pillars that are counted where no config says one."""
_MARK = "check_index"  # carries an object's number through the data set's parser


class FrameReader:
    """Reads the frames of a split as its data set does, but with the objects of all categories.

    Args:
        dataset: Config of the data set; the transforms at the beginning of its pipeline that load points are used.
        categories: Number of each category of the info file; -1 for what is no object.
    """

    def __init__(self, dataset: ConfigDict, categories: Mapping[str, int]) -> None:
        steps = loading_steps(dataset.get("pipeline") or ())
        self.names = [name for name, number in categories.items() if number >= 0]
        self.categories = dict(categories)
        self.name_of = {number: name for name, number in categories.items() if number >= 0}
        metainfo = {**(dataset.get("metainfo") or {}), "classes": self.names}
        metainfo.pop("CLASSES", None)
        self.dataset: Det3DDataset = DATASETS.build(
            {
                **dataset,
                "metainfo": metainfo,
                "pipeline": [],
                "test_mode": False,
                "lazy_init": True,
                "box_type_3d": "LiDAR",
            }
        )
        self.dataset.set_categories(categories)
        self.first_step = Compose(steps[:1]) if steps else _load_columns(4)
        self.later_steps = Compose(steps[1:])
        self.keeps_all_columns = not steps or steps[0].get("use_dim") == steps[0].get("load_dim", 6)
        self.has_own_steps = bool(steps)


def _load_columns(count: int) -> Compose:
    return Compose([{"type": "LoadPointsFromFile", "load_dim": count, "use_dim": count}])


@dataclass
class Frame:
    """A frame as it is checked.

    Args:
        split: Name of its split.
        index: Its position there.
        source: Where it is read from.
        info_file: Info file that describes it; empty for raw frames.
    """

    split: str
    index: int
    source: RawFrame
    info_file: str = ""

    @property
    def label_file(self) -> str:
        """Return the file that its objects are in: the info file, or the last of its raw files."""
        return self.info_file or str(self.source.files()[-1])

    def finding(self, kind: str, file: str | Path, value: object, sentence: str, thing: int | None = None) -> Finding:
        """Return a finding about this frame."""
        return Finding(kind, str(file), cast(float, value), sentence, self.split, self.index, thing)


@dataclass
class FrameResult:
    """What the check of a frame found.

    Args:
        findings: What is wrong.
        digest: Digest of its cloud; empty where that could not be read or has no points.
    """

    findings: list[Finding]
    digest: str = ""


@dataclass
class LoadedFrame:
    """A frame's sound objects and its points, for checks and pictures.

    Args:
        cloud: Path of the cloud.
        points: (N, C) as the pipeline loads them; (0, 4) where they cannot be read.
        boxes: (K, 7).
        names: Class of each box.
        numbers: Position of each box among the frame's objects.
        digest: Digest of the cloud itself, without sweeps.
    """

    cloud: str
    points: Points
    boxes: Floats
    names: list[str]
    numbers: list[int]
    digest: str = ""


def check_frame(frame: Frame, reader: FrameReader, expected: Expectations, tally: Tally) -> FrameResult:
    """Check a frame and count it.

    Args:
        frame: The frame.
        reader: Reads the frames of its split.
        expected: What the config expects.
        tally: Counts of its split; they are increased.
    """
    tally.counts["frames"] += 1
    findings: list[Finding] = []
    loaded = load_frame(frame, reader, findings)
    if loaded is None:
        return FrameResult(findings)
    findings += check_points(loaded.points, frame, loaded.cloud, expected, tally) if loaded.digest else []
    findings += check_boxes(loaded, frame, expected, tally)
    return FrameResult(findings, loaded.digest)


def load_frame(frame: Frame, reader: FrameReader, findings: list[Finding]) -> LoadedFrame | None:
    """Read a frame's objects and points; append what is wrong with its files. None if its entry cannot be read."""
    missing = [path for path in frame.source.files() if not path.is_file()]
    findings += [frame.finding("missing-file", path, path.name, f"{path}: no such file") for path in missing]
    if any(path in missing for path in frame.source.files()[1:]):
        return None
    try:
        info = frame.source.read()
    except InputError as error:
        findings.append(frame.finding("bad-file", frame.label_file, str(error), str(error)))
        return None
    try:
        instances = list(info.get("instances") or ())
        sound = [i for i, bad in enumerate(_find_bad(instances, frame, reader, findings)) if not bad]
        # Marked as seen by the LiDAR, so that data sets that leave out objects without points show all of them.
        seen = {"num_lidar_pts": 1, "bbox_3d_isvalid": True}
        own = [cast(Instance, {**instances[i], **seen, _MARK: i}) for i in sound]
        sample = reader.dataset.parse_data_info({**info, "instances": own})
        sample = sample[0] if isinstance(sample, list) else sample
    except (InputError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"has no key {error}" if type(error) is KeyError else f"is malformed: {error}"
        sentence = f"{frame.label_file}: frame {frame.index} {what}"
        findings.append(frame.finding("bad-entry", frame.label_file, str(error), sentence))
        return None
    boxes, names, numbers = _objects(sample, reader)
    loaded = LoadedFrame(str(sample.get("lidar_path", "")), np.zeros((0, 4), np.float32), boxes, names, numbers)
    if not missing:
        _load_points(sample, loaded, frame, reader, findings)
    return loaded


def _load_points(
    sample: Sample, loaded: LoadedFrame, frame: Frame, reader: FrameReader, findings: list[Finding]
) -> None:
    """Set the points and the digest of a frame; append what is wrong with its cloud."""
    path = loaded.cloud
    if not Path(path).is_file():
        findings.append(frame.finding("missing-file", path, Path(path).name, f"{path}: no such point cloud"))
        return
    columns = sample.get("num_pts_feats")
    if not reader.has_own_steps and isinstance(columns, int) and columns != 4:
        reader.first_step = _load_columns(columns)
    try:
        sample = reader.first_step(sample)
        points: Points = sample["points"]
        guess = guess_columns(points) if reader.keeps_all_columns else None
        if guess is not None:
            sentence = (
                f"{path}: read with {points.shape[1]} numbers a point, its columns cannot be told apart; "
                f"with {guess} they can: it probably has {guess}"
            )
            findings.append(frame.finding("wrong-columns", path, guess, sentence))
        elif len(points):
            loaded.digest = hashlib.blake2b(np.ascontiguousarray(points).data, digest_size=8).hexdigest()
        else:
            findings.append(frame.finding("empty-cloud", path, 0, f"{path}: the cloud has no points"))
        seed_generators(frame.index)  # later transforms may draw some of the sweeps
        loaded.points = reader.later_steps(sample)["points"]
    except (InputError, ValueError, KeyError) as error:
        findings.append(frame.finding("bad-file", path, Path(path).stat().st_size, str(error)))


def _find_bad(
    instances: Sequence[Instance], frame: Frame, reader: FrameReader, findings: list[Finding]
) -> Iterator[bool]:
    """Yield for each object whether it cannot be used; append the reasons."""
    file = frame.label_file
    for i, instance in enumerate(instances):
        number = int(instance["bbox_label_3d"])
        given = cast(dict[str, object], instance).get("name")
        name = str(given) if given is not None else reader.name_of.get(number, "")
        place = f"{file}: object {i} of frame {frame.index}"
        known = name in reader.categories if given is not None else number == -1 or number in reader.name_of
        if not known:
            hint = nearest_or_all(name, reader.names)
            what = f"its class {name!r} is unknown" if given is not None else f"its label {number} is unknown"
            value = name if given is not None else number
            findings.append(frame.finding("unknown-label", file, value, f"{place}: {what}{hint}", i))
        if number < 0 or not known:
            yield True
            continue
        box = np.asarray(instance["bbox_3d"], dtype=np.float64)
        reason = _what_is_wrong(box)
        if reason is not None:
            kind, value_at_fault, sentence = reason
            findings.append(frame.finding(kind, file, value_at_fault, f"{place} ({name}): {sentence}", i))
        yield reason is not None


def _what_is_wrong(box: Floats) -> tuple[str, float | list[float], str] | None:
    """Return kind, value and reason of what is wrong with a box, which holds in any frame; None if it is sound."""
    size = [round(float(side), 4) for side in box[3:6]]
    if len(box) < 7 or not np.isfinite(box[:7]).all():
        return "nonfinite-box", box[:7].tolist(), "its box has a number that is not finite, or fewer than 7 numbers"
    if (box[3:6] <= 0).any():
        return "bad-size", size, f"its size is {size}; every side must be above 0"
    if (np.abs(box[:3]) > MAX_COORDINATE_M).any():
        where = box[:3].round(3).tolist()
        return "absurd-coordinate", where, f"its position is {where}, beyond {MAX_COORDINATE_M:.0f} m (other units?)"
    if (box[3:6] > MAX_SIZE_M).any():
        return "absurd-size", size, f"its size is {size}, above {MAX_SIZE_M:.0f} m (other units?)"
    if abs(box[6]) > MAX_ANGLE:
        yaw = round(float(box[6]), 4)
        return "absurd-yaw", yaw, f"its heading is {yaw}, above {MAX_ANGLE:.0f} (degrees instead of radians?)"
    return None


def _objects(sample: Sample, reader: FrameReader) -> tuple[Floats, list[str], list[int]]:
    """Return (K, 7) boxes in the LiDAR frame, their classes, and their positions among the frame's objects."""
    annotation = sample["ann_info"]
    boxes = annotation["gt_bboxes_3d"]
    rows = np.asarray(boxes if isinstance(boxes, np.ndarray) else boxes.numpy(), dtype=np.float64)[:, :7]
    names = [reader.names[label] for label in annotation["gt_labels_3d"].tolist()]
    return rows.reshape(-1, 7), names, annotation.get(_MARK, np.zeros(0, np.int64)).tolist()


def check_points(points: Points, frame: Frame, path: str, expected: Expectations, tally: Tally) -> Iterator[Finding]:
    """Yield what is wrong with a cloud that has points; count them."""
    count = len(points)
    tally.counts["clouds"] += 1
    tally.measure("points of a frame", [count], limit=1e9)
    finite = np.isfinite(points).all(1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        sentence = (
            f"{path}: {count - int(finite.sum())} of {count} points are not finite (first: point {bad}, "
            f"{points[bad].tolist()})"
        )
        yield frame.finding("nonfinite-points", path, points[bad].tolist(), sentence)
        points = points[finite]
        if not len(points):
            return
    far = (np.abs(points[:, :3]) > MAX_COORDINATE_M).any(1)
    if far.any():
        worst = float(np.abs(points[:, :3]).max())
        sentence = f"{path}: {int(far.sum())} of {count} points are beyond {MAX_COORDINATE_M:.0f} m (up to {worst:.4g})"
        yield frame.finding("absurd-points", path, worst, sentence)
        points = points[~far]
        if not len(points):
            return
    for axis, name in enumerate("xyz"):
        tally.measure(name, points[:, axis], limit=500)
    low, high = expected.point_cloud_range[:3], expected.point_cloud_range[3:]
    if low:
        corners = np.array((low, high), dtype=np.float32)
        inside = ((points[:, :3] >= corners[0]) & (points[:, :3] < corners[1])).all(1)
        tally.counts["points"] += count
        tally.counts["points in range"] += int(inside.sum())
        if not inside.any():
            spans = ", ".join(f"{points[:, i].min():.4g} to {points[:, i].max():.4g}" for i in range(3))
            sentence = f"{path}: no point is in the range {list(expected.point_cloud_range)}; x, y, z are {spans}"
            yield frame.finding("no-points-in-range", path, spans, sentence)
        points = points[inside]
    origin = np.array(low or (-MAX_COORDINATE_M,) * 3)
    _count_voxels(points, origin, expected.voxel_size or (PILLAR_M, PILLAR_M, 2 * MAX_COORDINATE_M), tally)


def _count_voxels(points: Points, low: Floats, size: Sequence[float], tally: Tally) -> None:
    cells = np.floor((points[:, :3] - low.astype(np.float32)) / np.array(size, dtype=np.float32)).astype(np.int64)
    _, counts = np.unique((cells[:, 2] * 100_000 + cells[:, 1]) * 100_000 + cells[:, 0], return_counts=True)
    tally.measure("voxels of a frame", [len(counts)], limit=1e9)
    tally.measure("points of a voxel", counts, limit=1e9)


def guess_columns(points: Points) -> int | None:
    """Return the number of columns that a cloud probably has, if it was read with a wrong one, else None.

    Numbers of different meaning have different spreads: x, y against z against intensity. Read with a wrong number of
    columns, every column holds a mixture of several, so their spreads are less different.
    """
    read = points.shape[1]
    if len(points) < 64 or not np.isfinite(points).all():
        return None
    numbers, own = points.ravel(), _contrast(points)
    if own > 100:
        return None
    # A multiple of the right number tells columns apart as well, so it is no reason to doubt what was read.
    found = {c: _contrast(numbers.reshape(-1, c)) for c in range(3, 11) if c % read and not len(numbers) % c}
    best = max(found.values(), default=0.0)
    return min((c for c, contrast in found.items() if contrast > best / 2), default=None) if best > 5 * own else None


def _contrast(points: Points) -> float:
    spread = np.std(points, axis=0, dtype=np.float64)
    return float(spread.max() / max(spread.min(), 1e-9))


def check_boxes(loaded: LoadedFrame, frame: Frame, expected: Expectations, tally: Tally) -> Iterator[Finding]:
    """Yield what is suspicious about a frame's sound boxes; count them."""
    boxes, names = loaded.boxes, loaded.names
    tally.counts["frames with objects"] += bool(len(boxes))
    tally.measure("objects of a frame", [len(boxes)])
    file = frame.label_file
    if not len(boxes):
        return

    def place(k: int) -> str:
        where = ", ".join(f"{value:.2f}" for value in boxes[k, :3])
        return f"{file}: object {loaded.numbers[k]} of frame {frame.index} ({names[k]} at {where})"

    trained = set(expected.classes or names)
    low, high = expected.point_cloud_range[:2], expected.point_cloud_range[3:5]
    # As ObjectRangeFilter decides: by the centre on the ground.
    inside = (boxes[:, :2] > low) & (boxes[:, :2] < high) if low else np.ones((len(boxes), 2), dtype=np.bool_)
    outside = np.asarray(~inside.all(axis=1))
    num_points = np.full(len(boxes), -1)
    if loaded.digest:
        num_points = points_in_boxes(loaded.points[np.isfinite(loaded.points[:, :3]).all(1)].astype(float), boxes).sum(
            0
        )
    twice = _repeated(boxes, names)
    for k, name in enumerate(names):
        if name not in trained:
            continue
        number, where = loaded.numbers[k], boxes[k, :3].tolist()
        if twice[k]:
            yield frame.finding("duplicate-box", file, where, f"{place(k)}: the same box is there twice", number)
        if num_points[k] == 0:
            yield frame.finding("box-without-points", file, 0, f"{place(k)}: no point is in its box", number)
        if outside[k]:
            sentence = f"{place(k)}: its centre is outside of the range {list(expected.point_cloud_range)}"
            yield frame.finding("box-outside-range", file, where, sentence, number)
    _count_objects(boxes, names, num_points, outside, expected, tally)


def _repeated(boxes: Floats, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which boxes are equal to an earlier one of the same class, to a centimetre."""
    seen: set[tuple[object, ...]] = set()
    out = np.zeros(len(boxes), dtype=bool)
    for k, (name, row) in enumerate(zip(names, boxes.round(2).tolist(), strict=True)):
        key = (name, *row)
        out[k] = key in seen
        seen.add(key)
    return out


def _count_objects(
    boxes: Floats,
    names: Sequence[str],
    num_points: NDArray[np.int64],
    outside: NDArray[np.bool_],
    expected: Expectations,
    tally: Tally,
) -> None:
    """Add a frame's objects to the tallies of their classes."""
    kinds = np.array(names)
    for name in dict.fromkeys(names):
        own = kinds == name
        here, count = tally.of_class(name), int(own.sum())
        rows = boxes[own]
        here.counts["objects"] += count
        here.counts["frames"] += 1
        here.counts["outside of range"] += int(outside[own].sum())
        columns = {"length": 3, "width": 4, "height": 5, "bottom": 2, "x": 0, "y": 1, "yaw": 6}
        for what, column in columns.items():
            here.measure(what, rows[:, column])
        here.measure("top", rows[:, 2] + rows[:, 5])
        here.measure("distance", np.hypot(rows[:, 0], rows[:, 1]))
        if (num_points[own] >= 0).all():
            here.counts["without points"] += int((num_points[own] == 0).sum())
            here.measure("points of a box", num_points[own], limit=1e9)
        if name in expected.anchors:
            fits = [_aligned_iou(rows[:, 3:5], anchor.size[:2]) >= anchor.min_iou for anchor in expected.anchors[name]]
            here.counts["fit no anchor"] += count - int(np.any(fits, axis=0).sum())


def _aligned_iou(sizes: Floats, size: Sequence[float]) -> Floats:
    """Return the IoU on the ground of (K, 2) rectangles with another one that has the same centre and heading."""
    both = np.minimum(sizes, size).prod(1)
    iou: Floats = both / (sizes.prod(1) + np.prod(size) - both)
    return iou
