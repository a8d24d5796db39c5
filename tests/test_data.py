"""Data sets in the exact layouts of their archives, made small; and everything that can be wrong with them."""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare

from kdtutor import data
from kdtutor.data import (
    Augmentation,
    DataError,
    ImageSet,
    archives,
    augment,
    folders,
    load,
    normalize,
    places,
    sources,
    views_of_epoch,
)

CINIC_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
WNIDS = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n07920052": "espresso"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KDTUTOR_CACHE", str(folder))
    return folder


def image_set(count=12, classes=3, channels=1, side=4, seed=0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    names = tuple(f"class {label}" for label in range(classes))
    return ImageSet(images, torch.arange(count) % classes, names, (0.5,) * channels, (0.25,) * channels, "toy")


def pixels(seed: int, side=8, channels=3) -> np.ndarray:
    shape = (side, side) if channels == 1 else (side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def image_folder(root: Path, classes=("cat", "dog"), splits=("train", "test"), count=2, side=8, channels=3) -> Path:
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(count):
                save(root / split / name / f"{i}.png", pixels(100 * s + 10 * c + i, side, channels))
    return root


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# --- ImageSet ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(12, 1, 4, 4)}, "images of toy are torch.float32, wanted a uint8"),
        ({"images": np.zeros((12, 1, 4, 4), np.uint8)}, "images of toy are ndarray"),
        ({"images": torch.zeros(12, 4, 4, dtype=torch.uint8)}, r"shape \(12, 4, 4\), wanted \(N, C, H, W\)"),
        ({"images": torch.zeros(0, 1, 4, 4, dtype=torch.uint8)}, "none of them 0"),
        ({"labels": torch.zeros(11, dtype=torch.int64)}, r"shape \(11,\), wanted \(12,\)"),
        ({"labels": torch.zeros(12)}, r"labels of toy are torch.float32.*labels.long\(\)"),
        ({"labels": [0] * 12}, "labels of toy are list"),
        ({"labels": torch.arange(12)}, "from 0 to 11, wanted 0 to 2 for 3 classes"),
        ({"labels": torch.full((12,), -2)}, "from -2 to -2"),
        ({"labels": torch.zeros(12, dtype=torch.int64, device="meta")}, "on meta, images on cpu"),
        ({"mean": (0.5, 0.5)}, "mean of toy has 2 values, but the images have 1 channels"),
        ({"std": ()}, "std of toy has 0 values"),
        ({"std": (0.0,)}, "greater than 0"),
        ({"std": (float("nan"),)}, "greater than 0"),
    ],
)
def test_image_set_checks_its_values(change, message):
    with pytest.raises(DataError, match=message):
        replace(image_set(), **change)


def test_image_set_knows_its_size_and_stays_on_its_device():
    toy = image_set()
    assert len(toy) == 12 and toy.num_classes == 3
    assert toy.to("cpu") is toy


def test_take_keeps_images_and_labels_together():
    toy = image_set()
    taken = toy.take([7, 0, 7])
    for row, i in enumerate((7, 0, 7)):
        assert torch.equal(taken.images[row], toy.images[i]) and taken.labels[row] == toy.labels[i]
    assert replace(toy, labels=None).take(torch.tensor([1])).labels is None


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([12], "from 12 to 12, but toy has images 0 to 11"),
        ([-1], "from -1 to -1"),
        ([], "wanted one dimension of whole numbers|is empty"),
        (torch.tensor([], dtype=torch.int64), "indices is empty"),
        ([0.5], "whole numbers"),
        (torch.ones(12, dtype=torch.bool), r"mask.nonzero\(\)"),
        (torch.tensor(3), "one dimension"),
    ],
)
def test_take_refuses_indices_that_are_none(indices, message):
    with pytest.raises(DataError, match=message):
        image_set().take(indices)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(-1, 4), min_size=1, max_size=60), drawn=st.data(), seed=st.integers(0, 2**32))
def test_subset_is_equal_shares_nested_and_repeatable(labels, drawn, seed):
    available = Counter(labels)
    numbered = ImageSet(
        torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None],  # each image is its own number
        torch.tensor(labels), tuple("abcde"), (0.0,), (1.0,), "numbered",
    )  # fmt: skip
    count = drawn.draw(st.integers(len(available), len(labels)))
    subset = numbered.subset(count, seed)
    chosen = subset.images.flatten().tolist()
    assert len(chosen) == count and chosen == sorted(set(chosen))
    assert subset.labels.tolist() == [labels[i] for i in chosen]
    shares = Counter(subset.labels.tolist())
    largest = max(shares.values())
    assert all(shares[label] >= min(largest - 1, available[label]) for label in available)
    assert torch.equal(subset.images, numbered.subset(count, seed).images)
    if count < len(labels):
        assert set(chosen) < set(numbered.subset(count + 1, seed).images.flatten().tolist())


def test_subset_depends_on_its_seed_and_works_without_labels():
    toy = image_set(count=60)
    assert not torch.equal(toy.subset(30, seed=0).images, toy.subset(30, seed=1).images)
    assert len(replace(toy, labels=None).subset(5)) == 5


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [(13, DataError, "count is 13, but toy has 12 images"), (2, DataError, "3 classes"), (0, ValueError, "count")],
)
def test_subset_refuses_impossible_counts(count, error, message):
    with pytest.raises(error, match=message):
        image_set().subset(count)


def test_without_labels_keeps_those_asked_for():
    toy = image_set()
    kept = toy.without_labels(torch.tensor([2, 4]))
    assert kept.labels.tolist() == [-1, -1, 2, -1, 1] + [-1] * 7
    assert toy.without_labels().labels is None and toy.labels.min() == 0
    with pytest.raises(DataError, match="no labels to keep"):
        toy.without_labels().without_labels([0])
    with pytest.raises(DataError, match="keep goes from 12 to 12"):
        toy.without_labels([12])


