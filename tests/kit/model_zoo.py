"""The tables of the model zoo page, from the shipped configs, published scores and stored measurements.

    python -m tests.kit.model_zoo                       write the tables into raydet3d/docs/{en,zh}/model_zoo.md
    python -m tests.kit.model_zoo --measure CONFIG ...  measure training steps of these configs first

Published figures are those of MMDetection3D's metafiles and READMEs (1.4.0). A step is measured in processor time with
one thread on a CPU, with generated frames and a batch of one; configs whose training is the same share a measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from raydet3d.config import Config
from raydet3d.models import BaseModel
from raydet3d.models.detector_parts import detector_parts
from raydet3d.models.export_graphs import DenseGraph
from raydet3d.runtime.build import build_model, build_optim
from raydet3d.runtime.example_frames import ExampleFrames, generate_frame, innermost_dataset
from raydet3d.runtime.model_profile import build_detector
from raydet3d.runtime.speed import peak_memory
from tests.kit.docs import DOCS, ROOT

CONFIGS = ROOT / "configs"
STORE = Path(__file__).with_suffix(".json")
LANGUAGES = ("en", "zh")
FRAMES = {"kitti": 3712, "nuscenes": 28130, "cbgs": 123580}  # of a pass over the train split
# Samples/s on 8 V100 that MMDetection3D publishes (docs/en/notes/benchmarks.md), for a dense and for a sparse model.
RATES = {
    "dense": ("pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py", 107.0),
    "sparse": ("second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py", 40.0),
}
HEADERS = {
    "en": (
        *("config below `configs/`", "published", "evidence here", "parameters", "multiply-adds"),
        *("memory, 8 GPUs", "step, 1 CPU thread", "memory, CPU", "training, 8 V100"),
    ),
    "zh": (
        *("`configs/` 下的配置", "公开分数", "本项目的依据", "参数量", "乘加次数"),
        *("显存（8 卡）", "一步（CPU 单线程）", "内存（CPU）", "训练（8 块 V100）"),
    ),
}
EVIDENCE_ZH = {
    "names, shapes": "名字和形状",
    "targets, losses, boxes, AP": "目标、损失、框、AP",
    "maps, losses, gradients, boxes": "检测头输出、损失、梯度、框",
    "maps, losses, gradients": "检测头输出、损失、梯度",
    "losses, gradients": "损失、梯度",
    "maps of RegNet": "RegNet 的特征图",
    "plain loops": "朴素循环",
    "real frames": "真实帧",
    "real keyframe": "真实关键帧",
    "generated town": "合成小镇",
    "all objects of the frames found": "帧里的物体全部找到",
}
UNKNOWN = {"en": "not published", "zh": "未公开"}
OURS = {"en": "ours", "zh": "本项目的"}


def run_configs() -> list[str]:
    """Return the shipped configs that can be trained, by their paths below `configs`."""
    found = (path.relative_to(CONFIGS).as_posix() for path in sorted(CONFIGS.rglob("*.py")))
    return [name for name in found if not name.startswith("_base_")]


def table_of(name: str) -> str:
    """Return which table a config stands in."""
    if name.startswith(("demo/", "custom/")):
        return "demo"
    return "kitti" if "kitti" in name else "nuscenes"


def training_key(cfg: Config) -> str:
    """Return a key that configs share whose training steps do the same in float32: the model without test settings."""
    model = {key: value for key, value in cfg.to_dict()["model"].items() if key != "test_cfg"}
    text = json.dumps(model, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Reached(Exception):
    """Ends a forward pass at the backbone."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape


