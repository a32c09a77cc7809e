"""Train from a config: `python -m raydet3d.train CONFIG`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

from raydet3d.checkpoint.earlier_runs import EARLIER
from raydet3d.cli import (
    FAILED,
    INTERRUPTED,
    RESUMABLE,
    add_config,
    add_launcher_flags,
    add_ray,
    make_command_parser,
    read_config,
    run_command,
)
from raydet3d.config import Config, default_work_dir, is_uri, work_dir_of
from raydet3d.errors import InputError
from raydet3d.files import locked
from raydet3d.host import num_processors
from raydet3d.launch.preflight import check_output_folders, check_room_on_disk, check_this_machine, checkpoint_size
from raydet3d.launch.ray_options import RayOptions
from raydet3d.launch.run_spec import RunSpec, new_run_id
from raydet3d.launch.signals import StopRequest, stop_signals
from raydet3d.launch.work_dir_state import PreviousRun, WorkDirState, inspect_work_dir
from raydet3d.launch.worker import is_torchrun, run_worker
from raydet3d.run_status import RunResult

BUSY_S = 15.0  # seconds; a killed run and its dataloader workers have released the lock by then

EXAMPLES = """examples:
  python -m raydet3d.train configs/demo/pointpillars_town.py
  python -m raydet3d.train configs/pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py --workers 8
  python -m raydet3d.train CONFIG --workers 0                      # in this process, without Ray: for a debugger
  python -m raydet3d.train CONFIG --workers 1-8 --ray gpus_per_worker=1 placement_strategy=SPREAD
  python -m raydet3d.train CONFIG                                  # again: resumes where it was stopped or killed
  python -m raydet3d.train CONFIG --fresh                          # again, but from the beginning
  python -m raydet3d.train CONFIG --resume                         # resume, though the config has changed since
  python -m raydet3d.train CONFIG --cfg-options lr=0.002 train_dataloader.batch_size=4
  torchrun --nproc-per-node 8 -m raydet3d.train CONFIG             # on the ranks that torchrun started, without Ray
  ray job submit --working-dir . -- python -m raydet3d.train CONFIG

exit codes: 0 done; 1 failed; 2 something in the config, the data or the flags has to be mended first;
75 stopped (SIGTERM, SIGUSR1, time limit) and saved: the same command resumes; 130 stopped by Ctrl-C and saved"""


def make_parser() -> argparse.ArgumentParser:
    """Build the argument parser."""
    parser = make_command_parser(
        "train",
        "Train a 3D object detector from a config: on Ray workers, under torchrun, or in this process.",
        EXAMPLES,
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
        help="resume from this checkpoint; without a path, from the newest one in the work dir",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew where the work dir holds a run of this config to resume"
    )
    add_ray(parser)
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (AmpOptimWrapper)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by batch size, as auto_scale_lr.base_batch_size says",
    )
    add_launcher_flags(parser)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Load the config and apply the command-line flags.

    Raises:
        InputError: The config or a flag is invalid.
    """
    cfg = read_config(args)
    if args.work_dir is not None:
        cfg["work_dir"] = args.work_dir
    cfg["work_dir"] = work_dir_of(cfg, cfg.filename)
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


def train(args: argparse.Namespace, request: StopRequest) -> int:
    """Run the command.

    Args:
        args: The parsed command line.
        request: Stop request set by signals to this process.

    Returns:
        The exit code.
    """
    started = time.monotonic()
    cfg = load_config(args)
    with cfg.origin.located():
        options = RayOptions.from_config(cfg.get("ray"), workers=args.workers)
        if not is_torchrun():
            check_this_machine(options)
        check_output_folders(cfg)
        if args.fresh and args.resume:
            raise InputError("--fresh begins anew and --resume continues; give one of them")
        if args.fresh:
            cfg["resume"] = False
        work_dir = default_work_dir(cfg, cfg.filename)
        busy = f"{work_dir}: another run is active there; wait for its end, or choose another --work-dir"
        lock = locked(work_dir / ".lock", timeout_s=BUSY_S, busy=busy, required=False, keep_file=False)
        with lock if _is_first_rank() else nullcontext():
            return _train(cfg, args, request, options, started=started)