def test_fingerprint_tells_images_apart_and_ignores_labels():
    toy = image_set()
    changed = toy.images.clone()
    changed[3, 0, 1, 2] ^= 1
    reshaped = toy.images.reshape(12, 1, 2, 8)
    fingerprints = [replace(toy, images=images).fingerprint() for images in (toy.images, changed, reshaped)]
    assert len(set(fingerprints)) == 3 and all(len(one) == 64 for one in fingerprints)
    assert toy.without_labels([1]).fingerprint() == toy.fingerprint() == fingerprints[0]
    not_contiguous = replace(toy, images=toy.images.contiguous(memory_format=torch.channels_last))
    assert not_contiguous.fingerprint() == toy.fingerprint()


# --- Augmentation ---

MASK = (1 << 64) - 1


def hash_by_hand(seed: int, index: int, view: int) -> int:
    """SplitMix64's finaliser on Python's unbounded integers."""
    z = (index * 0x9E3779B97F4A7C15 + view * 0xD1342543DE82EF95 + seed * 0xDA942042E4DD58B5) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def augment_by_hand(image: np.ndarray, index: int, view: int, augmentation: Augmentation) -> np.ndarray:
    if augmentation.flip and view % 2 == 1:
        image = image[:, :, ::-1]
    channels, height, width = image.shape
    padding = augmentation.crop_padding
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = image
    bits = hash_by_hand(augmentation.seed, index, view)
    top, left = ((half * (2 * padding + 1)) // 2**32 for half in (bits >> 32, bits & 0xFFFFFFFF))
    return padded[:, top : top + height, left : left + width]


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**63),
    keys=st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**33)), min_size=1, max_size=6),
)
def test_augment_is_a_plain_loop_over_images(channels, height, width, padding, flip, seed, keys):
    augmentation = Augmentation(padding, flip, seed)
    images = torch.randint(0, 256, (len(keys), channels, height, width), dtype=torch.uint8)
    index, view = torch.tensor(keys).unbind(1)
    augmented = augment(images, index, view, augmentation)
    by_hand = [augment_by_hand(image.numpy(), *key, augmentation) for image, key in zip(images, keys, strict=True)]
    assert augmented.dtype == torch.uint8
    np.testing.assert_array_equal(augmented.numpy(), np.stack(by_hand))


def test_without_augmentation_the_images_come_back():
    toy = image_set()
    index = torch.arange(12)
    assert augment(toy.images, index, index, Augmentation()) is toy.images


PADDING = 2
OFFSETS = 2 * PADDING + 1


def offsets(index, view, seed=0) -> torch.Tensor:
    """Where augment cropped, 0 to OFFSETS² - 1: read from where it moved a white dot in the middle."""
    images = torch.zeros(len(index), 1, OFFSETS, OFFSETS, dtype=torch.uint8)
    images[:, :, PADDING, PADDING] = 255
    moved = augment(images, index, view, Augmentation(PADDING, seed=seed)).flatten(1)
    assert bool((moved.sum(1) == 255).all())
    return OFFSETS**2 - 1 - moved.argmax(1)


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("view", [0, 1, 7])
def test_crops_are_uniform_and_independent(seed, view):
    index = torch.arange(30_000)
    one = offsets(index, torch.full_like(index, view), seed)
    others = {
        "index": offsets(index + 1, torch.full_like(index, view), seed),
        "view": offsets(index, torch.full_like(index, view + 1), seed),
        "seed": offsets(index, torch.full_like(index, view), seed + 1),
    }
    assert chisquare(one.bincount(minlength=OFFSETS**2)).pvalue > 1e-5
    for what, other in others.items():  # neighbours share no pattern: all pairs of offsets are equally frequent
        pairs = (one * OFFSETS**2 + other).bincount(minlength=OFFSETS**4)
        assert chisquare(pairs).pvalue > 1e-5, what


def test_two_views_alternate_between_an_image_and_its_mirror_image():
    augmentation = Augmentation(flip=True)
    toy = image_set(count=12)
    index = torch.arange(12)
    epochs = [augment(toy.images, index, views_of_epoch(index, e, 2, augmentation), augmentation) for e in range(4)]
    assert torch.equal(epochs[0], epochs[2]) and torch.equal(epochs[1], epochs[3])
    for image, first, second in zip(toy.images, epochs[0], epochs[1], strict=True):
        assert not torch.equal(first, second)
        assert {first.numpy().tobytes(), second.numpy().tobytes()} == {
            image.numpy().tobytes(),
            image.flip(-1).contiguous().numpy().tobytes(),
        }


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_each_image_goes_through_its_views_in_turn(views):
    index = torch.arange(20_000)
    seen = torch.stack([views_of_epoch(index, epoch, views, Augmentation()) for epoch in range(views)])
    assert torch.equal(seen.sort(0).values, torch.arange(views)[:, None].expand(-1, len(index)))
    if views > 1:  # every epoch mixes them in equal parts
        assert chisquare(seen[0].bincount(minlength=views)).pvalue > 1e-5


def test_without_fixed_views_each_epoch_shows_a_new_one():
    index = torch.arange(1000)
    first, second = (views_of_epoch(index, epoch, None, Augmentation()) for epoch in (5, 6))
    assert torch.equal(second, first + 1) and int(first.min()) >= 0
    assert 400 < int((first % 2).sum()) < 600  # half of the images start mirrored
    assert not torch.equal(first, views_of_epoch(index, 5, None, Augmentation(seed=1)))


