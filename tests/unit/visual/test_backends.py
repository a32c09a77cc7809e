"""Backends: what they write, read back with something else."""

import importlib.util
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from raydet3d.config import Config
from raydet3d.errors import InputError
from raydet3d.registry import VISBACKENDS
from raydet3d.visual import BaseVisBackend, LocalVisBackend, TensorboardVisBackend
from raydet3d.visual.mlflow_backend import MLflowVisBackend
from raydet3d.visual.wandb_backend import WandbVisBackend

PICTURE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_local_scalars(tmp_path):
    backend = LocalVisBackend(tmp_path / "run")
    backend.add_scalar("lr", torch.tensor(0.5), 3)
    backend.add_scalars({"loss": np.float32(2), "mode": "train", "bad": np.zeros(2)}, 4, file_path="20260101.json")
    backend.add_scalars({"mAP": 1, "step": 9})
    assert lines(tmp_path / "run/scalars.json") == [
        {"lr": 0.5, "step": 3},
        {"loss": 2.0, "mode": "train", "step": 4},
        {"mAP": 1, "step": 9},
    ]
    assert lines(tmp_path / "run/20260101.json") == [{"loss": 2.0, "mode": "train", "step": 4}]


def test_local_pictures_and_config(tmp_path):
    backend = LocalVisBackend(tmp_path)
    backend.add_image("val/frame 1", PICTURE, 7)
    assert (np.asarray(Image.open(tmp_path / "vis_image" / "val_frame 1_7.png")) == PICTURE).all()
    backend.add_config(Config({"lr": 0.1, "hook": {"api_key": "hush"}}))
    text = (tmp_path / "config.py").read_text()
    assert "lr = 0.1" in text
    assert "hush" not in text
    backend.add_config({"model": {"type": "VoxelNet"}, "logger": {"token": "hush"}})
    assert "hush" not in (tmp_path / "config.py").read_text()


def test_unused_back_ends_create_no_files(tmp_path):
    for kind in (LocalVisBackend, TensorboardVisBackend, WandbVisBackend, MLflowVisBackend):
        kind(tmp_path / kind.__name__).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [LocalVisBackend, TensorboardVisBackend])
def test_a_folder_is_needed(kind):
    with pytest.raises(InputError, match="save_dir"):
        kind().add_scalar("a", 1)


@pytest.mark.parametrize("image", [None, np.zeros((3, 3)), np.zeros((3, 3, 3)), np.zeros((3, 3, 4), np.uint8)])
def test_arrays_that_are_no_images_are_refused(tmp_path, image):
    with pytest.raises(ValueError, match="an image is a uint8 array"):
        LocalVisBackend(tmp_path).add_image("a", image)


def test_file_names_are_checked():
    with pytest.raises(InputError, match=r"must end in \.json, got 'x\.txt'"):
        LocalVisBackend("x", scalar_save_file="x.txt")
    with pytest.raises(InputError, match=r"must end in \.py"):
        LocalVisBackend("x", config_save_file="x.json")


def events(folder):
    """Values of an event file, by the record format: length, checksum, bytes, checksum."""
    (file,) = folder.rglob("events*") if folder.name == "hparams" else folder.glob("events*")
    raw, found = file.read_bytes(), []
    while raw:
        size = int.from_bytes(raw[:8], "little")
        event = Event.FromString(raw[12 : 12 + size])
        found += [(value.tag, event.step, value) for value in event.summary.value]
        raw = raw[16 + size :]
    return found


def test_v4_tensorboard_by_tensorboardx(tmp_path):
    backend = VISBACKENDS.build({"type": "TensorboardVisBackend", "save_dir": str(tmp_path)})
    backend.add_scalars({"loss": torch.tensor(1.5), "lr": 0.1, "mode": "train"}, 12)
    backend.add_image("val_000008", PICTURE, 30)
    backend.add_config({"lr": 0.1})
    backend.close()
    found = events(tmp_path)
    scalars = [(tag, step, value.simple_value) for tag, step, value in found if value.HasField("simple_value")]
    assert scalars == [("loss", 12, 1.5), ("lr", 12, pytest.approx(0.1))]
    ((step, image),) = [(step, value.image) for tag, step, value in found if tag == "val_000008"]
    assert (step, image.height, image.width) == (30, 20, 30)
    assert any("config" in tag and b"lr = 0.1" in value.tensor.string_val[0] for tag, _, value in found)


def test_tensorboard_takes_a_score_that_is_not_defined_in_silence(tmp_path, caplog):
    backend = TensorboardVisBackend(save_dir=tmp_path)
    backend.add_scalars({"AVE": float("nan")}, step=1)
    backend.close()
    assert not caplog.records
    assert list(tmp_path.iterdir())


def test_tensorboard_curves_and_settings_of_a_trial(tmp_path):
    backend = TensorboardVisBackend(tmp_path)
    backend.add_pr_curve("pr/Car/easy", [0.25, 0.5, 1.0], [1.0, 0.9, 0.4], 3)
    backend.add_hparams({"lr": 0.1, "kind": [1, 2]}, {"toy/AP": 5.0})
    backend.close()
    ((step, tensor),) = [(step, value.tensor) for tag, step, value in events(tmp_path) if tag == "pr/Car/easy"]
    numbers = np.array(tensor.float_val or np.frombuffer(tensor.tensor_content, np.float32)).reshape(6, -1)
    assert step == 3
    np.testing.assert_allclose(numbers[4:], [[0.4, 0.9, 1.0], [1.0, 0.5, 0.25]])  # precision, recall
    own = events(tmp_path / "hparams")
    assert [value.simple_value for tag, _, value in own if tag == "hparam/toy/AP"] == [5.0]
    assert any("session_start_info" in tag for tag, *_ in own)


