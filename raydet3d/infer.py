"""Predict on point clouds: `python -m raydet3d.infer CONFIG CHECKPOINT CLOUD|FOLDER|GLOB ...`."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raydet3d.cli import FAILED, add_cfg_options, add_ray, check_checkpoint, make_command_parser, run_command
from raydet3d.config import Config, is_uri, parse_options
from raydet3d.errors import InputError
from raydet3d.files import locked
from raydet3d.launch.preflight import check_this_machine, check_writable
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import module_folders
from raydet3d.launch.signals import StopRequest, stop_signals
from raydet3d.progress_bar import ProgressBar

if TYPE_CHECKING:
    from raydet3d.launch.cluster import ConnectThread
    from raydet3d.runtime.infer_files import CloudFile, FileInferencer, InferJob, Outcome

CONFIG_SUFFIXES = (".py", ".yaml", ".yml", ".json")
CLOUD_SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
NAMED = 50  # files named at the end; all are in predictions.jsonl

EXAMPLES = """examples:
  python -m raydet3d.infer configs/demo/pointpillars_town.py epoch_15.pth data/town/training/velodyne_reduced/000400.bin
  python -m raydet3d.infer CONFIG CHECKPOINT clouds/ --out found --show-dir pictures
  python -m raydet3d.infer CONFIG CHECKPOINT 'clouds/**/*.bin' --kitti --workers 8
  python -m raydet3d.infer published-1a2b3c4d.pth clouds/    # the config is in the file
  python -m raydet3d.infer CONFIG CHECKPOINT 's3://bucket/drive_7/*.bin'    # through fsspec (s3:// needs s3fs)

results: OUT/preds/NAME.json for each cloud, OUT/predictions.jsonl with a line for each, in the order of the inputs

exit codes: 0 done; 1 some clouds failed (they are named last), or something else did; 2 bad input; 75 stopped (SIGTERM,
SIGUSR1) or 130 (Ctrl-C): the same command goes on with the clouds that are not done"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = make_command_parser(
        "infer", "Predict on point clouds; they are loaded as the config's test_dataloader says.", EXAMPLES
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="config file; may be left out where the checkpoint holds the config"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of ours or of MMEngine's")
    parser.add_argument(
        "clouds",
        metavar="CLOUD|FOLDER|GLOB",
        nargs="*",
        help=f"files, folders (their {', '.join(CLOUD_SUFFIXES)} files) and patterns, ** for any folders; or URIs",
    )
    add_cfg_options(parser)
    parser.add_argument(
        "--out", metavar="DIR", default="predictions", help="folder of the results (default: predictions)"
    )
    parser.add_argument("--kitti", action="store_true", help="also write KITTI text files, OUT/kitti/NAME.txt")
    parser.add_argument(
        "--calib",
        metavar="DIR",
        help="folder of KITTI calibration files NAME.txt for --kitti (default: camera at LiDAR)",
    )
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every cloud into this folder")
    parser.add_argument("--page", metavar="DIR", help="write a 3D page of the first 30 clouds into this folder")
    parser.add_argument(
        "--score-thr", type=float, metavar="S", help="least score of a box (default: all are written, 0.3 is drawn)"
    )
    parser.add_argument("--tta", action="store_true", help="predict on the views of tta_pipeline, merged by tta_model")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="clouds in a batch (default: 1)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch threads (default: ray.threads_per_worker, or 1)"
    )
    parser.add_argument("--fresh", action="store_true", help="predict on all clouds anew")
    add_ray(parser, default="0", verb="predicts")
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a checkpoint in place of the config moves the arguments after it.

    Raises:
        InputError: There is no cloud, or a number is wrong.
    """
    args = make_parser().parse_args(argv)
    if not args.config.endswith(CONFIG_SUFFIXES):
        args.clouds = [args.checkpoint, *args.clouds]
        args.config, args.checkpoint = None, args.config
    if not args.clouds:
        raise InputError("name at least one cloud, folder or pattern after the checkpoint")
    if args.batch_size < 1:
        raise InputError(f"--batch-size must be 1 or more, got {args.batch_size}")
    if args.calib is not None and not args.kitti:
        raise InputError("--calib is for --kitti")
    return args


def read_config(args: argparse.Namespace) -> Config:
    """Read the config that the flags name, or the one in the checkpoint.

    Raises:
        InputError: It is wrong, or there is none.
    """
    options = parse_options([*args.cfg_options, *(f"ray.{option}" for option in args.ray)])
    if args.config is not None:
        return Config.fromfile(args.config, options=options)
    from raydet3d.checkpoint.published_file import config_in_checkpoint

    cfg = config_in_checkpoint(args.checkpoint)
    cfg.merge_from_dict(options)
    return cfg


def find_clouds(given: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Find the clouds that the command line names.

    Args:
        given: Files, folders and patterns: paths or URIs.

    Returns:
        The folder that all are in, and path and name of each: names are relative to that folder, without suffix.

    Raises:
        InputError: Nothing is there, or two clouds would have one name.
    """
    paths: dict[str, None] = {}
    for item in given:
        item = item.removeprefix("file://")
        paths.update(dict.fromkeys(_remote_clouds(item) if is_uri(item) else map(os.path.abspath, _local_clouds(item))))
    if len({path.partition("://")[0] if is_uri(path) else "" for path in paths}) > 1:
        raise InputError("the clouds are in several places; predict on those of one file system at a time")
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names: dict[str, str] = {}
    for path in paths:
        name = os.path.splitext(os.path.relpath(path, root))[0]
        if name in names:
            raise InputError(f"{path} and {names[name]} would have one name, {name}; predict on them one at a time")
        names[name] = path
    return root, [(path, name) for name, path in names.items()]


