"""A record is the old one or the new one, never half of either, and what is damaged is refused by name."""

import gzip
import json
import math
import os
import pickle
from pathlib import Path

import pandas as pd
import pytest
import torch

from kdtutor import records
from kdtutor.records import RecordError, RunFolder, read_csv, read_json, to_csv, write_atomically, write_json


class Killed(BaseException):
    """As a signal would end it: no handler for Exception sees it."""


def kill(*args, **kwargs):
    raise Killed


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_a_write_that_is_killed_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(records.os, moment, kill)
    with pytest.raises(Killed):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"], "nothing half-written lies about"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(records.os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(records.os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "file", b"x")
    assert order == ["fsync", "replace"]


TENSORS = {"student.weight": torch.arange(6.0).reshape(2, 3).T, "student.count": torch.tensor(7)}
EPOCHS = [{"epoch": 1, "loss_ce": 0.1 + 0.2, "peak_mib": math.nan}, {"epoch": 2, "loss_ce": 1e-17, "loss_kd": 2.5}]


def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b", {"lr": 0.1})
    assert folder.load() == ([], {})
    folder.save(EPOCHS, TENSORS)
    epochs, tensors = folder.load()
    assert str(epochs) == str(EPOCHS)  # NaN does not equal itself
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype
    assert (tmp_path / "a" / "b" / "epochs.csv").read_text().splitlines()[0] == "epoch,loss_ce,peak_mib,loss_kd"


@pytest.mark.parametrize("which", ["epochs.csv", "checkpoint.safetensors"])
def test_killed_between_the_two_files_the_checkpoint_counts(tmp_path, monkeypatch, which):
    folder = RunFolder(tmp_path, {})
    folder.save(EPOCHS[:1], TENSORS)
    replace = os.replace
    monkeypatch.setattr(records.os, "replace", lambda a, b: kill() if b.name == which else replace(a, b))
    with pytest.raises(Killed):
        folder.save(EPOCHS, {name: value + 1 for name, value in TENSORS.items()})
    epochs, tensors = folder.load()
    assert len(epochs) == 1 and torch.equal(tensors["student.count"], torch.tensor(7))


@pytest.mark.parametrize("keep", [0, 1, 8, 9, 40, 0.5, -1])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, keep):
    folder = RunFolder(tmp_path, {})
    folder.save(EPOCHS, TENSORS)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()
    cut = int(len(content) * keep) if isinstance(keep, float) else keep
    path.write_bytes(content[:cut])
    with pytest.raises(RecordError, match=r"checkpoint.safetensors cannot be resumed from.*remove .* to start over"):
        folder.load()
    assert path.read_bytes() == content[:cut], "and never overwritten"


def test_a_checkpoint_of_another_kind_is_refused_and_never_run(tmp_path):
    trace = tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    folder = RunFolder(tmp_path, {})
    for content in (pickle.dumps(Bomb()), b"PK\x03\x04", b"{}" * 100):
        (tmp_path / "checkpoint.safetensors").write_bytes(content)
        with pytest.raises(RecordError, match=r"checkpoint\.safetensors cannot be resumed from"):
            folder.load()
    assert not trace.exists()


@pytest.mark.parametrize("metadata", [None, {}, {"epochs": "3"}, {"epochs": "no json"}])
def test_a_checkpoint_without_its_epochs_is_refused(tmp_path, metadata):
    from safetensors.torch import save_file

    folder = RunFolder(tmp_path, {})
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", metadata)
    with pytest.raises(RecordError, match=r"checkpoint\.safetensors cannot be resumed from"):
        folder.load()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2", b"[1]", b"null", b"7", b"[" * 9000])
def test_json_that_is_damaged_is_refused_by_name(tmp_path, content):
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"settings\.json cannot be read"):
        read_json(path)
    with pytest.raises(RecordError, match=r"settings\.json cannot be read"):
        RunFolder(tmp_path, {})
    assert path.read_bytes() == content


