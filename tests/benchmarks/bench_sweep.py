"""Early stopping against patience: the same trials with ASHA and with every one of them trained to its end.

    python tests/benchmarks/bench_sweep.py [--config CONFIG] [--sweep SWEEP.yaml] [--work-dir DIR] [--seed N] [--smoke]

Settings, seeds and data are equal, so a trial that both train to the end has the same value in both. Prints both tables
and, as JSON, the best values, the epochs and the wall times. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from raydet3d.config import find_config
from raydet3d.config.config_dict import to_plain
from raydet3d.config.inheritance import read_chain
from raydet3d.sweep.results import Results
from raydet3d.tune import sweep


def facts(results: Results) -> dict[str, Any]:
    best = results.best
    assert best is not None
    return {
        "best": best.best(results.mode),
        "trial": best.id,
        "setting": best.setting,
        "seed": best.seed,
        "epochs": sum(trial.at for trial in results.trials),
        "seconds": results.seconds,
        "trials": len(results.trials),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo/pointpillars_town.py")
    parser.add_argument("--sweep", default="configs/sweeps/lr_asha.yaml")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/bench_sweep"))
    parser.add_argument("--seed", type=int, default=0, help="of the search and of every trial's training")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    given = to_plain(read_chain(find_config(args.sweep)).values)
    search = given.get("search") or "random"
    given["search"] = {**({"type": search} if isinstance(search, str) else search), "seed": args.seed}
    options = {"randomness.seed": args.seed}
    patient = {**given, "scheduler": "fifo"}
    if args.smoke:
        patient["smoke"] = {key: value for key, value in given["smoke"].items() if key != "scheduler"}
    out = {}
    for name, source in (("asha", given), ("fifo", patient)):
        results = sweep(args.config, source, work_dir=args.work_dir / name, cfg_options=options, smoke=args.smoke)
        print(f"\n{name}\n{results}\n")
        out[name] = facts(results)
    out["difference"] = out["fifo"]["best"] - out["asha"]["best"]
    out["share_of_epochs"] = out["asha"]["epochs"] / out["fifo"]["epochs"]
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
