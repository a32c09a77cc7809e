"""Contradictions inside of `model` and with the data pipelines: grids, ranges, anchors, box codes, channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raydet3d.runtime.contradiction import Contradiction, Section, error, sub_sections, type_name, warning

_PREFIXES = ("", "pts_")
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
            yield from grid.check_center_cfgs(model, prefix)
        yield from grid.check_anchor_ranges(model)
        yield from grid.check_pipelines(root)
    for head in sub_sections(model):
        if head.section("anchor_generator") is not None:
            yield from _check_anchors(model, head, classes)
        if head.section("common_heads") is not None:
            yield from _check_center_code(model, head)
    yield from _check_velocity(root, model)
    yield from _check_channels(model)
    yield from _check_point_dims(root, model)


def _numbers(value: object, count: int) -> list[float] | None:
    """Return a list of so many numbers, or None."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    return [float(x) for x in value] if all(isinstance(x, int | float) for x in value) else None


def _differ(one: Sequence[float], other: Sequence[float]) -> bool:
    return any(abs(a - b) > _TOLERANCE for a, b in zip(one, other, strict=True))


class _Grid:
    """The voxel grid of `data_preprocessor.voxel_layer`.

    Args:
        place: Key of the voxel layer.
        low: x0, y0, z0 of the range, metres.
        high: x1, y1, z1.
        voxel: Size of a voxel, metres.
    """

    def __init__(self, place: str, low: list[float], high: list[float], voxel: list[float]) -> None:
        self.place, self.low, self.high, self.voxel = place, low, high, voxel
        self.size = [round((b - a) / v) for a, b, v in zip(low, high, voxel, strict=True)]  # x, y, z

    @classmethod
    def read(cls, model: Section) -> _Grid | None:
        """Return the grid of a model; None without voxels in metres."""
        preprocessor = model.section("data_preprocessor")
        layer = preprocessor.section("voxel_layer") if preprocessor is not None else None
        if layer is None or preprocessor is None or preprocessor.get("voxel_type") in ("cylindrical", "minkunet"):
            return None
        limits, voxel = _numbers(layer.get("point_cloud_range"), 6), _numbers(layer.get("voxel_size"), 3)
        if limits is None or voxel is None or min(voxel) <= 0:
            return None
        return cls(layer.path, limits[:3], limits[3:], voxel)

    @property
    def limits(self) -> list[float]:
        """Return x0, y0, z0, x1, y1, z1."""
        return [*self.low, *self.high]

    def check_encoders(self, model: Section, prefix: str) -> Iterator[Contradiction]:
        """Compare the grid with what voxel encoder and middle encoder are told of it."""
        exact = [(b - a) / v for a, b, v in zip(self.low, self.high, self.voxel, strict=True)]
        if any(abs(e - n) > 0.01 for e, n in zip(exact, self.size, strict=True)):
            yield warning(
                f"{self.place}: point_cloud_range is no multiple of voxel_size ({[round(e, 2) for e in exact]} voxels)"
            )
        encoder = model.section(f"{prefix}voxel_encoder")
        for key, own, count in (("voxel_size", self.voxel, 3), ("point_cloud_range", self.limits, 6)):
            told = _numbers(encoder.get(key), count) if encoder is not None else None
            if encoder is not None and told is not None and _differ(told, own):
                yield error(f"{encoder.path}.{key}={told} differs from {self.place}.{key}={own}")
        middle = model.section(f"{prefix}middle_encoder")
        if middle is None:
            return
        shape = _numbers(middle.get("output_shape"), 2)
        wanted = [self.size[1], self.size[0]]
        if type_name(middle.get("type")) == "PointPillarsScatter" and shape is not None and shape != wanted:
            yield error(
                f"{middle.path}.output_shape={[int(x) for x in shape]}, but {self.place} makes a grid of "
                f"{wanted} (y, x)"
            )
        sparse = _numbers(middle.get("sparse_shape"), 3)
        # The published encoders have one layer more in z than there are voxels.
        if sparse is not None and (sparse[1:] != wanted or sparse[0] - self.size[2] not in (0, 1)):
            yield error(
                f"{middle.path}.sparse_shape={[int(x) for x in sparse]}, but {self.place} makes a grid of "
                f"{[self.size[2] + 1, *wanted]} (z + 1, y, x)"
            )

    def check_center_cfgs(self, model: Section, prefix: str) -> Iterator[Contradiction]:
        """Compare the grid with CenterPoint's `train_cfg`, `test_cfg` and box coder, and these with each other."""
        stride = _stride(model, prefix)
        head = model.section(f"{prefix}bbox_head")
        if head is None or type_name(head.get("type")) != "CenterHead":
            return
        places = []
        for name in ("train_cfg", "test_cfg"):
            cfg = head.section(name) or model.section(name)
            if cfg is not None:
                places.append(cfg.section("pts") or cfg)
        if (coder := head.section("bbox_coder")) is not None:
            places.append(coder)
        for place in places:
            for key, own in (
                ("grid_size", [float(x) for x in self.size]),
                ("voxel_size", self.voxel),
                ("point_cloud_range", self.limits),
                ("pc_range", self.low),
            ):
                told = place.get(key)
                if not isinstance(told, list | tuple) or not all(isinstance(x, int | float) for x in told):
                    continue
                count = min(len(told), len(own), 2 if key in ("voxel_size", "grid_size") else 6)
                if _differ([float(x) for x in told[:count]], own[:count]):
                    yield error(f"{place.path}.{key}={list(told)} does not fit {self.place} ({own})")
            factor = place.get("out_size_factor")
            if isinstance(factor, int) and stride is not None and factor != stride:
                yield error(
                    f"{place.path}.out_size_factor={factor}, but encoder, backbone and neck reduce the grid by "
                    f"{stride:g}"
                )

    def check_anchor_ranges(self, model: Section) -> Iterator[Contradiction]:
        """Compare anchors' ranges with the grid's: the feature map covers the grid, so anchors are laid over it."""
        for head in sub_sections(model):
            generator = head.section("anchor_generator")
            ranges = generator.get("ranges") if generator is not None else None
            for row in ranges if isinstance(ranges, list | tuple) else ():
                limits = _numbers(row, 6)
                if generator is None or limits is None:
                    continue
                share = [
                    (min(limits[i + 3], self.high[i]) - max(limits[i], self.low[i]))
                    / max(limits[i + 3] - limits[i], self.high[i] - self.low[i], 1e-9)
                    for i in range(2)
                ]
                place = f"{generator.path}.ranges {limits}"
                if min(share) <= 0.5:
                    yield error(
                        f"{place} and {self.place}.point_cloud_range={self.limits} cover different places in x or y"
                    )
                elif min(share) < 0.9:
                    yield warning(f"{place} covers {min(share):.0%} of {self.place}.point_cloud_range={self.limits}")
                if limits[2] > self.high[2] or limits[5] < self.low[2]:
                    yield error(f"{place} lies above or below {self.place}.point_cloud_range={self.limits}")

    def check_pipelines(self, root: Section) -> Iterator[Contradiction]:
        """Warn about transforms that keep points or objects of another range than the voxels'."""
        for section in (
            inner
            for name in ("train_dataloader", "val_dataloader", "test_dataloader")
            if (loader := root.section(name)) is not None
            for inner in sub_sections(loader)
        ):
            kind = type_name(section.get("type"))
            limits = _numbers(section.get("point_cloud_range"), 6)
            if kind not in ("PointsRangeFilter", "ObjectRangeFilter") or limits is None:
                continue
            outside = [
                axis
                for i, axis in enumerate("xy")
                if limits[i] < self.low[i] - self.voxel[i] or limits[i + 3] > self.high[i] + self.voxel[i]
            ]
            smaller = [
                axis for i, axis in enumerate("xy") if (limits[i + 3] - limits[i]) < 0.9 * (self.high[i] - self.low[i])
            ]
            if kind == "ObjectRangeFilter" and outside:
                yield warning(
                    f"{section.path}.point_cloud_range={limits} keeps objects outside of "
                    f"{self.place}.point_cloud_range={self.limits}, where no voxel is"
                )
            elif smaller:
                yield warning(
                    f"{section.path}.point_cloud_range={limits} is smaller than "
                    f"{self.place}.point_cloud_range={self.limits}: part of the grid stays empty"
                )


