"""Which tensors each method compares, at which weight, and the state it keeps."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses, methods, papers
from kdtutor.methods import METHODS, Batch, Combined, StartAfter, WarmUp, build, weight_at
from kdtutor.models import Outputs

B, C = 12, 5


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_batch(labels="all", seed=0) -> Batch:
    y = torch.randint(0, C, (B,), generator=rng(seed))
    y = {"all": y, "some": torch.where(torch.arange(B) % 3 == 0, y, -1), "none": None, "all -1": y * 0 - 1}[labels]
    images = torch.randn(B, 1, 4, 4, generator=rng(seed + 1), dtype=torch.float64)
    return Batch(images, y, torch.arange(B), torch.zeros(B, dtype=torch.int64))


def make_outputs(seed=0, width=6) -> tuple[Outputs, Outputs]:
    """A student's and a wider teacher's."""

    def one(width, seed):
        feature_map = torch.rand(B, width, 3, 3, generator=rng(seed), dtype=torch.float64)
        logits = 2 * torch.randn(B, C, generator=rng(seed + 1), dtype=torch.float64)
        leaves = [logits.requires_grad_(), feature_map.requires_grad_()]
        return Outputs(leaves[0], {"feature_map": leaves[1], "embedding": leaves[1].mean(dim=(2, 3))})

    return one(width, seed), one(width + 3, seed + 50)


def all_terms(spec, batch=None, progress=1.0):
    method = build(spec)
    method.start_epoch(progress)
    student, teacher = make_outputs()
    return method(student, teacher, make_batch() if batch is None else batch)


# --- Each method's terms: weight x loss, written out ---


def by_hand(name: str, s: Outputs, t: Outputs) -> dict:
    """The published totals of shared formulas: name -> (cross-entropy's weight, {term: weight * loss})."""
    fs, ft = s.features, t.features
    ours = {name: METHODS[name]().weight for name in ("affinity", "cc")}  # nobody published these two
    return {
        "ce": (1.0, {}),
        "kd": (0.1, {"kd": 0.9 * losses.kd_loss(s.logits, t.logits, 4.0)}),
        "sp": (1.0, {"sp": 3000 * losses.sp_loss(fs["feature_map"], ft["feature_map"])}),
        "affinity": (
            1.0,
            {
                "affinity": ours["affinity"]
                * losses.affinity_loss(fs["embedding"], ft["embedding"], "cosine", "none", "mse")
            },
        ),
        "cmkd": (1.0, {"cmkd": 2 * losses.cmkd_loss(s.logits, t.logits)}),
        "dist": (1.0, {"dist": 2 * losses.dist_loss(s.logits, t.logits, 4.0, 1.0, 1.0)}),
        "dkd": (1.0, {"dkd": losses.dkd_loss(s.logits, t.logits, make_batch().labels, 1.0, 8.0, 4.0)}),
        "rkd": (
            1.0,
            {
                "rkd_distance": 25
                * losses.affinity_loss(fs["embedding"], ft["embedding"], "euclidean", "mean", "smooth_l1"),
                "rkd_angle": 50 * losses.rkd_angle_loss(fs["embedding"], ft["embedding"]),
            },
        ),
        "pkt": (
            1.0,
            {"pkt": 30000 * losses.affinity_loss(fs["embedding"], ft["embedding"], "cosine_shifted", "row_l1", "kl")},
        ),
        "cc": (
            1.0,
            {"cc": ours["cc"] * losses.affinity_loss(fs["embedding"], ft["embedding"], "rbf", "none", "mse")},
        ),
    }[name]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("stkd", "kernel")])
def test_terms_are_weight_times_loss(name):
    batch = make_batch()
    student, teacher = make_outputs()
    ce_weight, expected = by_hand(name, student, teacher)
    log_p = student.logits - student.logits.exp().sum(dim=1, keepdim=True).log()
    expected["ce"] = -ce_weight * sum(log_p[b, batch.labels[b]] for b in range(B)) / B
    terms = all_terms(name)
    assert terms.keys() == expected.keys()
    for term in terms:
        torch.testing.assert_close(terms[term], expected[term])


def test_preset_weights_and_cells_agree_with_the_presets_of_the_losses():
    for name in ("pkt", "cc"):
        method = METHODS[name]()
        cell = {key: getattr(method, key) for key in ("affinity", "normalization", "discrepancy")}
        assert {**cell, **method.options} == {**method.options, **losses.PRESETS[name]}