def test_a_batch_is_augmented_without_looking_at_its_values():
    """Meta tensors have no values: whatever would wait for a GPU fails on them."""
    images = torch.empty(5, 3, 8, 8, dtype=torch.uint8, device="meta")
    index = torch.empty(5, dtype=torch.int64, device="meta")
    augmentation = Augmentation(2, flip=True)
    view = views_of_epoch(index, 3, 2, augmentation)
    augmented = normalize(augment(images, index, view, augmentation), (0.5,) * 3, (0.2,) * 3)
    assert augmented.shape == images.shape and augmented.dtype == torch.float32 and view.shape == (5,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_normalize_is_its_formula(dtype):
    toy = image_set(channels=3)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.05]
    wanted = (toy.images.numpy() / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    normalized = normalize(toy.images, mean, std, dtype)
    assert normalized.dtype == dtype
    # One rounding to dtype, at most half of its eps, after float32 or better at values of up to 20.
    computed = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(
        normalized.double(), torch.from_numpy(wanted), rtol=0.51 * torch.finfo(dtype).eps, atol=40 * computed
    )


def test_augmentation_refuses_what_cannot_work():
    toy, index = image_set(), torch.arange(12)
    with pytest.raises(DataError, match="crop_padding is 4, but the images are 4 x 4"):
        augment(toy.images, index, index, Augmentation(4))
    with pytest.raises(DataError, match=r"index has shape \(3,\).*wanted \(12,\) and int64"):
        augment(toy.images, index[:3], index, Augmentation(1))
    with pytest.raises(DataError, match=r"view has .* dtype torch.int32"):
        augment(toy.images, index, index.int(), Augmentation(1))
    with pytest.raises(DataError, match="mean has 3 values and std 3, but the images have 1"):
        normalize(toy.images, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(DataError, match=r"dtype torch.float32, wanted uint8"):
        normalize(toy.images.float(), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="crop_padding must be at least 0, got -1"):
        Augmentation(crop_padding=-1)
    with pytest.raises(ValueError, match="views must be at least 1, got 0"):
        views_of_epoch(index, 0, 0, Augmentation())


# --- Fashion-MNIST ---


def run_python(code: str, **environment) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def idx_values(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def test_fashion_mnist_is_all_there(cache):
    splits = load("fashion-mnist")
    assert splits.train.classes[9] == "Ankle boot" and splits.name == "fashion-mnist"
    for part, prefix, count in ((splits.train, "train", 60_000), (splits.test, "t10k", 10_000)):
        images = idx_values(data.shipped(f"fashion-mnist/{prefix}-images-idx3-ubyte.gz"), 16)
        labels = idx_values(data.shipped(f"fashion-mnist/{prefix}-labels-idx1-ubyte.gz"), 8)
        np.testing.assert_array_equal(part.images.numpy(), images.reshape(count, 1, 28, 28))
        np.testing.assert_array_equal(part.labels.numpy(), labels)
        assert part.labels.bincount().tolist() == [count // 10] * 10
    values = splits.train.images.numpy() / 255
    assert (round(float(values.mean()), 4),) == splits.train.mean and (
        round(float(values.std()), 4),
    ) == splits.train.std

    raw = cache / "FashionMNIST" / "raw"
    before = {path.name: path.stat().st_mtime_ns for path in raw.iterdir()}
    for path, damage in zip(sorted(raw.iterdir()), (b"", b"short", None, "flip"), strict=True):
        if damage is None:
            path.unlink()
        elif damage == "flip":
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        else:
            path.write_bytes(damage)
    again = load("fashion-mnist")
    assert again.train.fingerprint() == splits.train.fingerprint() and torch.equal(
        again.test.labels, splits.test.labels
    )
    assert torch.equal(again.train.labels, splits.train.labels)
    assert files_in(raw) == sorted(before)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other", "empty"])
def test_a_damaged_shipped_file_is_named_and_nothing_is_kept(damage, cache, tmp_path, monkeypatch):
    name = "t10k-labels-idx1-ubyte.gz"
    content = bytearray(data.shipped(f"fashion-mnist/{name}").read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 16
    damaged = tmp_path / name
    damaged.write_bytes(
        {"truncated": content[:-100], "flipped": content, "other": gzip.compress(b"other"), "empty": b""}[damage]
    )
    target, sha256 = cache / "labels", sources._FASHION_MNIST_SHA256[name.removesuffix(".gz")]
    with pytest.raises(DataError, match=f"{name}.*restore it"):
        sources._decompress(damaged, target, sha256)
    assert files_in(cache) == []


def test_what_is_not_shipped_is_an_error_that_says_so():
    assert data.shipped("fashion-mnist").is_dir()
    with pytest.raises(DataError, match=r"no-such-thing is missing from .*install kdtutor again"):
        data.shipped("no-such-thing")
    with pytest.raises(DataError, match=r"fashion-mnist comes with kdtutor; leave root out"):
        load("fashion-mnist", root=".")


def test_a_wheel_carries_its_own_files(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "kdtutor"
    for folder in ("shipped/data/teachers", "shipped/notebooks", "../data/teachers", "../notebooks"):
        (package / folder).mkdir(parents=True)  # the last two are somebody else's
    monkeypatch.setattr(places, "__file__", str(package / "data" / "places.py"))
    assert data.shipped("teachers") == package / "shipped" / "data" / "teachers"
    assert data.shipped("notebooks") == package / "shipped" / "notebooks"


def test_interrupted_decompression_leaves_nothing(cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load("fashion-mnist")
    assert files_in(cache) == ["FashionMNIST", "raw"]


def test_a_full_disk_is_an_error_that_says_what_to_do(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left.*make room, or set KDTUTOR_CACHE"):
        load("fashion-mnist")
    assert files_in(cache) == ["FashionMNIST", "raw"]


def test_killed_while_decompressing_then_two_at_once(cache, tmp_path):
    killed = run_python(
        "import os; from kdtutor import data; os.replace = lambda *_: os._exit(9); data.load('fashion-mnist')"
    )
    killed.communicate()
    assert killed.returncode == 9 and not (cache / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").exists()

    code = (
        "import os, sys, time; from pathlib import Path; from kdtutor import data\n"
        f"Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
        f"while len(os.listdir({str(tmp_path)!r})) < 2: time.sleep(.01)\n"
        "print(data.load('fashion-mnist').train.fingerprint())"
    )
    outputs = [process.communicate(timeout=120) for process in (run_python(code), run_python(code))]
    assert len({out for out, _ in outputs}) == 1 and len(outputs[0][0].strip()) == 64, outputs


# --- Folders of images ---


def test_an_image_folder_in_sorted_order(tmp_path):
    root = image_folder(tmp_path / "pets", ("dog", "cat", "ant"), count=3)
    (root / "train" / ".DS_Store").touch()
    (root / "train" / "cat" / "notes.txt").touch()
    splits = load(root)
    assert splits.name == "pets" and splits.train.classes == ("ant", "cat", "dog")
    for part, split in ((splits.train, "train"), (splits.test, "test")):
        files = sorted((root / split).glob("*/*.png"))
        assert len(part) == len(files) == 9
        for image, label, file in zip(part.images, part.labels, files, strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))
            assert part.classes[label] == file.parent.name
    values = splits.train.images.double().numpy() / 255
    np.testing.assert_allclose(splits.train.mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(splits.train.std, values.std((0, 2, 3)), rtol=1e-12)
    assert splits.test.mean == splits.train.mean
    assert load(str(root)).train.fingerprint() == splits.train.fingerprint()


@pytest.mark.parametrize("split", ["test", "val", "valid"])
def test_the_test_split_has_three_names(tmp_path, split):
    assert len(load(image_folder(tmp_path, splits=("train", split))).test) == 4


def test_many_images_keep_their_order(tmp_path):
    """More than one thread and more than one piece of work."""
    for split, count in (("train", 230), ("test", 1)):
        for i in range(count):
            save(tmp_path / split / "only" / f"{i:03d}.png", np.full((2, 2), i, np.uint8))
    splits = load(tmp_path)
    assert splits.train.images[:, 0, 0, 0].tolist() == list(range(230))


def test_grey_folders_are_grey_and_one_coloured_image_makes_all_rgb(tmp_path):
    grey = image_folder(tmp_path / "grey", channels=1)
    assert load(grey).train.images.shape == (4, 1, 8, 8)
    save(grey / "test" / "dog" / "9.png", pixels(7))
    mixed = load(grey)
    assert mixed.train.images.shape == (4, 3, 8, 8) and mixed.test.images.shape == (5, 3, 8, 8)
    assert torch.equal(mixed.train.images[:, 0], mixed.train.images[:, 2])
    (grey / "test" / "dog" / "9.png").rename(grey / "train" / "dog" / "9.png")
    assert load(grey).test.images.shape == (4, 3, 8, 8)


def test_black_images_are_normalised_to_numbers(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "black" / "0.png", np.zeros((4, 4), np.uint8))
    train = load(tmp_path).train
    assert normalize(train.images, train.mean, train.std).abs().max() == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: shutil.rmtree(root / "test"), "no folder test or val or valid; a folder of images has"),
        (lambda root: shutil.rmtree(root / "train"), "no folder train"),
        (lambda root: shutil.rmtree(root / "test" / "cat"), "test of .* lacks 'cat', which train has"),
        (lambda root: shutil.rmtree(root / "train" / "dog"), "train of .* lacks 'dog', which test has"),
        (lambda root: (root / "train" / "cat" / "0.png").write_bytes(b"no image"), "0.png cannot be read as an image"),
        (lambda root: (root / "test" / "cat" / "1.png").write_bytes(b""), "1.png cannot be read as an image"),
        (lambda root: truncate(root / "train" / "dog" / "1.png"), "1.png cannot be read as an image"),
        (lambda root: save(root / "train" / "dog" / "2.png", pixels(0, 9)), r"2.png is \(9, 9\), .* is \(8, 8\)"),
        (lambda root: save(root / "train" / "dog" / "2.png", pixels(0, 8).astype(np.uint16)[:, :, 0]), "8 bits"),
        (lambda root: [f.unlink() for f in (root / "train" / "dog").iterdir()], "dog has no images; add some"),
        (lambda root: [shutil.rmtree(f) for f in (root / "train").iterdir()], "train has no class folders"),
        (
            lambda root: [save(root / "test" / c / f"{i}.png", pixels(i, 9)) for c in ("cat", "dog") for i in range(2)],
            r"\(3, 8, 8\) in train, \(3, 9, 9\) in test",
        ),
    ],
)
def test_a_spoilt_image_folder_is_refused(tmp_path, spoil, message):
    spoil(image_folder(tmp_path))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_unknown_names_list_the_near_ones(tmp_path):
    with pytest.raises(DataError, match=r"'cifar1000', neither .* did you mean 'cifar100'"):
        load("cifar1000")
    with pytest.raises(DataError, match=r"choose one of fashion-mnist, cifar10, .*train/<class>/"):
        load("zzz")
    with pytest.raises(DataError, match="wanted a name or a path; see from_dataset"):
        load(None)
    with pytest.raises(DataError, match="name_or_folder is a folder already; leave root out"):
        load(image_folder(tmp_path), root="elsewhere")


# --- A Dataset of one's own ---


class Items(torch.utils.data.Dataset):
    def __init__(self, items, **attributes):
        self.items = items
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def test_a_dataset_of_any_kind_of_image_becomes_the_same_tensors():
    arrays = [pixels(seed) for seed in range(4)]
    as_uint8 = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    labels = [0, torch.tensor(1), np.int64(1), 0]
    kinds = {
        "PIL": [Image.fromarray(array) for array in arrays],
        "uint8": as_uint8,
        "float": [image.float() / 255 for image in as_uint8],
        "double": [image.double() / 255 for image in as_uint8],
        "half": [(image.float() / 255).half() for image in as_uint8],
    }
    for kind, images in kinds.items():
        splits = data.from_dataset(
            Items(list(zip(images, labels, strict=True)), classes=["no", "yes"]),
            Items([(images[0], 0), (images[1], 1)]),
        )
        assert torch.equal(splits.train.images, torch.stack(as_uint8)), kind
        assert splits.train.labels.tolist() == [0, 1, 1, 0] and splits.test.classes == ("no", "yes")


def test_float_images_are_rounded_to_the_nearest_value():
    values = torch.tensor([[0.0, 0.4 / 255, 0.6 / 255, 0.999, 1.0]])
    assert data.from_dataset(Items([values])).train.images.flatten().tolist() == [0, 0, 1, 255, 255]


def test_a_dataset_without_test_or_labels():
    image = torch.zeros(4, 4, dtype=torch.uint8)
    unlabelled = data.from_dataset(Items([image, image]), name="mine")
    assert unlabelled.test is None and unlabelled.train.labels is None and unlabelled.train.num_classes == 0
    assert unlabelled.train.images.shape == (2, 1, 4, 4) and unlabelled.name == "mine"
    partly = data.from_dataset(Items([(image, None), (image, 2), (image, -1)])).train
    assert partly.labels.tolist() == [-1, 2, -1] and partly.classes == ("0", "1", "2")


def item(image=None, label=0):
    return (torch.zeros(1, 4, 4, dtype=torch.uint8) if image is None else image, label)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        ([], None, None, "train is empty"),
        ([item(), item(torch.zeros(1, 5, 5, dtype=torch.uint8))], None, None, r"train\[1\] is \(1, 5, 5\), train\[0\]"),
        ([item()], [item(torch.zeros(1, 5, 5, dtype=torch.uint8))], None, r"\(1, 4, 4\) in train, \(1, 5, 5\) in test"),
        ([item(torch.full((1, 4, 4), 1.5))], None, None, r"train\[0\] has values outside \[0, 1\]"),
        ([item(torch.full((1, 4, 4), float("nan")))], None, None, "or NaN"),
        ([item(torch.zeros(1, 4, 4, dtype=torch.int32))], None, None, "dtype torch.int32, wanted uint8"),
        ([item(torch.zeros(4, dtype=torch.uint8))], None, None, r"a tensor of shape \(4,\)"),
        ([item("a picture")], None, None, "is a str, wanted a PIL image or a tensor"),
        ([item(Image.new("I;16", (4, 4)))], None, None, "more than 8 bits a channel"),
        ([item(label=0.5)], None, None, r"label of train\[0\] is 0.5, wanted a whole number"),
        ([item(label="cat")], None, None, "'cat', wanted a whole number"),
        ([item(label=torch.tensor([1, 2]))], None, None, "wanted a whole number"),
        ([(*item(), 3)], None, None, r"train\[0\] has 3 parts"),
        ([item(label=5)], None, ["a", "b"], "from 5 to 5, wanted 0 to 1 for 2 classes"),
        ([item(label=-3)], None, ["a", "b"], "from -3 to -3"),
        ([item(), item(label=1)], [item()], ["a", "b"], "test of custom lacks 'b', which train has"),
        ([item()], [item(), item(label=1)], ["a", "b"], "train of custom lacks 'b', which test has"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(train, test, classes, message):
    with pytest.raises(DataError, match=message):
        data.from_dataset(Items(train), None if test is None else Items(test), classes)


def test_a_stream_is_no_dataset():
    with pytest.raises(DataError, match="train is a generator, wanted a torch Dataset with a length"):
        data.from_dataset(item() for _ in range(3))


# --- CINIC-10 and Tiny-ImageNet, in the layouts of their archives ---


def cinic_tree(root: Path) -> Path:
    image_folder(root, CINIC_CLASSES, ("train", "valid", "test"), side=32)
    (root / "README.md").write_text("read me")
    (root / "synsets-to-cifar-10-classes.txt").write_text("n02691156 airplane")
    return root


def cinic_archive(root: Path) -> Path:
    tree, archive = cinic_tree(root / "tree"), root / "CINIC-10.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, ".")
    shutil.rmtree(tree)
    return archive


def tiny_tree(root: Path) -> Path:
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WNIDS.items()))
    annotations = []
    for c, wnid in enumerate(WNIDS):
        for i in range(2):
            grey = (c, i) == (1, 0)  # as some of its images are
            save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", pixels(10 * c + i, 64, 1 if grey else 3))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        save(root / "val" / "images" / f"val_{c}.JPEG", pixels(50 + c, 64))
        annotations.append(f"val_{c}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    save(root / "test" / "images" / "test_0.JPEG", pixels(99, 64))
    return root


def tiny_archive(root: Path) -> Path:
    tree, archive = tiny_tree(root / "tiny-imagenet-200"), root / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(tree.rglob("*")):
            packed.write(path, path.relative_to(root))
    shutil.rmtree(tree)
    return archive


ARCHIVES = {"cinic10": cinic_archive, "tiny-imagenet": tiny_archive}


def test_cinic10_as_folder_and_as_archive(tmp_path, cache):
    unpacked = load("cinic10", cinic_tree(tmp_path / "CINIC-10"))
    assert unpacked.train.images.shape == (20, 3, 32, 32) and unpacked.train.classes == tuple(CINIC_CLASSES)
    assert unpacked.train.mean == data.NORMALIZATION["cinic10"][0]
    image = Image.open(tmp_path / "CINIC-10" / "test" / "bird" / "1.png")
    np.testing.assert_array_equal(unpacked.test.images[5].permute(1, 2, 0).numpy(), np.asarray(image))
    assert len(unpacked.test) == 20 and files_in(cache) == []  # valid is left out, and nothing was copied

    (tmp_path / "packed").mkdir()
    archive = cinic_archive(tmp_path / "packed")
    for root in (tmp_path, archive, archive.parent):
        assert load("cinic10", root).train.fingerprint() == unpacked.train.fingerprint()
    assert len(list(cache.iterdir())) == 1  # unpacked once
    archive.rename(cache / archive.name)
    assert load("cinic10").train.fingerprint() == unpacked.train.fingerprint()


def test_cinic10_never_takes_valid_for_test(tmp_path):
    shutil.rmtree(cinic_tree(tmp_path) / "test")
    with pytest.raises(DataError, match="no folder test;"):
        load("cinic10", tmp_path)


def test_tiny_imagenet_as_folder_and_as_archive(tmp_path, cache):
    tree = tiny_tree(tmp_path / "tiny-imagenet-200")
    splits = load("tiny-imagenet", tree)
    assert splits.train.classes == ("goldfish", "Egyptian cat", "espresso")  # in the order of the sorted wnids
    assert splits.train.images.shape == (6, 3, 64, 64) and splits.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    grey = np.asarray(Image.open(tree / "train" / "n01443537" / "images" / "n01443537_0.JPEG"))
    np.testing.assert_array_equal(splits.train.images[0].numpy(), np.stack([grey] * 3))
    assert splits.test.labels.tolist() == [1, 0, 2]  # val_0 is the first of wnids.txt, the cat
    cat = np.asarray(Image.open(tree / "val" / "images" / "val_0.JPEG"))
    np.testing.assert_array_equal(splits.test.images[0].permute(1, 2, 0).numpy(), cat)

    (tmp_path / "packed").mkdir()
    archive = tiny_archive(tmp_path / "packed")
    for root in (tmp_path, archive, archive.parent):
        again = load("tiny-imagenet", root)
        assert again.train.fingerprint() == splits.train.fingerprint() and torch.equal(
            again.test.labels, splits.test.labels
        )
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "words.txt").unlink(), "words.txt cannot be read"),
        (lambda root: (root / "val" / "val_annotations.txt").unlink(), "val_annotations.txt cannot be read"),
        (
            lambda root: append(root / "val" / "val_annotations.txt", "val_9.JPEG\tn99\t0\n"),
            "line of no known class: 'val_9",
        ),
        (lambda root: append(root / "val" / "val_annotations.txt", "half a li"), "no known class: 'half a li'"),
        (
            lambda root: append(root / "val" / "val_annotations.txt", "val_9.JPEG\tn07920052\n"),
            "val_9.JPEG cannot be read",
        ),
        (lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02124075\n"), "test of .* lacks"),
        (lambda root: shutil.rmtree(root / "train" / "n02124075"), "lacks 'n02124075'"),
        (lambda root: shutil.rmtree(root / "train" / "n02124075" / "images"), "has no images"),
        (
            lambda root: truncate(root / "train" / "n02124075" / "images" / "n02124075_1.JPEG"),
            "n02124075_1.JPEG cannot",
        ),
    ],
)
def test_a_spoilt_tiny_imagenet_is_refused(tmp_path, spoil, message):
    spoil(tiny_tree(tmp_path))
    with pytest.raises(DataError, match=message):
        load("tiny-imagenet", tmp_path)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("name", ["cinic10", "tiny-imagenet"])
def test_missing_data_says_which_file_to_get_and_where_to_put_it(name, cache, tmp_path):
    archive = sources._SOURCES[name].archive
    with pytest.raises(DataError, match=f"{name} is not in {cache}; put {archive} there .from http.*root="):
        load(name)
    with pytest.raises(DataError, match=f"is not in {tmp_path / 'nowhere'}"):
        load(name, tmp_path / "nowhere")


# --- Archives that are damaged, hostile or interrupted ---


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_truncated_archive_is_refused_and_leaves_nothing(name, cache, tmp_path):
    archive = ARCHIVES[name](tmp_path)
    content = archive.read_bytes()
    for kept in [0, 1, 10, *np.linspace(20, len(content) - 1, 20).astype(int), len(content) - 4]:
        archive.write_bytes(content[:kept])
        with pytest.raises(DataError, match=f"{archive.name} is truncated or damaged.*get {archive.name} again"):
            load(name, archive)
        assert files_in(cache) == [], kept


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_flipped_bit_is_refused_or_harmless(name, cache, tmp_path):
    archive = ARCHIVES[name](tmp_path)
    sound = load(name, archive)
    content = archive.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    # Most of the archive is pixels, so look at its two ends, where the names are, as well.
    for position in [
        *random.integers(0, len(content), 20),
        *random.integers(0, 40, 10),
        *-random.integers(1, 1500, 30),
    ]:
        shutil.rmtree(cache)
        cache.mkdir()
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        archive.write_bytes(damaged)
        try:
            splits = load(name, archive)
        except DataError:
            refused += 1
            assert not [file for file in files_in(cache) if file.endswith(".part")]
        else:
            assert splits.train.fingerprint() == sound.train.fingerprint(), position
            assert splits.test.fingerprint() == sound.test.fingerprint(), position
            assert torch.equal(splits.test.labels, sound.test.labels) and splits.test.classes == sound.test.classes
    assert refused >= 20


def hostile_tar(path: Path, **attributes) -> None:
    member = tarfile.TarInfo("train/x")
    vars_ = {"name": "train/x"} | attributes
    for key, value in vars_.items():
        setattr(member, key, value)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(b"evil"[: member.size]))


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "../evil", "size": 4},
        {"name": "train/../../evil", "size": 4},
        {"name": "/evil", "size": 4},
        {"name": "C:/evil", "size": 4},
        {"name": "..\\evil", "size": 4},
        {"type": tarfile.SYMTYPE, "linkname": "/etc"},
        {"type": tarfile.LNKTYPE, "linkname": "../../evil"},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE},
    ],
)
def test_a_tar_cannot_write_outside_its_folder_or_link(attributes, cache, tmp_path):
    hostile_tar(tmp_path / "CINIC-10.tar.gz", **attributes)
    with pytest.raises(DataError, match="outside its folder, a link or a device; it is not trusted"):
        load("cinic10", tmp_path)
    assert files_in(cache) == [] and files_in(tmp_path) == ["CINIC-10.tar.gz"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("../evil", 0), ("/evil", 0), ("C:\\evil", 0), ("a/../../evil", 0), ("link", 0o120777), ("pipe", 0o010644)],
)
def test_a_zip_cannot_write_outside_its_folder_or_link(name, mode, cache, tmp_path):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as packed:
        packed.writestr(member, "/etc")
    with pytest.raises(DataError, match="not trusted"):
        load("tiny-imagenet", tmp_path)
    assert files_in(cache) == []


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_cannot_fill_the_disk(name, cache, tmp_path, monkeypatch):
    archive = ARCHIVES[name](tmp_path)
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        load(name, archive)
    assert files_in(cache) == []