@pytest.mark.parametrize(("kind", "extra"), [(WandbVisBackend, "wandb"), (MLflowVisBackend, "mlflow")])
def test_a_missing_package_names_the_extra_to_install(tmp_path, kind, extra):
    if importlib.util.find_spec(extra) is not None:
        pytest.skip(f"{extra} is installed")
    with pytest.raises(InputError, match=rf"pip install 'raydet3d\[{extra}\]'"):
        kind(tmp_path).add_scalar("a", 1)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow, an extra, is not installed")
def test_mlflow_keeps_scalars_pictures_config_and_settings(tmp_path):
    backend = VISBACKENDS.build(
        {"type": "MLflowVisBackend", "save_dir": str(tmp_path), "exp_name": "e", "run_name": "n"}
    )
    (tmp_path / "notes.log").write_text("a line")
    backend.add_config({"optim": {"lr": 0.125, "betas": [0.9, 0.99]}, "logger": {"token": "hush"}})
    backend.add_scalars({"loss": 1.5, "mode": "train"}, 12)
    backend.add_scalars({"loss": 0.5, "Kitti metric/AP 3D": 61.0}, 24)
    backend.add_image("val 1", PICTURE, 13)
    backend.add_pr_curve("pr/Car", [0.5, 1.0], [1.0, 0.5], 3)
    backend.add_hparams({"lr": 0.1}, {"toy/AP": 5.0})
    client, number = backend.experiment, backend.run_id
    backend.close()
    run = client.get_run(number)
    assert (run.info.run_name, run.info.status) == ("n", "FINISHED")
    assert run.data.params["optim.lr"] == "0.125"
    assert run.data.params["setting.lr"] == "0.1"
    assert "hush" not in str(run.data.params)
    assert run.data.metrics["Kitti_metric/AP_3D"] == 61.0
    assert run.data.metrics["best/toy/AP"] == 5.0
    history = [(one.step, one.value) for one in client.get_metric_history(number, "loss")]
    assert history == [(12, 1.5), (24, 0.5)]
    names = {one.path for folder in (None, "images", "pr") for one in client.list_artifacts(number, folder)}
    assert {"config.py", "notes.log", "images/val_1_13.png", "pr/Car_3.json"} <= names


def records(file):
    """Records of wandb's own file: after 7 bytes, LevelDB's log format in blocks of 32 KiB."""
    raw, at, whole, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:  # the rest of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            found.append(whole)
            whole = b""
    return found


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb, an extra, is not installed")
def test_v4_wandb_offline_keeps_every_step(tmp_path, monkeypatch):
    """MMEngine's drops the step; and wandb's own step would drop what comes with an earlier one."""
    from wandb.proto.wandb_internal_pb2 import Record

    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    args = {"init_kwargs": {"mode": "offline", "project": "p", "name": "n"}, "define_metric_cfg": {"loss": "min"}}
    backend = VISBACKENDS.build({"type": "WandbVisBackend", "save_dir": str(tmp_path / "run"), **args})
    backend.add_config({"lr": 0.125, "logger": {"token": "hush"}})
    backend.add_scalars({"loss": 1.5, "lr": 0.125}, 12)
    backend.add_scalars({"loss": 0.5}, 6)
    backend.add_image("val", PICTURE, 13)
    backend.add_pr_curve("pr/Car", [0.5, 1.0], [1.0, 0.5], 3)
    backend.add_hparams({"lr": 0.1}, {"toy/AP": 5.0})
    backend.close()
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    history, config, summaries = [], {}, {}
    deadline = time.monotonic() + 20  # wandb's own process may write its last records a moment after it has said so
    while not (found := [Record.FromString(raw) for raw in records(file)]) or not found[-1].HasField("exit"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for record in found:
        history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
        config |= {i.key: json.loads(i.value_json) for i in record.config.update}
        summaries[record.metric.name] = record.metric.summary.min
    history = [{k: v for k, v in row.items() if k[0] != "_"} for row in history if row]
    assert history[:2] == [{"step": 12, "loss": 1.5, "lr": 0.125}, {"step": 6, "loss": 0.5}]
    assert history[2]["step"] == 13
    assert summaries["loss"] is True
    assert config["lr"] == 0.125
    assert "hush" not in str(config)
    (image,) = file.parent.rglob("*.png")
    assert (np.asarray(Image.open(image)) == PICTURE).all()


@pytest.mark.parametrize("name", ["ClearMLVisBackend", "mmengine.AimVisBackend"])
def test_unsupported_back_ends_name_supported_ones(name):
    with pytest.raises(InputError, match=rf"{name.rpartition('.')[2]}.*(LocalVisBackend|WandbVisBackend)"):
        VISBACKENDS.build({"type": name, "exp_name": "x", "save_dir": "y"})


def test_a_user_defined_back_end_needs_only_add_scalars():
    class Mine(BaseVisBackend):
        def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
            self.seen = dict(scalar_dict), step

    mine = Mine()
    mine.add_scalar("a", 2, 5)
    mine.add_config({})
    mine.add_image("a", PICTURE)
    mine.close()
    assert mine.seen == ({"a": 2}, 5)
    with pytest.raises(NotImplementedError, match="BaseVisBackend must define add_scalars"):
        BaseVisBackend().add_scalar("a", 1)
