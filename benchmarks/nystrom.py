"""Nystroem factors and kernel transfer as the number of examples grows, and which landmarks approximate best.

python benchmarks/nystrom.py
"""

import math
import statistics
from collections.abc import Callable

import torch
from measure import arguments, peak_mib, seconds_in_turn, verdict, write_record
from torch import Tensor

from kdtutor import data, teachers
from kdtutor.data import ImageSet, normalize
from kdtutor.losses import class_centers, kernel_transfer_loss, nystrom_kernel
from kdtutor.models import tap

TIME_TARGET, MEMORY_TARGET = 1.1, 1.0  # exponents of the number of examples
WIDTH, LANDMARKS = 96, 10
KERNELS = ("linear", "rbf")


# --- How cost grows ---


def scaling(quick: bool) -> dict:
    sizes = (1000, 4000) if quick else (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
    rows = []
    for size in sizes:
        generator = torch.Generator().manual_seed(0)
        features, student = (torch.randn(size, WIDTH, generator=generator) for _ in range(2))
        landmarks = torch.randn(LANDMARKS, WIDTH, generator=generator)
        contestants = {
            "nystrom_kernel, linear": lambda: nystrom_kernel(features, landmarks),  # noqa: B023 (called right here)
            "nystrom_kernel, rbf": lambda: nystrom_kernel(features, landmarks, "rbf"),  # noqa: B023
            "kernel_transfer_loss": lambda: transfer(student, features, landmarks),  # noqa: B023
        }
        if size <= 10_000:
            contestants["full matrix, linear"] = lambda: features @ features.T  # noqa: B023
        seconds = seconds_in_turn(contestants, 1 if quick else 5, at_least=0.01)
        for name, call in contestants.items():
            milliseconds = 1e3 * min(seconds[name])  # what others do on the machine can only add
            rows.append({"examples": size, "what": name, "milliseconds": milliseconds, "peak_mib": peak_mib(call)})
    print(f"examples, {WIDTH} wide, {LANDMARKS} landmarks: milliseconds (MiB)")
    outcome = {"rows": rows, "exponents": {}, "full_matrix_stops_at": full_matrix_stops_at()}
    for name in dict.fromkeys(row["what"] for row in rows):
        own = [row for row in rows if row["what"] == name]
        cells = "  ".join(f"{row['examples']:,}: {row['milliseconds']:.2f} ({row['peak_mib']:.1f})" for row in own)
        print(f"  {name:<24} {cells}")
        if name.startswith("full"):
            continue
        time_exponent, memory_exponent = exponent(own, "milliseconds"), exponent(own, "peak_mib")
        outcome["exponents"][name] = {
            "time": time_exponent,
            "memory": memory_exponent,
        }
        print(f"    exponent of time     {verdict(time_exponent, TIME_TARGET)}")
        print(f"    exponent of memory   {verdict(memory_exponent, MEMORY_TARGET)}")
    print(f"  the full matrix fills this machine's free memory at {outcome['full_matrix_stops_at']:,} examples")
    return outcome


def transfer(student: Tensor, teacher: Tensor, landmarks: Tensor) -> None:
    leaf = student.detach().requires_grad_()
    kernel_transfer_loss(leaf, teacher, landmarks, landmarks).backward()


def exponent(rows: list[dict], what: str) -> float:
    """The slope of log(cost) against log(examples), by least squares."""
    x = [math.log(row["examples"]) for row in rows]
    y = [math.log(max(row[what], 1e-3)) for row in rows]
    return statistics.linear_regression(x, y).slope


def full_matrix_stops_at() -> int:
    """The largest N for which N x N float32 numbers, and as many for their gradient, fit into free memory."""
    with open("/proc/meminfo") as file:
        free = dict(line.split(":", 1) for line in file)["MemAvailable"]
    return math.isqrt(int(free.split()[0]) * 1024 // 8)


# --- Which landmarks? ---


def landmarks(quick: bool, record) -> dict:
    """Relative error of the approximated kernel matrix of the test images' teacher features."""
    fashion = data.load("fashion-mnist")
    train, test = fashion.train.subset(1000 if quick else 10_000), fashion.test.subset(200 if quick else 10_000)
    teacher = teachers.load_teacher("base")
    train_features, features = embeddings(teacher, train), embeddings(teacher, test)
    width = features.shape[1]
    counts = (10, 20) if quick else (10, 20, 40, 60, 80, 96, 120, 160)
    chosen = {
        name: {count: choose(count) for count in counts}
        for name, choose in choices(train_features, train.labels).items()
    }
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for kernel in KERNELS:
        exact = kernel_matrix(features, kernel)
        curves[kernel] = {"best rank K": best_errors(exact, counts)}
        for name, sets in chosen.items():
            curves[kernel][name] = {k: relative_error(exact, features, sets[k], kernel) for k in counts}
    print(f"\nrelative error of the kernel matrix of {len(features):,} test images, D = {width}")
    for kernel, by_choice in curves.items():
        print(f"  {kernel:<18}" + "".join(f"{count:>9}" for count in counts))
        for name, errors in by_choice.items():
            print(f"    {name:<16}" + "".join(f"{errors[count]:>9.4f}" for count in counts))
    if record is not None:
        draw(curves, counts, width).savefig(record / "landmarks.png", dpi=120)
    return {"width": width, "examples": len(features), "errors": curves}


@torch.inference_mode()
def embeddings(network, images: ImageSet) -> Tensor:
    tapped = tap(network, ("embedding",)).eval()
    return torch.cat(
        [tapped(normalize(some, images.mean, images.std)).features["embedding"] for some in images.images.split(500)]
    )


def kernel_matrix(features: Tensor, kernel: str) -> Tensor:
    """The exact matrix, by the definition and in float32: 10,000 x 10,000 takes 381 MiB."""
    if kernel == "linear":
        return features @ features.T
    return torch.exp(
        -torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square() / features.shape[1]
    )


def relative_error(exact: Tensor, features: Tensor, chosen: Tensor, kernel: str) -> float:
    """|K - cross core cross^T| / |K| in Frobenius norms, computed in float64, some rows at a time."""
    cross, core = nystrom_kernel(features.double(), chosen.double(), kernel)
    rows = zip(exact.split(1000), (cross @ core).split(1000), strict=True)
    squares = sum((some.double() - part @ cross.T).square().sum() for some, part in rows)
    return float(squares.sqrt() / torch.linalg.matrix_norm(exact))


def best_errors(exact: Tensor, counts: tuple[int, ...]) -> dict[int, float]:
    """What no rank-K matrix can beat (Eckart and Young): the eigenvalues left out, over all."""
    found, _, _ = torch.svd_lowrank(exact, q=min(len(exact), max(counts) + 40), niter=4)
    basis = torch.linalg.qr(found.double()).Q
    # What is left over is a small difference of large numbers, so from here on in float64.
    parts = zip(basis.split(1000), exact.split(1000), strict=True)
    squares = torch.linalg.svdvals(sum(rows.T @ some.double() for rows, some in parts)).square()
    total = sum(some.double().square().sum() for some in exact.split(1000))
    return {k: float(((total - squares[:k].sum()).clamp(min=0) / total).sqrt()) for k in counts}


def choices(features: Tensor, labels: Tensor) -> dict[str, Callable[[int], Tensor]]:
    """Ways to choose landmarks from the training features: number -> (number, D)."""
    from sklearn.cluster import KMeans

    def k_means(rows: Tensor, clusters: int) -> Tensor:
        fit = KMeans(clusters, n_init=1, max_iter=50, random_state=0).fit(rows.numpy())
        return torch.from_numpy(fit.cluster_centers_).float()

    def class_or_sub_centers(count: int) -> Tensor:
        """The mean of each class; beyond one a class, the centres of as many clusters in each, or one more in some."""
        if count == LANDMARKS:
            return class_centers(features, labels, LANDMARKS)
        shares = [count // LANDMARKS + (label < count % LANDMARKS) for label in range(LANDMARKS)]
        return torch.cat([k_means(features[labels == label], share) for label, share in enumerate(shares)])

    def random_points(count: int) -> Tensor:
        return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:count]]

    return {
        "class centres": class_or_sub_centers,
        "k-means": lambda count: k_means(features, count),
        "random points": random_points,
    }


def draw(curves, counts, width):
    from kdtutor.figures import COLORS, INK, LINES, MARKERS, new_figure

    figure, panels = new_figure(10, 4.2, columns=len(curves))
    for axes, (kernel, by_choice) in zip(panels, curves.items(), strict=True):
        for i, (name, errors) in enumerate(by_choice.items()):
            shown = {count: error for count, error in errors.items() if error > 1e-5}  # below is rounding
            axes.plot(list(shown), list(shown.values()), LINES[i], color=COLORS[i], marker=MARKERS[i], label=name)
        axes.axvline(width, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "K = D",
            (width, 1),
            (3, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=INK,
            va="top",
        )
        axes.set_yscale("log")
        axes.set_xlabel("landmarks K (10 classes; sub-centres beyond)")
        axes.set_ylabel("relative error of the kernel matrix")
        axes.set_title(f"{kernel} kernel", color=INK)
    panels[0].legend(labelcolor=INK, frameon=False)
    return figure


def main():
    options = arguments(__doc__)
    if options.record is not None:
        options.record.mkdir(parents=True, exist_ok=True)
    result = {"scaling": scaling(options.quick), "landmarks": landmarks(options.quick, options.record)}
    write_record(options, "nystrom", result)


if __name__ == "__main__":
    main()