def test_zeros_without_end_after_a_tar_cannot_keep_us_busy(cache, tmp_path, monkeypatch):
    archive = cinic_archive(tmp_path)
    monkeypatch.setattr(archives, "MOST_BYTES", 10 * 2**20)
    with archive.open("ab") as file:  # gzip files may be joined
        file.write(gzip.compress(bytes(12 * 2**20)))
    with pytest.raises(DataError, match="at 'its end'"):
        load("cinic10", archive)


@pytest.mark.parametrize("name", ARCHIVES)
def test_another_archive_of_that_name_is_refused(name, cache, tmp_path):
    other = ARCHIVES["tiny-imagenet" if name == "cinic10" else "cinic10"](tmp_path)
    archive = tmp_path / sources._SOURCES[name].archive
    shutil.copy(other, archive)
    with pytest.raises(DataError, match="truncated or damaged"):
        load(name, archive)
    if name == "cinic10":
        hostile_tar(archive, name="something/else", size=4)
        with pytest.raises(DataError, match=r"holds no valid, so it is not what CINIC-10.tar.gz should be"):
            load(name, archive)
    assert files_in(cache) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("name", ARCHIVES)
def test_interrupted_unpacking_leaves_nothing(name, error, cache, tmp_path, monkeypatch):
    archive = ARCHIVES[name](tmp_path)
    opened, target = 0, zipfile.ZipFile if name == "tiny-imagenet" else tarfile.TarFile
    extract = target.extract

    def extract_some(*arguments, **options):
        nonlocal opened
        opened += 1
        if opened == 7:
            raise error
        return extract(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(target, "extract", extract_some)
        with pytest.raises(
            KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError, match=r"No space|^$"
        ):
            load(name, archive)
    assert files_in(cache) == []
    assert len(load(name, archive).train) > 0


def test_killed_before_the_last_step_then_two_at_once(cache, tmp_path):
    archive = cinic_archive(tmp_path)
    call = f"data.load('cinic10', {str(archive)!r})"
    killed = run_python(f"import os; from kdtutor import data; os.rename = lambda *_: os._exit(9); {call}")
    killed.communicate()
    assert killed.returncode == 9
    left = list(cache.iterdir())
    assert len(left) == 1 and left[0].name.endswith(".part")  # all of it is there, and it is not taken for data

    started = tmp_path / "started"
    started.mkdir()
    code = (
        "import os, time; from pathlib import Path; from kdtutor import data\n"
        "rename = os.rename\n"
        "def together(part, folder):\n"  # both have unpacked everything when the first renames
        f"    Path({str(started)!r}, str(os.getpid())).touch()\n"
        f"    while len(os.listdir({str(started)!r})) < 2: time.sleep(.01)\n"
        "    rename(part, folder)\n"
        "os.rename = together\n"
        f"print({call}.train.fingerprint())"
    )
    outputs = [process.communicate(timeout=120) for process in (run_python(code), run_python(code))]
    assert len({out for out, _ in outputs}) == 1 and len(outputs[0][0].strip()) == 64, outputs
    assert len(list(cache.iterdir())) == 2  # what was killed, and one folder


def test_a_changed_archive_is_unpacked_anew(tmp_path, cache):
    archive = cinic_archive(tmp_path)
    first = load("cinic10", archive).train
    tree = image_folder(tmp_path / "tree", CINIC_CLASSES, ("test", "valid", "train"), side=32)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, ".")
    os.utime(archive, (time.time() + 10,) * 2)
    assert load("cinic10", archive).train.fingerprint() != first.fingerprint()


