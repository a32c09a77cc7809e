"""nuScenes' JSON tables: records by token, and the annotated objects of frames as arrays."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raydet3d.data.datasets.nuscenes_categories import CATEGORY_OF
from raydet3d.errors import InputError
from raydet3d.info_file import AnnotatedObjects

Record = dict[str, Any]

MAX_TIME_DIFF_S = 1.5
"""Time between two annotations of an object beyond which they tell no velocity."""


class Table:
    """Records of one table, by token.

    Args:
        folder: Folder of the tables, such as `ROOT/v1.0-mini`.
        name: Name of the table, without its extension.
        keep: Which records to keep; the others take no memory.

    Raises:
        InputError: The file does not exist, or is no table.
    """

    def __init__(self, folder: Path, name: str, keep: Callable[[Record], bool] | None = None) -> None:
        self.name = name
        self.path = folder / f"{name}.json"
        self.records: dict[str, Record] = {}

        def take(record: Record) -> None:
            if keep is None or keep(record):
                self.records[record["token"]] = record

        try:
            with self.path.open(encoding="utf-8-sig") as file:
                content = json.load(file, object_hook=take)
        except FileNotFoundError:
            raise InputError(
                f"{self.path}: no such table; nuScenes' tables are in a folder named after their version"
            ) from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        except KeyError as error:
            raise InputError(f"{self.path}: a record has no {error}") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path}: is no JSON table ({error})") from None
        if not isinstance(content, list):
            raise InputError(f"{self.path}: a table is a list of records")

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def follow(self, source: Table, record: Record, key: str) -> Record:
        """Return the record that a record of another table refers to.

        Raises:
            InputError: There is none: the tables do not belong together.
        """
        token = source.value(record, key)
        found = self.records.get(token) if isinstance(token, str) else None
        if found is None:
            raise InputError(
                f"{source.path}: {key} of record {record['token']} is {token!r}, which {self.path.name} does not have: "
                "the tables do not belong together"
            )
        return found

    def value(self, record: Record, key: str) -> Any:
        """Return a field of a record of this table.

        Raises:
            InputError: The record lacks it.
        """
        if key not in record:
            raise InputError(f"{self.path}: record {record['token']} has no {key!r}")
        return record[key]


class AnnotationTables:
    """The tables that describe annotated objects.

    Args:
        folder: Folder of the tables.
        sample_tokens: Read only the annotations of the scenes of these samples; all by default.
    """

    def __init__(self, folder: Path, sample_tokens: Sequence[str] | None = None) -> None:
        self.sample = Table(folder, "sample")
        self.category = Table(folder, "category")
        self.attribute = Table(folder, "attribute")
        self.instance = Table(folder, "instance")
        wanted: set[str] | None = None
        if sample_tokens is not None:
            missing = [token for token in sample_tokens if token not in self.sample.records]
            if missing:
                raise InputError(
                    f"{self.sample.path}: lacks {len(missing)} frames of the info file (first: {missing[0]!r}); "
                    "the two are of different versions of the data"
                )
            scenes = {self.sample.records[token]["scene_token"] for token in sample_tokens}
            wanted = {record["token"] for record in self.sample if record["scene_token"] in scenes}
        self.annotation = Table(
            folder, "sample_annotation", None if wanted is None else lambda record: record["sample_token"] in wanted
        )
        self.of_sample: dict[str, list[Record]] = defaultdict(list)
        for record in self.annotation:
            self.sample.follow(self.annotation, record, "sample_token")
            self.of_sample[record["sample_token"]].append(record)

    def category_name(self, annotation: Record) -> str:
        """Return the name of an annotation's category, such as "vehicle.car"."""
        instance = self.instance.follow(self.annotation, annotation, "instance_token")
        name: str = self.category.value(self.category.follow(self.instance, instance, "category_token"), "name")
        return name

    def attribute_name(self, annotation: Record) -> str:
        """Return the name of an annotation's attribute, empty without one.

        Raises:
            InputError: It has several.
        """
        tokens = self.annotation.value(annotation, "attribute_tokens")
        if not tokens:
            return ""
        if len(tokens) > 1:
            raise InputError(f"{self.annotation.path}: record {annotation['token']} has several attributes")
        token = {"token": annotation["token"], "attribute_tokens": tokens[0]}
        name: str = self.attribute.value(self.attribute.follow(self.annotation, token, "attribute_tokens"), "name")
        return name

    def velocity(self, annotation: Record) -> list[float]:
        """Return vx, vy, vz in the global frame, metres a second; NaN where it is not known.

        It is the difference between the annotations before and after (or the one of them that there is), unless they
        are too far apart in time.
        """
        has_prev, has_next = annotation["prev"] != "", annotation["next"] != ""
        if not has_prev and not has_next:
            return [np.nan] * 3
        first = self.annotation.follow(self.annotation, annotation, "prev") if has_prev else annotation
        last = self.annotation.follow(self.annotation, annotation, "next") if has_next else annotation
        start, end = (1e-6 * self.sample.records[one["sample_token"]]["timestamp"] for one in (first, last))
        if end - start > MAX_TIME_DIFF_S * (1 + (has_prev and has_next)):
            return [np.nan] * 3
        moved = np.array(last["translation"], dtype=np.float64) - np.array(first["translation"], dtype=np.float64)
        velocity: list[float] = (moved / (end - start)).tolist()
        return velocity


def read_annotated_objects(root: Path, version: str, sample_tokens: Sequence[str]) -> AnnotatedObjects:
    """Return the annotated objects of frames, in the global frame.

    Args:
        root: The data set's folder.
        version: Version of the tables, which are in a folder of this name.
        sample_tokens: The frames.

    Raises:
        InputError: Tables are missing or do not belong together, or are not those of the frames.
    """
    tables = AnnotationTables(root / version, sample_tokens)
    rows: dict[str, list[Any]] = {name: [] for name in AnnotatedObjects.__annotations__}
    for frame, token in enumerate(sample_tokens):
        for record in tables.of_sample.get(token, ()):
            name = tables.category_name(record)
            if name not in CATEGORY_OF and name != "static_object.bicycle_rack":
                continue
            rows["frame"].append(frame)
            rows["name"].append(CATEGORY_OF.get(name, "bicycle_rack"))
            rows["translation"].append(tables.annotation.value(record, "translation"))
            rows["size"].append(tables.annotation.value(record, "size"))
            rows["rotation"].append(tables.annotation.value(record, "rotation"))
            rows["velocity"].append(tables.velocity(record)[:2])
            rows["attribute"].append(tables.attribute_name(record))
            rows["num_points"].append(
                tables.annotation.value(record, "num_lidar_pts") + tables.annotation.value(record, "num_radar_pts")
            )
    count = len(rows["frame"])
    return {
        "frame": np.array(rows["frame"], dtype=np.int64),
        "name": np.array(rows["name"], dtype=np.str_),
        "translation": np.array(rows["translation"], dtype=np.float64).reshape(count, 3),
        "size": np.array(rows["size"], dtype=np.float64).reshape(count, 3),
        "rotation": np.array(rows["rotation"], dtype=np.float64).reshape(count, 4),
        "velocity": np.array(rows["velocity"], dtype=np.float64).reshape(count, 2),
        "attribute": np.array(rows["attribute"], dtype=np.str_),
        "num_points": np.array(rows["num_points"], dtype=np.int64),
    }
