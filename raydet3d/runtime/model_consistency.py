"""Contradictions inside of `model` and with the data pipelines: grids, ranges, anchors, box codes, channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from raydet3d.runtime.contradiction import Contradiction, Section, error, items, numbers, warning

_PREFIXES = ("", "pts_")
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# Data sets whose boxes have no velocity.
_WITHOUT_VELOCITY = ("KittiDataset", "TownDataset")
_TOLERANCE = 1e-3


def find_model_contradictions(
    root: Section, model: Section, classes: tuple[str, Sequence[str]] | None
) -> Iterator[Contradiction]:
    """Yield the contradictions of a model.

    Args:
        root: The config.
        model: Its `model`.
        classes: Where the class names are, and the names; None where the config does not say.
    """
    grid = _Grid.read(model)
    if grid is not None:
        for prefix in _PREFIXES:
            yield from grid.check_encoders(model, prefix)
            yield from grid.check_maps(model, prefix)
            yield from grid.check_center_cfgs(model, prefix)
        yield from grid.check_anchor_ranges(model)
        yield from grid.check_pipelines(root)
    for head in model.walk():
        yield from _check_anchors(model, head, classes)
        yield from _check_center_code(model, head)
    yield from _check_velocity(root, model)
    for prefix in _PREFIXES:
        yield from _check_channels(model, prefix)
    yield from _check_point_dims(root, model)


def _differ(one: Sequence[float], other: Sequence[float]) -> bool:
    return any(abs(a - b) > _TOLERANCE for a, b in zip(one, other, strict=True))


class _Grid:
    """The voxel grid of `data_preprocessor.voxel_layer`.

    Args:
        place: Key of the voxel layer.
        limits: x0, y0, z0, x1, y1, z1 of the range, metres.
        voxel: Size of a voxel, metres.
    """

    def __init__(self, place: str, limits: list[float], voxel: list[float]) -> None:
        self.place, self.limits, self.voxel = place, limits, voxel
        self.low, self.high = limits[:3], limits[3:]
        self.exact = [(b - a) / v for a, b, v in zip(self.low, self.high, voxel, strict=True)]  # voxels in x, y, z
        self.size = [round(count) for count in self.exact]

    @classmethod
    def read(cls, model: Section) -> _Grid | None:
        """Return the grid of a model; None without voxels in metres."""
        preprocessor = model.section("data_preprocessor")
        layer = preprocessor.section("voxel_layer")
        limits, voxel = layer.numbers("point_cloud_range", 6), layer.numbers("voxel_size", 3)
        is_cartesian = preprocessor.get("voxel_type") not in ("cylindrical", "minkunet")
        return cls(layer.path, limits, voxel) if limits and voxel and min(voxel) > 0 and is_cartesian else None

    def check_encoders(self, model: Section, prefix: str) -> Iterator[Contradiction]:
        """Compare the grid with the settings of voxel encoder and middle encoder."""
        if any(abs(e - n) > 0.01 for e, n in zip(self.exact, self.size, strict=True)):
            counts = [round(e, 2) for e in self.exact]
            yield warning(f"{self.place}: point_cloud_range is no multiple of voxel_size ({counts} voxels)")
        encoder = model.section(f"{prefix}voxel_encoder")
        for key, own in (("voxel_size", self.voxel), ("point_cloud_range", self.limits)):
            told = encoder.numbers(key, len(own))
            if told and _differ(told, own):
                yield error(f"{encoder.key(key)}={told} differs from {self.place}.{key}={own}")
        middle = model.section(f"{prefix}middle_encoder")
        wanted = [self.size[1], self.size[0]]
        shape, sparse = middle.numbers("output_shape", 2), middle.numbers("sparse_shape", 3)
        if middle.kind == "PointPillarsScatter" and shape and shape != wanted:
            yield self._differs(middle.key("output_shape"), shape, f"{wanted} (y, x)")
        # The published encoders have one layer more in z than there are voxels.
        if sparse and (sparse[1:] != wanted or sparse[0] - self.size[2] not in (0, 1)):
            yield self._differs(middle.key("sparse_shape"), sparse, f"{[self.size[2] + 1, *wanted]} (z + 1, y, x)")

    def check_maps(self, model: Section, prefix: str) -> Iterator[Contradiction]:
        """Refuse pillars in several layers, and a grid of which SECOND makes maps that SECONDFPN cannot join."""
        middle, backbone, neck, head = (
            model.section(f"{prefix}{name}") for name in ("middle_encoder", "backbone", "neck", "bbox_head")
        )
        if middle.kind == "PointPillarsScatter" and self.size[2] != 1:
            yield error(
                f"{self.place}: voxel_size={self.voxel} makes {self.size[2]} layers of the height "
                f"{self.low[2]:g} to {self.high[2]:g} of point_cloud_range, but {middle.path} has room for one: give "
                f"pillars a height of {self.high[2] - self.low[2]:g}"
            )
        strides, up = _strides(backbone, neck)
        reduction = _encoder_stride(middle)
        if reduction is None or not strides or not up:
            return
        unit = reduction * math.prod(int(stride) for stride in strides)
        total = _stride(model, prefix)
        for axis, cells in zip("xy", self.size[:2], strict=True):
            side, maps = -(-cells // reduction), []
            for stride, factor in zip(strides, up, strict=False):
                side = math.ceil(side / stride)
                maps.append(int(side * factor) if factor >= 1 else side // round(1 / factor))
            # The targets of CenterHead have a map of their own.
            is_cut = head.kind == "CenterHead" and total is not None and maps[0] != cells // total
            if len(set(maps)) > 1 or is_cut:
                below = cells // unit * unit
                yield error(
                    f"{self.place} makes a grid of {cells} cells along {axis}, and {backbone.path} and {neck.path} "
                    f"maps of {', '.join(map(str, maps))} cells, which do not fit together: the side of "
                    f"point_cloud_range divided by voxel_size must be a multiple of {unit}, such as "
                    f"{f'{below} or ' if below else ''}{below + unit}"
                )

    def _differs(self, key: str, told: list[float], wanted: str) -> Contradiction:
        return error(f"{key}={[int(x) for x in told]}, but {self.place} makes a grid of {wanted}")

    def check_center_cfgs(self, model: Section, prefix: str) -> Iterator[Contradiction]:
        """Compare the grid with CenterPoint's `train_cfg`, `test_cfg` and box coder, and these with each other."""
        head, stride = model.section(f"{prefix}bbox_head"), _stride(model, prefix)
        if head.kind != "CenterHead":
            return
        own = {
            "grid_size": [float(x) for x in self.size[:2]],
            "voxel_size": self.voxel[:2],
            "point_cloud_range": self.limits,
            "pc_range": self.low,
        }
        cfgs = [_center_cfg(model, head, name) for name in ("train_cfg", "test_cfg")]
        for place in [*cfgs, head.section("bbox_coder")]:
            for key, ours in own.items():
                told = place.numbers(key)
                count = min(len(told), len(ours))
                if _differ(told[:count], ours[:count]):
                    yield error(f"{place.key(key)}={place.get(key)} does not fit {self.place} ({ours})")
            factor = place.whole("out_size_factor")
            if None not in (factor, stride) and factor != stride:
                reduced = f"encoder, backbone and neck reduce the grid by {stride:g}"
                yield error(f"{place.path}.out_size_factor={factor}, but {reduced}")

    def check_anchor_ranges(self, model: Section) -> Iterator[Contradiction]:
        """Compare anchors' ranges with the grid's: the feature map covers the grid, so anchors are laid over it."""
        for generator in (head.section("anchor_generator") for head in model.walk()):
            for limits in filter(None, (numbers(row, 6) for row in items(generator.get("ranges")))):
                share = min(
                    (min(limits[i + 3], self.high[i]) - max(limits[i], self.low[i]))
                    / max(limits[i + 3] - limits[i], self.high[i] - self.low[i], 1e-9)
                    for i in range(2)
                )
                place, here = f"{generator.path}.ranges {limits}", f"{self.place}.point_cloud_range={self.limits}"
                if share <= 0.5:
                    yield error(f"{place} and {here} cover different places in x or y")
                elif share < 0.9:
                    yield warning(f"{place} covers {share:.0%} of {here}")
                if limits[2] > self.high[2] or limits[5] < self.low[2]:
                    yield error(f"{place} lies above or below {here}")

    def check_pipelines(self, root: Section) -> Iterator[Contradiction]:
        """Warn about transforms that keep points or objects of another range than the voxels'."""
        here = f"{self.place}.point_cloud_range={self.limits}"
        for transform in (inner for name in _LOADERS for inner in root.section(name).walk()):
            limits = transform.numbers("point_cloud_range", 6)
            if transform.kind not in ("PointsRangeFilter", "ObjectRangeFilter") or not limits:
                continue
            place = f"{transform.path}.point_cloud_range={limits}"
            if transform.kind == "ObjectRangeFilter" and any(
                limits[i] < self.low[i] - self.voxel[i] or limits[i + 3] > self.high[i] + self.voxel[i]
                for i in range(2)
            ):
                yield warning(f"{place} keeps objects outside of {here}, where no voxel is")
            elif any(limits[i + 3] - limits[i] < 0.9 * (self.high[i] - self.low[i]) for i in range(2)):
                yield warning(f"{place} is smaller than {here}: part of the grid stays empty")