# --- CIFAR ---


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """A small data set in torchvision's layout, whose md5 it is told: (name, folder, the class in torchvision)."""
    from torchvision import datasets

    kind = datasets.CIFAR10 if request.param == "cifar10" else datasets.CIFAR100
    folder = tmp_path / "root" / kind.base_folder
    folder.mkdir(parents=True)
    label_key = "labels" if request.param == "cifar10" else "fine_labels"

    def write(file: str, content: dict) -> str:
        (folder / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    def batch(seed: int) -> dict:
        return {
            "data": np.random.default_rng(seed).integers(0, 256, (4, 3072), dtype=np.uint8),
            label_key: [0, 1, 2, 1],
        }

    meta = {kind.meta["key"]: ["ant", "bee", "cat"]}
    monkeypatch.setattr(kind, "train_list", [("one", write("one", batch(1))), ("two", write("two", batch(2)))])
    monkeypatch.setattr(kind, "test_list", [("three", write("three", batch(3)))])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": write(kind.meta["filename"], meta)})
    return request.param, tmp_path / "root", kind


def check_small_cifar(splits, name):
    assert splits.train.images.shape == (8, 3, 32, 32) and splits.train.classes == ("ant", "bee", "cat")
    second = np.random.default_rng(2).integers(0, 256, (4, 3072), dtype=np.uint8).reshape(4, 3, 32, 32)
    np.testing.assert_array_equal(splits.train.images[4:].numpy(), second)
    assert splits.test.labels.tolist() == [0, 1, 2, 1] and splits.test.mean == data.NORMALIZATION[name][0]


def test_cifar_in_torchvisions_layout_and_in_its_archive(cifar, tmp_path, cache):
    name, root, kind = cifar
    check_small_cifar(load(name, root), name)
    archive = tmp_path / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / kind.base_folder, kind.base_folder)
    check_small_cifar(load(name, archive), name)
    check_small_cifar(load(name, tmp_path), name)
    shutil.copy(archive, cache)
    check_small_cifar(load(name), name)  # by hand, without a network


