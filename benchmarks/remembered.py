"""What an epoch of each method costs with the teacher remembered, in epochs of plain cross-entropy.

python benchmarks/remembered.py
"""

import dataclasses
import sys

from measure import arguments, ratio, verdict, write_record

from kdtutor import data, methods, models
from kdtutor.train import Settings, distill, remember_teacher

# The kernel's term usually waits for the second epoch, whose length is what matters here.
TARGETS = {
    "kd": ("kd", 1.15),
    "dist": ("dist", 1.15),
    "kernel": ("kernel(weight=.04)", 1.15),
    "sp": ("sp", 1.3),
    "pkt": ("pkt", 1.3),
    "rkd_distance": ("affinity(affinity='euclidean', normalization='mean', discrepancy='smooth_l1')", 1.3),
    "cc": ("cc", 1.3),
    "cmkd": ("cmkd", 1.5),
}


def main():
    options = arguments(__doc__)
    train = data.load("fashion-mnist").train.subset(512 if options.quick else 12_800)
    teacher = models.build("resnet8_w24", num_classes=10, in_channels=1, seed=1)  # the speed of "base", not its wits
    settings = Settings(epochs=1, batch_size=256, device="cpu", views=1)
    remembered = remember_teacher(teacher, train, settings, ("feature_map", "embedding"))

    result = {}
    for student in ("cnn4k",) if options.quick else ("cnn4k", "cnn14k"):
        seconds = epochs_in_turn(student, train, remembered, settings, rounds=1 if options.quick else 5)
        print(
            f"\n{student}, batch 256: a cross-entropy epoch of {len(train):,} images takes {min(seconds['ce']):.2f} s"
        )
        result[student] = {"ce_seconds": seconds["ce"], "images": len(train), "epochs_of_ce": {}}
        for name, (_, target) in TARGETS.items():
            cost = ratio(seconds[name], seconds["ce"])
            print(f"  {name:<14} {verdict(cost, target)}")
            result[student]["epochs_of_ce"][name] = {"cost": cost, "target": target}
    write_record(options, "remembered", result)


def epochs_in_turn(student: str, train, remembered, settings: Settings, rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch, by the loop's own clock: building and checking a run is no part of it."""
    specs = {"ce": "ce"} | {name: spec for name, (spec, _) in TARGETS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    for _ in range(rounds):
        for name, spec in specs.items():
            method = methods.build(spec)
            # Kernel transfer has centres from its second epoch on, so that is the one to time.
            epochs = 2 if name == "kernel" else 1
            run = distill(
                models.build(student, num_classes=10, in_channels=1, seed=0),
                train,
                method,
                remembered if method.needs_teacher else None,
                dataclasses.replace(settings, epochs=epochs),
                progress=False,
            )
            seconds[name].append(run.epochs[-1]["seconds"])
            print(".", end="", file=sys.stderr, flush=True)
    return seconds


if __name__ == "__main__":
    main()
