"""Many methods, many seeds, one teacher: a table with error bars.

Within a seed every student starts from the same weights and sees the same batches, so a method's
difference from plain cross-entropy is paired, and the teacher is asked about each image once.
"""

import dataclasses
import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from . import data, distributed, methods, models, teachers
from .evaluate import evaluate, metrics, predict
from .losses._checks import check_choice, check_count, near_names
from .memory import RememberedTeacher
from .records import environment, write_atomically, write_json
from .settings import Settings, choose_device
from .train import Run, distill, remember_teacher


@dataclass(frozen=True)
class Comparison(Settings):
    """What is compared, and how. All of Settings' options apply to every student.

    Attributes:
        methods: names, or expressions such as "kd(temperature=2) + sp".
        seeds: how many; the first is `seed`. One seed gives no error bar.
        teacher: a shipped one ("base" or "strong", for Fashion-MNIST), or a model's name, trained first.
        student: a model's name.
        data: fashion-mnist, cifar10, cifar100, cinic10, tiny-imagenet, or an image folder.
        root: where the data lies, if not where it is looked for.
        subset: how many training images, the same share of every class; None for all.
        teacher_epochs: for a teacher that is trained first; None for as many as a student gets.
        folder: of the record; None for one of its own in runs/ for each set of options. Stopped there, a
            comparison goes on where it was.
        at_once: how many students to train at the same time, each in a process with its own copy of the data and
            its share of the threads; worth it where one does not fill a GPU.
    """

    methods: tuple[str, ...] = tuple(methods.METHODS)
    seeds: int = 2
    teacher: str = "base"
    student: str = "cnn4k"
    data: str = "fashion-mnist"
    root: str | None = None
    subset: int | None = 6000
    teacher_epochs: int | None = None
    folder: str | None = None
    at_once: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_count("seeds", self.seeds)
        check_count("at_once", self.at_once)
        if not self.methods:
            raise ValueError("methods is empty; name at least one, for instance 'ce kd'")
        for spec in self.methods:
            methods.build(spec)
            if self.methods.count(spec) > 1:
                raise ValueError(f"methods names {spec!r} twice; once is enough")
        check_choice("student", self.student, models.MODELS)
        if self.teacher not in (known := {**teachers.TEACHERS, **models.MODELS}):
            raise ValueError(f"teacher is {self.teacher!r}, which is not known; {near_names(self.teacher, known)}")
        if self.teacher in teachers.TEACHERS and self.data != "fashion-mnist":
            raise ValueError(
                f"teacher {self.teacher!r} knows Fashion-MNIST only, and data is {self.data!r}; name a model to "
                "be trained first, for instance teacher='resnet20'"
            )

    @property
    def record_folder(self) -> Path:
        if self.folder is not None:
            return Path(self.folder)
        digest = hashlib.sha256(repr(dataclasses.replace(self, at_once=1)).encode()).hexdigest()[:8]
        return Path("runs") / f"compare-{_slug(Path(self.data).name)}-{self.student}-{digest}"

    def settings(self, seed: int) -> Settings:
        """One student's settings."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)}
        return Settings(**{**own, "seed": seed})


@dataclass(frozen=True)
class Results:
    """A comparison's outcome: one row for each student in `students`, every epoch of every student in `curves`."""

    comparison: Comparison
    students: "pandas.DataFrame"  # noqa: F821 (imported where it is used)
    curves: "pandas.DataFrame"  # noqa: F821
    teacher: dict[str, float]

    @property
    def table(self):
        """A row for each method, as a DataFrame: means over seeds, and the paired difference from cross-entropy."""
        import pandas as pd

        students = self.students.set_index("seed")
        plain = students[students["method"] == "ce"]["top1"]
        rows = []
        for method, runs in students.groupby("method", sort=False):
            row = {
                "method": method,
                "status": runs["status"].iloc[0],
                "top1_mean": runs["top1"].mean(),
                "top1_std": runs["top1"].std(),
            }
            if method != "ce" and len(plain):
                row["vs_ce"], row["vs_ce_ci"] = paired_difference(runs["top1"], plain)
            for column in ("nll", "ece", "overconfidence", "agreement", "images_per_second"):
                row[column] = runs[column].mean()
            row["parameters"] = runs["parameters"].iloc[0]
            row["peak_mib"] = runs["peak_mib"].max()
            rows.append(row)
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return format_table(self)