def test_standardized_kd_is_kd_on_z_scores():
    student, teacher = make_outputs()

    def z(x):
        x = x.detach().numpy()
        return torch.from_numpy((x - x.mean(1, keepdims=True)) / (1e-7 + x.std(1, keepdims=True, ddof=1)))

    terms = all_terms("kd(standardized=True, temperature=2, ce_weight=.1, weight=9)")
    torch.testing.assert_close(terms["kd"], 9 * losses.kd_loss(z(student.logits), z(teacher.logits), 2.0))


@pytest.mark.parametrize("name", METHODS)
def test_only_the_student_gets_a_gradient(name):
    method, batch = build(name), make_batch()
    method.start_epoch(1.0)
    batch = method.prepare(batch, rng())
    student, teacher = make_outputs()
    if name == "kernel":
        method(*make_outputs(9), batch)
        method.end_epoch()
    sum(method(student, teacher, batch).values()).backward()
    assert teacher.logits.grad is None and teacher.features["feature_map"].grad is None
    assert student.logits.grad.abs().sum() > 0
    if method.features:
        assert student.features["feature_map"].grad.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_method_asks_for_every_feature_it_reads_and_for_no_other(name):
    method = build(name)
    student, teacher = make_outputs()

    class Watched(dict):
        read = set()

        def __getitem__(self, key):
            self.read.add(key)
            return super().__getitem__(key)

    student, teacher = (Outputs(out.logits, Watched(out.features)) for out in (student, teacher))
    Watched.read = set()
    method(student, teacher, method.prepare(make_batch(), rng()))
    assert Watched.read == set(method.features)


# --- Cross-entropy with labels that are missing or mixed ---


def ce_by_hand(logits, labels):
    z = logits.detach().numpy()
    rows = [(row, int(label)) for row, label in zip(z, labels, strict=True) if label >= 0]
    return [math.log(sum(math.exp(v - row[label]) for v in row)) for row, label in rows]


def test_unlabelled_samples_do_not_count():
    batch = make_batch("some")
    student, _ = make_outputs()
    wanted = np.mean(ce_by_hand(student.logits, batch.labels))
    assert methods.cross_entropy(student.logits, batch).item() == pytest.approx(wanted, rel=1e-12)


def test_no_label_at_all_is_zero_with_zero_gradient():
    student, _ = make_outputs()
    loss = methods.cross_entropy(student.logits, make_batch("all -1"))
    loss.backward()
    assert loss.item() == 0 and student.logits.grad.abs().max() == 0


def test_mixed_cross_entropy_weighs_each_label_by_its_share():
    batch = make_batch("some")
    batch.lam, batch.permuted_labels = 0.3, batch.labels.roll(1)
    batch.permuted_labels[1] = -1  # fewer partners than samples have a label
    student, _ = make_outputs()  # the counts are float32, whatever the logits are
    own, partner = ce_by_hand(student.logits, batch.labels), ce_by_hand(student.logits, batch.permuted_labels)
    wanted = (0.3 * sum(own) + 0.7 * sum(partner)) / (0.3 * len(own) + 0.7 * len(partner))
    assert methods.cross_entropy(student.logits, batch).item() == pytest.approx(wanted, rel=1e-6)
    batch.lam = 1.0
    wanted = np.mean(own)
    assert methods.cross_entropy(student.logits, batch).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].needs_labels and name != "ce"])
def test_without_labels_there_is_no_cross_entropy_term(name):
    method = build(name)
    terms = method(*make_outputs(), method.prepare(make_batch("none"), rng()))
    assert terms and "ce" not in terms


@pytest.mark.parametrize("name", METHODS)
def test_the_label_of_an_unlabelled_sample_is_never_read(name):
    """-1 is not taken for a class, such as the last one, as an index would be."""
    method, batch = build(name), make_batch("some")
    if name == "kernel":
        method(*make_outputs(9), make_batch("some", seed=3))
        method.end_epoch()
    student, teacher = make_outputs()
    terms = method(student, teacher, method.prepare(batch, rng()))
    assert all(term.isfinite() for term in terms.values())
    if "dkd" in terms:
        labelled = batch.labels >= 0
        wanted = losses.dkd_loss(student.logits[labelled], teacher.logits[labelled], batch.labels[labelled])
        torch.testing.assert_close(terms["dkd"], wanted)


