"""Start of a data set with many frames and of a ground-truth database, for this tree and another one in the same run.

    python tests/benchmarks/bench_infos.py [--frames 100000] [--objects 100000] [--baseline CHECKOUT]

Prints JSON: two starts of this tree, of which the first writes the cache, and one of the other tree, each in a process
of its own: `seconds` of building it, `cpu_s` of them on the processor, `own_mb` of memory that it does not share
(growth of its anonymous memory), and `access_us` of one frame before the pipeline. Frames are KITTI's with four
objects each.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def anonymous_mb() -> float:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/smaps_rollup has no line 'Anonymous:'")


def write_data(root: Path, frames: int, objects: int) -> None:
    """Write info files of so many frames and objects, made from one frame."""
    from raydet3d.data.prepare import prepare_kitti
    from tests.kit.tiny_kitti import write_kitti

    write_kitti(root, train=2, val=1)
    prepare_kitti(root)
    path = root / "kitti_infos_train.pkl"
    infos = pickle.loads(path.read_bytes())
    one = pickle.dumps(infos["data_list"][1])
    infos["data_list"] = [{**pickle.loads(one), "sample_idx": number} for number in range(frames)]
    path.write_bytes(pickle.dumps(infos, protocol=4))
    path = root / "kitti_dbinfos_train.pkl"
    car = pickle.dumps(pickle.loads(path.read_bytes())["Car"][0])
    path.write_bytes(pickle.dumps({"Car": [pickle.loads(car) for _ in range(objects)]}, protocol=4))


def measure(root: Path) -> dict[str, Any]:
    """Start both in this process."""
    import numpy as np

    from raydet3d.data.transforms.object_sample import DataBaseSampler
    from raydet3d.registry import DATASETS
    from tests.kit.tiny_kitti import CLASSES, dataset_cfg

    cfg = dataset_cfg(root, pipeline=[])
    found: dict[str, dict[str, float]] = {}

    @contextmanager
    def measured(name: str) -> Iterator[None]:
        memory, began, cpu = anonymous_mb(), time.perf_counter(), time.process_time()
        yield
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        found[name] = {"seconds": seconds, "cpu_s": cpu, "own_mb": anonymous_mb() - memory}

    with measured("frames"):
        dataset = DATASETS.build(cfg)
        size = len(dataset)
    drawn = np.random.default_rng(0).integers(0, size, 2000).tolist()
    began = time.process_time()
    for index in drawn:
        dataset.get_data_info(index)
    found["frames"]["access_us"] = (time.process_time() - began) / len(drawn) * 1e6
    with measured("database"):
        sampler = DataBaseSampler(f"{root}/kitti_dbinfos_train.pkl", str(root), 1.0, {}, {"Car": 15}, CLASSES)
        assert len(sampler.banks["Car"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--baseline", type=Path, help="another checkout to measure in the same run")
    parser.add_argument("--action", choices=["write", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action == "write":
        write_data(args.root, args.frames, args.objects)
        return
    if args.action == "measure":
        print(json.dumps(measure(args.root)))
        return
    trees = {**({"baseline": args.baseline.resolve()} if args.baseline else {}), "this": ROOT}
    numbers = ["--frames", str(args.frames), "--objects", str(args.objects)]
    found: dict[str, Any] = {"frames": args.frames, "objects": args.objects}
    with tempfile.TemporaryDirectory() as folder:

        def run(action: str, tree: Path) -> str:
            command = [sys.executable, __file__, "--action", action, "--root", f"{folder}/data", *numbers]
            env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
            return subprocess.run(command, env=env, cwd=tree, check=True, capture_output=True, text=True).stdout

        run("write", ROOT)
        for name, tree in trees.items():
            starts = ("first start", "second start") if name == "this" else ("each start",)
            found[name] = {start: json.loads(run("measure", tree).splitlines()[-1]) for start in starts}
    print(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