def _train(cfg: Config, args: argparse.Namespace, request: StopRequest, options: RayOptions, *, started: float) -> int:
    """Train in a work dir that is already locked, and return the exit code."""
    resume: bool | str = {None: False, "auto": True}.get(args.resume, args.resume)
    wanted = resume or cfg.get("resume") or False
    run = ""
    if not args.fresh and not isinstance(wanted, str):
        chosen = choose_run(
            inspect_work_dir(default_work_dir(cfg, cfg.filename), cfg), cfg["work_dir"], resume=bool(wanted)
        )
        if chosen is not None:
            if chosen.finished and not wanted:
                print_result(cast("RunResult", {"workers": None, **chosen.result}), seconds=0)
                return 0
            resume, run = True, chosen.run
    spec = make_run_spec(cfg, options, resume, run)
    asked = reason_to_stop(request, options.time_limit_s, started)
    result = (
        train_under_torchrun(cfg, spec, request, asked)
        if is_torchrun()
        else train_on_ray(cfg, spec, options, request, asked)
    )
    if result.get("stopped"):
        if result.get("is_main", True):
            way = "without --fresh, " if args.fresh else "with a plain --resume, " if isinstance(resume, str) else ""
            print(f"Stopped ({result['stopped']}) after iteration {result['iter']}: {way}the same command resumes.")
            print(f"Saved: {result['checkpoint'] or 'nothing; what was saved before is untouched'}")
        return INTERRUPTED if result["stopped"] == "SIGINT" else RESUMABLE
    if result.get("is_main", True):
        print_result(result, seconds=time.monotonic() - started)
        if not result.get("last_is_kept", True):
            print("Not finished: the last checkpoint could not be written; the same command resumes from the newest.")
            return FAILED
    return 0


def reason_to_stop(request: StopRequest, limit_s: float, started: float) -> Callable[[], str | None]:
    """Return a function that a run in this process polls for a reason to stop.

    Args:
        request: Stop request set by signals.
        limit_s: `ray.time_limit_s`, in seconds; 0 for no limit.
        started: Start of the command, in seconds of the monotonic clock.

    Returns:
        A function that returns the reason to stop, or None.
    """

    def asked() -> str | None:
        is_over = limit_s and time.monotonic() - started > limit_s
        return request.reason or ("time limit" if is_over else None)

    return asked


def choose_run(state: WorkDirState, work_dir: str, *, resume: bool) -> PreviousRun | None:
    """Choose the run in the work dir to resume, and print the choice.

    Args:
        state: The runs in the work dir.
        work_dir: Name of the work dir, for messages.
        resume: Resume even if the config has changed since.

    Returns:
        The run to resume, or None to start a new one.

    Raises:
        InputError: The work dir has checkpoints of a run with a different config, and `resume` is False.
    """
    run = state.with_same_config()
    if run is None and resume:
        return state.active if state.active is not None and state.active.saved else None
    if run is not None:
        what = "nothing to do" if run.finished and not resume else "resuming it"
        print_once(f"{_describe(run, work_dir)}: {what}. Begin anew with --fresh.")
        return run
    active = state.active
    if active is not None and not active.is_same and active.saved:
        raise InputError(
            f"{_describe(active, work_dir)}, {active.describe()}: resume it with --resume, begin anew with --fresh "
            f"(its checkpoints are kept in {EARLIER}/), or choose another --work-dir"
        )
    if active is not None and active.reached and not active.saved:
        print_once(f"{_describe(active, work_dir)}, which has no checkpoint: beginning anew.")
    return None


def _describe(run: PreviousRun, work_dir: str) -> str:
    state = f"finished after iteration {run.reached}" if run.finished else f"at iteration {run.reached}"
    return f"{work_dir} holds run {run.run}, {state}"


def print_once(line: str) -> None:
    """Print a line; under torchrun, on rank 0 only."""
    if _is_first_rank():
        print(line)


