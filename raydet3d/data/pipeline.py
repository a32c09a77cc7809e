"""Pipelines: transforms applied in order, some of them disabled from an epoch on; test-time views."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from raydet3d.config import PartCfg
from raydet3d.data.seeded import current_epoch
from raydet3d.registry import TRANSFORMS

Sample = dict[str, Any]
"""A sample on its way through a pipeline: transforms read, set and add keys."""
TransformLike: TypeAlias = Callable[[Sample], "Sample | list[Sample] | None"]
"""A transform or a function: returns the sample, views of it, or None to drop it."""


class Transform:
    """Base of transforms: takes a sample's dict and returns it changed, or None to drop the sample.

    Random draws come from numpy's, Python's and torch's global generators; those are seeded for each sample.
    """

    def transform(self, results: Sample) -> Any:
        """Change a sample; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} must define transform(results)")

    def __call__(self, results: Sample) -> Any:
        """Change a sample."""
        return self.transform(results)


class Compose:
    """Apply transforms in order.

    Args:
        transforms: Configs (dicts with a `type`), or callables that take a sample and return one.
    """

    def __init__(self, transforms: Sequence[PartCfg | TransformLike] | None) -> None:
        self.transforms: list[Callable[[Any], Any]] = []
        self._named: list[tuple[Callable[[Any], Any], str]] = []
        self._off: dict[str, int] = {}
        for entry in transforms or ():
            step = TRANSFORMS.build(entry) if isinstance(entry, Mapping) else entry
            name = entry.get("type") if isinstance(entry, Mapping) else None
            self.transforms.append(step)
            if isinstance(name, str):
                self._named.append((step, name.rsplit(".", 1)[-1]))

    @property
    def names(self) -> list[str]:
        """Return each transform's name: the config's, else its class's. Users' hooks may change the list."""
        named = {id(step): name for step, name in self._named}
        return [named.get(id(step), type(step).__name__) for step in self.transforms]

    def __len__(self) -> int:
        return len(self.transforms)

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return iter(self.transforms)

    def __getitem__(self, index: int) -> Callable[[Any], Any]:
        return self.transforms[index]

    def __repr__(self) -> str:
        return f"Compose({', '.join(self.names)})"

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Skip the transforms of a type from an epoch on (counted from 0), nested ones included.

        Returns:
            Number of transforms of that type.
        """
        short = type_name.rsplit(".", 1)[-1]
        self._off[short] = from_epoch
        inner = [
            step.disable_transform(short, from_epoch) for step in self.transforms if hasattr(step, "disable_transform")
        ]
        return self.names.count(short) + sum(map(int, inner))

    def warm_up(self, sample: Sample | None = None) -> None:
        """Let transforms load what loader workers share, and check the first sample of the data set."""
        for step in self.transforms:
            if hasattr(step, "warm_up"):
                step.warm_up(sample)

    def __call__(self, results: Sample) -> Any:
        """Apply the transforms; return None as soon as one drops the sample."""
        changed: Any = results
        for name, step in zip(self.names, self.transforms, strict=True):
            if name in self._off and current_epoch() >= self._off[name]:
                continue
            try:
                changed = step(changed)
            except Exception as error:
                error.add_note(f"(in transform {name})")
                raise
            if changed is None:
                return None
        return changed


@TRANSFORMS.register_module()
class MultiScaleFlipAug3D(Transform):
    """Make views of one sample for testing: each scale, flipped or not, through the same transforms.

    Args:
        transforms: Configs of the transforms of each view.
        img_scale: Image scales, (width, height) or a list of those; each makes a view; image transforms apply it.
        pts_scale_ratio: Factor or factors of the point cloud's scale.
        flip: Add flipped views.
        flip_direction: Image flips to use, one or a list.
        pcd_horizontal_flip: Add a view with y negated (needs `flip`).
        pcd_vertical_flip: Add a view with x negated (needs `flip`).
    """

    def __init__(
        self,
        transforms: Sequence[PartCfg | TransformLike],
        img_scale: tuple[int, int] | list[tuple[int, int]] | None = None,
        pts_scale_ratio: float | Sequence[float] = 1.0,
        flip: bool = False,
        flip_direction: str | Sequence[str] = "horizontal",
        pcd_horizontal_flip: bool = False,
        pcd_vertical_flip: bool = False,
    ) -> None:
        self.transforms = Compose(transforms)
        several = isinstance(img_scale, Sequence) and len(img_scale) > 0 and isinstance(img_scale[0], Sequence)
        self.img_scales: list[Any] = list(img_scale) if several and img_scale is not None else [img_scale]
        ratios = pts_scale_ratio if isinstance(pts_scale_ratio, Sequence) else [pts_scale_ratio]
        self.pts_scales = [float(ratio) for ratio in ratios]
        directions = [flip_direction] if isinstance(flip_direction, str) else list(flip_direction)
        self.flips = [(False, directions[0]), *((True, direction) for direction in directions)] if flip else []
        self.flips = self.flips or [(False, directions[0])]
        self.horizontal = [False, True] if flip and pcd_horizontal_flip else [False]
        self.vertical = [False, True] if flip and pcd_vertical_flip else [False]

    def disable_transform(self, type_name: str, from_epoch: int) -> int:
        """Forward to the nested transforms."""
        return self.transforms.disable_transform(type_name, from_epoch)

    def warm_up(self, sample: Sample | None = None) -> None:
        """Forward to the nested transforms."""
        self.transforms.warm_up(sample)

    def transform(self, results: Sample) -> list[Any]:
        """Return the list of views."""
        settings = [
            {
                **({} if img_scale is None else {"scale": img_scale}),
                "flip": flip,
                "flip_direction": direction,
                "pcd_scale_factor": pts_scale,
                "pcd_horizontal_flip": horizontal,
                "pcd_vertical_flip": vertical,
            }
            for img_scale in self.img_scales
            for pts_scale in self.pts_scales
            for flip, direction in self.flips
            for horizontal in self.horizontal
            for vertical in self.vertical
        ]
        # Transforms work in place, so each view but the last needs a copy.
        views = [copy.deepcopy(results) for _ in settings[1:]] + [results]
        return [self.transforms({**view, **setting}) for view, setting in zip(views, settings, strict=True)]
