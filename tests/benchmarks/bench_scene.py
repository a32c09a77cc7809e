"""Frames per second of a scene page in headless Chromium without a GPU: `python -m tests.benchmarks.bench_scene`.

A cloud is orbited for some seconds, one drawing for each animation frame that the browser grants, and the frames that
it presents are counted. Prints JSON: frames per second, CPU time of all its processes for each, and the page's size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from raydet3d.visual.matching import MatchRule
from raydet3d.visual.scene_page import PointColors, Scene, pack_scene, write_scene_page
from tests.kit.browser import Browser

WHOLE_PAGE = "document.querySelector('#stage').style.cssText = 'position:fixed;inset:0;border:0;width:%dpx;height:%dpx'"
ORBIT = """new Promise((done) => {
  let count = 0;
  const begin = performance.now();
  const step = () => {
    const now = performance.now();
    if (now - begin > 1000 * SECONDS) return done([1000 * count / (now - begin), count]);
    scene.view.yaw += 0.02;
    scene.draw();
    count += 1;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def sweep(count: int) -> np.ndarray:
    """Return a cloud as a turning scanner makes it: 64 beams, denser near the sensor, on a ground and on walls."""
    rng = np.random.default_rng(0)
    beam = np.deg2rad(np.linspace(-24, 3, 64))[np.arange(count) % 64]
    around = np.linspace(0, 2 * np.pi, count)
    wall = 15 + 35 * np.abs(np.sin(3 * around)) + rng.normal(0, 0.05, count)
    reach = np.minimum(np.where(beam < 0, 1.73 / np.tan(np.maximum(-beam, 1e-3)), np.inf), wall)
    cloud = np.stack([reach * np.cos(around), reach * np.sin(around), reach * np.tan(beam), rng.random(count)], 1)
    return cloud.astype(np.float32)


def main() -> None:
    """Write a page, orbit its cloud, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    points = sweep(args.points)
    scene = Scene("many", points, colors=[PointColors("intensity", points[:, 3])])
    with tempfile.TemporaryDirectory() as folder:
        packed = pack_scene(scene, rule=MatchRule(), score_thr=0.3)
        page = write_scene_page(Path(folder) / "page.html", [packed], title="many points")
        size = page.stat().st_size
        with Browser(Path(folder) / "profile", width=args.size[0], height=args.size[1]) as browser:
            browser.open(page)
            browser.wait_for("scene.frame()")
            browser.run(WHOLE_PAGE % tuple(args.size))
            browser.run(ORBIT.replace("SECONDS", "1"))  # compile
            before, began = browser.cpu_time(), time.perf_counter()
            rate, count = browser.run(ORBIT.replace("SECONDS", str(args.seconds)))
            cpu, wall = browser.cpu_time() - before, time.perf_counter() - began
            canvas = browser.run("[scene.gl.canvas.width, scene.gl.canvas.height]")
    result = {
        "points": args.points,
        "canvas": canvas,
        "frames_per_s": round(rate, 1),
        "cpu_ms_per_frame": round(1000 * cpu / count, 1),
        "busy_cores": round(cpu / wall, 2),
        "page_bytes": size,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
