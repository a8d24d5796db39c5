"""Images per second of our loop, beside a loop as it is often written.

    python benchmarks/loop.py

The stand-in reads images through a DataLoader with PIL transforms, asks the teacher at every step, computes
in fp32 and copies the loss to the host at every step. Ours is kdtutor.train.distill with a remembered teacher.
"""

import math
import statistics
import sys
import time
import warnings
from dataclasses import replace

import torch
from measure import arguments, ratio, verdict, write_record
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from kdtutor import data, models
from kdtutor.data import ImageSet
from kdtutor.settings import CIFAR, Settings
from kdtutor.train import distill, remember_teacher

# --- The stand-in ---


class PILImages(Dataset):
    """Images one at a time, as torchvision's data sets hand them out."""

    def __init__(self, images: ImageSet, crop_padding: int):
        from torchvision import transforms

        self.pixels = images.images.permute(0, 2, 3, 1).squeeze(-1).cpu().numpy()
        self.labels = images.labels.tolist()
        crop = [transforms.RandomCrop(self.pixels.shape[1], crop_padding)] if crop_padding else []
        self.transform = transforms.Compose(
            [
                *crop,
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(images.mean, images.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def usual_loop(
    student: nn.Module, teacher: nn.Module, images: ImageSet, settings: Settings, device: str, workers: int
) -> float:
    """Images per second of one epoch of vanilla KD. Starting the workers is not counted."""
    student.to(device).train()
    teacher.to(device).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=settings.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = DataLoader(
        PILImages(images, settings.crop_padding),
        settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device == "cuda",
    )
    T, losses = 4.0, []
    batches = iter(loader)
    pixels, labels = next(batches)  # the workers are up
    started, steps = time.perf_counter(), 0
    for pixels, labels in batches:
        pixels, labels = pixels.to(device), labels.to(device)
        with torch.no_grad():
            teacher_logits = teacher(pixels)
        logits = student(pixels)
        soft = F.kl_div(F.log_softmax(logits / T, dim=1), F.softmax(teacher_logits / T, dim=1), reduction="batchmean")
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * T**2 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        steps += 1
    return steps * settings.batch_size / (time.perf_counter() - started)


# --- Both in turn ---


def side_by_side(student: str, teacher: str, images: ImageSet, settings: Settings, rounds: int) -> dict:
    """Images per second of both loops in each round, and of filling the teacher's memory."""
    channels = images.images.shape[1]
    device = "cuda" if settings.device == "cuda" else "cpu"
    asked = models.build(teacher, images.num_classes, channels, seed=1)
    remembered, filling = asked, None
    if settings.views is not None:
        started = time.perf_counter()
        remembered = remember_teacher(asked, images, settings)
        filling = settings.views * len(images) / (time.perf_counter() - started)

    speeds = {"ours": [], "usual, 0 workers": [], "usual, 2 workers": []}
    for _ in range(rounds):
        fresh = models.build(student, images.num_classes, channels, seed=0)
        run = distill(fresh, images, "kd", remembered, settings, progress=False)
        speeds["ours"].append(run.epochs[-1]["images_per_second"])
        for workers in (0, 2):
            fresh = models.build(student, images.num_classes, channels, seed=0)
            speed = usual_loop(fresh, asked, images, settings, device, workers)
            speeds[f"usual, {workers} workers"].append(speed)
        print(".", end="", file=sys.stderr, flush=True)
    usual = max(("usual, 0 workers", "usual, 2 workers"), key=lambda name: statistics.median(speeds[name]))
    outcome = {
        "images_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "filling_images_per_second": filling,
        "times_usual": ratio(speeds["ours"], speeds[usual]),
    }
    print(f"\n{teacher} > {student}, batch {settings.batch_size}, on {device}")
    for name, value in outcome["images_per_second"].items():
        print(f"  {name:<24} {value:8,.0f} images/s")
    if filling:
        print(f"  {'filling the memory':<24} {filling:8,.0f} images/s, once, for {settings.views} views")
    return outcome


def epochs_until(times: float, outcome: dict, views: int) -> float:
    """How many epochs repay filling the memory, so that all in all we are `times` as fast as the usual loop."""
    ours, filling = outcome["images_per_second"]["ours"], outcome["filling_images_per_second"]
    usual = ours / outcome["times_usual"]
    gain = 1 / (times * usual) - 1 / ours  # seconds an image and epoch that are left for the filling
    return math.ceil(views / filling / gain) if gain > 0 else math.inf


def report(outcome: dict, target: float, views: int | None) -> dict:
    outcome["target"] = target
    print(f"  times the usual loop     {verdict(outcome['times_usual'], target, at_least=True)}")
    if views:
        for times in (1.0, target):
            epochs = epochs_until(times, outcome, views)
            outcome[f"epochs_until_{times:g}_times_with_filling"] = epochs if math.isfinite(epochs) else None
            print(f"    with filling, {times:g} times after {epochs} epochs")
    return outcome


def cifar_shaped(count: int) -> ImageSet:
    """Random images in CIFAR-100's shape; a loop's speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 100, (count,), generator=generator)
    names = tuple(str(label) for label in range(100))
    return ImageSet(images, labels, names, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "random")


# --- CUDA ---


def on_cuda(quick: bool) -> dict:
    """bf16, channels_last, torch.compile, and a teacher asked live, as the benchmark of the literature wants it."""
    images = cifar_shaped(50_000 if not quick else 1280)
    settings = replace(CIFAR, epochs=2, device="cuda", compile=not quick)  # the second epoch is past the compiler
    outcome = side_by_side("resnet8x4", "resnet32x4", images, settings, rounds=1 if quick else 3)
    minutes = 240 * 50_000 / outcome["images_per_second"]["ours"] / 60
    outcome["minutes_for_240_epochs"] = minutes
    outcome["host_waits"] = {steps: host_waits(images, settings, steps) for steps in (5, 15)}
    print(f"  240 epochs of CIFAR-100 would take {minutes:.0f} minutes")
    print(f"  host waits in runs of 5 and 15 steps: {list(outcome['host_waits'].values())}; equal: none in a step")
    return report(outcome, 10.0, None)


def host_waits(images: ImageSet, settings: Settings, steps: int) -> int:
    """How often torch's sync debug mode saw the host wait for the GPU in one run of so many steps."""
    settings = replace(settings, epochs=1, compile=False)
    few = images.take(range(steps * settings.batch_size))
    teacher, student = (models.build(name, 100, 3, seed=0) for name in ("resnet32x4", "resnet8x4"))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            distill(student, few, "kd", teacher, settings, progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def main():
    options = arguments(__doc__)
    result = {}
    fashion = data.load("fashion-mnist").train.subset(768 if options.quick else 5120)
    settings = Settings(epochs=1, batch_size=256, device="cpu")
    rounds = 1 if options.quick else 3
    for student in ("cnn4k",) if options.quick else ("cnn4k", "cnn14k"):
        outcome = side_by_side(student, "resnet8_w24", fashion, settings, rounds)
        result[f"{student}, Fashion-MNIST"] = report(outcome, 3.0, settings.views)

    settings = Settings(epochs=1, batch_size=64, lr=0.05, crop_padding=4, device="cpu")
    images = cifar_shaped(192 if options.quick else 448)
    student, teacher = ("resnet8", "resnet20") if options.quick else ("resnet8x4", "resnet32x4")
    outcome = side_by_side(student, teacher, images, settings, 1 if options.quick else 3)
    result[f"{student}, CIFAR-100's shape"] = report(outcome, 2.0, settings.views)

    if torch.cuda.is_available():
        result["CUDA"] = on_cuda(options.quick)
    else:
        print("\nCUDA: skipped, since torch finds none here; the target there is 10 times the usual loop")
    write_record(options, "loop", result)


if __name__ == "__main__":
    main()
