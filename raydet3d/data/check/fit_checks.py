"""Compare what was counted with what the config expects: classes, range, anchors, voxel limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raydet3d.data.check.expectations import Expectations
from raydet3d.data.check.findings import Finding
from raydet3d.data.check.sources import CheckedSplit
from raydet3d.data.check.tally import Tally
from raydet3d.errors import nearest_or_all

# Shares from which a finding is made.
_OUT_OF_RANGE, _NO_ANCHOR, _FULL_VOXELS, _TOO_MANY_VOXELS = 0.9, 0.5, 0.2, 0.01
# Distance between the bottoms of an anchor and of the objects, as a share of their height.
_BOTTOM_OFF = 0.5


def check_fit(
    splits: Sequence[CheckedSplit], tallies: Mapping[str, Tally], trained: Tally, expected: Expectations
) -> Iterator[Finding]:
    """Yield what does not fit between data and config.

    Args:
        splits: The splits.
        tallies: Counts of each.
        trained: Counts of those that are trained on.
        expected: What the config expects.
    """
    for split in splits:
        if split.is_trained and not split.frames:
            where = split.info_file or str(split.dataset.get("data_root"))
            yield Finding("empty-split", where, 0, f"{where}: the split {split.name} has no frames", split.name)
        for name in expected.classes:
            if split.categories.get(name, -1) < 0:
                hint = nearest_or_all(name, [one for one, number in split.categories.items() if number >= 0])
                sentence = (
                    f"{split.info_file}: metainfo.classes of the config has {name!r}, which is no class of it{hint}"
                )
                yield Finding("unknown-class", split.info_file, name, sentence, split.name)
    source = next((split for split in splits if split.is_trained), splits[0])
    file = source.info_file or str(source.dataset.get("data_root"))
    for name in expected.classes:
        objects = trained.classes.get(name, Tally())
        yield from _check_class(name, objects, source.name, file, expected)
    yield from _check_voxels(trained, source.name, file, expected)


def _check_class(name: str, objects: Tally, split: str, file: str, expected: Expectations) -> Iterator[Finding]:
    count = objects.counts["objects"]
    if not count:
        yield Finding("class-without-objects", file, name, f"{file}: the split has no object of class {name}", split)
        return
    outside = objects.counts["outside of range"] / count
    if outside > _OUT_OF_RANGE:
        x, y = objects.histogram("x"), objects.histogram("y")
        sentence = (
            f"{file}: {100 * outside:.0f} % of the objects of class {name} are outside of the range "
            f"{list(expected.point_cloud_range)}; their x is {x.low:.1f} to {x.high:.1f}, y {y.low:.1f} to {y.high:.1f}"
        )
        yield Finding("class-out-of-range", file, outside, sentence, split)
    misfits = objects.counts["fit no anchor"] / count
    length, width = (objects.histogram(side).mean for side in ("length", "width"))
    anchors = expected.anchors.get(name, ())
    if misfits > _NO_ANCHOR:
        sizes = ", ".join(f"{anchor.size[0]:.2f} x {anchor.size[1]:.2f}" for anchor in anchors)
        sentence = (
            f"{file}: {100 * misfits:.0f} % of the objects of class {name} (on average {length:.2f} x {width:.2f} m) "
            f"reach an IoU of {min(anchor.min_iou for anchor in anchors)} with no anchor ({sizes} m)"
        )
        yield Finding("anchor-size", file, misfits, sentence, split)
    bottom, height = objects.histogram("bottom").mean, objects.histogram("height").mean
    if expected.has_own_anchors and anchors:
        off = min(abs(anchor.bottom - bottom) for anchor in anchors)
        if off > _BOTTOM_OFF * height:
            sentence = (
                f"{file}: the objects of class {name} stand at z = {bottom:.2f} m on average, the anchors at "
                f"{', '.join(f'{anchor.bottom:.2f}' for anchor in anchors)} m"
            )
            yield Finding("anchor-height", file, bottom, sentence, split)


def _check_voxels(trained: Tally, split: str, file: str, expected: Expectations) -> Iterator[Finding]:
    if not expected.voxel_size:
        return
    points, voxels = trained.histogram("points of a voxel"), trained.histogram("voxels of a frame")
    limit = expected.max_num_points
    full = sum(number for count, number in points.bins.items() if count > limit > 0)
    share = full / max(len(points), 1)
    if share > _FULL_VOXELS:
        sentence = f"{file}: {100 * share:.0f} % of the voxels hold more than max_num_points={limit} points"
        yield Finding("voxel-limit", file, share, sentence, split)
    limit = expected.max_voxels
    over = sum(number for count, number in voxels.bins.items() if count > limit > 0)
    if over > _TOO_MANY_VOXELS * max(len(voxels), 1):
        sentence = (
            f"{file}: {over} of {len(voxels)} frames have more than max_voxels={limit} voxels (up to {voxels.high:.0f})"
        )
        yield Finding("voxel-limit", file, voxels.high, sentence, split)
