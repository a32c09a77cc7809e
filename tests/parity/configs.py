"""Config files of a checkout of MMDetection3D, file by file: what ours reads against what MMEngine reads.

    python tests/parity/configs.py --root CHECKOUT [--mmengine PYTHON] [--all]

    python tests/parity/configs.py --root CHECKOUT --step

Every file is read by both, without importing what ``custom_imports`` names, and the dictionaries are compared, tuples
told from lists. Prints one line a file that differs (``--all``: every file) and a count; ends with 1 where some differ.
``--step`` takes ours alone: of each config that trains it builds the optimizer, the schedules, the hooks, the log
processor and the visualizer on a model of a few layers, and steps through two epochs.
``PYTHON`` is one that has MMEngine; by default ``RAYDET3D_MMENGINE_PYTHON``, else this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from raydet3d.config import Config  # noqa: E402
from raydet3d.errors import InputError  # noqa: E402
from tests.parity.mmengine_side import encoded  # noqa: E402


def mmengine_python() -> str:
    """The python that has MMEngine."""
    return os.environ.get("RAYDET3D_MMENGINE_PYTHON", sys.executable)


def ask_mmengine(requests: Sequence[dict[str, Any]], *, python: str, path: str = "") -> list[dict[str, Any]]:
    """MMEngine's answers.

    Args:
        requests: See ``mmengine_side``.
        python: A python that has MMEngine.
        path: A folder from which it can import as well.
    """
    command = [python, str(HERE / "mmengine_side.py")]
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, input=json.dumps(list(requests)), capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{python} cannot answer for MMEngine:\n{done.stderr[-1000:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def ours(file: Path) -> dict[str, Any]:
    """What our loader reads, or its sentence."""
    try:
        return {"value": encoded(Config.fromfile(file, import_custom_modules=False).to_dict())}
    except InputError as error:
        return {"error": str(error)}


def difference(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    """Where two encoded values differ."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in [*theirs, *(key for key in mine if key not in theirs)]:
            where = f"{path}.{key}" if path else key
            if key not in mine:
                yield f"{where}: only theirs"
            elif key not in theirs:
                yield f"{where}: only ours"
            else:
                yield from difference(theirs[key], mine[key], where)
    elif isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        for index, (one, other) in enumerate(zip(theirs, mine, strict=True)):
            yield from difference(one, other, f"{path}.{index}")
    elif theirs != mine or type(theirs) is not type(mine):
        yield f"{path}: {str(theirs)[:60]} against our {str(mine)[:60]}"


def built_and_stepped(file: Path) -> tuple[str, str]:
    """What came of a config's runtime sections: one word, and what there is to say."""
    import tempfile

    from raydet3d.registry import LOG_PROCESSORS
    from raydet3d.runtime.build import build_hooks, build_optim, build_schedulers, build_visualizer, check_sections

    try:
        cfg = Config.fromfile(file, import_custom_modules=False)
        if not {"model", "train_dataloader", "optim_wrapper"} <= set(cfg):
            return "does not train", ""
        check_sections(cfg)
        build_hooks(cfg)
        LOG_PROCESSORS.build(cfg.get("log_processor") or {}, {"type": "LogProcessor"})
        with tempfile.TemporaryDirectory() as folder:
            build_visualizer(cfg, save_dir=Path(folder))
        return _stepped(cfg, build_optim, build_schedulers)
    except InputError as error:
        return "is refused", str(error)


def _stepped(cfg: Any, build_optim: Any, build_schedulers: Any) -> tuple[str, str]:
    import torch
    from torch import nn

    parts = ("backbone", "img_backbone", "neck", "bbox_head", "decoder")
    model = nn.ModuleDict({name: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for name in parts})
    wrapper = build_optim(cfg, model)
    length, epochs = 4, cfg.train_cfg.get("max_epochs")
    limits = {"max_epochs": None if epochs is None else int(epochs), "max_iters": cfg.train_cfg.get("max_iters")}
    schedulers = build_schedulers(cfg, wrapper, length, **limits)
    wrapper.initialize_count_status(model, 0, 2 * length)
    rates = []
    for step in range(1, 2 * length + 1):
        x = torch.ones(2, 2, 3, 3)
        with wrapper.optim_context(model):
            for part in model.values():
                x = part(x)
        wrapper.update_params((x**2).mean())
        rates.append(wrapper.get_lr()["lr"][0])
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % length == 0:
                scheduler.step()
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    return "steps", f"{type(wrapper.optimizer).__name__}, lr {rates[0]:.3g} to {rates[-1]:.3g}"


def files_of(root: Path) -> list[Path]:
    """The config files of a checkout: configs/, the projects' ones, and the new-style ones inside the package."""
    folders = [root / "configs", root / "mmdet3d" / "configs", root / "mmdet3d" / ".mim" / "configs"]
    folders += sorted(root.glob("projects/*/configs"))
    found = {file.resolve(): file for folder in folders for file in sorted(folder.rglob("*.py"))}
    return [file for file in found.values() if file.name != "__init__.py"]


def verdict(theirs: dict[str, Any], mine: dict[str, Any]) -> tuple[str, str]:
    """One word, and what there is to say."""
    if "error" in theirs:
        word = "both refuse" if "error" in mine else "only ours reads it"
        return word, f"{theirs['error']} | {mine.get('error', '')}"
    if "error" in mine:
        return "only MMEngine reads it", mine["error"]
    found = list(difference(theirs["value"], mine["value"]))
    return ("differs", "; ".join(found[:3])) if found else ("equal", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--mmengine", default=mmengine_python(), metavar="PYTHON")
    parser.add_argument("--all", action="store_true", help="a line for every file")
    parser.add_argument("--step", action="store_true", help="build the runtime sections and step, ours alone")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    files = files_of(root)
    sys.path.insert(0, str(root))
    if args.step:
        return report(
            root, [(file, *built_and_stepped(file)) for file in files], good=("steps", "does not train"), args=args
        )
    theirs = ask_mmengine([{"file": str(file)} for file in files], python=args.mmengine, path=str(root))
    rows = [(file, *verdict(answer, ours(file))) for file, answer in zip(files, theirs, strict=True)]
    return report(root, rows, good=("equal", "both refuse"), args=args)


def report(root: Path, rows: Sequence[tuple[Path, str, str]], *, good: Sequence[str], args: argparse.Namespace) -> int:
    """Print the rows that say something, and a count.

    Returns:
        1 where a row is neither good nor better than theirs, else 0.
    """
    for file, word, why in rows:
        if args.all or word not in good:
            print(f"{file.relative_to(root)}: {word}{f': {why}' if why else ''}")
    count = Counter(word for _, word, _ in rows)
    print(f"{len(rows)} files: " + ", ".join(f"{number} {word}" for word, number in count.most_common()))
    return 0 if set(count) <= {*good, "only ours reads it"} else 1


if __name__ == "__main__":
    sys.exit(main())