def _stride(model: Section, prefix: str) -> float | None:
    """Return by how much encoder, SECOND and SECONDFPN reduce the grid; None for parts that are not known here."""
    names = [model.section(f"{prefix}{name}") for name in ("middle_encoder", "backbone", "neck")]
    if any(part is None for part in names):
        return None
    middle, backbone, neck = (part for part in names if part is not None)
    encoders = {"PointPillarsScatter": 1, "SparseEncoder": 8}
    kinds = [type_name(part.get("type")) for part in (middle, backbone, neck)]
    if kinds[0] not in encoders or kinds[1:] != ["SECOND", "SECONDFPN"]:
        return None
    strides, up = backbone.get("layer_strides", (2, 2, 2)), neck.get("upsample_strides", (1, 2, 4))
    if not isinstance(strides, list | tuple) or not isinstance(up, list | tuple) or not strides or not up:
        return None
    return float(encoders[kinds[0]] * strides[0] / up[0])


def _check_anchors(model: Section, head: Section, classes: tuple[str, Sequence[str]] | None) -> Iterator[Contradiction]:
    """Compare anchor sizes, ranges, assigners, classes and the box code of an anchor head."""
    generator = head.section("anchor_generator")
    if generator is None or "3D" not in type_name(generator.get("type")):
        return
    sizes, ranges = generator.get("sizes"), generator.get("ranges")
    is_flat = isinstance(sizes, list | tuple) and all(_numbers(size, 3) is not None for size in sizes)
    if isinstance(sizes, list | tuple) and isinstance(ranges, list | tuple) and is_flat:
        if len(ranges) not in (1, len(sizes)):
            yield error(f"{generator.path} has {len(ranges)} ranges for {len(sizes)} sizes; one, or one for each size")
        yield from _check_assigners(model, head, len(sizes), classes)
    coder = head.section("bbox_coder")
    values = generator.get("custom_values", ())
    if coder is not None and type_name(coder.get("type")) == "DeltaXYZWLHRBBoxCoder":
        code = coder.get("code_size", 7)
        dims = 7 + (len(values) if isinstance(values, list | tuple) else 0)
        if isinstance(code, int) and code != dims:
            yield error(
                f"{coder.path}.code_size={code}, but anchors have {dims} numbers "
                f"(7 and {generator.path}.custom_values={list(values)})"
            )


