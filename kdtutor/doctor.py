"""`kdtutor doctor`: is everything here that the course needs, does it work, and what is to be done if not?

Nothing that could be broken is imported before it is examined, and an examination that fails is a finding.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
GIB = 2**30
INSTALL = "run this in kdtutor's folder: python -m pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's. A problem must be mended; a warning means that something may not work."""

    grade: str
    what: str
    said: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"\n{'':10}→ {self.advice}" if self.advice else ""
        return f"{self.grade:8}  {self.what}: {self.said}{advice}"


def judged(good: bool, what: str, said: str, advice: str, otherwise: str = PROBLEM) -> Finding:
    """OK and what was found, or what was found and what to do."""
    return Finding(OK, what, said) if good else Finding(otherwise, what, said, advice)


def main() -> None:
    """Print all findings. Exit status 1 if there is a problem."""
    problems = warnings = 0
    for finding in examine():
        print(finding, flush=True)
        problems += finding.grade == PROBLEM
        warnings += finding.grade == WARNING
    if problems:
        print(f"\nProblems: {problems}. The arrows say what to do, the first one first.")
    elif warnings:
        print(f"\nThe course runs. Warnings: {warnings}.")
    else:
        print("\nAll is well: `kdtutor lab` opens the notebooks.")
    sys.exit(1 if problems else 0)


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they should be mended."""
    for examination in EXAMINATIONS:
        try:
            yield from examination()
        except Exception as error:  # whatever is broken, the others are still looked at
            yield Finding(PROBLEM, examination.__name__.strip("_"), _in_one_line(error), INSTALL)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _python() -> Iterator[Finding]:
    said = f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    yield judged(sys.version_info >= (3, 11), "Python", said, "make an environment with Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    """What kdtutor's own metadata asks for."""
    from packaging.requirements import Requirement

    for line in metadata.requires("kdtutor") or ():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        advice = f'kdtutor needs {wanted.specifier}: python -m pip install "{line}"'
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding(PROBLEM, wanted.name, "is not installed", advice)
        else:
            yield judged(wanted.specifier.contains(found, prereleases=True), wanted.name, found, advice)


def _torchvision() -> Iterator[Finding]:
    """Built for another torch, it can be imported and lacks its operators, or cannot be imported."""
    import torch

    try:
        from torchvision.ops import nms

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
        fits, said = nms(boxes, torch.tensor([0.5, 0.6]), 0.5).tolist() == [1], "its operators answer"
    except Exception as error:  # RuntimeError, ImportError, AttributeError: it depends on the versions
        fits, said = False, _in_one_line(error)
    advice = "install both together, in one pip command"
    yield judged(fits, f"torchvision with torch {torch.__version__}", said, advice)


def _widgets() -> Iterator[Finding]:
    """The sliders: their half that runs in the browser is a package of its own."""
    from jupyter_core.paths import jupyter_path

    name = "@jupyter-widgets/jupyterlab-manager"
    folders = [Path(folder) / name for folder in jupyter_path("labextensions")]
    found = [folder for folder in folders if (folder / "package.json").is_file()]
    said = str(found[0]) if found else f"{name} is in none of {len(folders)} folders"
    advice = "python -m pip install --force-reinstall jupyterlab_widgets, then start JupyterLab anew"
    yield judged(bool(found), "sliders in JupyterLab", said, advice)


def _kernel() -> Iterator[Finding]:
    """The notebooks ask for `python3`: is it this Python?"""
    from jupyter_client.kernelspec import KernelSpecManager

    python = KernelSpecManager().get_kernel_spec("python3").argv[0]
    here = Path(sys.executable).parent  # Jupyter itself reads a bare name as its own Python
    same = Path(python).parent in (here, Path()) and Path(python).name.startswith("python")
    advice = "if that one has no kdtutor: python -m ipykernel install --sys-prefix"
    yield judged(same, "kernel python3", f"runs {here / python}", advice, WARNING)


