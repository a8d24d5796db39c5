"""Processes killed at random moments: the run goes on and ends with the very weights of one that was never stopped.

KDTUTOR_CRASHES=100 kills a hundred; without it, one for each method.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from crash_worker import train

from kdtutor.methods import METHODS
from kdtutor.records import RecordError, RunFolder, read_json

WORKER = Path(__file__).with_name("crash_worker.py")
SPECS = [*METHODS, "kd + sp", "stkd(target='interpolated')", "kernel(weight=.5) + rkd"]
pytestmark = pytest.mark.usefixtures("one_thread")  # as in the worker
CRASHES = int(os.environ.get("KDTUTOR_CRASHES", len(SPECS)))

_seconds: dict[str, float] = {}
_whole: dict[str, dict[str, torch.Tensor]] = {}


def whole(spec: str) -> dict[str, torch.Tensor]:
    """The weights of a run that nobody stopped, and about how long it takes."""
    if spec not in _whole:
        train(None, spec)
        started = time.perf_counter()
        _whole[spec] = train(None, spec).state_dict()
        _seconds[spec] = time.perf_counter() - started
    return _whole[spec]


@pytest.mark.parametrize("crash", range(CRASHES))
def test_killed_at_a_random_moment(crash, tmp_path):
    spec = SPECS[crash % len(SPECS)]
    wanted = whole(spec)
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), str(tmp_path / "run"), spec], stdout=subprocess.PIPE, text=True
    )
    try:
        assert worker.stdout.readline() == "go\n"
        time.sleep(random.Random(crash).uniform(0, 1.2 * _seconds[spec]))
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    ours = train(tmp_path / "run", spec).state_dict()
    assert [name for name in wanted if not torch.equal(ours[name], wanted[name])] == []
    assert (tmp_path / "run" / "summary.json").exists()
    assert not list((tmp_path / "run").glob(".*.part"))


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    script = (
        "import sys, time; from kdtutor.records import RunFolder; folder = RunFolder(sys.argv[1], {}); "
        "print('open', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(RecordError, match="in use by another process"):
            RunFolder(tmp_path, {})
        with pytest.raises(RecordError, match="in use by another process"):
            train(tmp_path, "ce")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    RunFolder(tmp_path, {}).release()


def test_a_finished_run_may_be_read_by_many(tmp_path):
    train(tmp_path, "ce")
    settings = read_json(tmp_path / "settings.json")
    readers = [RunFolder(tmp_path, settings) for _ in range(3)]
    assert [len(reader.load()[0]) for reader in readers] == [6, 6, 6]
