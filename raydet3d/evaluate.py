"""Evaluate a checkpoint: `python -m raydet3d.evaluate CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raydet3d.cli import (
    add_config,
    add_launcher_flags,
    add_ray,
    check_checkpoint,
    make_command_parser,
    read_config,
    run_command,
)
from raydet3d.config import Config, PartCfg, default_work_dir, is_uri, work_dir_of
from raydet3d.errors import InputError
from raydet3d.launch.preflight import check_this_machine, check_writable, check_writable_file
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec, new_run_id
from raydet3d.launch.signals import StopRequest, stop_signals
from raydet3d.launch.worker import is_torchrun, run_worker
from raydet3d.run_status import RunResult

EXAMPLES = """examples:
  python -m raydet3d.evaluate configs/demo/pointpillars_town.py work_dirs/pointpillars_town/epoch_8.pth
  python -m raydet3d.evaluate CONFIG CHECKPOINT --workers 8             # the frames dealt out to 8 Ray workers
  python -m raydet3d.evaluate CONFIG CHECKPOINT --out results/          # KITTI-format result files, one for each frame
  python -m raydet3d.evaluate CONFIG CHECKPOINT --show-dir pictures/    # bird's-eye pictures of every frame
  python -m raydet3d.evaluate CONFIG CHECKPOINT --page page/ --worst 20 # the 20 worst frames as a 3D page
  python -m raydet3d.evaluate CONFIG CHECKPOINT --save-predictions found.npz
  python -m raydet3d.evaluate CONFIG --predictions found.npz --work-dir DIR   # score again, without the model;
                                                                        # then: python -m raydet3d.report DIR
  torchrun --nproc-per-node 8 -m raydet3d.evaluate CONFIG CHECKPOINT    # the frames dealt out to 8 processes

exit codes: 0 done; 1 failed; 2 something in the config, the data or the flags has to be mended first;
75 stopped (SIGTERM, SIGUSR1) or 130 (Ctrl-C): the same command scores anew"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = make_command_parser(
        "evaluate",
        "Score a checkpoint, or saved predictions, on the config's test set (test_dataloader, test_evaluator).",
        EXAMPLES,
    )
    add_config(parser)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="checkpoint file, ours or MMEngine's weights; left out with --predictions",
    )
    parser.add_argument(
        "--work-dir", metavar="DIR", help="folder for logs and analysis.json (default: work_dirs/<config's name>)"
    )
    parser.add_argument("--out", metavar="DIR", help="write result files into this folder (submission_prefix)")
    parser.add_argument("--save-predictions", metavar="FILE", help="write all predictions to this file (.npz)")
    parser.add_argument("--predictions", metavar="FILE", help="score a file of --save-predictions, without the model")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every frame into this folder")
    parser.add_argument("--page", metavar="DIR", help="write a 3D page of the frames with most errors into this folder")
    parser.add_argument(
        "--worst", type=int, metavar="N", help="draw the N frames with most missed objects and false positives only"
    )
    parser.add_argument("--score-thr", type=float, metavar="S", help="least score of a drawn box")
    parser.add_argument("--tta", action="store_true", help="predict on the views of tta_pipeline, merged by tta_model")
    add_ray(parser, default="0", verb="evaluates")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch threads (default: ray.threads_per_worker, or 1)"
    )
    add_launcher_flags(parser)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the flags.

    Raises:
        InputError: The config, the checkpoint or a flag is wrong.
    """
    cfg = read_config(args)
    if (args.checkpoint is None) == (args.predictions is None):
        raise InputError("name what to score: a CHECKPOINT, or predictions with --predictions FILE")
    if args.work_dir is not None:
        cfg["work_dir"] = args.work_dir
    cfg["work_dir"] = work_dir_of(cfg, cfg.filename)
    if args.checkpoint is not None:
        check_checkpoint(args.checkpoint)
        cfg["load_from"], cfg["resume"] = args.checkpoint, False  # this checkpoint, not one of the work dir
    else:
        for flag in ("show_dir", "page", "tta", "save_predictions", "workers"):
            if getattr(args, flag):
                raise InputError(f"--{flag.replace('_', '-')} needs a model; --predictions scores without one")
    for flag in ("show_dir", "page"):
        if getattr(args, flag):
            check_writable(getattr(args, flag), f"--{flag.replace('_', '-')}", "choose another folder")
    if args.out is not None:
        check_writable(Path(args.out).absolute().parent, "--out", "choose another folder")
        for evaluator in _metrics(cfg):
            evaluator["submission_prefix"] = str(Path(args.out).absolute())
    if args.save_predictions is not None:
        file = Path(args.save_predictions).absolute()
        check_writable_file(file, "--save-predictions")
        if isinstance(cfg.get("test_dataloader"), list | tuple):
            raise InputError("--save-predictions: the config has several test data sets; name one of them alone")
        _add_metric(cfg, {"type": "PredictionFile", "out_file": str(file)})
    if args.show_dir is not None:
        hook = cfg.get("default_hooks", {}).get("visualization")
        if hook is None:
            raise InputError(
                "--show-dir needs default_hooks.visualization=dict(type='Det3DVisualizationHook') in the config"
            )
        hook.update(draw=True, test_out_dir=str(Path(args.show_dir).absolute()))
    if args.page is not None:
        hooks = cfg.setdefault("default_hooks", {})
        hooks["visualization"] = hooks.get("visualization") or {"type": "Det3DVisualizationHook"}
        hooks["visualization"]["page"] = str(Path(args.page).absolute())
    if args.show_dir is not None or args.page is not None:
        given = {"score_thr": args.score_thr, "worst": args.worst}
        cfg["default_hooks"]["visualization"].update({key: value for key, value in given.items() if value is not None})
    elif args.worst is not None:
        raise InputError("--worst chooses the frames of --show-dir or --page; give one of them")
    return cfg


def _metrics(cfg: Config) -> list[MutableMapping[str, Any]]:
    """Return the metric configs of the test evaluator."""
    given = cfg.get("test_evaluator")
    if given is None:
        raise InputError("the config has no test_evaluator, so there is nothing to score with")
    if _is_evaluator(given):
        given = given["metrics"]
    return list(given) if isinstance(given, list | tuple) else [given]


def _add_metric(cfg: Config, metric: PartCfg) -> None:
    """Add a metric to the test evaluator."""
    metrics = [*_metrics(cfg), metric]
    if _is_evaluator(cfg["test_evaluator"]):
        cfg["test_evaluator"]["metrics"] = metrics
    else:
        cfg["test_evaluator"] = metrics


def _is_evaluator(given: object) -> bool:
    return isinstance(given, Mapping) and str(given.get("type")).rpartition(".")[2] == "Evaluator"


def evaluate(args: argparse.Namespace, request: StopRequest) -> int:
    """Evaluate and print the scores.

    Args:
        args: The parsed command line.
        request: Stop request set by signals to this process.

    Returns:
        The exit code.
    """
    cfg = load_config(args)
    with cfg.origin.located():
        options = RayOptions.from_config(cfg.get("ray"), workers="0" if args.workers is None else args.workers)
        check_writable(cfg["work_dir"], "work_dir")
        if args.predictions is not None:
            result = score_again(cfg, args.predictions)
        else:
            result = run_test(cfg, args, options, request)
    if result.get("is_main", True):
        for title, path in (
            ("Results", args.out),
            ("Predictions", args.save_predictions),
            ("Pictures", args.show_dir),
            ("Page", args.page and Path(args.page) / "index.html"),
            ("Logs", result.get("log_dir")),
        ):
            if path is not None:
                print(f"{title}: {path}")
        for name, value in result["headline"].items():
            print(f"{name}: {value:.2f}")
    return 0


def score_again(cfg: Config, file: str) -> RunResult:
    """Score the predictions of a file, and write the work dir's `analysis.json`."""
    if not Path(file).is_file():
        raise InputError(f"--predictions {file} does not exist")

    from raydet3d.runtime.loaders import check_data
    from raydet3d.runtime.rescore import score_predictions, write_analyses

    check_data({key: cfg[key] for key in ("test_dataloader", "test_evaluator") if key in cfg})
    scores = score_predictions(cfg, Path(file))
    if scores.analyses:
        place = f"{cfg['work_dir']}/analysis.json"
        work_dir = cfg["work_dir"] if is_uri(cfg["work_dir"]) else Path(cfg["work_dir"])
        is_written = write_analyses(work_dir, scores.analyses, Path(file).name)
        print(f"Analysis: {place}{'' if is_written else ' is left as it is: its score is better'}")
    return {"metrics": scores.metrics, "headline": scores.headline}


