"""`data.check` on many generated frames: seconds and memory; JSON.

    python tests/benchmarks/bench_data_check.py [--frames 20000] [--points 10000] [--workers 2] [--keep FOLDER]

Writes frames in KITTI's raw layout (points of random positions, 12 objects each; a calibration that all share), checks
them in a process of its own, and samples that process and its workers: `cpu_s` is their processor time together,
`pss_mb` counts pages that they share once, `rss_mb` for each of them. The frames are written to a temporary folder
(160 kB each), or to --keep, where a second run finds them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.kit.tiny_kitti import SIZES, calib, label  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the frames; it stays")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.keep or Path(folder, "frames")
        if not (root / "ImageSets").is_dir():
            write_frames(root, args.frames, args.points)
        print(json.dumps({"frames": args.frames, "points": args.points, **measure(root, Path(folder), args.workers)}))
    return 0


def write_frames(root: Path, frames: int, points: int) -> None:
    """Write frames whose clouds all differ, nine of ten to train."""
    folders = {kind: root / "training" / kind for kind in ("velodyne", "label_2", "calib")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    (folders["calib"] / "calib.txt").write_text(calib())
    rng = np.random.default_rng(0)
    cloud = rng.uniform((0, -40, -3, 0), (70, 40, 1, 1), (points, 4)).astype(np.float32)
    names = [f"{number:06d}" for number in range(frames)]
    kinds = list(SIZES)
    for name in names:
        cloud[:, :2] += rng.normal(0, 0.1, (points, 2)).astype(np.float32)
        cloud.tofile(folders["velodyne"] / f"{name}.bin")
        places = rng.uniform((3, -35), (65, 35), (12, 2))
        lines = [label(kinds[i % len(kinds)], x, y, yaw=i % 3) for i, (x, y) in enumerate(places.tolist())]
        (folders["label_2"] / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (folders["calib"] / f"{name}.txt").hardlink_to(folders["calib"] / "calib.txt")
    (root / "ImageSets").mkdir()
    for split, own in {"train": names[: frames * 9 // 10], "val": names[frames * 9 // 10 :]}.items():
        (root / "ImageSets" / f"{split}.txt").write_text("\n".join(own) + "\n")


def measure(root: Path, folder: Path, workers: int) -> dict[str, float]:
    """Run the command; return its times and the greatest memory of its processes together."""
    flags = [str(root), "--workers", str(workers), "--out", str(folder / "out"), "--json", str(folder / "check.json")]
    load, begin = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "raydet3d.data.check", *flags], cwd=ROOT, start_new_session=True)
    pss = rss = 0.0
    cpu_s: dict[int, float] = {}
    while process.poll() is None:
        own = family(process.pid)
        cpu_s |= {pid: max(cpu_s.get(pid, 0.0), processor_time(pid)) for pid in own}
        found = [memory(pid) for pid in own]
        pss, rss = max(pss, sum(one[0] for one in found)), max(rss, sum(one[1] for one in found))
        time.sleep(0.5)
    return {
        "exit_code": process.returncode,
        "wall_s": round(time.perf_counter() - begin, 1),
        "cpu_s": round(sum(cpu_s.values()), 1),
        "pss_mb": round(pss / 1e3),
        "rss_mb": round(rss / 1e3),
        "json_mb": round((folder / "check.json").stat().st_size / 1e6, 1),
        "load_average_before": load,
    }


def family(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> tuple[float, float]:
    """Return a process's proportional and resident memory in kB; zeros once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    values = {line.split(":")[0]: float(line.split()[1]) for line in lines[1:]}
    return values.get("Pss", 0.0), values.get("Rss", 0.0)


if __name__ == "__main__":
    sys.exit(main())