def test_cifar_is_downloaded_once_and_whole(cifar, cache, monkeypatch):
    name, root, kind = cifar
    downloads = []

    def download(self):
        if downloads.append(self.root) or len(downloads) == 1:
            Path(self.root, kind.filename).write_bytes(b"half an archi")
            raise URLError("no network")
        Path(self.root, kind.filename).touch()
        shutil.copytree(root / kind.base_folder, Path(self.root, kind.base_folder))

    monkeypatch.setattr(kind, "download", download)
    with pytest.raises(
        DataError, match=f"{name} is not in .* cannot be downloaded .*; put {kind.filename} there.*root="
    ):
        load(name)
    assert files_in(cache) == []
    check_small_cifar(load(name), name)
    check_small_cifar(load(name), name)
    assert len(downloads) == 2 and not list(cache.rglob(kind.filename))


def test_damaged_cifar_is_refused_before_it_is_unpickled(cifar, tmp_path):
    name, root, kind = cifar
    (root / kind.base_folder / "two").write_bytes(pickle.dumps(RanCode()))
    with pytest.raises(DataError, match="incomplete or damaged"):
        load(name, root)
    with pytest.raises(DataError, match=f"is not in {tmp_path / 'nowhere'}"):
        load(name, tmp_path / "nowhere")