def _stride(model: Section, prefix: str) -> float | None:
    """Return by how much encoder, SECOND and SECONDFPN reduce the grid; None for parts that are not known here."""
    middle, backbone, neck = (model.section(f"{prefix}{name}") for name in ("middle_encoder", "backbone", "neck"))
    strides, up = _strides(backbone, neck)
    reduction = _encoder_stride(middle)
    if reduction is None or not strides or not up:
        return None
    return reduction * strides[0] / up[0]


def _encoder_stride(middle: Section) -> int | None:
    """Return by how much an encoder reduces the grid: a sparse one halves it between two stages."""
    if middle.kind == "SparseEncoder":
        return int(2 ** (len(items(middle.get("encoder_channels", (0,) * 4))) - 1))
    return 1 if middle.kind == "PointPillarsScatter" else None


def _strides(backbone: Section, neck: Section) -> tuple[list[float], list[float]]:
    """Return the strides of SECOND's stages and SECONDFPN's factors; empty lists for other parts."""
    if (backbone.kind, neck.kind) != ("SECOND", "SECONDFPN"):
        return [], []
    return numbers(backbone.get("layer_strides", (2, 2, 2))), numbers(neck.get("upsample_strides", (1, 2, 4)))


def _center_cfg(model: Section, head: Section, name: str) -> Section:
    """Return the `train_cfg` or `test_cfg` of a CenterHead: its own or the detector's, for the point cloud or as is."""
    cfg = head.section(name) or model.section(name)
    return cfg.section("pts") or cfg


