"""`python -m raydet3d.data.check CONFIG|ROOT`: read every frame once; report what is wrong, and what fits the data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from raydet3d.cli import BAD_INPUT, add_cfg_options, read_config, run_command, version
from raydet3d.data.check.check_page import Picture, page_body, page_style
from raydet3d.data.check.expectations import Expectations, read_expectations
from raydet3d.data.check.findings import KINDS, Finding
from raydet3d.data.check.frame_checks import Frame, FrameReader, load_frame
from raydet3d.data.check.sources import CheckedSplit, splits_of_config, splits_of_root
from raydet3d.data.check.split_checks import CheckResult, check_splits
from raydet3d.data.check.suggestions import Suggestions, suggest
from raydet3d.errors import InputError
from raydet3d.files import write_atomic
from raydet3d.host import num_processors
from raydet3d.launch.preflight import check_writable, check_writable_file
from raydet3d.visual.bev import BoxSet, draw_bev, find_view
from raydet3d.visual.html_page import html_page

EXAMPLES = """examples:
  python -m raydet3d.data.check data/kitti                     a folder in a known layout, raw or prepared
  python -m raydet3d.data.check configs/demo/pointpillars_town.py --json check.json
  python -m raydet3d.data.check CONFIG --workers 8 --out check/ --cfg-options data_root=/shared/kitti/

exit codes: 0 nothing would break training (there may be warnings); 1 failed; 2 something would break training, or the
config or a flag is wrong; 75 stopped (SIGTERM, SIGUSR1) or 130 (Ctrl-C): the same command continues where it was"""
RING = (255, 70, 60)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.data.check",
        description="Read every frame of a data set once: report files and labels that are wrong or do not fit the "
        "config, counts and histograms, and suggest range, voxels and anchors.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG|ROOT", help="config file, or folder of a data set")
    add_cfg_options(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one for each processor; 0: only this one)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the page and of what is finished (default: work_dirs/data_check/<name of CONFIG or ROOT>)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="frames to draw on the page (default: 8)")
    parser.add_argument("--version", action="version", version=version())
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names.

    Raises:
        InputError: The config, the folder or a flag is wrong.
    """
    args = make_parser().parse_args(arguments)
    workers = num_processors() if args.workers is None else args.workers
    for flag, value in (("--workers", workers), ("--pictures", args.pictures)):
        if value < 0:
            raise InputError(f"{flag} must be 0 or more, got {value}")
    source = Path(args.config)
    if source.is_dir():
        if args.cfg_options:
            raise InputError(f"--cfg-options changes a config, but {source} is a folder")
        splits, expected, contradictions = splits_of_root(source), Expectations(), list[str]()
    else:
        from raydet3d.runtime.consistency import find_contradictions  # here: a folder needs nothing of the runtime

        cfg = read_config(args)
        with cfg.origin.located():
            splits, expected = splits_of_config(cfg), read_expectations(cfg)
            contradictions = [found.message for found in find_contradictions(cfg) if found.is_error]
    folder = Path(args.out) if args.out else Path("work_dirs/data_check", source.resolve().stem)
    check_writable(folder, "--out", "choose another folder")
    if args.json is not None:
        check_writable_file(args.json, "--json")
    result = check_splits(splits, expected, folder, workers=workers)
    for sentence in contradictions:
        result.add(Finding("contradiction", args.config, None, sentence))
    suggestions = suggest(
        result.trained_tally(),
        expected,
        order=[name for split in splits for name, number in split.categories.items() if number >= 0],
        is_custom=all(str(split.dataset.get("type")).endswith("CustomDataset") for split in splits),
    )
    page = folder / "report.html"
    body = page_body(args.config, result, suggestions, list(draw_worst(splits, result.findings, args.pictures)))
    write_atomic(page, html_page(f"Data check: {args.config}", body, style=page_style()).encode())
    print(describe(args.config, result, suggestions))
    print(f"page: {page}")
    if args.json:
        _write_json(Path(args.json), args.config, result, suggestions)
        print(f"JSON: {args.json}")
    return BAD_INPUT if result.num_errors else 0