def count_multiply_adds(cfg: Config) -> int:
    """Count the multiply-adds of a frame as `show model` does, the dense parts without computing them."""
    torch.manual_seed(0)
    model = build_detector(cfg).eval()

    def stop(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        raise _Reached(args[0].shape)

    detector_parts(model)["backbone"].module.register_forward_pre_hook(stop)
    with torch.no_grad(), FlopCounterMode(display=False) as front:
        try:
            model(**model.data_preprocessor(generated_frames(cfg, model).batch(1), False), mode="tensor")
        except _Reached as reached:
            shape = reached.shape
    with torch.device("meta"):
        dense = DenseGraph(detector_parts(build_detector(cfg).eval()))
        with torch.no_grad(), FlopCounterMode(display=False) as back:
            dense(torch.empty(shape))
    return int(front.get_total_flops() + back.get_total_flops()) // 2


def measure(cfg: Config) -> dict[str, float]:
    """Measure a config's model: processor seconds of a training step of one frame, and the peak of memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_detector(cfg)
    model.init_weights()
    frames = generated_frames(cfg, model)
    optim = {**cfg["optim_wrapper"], "type": "OptimWrapper"}  # float32: this CPU computes no bfloat16
    for key in ("loss_scale", "dtype"):
        optim.pop(key, None)
    wrapper = build_optim({**cfg, "optim_wrapper": optim}, model)
    model.train()
    with peak_memory(torch.device("cpu")) as peak:
        model.train_step(frames.batch(1), wrapper)
        begin = time.process_time()
        model.train_step(frames.batch(1), wrapper)
        step_s = time.process_time() - begin
    return {"step_cpu_s": round(step_s, 3), "peak_memory_mib": round(peak[0])}


def generated_frames(cfg: Config, model: BaseModel) -> ExampleFrames:
    """Generate a frame: 20,000 points, on nuScenes 200,000 (ten sweeps)."""
    nuscenes = "NuScenes" in str(innermost_dataset(cfg, "train").get("type"))
    frame = generate_frame(cfg, model, torch.Generator().manual_seed(0), 200_000 if nuscenes else 20_000)
    return ExampleFrames([frame], "")


def read_store() -> dict[str, Any]:
    """Return published figures and measurements."""
    store: dict[str, Any] = json.loads(STORE.read_text(encoding="utf-8"))
    return store


def write_store(store: Mapping[str, Any]) -> None:
    """Write published figures and measurements."""
    STORE.write_text(json.dumps(store, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def num_parameters(cfg: Config) -> int:
    """Count a model's parameters without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(cfg).parameters())


def training_samples(cfg: Config) -> int | None:
    """Return how many samples a training sees; None for data sets that are generated or of a few frames."""
    dataset = cfg["train_dataloader"]["dataset"]
    times, kind = 1, ""
    while isinstance(dataset, Mapping):
        kind = str(dataset.get("type"))
        times *= int(dataset.get("times", 1)) if kind == "RepeatDataset" else 1
        if kind == "CBGSDataset":
            kind, dataset = "cbgs", None
            break
        dataset = dataset.get("dataset")
    frames = {"KittiDataset": FRAMES["kitti"], "NuScenesDataset": FRAMES["nuscenes"], "cbgs": FRAMES["cbgs"]}.get(kind)
    epochs = cfg["train_cfg"].get("max_epochs")
    return None if frames is None or epochs is None else int(frames * times * epochs)


def training_hours(cfg: Config, multiply_adds: float, reference: Mapping[str, float]) -> float | None:
    """Estimate hours on 8 V100: the published rate of a model of the kind, scaled by multiply-adds of a frame."""
    samples = training_samples(cfg)
    if samples is None or "indices" in cfg["train_dataloader"]["dataset"]:  # a part of the data set
        return None
    parts = " ".join(str(one.get("type")) for one in cfg["model"].values() if isinstance(one, Mapping))
    kind = "sparse" if "SparseEncoder" in parts else "dense"
    rate = RATES[kind][1] * reference[kind] / multiply_adds
    return samples / rate / 3600


def tables(store: Mapping[str, Any], language: str) -> dict[str, str]:
    """Return the tables of a language by name."""
    keys = {kind: training_key(Config.fromfile(CONFIGS / name)) for kind, (name, _) in RATES.items()}
    reference = {kind: store["multiply_adds"][key] for kind, key in keys.items()}
    rows: dict[str, list[str]] = {"kitti": [], "nuscenes": [], "demo": []}
    for name in run_configs():
        cfg = Config.fromfile(CONFIGS / name)
        published = store["published"].get(name, {"score": "ours"})
        key = training_key(cfg)
        measured = store["measured"].get(key)
        hours = training_hours(cfg, store["multiply_adds"][key], reference)
        evidence = published.get("evidence", ())
        score = published.get("score") or UNKNOWN[language]
        cells = [
            f"`{name}`",
            OURS[language] if score == "ours" else score,
            "; ".join(evidence) if language == "en" else "；".join(EVIDENCE_ZH[one] for one in evidence),
            f"{num_parameters(cfg):,}",
            f"{store['multiply_adds'][key] / 1e9:.1f} G",
            f"{published['memory_gb']} GB" if "memory_gb" in published else "",
            f"{measured['step_cpu_s']:.2f} s" if measured else "",
            f"{measured['peak_memory_mib'] / 1024:.1f} GiB" if measured else "",
            f"{hours:.0f} h" if hours is not None and hours >= 10 else f"{hours:.1f} h" if hours is not None else "",
        ]
        rows[table_of(name)].append(f"| {' | '.join(cells)} |")
    head = HEADERS[language]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return {name: "\n".join([*lines, *found]) for name, found in rows.items()}


def fill_page(text: str, made: Mapping[str, str]) -> str:
    """Return a page with its tables, which stand between `<!-- table: NAME -->` and `<!-- end -->`, replaced."""
    return re.sub(
        r"<!-- table: (\w+) -->\n.*?<!-- end -->",
        lambda match: f"<!-- table: {match[1]} -->\n\n{made[match[1]]}\n\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    """Measure on request, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", metavar="CONFIG", help="paths below configs/")
    args = parser.parse_args()
    store = read_store()
    for name in run_configs():
        cfg = Config.fromfile(CONFIGS / name)
        key = training_key(cfg)
        if key not in store["multiply_adds"]:
            store["multiply_adds"][key] = count_multiply_adds(cfg)
            write_store(store)
            print(f"{name}: {store['multiply_adds'][key] / 1e9:.1f} G multiply-adds", flush=True)
    for name in args.measure or ():
        cfg = Config.fromfile(CONFIGS / name)
        store["measured"][training_key(cfg)] = {"config": name, **measure(cfg)}
        write_store(store)
        print(name, store["measured"][training_key(cfg)], flush=True)
    for language in LANGUAGES:
        page = DOCS / language / "model_zoo.md"
        page.write_text(fill_page(page.read_text(encoding="utf-8"), tables(store, language)), encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
