"""``Visualizer``: one front for all backends, and a picture to draw on.

Every visualizer belongs to one run; there is no global one. Backends are used on rank 0 only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydet3d.active_run import ActiveRunProxy
from raydet3d.dist import is_main_process
from raydet3d.errors import InputError
from raydet3d.log import get_logger
from raydet3d.registry import VISBACKENDS, VISUALIZERS
from raydet3d.visual.backends import BaseVisBackend
from raydet3d.visual.canvas import Array, Canvas
from raydet3d.visual.featmap import draw_featmap


@VISUALIZERS.register_module()
class Visualizer(Canvas):
    """Passes scalars, pictures and the config on to backends, and draws on its current picture (see ``Canvas``).

    Args:
        name: Name of the visualizer; two of the same name are two all the same.
        image: A first picture for ``get_image``.
        vis_backends: Backends, or their configs: one or a list. Two of a class need a ``name`` in their configs.
        save_dir: Folder of the run; backends that name none of their own get ``save_dir/vis_data``.
        fig_save_cfg: Accepted for MMEngine's sake.
        fig_show_cfg: Accepted for MMEngine's sake.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: Array | None = None,
        vis_backends: Any = None,
        save_dir: str | Path | None = None,
        fig_save_cfg: Mapping[str, Any] | None = None,
        fig_show_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(image)
        self.name = name
        self.dataset_meta: Mapping[str, Any] | None = None
        self._has_said: set[str] = set()
        self._backends: dict[str, BaseVisBackend] = {}
        folder = None if save_dir is None else Path(save_dir) / "vis_data"
        if vis_backends is None:
            given = []
        elif isinstance(vis_backends, Mapping) or not isinstance(vis_backends, Sequence):
            given = [vis_backends]
        else:
            given = list(vis_backends)
        for backend in given:
            key = None
            if isinstance(backend, Mapping):
                cfg = dict(backend)
                key = cfg.pop("name", None)
                if cfg.get("save_dir") is None:
                    if folder is None:
                        get_logger().warning(
                            "%s is not used: neither it nor the visualizer has a save_dir", cfg.get("type")
                        )
                        continue
                    cfg["save_dir"] = str(folder)
                backend = VISBACKENDS.build(cfg)
            key = str(key or type(backend).__name__)
            if key in self._backends:
                raise InputError(f"visualizer {name!r} has two backends {key!r}; give one a name=")
            self._backends[key] = backend

    @classmethod
    def get_instance(cls, name: str = "visualizer", **kwargs: Any) -> Any:
        """The visualizer of the run that is at work; one that keeps nothing, where none is.

        Args:
            name: Accepted for MMEngine's sake, as is the rest: runs share nothing.
            **kwargs: See ``name``.
        """
        return ActiveRunProxy("visualizer", Visualizer)

    @classmethod
    def get_current_instance(cls) -> Any:
        """As ``get_instance``."""
        return cls.get_instance()

    def get_backend(self, name: str) -> BaseVisBackend:
        """A backend by its name, or by its class's."""
        if name not in self._backends:
            raise KeyError(f"visualizer {self.name!r} has no backend {name!r}; it has {', '.join(self._backends)}")
        return self._backends[name]

    def _each(self) -> list[BaseVisBackend]:
        """Backends to write to: none on ranks other than 0."""
        return list(self._backends.values()) if is_main_process() else []

    def add_config(self, config: Any, **kwargs: Any) -> None:
        """Keep the run's config, secrets redacted."""
        for backend in self._each():
            backend.add_config(config, **kwargs)

    def add_graph(self, model: Any, data_batch: Any, **kwargs: Any) -> None:
        """Keep the model's graph, where a backend can."""
        for backend in self._each():
            backend.add_graph(model, data_batch, **kwargs)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Keep one number."""
        for backend in self._each():
            backend.add_scalar(name, value, step, **kwargs)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Keep numbers of one step.

        Args:
            scalar_dict: Numbers by name.
            step: Iteration.
            file_path: A JSON-lines file below the local backend's folder to write to as well.
            **kwargs: Passed on.
        """
        for backend in self._each():
            backend.add_scalars(scalar_dict, step, file_path, **kwargs)

    def add_image(self, name: str, image: Array, step: int = 0) -> None:
        """Keep an (H, W, 3) uint8 picture."""
        for backend in self._each():
            backend.add_image(name, image, step)

    def add_datasample(self, name: str, data_input: Any, data_sample: Any, *args: Any, **kwargs: Any) -> None:
        """Draw a sample; the base class cannot."""
        raise NotImplementedError(f"{type(self).__name__} does not draw samples; use Det3DLocalVisualizer")

    def show(
        self,
        drawn_img: Array | None = None,
        win_name: str = "image",
        wait_time: float = 0.0,
        continue_key: str = " ",
        backend: str = "matplotlib",
    ) -> None:
        """Say once that there are no windows: what is drawn is kept by ``add_image``, or in a file.

        Args:
            drawn_img: A picture to be the current one.
            win_name: Accepted for MMEngine's sake, like the rest.
            wait_time: See ``win_name``.
            continue_key: See ``win_name``.
            backend: See ``win_name``.
        """
        if drawn_img is not None:
            self.set_image(drawn_img)
        self._say("nothing opens a window here; pictures are kept by the visualizer's back ends and in files")

    def _say(self, message: str) -> None:
        """Warn once."""
        if message not in self._has_said:
            self._has_said.add(message)
            get_logger().warning(message)

    def close(self) -> None:
        """Let all backends finish."""
        for backend in self._backends.values():
            backend.close()

    draw_featmap = staticmethod(draw_featmap)