def _data() -> Iterator[Finding]:
    from . import data

    folder = data.places.cache_folder()
    yield Finding(OK, "unpacked data", f"{folder} can be written to")
    fashion = data.load("fashion-mnist")  # compares each file's sha256
    yield Finding(OK, "Fashion-MNIST", f"{len(fashion.train):,} + {len(fashion.test):,} images, as published")


def _teachers() -> Iterator[Finding]:
    from . import teachers

    for name, entry in teachers.manifest().items():
        teachers.load_teacher(name)
        teachers.shipped_logits(name)
        yield Finding(OK, f"teacher {name}", f"{entry['model']}, weights and logits as the manifest says")


def _notebooks() -> Iterator[Finding]:
    from .data import shipped

    folder = shipped("notebooks")
    count, solutions = (len(list(folder.glob(kind))) for kind in ("*.ipynb", "solutions/*.ipynb"))
    yield judged(count == solutions > 0, "notebooks", f"{count} in {folder}, solutions of {solutions}", INSTALL)


def _points() -> Iterator[Finding]:
    from .exercises.points import progress_file, read_points

    try:
        file = progress_file()
        read_points(file)
    except (OSError, ValueError, RuntimeError) as error:
        yield Finding(WARNING, "your points", str(error), "move that file away, or set KDTUTOR_PROGRESS to another")
    else:
        yield Finding(OK, "your points", f"{file}" if file.exists() else f"none yet; they will be in {file}")


def _room() -> Iterator[Finding]:
    from .data.places import cache_folder

    for what, folder in (("disk for unpacked data", cache_folder()), ("disk for your work", Path.cwd())):
        free = shutil.disk_usage(folder).free
        yield judged(free > GIB, what, f"{free / GIB:.1f} GiB free in {folder}", "make room: 1 GiB is wanted", WARNING)


def _memory() -> Iterator[Finding]:
    free = min(_free_memory(), _free_in_container())
    if free == math.inf:
        yield Finding(NOTE, "memory", "this system does not say how much is free; 2 GiB are wanted")
    else:
        yield judged(
            free > 2 * GIB, "memory", f"{free / GIB:.1f} GiB free", "close something: 2 GiB are wanted", WARNING
        )


def _free_memory(file: Path = Path("/proc/meminfo")) -> float:
    """Bytes that a new program may have; infinite where the system does not tell."""
    try:
        fields = dict(line.split(":") for line in file.read_text().splitlines())
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return math.inf


def _free_in_container(group: Path = Path("/sys/fs/cgroup")) -> float:
    """The same, of the memory that a container was given."""
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return math.inf if limit == "max" else int(limit) - int(used)
    except (OSError, ValueError):
        return math.inf


def _processor() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    said = f"torch uses {threads} threads on {cores} cores; the notebooks use 1"
    yield judged(threads <= cores, "processor", said, f"set OMP_NUM_THREADS={cores}", WARNING)


def _gpu() -> Iterator[Finding]:
    """One that is found is used: so it has to work."""
    import torch

    from .settings import Settings, choose_device

    device, _ = choose_device(Settings())
    if device.type == "cpu":
        yield Finding(NOTE, "GPU", "none that torch can use, and none is needed")
        return
    a = torch.arange(4096.0).view(64, 64) / 4096
    try:
        on_device = (a.to(device) @ a.to(device)).cpu()
        right = torch.allclose(on_device, a @ a, rtol=1e-2)
        said = f"multiplies matrices {'rightly' if right else 'wrongly'}"
    except RuntimeError as error:
        right, said = False, f"found, but does not work: {_in_one_line(error)}"
    yield judged(right, f"GPU ({device})", said, 'update its driver, or hide it: set CUDA_VISIBLE_DEVICES to "-1"')


def _browser() -> Iterator[Finding]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield Finding(NOTE, "Chromium", path or "not found; only kdtutor's own browser tests want it, and are skipped")


EXAMINATIONS = (
    _python, _packages, _torchvision, _widgets, _kernel, _data, _teachers, _notebooks, _points, _room, _memory,
    _processor, _gpu, _browser,
)  # fmt: skip
