"""The command line: kdtutor compare | teacher | audit | lab. `kdtutor COMMAND --help` tells all options of one."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from . import distributed
from .compare import Comparison, format_table
from .compare import compare as run_comparison

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
    from .teachers import train_teacher

    for name in names:
        entry = train_teacher(name, folder)
        top1 = 100 * entry["test"]["top1"]
        print(f"{name}: {entry['model']}, test top-1 {top1:.2f} %, {entry['training_seconds']} s")


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


def main() -> None:
    """Messages for people: an error we foresaw is one line, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")
    distributed.start()
    try:
        sys.exit(app.cli(prog="kdtutor", description="Knowledge distillation, taught and measured."))
    except KeyboardInterrupt:
        sys.exit("kdtutor: stopped; the same command goes on from the last whole epoch")
    except (TypeError, ValueError, ArithmeticError, MemoryError, OSError) as error:
        sys.exit(f"kdtutor: {error}")
    finally:
        distributed.stop()