# --- Schedules ---


def test_dkd_warms_up_linearly_over_20_of_240_epochs():
    method, full = build("dkd"), all_terms("dkd", progress=1.0)["dkd"]
    for epoch in (1, 7, 19, 20, 21, 240):  # the benchmark's code counts from 1
        method.start_epoch(epoch / 240)
        term = method(*make_outputs(), make_batch())["dkd"]
        torch.testing.assert_close(term, min(epoch / 20, 1.0) * full)


@pytest.mark.parametrize("epochs", [120, 240, 24])
def test_kernel_transfer_starts_after_5_of_120_epochs(epochs):
    weight = build("kernel").weight
    weights = [weight_at(weight, (epoch + 1) / epochs) for epoch in range(epochs)]
    off = round(epochs * 5 / 120)
    assert weights == [0.0] * off + [0.04] * (epochs - off)


def test_weights_may_be_functions_of_progress_and_zero_drops_the_term():
    method = methods.KD(ce_weight=0, weight=lambda progress: 2 * progress)
    method.start_epoch(0.25)
    terms = method(*make_outputs(), make_batch())
    assert terms.keys() == {"kd"}
    student, teacher = make_outputs()
    torch.testing.assert_close(terms["kd"], 0.5 * losses.kd_loss(student.logits, teacher.logits, 4.0))
    assert WarmUp(3.0, 0.5)(0.25) == 1.5 and WarmUp(3.0, 0.5)(0.75) == 3.0
    assert StartAfter(3.0, 0.5)(0.5) == 0.0 and StartAfter(3.0, 0.5)(0.51) == 3.0


# --- Kernel transfer's state ---


def centres_by_hand(batches, who):
    """The mean of each class's features over the batches, with Python loops; None for a class that did not come up."""
    rows = {label: [] for label in range(C)}
    for (student, teacher), batch in batches:
        features = (student if who == "student" else teacher).features["embedding"].detach().numpy()
        for row, label in zip(features, batch.labels.tolist(), strict=True):
            if label >= 0:
                rows[label].append(row)
    return {label: np.mean(those, axis=0) if those else None for label, those in rows.items()}


def test_centres_are_the_class_means_of_the_epoch_before():
    method = build("kernel(weight=1.0)")
    first = [(make_outputs(seed), make_batch(labels, seed)) for seed, labels in ((1, "all"), (2, "some"), (3, "all"))]
    for outputs, batch in first:
        assert "kernel" not in method(*outputs, batch), "there are no centres in the first epoch"
    method.end_epoch()
    expected = {who: centres_by_hand(first, who) for who in ("student", "teacher")}
    for who in expected:
        for label in range(C):
            np.testing.assert_allclose(method.centers[who][label], expected[who][label], rtol=1e-12)

    # Next epoch: no image of class 2; its centre stays, the others are made of this epoch alone.
    batch = make_batch("all", 7)
    batch.labels[batch.labels == 2] = 3
    second = [(make_outputs(8), batch)]
    (student, teacher), _ = second[0]
    term = method(student, teacher, batch)["kernel"]
    M_s, M_t = (torch.from_numpy(np.stack(list(expected[who].values()))) for who in ("student", "teacher"))
    S, T = student.features["embedding"] @ M_s.T, teacher.features["embedding"] @ M_t.T
    torch.testing.assert_close(term, F.smooth_l1_loss(S, T, reduction="sum") / T.square().sum().sqrt())
    method.end_epoch()
    for who in expected:
        again = centres_by_hand(second, who)
        for label in range(C):
            wanted = expected[who][label] if again[label] is None else again[label]
            np.testing.assert_allclose(method.centers[who][label], wanted, rtol=1e-12)


def test_a_class_never_seen_has_a_centre_of_zeros_and_no_nan():
    method, batch = build("kernel(weight=1.0)"), make_batch()
    batch.labels[:] = 1
    method(*make_outputs(), batch)
    method.end_epoch()
    assert (method.centers["student"][0] == 0).all()
    assert method(*make_outputs(), batch)["kernel"].isfinite()


