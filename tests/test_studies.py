"""The studies: nothing is trained twice, nothing is chosen on test images, and results/README.md is its records."""

import csv
import dataclasses
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from kdtutor import methods, models, studies
from kdtutor.finite import NonFiniteError
from kdtutor.losses.affinity import preset_of, valid_cells
from kdtutor.records import RecordError
from kdtutor.studies import STUDIES, Study, landmarks, regimes, report, sensitivity, students
from kdtutor.studies.study import is_complete
from kdtutor.studies.summary import Estimate, answer, estimate, explained, listed

RESULTS = Path(__file__).parents[1] / "results"
RECORDED = [name for name, study in STUDIES.items() if is_complete(study, RESULTS / "studies")]


# --- The engine ---


def study(train, trials=lambda rows: [{"method": "a", "seed": seed} for seed in range(4)]) -> Study:
    return Study("small", "?", trials, train, {}, "Small", "None.", lambda rows: ([], {}))


def test_a_stopped_study_goes_on_where_it_was(tmp_path):
    asked = []

    def train(trial):
        if len(asked) == 2:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(trial["seed"])
        return {"top1": trial["seed"] / 3}

    with pytest.raises(KeyboardInterrupt):
        studies.run(study(train), tmp_path, progress=False)
    assert list(studies.read("small", tmp_path)["seed"]) == [0, 1]
    rows = studies.run(study(train), tmp_path, progress=False)
    assert asked == [0, 1, None, 2, 3]
    assert list(rows["top1"]) == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-6)
    studies.run(study(lambda trial: pytest.fail("trained again")), tmp_path, progress=False)


def test_later_trials_may_depend_on_earlier_rows(tmp_path):
    def trials(rows):
        yield from ({"weight": weight, "seed": 0} for weight in (1.0, 2.0))
        if len(rows) >= 2:
            best = rows.groupby("weight")["score"].mean().idxmax()
            yield from ({"weight": float(best), "seed": seed} for seed in range(3))

    rows = studies.run(study(lambda trial: {"score": trial["weight"]}, trials), tmp_path, progress=False)
    assert list(zip(rows["weight"], rows["seed"], strict=True)) == [(1.0, 0), (2.0, 0), (2.0, 1), (2.0, 2)]


def test_a_student_that_diverges_has_a_row_too(tmp_path):
    def train(trial):
        if trial["seed"] == 1:
            raise NonFiniteError("nan")
        return {"top1": 0.5}

    rows = studies.run(study(train), tmp_path, progress=False)
    assert list(rows["diverged"].notna()) == [False, True, False, False]
    assert math.isnan(rows["top1"][1])


@pytest.mark.parametrize("damage", ["a,0,0.5,7\n", "a\n"])
def test_a_damaged_record_is_refused_and_kept(tmp_path, damage):
    studies.run(study(lambda trial: {"top1": 0.5}), tmp_path, progress=False)
    path = tmp_path / "small" / "students.csv"
    path.write_text(path.read_text() + damage)
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"students\.csv is not the table that was written"):
        studies.run(study(lambda trial: {"top1": 0.5}), tmp_path, progress=False)
    assert path.read_bytes() == before


def test_a_table_of_another_study_is_refused_and_kept(tmp_path):
    path = tmp_path / "small" / "students.csv"
    path.parent.mkdir()
    path.write_text("planet,moons\nEarth,1\n")
    with pytest.raises(RecordError, match=r"small/students\.csv has no column .* it is no record of this study"):
        studies.run(study(lambda trial: {"top1": 0.5}), tmp_path, progress=False)
    assert path.read_text() == "planet,moons\nEarth,1\n"


def test_a_record_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(RecordError, match="kdtutor study mixup"):
        studies.read("mixup", tmp_path)


# --- Images, labels and choices ---


def test_validation_images_are_never_trained_on():
    train = {image.tobytes() for image in students.pool().images.numpy()}
    held_out = students.validation()
    assert len(students.pool()) == 55_000 and len(held_out) == 5_000
    assert held_out.labels.bincount().tolist() == [students.VALIDATION] * 10
    shared = sum(image.tobytes() in train for image in held_out.images.numpy())
    assert shared <= 10  # Fashion-MNIST has a few images twice