def run_test(cfg: Config, args: argparse.Namespace, options: RayOptions, request: StopRequest) -> RunResult:
    """Test in this process, as one of torchrun's ranks, or on Ray workers."""
    spec = RunSpec(
        cfg=cfg.to_dict(),
        filename=cfg.filename,
        origin=cfg.origin,
        run_id=new_run_id(default_work_dir(cfg, cfg.filename)),
        task="test",
        tta=args.tta,
        threads=args.threads or options.threads_per_worker,
    )
    if options.max_workers > 0 and not is_torchrun():
        check_this_machine(options)
        from raydet3d.launch.ray_run import run_on_ray

        if args.threads:
            options = replace(options, threads_per_worker=args.threads)
        # Ray's own files go to the folder of this start: those of the work dir are a training's.
        place = f"{cfg['work_dir']}/{spec.run_id}"
        return run_on_ray(spec, options, request, work_dir=place, check=lambda: check_parts(cfg))

    from raydet3d.dist import broadcast_object, is_main_process, join_torchrun, on_rank0

    device = join_torchrun((cfg.get("env_cfg") or {}).get("dist_cfg")) if is_torchrun() else None
    on_rank0(lambda: check_parts(cfg))
    return {**run_worker(broadcast_object(spec), device=device), "is_main": is_main_process()}


def check_parts(cfg: Config) -> None:
    """Check what a test needs before anything is built, and generate data that are made on first use."""
    from raydet3d.runtime.consistency import warn_of_contradictions
    from raydet3d.runtime.loaders import check_data

    warn_of_contradictions(cfg)
    check_data(cfg)


def main() -> int:
    """Parse the command line and evaluate."""
    args = make_parser().parse_args()
    with stop_signals() as request:
        return evaluate(args, request)


if __name__ == "__main__":
    run_command(main)