@pytest.mark.parametrize("spec", ["kernel", "kd + kernel(weight=.5) + sp"])
def test_state_goes_round(spec):
    method, other = build(spec), build(spec)
    method(*make_outputs(), make_batch())
    method.end_epoch()
    state = method.state_dict()
    assert len(state) == 2
    other.load_state_dict(state)
    outputs, batch = make_outputs(5), make_batch("all", 5)
    ours, theirs = method(*outputs, batch), other(*outputs, batch)
    assert ours.keys() == theirs.keys() and any("kernel" in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_loading_a_state_forgets_the_sums_of_a_broken_epoch():
    method = build("kernel")
    method(*make_outputs(), make_batch())  # an epoch that was never finished
    method.load_state_dict({})
    batches = [(make_outputs(5), make_batch("all", 5))]
    method(*batches[0][0], batches[0][1])
    method.end_epoch()
    for label, centre in centres_by_hand(batches, "teacher").items():
        np.testing.assert_allclose(method.centers["teacher"][label], 0 if centre is None else centre, rtol=1e-12)


def test_kernel_refuses_mixed_images():
    method = build("stkd + kernel")
    batch = method.prepare(make_batch(), rng())
    with pytest.raises(ValueError, match="kernel: a mixed image belongs to no class"):
        method(*make_outputs(), batch)


# --- STKD ---


def test_stkd_on_virtual_images():
    method, clean = build("stkd(weight=.9, ce_weight=.1, temperature=3)"), make_batch()
    batch = method.prepare(clean, rng(4))
    assert batch.virtual and batch.teacher_images is None
    lam, perm = batch.lam, batch.permutation
    torch.testing.assert_close(batch.images, lam * clean.images + (1 - lam) * clean.images[perm])
    assert torch.equal(batch.labels, clean.labels) and torch.equal(batch.permuted_labels, clean.labels[perm])
    student, teacher = make_outputs()
    total = sum(method(student, teacher, batch).values())
    expected = losses.stkd_loss(
        student.logits, teacher.logits, batch.labels, batch.permuted_labels, lam, temperature=3, weight=0.9
    )
    torch.testing.assert_close(total, expected)


def test_stkd_on_interpolated_answers():
    method, clean = build("stkd(target='interpolated', temperature=3)"), make_batch()
    batch = method.prepare(clean, rng(4))
    assert not batch.virtual and torch.equal(batch.teacher_images, clean.images)
    student, teacher = make_outputs()
    p_t = (teacher.logits / 3).softmax(dim=1)
    p_t = batch.lam * p_t + (1 - batch.lam) * p_t[batch.permutation]
    log_p_s = (student.logits / 3).log_softmax(dim=1)
    expected = 0.9 * 9 * (p_t * (p_t.log() - log_p_s)).sum(dim=1).mean()
    torch.testing.assert_close(method(student, teacher, batch)["stkd"], expected)


def test_stkd_draws_from_the_given_stream_alone():
    method = build("stkd")
    torch.manual_seed(1)
    one = method.prepare(make_batch(), rng(4))
    torch.manual_seed(2)
    two = method.prepare(make_batch(), rng(4))
    other = method.prepare(make_batch(), rng(5))
    assert torch.equal(one.images, two.images) and one.lam == two.lam != other.lam


def test_stkd_refusals():
    with pytest.raises(ValueError, match="stkd: target is 'clean'; choose 'virtual' or 'interpolated'"):
        build("stkd(target='clean')")
    twice = build("stkd + stkd")
    with pytest.raises(ValueError, match="mixed already"):
        twice.prepare(make_batch(), rng())
    with pytest.raises(ValueError, match=r"stkd: target is 'interpolated'.*kd, sp cannot compare"):
        build("kd + stkd(target='interpolated') + sp")
    mixed = build("stkd + dkd")
    with pytest.raises(ValueError, match="dkd: a mixed image has no single target class"):
        mixed(*make_outputs(), mixed.prepare(make_batch(), rng()))
    build("ce + stkd(target='interpolated')")


def test_other_methods_leave_the_batch_alone():
    batch = make_batch()
    for name in METHODS:
        if name != "stkd":
            assert build(name).prepare(batch, rng()) is batch


# --- Combining ---


def test_a_sum_has_the_first_ones_cross_entropy_and_all_other_terms():
    kd, sp, both = all_terms("kd"), all_terms("sp(weight=10)"), all_terms("kd + sp(weight=10)")
    assert list(both) == ["ce", "kd", "sp"]
    torch.testing.assert_close(both["ce"], kd["ce"])
    torch.testing.assert_close(both["kd"], kd["kd"])
    torch.testing.assert_close(both["sp"], sp["sp"])
    torch.testing.assert_close(all_terms("sp + kd")["ce"], sp["ce"])
    assert "ce" not in all_terms("kd(ce_weight=0) + sp")


def test_terms_of_one_name_add_up():
    twice = all_terms("kd + kd(temperature=2)")["kd"]
    torch.testing.assert_close(twice, all_terms("kd")["kd"] + all_terms("kd(temperature=2)")["kd"])


def test_a_sum_needs_what_its_parts_need():
    both = build("ce + sp + kernel")
    assert isinstance(both, Combined)
    assert both.features == ("feature_map", "embedding")
    assert both.needs_teacher and both.needs_labels and both.exact
    assert not build("kd + cmkd").exact
    assert not build("ce + ce").needs_teacher


# --- Text ---


@pytest.mark.parametrize("name", METHODS)
def test_every_method_builds_from_its_name(name):
    method = build(name)
    assert method.name == name
    assert isinstance(method.paper, papers.Paper) and isinstance(method.exact, bool)
    assert build(method) is method


def test_reconstructions_are_named_as_such():
    assert {name for name in METHODS if not METHODS[name].exact} == {"affinity", "stkd", "cmkd"}


def test_settings_are_read_from_text():
    method = build(" kd( temperature = 2.5, standardized=True, weight=3 ) ")
    assert (method.temperature, method.standardized, method.weight, method.ce_weight) == (2.5, True, 3, 0.1)
    cell = build("affinity(affinity='rbf', options={'gamma': .4, 'order': 2})")
    assert cell.options == {"gamma": 0.4, "order": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kdd", r"method is 'kdd', which is not known; did you mean 'kd'"),
        ("kd(temprature=2)", r"kd has no setting 'temprature'; did you mean 'temperature'"),
        ("kd(2)", r"method is 'kd\(2\)', wanted a name"),
        ("kd +", r"method is 'kd \+', wanted a name"),
        ("kd - sp", r"method is 'kd - sp', wanted a name"),
        ("", "method is '', wanted a name"),
        ("kd sp", "method is 'kd sp', wanted a name"),
        ("losses.kd()", r"method is 'losses.kd\(\)', wanted a name"),
        ("kd(**{'weight': 1})", "kd has no setting None"),
        ("kd(weight=-1)", "kd: weight must be 0 or greater and finite, got -1"),
        ("kd(weight=1e999)", "kd: weight must be 0 or greater and finite, got inf"),
        ("rkd(angle_weight=-1)", "rkd: angle_weight must be 0 or greater"),
        ("affinity(affinity='cosin')", "affinity is 'cosin'.*'cosine'"),
        ("affinity(discrepancy='kl')", "kl"),
    ],
)
def test_text_that_means_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        build(text)


