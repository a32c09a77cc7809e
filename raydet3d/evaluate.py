"""Evaluate a checkpoint: `python -m raydet3d.evaluate CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from raydet3d.cli import add_config, add_launcher_flags, read_config, run_command, version
from raydet3d.config import Config, is_uri, work_dir_of
from raydet3d.errors import InputError
from raydet3d.launch.preflight import check_writable
from raydet3d.launch.worker import is_torchrun

EXAMPLES = """examples:
  python -m raydet3d.evaluate configs/demo/pointpillars_town.py work_dirs/pointpillars_town/epoch_8.pth
  python -m raydet3d.evaluate CONFIG CHECKPOINT --out results/          # KITTI-format result files, one for each frame
  python -m raydet3d.evaluate CONFIG CHECKPOINT --show-dir pictures/    # bird's-eye pictures of every frame
  torchrun --nproc-per-node 8 -m raydet3d.evaluate CONFIG CHECKPOINT    # the frames dealt out to 8 processes

exit codes: 0 done; 1 failed; 2 something in the config, the data or the flags has to be mended first;
75 stopped (SIGTERM, SIGUSR1) or 130 (Ctrl-C): the same command scores anew"""


def make_parser() -> argparse.ArgumentParser:
    """Build the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.evaluate",
        description="Score a checkpoint on the config's test set (test_dataloader, test_evaluator).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint file, ours or MMEngine's weights")
    parser.add_argument("--work-dir", metavar="DIR", help="folder for logs (default: work_dirs/<config's name>)")
    parser.add_argument("--out", metavar="DIR", help="write result files into this folder (submission_prefix)")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every frame into this folder")
    parser.add_argument("--score-thr", type=float, metavar="S", help="least score of a drawn box")
    parser.add_argument("--tta", action="store_true", help="predict on the views of tta_pipeline, merged by tta_model")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch threads (default: ray.threads_per_worker, or 1)"
    )
    add_launcher_flags(parser)
    parser.add_argument("--version", action="version", version=version())
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the flags.

    Raises:
        InputError: The config, the checkpoint or a flag is wrong.
    """
    cfg = read_config(args)
    if not is_uri(args.checkpoint) and not Path(args.checkpoint).exists():
        raise InputError(f"checkpoint {args.checkpoint} does not exist")
    if args.work_dir is not None:
        cfg["work_dir"] = args.work_dir
    cfg["work_dir"] = work_dir_of(cfg, cfg.filename)
    cfg["load_from"], cfg["resume"] = args.checkpoint, False  # this checkpoint, not one of the work dir
    if args.out is not None:
        for evaluator in _metrics(cfg):
            evaluator["submission_prefix"] = str(Path(args.out).absolute())
    if args.show_dir is not None:
        hook = cfg.get("default_hooks", {}).get("visualization")
        if hook is None:
            raise InputError(
                "--show-dir needs default_hooks.visualization=dict(type='Det3DVisualizationHook') in the config"
            )
        hook.update(draw=True, test_out_dir=str(Path(args.show_dir).absolute()))
        if args.score_thr is not None:
            hook["score_thr"] = args.score_thr
    return cfg


def _metrics(cfg: Config) -> list[MutableMapping[str, Any]]:
    """Return the metric configs of the test evaluator."""
    given = cfg.get("test_evaluator")
    if given is None:
        raise InputError("the config has no test_evaluator, so there is nothing to score with")
    if isinstance(given, MutableMapping) and str(given.get("type")).rpartition(".")[2] == "Evaluator":
        given = given["metrics"]
    return list(given) if isinstance(given, list | tuple) else [given]


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate the checkpoint and print the scores; returns the exit code."""
    cfg = load_config(args)
    with cfg.origin.located():
        return _evaluate(cfg, args)


def _evaluate(cfg: Config, args: argparse.Namespace) -> int:
    check_writable(cfg["work_dir"], "work_dir")

    import torch

    from raydet3d.dist import is_main_process, join_torchrun, on_rank0
    from raydet3d.runtime.assemble import assemble
    from raydet3d.runtime.consistency import warn_of_contradictions
    from raydet3d.runtime.loaders import check_data
    from raydet3d.runtime.tta_runner import build_runner_with_tta

    device = join_torchrun((cfg.get("env_cfg") or {}).get("dist_cfg")) if is_torchrun() else None
    if is_main_process():
        warn_of_contradictions(cfg)
    on_rank0(lambda: check_data(cfg))
    threads = args.threads or int((cfg.get("ray") or {}).get("threads_per_worker", 1))
    torch.set_num_threads(threads)
    runner = (build_runner_with_tta if args.tta else assemble)(cfg, device=device)
    metrics = runner.test()
    if is_main_process():
        for title, folder in (("Results", args.out), ("Pictures", args.show_dir)):
            if folder is not None:
                print(f"{title}: {folder}")
        for name, value in runner.headline(metrics).items():
            print(f"{name}: {value:.2f}")
    return 0


def main() -> int:
    """Parse the command line and evaluate."""
    return evaluate(make_parser().parse_args())


if __name__ == "__main__":
    run_command(main)
