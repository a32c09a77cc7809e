"""Places: a folder, and buckets on three kinds of file systems, asked the same questions."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as arrow
import pytest
import torch

from raydet3d.checkpoint.load import exists, load_metadata, load_shards, locate
from raydet3d.checkpoint.storage import LocalStorage, ObjectStorage, Storage, digest_of, open_storage, probe, read
from raydet3d.checkpoint.store import CheckpointStore
from raydet3d.errors import InputError

SHA_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def under_a_prefix(path: Path) -> Storage:
    return ObjectStorage(arrow.SubTreeFileSystem(str(path), arrow.LocalFileSystem()), "bucket/run", "s3://bucket/run")


PLACES: dict[str, Callable[[Path], Storage]] = {
    "folder": lambda path: open_storage(path / "run"),
    "file": lambda path: open_storage(f"file://{path}/run"),
    "arrow": under_a_prefix,
    "fsspec": lambda path: open_storage(f"local://{path}/run"),
    "memory": lambda path: open_storage(f"memory://{uuid.uuid4().hex}/run"),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return PLACES[request.param](tmp_path)


def test_put_read_list_and_remove(place: Storage) -> None:
    assert place.names() == []
    assert not place.exists("a")
    place.put("a", b"abc")
    place.put("folder/b", b"x" * 10)
    assert read(place, "a") == b"abc"
    assert digest_of(place, "a") == (SHA_OF_ABC, 3)
    assert place.names() == ["a", "folder"]
    assert place.names("folder") == ["b"]
    with place.open("folder/b") as file:
        file.seek(7)
        assert file.read() == b"xxx"
    place.put("a", b"other")
    assert read(place, "a") == b"other"
    for name in ("a", "folder", "nothing"):
        place.remove(name)
    assert place.names() == []
    with pytest.raises(FileNotFoundError):
        read(place, "a")


def test_prepared_file_appears_on_commit(place: Storage) -> None:
    place.put("a", b"old")
    assert place.prepare("a", lambda file: file.write(b"abc")) == (SHA_OF_ABC, 3)
    assert read(place, "a") == b"old"
    place.commit("a")
    assert read(place, "a") == b"abc"
    place.prepare("b", lambda file: file.write(b"abc"))
    place.discard("b")
    assert [name for name in place.names() if name != "a"] == []


def test_file_uri_is_local_and_others_are_object_stores(tmp_path: Path) -> None:
    assert isinstance(open_storage("file:///a%20b"), LocalStorage)
    assert open_storage("file:///a%20b").location("c") == Path("/a b/c")
    assert isinstance(open_storage("memory://a"), ObjectStorage)
    assert open_storage("memory://a/").location("c") == "memory://a/c"
    with pytest.raises(InputError, match="gibberish://x cannot be opened"):
        open_storage("gibberish://x")
    probe(f"memory://{tmp_path.name}")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        probe(f"local://{tmp_path}/file/run")


def test_checkpoint_store_behind_a_uri(tmp_path: Path) -> None:
    uri = f"local://{tmp_path}/run"
    store = CheckpointStore(uri, run="r")
    for i in (1, 2, 3):
        store.save({"state_dict": {"w": torch.full((3,), float(i))}}, f"epoch_{i}.pth", step=i, group="epoch", limit=2)
    store.drain()
    assert store.failure is None
    latest = CheckpointStore(uri).latest()
    assert latest == f"{uri}/epoch_3.pth"
    assert exists(locate(latest))
    content = load_shards(load_metadata(latest), latest, {})
    assert content["state_dict"]["w"].tolist() == [3, 3, 3]
    files = ["epoch_2.pth", "epoch_2.pth.json", "epoch_3.pth", "epoch_3.pth.json", "last_checkpoint"]
    assert sorted(os.listdir(tmp_path / "run")) == files
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "epoch_3.pth"
    os.truncate(tmp_path / "run" / "epoch_3.pth", 100)
    assert CheckpointStore(uri).latest() == f"{uri}/epoch_2.pth"
    assert store.best("AP") is None
    with pytest.raises(InputError, match="cannot read checkpoint"):
        load_metadata(f"{uri}/epoch_9.pth")


def test_failed_write_uploads_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(f"local://{tmp_path}/run")
    store.save({"state_dict": {}, "hooks": [lambda: None]}, "epoch_2.pth", step=20)
    store.drain()
    assert "epoch_2.pth could not be written" in str(store.failure)
    assert os.listdir(tmp_path / "run") == []
