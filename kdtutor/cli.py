"""The command line: kdtutor compare | audit | lab | progress | doctor and more; `kdtutor --help` lists all."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import distributed
from .compare import Comparison, format_table
from .compare import compare as run_comparison
from .losses._checks import check_choice
from .reproduce import Reproduction, format_published

app = tyro.extras.SubcommandApp()


@app.command
def compare(comparison: Annotated[Comparison, tyro.conf.arg(name="")] = Comparison()) -> None:
    """Train students under many methods by one teacher, and print a table."""
    results = run_comparison(comparison, progress=distributed.is_first())
    if distributed.is_first():
        print(format_table(results))
        print(f"\nRecord, learning curves and every epoch: {comparison.record_folder.resolve()}")


@app.command
def teacher(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ("base", "strong"), folder: Path = Path("data/teachers")
) -> None:
    """Train the teachers that the course ships (about an hour on 2 cores), and write weights, logits and manifest.

    Args:
        names: which ones.
        folder: where to write.
    """
    from .teachers import TEACHERS, train_teacher

    _check_names(names, TEACHERS)
    for name in names:
        entry = train_teacher(name, folder)
        top1 = 100 * entry["test"]["top1"]
        print(f"{name}: {entry['model']}, test top-1 {top1:.2f} %, {entry['training_seconds']} s")


@app.command
def reproduce(
    benchmark: Annotated[Literal["cifar100"], tyro.conf.Positional],
    reproduction: Annotated[Reproduction, tyro.conf.arg(name="")],  # a default would bring its own teacher and student
) -> None:
    """Train a published pair of networks on CIFAR-100, and print our numbers beside the published ones.

    Args:
        benchmark: the only one so far.
    """
    results = run_comparison(reproduction, progress=distributed.is_first())
    if distributed.is_first():
        print(format_table(results), format_published(results), sep="\n\n")
        print(f"\nRecord, learning curves and every epoch: {reproduction.record_folder.resolve()}")


@app.command
def study(names: Annotated[tuple[str, ...], tyro.conf.Positional], folder: Path = Path("results/studies")) -> None:
    """Train the students of a study of results/README.md; stopped, the same command goes on where it was.

    Args:
        names: which ones.
        folder: of the records.
    """
    from .studies import STUDIES, run

    _check_names(names, STUDIES)
    for name in names:
        rows = run(STUDIES[name], folder)
        print(f"{name}: {len(rows)} students in {(folder / name / 'students.csv').resolve()}")


@app.command
def report(folder: Path = Path("results/studies")) -> None:
    """Write results/README.md and its figures from the studies' records.

    Args:
        folder: of the records; README.md is written beside it.
    """
    from .studies import STUDIES
    from .studies.report import write

    if not folder.is_dir():
        raise ValueError(f"folder is {str(folder)!r}, which is no folder; kdtutor study makes one with records")
    missing = write(folder, STUDIES)
    print(f"{(folder.parent / 'README.md').resolve()}; not complete yet: {', '.join(missing) or 'none'}")


@app.command
def audit(target: Annotated[str, tyro.conf.Positional], kind: str = "auto", temperature: float | None = None) -> int:
    """Is this distillation loss what its name says? Exit status 0, 1 on findings, 2 if it cannot be called.

    Args:
        target: package.module:name of a function or an nn.Module class; the current folder is searched too.
        kind: which loss it should be, for instance kd, similarity, cmkd or kernel; auto asks which it is.
        temperature: the one it uses, where it has one.
    """
    from .audit import run

    return run(target, kind, temperature)


@app.command
def lab(folder: Path | None = None, port: int = 8888, browser: bool = True) -> int:
    """Open JupyterLab on the notebooks, for this machine only.

    Args:
        folder: where the notebooks are; an installed wheel copies its own there first (into kdtutor-notebooks).
        port: the first one to try.
        browser: open a browser window.
    """
    from .lab import open_lab

    return open_lab(folder, port, browser)


@app.command
def progress(notebook: Annotated[str | None, tyro.conf.Positional] = None) -> None:
    """Show your points in the course's exercises. They are kept on this machine; nothing is sent.

    Args:
        notebook: the number of one, to see its exercises; else all notebooks.
    """
    from .exercises import progress

    print(progress(notebook))


@app.command
def doctor() -> None:
    """Is everything here that the course needs, and does it work? Exit status 1 if something must be mended."""
    from .doctor import main

    main()


@app.command
def host(
    repository: Annotated[str, tyro.conf.Positional] = "",
    tag: str | None = None,
    folder: Path | None = None,
    remove: bool = False,
) -> None:
    """Prepare the notebooks for Colab and other hosts: a badge each, and where their first cell installs kdtutor from.

    Args:
        repository: OWNER/REPO on GitHub, for instance of your fork; it must hold the tag.
        tag: of the version to install and to open; v and this version's number if not given.
        folder: where the notebooks are; those of this checkout if not given.
        remove: take badges and addresses out again.
    """
    from .host import stamp_all

    for path in stamp_all(folder, "" if remove else repository, tag, remove):
        print(path)


def _check_names(names: tuple[str, ...], known: Iterable[str]) -> None:
    """All at once, before the first one takes its hour."""
    if not names:
        raise ValueError(f"names is empty, wanted at least one of {', '.join(known)}")
    for name in names:
        check_choice("names", name, known)


def main() -> None:
    """Messages for people: an error we foresaw is one line, without a traceback."""
    distributed.start()
    try:
        sys.exit(app.cli(prog="kdtutor", description="Knowledge distillation, taught and measured."))
    except KeyboardInterrupt:
        sys.exit("kdtutor: stopped; the same command goes on from the last whole epoch")
    except (TypeError, ValueError, ArithmeticError, MemoryError, OSError, RuntimeError) as error:
        sys.exit(f"kdtutor: {error}")
    finally:
        distributed.stop()
