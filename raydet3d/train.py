"""The door to training: ``python -m raydet3d.train CONFIG``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from raydet3d.config import Config, default_work_dir, find_config, parse_options
from raydet3d.errors import InputError
from raydet3d.launch.door import add_config, add_old_habits, run_door, version
from raydet3d.launch.options import RayOptions
from raydet3d.launch.preflight import check_this_machine, check_work_dir
from raydet3d.launch.worker import Plan, is_torchrun, join_torchrun, work
from raydet3d.machine import num_processors

EXAMPLES = """examples:
  python -m raydet3d.train configs/demo/pointpillars_town.py
  python -m raydet3d.train configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py --workers 8
  python -m raydet3d.train CONFIG --workers 0                      # in this process, without Ray: for a debugger
  python -m raydet3d.train CONFIG --resume                         # go on from the newest checkpoint of the work dir
  python -m raydet3d.train CONFIG --cfg-options lr=0.002 train_dataloader.batch_size=4
  torchrun --nproc-per-node 8 -m raydet3d.train CONFIG             # on the ranks that torchrun started, without Ray
  ray job submit --working-dir . -- python -m raydet3d.train CONFIG

exit codes: 0 done; 1 failed; 2 something in the config, the data or the flags has to be mended first"""


def make_parser() -> argparse.ArgumentParser:
    """The door's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m raydet3d.train",
        description="Train a 3D object detector from a config: on Ray workers, under torchrun, or in this process.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(parser)
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        help="folder for checkpoints, logs and pictures (default: work_dirs/<config's name>)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint; without a path, from the newest one in the work dir",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="Ray workers (default: ray.num_workers of the config); 0 trains in this process, without Ray",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (AmpOptimWrapper)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by batch size, as auto_scale_lr.base_batch_size says",
    )
    add_old_habits(parser)
    parser.add_argument("--version", action="version", version=version())
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """The config with the flags applied.

    Raises:
        InputError: The config or a flag is wrong.
    """
    cfg = Config.fromfile(find_config(args.config), options=parse_options(args.cfg_options))
    if args.work_dir is not None:
        cfg["work_dir"] = args.work_dir
    cfg["work_dir"] = str(default_work_dir(cfg, cfg.filename))
    if args.amp:
        wrapper = cfg.get("optim_wrapper") or {}
        kind = wrapper.get("type", "OptimWrapper")
        if str(kind).rpartition(".")[2] not in ("OptimWrapper", "AmpOptimWrapper"):
            raise InputError(f"--amp works with optim_wrapper.type 'OptimWrapper', this config has {kind!r}")
        wrapper["type"] = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        scale = cfg.get("auto_scale_lr") or {}
        if "base_batch_size" not in scale:
            raise InputError(
                "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: "
                "the batch size that its learning rate is meant for"
            )
        scale["enable"] = True
    return cfg


def train(args: argparse.Namespace) -> int:
    """Run the door.

    Returns:
        The exit code.
    """
    started = time.monotonic()
    if args.workers is not None and args.workers < 0:
        raise InputError(f"--workers must be 0 or more, got {args.workers}")
    cfg = load_config(args)
    with cfg.origin.located():
        return _train(cfg, args, started=started)


def _train(cfg: Config, args: argparse.Namespace, *, started: float) -> int:
    work_dir = Path(cfg["work_dir"])
    options = RayOptions.from_config(cfg.get("ray"), workers=args.workers)
    if not is_torchrun():
        check_this_machine(options)
    check_work_dir(work_dir)

    from raydet3d.optim import check_optimization  # torch is imported from here on: what is above fails fast
    from raydet3d.runtime.build import check_sections, ready_data
    from raydet3d.runtime.rng import draw_seed

    check_sections(cfg)
    check_optimization(cfg)
    resume: bool | str = {None: False, "auto": True}.get(args.resume, args.resume)
    randomness = dict(cfg.get("randomness") or {})
    if randomness.get("seed") is None and not (resume or cfg.get("resume")):
        # Once, here, so that every process and every restart has the same.
        cfg["randomness"] = {**randomness, "seed": draw_seed()}
    plan = Plan(
        cfg=cfg.to_dict(),
        filename=None if cfg.filename is None else str(cfg.filename),
        origin=cfg.origin.to_dict(),
        run_id=time.strftime("%Y%m%d_%H%M%S"),
        resume=resume,
        threads=options.threads_per_worker if is_torchrun() else None,
        cwd=str(Path.cwd()),
    )
    if is_torchrun():
        from raydet3d.dist import broadcast_object, first, get_world_size, is_main_process

        device = join_torchrun((cfg.get("env_cfg") or {}).get("dist_cfg"))
        first(lambda: ready_data(cfg))
        plan = broadcast_object(plan)
        result = {**work(plan, device=device), "workers": get_world_size(), "cpus": num_processors()}
        if not is_main_process():
            return 0
    else:
        ready_data(cfg)
        if options.num_workers == 0:
            result = {**work(plan), "workers": 0, "cpus": num_processors()}
        else:
            from raydet3d.launch.trainer import fit

            result = fit(plan, options, work_dir=work_dir)
    print_result(result, seconds=time.monotonic() - started)
    return 0


def print_result(result: dict[str, Any], *, seconds: float) -> None:
    """The last lines of a run: where things lie, what it cost, and the scores that count."""
    workers = result["workers"]
    how = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "this process"
    print(f"Finished in {int(seconds) // 60} min {int(seconds) % 60} s with {how} on {result['cpus']} cores.")
    for title, key in (
        ("Logs", "log_dir"),
        ("Pictures", "picture_dir"),
        ("Best checkpoint", "best_checkpoint"),
        ("Last checkpoint", "last_checkpoint"),
    ):
        if result.get(key):
            print(f"{title}: {result[key]}")
    for name, value in result.get("headline", {}).items():
        print(f"{name}: {value:.2f}")


def main() -> int:
    """Parse the command line and train."""
    return train(make_parser().parse_args())


if __name__ == "__main__":
    run_door(main)
