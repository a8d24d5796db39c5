"""Files damaged at random: refused by name, or used as if they were whole, and never written over.

KDTUTOR_FUZZ=2000 damages each kind of file so many times; without it, 40 times.
"""

import gzip
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from kdtutor import data, teachers
from kdtutor.data import DataError
from kdtutor.records import RecordError, RunFolder, read_json
from kdtutor.teachers import TeacherError, load_teacher, shipped_logits
from kdtutor.train import distill

ROUNDS = int(os.environ.get("KDTUTOR_FUZZ", 40))
SHIPPED = Path(__file__).parents[1] / "data"


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
