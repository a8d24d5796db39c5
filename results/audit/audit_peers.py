"""Audit the losses of public distillation repositories, and write findings.json.

    python results/audit/audit_peers.py CHECKOUTS

CHECKOUTS is a folder with one git checkout for each entry of COMMITS, under the repository's own name. None of
their code is stored here: a loss is imported from its file as it stands, without the package around it.
"""

import argparse
import importlib
import inspect
import json
import platform
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kdtutor.audit import audit

HERE = Path(__file__).parent
COMMITS = {
    "AberHu/Knowledge-Distillation-Zoo": "65470c846c1300d555815da26999cbe2b51fc815",
    "HobbitLong/RepDistiller": "b84f547c5db6a35318d4671d7d5c4de74c822403",
    "megvii-research/mdistiller": "a08d46f10d6102bd6e3f258ca5ac880b020ea259",
    "SforAiDl/KD_Lib": "a94d236050e81965d7e0c03d7dee3b63e67b675a",
    "hunto/DIST_KD": "2418f18b1fedd7c2646a7b1b9a27d5c674c2170b",
    "yoshitomo-matsubara/torchdistill": "3e4373c45214c5c56eebac481d5bfe8b8735aa05",
    "sunshangquan/logit-standardization-KD": "f6e5aa5172bad618e801163c3385322eea673754",
    "haitongli/knowledge-distillation-pytorch": "9937528f0be0efa979c745174fbcbe9621cea8b7",
    "lenscloth/RKD": "0a6c3c0c190722d428322bf71703c0ae86c25242",
    "idstcv/KDA": "0f509e6a90f0593fc27514dcd93a9248d80931be",
    "facebookresearch/deit": "7e160fe43f0252d17191b71cbb5826254114ea5b",
}


@dataclass(frozen=True)
class Case:
    """One loss: where it is, how to get it from its module, and how to audit it."""

    repository: str
    path: str
    name: str
    kind: str
    get: Callable = getattr  # (module, name) -> loss
    settings: dict = field(default_factory=dict)


def load(folder: Path, repository: str, path: str) -> types.ModuleType:
    """A module of a checkout, without running the __init__ files of the packages it lies in."""
    root = folder / repository.split("/")[1]
    before = set(sys.modules)
    *parts, last = Path(path).with_suffix("").parts
    for depth in range(1, len(parts) + 1):
        package = ".".join(parts[:depth])
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(root.joinpath(*parts[:depth]))]
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module(".".join((*parts, last)))
    finally:
        sys.path.remove(str(root))
        for name in set(sys.modules) - before:  # the next checkout may have modules of the same names
            if name.split(".")[0] == (*parts, last)[0]:
                del sys.modules[name]


# --- How to get a loss that is neither a function nor a class built without arguments ---


def built(**settings):
    return lambda module, name: getattr(module, name)(**settings)


def method_of(cls: str, method: str = "calculate_kd_loss", **state):
    """A method of a trainer class, on an object that has its default loss function and these settings, and no more."""

    def get(module, name):
        trainer = object.__new__(getattr(module, cls))
        default = inspect.signature(getattr(module, cls).__init__).parameters.get("loss_fn")
        state.setdefault("loss_fn", None if default is None else default.default)
        state.setdefault("log_softmax", torch.nn.LogSoftmax(dim=1))
        state.setdefault("ce_fn", torch.nn.CrossEntropyLoss())
        for key, value in state.items():
            object.__setattr__(trainer, key, value)
        return getattr(trainer, method)

    return get


def io(inputs):
    """torchdistill hands over dictionaries of what flowed through each layer."""
    return {"layer": {"output": inputs.student}}, {"layer": {"output": inputs.teacher}}


def io_and_labels(inputs):
    return (*io(inputs), inputs.labels)


LOGIT_PATHS = {
    "student_module_path": "layer",
    "student_module_io": "output",
    "teacher_module_path": "layer",
    "teacher_module_io": "output",
}
OUTPUT_PATHS = {"student_output_path": "layer", "teacher_output_path": "layer"}
TRAINER = {"arguments": ("student", "teacher", "labels"), "temperature": 4.0}
as_trainer = {"temp": 4.0, "distil_weight": 0.5}


def through_deit(module, name):
    """DeiT's criterion asks its teacher itself; here the teacher is the identity on the teacher's logits."""
    return module.DistillationLoss(torch.nn.CrossEntropyLoss(), torch.nn.Identity(), "soft", 0.5, 3.0)


