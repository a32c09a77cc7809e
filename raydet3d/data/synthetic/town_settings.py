"""Settings of a generated town: everything that decides what is generated, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, TypeAlias

from annotated_types import Ge, Le, Predicate

from raydet3d.config import ConfigValue
from raydet3d.config.type_check import Described, NonNegativeInt, read_section

# Increased whenever the same settings give other files, so that an old town on disk is not taken for a new one.
GENERATOR = 1


def _is_span(given: Sequence[int]) -> bool:
    return 0 <= given[0] <= given[1] <= 60


def _is_range(given: Sequence[float]) -> bool:
    return given[0] < given[2] and given[1] < given[3] and given[2] >= 20


NumFrames: TypeAlias = Annotated[int, Ge(1), Le(500_000)]  # frame names have six digits
Span: TypeAlias = Annotated[
    tuple[int, int], Predicate(_is_span), Described("(least, most) with 0 <= least <= most <= 60")
]
Range: TypeAlias = Annotated[
    tuple[float, float, float, float],
    Predicate(_is_range),
    Described("(x0, y0, x1, y1) in metres with x1 of 20 or more"),
]


@dataclass(frozen=True)
class TownSettings:
    """The settings of one generated town.

    Args:
        seed: The town's seed. Frame `i` of a split depends on (seed, split, i) alone.
        num_train: Frames of the train split.
        num_val: Frames of the val split; no street of it is in the train split.
        range_m: (x0, y0, x1, y1) in the LiDAR frame, metres: where objects are labelled. What lies outside is seen,
            and is a DontCare region.
        cars: Least and most cars, vans and trucks that are placed inside the range.
        pedestrians: Least and most pedestrians.
        cyclists: Least and most cyclists.
        azimuth_step_deg: Angle between two firings of the LiDAR; the real one has 0.17 to 0.2.
        range_noise_m: Standard deviation of a measured range.
        drop_rate: Share of returns that are lost whatever they hit.
        images: Whether camera pictures are written.
    """

    seed: NonNegativeInt = 0
    num_train: NumFrames = 400
    num_val: NumFrames = 120
    range_m: Range = (0.0, -20.48, 40.96, 20.48)
    cars: Span = (8, 14)
    pedestrians: Span = (4, 8)
    cyclists: Span = (3, 5)
    azimuth_step_deg: Annotated[float, Ge(0.05), Le(2)] = 0.2
    range_noise_m: Annotated[float, Ge(0), Le(0.2)] = 0.02
    drop_rate: Annotated[float, Ge(0), Le(0.9)] = 0.05
    images: bool = True

    def __post_init__(self) -> None:
        for name in ("range_m", "cars", "pedestrians", "cyclists"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # configs hold lists

    @classmethod
    def read(cls, given: Mapping[str, ConfigValue]) -> TownSettings:
        """Read the settings from the `town` dict of a data set's config, or from a settings file.

        Raises:
            InputError: A key is unknown, or a value has the wrong type or is out of range.
        """
        return read_section(cls, given, "town")

    def to_dict(self) -> dict[str, ConfigValue]:
        """Return plain JSON values, with the generator's version."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"generator": GENERATOR, **plain}