def test_a_type_that_cannot_work_is_refused():
    with pytest.raises(TypeError, match="kd: weight must be a number or a function of progress, got 'x'"):
        build("kd(weight='x')")
    with pytest.raises(TypeError, match="kd: weight must be a number"):
        build("kd(weight=True)")
    with pytest.raises(TypeError, match="method must be text such as 'kd"):
        build(3)


@pytest.mark.parametrize(
    "text",
    [
        "kd(temperature=__import__('os').mkdir('{}'))",
        "kd(weight=open('{}', 'w'))",
        "__import__('os').mkdir('{}')",
        "(lambda: open('{}', 'w'))()",
        "[kd for _ in [open('{}', 'w')]][0]",
    ],
)
def test_text_is_never_run(tmp_path, text):
    trace = tmp_path / "trace"
    with pytest.raises(ValueError, match="method is"):
        build(text.format(trace.as_posix()))
    assert not trace.exists()


# --- Papers ---


def test_bibtex_entries_are_whole_and_distinct():
    entries = {method.paper.key: method.paper.bibtex for method in METHODS.values()}
    assert len(entries) == len(METHODS)
    for key, entry in entries.items():
        assert entry.startswith(("@article{" + key, "@inproceedings{" + key)) and entry.endswith("}")
        assert entry.count("{") == entry.count("}")
        fields = [line.split("=")[0].strip() for line in entry.splitlines()[1:-1]]
        assert {"author", "title", "year"} <= set(fields) and len(fields) == len(set(fields))
        assert all(line.endswith(",") for line in entry.splitlines()[1:-2])