def _is_first_rank() -> bool:
    return not is_torchrun() or os.environ["RANK"] == "0"


def make_run_spec(cfg: Config, options: RayOptions, resume: bool | str, run: str = "") -> RunSpec:
    """Build the run specification that is sent to the workers."""
    randomness = dict(cfg.get("randomness") or {})
    if randomness.get("seed") is None and not (resume or cfg.get("resume")):
        # Drawn here, once, so that all processes and restarts use the same seed.
        cfg["randomness"] = {**randomness, "seed": int.from_bytes(os.urandom(4), "little") >> 1}
    return RunSpec(
        cfg=cfg.to_dict(),
        filename=cfg.filename,
        origin=cfg.origin,
        run_id=new_run_id(default_work_dir(cfg, cfg.filename)),
        resume=resume,
        run=run,
        threads=options.threads_per_worker if is_torchrun() else None,
        batch_workers=options.batch_workers,
        hang_timeout_s=options.hang_timeout_s if is_torchrun() else 0,
        straggler_ratio=options.straggler_ratio,
    )


def check_parts(cfg: Config) -> None:
    """Check the config sections without building them.

    Imports PyTorch, which takes seconds; the cheaper checks run before it so that they fail fast.
    """
    from raydet3d.optim import check_optimization
    from raydet3d.runtime.consistency import warn_of_contradictions
    from raydet3d.runtime.validate import check_sections

    check_sections(cfg)
    check_optimization(cfg)
    if _is_first_rank():
        warn_of_contradictions(cfg)


def train_under_torchrun(
    cfg: Config, spec: RunSpec, request: StopRequest, asked: Callable[[], str | None]
) -> RunResult:
    """Train as one of the ranks that torchrun started."""
    check_parts(cfg)
    from raydet3d.dist import broadcast_object, get_world_size, is_main_process, join_torchrun, on_rank0
    from raydet3d.runtime.loaders import check_data

    device = join_torchrun((cfg.get("env_cfg") or {}).get("dist_cfg"))
    on_rank0(lambda: check_data(cfg))
    spec = broadcast_object(spec)
    request.trains = True
    result = run_worker(spec, device=device, asked=asked)
    return {**result, "workers": get_world_size(), "cpus": num_processors(), "is_main": is_main_process()}


def train_on_ray(
    cfg: Config, spec: RunSpec, options: RayOptions, request: StopRequest, asked: Callable[[], str | None]
) -> RunResult:
    """Train on Ray workers, or in this process with 0 workers."""

    def check() -> None:
        check_parts(cfg)
        from raydet3d.runtime.loaders import check_data

        check_data(cfg)
        if not is_uri(cfg["work_dir"]):
            check_room_on_disk(Path(cfg["work_dir"]), checkpoint_size(cfg))

    if options.max_workers > 0:
        from raydet3d.launch.ray_run import run_on_ray

        return run_on_ray(spec, options, request, work_dir=cfg["work_dir"], check=check)
    check()
    request.trains = True
    return {**run_worker(spec, asked=asked), "workers": 0, "cpus": num_processors()}


def print_result(result: RunResult, *, seconds: float) -> None:
    """Print the summary of a run: duration, output paths and main metrics."""
    workers = result["workers"]
    if workers is not None:  # None: the run was already finished
        how = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "this process"
        print(f"Finished in {int(seconds) // 60} min {int(seconds) % 60} s with {how} on {result['cpus']} cores.")
    for title, path in (
        ("Logs", result.get("log_dir")),
        ("Pictures", result.get("picture_dir")),
        ("Best checkpoint", result.get("best_checkpoint")),
        ("Last checkpoint", result.get("last_checkpoint")),
    ):
        if path:
            print(f"{title}: {path}")
    for name, why in result.get("not_kept", {}).items():
        print(f"Not kept: {name}: {why}")
    for name, value in result.get("headline", {}).items():
        print(f"{name}: {value:.2f}")


def main() -> int:
    """Parse the command line and train."""
    args = make_parser().parse_args()
    with stop_signals() as request:
        return train(args, request)


if __name__ == "__main__":
    run_command(main)