def _check_anchors(model: Section, head: Section, classes: tuple[str, Sequence[str]] | None) -> Iterator[Contradiction]:
    """Compare anchor sizes, ranges, assigners, classes and the box code of an anchor head."""
    generator = head.section("anchor_generator")
    if "3D" not in generator.kind:
        return
    sizes, ranges = generator.get("sizes"), generator.get("ranges")
    if isinstance(sizes, list | tuple) and isinstance(ranges, list | tuple) and all(numbers(one, 3) for one in sizes):
        if len(ranges) not in (1, len(sizes)):
            yield error(f"{generator.path} has {len(ranges)} ranges for {len(sizes)} sizes; one, or one for each size")
        yield from _check_assigners(model, head, len(sizes), classes)
    coder, values = head.section("bbox_coder"), items(generator.get("custom_values"))
    code, dims = coder.whole("code_size", 7), 7 + len(values)
    if coder.kind == "DeltaXYZWLHRBBoxCoder" and code not in (None, dims):
        anchors = f"anchors have {dims} numbers (7 and {generator.path}.custom_values={list(values)})"
        yield error(f"{coder.path}.code_size={code}, but {anchors}")


def _check_assigners(
    model: Section, head: Section, num_sizes: int, classes: tuple[str, Sequence[str]] | None
) -> Iterator[Contradiction]:
    """Compare a list of assigners, one for each anchor size, with the sizes and the classes."""
    for cfg in _train_cfgs(model, head):
        assigners, place = cfg.get("assigner"), cfg.key("assigner")
        if not isinstance(assigners, list | tuple):
            continue
        if len(assigners) != num_sizes:
            yield error(f"{place} has {len(assigners)} assigners, {head.path}.anchor_generator has {num_sizes} sizes")
        elif head.get("assign_per_class") and classes is not None and len(classes[1]) != num_sizes:
            yield error(
                f"{head.path}.anchor_generator has {num_sizes} sizes and assign_per_class=True, but {classes[0]} has "
                f"{len(classes[1])} classes; size i is matched with class i"
            )


def _train_cfgs(model: Section, head: Section) -> list[Section]:
    """Return the `train_cfg` of a head, which detectors keep beside it: for its stage, for points, or as is."""
    own, cfg = head.section("train_cfg"), model.section("train_cfg")
    if own:
        return [own]
    name = head.path.rpartition(".")[2]
    stages = {"bbox_head": ("", "pts"), "pts_bbox_head": ("pts",), "rpn_head": ("rpn",)}.get(name, ())
    return [cfg.section(stage) if stage else cfg for stage in stages]