def _check_assigners(
    model: Section, head: Section, num_sizes: int, classes: tuple[str, Sequence[str]] | None
) -> Iterator[Contradiction]:
    """Compare a list of assigners, one for each anchor size, with the sizes and the classes."""
    per_class = head.get("assign_per_class", False)
    for cfg in _train_cfgs(model, head):
        assigners = cfg.get("assigner")
        if not isinstance(assigners, list | tuple):
            continue
        place = cfg.key("assigner")
        if len(assigners) != num_sizes:
            yield error(f"{place} has {len(assigners)} assigners, {head.path}.anchor_generator has {num_sizes} sizes")
        elif per_class and classes is not None and len(classes[1]) != num_sizes:
            yield error(
                f"{head.path}.anchor_generator has {num_sizes} sizes and assign_per_class=True, but {classes[0]} has "
                f"{len(classes[1])} classes; size i is matched with class i"
            )


def _train_cfgs(model: Section, head: Section) -> Iterator[Section]:
    """Yield the `train_cfg` of a head, which detectors keep beside it: for its stage, for the point cloud, or as is."""
    own, cfg = head.section("train_cfg"), model.section("train_cfg")
    name = head.path.rpartition(".")[2]
    stages = {"bbox_head": ("", "pts"), "pts_bbox_head": ("pts",), "rpn_head": ("rpn",)}.get(name, ())
    if own is not None:
        yield own
    for stage in stages if cfg is not None and own is None else ():
        inner = cfg.section(stage) if stage and cfg is not None else cfg
        if inner is not None:
            yield inner


def _check_center_code(model: Section, head: Section) -> Iterator[Contradiction]:
    """Compare the regressed numbers of a CenterHead with the weights of their losses."""
    heads = head.section("common_heads")
    if heads is None or type_name(head.get("type")) != "CenterHead":
        return
    try:
        total = sum(int(value[0]) for value in heads.mapping.values())
    except (TypeError, ValueError, IndexError):
        return
    cfg = head.section("train_cfg") or model.section("train_cfg")
    cfg = (cfg.section("pts") or cfg) if cfg is not None else None
    weights = cfg.get("code_weights") if cfg is not None else None
    if cfg is not None and isinstance(weights, list | tuple) and len(weights) != total:
        yield error(f"{cfg.path}.code_weights has {len(weights)} numbers, {heads.path} regresses {total}")
    coder = head.section("bbox_coder")
    code = coder.get("code_size") if coder is not None else None
    if coder is not None and isinstance(code, int) and code != total - 1:  # sine and cosine are one yaw
        yield error(f"{coder.path}.code_size={code}, but {heads.path} decodes to {total - 1} numbers")