def compare(comparison: Comparison = Comparison(), progress: bool = True) -> Results:
    """Train a student for every method and seed, and write the record.

    The folder then holds settings.json, a folder for each run, students.csv (a row for each student),
    table.csv, and curves.png. Ctrl-C ends it and returns what is done; the same call goes on from there.
    """
    import pandas as pd

    bench = _prepare(comparison, progress)
    seeds = range(comparison.seed, comparison.seed + comparison.seeds)
    pairs = [(seed, spec) for seed in seeds for spec in comparison.methods]
    rows: list[dict] = []
    curves: list[dict] = []
    try:
        with tqdm(total=len(pairs), desc="students", disable=not progress) as bar:
            for (seed, spec), (row, epochs) in zip(pairs, _students(bench, pairs), strict=True):
                rows.append(row)
                curves += [{"method": spec, "seed": seed, **epoch} for epoch in epochs]
                bar.set_postfix_str(f"{spec}, seed {seed}: {100 * row['top1']:.1f} %")
                bar.update()
    except KeyboardInterrupt:
        if not rows:
            raise
    teacher = metrics(bench.teacher_logits, bench.test.labels)
    results = Results(comparison, pd.DataFrame(rows), pd.DataFrame(curves), teacher)
    if distributed.is_first():
        _write(results, comparison.record_folder)
    return results


@dataclass(frozen=True)
class _Bench:
    """What all students of a comparison share."""

    comparison: Comparison
    train: data.ImageSet
    test: data.ImageSet
    teacher: nn.Module | RememberedTeacher
    teacher_logits: torch.Tensor  # of the test images


def _prepare(comparison: Comparison, progress: bool) -> _Bench:
    splits = data.load(comparison.data, comparison.root)
    train = splits.train if comparison.subset is None else splits.train.subset(comparison.subset)
    device, _ = choose_device(comparison)
    train, test = train.to(device), splits.test.to(device)
    if distributed.is_first():
        comparison.record_folder.mkdir(parents=True, exist_ok=True)
    network = _teacher(comparison, train, progress).to(device)
    return _Bench(comparison, train, test, _remembered(comparison, network, train, progress), predict(network, test))


def _student(bench: _Bench, seed: int, spec: str) -> tuple[dict, list[dict]]:
    """Train one student: its row, and its epochs."""
    comparison, method = bench.comparison, methods.build(spec)
    student = models.build(comparison.student, bench.train.num_classes, bench.train.images.shape[1], seed=seed)
    run = distill(
        student,
        bench.train,
        method,
        bench.teacher if method.needs_teacher else None,
        comparison.settings(seed),
        test=bench.test,
        folder=comparison.record_folder / f"{_slug(spec)}-seed{seed}",
        progress=False,
    )
    if run.interrupted:
        raise KeyboardInterrupt
    return _row(spec, method, seed, run, evaluate(student, bench.test, bench.teacher_logits)), run.epochs