class RanCode:
    def __reduce__(self):
        return pytest.fail, ("a damaged file was unpickled",)


def test_cifar_as_an_image_folder(tmp_path):
    splits = load("cifar10", image_folder(tmp_path, side=32))
    assert splits.name == "cifar10" and splits.train.std == data.NORMALIZATION["cifar10"][1]


@pytest.fixture(scope="session")
def real_cifar100(tmp_path_factory) -> Path:
    given_folder = os.environ.get("KDTUTOR_CIFAR100")
    if given_folder:
        return Path(given_folder)
    script = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack_cifar100.py"
    if not script.exists():
        pytest.skip("no CIFAR-100 here: set KDTUTOR_CIFAR100 to an image folder of it")
    folder = tmp_path_factory.mktemp("cifar100")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    return folder


def test_real_cifar100(real_cifar100):
    """About 30 s on 2 cores: 15 to unpack its 60,000 images, 10 to read them."""
    splits = load("cifar100", real_cifar100)
    assert splits.train.labels.bincount().tolist() == [500] * 100
    assert splits.test.labels.bincount().tolist() == [100] * 100
    assert splits.train.classes[0] == "apple" and splits.train.images.shape[1:] == (3, 32, 32)
    mean, std = folders._moments(splits.train.images)
    np.testing.assert_allclose(mean, (0.5071, 0.4865, 0.4409), atol=5e-5)
    np.testing.assert_allclose(std, (0.2673, 0.2564, 0.2762), atol=5.1e-5)
    np.testing.assert_allclose((*mean, *std), (*splits.train.mean, *splits.train.std), atol=5e-4)


