"""A week's worth of steps in miniature, and a folder with a thousand runs.

KDTUTOR_STEPS=100000 takes so many steps; without it, 2,400 for each of two methods.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdtutor.records import RecordError, RunFolder, runs, write_json

STEPS = int(os.environ.get("KDTUTOR_STEPS", 2400))
WORKER = Path(__file__).with_name("load_worker.py")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux what a process holds")
@pytest.mark.parametrize("spec", ["stkd", "kernel(weight=1.0) + sp"])
def test_many_steps_leave_nothing_behind(spec, tmp_path):
    """From a quarter of the steps to their end; what one step needs, kept each time, would be many times the limit."""
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), spec, str(STEPS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    early, late = (list(map(float, line.split())) for line in done.stdout.splitlines())
    assert late[0] - early[0] < 4, "MiB of memory"
    assert late[1] == early[1], "open files"
    assert late[2] == early[2], "threads"
    assert late[3] == early[3], "MiB of GPU memory"


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """Runs in folders within folders, and one that is not finished."""
    folder = tmp_path_factory.mktemp("runs")
    for i in range(1000):
        run = folder / f"compare-{i % 10}" / f"kd-seed{i // 10}"
        run.mkdir(parents=True)
        write_json(run / "settings.json", {"seed": i // 10})
        write_json(run / "summary.json", {"method": "kd", "epoch": 3, "top1": i / 1000})
        (run / "checkpoint.safetensors").write_bytes(b"must not be opened")
        (run / "epochs.csv").write_bytes(b"must not be opened")
    (folder / "stopped").mkdir()
    write_json(folder / "stopped" / "settings.json", {"seed": 0})
    return folder


@pytest.fixture
def opened(monkeypatch):
    """The names of the files of a run that Python opens, in order."""
    names = []

    def note(event, arguments):
        if event == "open" and watching and str(arguments[0]).endswith((".json", ".csv", ".safetensors", ".part")):
            names.append(Path(arguments[0]).name)

    watching = True
    sys.addaudithook(note)  # for as long as Python lives; it only notes while we watch
    yield names
    watching = False


def test_a_thousand_runs_are_listed_from_their_summaries(thousand, opened):
    import pandas as pd

    table = runs(thousand)
    assert opened == ["summary.json"] * 1000
    assert list(table.columns) == ["run", "method", "epoch", "top1"]
    wanted = {f"compare-{i % 10}/kd-seed{i // 10}": i / 1000 for i in range(1000)}
    pd.testing.assert_series_equal(
        table.set_index("run")["top1"].sort_index(), pd.Series(wanted, name="top1").rename_axis("run").sort_index()
    )
    assert len(runs(thousand / "compare-3")) == 100 and len(runs(thousand / "stopped")) == 0


def test_a_damaged_summary_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("[")
    with pytest.raises(RecordError, match=r"run.summary\.json cannot be read"):
        runs(tmp_path)
    with pytest.raises(RecordError, match=r"folder is .*nowhere', which is no folder"):
        runs(tmp_path / "nowhere")


def test_a_run_among_a_thousand_opens_its_own_files_alone(thousand, opened):
    RunFolder(thousand / "compare-3" / "kd-seed7", {"seed": 7})
    assert opened == ["settings.json"]
    RunFolder(thousand / "new", {"seed": 7}).release()
    assert len(opened) == 2
