"""Settings of a generated town in nuScenes' layout: everything that decides what is generated, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from annotated_types import Ge, Le

from raydet3d.config.type_check import NonNegativeInt, read_section

# Increased whenever the same settings give other files, so that an old town on disk is not taken for a new one.
GENERATOR = "nuscenes 1"


@dataclass(frozen=True)
class NuScenesTownSettings:
    """The settings of one generated town in nuScenes' layout, v1.0-mini: 8 training and 2 validation scenes.

    Args:
        seed: The town's seed. A scene depends on the seed and its own number alone.
        num_keyframes: Keyframes of each scene, two a second.
        azimuth_step_deg: Angle between two firings of the LiDAR; the real one has 0.33.
        range_noise_m: Standard deviation of a measured range.
        images: Whether camera pictures are written.
    """

    seed: NonNegativeInt = 0
    num_keyframes: Annotated[int, Ge(2), Le(40)] = 12
    azimuth_step_deg: Annotated[float, Ge(0.2), Le(4)] = 0.8
    range_noise_m: Annotated[float, Ge(0), Le(0.2)] = 0.02
    images: bool = True

    @classmethod
    def read(cls, given: Mapping[str, object]) -> NuScenesTownSettings:
        """Read the settings from the `town` dict of a data set's config.

        Raises:
            InputError: A key is unknown, or a value has the wrong type or is out of range.
        """
        return read_section(cls, given, "town")

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values, with the generator's version."""
        return {"generator": GENERATOR, **asdict(self)}