def describe(source: str, result: CheckResult, suggestions: Suggestions) -> str:
    """Return what was found as text: a line for each split and class, and for each kind of finding its first place."""
    lines = [f"{source}: {result.num_errors} errors, {result.num_warnings} warnings"]
    for name, tally in result.splits.items():
        points = tally.histogram("points of a frame")
        average = f", {points.mean:.0f} points each on average" if len(points) else ""
        lines.append(f"  {name}: {tally.counts['frames']} frames{average}")
        for kind, objects in sorted(tally.classes.items()):
            size = " x ".join(f"{objects.histogram(side).mean:.2f}" for side in ("length", "width", "height"))
            empty = objects.counts["without points"]
            lines.append(f"    {kind}: {objects.counts['objects']} objects, {size} m, {empty} without a point")
    first = {finding.kind: finding for finding in reversed(result.findings)}
    for kind, (severity, title) in {name: (one.severity, one.title) for name, one in KINDS.items()}.items():
        if kind in first:
            lines.append(f"{severity}: {title} ({kind}): {result.totals[kind]}; first: {first[kind].sentence}")
    config = suggestions.as_config()
    return "\n".join([*lines, *(["suggested from the data:", config] if config else [])])


def _write_json(path: Path, source: str, result: CheckResult, suggestions: Suggestions) -> None:
    content = {
        "source": source,
        "errors": result.num_errors,
        "warnings": result.num_warnings,
        "totals": {kind: result.totals[kind] for kind in KINDS if result.totals[kind]},
        "findings": [finding.to_json() for finding in result.findings],
        "splits": {name: tally.to_json() for name, tally in result.splits.items()},
        "suggestions": suggestions.to_json(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content, indent=1, allow_nan=False).encode())
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror or error})") from None


def choose_worst(findings: Sequence[Finding], count: int) -> list[list[Finding]]:
    """Return the findings of some frames to draw: of every kind one, the gravest first, then of every kind a second."""
    frames: dict[tuple[str, int], list[Finding]] = {}
    rounds: dict[str, dict[tuple[str, int], None]] = {}
    for finding in findings:
        if finding.index is not None:
            key = (finding.split, finding.index)
            frames.setdefault(key, []).append(finding)
            rounds.setdefault(finding.kind, {})[key] = None
    order = [key for k in range(count) for own in rounds.values() for key in list(own)[k : k + 1]]
    return [frames[key] for key in dict.fromkeys(order)]


def draw_worst(splits: Sequence[CheckedSplit], findings: Sequence[Finding], count: int) -> Iterator[Picture]:
    """Yield pictures of the worst frames, seen from above; frames without a readable cloud are left out."""
    by_name = {split.name: split for split in splits}
    readers: dict[str, FrameReader] = {}
    for own in choose_worst(findings, count):
        if count <= 0:
            return
        split, index = by_name[own[0].split], own[0].index or 0
        if split.name not in readers:
            readers[split.name] = FrameReader(split.dataset, split.categories)
        frame = Frame(split.name, index, split.frames[index], split.info_file)
        loaded = load_frame(frame, readers[split.name], [])
        if loaded is None or not len(loaded.points):
            continue
        count -= 1
        marked = {finding.object for finding in own}
        rings = [row for row, number in zip(loaded.boxes, loaded.numbers, strict=True) if number in marked]
        boxes = BoxSet(loaded.boxes.astype(np.float32), np.zeros(len(loaded.boxes), np.int64))
        title = f"{split.name} {index}: {', '.join(dict.fromkeys(finding.kind for finding in own))}"
        view = find_view(loaded.points, loaded.boxes, pixels=760)
        image = Image.fromarray(draw_bev(loaded.points, boxes, BoxSet(), view=view, title=title))
        header = image.height - view.size[1]
        draw = ImageDraw.Draw(image)
        for row in rings:
            column, line = view.pixels(row[:2])
            radius = max(14.0, 0.75 * float(np.hypot(row[3], row[4])) * view.scale)
            corners = (column - radius, header + line - radius, column + radius, header + line + radius)
            draw.ellipse(corners, outline=RING, width=3)
        yield Picture(image, [finding.sentence for finding in own[:4]])


if __name__ == "__main__":
    run_command(main)