def test_labels_that_must_not_be_read_are_not_there(monkeypatch):
    few = regimes.few_labels()
    kept = few.labels >= 0
    assert few.labels[kept].bincount().tolist() == [regimes.LABELLED // 10] * 10
    poisoned = dataclasses.replace(students.pool(), labels=torch.where(kept, students.pool().labels, 9))
    monkeypatch.setattr(regimes, "_labelled", lambda: kept.nonzero()[:, 0])
    monkeypatch.setattr(regimes, "pool", lambda: poisoned)
    regimes.few_labels.cache_clear()
    try:
        assert torch.equal(regimes.few_labels().labels, few.labels)
    finally:
        regimes.few_labels.cache_clear()


def test_one_label_in_five_is_wrong():
    wrong = regimes.wrong_labels().labels != students.pool().labels
    assert float(wrong.double().mean()) == pytest.approx(regimes.WRONG, abs=3 * math.sqrt(0.2 * 0.8 / 55_000))


def test_choices_do_not_see_test_images():
    draw = np.random.default_rng(0)
    grid = [(m, f, s) for m in ("kd", "sp") for f in sensitivity.FACTORS for s in range(3)]
    rows = pd.DataFrame(grid, columns=["method", "factor", "seed"]).assign(temperature=np.nan)
    rows["validation_top1"] = draw.random(len(rows))
    rows["top1"] = draw.random(len(rows))
    chosen = sensitivity.chosen_factors(rows)
    for method in ("kd", "sp"):
        means = {
            f: rows[(rows.method == method) & (rows.factor == f)].validation_top1.mean() for f in sensitivity.FACTORS
        }
        assert means[chosen[method]] == max(means.values())
    assert sensitivity.chosen_factors(rows.assign(top1=rows["top1"].sample(frac=1, random_state=1).values)) == chosen


def test_scaled_methods():
    for factor in (0.1, 3.0):
        assert students.scaled("kd", factor).weight == pytest.approx(0.9 * factor)
        assert students.scaled("kd", factor).ce_weight == 0.1
        rkd = students.scaled("rkd", factor)
        assert (rkd.distance_weight, rkd.angle_weight) == pytest.approx((25 * factor, 50 * factor))
        for name in ("dkd", "kernel"):
            own, usual = students.scaled(name, factor).weight, methods.build(name).weight
            assert [own(p) for p in (0.01, 0.5, 1)] == pytest.approx([factor * usual(p) for p in (0.01, 0.5, 1)])
    both = students.scaled("kd + sp", 2)
    assert [part.weight for part in both.methods] == [1.8, 6000]


def test_the_map_has_every_cell_with_a_meaning_once():
    cells = valid_cells()
    assert len(cells) == len({tuple(cell.values()) for cell in cells}) == 6 * 8 * 3 + 6 + 4
    assert {preset_of(cell) for cell in cells} == {"", "sp", "rkd_distance", "pkt", "cc", "cosine_gram"}


def test_group_landmarks_are_the_means_of_their_groups():
    groups = torch.tensor([0, 1, 1, -1, 2, 0])
    method = landmarks.GroupKernel(weight=1.0, groups=groups)
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    out = models.Outputs(torch.zeros(6, 10), {"embedding": features})
    index = torch.arange(6)
    batch = methods.Batch(torch.zeros(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64), index, index)
    assert method(out, out, batch).keys() == {"ce"}
    method.end_epoch()
    wanted = torch.stack([features[groups == k].mean(0) for k in range(3)])
    torch.testing.assert_close(method.centers["teacher"], wanted)
    assert method(out, out, batch)["kernel"] == 0  # the student has the teacher's features


# --- The numbers ---


def test_estimates_are_paired():
    draw = np.random.default_rng(1)
    base = pd.DataFrame({"seed": range(5), "top1": draw.random(5)})
    rows = pd.DataFrame({"seed": [3, 1, 0, 4, 2], "top1": 0})
    rows["top1"] = [base.top1[s] + 0.1 + 0.01 * draw.standard_normal() for s in rows.seed]
    ours = estimate(rows, base)
    values = rows.sort_values("seed").top1.to_numpy()
    interval = stats.ttest_rel(values, base.top1).confidence_interval(0.95)
    assert ours.difference - ours.half_width == pytest.approx(100 * interval.low)
    assert ours.difference + ours.half_width == pytest.approx(100 * interval.high)
    assert (ours.mean, ours.std) == pytest.approx((100 * values.mean(), 100 * values.std(ddof=1)))
    assert (
        ours.verdict == "higher" and answer(ours, "higher").startswith("yes") and answer(ours, "lower").startswith("no")
    )
    assert Estimate(1, 1, -0.1, 0.2).verdict == "cannot tell"


def test_explained_variance_is_that_of_main_effects():
    draw = np.random.default_rng(2)
    rows = [{"a": a, "b": b, "y": 3 * a + b * b + a * b + draw.random()} for a in range(4) for b in range(3)]
    table = pd.DataFrame(rows)
    ours = explained(table, ("a", "b"), "y")
    grand = np.mean([row["y"] for row in rows])
    total = sum((row["y"] - grand) ** 2 for row in rows)
    for factor in ("a", "b"):
        effect = 0
        for level in {row[factor] for row in rows}:
            own = [row["y"] for row in rows if row[factor] == level]
            effect += len(own) * (np.mean(own) - grand) ** 2
        assert ours[factor] == pytest.approx(effect / total)
    assert sum(ours.values()) == pytest.approx(1)


def test_listed():
    assert [listed(names) for names in ((), "a", "ab", "abc")] == ["none", "a", "a and b", "a, b and c"]


# --- results/README.md ---


def readme() -> str:
    return (RESULTS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", RECORDED)
def test_the_readme_is_what_the_record_says(name):
    text, figures = report.section(STUDIES[name], RESULTS / "studies")
    assert text in readme()
    for figure in figures:
        assert (RESULTS / "studies" / name / f"{figure}.png").stat().st_size > 1000


def test_the_table_at_a_glance_has_every_verdict_and_leads_to_it():
    glance, *sections = readme().split("\n## At a glance\n")[1].split("\n## ")
    linked = dict(re.findall(r"^\| \[(.+?)\]\(#(.+?)\)", glance, re.MULTILINE))
    for name in RECORDED:
        (part,) = (section for section in sections if section.startswith(f"{STUDIES[name].title}\n"))
        assert linked[STUDIES[name].title] == STUDIES[name].title.lower().replace(" ", "-")
        assert part.split("**Verdict.** ")[1].split("\n")[0] in glance


def test_every_record_is_in_the_readme():
    assert re.findall(r"kdtutor study (\w+)", readme()) == RECORDED


@pytest.mark.parametrize("name", [name for name in RECORDED if name in regimes.REGIMES])
def test_tables_of_the_regimes_by_hand(name):
    with open(RESULTS / "studies" / name / "students.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    top1 = {}
    for row in rows:
        top1.setdefault(row["method"], {})[int(row["seed"])] = 100 * float(row["top1"])
    part = readme().split(f"## {regimes.REGIMES[name][0]}\n")[1].split("\n## ")[0]
    lines = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")]
        for line in part.splitlines()
        if line.startswith("| `")
    }
    assert lines.keys() == top1.keys()
    baseline = regimes.ALONE if regimes.ALONE in top1 else "ce"
    for method, values in top1.items():
        cells = lines[method]
        assert len(values) >= 5
        assert cells[3] == f"{statistics.fmean(values.values()):.2f} ± {statistics.stdev(values.values()):.2f}"
        if method != baseline:
            differences = [values[seed] - top1[baseline][seed] for seed in values]
            half = (
                stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
            )
            mean = statistics.fmean(differences)
            assert cells[4] == f"{mean:+.2f} ± {half:.2f}"
            assert cells[5] == ("cannot tell" if abs(mean) <= half else "higher" if mean > 0 else "lower")
