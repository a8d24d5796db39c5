"""The comparison is paired, can be stopped, and its table says what the numbers are."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from kdtutor import compare as module
from kdtutor import memory, train
from kdtutor.compare import Comparison, Results, compare, format_table, paired_difference
from kdtutor.records import RecordError, read_json

# --- The table, from known numbers ---


def students(methods=("ce", "kd", "cmkd"), seeds=4) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        for i, method in enumerate(methods):
            rows.append(
                {
                    "method": method,
                    "status": "reconstruction" if method == "cmkd" else "exact",
                    "seed": seed,
                    "top1": 0.8 + 0.01 * i + 0.01 * draw.standard_normal(),
                    "nll": draw.random(),
                    "ece": draw.random(),
                    "overconfidence": draw.random() - 0.5,
                    "agreement": draw.random(),
                    "parameters": 4321,
                    "images_per_second": 1000 * draw.random(),
                    "peak_mib": 100 * draw.random(),
                    "seconds": 1.0,
                }
            )
    return pd.DataFrame(rows)


def results(frame: pd.DataFrame, **options) -> Results:
    comparison = Comparison(methods=tuple(frame["method"].unique()), seeds=frame["seed"].nunique(), **options)
    return Results(comparison, frame, pd.DataFrame(), {"top1": 0.93})


def test_the_table_is_means_over_seeds_and_paired_differences():
    frame = students()
    table = results(frame).table.set_index("method")
    assert list(table.index) == ["ce", "kd", "cmkd"]
    plain = frame[frame.method == "ce"].sort_values("seed").top1.to_numpy()
    for method, row in table.iterrows():
        own = frame[frame.method == method].sort_values("seed")
        top1 = own.top1.to_numpy()
        assert row.top1_mean == pytest.approx(np.mean(top1))
        assert row.top1_std == pytest.approx(np.std(top1, ddof=1))
        for column in ("nll", "ece", "overconfidence", "agreement", "images_per_second"):
            assert row[column] == pytest.approx(np.mean(own[column].to_numpy()))
        assert row.peak_mib == own.peak_mib.max() and row.parameters == 4321
        assert row.status == own.status.iloc[0]
        if method == "ce":
            assert np.isnan(row.vs_ce) and np.isnan(row.vs_ce_ci)
        else:
            interval = stats.ttest_1samp(top1 - plain, 0).confidence_interval(0.95)
            assert row.vs_ce == pytest.approx(np.mean(top1 - plain))
            assert (row.vs_ce - row.vs_ce_ci, row.vs_ce + row.vs_ce_ci) == pytest.approx(tuple(interval))


def test_pairs_go_by_seed_and_not_by_place():
    frame = students()
    shuffled = frame.sample(frac=1, random_state=3)
    for (_, a), (_, b) in zip(
        results(frame).table.set_index("method").sort_index().iterrows(),
        results(shuffled).table.set_index("method").sort_index().iterrows(),
        strict=True,
    ):
        assert a.get("vs_ce") == pytest.approx(b.get("vs_ce"), nan_ok=True)
        assert a.get("vs_ce_ci") == pytest.approx(b.get("vs_ce_ci"), nan_ok=True)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_is_that_of_students_t(confidence):
    draw = np.random.default_rng(1)
    a, b = pd.Series(draw.random(6)), pd.Series(draw.random(6))
    mean, half = paired_difference(a, b, confidence)
    low, high = stats.ttest_1samp(a - b, 0).confidence_interval(confidence)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_seeds_that_only_one_method_has_are_left_out():
    a, b = pd.Series([0.5, 0.7, 0.9], index=[0, 1, 2]), pd.Series([0.4, 0.5], index=[0, 1])
    mean, half = paired_difference(a, b)
    assert mean == pytest.approx(0.15) and half == pytest.approx(
        stats.t.ppf(0.975, 1) * np.std([0.1, 0.2], ddof=1) / 2**0.5
    )


def test_one_seed_has_no_error_bar():
    text = format_table(results(students(seeds=1)))
    assert "nan" not in text and "±" not in text and "1 seed," in text
    table = results(students(seeds=1)).table
    assert table.top1_std.isna().all() and table.vs_ce_ci.isna().all() and table.vs_ce.notna().sum() == 2


def test_without_cross_entropy_there_is_no_difference():
    table = results(students(methods=("kd",))).table
    assert "vs_ce" not in table
    assert "nan" not in format_table(results(students(methods=("kd",))))


def test_the_printed_numbers_are_those_of_the_table():
    outcome = results(students(), subset=None, epochs=7)
    text = format_table(outcome)
    assert str(outcome) == text
    assert "all training images, 7 epochs, 4 seeds" in text and "top-1 93.00 %" in text and "4,321 parameters" in text
    for row in outcome.table.to_dict("records"):
        (line,) = [line for line in text.splitlines() if line.startswith(row["method"] + " ")]
        numbers = [float(number) for number in re.findall(r"[-+]?\d+\.\d+", line)]
        expected = [100 * row["top1_mean"], 100 * row["top1_std"]]
        if row["method"] != "ce":
            expected += [100 * row["vs_ce"], 100 * row["vs_ce_ci"]]
        expected += [row["nll"], 100 * row["ece"], 100 * row["overconfidence"], 100 * row["agreement"]]
        assert numbers == pytest.approx(expected, abs=0.0051)
        assert row["status"] in line


# --- Whole comparisons, on a folder of small images ---


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory, toy, toy_test):
    root = tmp_path_factory.mktemp("toy")
    for split, images in (("train", toy), ("test", toy_test)):
        for i, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = root / split / images.classes[label] / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(path)
    return root


@pytest.fixture
def small(folder_of_images, tmp_path):
    return Comparison(
        methods=("ce", "kd", "kernel(weight=1.0)"),
        teacher="cnn14k",
        data=str(folder_of_images),
        folder=str(tmp_path / "run"),
        subset=80,
        epochs=2,
        batch_size=16,
        device="cpu",
    )


def numbers(outcome: Results) -> pd.DataFrame:
    """All but what depends on the clock."""
    return outcome.students.drop(columns=["seconds", "images_per_second", "peak_mib"])


@pytest.fixture
def calls(monkeypatch):
    """What each student brought to `distill`, and which batches each one saw."""
    seen = []
    original, make_batch = module.distill, train.make_batch

    def watched(student, data, method, *args, **options):
        name = getattr(method, "name", method)
        seen.append({"method": name, "weights": [p.clone() for p in student.state_dict().values()], "batches": []})
        return original(student, data, method, *args, **options)

    def watched_batch(data, order, step, epoch, settings):
        batch = make_batch(data, order, step, epoch, settings)
        seen[-1]["seed"] = settings.seed
        seen[-1]["batches"].append(torch.cat([batch.index, batch.view]).tolist())
        return batch

    monkeypatch.setattr(module, "distill", watched)
    monkeypatch.setattr(train, "make_batch", watched_batch)
    return seen


def test_within_a_seed_weights_and_batches_are_the_same(small, calls):
    compare(small, progress=False)
    ours = calls[1:]  # the first is the teacher
    assert [call["method"] for call in ours] == ["ce", "kd", "kernel"] * 2
    for seed in (0, 1):
        first, *others = [call for call in ours if call["seed"] == seed]
        assert len(first["batches"]) == 2 * 5
        for other in others:
            assert other["batches"] == first["batches"]
            assert all(torch.equal(a, b) for a, b in zip(first["weights"], other["weights"], strict=True))
    assert ours[0]["batches"] != ours[3]["batches"]
    assert not torch.equal(ours[0]["weights"][0], ours[3]["weights"][0])


def test_the_teacher_is_asked_once_about_each_view(small, monkeypatch):
    asked = []
    ask = memory.LiveTeacher.ask
    monkeypatch.setattr(memory.LiveTeacher, "ask", lambda self, x: (asked.append(len(x)), ask(self, x))[1])
    compare(small, progress=False)
    assert sum(asked) == 2 * 80 + 2  # two views of 80 images, after a look at two for their size


def test_the_record_folder(small, tmp_path):
    outcome = compare(small, progress=False)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "settings.json", "students.csv", "table.csv", "table.txt", "curves.png", "teacher",
        *(f"{method}-seed{seed}" for method in ("ce", "kd", "kernel_weight=1.0_") for seed in (0, 1)),
    }  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv(folder / "students.csv"), outcome.students)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "table.csv"), outcome.table)
    assert (folder / "table.txt").read_text() == format_table(outcome) + "\n"
    with Image.open(folder / "curves.png") as picture:
        assert min(picture.size) > 100
    settings = read_json(folder / "settings.json")
    assert settings["subset"] == 80 and settings["torch"] == torch.__version__ and settings["methods"][0] == "ce"
    curves = outcome.curves
    assert len(curves) == 3 * 2 * 2 and set(curves["epoch"]) == {1, 2}
    last = curves[curves["epoch"] == 2].set_index(["method", "seed"])["top1"]
    assert (outcome.students.set_index(["method", "seed"])["top1"] == last).all(), "the last epoch counts"


@pytest.mark.parametrize("stop_at", [2, 3, 5])
def test_a_stopped_comparison_goes_on(small, tmp_path, monkeypatch, stop_at):
    whole = compare(dataclasses.replace(small, folder=str(tmp_path / "whole")), progress=False)
    made = []
    original = module.distill

    def stopping(student, data, method, *args, **options):
        made.append(method)
        if len(made) == 1 + stop_at:  # the first is the teacher
            raise KeyboardInterrupt
        return original(student, data, method, *args, **options)

    monkeypatch.setattr(module, "distill", stopping)
    part = compare(small, progress=False)
    monkeypatch.setattr(module, "distill", original)
    assert len(part.students) == stop_at - 1
    assert f"Stopped after {stop_at - 1} of 6 students" in format_table(part) and "nan" not in format_table(part)

    epochs = []
    save = train.RunFolder.save
    monkeypatch.setattr(
        train.RunFolder, "save", lambda self, rows, tensors: (epochs.append(self.path.name), save(self, rows, tensors))
    )
    rest = compare(small, progress=False)
    assert len(epochs) == 2 * (6 - (stop_at - 1)), "what was done is not done again"
    pd.testing.assert_frame_equal(numbers(rest), numbers(whole))
    assert "Stopped" not in format_table(rest)


def test_ctrl_c_before_the_first_student_is_done(small, monkeypatch):
    def stopping(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "remember_teacher", stopping)
    with pytest.raises(KeyboardInterrupt):
        compare(small, progress=False)


def test_ctrl_c_while_a_student_is_evaluated_keeps_the_others(small, monkeypatch):
    evaluate, count = module.evaluate, []

    def stopping(*args):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(module, "evaluate", stopping)
    assert len(compare(small, progress=False).students) == 2


@pytest.mark.parametrize(
    "other", [{"lr": 0.3}, {"student": "cnn14k"}, {"teacher": "cnn4k"}, {"subset": 64}, {"epochs": 3}]
)
def test_a_folder_of_another_comparison_is_refused_and_kept(small, tmp_path, other):
    """Above all another teacher's: its students are done, and would be shown under the new one's name."""
    before = compare(small, progress=False)
    with pytest.raises(RecordError, match=r"holds a run with .*choose another folder, or remove that one"):
        compare(dataclasses.replace(small, **other), progress=False)
    settings = read_json(tmp_path / "run" / "settings.json")
    assert all(settings[name] == getattr(small, name) for name in other)
    pd.testing.assert_frame_equal(numbers(compare(small, progress=False)), numbers(before))


def test_methods_and_seeds_can_be_added(small):
    fewer = compare(dataclasses.replace(small, methods=("ce", "kd"), seeds=1), progress=False)
    more = compare(small, progress=False)
    both = numbers(more).merge(numbers(fewer), how="inner")
    assert len(both) == 2 and len(more.students) == 6


def test_a_live_teacher(small):
    outcome = compare(dataclasses.replace(small, views=None, methods=("kd",), seeds=1), progress=False)
    assert len(outcome.students) == 1


def test_cross_entropy_alone_asks_no_teacher_while_training(small, monkeypatch):
    monkeypatch.setattr(module, "remember_teacher", None)
    assert list(compare(dataclasses.replace(small, methods=("ce",)), progress=False).table["method"]) == ["ce"]


def test_settings_of_a_student():
    own = Comparison(seed=3, lr=0.7, epochs=4).settings(9)
    assert type(own) is train.Settings and (own.seed, own.lr, own.epochs) == (9, 0.7, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ()}, "methods is empty; name at least one"),
        ({"methods": ("kdd",)}, "method is 'kdd', which is not known; did you mean 'kd'"),
        ({"methods": ("kd", "ce", "kd")}, "methods names 'kd' twice"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"student": "cnn5k"}, "student is 'cnn5k', which is not known; did you mean 'cnn4k'"),
        ({"teacher": "bas"}, "teacher is 'bas', which is not known; did you mean 'base'"),
        ({"data": "cifar10"}, "teacher 'base' knows Fashion-MNIST only, and data is 'cifar10'"),
        ({"lr": -1.0}, "lr must be greater than 0, got -1.0"),
    ],
)
def test_comparisons_that_cannot_work(wrong, message):
    with pytest.raises(ValueError, match=message):
        Comparison(**wrong)
