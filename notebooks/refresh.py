"""Run notebooks from top to bottom and store what they show, for whoever edits the course.

    python notebooks/refresh.py notebooks/02_*.ipynb

What belongs to one run alone, such as widget models and timings, is left out, so that nbval can hold
the stored outputs to the code on any machine.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class Timed(NotebookClient):
    async def async_execute_cell(self, cell, cell_index, **options):
        started = time.perf_counter()
        result = await super().async_execute_cell(cell, cell_index, **options)
        if cell.cell_type == "code":
            print(f"  cell {cell_index}: {time.perf_counter() - started:.1f} s", flush=True)
        return result


def refresh(path: Path) -> None:
    """Run one notebook in place. One that raises is left as it was."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    Timed(notebook, timeout=900, kernel_name="python3", resources=where, store_widget_state=False).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KDTUTOR_PROGRESS"] = str(Path(folder) / "progress.json")  # solutions are not your own points
        for name in sys.argv[1:]:
            print(name)
            refresh(Path(name))
