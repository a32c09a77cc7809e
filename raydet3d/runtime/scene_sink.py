"""3D page of an inference: a file for each of its first clouds, written by whatever predicted it, joined at the end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from typing_extensions import override

from raydet3d.config.type_check import field_types, fits
from raydet3d.runtime.frame_sinks import FrameSink
from raydet3d.runtime.inferencer import LidarDet3DInferencer, PredictedFrame, read_json, write_json
from raydet3d.visual.scene_page import PackedScene, write_scene_page

MAX_FRAMES = 30
"""Clouds on the page: the first ones."""


class SceneSink(FrameSink):
    """Packs frames for the page of a job, `DIR/frames/NAME.json`.

    Args:
        folder: Folder of the page.
        score_thr: Initial minimum score of the boxes to show.
        names: Frames to pack.
    """

    def __init__(self, folder: str | Path, score_thr: float, names: Collection[str]) -> None:
        super().__init__(Path(folder) / "frames", ".json")
        self._score_thr = score_thr
        self._names = frozenset(names)

    @override
    def wants(self, name: str) -> bool:
        return name in self._names

    @override
    def is_done(self, name: str) -> bool:
        return self.read(name) is not None

    def read(self, name: str) -> PackedScene | None:
        """Return a packed frame; None where there is none, or where its file is damaged."""
        found = read_json(self.path(name))
        types = {**field_types(PackedScene), "kinds": list[str]}
        if found is None or not all(key in found and fits(kind, found[key]) for key, kind in types.items()):
            return None
        known = {key: found[key] for key in types}
        return PackedScene(**{**known, "kinds": frozenset(found["kinds"])})

    @override
    def take(self, frame: PredictedFrame, inferencer: LidarDet3DInferencer) -> None:
        scene = inferencer.visualizer.pack_scene(
            frame.name, {"points": frame.points}, frame.sample, draw_gt=False, pred_score_thr=self._score_thr
        )
        write_json(self.path(frame.name), {**asdict(scene), "kinds": sorted(scene.kinds)})


def join_scenes(
    folder: str | Path, names: Sequence[str], *, title: str, classes: Sequence[str], score_thr: float
) -> Path:
    """Write `DIR/index.html` from the packed frames that exist, and return it.

    Args:
        folder: Folder of the page.
        names: Names of the frames.
        title: Title of the page.
        classes: Class names by label.
        score_thr: Initial minimum score of the boxes to show.
    """
    sink = SceneSink(folder, score_thr, names)
    scenes = [scene for name in names if (scene := sink.read(name)) is not None]
    return write_scene_page(Path(folder) / "index.html", scenes, title=title, classes=classes, score_thr=score_thr)