ZOO, REP, MEGVII = "AberHu/Knowledge-Distillation-Zoo", "HobbitLong/RepDistiller", "megvii-research/mdistiller"
LIB, DISTILL, STAND = "SforAiDl/KD_Lib", "yoshitomo-matsubara/torchdistill", "sunshangquan/logit-standardization-KD"
HAITONG = "haitongli/knowledge-distillation-pytorch"
MID_LEVEL = "torchdistill/losses/mid_level.py"
VISION = "KD_Lib/KD/vision/"
LISTS = {"arguments": lambda x: ([x.student], [x.teacher])}

CASES = (
    Case(ZOO, "kd_losses/st.py", "SoftTarget", "kd"),
    Case(ZOO, "kd_losses/sp.py", "SP", "similarity"),
    Case(ZOO, "kd_losses/rkd.py", "RKD", "rkd", built(w_dist=25, w_angle=50)),
    Case(ZOO, "kd_losses/pkt.py", "PKTCosSim", "pkt"),
    Case(ZOO, "kd_losses/cc.py", "CC", "cc", built(gamma=0.4, P_order=2)),
    Case(ZOO, "kd_losses/logits.py", "Logits", "kd"),
    Case(REP, "distiller_zoo/KD.py", "DistillKL", "kd"),
    Case(REP, "distiller_zoo/SP.py", "Similarity", "similarity", settings=LISTS),
    Case(REP, "distiller_zoo/RKD.py", "RKDLoss", "rkd"),
    Case(REP, "distiller_zoo/PKT.py", "PKT", "pkt"),
    Case(REP, "distiller_zoo/CC.py", "Correlation", "cc"),
    Case(MEGVII, "mdistiller/distillers/KD.py", "kd_loss", "kd"),
    Case(MEGVII, "mdistiller/distillers/SP.py", "similarity_loss", "similarity"),
    Case(MEGVII, "mdistiller/distillers/RKD.py", "rkd_loss", "rkd"),
    Case(MEGVII, "mdistiller/distillers/PKT.py", "pkt_loss", "pkt"),
    Case(MEGVII, "mdistiller/distillers/DKD.py", "dkd_loss", "dkd", settings={"alpha": 1.0, "beta": 8.0}),
    Case(LIB, VISION + "vanilla/vanilla_kd.py", "VanillaKD", "kd", method_of("VanillaKD", **as_trainer), TRAINER),
    Case(LIB, VISION + "TAKD/takd.py", "TAKD", "kd", method_of("TAKD", **as_trainer), TRAINER),
    Case(LIB, VISION + "BANN/BANN.py", "BANN", "kd", method_of("BANN", gen=1, **as_trainer), TRAINER),
    Case(LIB, VISION + "RCO/rco.py", "RCO", "kd", method_of("RCO", **as_trainer), TRAINER),
    Case(LIB, VISION + "noisy/messy_collab.py", "MessyCollab", "kd", method_of("MessyCollab", **as_trainer), TRAINER),
    Case(
        LIB,
        VISION + "teacher_free/self_training.py",
        "SelfTraining",
        "kd",
        method_of("SelfTraining", **as_trainer),
        TRAINER,
    ),
    Case(
        LIB,
        VISION + "CSKD/cskd.py",
        "CSKD",
        "kd",
        method_of("CSKD", **as_trainer),
        {"arguments": ("student", "teacher"), "temperature": 4.0},
    ),
    Case(LIB, VISION + "RKD/loss_metric.py", "RKDLoss", "rkd"),
    Case("hunto/DIST_KD", "segmentation/losses/dist_kd.py", "DIST", "dist"),
    Case(
        DISTILL,
        MID_LEVEL,
        "KDLoss",
        "kd",
        built(**LOGIT_PATHS, temperature=4.0, alpha=0.5),
        {"arguments": io_and_labels},
    ),
    Case(
        DISTILL,
        MID_LEVEL,
        "KDLoss without targets",
        "kd",
        lambda module, name: module.KDLoss(**LOGIT_PATHS, temperature=4.0, alpha=0.5),
        {"arguments": io},
    ),
    Case(
        DISTILL,
        MID_LEVEL,
        "LogitStdKDLoss",
        "logit_standardization",
        built(**LOGIT_PATHS, temperature=2.0, alpha=0.1, beta=9.0),
        {"arguments": io_and_labels},
    ),
    Case(DISTILL, MID_LEVEL, "PKTLoss", "pkt", built(**LOGIT_PATHS), {"arguments": io}),
    Case(
        DISTILL,
        MID_LEVEL,
        "RKDLoss",
        "rkd",
        built(**OUTPUT_PATHS, dist_factor=25.0, angle_factor=50.0, reduction="mean"),
        {"arguments": io},
    ),
    Case(
        DISTILL,
        MID_LEVEL,
        "SPKDLoss",
        "similarity",
        built(**OUTPUT_PATHS, reduction="batchmean"),
        {"arguments": io},
    ),
    Case(
        DISTILL,
        MID_LEVEL,
        "CCKDLoss",
        "cc",
        built(
            student_linear_path="layer",
            teacher_linear_path="layer",
            kernel_config={"type": "gaussian", "gamma": 0.4, "max_p": 2},
            reduction="batchmean",
        ),
        {"arguments": io},
    ),
    Case(DISTILL, MID_LEVEL, "DISTLoss", "dist", built(**LOGIT_PATHS, tau=4.0), {"arguments": io}),
    Case(STAND, "mdistiller/distillers/KD.py", "normalize", "logit_standardization"),
    Case(STAND, "mdistiller/distillers/KD.py", "kd_loss", "logit_standardization", settings={"logit_stand": True}),
    Case(STAND, "mdistiller/distillers/KD.py", "kd_loss", "kd", settings={"logit_stand": False}),
    Case(
        STAND,
        "mdistiller/distillers/DKD.py",
        "dkd_loss",
        "dkd",
        settings={"alpha": 1.0, "beta": 8.0, "logit_stand": False},
    ),
    Case(
        HAITONG,
        "model/net.py",
        "loss_fn_kd",
        "kd",
        settings={
            "arguments": lambda x: (
                x.student,
                x.labels,
                x.teacher,
                types.SimpleNamespace(alpha=0.9, temperature=x.temperature),
            )
        },
    ),
    Case(
        HAITONG,
        "model/net.py",
        "loss_fn_kd, its settings T 20, alpha .9",
        "auto",
        lambda module, name: module.loss_fn_kd,
        {
            "arguments": lambda x: (x.student, x.labels, x.teacher, types.SimpleNamespace(alpha=0.9, temperature=20.0)),
            "temperature": 20.0,
        },
    ),
    Case("lenscloth/RKD", "metric/loss.py", "RkdDistance", "rkd_distance"),
    Case("lenscloth/RKD", "metric/loss.py", "RKdAngle", "rkd_angle"),
    Case("idstcv/KDA", "loss.py", "KDA", "kernel"),
    Case(
        "facebookresearch/deit",
        "losses.py",
        "DistillationLoss, soft",
        "kd",
        through_deit,
        {"arguments": lambda x: (x.teacher, (x.student, x.student), x.labels), "temperature": 3.0},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--show", metavar="NAME", help="print the whole report of the losses with this in their name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Trainer classes import it for their logs; no loss needs it.
    sys.modules.setdefault("torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=None))
    records = []
    for case in CASES:
        start = time.perf_counter()
        try:
            loss = case.get(load(arguments.checkouts, case.repository, case.path), case.name)
            report = audit(loss, kind=case.kind, **case.settings)
        except Exception as error:  # whatever a stranger's module raises on import
            print(f"FAILED {case.repository} {case.name}: {type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - start
        if arguments.show and arguments.show in case.name:
            print(report)
        records.append(
            {
                "repository": case.repository,
                "commit": COMMITS[case.repository],
                "path": case.path,
                "function": case.name,
                "asked": case.kind,
                "is": report.kind,
                "identity": report.identity,
                "ok": report.ok,
                "findings": [vars(finding) for finding in report.findings],
                "notes": [vars(note) for note in report.notes],
                "seconds": round(seconds, 2),
            }
        )
        codes = ", ".join(finding.code for finding in report.findings) or "-"
        notes = ", ".join(note.code for note in report.notes)
        print(f"{case.repository:42} {case.name:32} {case.kind:22} {codes:40} {seconds:5.2f} s  notes: {notes}")
    about = {"torch": torch.__version__, "python": platform.python_version(), "threads": 1}
    text = json.dumps({"about": about, "losses": records}, indent=1, ensure_ascii=False)
    (HERE / "findings.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
