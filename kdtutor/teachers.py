"""The trained teachers that come with the course, and how they were trained.

data/teachers/ holds, for each, its weights, its fp16 logits for every Fashion-MNIST training image
and its mirror image, and one manifest: sha256, accuracy, settings, seconds, versions.
"""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import data, models
from .evaluate import evaluate, predict
from .losses._checks import check_choice, near_names
from .memory import LiveTeacher, RememberedTeacher, memory_key
from .records import environment, read_json, write_atomically, write_json
from .settings import Settings, choose_device
from .train import distill


@dataclass(frozen=True)
class Recipe:
    """Which network, and how it is trained on all 60,000 labelled images."""

    model: str
    settings: Settings


_SETTINGS = Settings(epochs=16, batch_size=128, lr=0.2, crop_padding=2, views=None, precision="bf16")

TEACHERS: dict[str, Recipe] = {
    "base": Recipe("resnet8_w24", _SETTINGS),
    "strong": Recipe("resnet14_w32", _SETTINGS),
}


class TeacherError(ValueError):
    """Shipped weights or logits that are missing, or not what the manifest says."""


def load_teacher(name: str = "base") -> nn.Module:
    """A shipped teacher in eval mode, for 28 x 28 grey images normalised as data.load("fashion-mnist") says."""
    from safetensors.torch import load

    entry = _entry(name)
    teacher = models.build(entry["model"], num_classes=10, in_channels=1)
    teacher.load_state_dict(load(_verified(entry["weights"], entry["weights_sha256"])))
    return teacher.to(memory_format=torch.channels_last).eval()


def shipped_logits(name: str = "base") -> Tensor:
    """A shipped teacher's answers, (2, 60000, 10) float32: view 0 is the training image, view 1 its mirror image."""
    from safetensors.torch import load

    entry = _entry(name)
    return load(_verified(entry["logits"], entry["logits_sha256"]))["logits"].float()


def remembered(name: str, train: data.ImageSet, settings: Settings = Settings()) -> RememberedTeacher:
    """A shipped teacher that need not be asked first, for methods that compare logits.

    Args:
        train: Fashion-MNIST's training images, or some of them in any order.
        settings: of the runs; crop_padding must be 0, since images and mirror images are what was answered.

    Raises:
        ValueError: settings whose views have no answer, or an image that is none of Fashion-MNIST's.
    """
    if settings.crop_padding or settings.views is None:
        raise ValueError(
            f"settings has crop_padding={settings.crop_padding} and views={settings.views}, and the shipped logits "
            "answer to whole images alone; use crop_padding=0 and a number of views, or train.remember_teacher"
        )
    device, autocast_dtype = choose_device(settings)
    whole = data.load("fashion-mnist").train.images.numpy()
    number = {image.tobytes(): i for i, image in enumerate(whole)}  # equal images have equal answers
    index = [number.get(image.tobytes(), -1) for image in train.images.cpu().numpy()]
    if -1 in index:
        raise ValueError(f"train has image {index.index(-1)}, which is none of Fashion-MNIST's training images")
    answers = shipped_logits(name)[:, index]
    views = [answers[view % 2 if settings.flip else 0] for view in range(settings.views)]
    live = LiveTeacher(models.tap(load_teacher(name).to(device)), autocast_dtype)
    key = memory_key(live, train, settings.augmentation, settings.views)
    return RememberedTeacher(live, torch.cat(views).to(device), {}, settings.views, key)


_NEEDED = {"model", "weights", "weights_sha256", "logits", "logits_sha256"}


def manifest() -> dict[str, dict]:
    """What is known of each shipped teacher, by name.

    Raises:
        RecordError, TeacherError: a manifest that cannot be read, or that lacks what loading a teacher needs.
    """
    path = data.shipped("teachers/manifest.json")
    entries = read_json(path)
    whole = all(isinstance(e, dict) and all(isinstance(e.get(n), str) for n in _NEEDED) for e in entries.values())
    if not entries or not whole:
        raise TeacherError(f"{path} does not describe teachers; restore it, or run kdtutor teacher")
    return entries


def train_teacher(name: str, folder: Path, record: Path = Path("runs"), progress: bool = True) -> dict:
    """Train a teacher by its recipe, write weights and logits into `folder`, and enter it in the manifest there.

    The run's own record goes into `record`; interrupted, it goes on from its last whole epoch when called again.
    """
    from safetensors.torch import save

    check_choice("name", name, TEACHERS)
    recipe = TEACHERS[name]
    fashion = data.load("fashion-mnist")
    teacher = models.build(recipe.model, num_classes=10, in_channels=1, seed=recipe.settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    run = distill(
        teacher, fashion.train, "ce", settings=recipe.settings, folder=record / f"teacher-{name}", progress=progress
    )
    if run.interrupted:
        raise KeyboardInterrupt
    teacher = teacher.to(memory_format=torch.contiguous_format).eval()

    weights = save({key: value.cpu().contiguous() for key, value in teacher.state_dict().items()})
    digest = hashlib.sha256(weights).hexdigest()
    mirrored = dataclasses.replace(fashion.train, images=fashion.train.images.flip(-1))
    answers = torch.stack([predict(teacher, fashion.train), predict(teacher, mirrored)]).half().cpu()
    logits = save({"logits": answers}, {"weights_sha256": digest})
    write_atomically(folder / f"{name}.safetensors", weights)
    write_atomically(folder / f"{name}-logits.safetensors", logits)

    path = folder / "manifest.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[name] = {
        "model": recipe.model,
        "parameters": models.count_parameters(teacher),
        "weights": f"{name}.safetensors",
        "weights_sha256": digest,
        "logits": f"{name}-logits.safetensors",
        "logits_sha256": hashlib.sha256(logits).hexdigest(),
        "data": "fashion-mnist, all 60,000 training images",
        "test": {metric: round(value, 5) for metric, value in evaluate(teacher, fashion.test).items()},
        "settings": dataclasses.asdict(recipe.settings),
        "training_seconds": round(sum(row["seconds"] for row in run.epochs)),
        "seconds": round(time.time() - started),
        **environment(),
    }
    write_json(path, entries)
    return entries[name]


def _entry(name: str) -> dict:
    entries = manifest()
    where = f"({data.shipped('teachers/manifest.json')})"
    if name not in entries:
        raise TeacherError(f"teacher is {name!r}, which is not known; {near_names(name, entries)} {where}")
    if entries[name]["model"] not in models.MODELS:
        raise TeacherError(f"teacher {name!r} is a {entries[name]['model']!r}, which is no model of ours {where}")
    return entries[name]


def _verified(file: str, sha256: str) -> bytes:
    path = data.shipped(f"teachers/{file}")
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise TeacherError(f"{path} is not the file its manifest describes; restore it, or run kdtutor teacher")
    return content