def test_other_settings_are_refused_and_named(tmp_path):
    RunFolder(tmp_path, {"lr": 0.1, "epochs": 3, "taps": ("a", "b")})
    RunFolder(tmp_path, {"lr": 0.1, "epochs": 3, "taps": ("a", "b")})
    with pytest.raises(RecordError, match=r"holds a run with epochs=3, this one has 4; choose another folder"):
        RunFolder(tmp_path, {"lr": 0.1, "epochs": 4, "taps": ("a", "b")})
    with pytest.raises(RecordError, match="new=None, this one has 1"):
        RunFolder(tmp_path, {"lr": 0.1, "epochs": 3, "taps": ("a", "b"), "new": 1})
    assert read_json(tmp_path / "settings.json")["epochs"] == 3


def test_json_names_what_it_cannot_hold(tmp_path):
    write_json(tmp_path / "x.json", {"weight": kill, "path": tmp_path, "text": "ü"})
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert read == {"weight": "kill", "path": str(tmp_path), "text": "ü"}


# --- Tables ---

ROWS = [{"method": "kd", "seed": "0", "top1": "0.8502", "nll": "5.1e-05"}, {"method": "sp, 3", "seed": "1", "new": "1"}]
TABLE = b'method,seed,top1,nll,new\nkd,0,0.8502,5.1e-05,\n"sp, 3",1,,,1\n'


def test_a_table_is_what_pandas_reads(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(to_csv(ROWS))
    assert path.read_bytes() == TABLE
    assert read_csv(path) == [{"nll": "", "top1": "", "new": "", **row} for row in ROWS]
    assert pd.read_csv(path)["top1"][0] == 0.8502


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no row"),
        (b"\n", "has no row"),
        (TABLE[:25], "has no row"),
        (TABLE[:-1], "is not the table that was written, from line 4 on"),
        (TABLE[:-3], "is not the table that was written, from line 3 on"),
        (TABLE[:33], "is not the table that was written, from line 2 on"),
        (TABLE + b"kd,2,0.5,7,1,1\n", "is not the table that was written, from line 1 on"),
        (TABLE + b"kd,2\n", "is not the table"),
        (TABLE.replace(b"\n", b"\r\n"), "is not the table"),
        (TABLE.replace(b"seed", b"method"), "is not the table"),
        (TABLE.replace(b'"', b""), "is not the table"),
        (TABLE.replace(b"0.8502", b"0.8\x00502"), "t.csv"),
        (TABLE.replace(b"0.8502", b"0.8\xb502"), "cannot be read"),
        (TABLE.replace(b"kd", b"k\x04"), "has a column 'method' that kdtutor would not write"),
        (TABLE.replace(b"seed", b"se d"), "has a column 'se d'"),
        (b"\xef\xbb\xbf" + TABLE, "has a column"),
        (TABLE + b"rkd,2,0x85,1.0,\n", "has '0x85' among the numbers of column top1"),
        (TABLE + b"rkd,2,0.85_1,1.0,\n", "has '0.85_1' among the numbers of column top1"),
        (b"{}", "t.csv"),
        (b"PK\x03\x04" + bytes(30), "t.csv"),
        (gzip.compress(TABLE), "cannot be read"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"t\.csv .*; restore it, or remove it to start over") as caught:
        read_csv(path)
    assert said in str(caught.value)
    assert path.read_bytes() == content


def test_a_table_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(RecordError, match=r"t\.csv cannot be read"):
        read_csv(tmp_path / "t.csv")


def test_every_record_of_ours_is_whole():
    paths = sorted((Path(__file__).parents[1] / "results" / "studies").glob("*/students.csv"))
    assert len(paths) >= 10
    for path in paths:
        assert len(read_csv(path)) == len(pd.read_csv(path)) > 0


def test_the_environment_is_told():
    told = records.environment()
    assert told["torch"] == torch.__version__ and told["threads"] == torch.get_num_threads()
    json.dumps(told)
