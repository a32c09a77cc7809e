"""Which town: everything that decides what is generated, and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from raydet3d.errors import InputError

# Increased whenever the same settings give other files, so that an old town on disk is not taken for a new one.
GENERATOR = 1

MAX_FRAMES = 1_000_000  # frame names have six digits


@dataclass(frozen=True)
class TownSettings:
    """The settings of one generated town.

    Args:
        seed: The town's seed. Frame `i` of a split depends on (seed, split, i) alone.
        num_train: Frames of the train split.
        num_val: Frames of the val split; no street of it is in the train split.
        range_m: (x0, y0, x1, y1) in the LiDAR frame, metres: where things are labelled. What lies outside is seen,
            and is a DontCare region.
        cars: Least and most cars, vans and trucks that are placed inside the range.
        pedestrians: Least and most pedestrians.
        cyclists: Least and most cyclists.
        azimuth_step_deg: Angle between two firings of the LiDAR; the real one has 0.17 to 0.2.
        range_noise_m: Standard deviation of a measured range.
        drop_rate: Share of returns that are lost whatever they hit.
        images: Whether camera pictures are written.
    """

    seed: int = 0
    num_train: int = 400
    num_val: int = 120
    range_m: tuple[float, float, float, float] = (0.0, -20.48, 40.96, 20.48)
    cars: tuple[int, int] = (8, 14)
    pedestrians: tuple[int, int] = (4, 8)
    cyclists: tuple[int, int] = (3, 5)
    azimuth_step_deg: float = 0.2
    range_noise_m: float = 0.02
    drop_rate: float = 0.05
    images: bool = True

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> TownSettings:
        """Settings from the `town` dict of a data set's config, or from a settings file.

        Raises:
            InputError: A key is unknown, or a value is not what its key holds; the message says what would be right.
        """
        default = cls()
        checked = {key: _check(key, value, default) for key, value in given.items()}
        return cls(**checked)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the generator's version."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"generator": GENERATOR, **plain}


def _check(key: str, value: Any, default: TownSettings) -> Any:
    """One value in the type of its key."""
    known = [field.name for field in fields(TownSettings)]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise InputError(f"town has no setting {key!r}; {hint}")
    like = getattr(default, key)
    if isinstance(like, bool):
        if not isinstance(value, bool):
            raise InputError(f"town.{key} is true or false, got {value!r}")
        return value
    checked = _numbers(key, value, like) if isinstance(like, tuple) else _number(key, value, like)
    _check_bounds(key, checked)
    return checked


def _numbers(key: str, value: Any, like: tuple[float, ...]) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != len(like):
        raise InputError(f"town.{key} is {len(like)} numbers such as {list(like)}, got {value!r}")
    return tuple(_number(key, item, example) for item, example in zip(value, like, strict=True))


def _number(key: str, value: Any, like: float) -> float:
    wanted = "a whole number" if isinstance(like, int) else "a number"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(like, int) and value != int(value)):
        raise InputError(f"town.{key} is {wanted}, got {value!r}")
    return int(value) if isinstance(like, int) else float(value)


def _check_bounds(key: str, value: Any) -> None:
    if key in ("cars", "pedestrians", "cyclists") and not 0 <= value[0] <= value[1] <= 60:
        raise InputError(f"town.{key} is (least, most) with 0 <= least <= most <= 60, got {value!r}")
    if key == "range_m" and not (value[0] < value[2] and value[1] < value[3] and value[2] >= 20):
        raise InputError(f"town.range_m is (x0, y0, x1, y1) in metres with x1 of 20 or more, got {value!r}")
    if key in ("num_train", "num_val") and not 1 <= value <= MAX_FRAMES // 2:
        raise InputError(f"town.{key} is a count from 1 to {MAX_FRAMES // 2}, got {value!r}")
    if key == "seed" and value < 0:
        raise InputError(f"town.seed is 0 or more, got {value!r}")
    if key == "azimuth_step_deg" and not 0.05 <= value <= 2:
        raise InputError(f"town.azimuth_step_deg is between 0.05 and 2, got {value!r}")
    if key == "range_noise_m" and not 0 <= value <= 0.2:
        raise InputError(f"town.range_noise_m is between 0 and 0.2, got {value!r}")
    if key == "drop_rate" and not 0 <= value <= 0.9:
        raise InputError(f"town.drop_rate is between 0 and 0.9, got {value!r}")