def _check_velocity(root: Section, model: Section) -> Iterator[Contradiction]:
    """Refuse to learn velocities that the data set does not have."""
    loader = root.section("train_dataloader")
    dataset = next(
        (
            inner
            for inner in (sub_sections(loader) if loader is not None else ())
            if type_name(inner.get("type")) in _WITHOUT_VELOCITY
        ),
        None,
    )
    if dataset is None:
        return
    for coder in sub_sections(model):
        code = coder.get("code_size")
        if isinstance(code, int) and code > 7 and type_name(coder.get("type")) == "DeltaXYZWLHRBBoxCoder":
            yield error(
                f"{coder.path}.code_size={code}, but boxes of {dataset.path} ({type_name(dataset.get('type'))}) have 7 "
                "numbers (no velocity)"
            )


def _check_channels(model: Section) -> Iterator[Contradiction]:
    """Compare the channels that one part gives with those that the next one takes."""
    for prefix in _PREFIXES:
        encoder, middle, backbone, neck, head = (
            model.section(f"{prefix}{name}")
            for name in ("voxel_encoder", "middle_encoder", "backbone", "neck", "bbox_head")
        )
        feats = encoder.get("feat_channels") if encoder is not None else None
        if encoder is not None and isinstance(feats, list | tuple) and feats:
            yield from _chain(encoder.key("feat_channels"), feats[-1], middle, "in_channels", "PointPillarsScatter")
        if middle is not None and type_name(middle.get("type")) == "PointPillarsScatter":
            yield from _chain(middle.key("in_channels"), middle.get("in_channels"), backbone, "in_channels", "SECOND")
        if backbone is not None and type_name(backbone.get("type")) == "SECOND" and neck is not None:
            gives, takes = backbone.get("out_channels"), neck.get("in_channels")
            if type_name(neck.get("type")) == "SECONDFPN" and gives and takes and list(gives) != list(takes):
                yield error(f"{backbone.path}.out_channels={list(gives)}, but {neck.path}.in_channels={list(takes)}")
        if neck is not None and type_name(neck.get("type")) == "SECONDFPN" and head is not None:
            outs = neck.get("out_channels")
            takes = head.get("in_channels")
            total = sum(outs) if isinstance(outs, list | tuple) else None
            takes = sum(takes) if isinstance(takes, list | tuple) else takes
            if isinstance(total, int) and isinstance(takes, int) and total != takes:
                yield error(
                    f"{neck.path}.out_channels={list(outs)} make {total} channels, but {head.path}.in_channels={takes}"
                )


def _chain(place: str, gives: object, part: Section | None, key: str, kind: str) -> Iterator[Contradiction]:
    takes = part.get(key) if part is not None and type_name(part.get("type")) == kind else None
    if part is not None and isinstance(gives, int) and isinstance(takes, int) and gives != takes:
        yield error(f"{place} gives {gives} channels, but {part.path}.{key}={takes}")


def _check_point_dims(root: Section, model: Section) -> Iterator[Contradiction]:
    """Compare the numbers of a point that pipelines load: of training and evaluation, and of pasted objects."""
    loaded: list[tuple[str, int]] = []
    for mode in ("train", "val", "test"):
        for loader in root.sections(f"{mode}_dataloader"):
            for section in sub_sections(loader):
                if type_name(section.get("type")) != "LoadPointsFromFile":
                    continue
                use = section.get("use_dim")
                count = len(use) if isinstance(use, list | tuple) else use
                if isinstance(count, int):
                    loaded.append((section.path, count))
    for place, count in loaded[1:]:
        if count != loaded[0][1]:
            yield error(f"{place} loads {count} numbers a point, {loaded[0][0]} loads {loaded[0][1]}")
    if not loaded:
        return
    for prefix in _PREFIXES:
        encoder = model.section(f"{prefix}voxel_encoder")
        takes = encoder.get("in_channels") if encoder is not None else None
        is_pillar_net = encoder is not None and type_name(encoder.get("type")) == "PillarFeatureNet"
        if encoder is not None and is_pillar_net and isinstance(takes, int) and takes != loaded[0][1]:
            yield error(f"{encoder.path}.in_channels={takes}, but {loaded[0][0]} loads {loaded[0][1]} numbers a point")