def _students(bench: _Bench, pairs: list[tuple[int, str]]) -> Iterator[tuple[dict, list[dict]]]:
    """Every student in the order of `pairs`, one after another or several at once."""
    comparison = bench.comparison
    if comparison.at_once == 1:
        yield from (_student(bench, *pair) for pair in pairs)
        return
    threads = max(1, torch.get_num_threads() // comparison.at_once)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(comparison.at_once, spawn, _start_worker, (comparison, threads)) as pool:
        try:
            yield from pool.map(_student_in_worker, pairs)
        except BrokenProcessPool:
            raise ChildProcessError(
                f"a process that trained a student died; at_once is {comparison.at_once}: if memory ran out, lower it. "
                "The same call goes on from the last whole epochs"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_worker_bench: _Bench  # of the process that trains students for another


def _start_worker(comparison: Comparison, threads: int) -> None:
    global _worker_bench
    torch.set_num_threads(threads)
    _worker_bench = _prepare(comparison, progress=False)


def _student_in_worker(pair: tuple[int, str]) -> tuple[dict, list[dict]]:
    return _student(_worker_bench, *pair)


def paired_difference(values, baseline, confidence: float = 0.95) -> tuple[float, float]:
    """Mean difference over the seeds both have, and the half-width of its t confidence interval (NaN for one seed)."""
    from scipy import stats

    differences = (values - baseline).dropna()
    n = len(differences)
    if n < 2:
        return float(differences.mean()), float("nan")
    half_width = stats.t.ppf((1 + confidence) / 2, n - 1) * differences.std() / n**0.5
    return float(differences.mean()), float(half_width)


def format_table(results: Results) -> str:
    """The table as text, with what it was measured on; per cent where it says so."""
    comparison, table = results.comparison, results.table
    images = "all" if comparison.subset is None else f"{comparison.subset:,}"
    lines = [
        f"{comparison.student} taught by {comparison.teacher} (top-1 {100 * results.teacher['top1']:.2f} %) on "
        f"{comparison.data}: {images} training images, {comparison.epochs} epochs, "
        f"{comparison.seeds} seed{'s' if comparison.seeds > 1 else ''}, last epoch, all test images",
        "",
        f"{'method':<14} {'formula':<14} {'top-1 %':>13} {'vs CE':>7} {'95 % CI':>8} {'NLL':>6} {'ECE %':>6} "
        f"{'over- %':>7} {'agree %':>8} {'images/s':>9} {'MiB':>6}",
    ]
    for row in table.to_dict("records"):
        spread = "" if row["top1_std"] != row["top1_std"] else f" ± {100 * row['top1_std']:.2f}"
        difference, interval = row.get("vs_ce", float("nan")), row.get("vs_ce_ci", float("nan"))
        lines.append(
            f"{row['method']:<14} {row['status']:<14} {100 * row['top1_mean']:>5.2f}{spread:<8} "
            f"{'' if difference != difference else f'{100 * difference:+.2f}':>7} "
            f"{'' if interval != interval else f'± {100 * interval:.2f}':>8} "
            f"{row['nll']:>6.3f} {100 * row['ece']:>6.2f} {100 * row['overconfidence']:>+7.2f} "
            f"{100 * row['agreement']:>8.2f} {row['images_per_second']:>9,.0f} "
            f"{row['peak_mib']:>6,.0f}"
        )
    wanted = comparison.seeds * len(comparison.methods)
    if len(results.students) < wanted:
        lines += ["", f"Stopped after {len(results.students)} of {wanted} students; the same call goes on from there."]
    lines += [
        "",
        f"Every student: {int(table['parameters'].iloc[0]):,} parameters; within a seed, the same initial weights and "
        "batches. vs CE: paired difference in points.",
        "over-: confidence less accuracy. agree: same answer as the teacher. images/s and MiB: while training; the "
        f"MiB are the {'GPU' if torch.cuda.is_available() else 'whole process'}'s.",
    ]
    return "\n".join(lines)


def _teacher(comparison: Comparison, train: data.ImageSet, progress: bool) -> nn.Module:
    if comparison.teacher in teachers.TEACHERS:
        return teachers.load_teacher(comparison.teacher)
    network = models.build(comparison.teacher, train.num_classes, train.images.shape[1], seed=comparison.seed)
    settings = comparison.settings(comparison.seed)
    settings = dataclasses.replace(settings, epochs=comparison.teacher_epochs or settings.epochs)
    folder = comparison.record_folder / "teacher"
    if distill(network, train, "ce", settings=settings, folder=folder, progress=progress).interrupted:
        raise KeyboardInterrupt
    return network.eval()


def _remembered(
    comparison: Comparison, network: nn.Module, train: data.ImageSet, progress: bool
) -> nn.Module | RememberedTeacher:
    built = [methods.build(spec) for spec in comparison.methods]
    if comparison.views is None or not any(method.needs_teacher for method in built):
        return network
    features = tuple(dict.fromkeys(name for method in built for name in method.features))
    return remember_teacher(network, train, comparison.settings(comparison.seed), features, progress=progress)


def _row(spec: str, method, seed: int, run: Run, metrics: dict[str, float]) -> dict:
    return {
        "method": spec,
        "status": "exact" if method.exact else "reconstruction",
        "seed": seed,
        **metrics,
        "parameters": models.count_parameters(run.student),
        "images_per_second": sum(epoch["images_per_second"] for epoch in run.epochs) / len(run.epochs),
        "peak_mib": max(epoch["peak_mib"] for epoch in run.epochs),
        "seconds": sum(epoch["seconds"] for epoch in run.epochs),
    }


def _write(results: Results, folder: Path) -> None:
    from .figures import method_panels

    write_json(folder / "settings.json", {**dataclasses.asdict(results.comparison), **environment()})
    write_atomically(folder / "students.csv", results.students.to_csv(index=False).encode())
    write_atomically(folder / "table.csv", results.table.to_csv(index=False).encode())
    write_atomically(folder / "table.txt", (format_table(results) + "\n").encode())
    method_panels(results.curves).savefig(folder / "curves.png", dpi=120)


def _slug(spec: str) -> str:
    """A folder's name: letters, digits and a few signs that every file system takes."""
    return "".join(c if c.isalnum() or c in "+-_.=" else "_" for c in spec)
