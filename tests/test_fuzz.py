"""Files damaged at random: refused by name, or used as if they were whole, and never written over.

KDTUTOR_FUZZ=2000 damages each kind of file so many times; without it, 40 times.
"""

import gzip
import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_data import ARCHIVES

from kdtutor import data, teachers
from kdtutor.data import DataError
from kdtutor.exercises import points, progress
from kdtutor.records import RecordError, RunFolder, read_csv, read_json
from kdtutor.teachers import TeacherError, load_teacher, shipped_logits
from kdtutor.train import distill

ROUNDS = int(os.environ.get("KDTUTOR_FUZZ", 40))
SHIPPED = Path(__file__).parents[1] / "data"
RESULTS = Path(__file__).parents[1] / "results"


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut off, a bit flipped, a block of zeros or noise, something in front or behind, empty, or of another kind."""
    at = draw.randrange(len(content))
    block = draw.randrange(1, 200)
    return draw.choice(
        [
            lambda: content[:at],
            lambda: content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :],
            lambda: content[:at] + bytes(block) + content[at + block :],
            lambda: content[:at] + draw.randbytes(block) + content[at + block :],
            lambda: draw.randbytes(block) + content,
            lambda: content + draw.randbytes(block),
            lambda: b"",
            lambda: gzip.compress(content[:1000]),
            lambda: b"PK\x03\x04" + draw.randbytes(block),
            lambda: b"{}",
        ]
    )()


def refused_or_whole(path: Path, read, errors, seed: int, rounds: int = ROUNDS) -> int:
    """Damage `path` so many times. How often it was refused; else what `read` gives must be what it gave before."""
    whole, content, refused = read(), path.read_bytes(), 0
    draw = random.Random(seed)
    for _ in range(rounds):
        bad = damaged(content, draw)
        path.write_bytes(bad)
        try:
            now = read()
        except errors as error:
            assert path.name in str(error) or str(path.parent) in str(error), error
            refused += 1
        else:
            assert same(now, whole)
        assert path.read_bytes() == bad
    path.write_bytes(content)
    assert same(read(), whole)
    return refused


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "settings.json"])
def test_records(file, toy, student, settings, tmp_path):
    distill(student(), toy, "ce", settings=settings, folder=tmp_path, progress=False)
    known = read_json(tmp_path / "settings.json")
    assert (
        refused_or_whole(tmp_path / file, lambda: RunFolder(tmp_path, known).load(), RecordError, seed=1) > ROUNDS / 2
    )


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The shipped teachers, where they may be damaged."""
    shutil.copytree(SHIPPED / "teachers", tmp_path / "teachers")
    monkeypatch.setattr(teachers.data, "shipped", lambda relative: tmp_path / relative)
    return tmp_path / "teachers"


@pytest.mark.parametrize("file", ["base.safetensors", "base-logits.safetensors", "manifest.json"])
def test_teachers(file, copies):
    def read():
        return load_teacher("base").state_dict(), shipped_logits("base")[:, :100]

    errors = (TeacherError, RecordError)
    assert refused_or_whole(copies / file, read, errors, seed=2) > ROUNDS / 2


@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_data(file, tmp_path, monkeypatch):
    shutil.copytree(SHIPPED / "fashion-mnist", tmp_path / "fashion-mnist")
    monkeypatch.setattr(data.sources, "shipped", lambda relative: tmp_path / relative)

    def read():
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        monkeypatch.setenv("KDTUTOR_CACHE", str(cache))
        splits = data.load("fashion-mnist")
        return splits.test.images, splits.test.labels

    rounds = max(1, ROUNDS // 8)  # each of them unpacks 55 MB
    assert refused_or_whole(tmp_path / "fashion-mnist" / file, read, DataError, 3, rounds) > rounds / 2


@pytest.mark.parametrize("file", ["t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
def test_unpacked_data(file, tmp_path, monkeypatch):
    """What lies in the cache is compared with the published sha256, and unpacked again where it differs."""
    monkeypatch.setenv("KDTUTOR_CACHE", str(tmp_path))
    whole = data.load("fashion-mnist").test
    path = tmp_path / "FashionMNIST" / "raw" / file
    content, draw = path.read_bytes(), random.Random(4)
    for _ in range(max(1, ROUNDS // 8)):
        path.write_bytes(damaged(content, draw))
        now = data.load("fashion-mnist").test
        assert torch.equal(now.images, whole.images) and torch.equal(now.labels, whole.labels)
        assert path.read_bytes() == content


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name, tmp_path, monkeypatch):
    archive = ARCHIVES[name](tmp_path)

    def read():
        cache = tmp_path / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        monkeypatch.setenv("KDTUTOR_CACHE", str(cache))
        splits = data.load(name, archive)
        return splits.train.images, splits.train.labels, splits.test.images, splits.test.labels, splits.train.classes

    assert refused_or_whole(archive, read, DataError, seed=5) > ROUNDS / 2


def test_tables(tmp_path):
    """They have no checksum. What is not refused has lost whole rows at its end, or letters or digits are others."""
    path = tmp_path / "students.csv"
    shutil.copy(RESULTS / "studies" / "mixup" / "students.csv", path)
    content, whole, refused = path.read_bytes(), pd.read_csv(path), 0
    draw = random.Random(6)
    for _ in range(10 * ROUNDS):
        bad = damaged(content, draw)
        path.write_bytes(bad)
        try:
            rows = read_csv(path)
        except RecordError as error:
            assert path.name in str(error)
            refused += 1
        else:
            now = pd.read_csv(path)
            assert len(rows) == len(now) == bad.count(b"\n") - 1 and len(bad) <= len(content)
            assert [kind for kind, before in zip(now.dtypes, whole.dtypes, strict=True) if kind != before] == []
            assert all(chr(b).isprintable() for a, b in zip(content, bad, strict=False) if a != b)
        assert path.read_bytes() == bad
    assert refused > 5 * ROUNDS


def test_points(tmp_path, monkeypatch):
    """The reader's own file has no checksum either: refused, or one name or number in it is another."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("KDTUTOR_PROGRESS", str(path))
    for key, most in ((f"notebook_0{n}.check_{n}", n) for n in range(1, 9)):
        points.keep_best(key, most)
    content, whole, refused = path.read_bytes(), points.read_points(path), 0
    draw = random.Random(7)
    for _ in range(10 * ROUNDS):
        bad = damaged(content, draw)
        path.write_bytes(bad)
        try:
            kept = points.read_points(path)
        except RecordError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert points.FORMAT.encode() in bad and len(kept) == 8 and len(kept.items() - whole.items()) <= 1
        assert progress().rows[-1][1] == 0, "no check of these names exists"
        points.keep_best("notebook_01.check_1", 0)
        assert path.read_bytes() == bad
    assert refused > 5 * ROUNDS