def _local_clouds(item: str) -> list[str]:
    """Find the clouds of a path or pattern on this machine."""
    if os.path.isdir(item):
        found = sorted(entry.path for entry in os.scandir(item) if entry.name.endswith(CLOUD_SUFFIXES))
    elif os.path.exists(item):
        found = [item]
    else:
        found = sorted(path for path in glob.glob(item, recursive=True) if os.path.isfile(path))
    if found:
        return found
    if not os.path.isdir(item):
        raise InputError(f"{item}: no such file, and no file that it matches")
    below = (name for _, _, files in os.walk(item) for name in files if name.endswith(CLOUD_SUFFIXES))
    pattern = f"{os.path.join(item, '**')}/*{os.path.splitext(next(below, ''))[1]}"
    hint = f"its subfolders have some: '{pattern}'" if not pattern.endswith("*") else "nor in its subfolders"
    raise InputError(f"{item}: no {', '.join(CLOUD_SUFFIXES)} file in this folder; {hint}")


def _remote_clouds(item: str) -> list[str]:
    """Find the clouds of a URI: a file, a folder or a pattern on a file system of fsspec's."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(item)
        if system.isdir(path):
            found = [name for name in system.ls(path, detail=False) if name.endswith(CLOUD_SUFFIXES)]
        else:
            found = [path] if system.exists(path) else [name for name in system.glob(path) if system.isfile(name)]
    except Exception as error:  # noqa: BLE001 - each file system has error classes of its own
        raise InputError(f"{item} cannot be read: {error}") from None
    if not found:
        raise InputError(f"{item}: no such file, and no {', '.join(CLOUD_SUFFIXES)} file there")
    return [system.unstrip_protocol(name) for name in sorted(found)]


def infer(args: argparse.Namespace, request: StopRequest) -> int:
    """Predict on all clouds that are not done, and return the exit code.

    Args:
        args: The parsed command line.
        request: Stop request set by signals to this process.
    """
    check_checkpoint(args.checkpoint)
    root, found = find_clouds(args.clouds)
    cfg = read_config(args)
    with cfg.origin.located():
        options = RayOptions.from_config(cfg.get("ray"), workers="0" if args.workers is None else args.workers)
        out = Path(args.out).absolute()
        for flag, folder in (("--out", out), ("--show-dir", args.show_dir), ("--page", args.page)):
            if folder is not None:
                check_writable(folder, flag, "choose another folder")
        busy = f"--out {args.out}: another command is writing there; wait for its end, or choose another folder"
        connecting: ConnectThread | None = None
        with locked(out / ".lock", timeout_s=1, busy=busy, required=False, keep_file=False):
            if options.max_workers > 0:
                check_this_machine(options)
                from raydet3d.launch.cluster import ConnectThread

                connecting = ConnectThread(options, out)
                connecting.start()
            try:
                return _infer(cfg, args, options, root, found, connecting, request)
            finally:
                if connecting is not None:
                    connecting.close()


def _infer(
    cfg: Config,
    args: argparse.Namespace,
    options: RayOptions,
    root: str,
    found: Sequence[tuple[str, str]],
    connecting: ConnectThread | None,
    request: StopRequest,
) -> int:
    from raydet3d.runtime.frame_sinks import JsonSink
    from raydet3d.runtime.infer_files import DRAWN_SCORE, CloudFile, FileInferencer, InferJob, is_done, make_sinks
    from raydet3d.runtime.infer_output import begin, make_record, write_lines
    from raydet3d.runtime.scene_sink import MAX_FRAMES, join_scenes

    out = Path(args.out).absolute()
    job = InferJob(
        cfg=cfg.to_dict(),
        checkpoint=args.checkpoint if "://" in args.checkpoint else str(Path(args.checkpoint).absolute()),
        out=str(out),
        tta=args.tta,
        score_thr=args.score_thr,
        show_dir=None if args.show_dir is None else str(Path(args.show_dir).absolute()),
        page_dir=None if args.page is None else str(Path(args.page).absolute()),
        page_names=tuple(name for _, name in found[:MAX_FRAMES]),
        kitti=args.kitti,
        calib_dir=None if args.calib is None else str(Path(args.calib).absolute()),
        batch_size=args.batch_size,
        device=args.device,
        threads=args.threads or options.threads_per_worker,
        cwd=str(Path.cwd()),
        modules=tuple(module_folders()),
    )
    files = [CloudFile(path, name) for path, name in found]
    # With workers too: a checkpoint that does not fit is found here, once, and no GPU of theirs is needed for it.
    inferencer = FileInferencer(job if connecting is None else replace(job, device="cpu"))
    classes = inferencer.classes
    begin(out, make_record(job, root, classes), fresh=args.fresh)
    local = inferencer if connecting is None else None
    del inferencer
    sinks = make_sinks(job)
    pending = [file for file in files if not is_done(sinks, file)]
    failed = {file.path: "the process that predicted on it died" for file in pending}
    with ProgressBar(len(files), "predicted clouds") as progress:
        progress.skip(len(files) - len(pending))
        for outcomes in _outcomes(job, pending, local, connecting, request):
            for outcome in outcomes:
                failed[outcome.path] = outcome.error
                if not outcome.error:
                    del failed[outcome.path]
            progress.step(len(outcomes))
    lines, boxes = write_lines(out, files, JsonSink(out), failed)
    drawn_score = DRAWN_SCORE if args.score_thr is None else args.score_thr
    hidden = ""
    if (args.show_dir is not None or args.page is not None) and 0 < boxes.best < drawn_score:
        lower = f"--score-thr {boxes.best / 2:.1g} --fresh"
        hidden = f"; none is drawn, since pictures show scores of {drawn_score:g} or more: {lower} draws more"
    least = "" if args.score_thr is None else f" with a score of {args.score_thr:g} or more"
    print(f"Boxes{least}: {boxes.describe()}{hidden}")
    print(f"Predictions: {lines}")
    if args.show_dir is not None:
        print(f"Pictures: {args.show_dir}")
    if job.page_dir is not None:
        title = f"{Path(args.checkpoint).name} on {Path(root).name}"
        page = join_scenes(job.page_dir, job.page_names, title=title, classes=classes, score_thr=drawn_score)
        print(f"Page: {page}")
    if not failed:
        return 0
    print(f"{len(failed)} of {len(files)} clouds failed; the same command tries them again:")
    for path, error in list(failed.items())[:NAMED]:
        print(f"  {path}: {error.removeprefix(f'{path}: ')}")
    if len(failed) > NAMED:
        print(f"  and {len(failed) - NAMED} more, which are lines with an error in {lines}")
    return FAILED


def _outcomes(
    job: InferJob,
    files: Sequence[CloudFile],
    local: FileInferencer | None,
    connecting: ConnectThread | None,
    request: StopRequest,
) -> Iterator[list[Outcome]]:
    """Yield the outcomes of files, from this process or from workers."""
    if local is not None:
        for start in range(0, len(files), job.batch_size):
            yield local.run(files[start : start + job.batch_size])
    elif files and connecting is not None:
        from raydet3d.launch.infer_workers import InferPool

        cluster = connecting.wait()
        request.listen()
        yield from InferPool(job, files, cluster.options).run()


def main() -> int:
    """Parse the command line and predict."""
    args = parse()
    with stop_signals() as request:
        return infer(args, request)


if __name__ == "__main__":
    run_command(main)