# --- Where things lie ---


def test_the_cache_lies_where_the_system_keeps_caches(tmp_path, monkeypatch):
    monkeypatch.delenv("KDTUTOR_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, folder in (("linux", "xdg"), ("darwin", "Library/Caches"), ("win32", "local")):
        monkeypatch.setattr(sys, "platform", platform)
        assert data.cache_folder() == tmp_path / folder / "kdtutor"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_folder() == tmp_path / ".cache" / "kdtutor"


@pytest.mark.parametrize("home", ["none", "read-only"])
def test_without_a_usable_home_the_cache_is_temporary(home, tmp_path, monkeypatch):
    monkeypatch.delenv("KDTUTOR_CACHE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "a file").touch()  # no folder can be made in it, whoever asks

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home if home == "none" else lambda: tmp_path / "a file")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    folder = data.cache_folder()
    assert folder.parent == tmp_path and folder.name.startswith("kdtutor-") and folder.is_dir()


def test_a_chosen_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("KDTUTOR_CACHE", str(tmp_path / "a file" / "cache"))
    with pytest.raises(DataError, match=r"cannot write to .*a file.*set KDTUTOR_CACHE"):
        load("fashion-mnist")


def test_importing_data_needs_torch_alone():
    blocked = ["torchvision", "PIL", "tqdm", "pandas", "matplotlib", "safetensors", "ipywidgets"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import kdtutor.data"
    process = run_python(code)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
