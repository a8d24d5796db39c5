"""Two processes with half the batch each do what one does with the whole batch."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from kdtutor.methods import METHODS

WORKER = Path(__file__).with_name("distributed_worker.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch was built without torch.distributed"),
    pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous needs libuv, which Windows builds lack"),
]


def run(*command, check=True, **options):
    command = list(map(str, command))
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, **options)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    run(sys.executable, WORKER, folder)
    # Once in some sixty times a thread of gloo's aborts a rank for reasons of its own; torchrun may try again.
    run(*TORCHRUN, "--max-restarts", "1", WORKER, folder)
    return {name: load_file(folder / f"{name}.safetensors") for name in ("rank0-of-1", "rank0-of-2", "rank1-of-2")}


@pytest.mark.parametrize("spec", [*METHODS, "kd + sp"])
def test_two_ranks_give_the_gradients_of_one_process(gradients, spec):
    names = [name for name in gradients["rank0-of-1"] if name.startswith(f"{spec}/")]
    assert names and all(gradients["rank0-of-1"][name].abs().max() > 0 for name in names if name.endswith("weight"))
    for name in names:
        for rank in ("rank0-of-2", "rank1-of-2"):
            torch.testing.assert_close(gradients[rank][name], gradients["rank0-of-1"][name], rtol=1e-6, atol=1e-12)


def test_a_comparison_under_torchrun_writes_one_record_and_one_table(tmp_path):
    options = ["--methods", "ce", "kd", "stkd", "--seeds", "1", "--subset", "512", "--epochs", "2"]
    one = run(sys.executable, "-m", "kdtutor", "compare", *options, "--folder", tmp_path / "one")
    two = run(*TORCHRUN, "-m", "kdtutor", "compare", *options, "--folder", tmp_path / "two")
    assert one.stdout.count("taught by") == two.stdout.count("taught by") == 1  # one table, from the first rank
    alone, together = (pd.read_csv(tmp_path / name / "students.csv") for name in ("one", "two"))
    assert list(together["method"]) == list(alone["method"])
    # BatchNorm sees half a batch on each rank, so the runs differ, but not by much.
    assert (together["nll"] - alone["nll"]).abs().max() < 0.5


def test_metrics_are_exact_over_ranks_whatever_the_split(tmp_path):
    script = tmp_path / "predict.py"
    script.write_text(
        "import sys, torch\n"
        "from kdtutor import distributed, models\n"
        "from kdtutor.data import ImageSet\n"
        "from kdtutor.evaluate import evaluate\n"
        "distributed.start()\n"
        "torch.manual_seed(0)\n"
        "images = torch.randint(0, 256, (101, 1, 28, 28), dtype=torch.uint8)\n"
        "data = ImageSet(images, torch.arange(101) % 10, tuple('abcdefghij'), (.5,), (.5,), 'odd')\n"
        "found = evaluate(models.build('cnn4k', 10, 1, seed=0), data)\n"
        "if distributed.is_first():\n"
        "    print(*(f'{name}={value:.12f}' for name, value in found.items()))\n"
        "distributed.stop()\n"
    )
    alone = run(sys.executable, script).stdout.split()
    together = run(*TORCHRUN, script).stdout.split()
    assert alone and [pair.split("=")[0] for pair in alone] == [pair.split("=")[0] for pair in together]
    for a, b in zip(alone, together, strict=True):
        assert float(a.split("=")[1]) == pytest.approx(float(b.split("=")[1]), rel=1e-6)


def test_a_rank_that_dies_ends_the_job(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, torch\n"
        "from kdtutor import distributed\n"
        "distributed.start()\n"
        "if torch.distributed.get_rank() == 1:\n"
        "    os._exit(3)\n"
        "distributed.add_up(torch.ones(1))\n"
    )
    done = run(*TORCHRUN, script, check=False)  # a hang would meet the time limit
    assert done.returncode != 0