def _check_center_code(model: Section, head: Section) -> Iterator[Contradiction]:
    """Compare the regressed numbers of a CenterHead with the weights of their losses."""
    heads = head.section("common_heads")
    counts = numbers([(*items(value), None)[0] for value in heads.mapping.values()])
    if head.kind != "CenterHead" or not counts:
        return
    total = int(sum(counts))
    cfg, coder = _center_cfg(model, head, "train_cfg"), head.section("bbox_coder")
    weights, code = cfg.get("code_weights"), coder.whole("code_size")
    if isinstance(weights, list | tuple) and len(weights) != total:
        yield error(f"{cfg.path}.code_weights has {len(weights)} numbers, {heads.path} regresses {total}")
    if code not in (None, total - 1):  # sine and cosine are one yaw
        yield error(f"{coder.path}.code_size={code}, but {heads.path} decodes to {total - 1} numbers")


def _check_velocity(root: Section, model: Section) -> Iterator[Contradiction]:
    """Refuse to learn velocities that the data set does not have."""
    for dataset in [one for one in root.section("train_dataloader").walk() if one.kind in _WITHOUT_VELOCITY][:1]:
        for coder in model.walk():
            code = coder.whole("code_size") or 0
            if code > 7 and coder.kind == "DeltaXYZWLHRBBoxCoder":
                boxes = f"boxes of {dataset.path} ({dataset.kind}) have 7 numbers (no velocity)"
                yield error(f"{coder.path}.code_size={code}, but {boxes}")


def _check_channels(model: Section, prefix: str) -> Iterator[Contradiction]:
    """Compare the channels that one part gives with those that the next one takes."""
    encoder, middle, backbone, neck, head = (
        model.section(f"{prefix}{name}")
        for name in ("voxel_encoder", "middle_encoder", "backbone", "neck", "bbox_head")
    )
    is_scatter, is_second = middle.kind == "PointPillarsScatter", backbone.kind == "SECOND"
    links = [
        (encoder, "feat_channels", encoder.numbers("feat_channels")[-1:], middle, is_scatter),
        (middle, "in_channels", _channels(middle.get("in_channels")), backbone, is_scatter and is_second),
        (backbone, "out_channels", _channels(backbone.get("out_channels")), neck, is_second),
    ]
    for giver, key, gives, taker, is_known in links:
        takes = _channels(taker.get("in_channels"))
        if is_known and gives and takes and gives != takes and (taker is not neck or neck.kind == "SECONDFPN"):
            yield error(f"{giver.key(key)} gives {_text(gives)} channels, but {taker.path}.in_channels={_text(takes)}")
    outs, takes = neck.numbers("out_channels"), _channels(head.get("in_channels"))
    if neck.kind == "SECONDFPN" and outs and takes and sum(outs) != sum(takes):
        made = f"{neck.path}.out_channels={_text(outs)} make {sum(outs):g} channels"
        yield error(f"{made}, but {head.path}.in_channels={_text(takes)}")


def _channels(value: object) -> list[float]:
    """Return a number of channels, or a list of them, as a list; an empty one for any other value."""
    return [float(value)] if isinstance(value, int) else numbers(value)


def _text(channels: Sequence[float]) -> str:
    return f"{channels[0]:g}" if len(channels) == 1 else str([int(count) for count in channels])


def _check_point_dims(root: Section, model: Section) -> Iterator[Contradiction]:
    """Compare the numbers of a point that pipelines load: of training and evaluation, and of pasted objects."""
    loaded: list[tuple[str, int]] = []
    for section in (inner for name in _LOADERS for loader in root.sections(name) for inner in loader.walk()):
        use = section.get("use_dim")
        count = len(use) if isinstance(use, list | tuple) else use
        if section.kind in ("LoadPointsFromFile", "LoadCustomPointsFromFile") and isinstance(count, int):
            loaded.append((section.path, count))
    for place, count in loaded[1:]:
        if count != loaded[0][1]:
            yield error(f"{place} loads {count} numbers a point, {loaded[0][0]} loads {loaded[0][1]}")
    for encoder in (model.section(f"{prefix}voxel_encoder") for prefix in _PREFIXES if loaded):
        takes, (place, count) = encoder.whole("in_channels"), loaded[0]
        if encoder.kind == "PillarFeatureNet" and takes not in (None, count):
            yield error(f"{encoder.path}.in_channels={takes}, but {place} loads {count} numbers a point")
