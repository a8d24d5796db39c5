"""Every benchmark runs. Their numbers are for a quiet machine, so none is looked at here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("remembered", "loop", "startup", "soft_rank", "relations", "nystrom")


def test_every_script_is_tried_here():
    found = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert found - {"measure", "table"} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_run_leaves_a_record(script, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--quick", "--record", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / f"{script}.json").read_text(encoding="utf-8"))
    assert {"machine", "result"} <= record.keys()


def test_the_table_names_every_command():
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert f"python benchmarks/{script}.py" in readme
