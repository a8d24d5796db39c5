"""The audit of losses: nothing right is called wrong, and each planted mistake is named."""

import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.audit import AuditError, audit, load_loss, run
from kdtutor.audit.kinds.relations import valid_cells

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def log_p(z, T=1.0, dim=1):
    return F.log_softmax(z / T, dim)


def p(z, T=1.0, dim=1):
    return F.softmax(z / T, dim)


def codes(report):
    return {finding.code for finding in report.findings}


# --- No false alarms: kdtutor's own losses ---


def pearson(student_logits, teacher_logits):
    return 1 - losses.pearson_correlation(student_logits, teacher_logits.detach()).mean()


def spearman(student_logits, teacher_logits):
    return 1 - losses.spearman_correlation(student_logits, teacher_logits.detach()).mean()


OWN = {
    "kd": losses.kd_loss,
    "logit_standardization": losses.standardize_logits,
    "dkd": losses.dkd_loss,
    "stkd": losses.stkd_loss,
    "pearson": pearson,
    "spearman": spearman,
    "cmkd": losses.cmkd_loss,
    "dist": losses.dist_loss,
    "sp": losses.sp_loss,
    "rkd_angle": losses.rkd_angle_loss,
    "kernel": losses.kernel_transfer_loss,
}


@DTYPES
@pytest.mark.parametrize("kind", OWN)
def test_own_losses_pass_clean(kind, dtype):
    report = audit(OWN[kind], kind=kind, dtype=dtype)
    assert report.ok and report.kind == kind and not report.notes, str(report)
    assert all(check.ok is not False for check in report.checks), str(report)


ORDER, CLASSES, SHIFT = "order of the samples", "order of the classes", "a constant added to each row of logits"
ROTATION, SCALE = "a rotation of each network's features", "the scale of the teacher's features"
BLIND = {
    "kd": {ORDER, CLASSES, SHIFT},
    "dkd": {ORDER, CLASSES, SHIFT},
    "stkd": {ORDER, CLASSES, SHIFT},
    "pearson": {ORDER, CLASSES, SHIFT},
    "spearman": {ORDER, CLASSES, SHIFT},
    "sp": {ORDER, ROTATION, SCALE},
    "rkd_angle": {ORDER, ROTATION, SCALE},
    "kernel": {ORDER, ROTATION},
}


@pytest.mark.parametrize("kind", BLIND)
def test_invariances_that_are_due_are_looked_at(kind):
    looked_at = {check.name for check in audit(OWN[kind], kind=kind).checks if check.name.startswith("blind to ")}
    assert looked_at == {f"blind to {name}" for name in BLIND[kind]}


@pytest.mark.parametrize("kind", OWN)
def test_auto_finds_which_loss_it_is(kind):
    report = audit(OWN[kind])
    assert report.ok and report.kind == kind, str(report)


@DTYPES
@pytest.mark.parametrize("name", losses.PRESETS)
def test_presets_pass_clean(name, dtype):
    def preset(student_features, teacher_features):
        return losses.affinity_loss(student_features, teacher_features, **losses.PRESETS[name])

    for kind in (name, "auto"):
        report = audit(preset, kind=kind, dtype=dtype)
        assert report.ok and report.kind == name and not report.notes, str(report)


@DTYPES
def test_every_cell_passes_as_itself(dtype):
    for cell in valid_cells():

        def loss(student_features, teacher_features, cell=cell):
            return losses.affinity_loss(student_features, teacher_features, **cell)

        report = audit(loss, kind="similarity", dtype=dtype, **cell)
        assert report.ok and not report.notes, f"{cell}\n{report}"


def test_options_of_a_cell_reach_the_loss():
    cell = {"affinity": "cosine", "normalization": "row_softmax", "discrepancy": "kl"}
    assert not audit(losses.affinity_loss, kind="similarity", **cell, tau=0.1).codes

    def with_tau(student, teacher, tau=1.0):
        return losses.affinity_loss(student, teacher, **cell, tau=tau)

    class WithTau(nn.Module):
        def __init__(self, tau=0.1):
            super().__init__()
            self.tau = tau

        def forward(self, f_s, f_t):
            return with_tau(f_s, f_t, self.tau)

    for loss in (with_tau, WithTau):
        assert not audit(loss, kind="similarity", **cell, tau=0.3).codes
    assert not audit(with_tau, kind="similarity", **cell).codes  # of features tau is no temperature
    assert codes(audit(WithTau(0.1), kind="similarity", **cell, tau=0.3)) == {"unknown_loss"}


@pytest.mark.parametrize("cell", valid_cells()[::6], ids=lambda cell: ", ".join(cell.values()))
def test_auto_calls_no_cell_a_mistake_and_names_it(cell):
    report = audit(lambda student, teacher: losses.affinity_loss(student, teacher, **cell))
    assert report.ok, str(report)
    twins = {"row_minmax", "row_zscore", "smooth_l1"}  # cells that are another's multiple
    if not twins & set(cell.values()):
        assert f"({', '.join(cell.values())})" in report.identity
        assert (report.kind, report.codes) in (("similarity", {"other_cell"}), ("sp", set())), str(report)


# --- No false alarms: right losses written another way ---


def kd_sum_then_mean(student, teacher, T=4.0):
    return T * T * (p(teacher, T) * (log_p(teacher, T) - log_p(student, T))).sum(1).mean()


def kd_log_target(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student, T), log_p(teacher, T), log_target=True, reduction="batchmean")


def kd_squared_inside(student, teacher, temperature):
    return F.kl_div(log_p(student, temperature), temperature**2 * p(teacher, temperature), reduction="batchmean")


def kd_sum_over_batch_size(student, teacher, T):
    return F.kl_div(log_p(student, T), p(teacher, T), reduction="sum") * T * T / len(student)


def kd_teacher_first(teacher_logits, student_logits, temperature):
    return kd_sum_then_mean(student_logits, teacher_logits, temperature)


def kd_per_sample(student, teacher, T=4.0):
    return losses.kd_loss(student, teacher, T, reduction="none")


def kd_with_cross_entropy(student, teacher, labels, T=4.0):
    return 0.9 * kd_sum_then_mean(student, teacher, T) + 0.1 * F.cross_entropy(student, labels)


def kd_in_float32(student, teacher, T=4.0):
    return kd_sum_then_mean(student.float(), teacher.float(), T)


class KD(nn.Module):
    def __init__(self, T):
        super().__init__()
        self.T = T

    def forward(self, y_s, y_t):
        return kd_sum_then_mean(y_s, y_t, self.T)


def kd_at_four(student, teacher):
    return kd_sum_then_mean(student, teacher, 4.0)


RIGHT_KD = [
    kd_sum_then_mean,
    kd_log_target,
    kd_sum_over_batch_size,
    kd_teacher_first,
    kd_per_sample,
    kd_with_cross_entropy,
    kd_in_float32,
    KD,
    KD(2.0),
    kd_at_four,
]


@pytest.mark.parametrize("loss", RIGHT_KD, ids=lambda loss: getattr(loss, "__name__", "module"))
@pytest.mark.parametrize("kind", ["kd", "auto"])
def test_right_kd_in_other_words_is_right(loss, kind):
    report = audit(loss, kind=kind)
    assert report.ok and report.kind == "kd", str(report)


def test_soft_cross_entropy_is_kd_with_a_shifted_value():
    def soft_cross_entropy(student, teacher, T=4.0):
        return -T * T * (p(teacher, T) * log_p(student, T)).sum(1).mean()

    report = audit(soft_cross_entropy, kind="kd")
    assert report.ok and "shifted_value" in report.codes
    note = next(note for note in report.notes if note.code == "shifted_value")
    assert "same gradient" in note.measured


def test_gradient_to_the_teacher_is_a_note():
    report = audit(kd_sum_then_mean, kind="kd")
    assert report.ok and "teacher_gets_gradient" in report.codes
    assert "teacher_gets_gradient" not in audit(losses.kd_loss, kind="kd").codes


def test_bundled_cross_entropy_is_subtracted_and_said():
    report = audit(kd_with_cross_entropy, kind="kd")
    note = {note.code: note.measured for note in report.notes}
    assert "0.1" in note["with_cross_entropy"] and "0.9" in note["weighted"]


BUNDLED = {
    "labels smoothed": (
        lambda s, labels, T: F.cross_entropy(s, labels, label_smoothing=0.1),
        {"with_cross_entropy": 0.45, "with_smoothed_labels": 0.05},
    ),
    "softened": (lambda s, labels, T: F.cross_entropy(s / T, labels), {"with_softened_cross_entropy": 0.5}),
}


@pytest.mark.parametrize("form", BUNDLED)
def test_other_cross_entropies_are_subtracted_too(form):
    cross_entropy, weights = BUNDLED[form]

    def bundled(student, teacher, labels, T):
        return 0.5 * kd_sum_then_mean(student, teacher, T) + 0.5 * cross_entropy(student, labels, T)

    def averaged(student, teacher, labels, T):
        return kd_mean(student, teacher, T) + cross_entropy(student, labels, T)

    report = audit(bundled, kind="kd")
    said = {note.code: note.measured for note in report.notes if note.code.startswith("with_")}
    assert report.ok and set(said) == set(weights), str(report)
    assert all(f"times {weight:g}" in said[code] for code, weight in weights.items())
    assert codes(audit(averaged, kind="kd")) == {"mean_over_classes"}


def test_a_temperature_inside_the_sum_is_seen_through():
    # T ** 2 p_t does not sum to 1, so its value is another one; its gradient is KD's.
    report = audit(kd_squared_inside, kind="kd")
    assert report.ok and "shifted_value" in report.codes, str(report)


def gram(features):
    return features.flatten(1) @ features.flatten(1).T


def sp_with(normalize, average=torch.Tensor.mean):
    def sp(student_features, teacher_features):
        return average((normalize(gram(student_features)) - normalize(gram(teacher_features))).square())

    return sp


def test_sp_normalised_by_columns_is_sp():
    # The Gram matrix is symmetric: its columns normalised are the transpose of its rows normalised.
    assert audit(sp_with(lambda G: F.normalize(G, dim=0)), kind="similarity").ok


def unit_rows(z):
    return (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)


def rho(a, b):
    return (unit_rows(a) * unit_rows(b)).mean(1)


def soft_spearman(rank):
    return lambda student, teacher: 1 - rho(rank(student), rank(teacher)).mean()


def pairwise_rank(z):
    z = unit_rows(z)
    return torch.sigmoid((z[:, :, None] - z[:, None, :]) / 0.3).sum(2)


def test_another_soft_rank_and_another_strength_are_notes():
    report = audit(soft_spearman(pairwise_rank), kind="spearman")
    assert report.ok and "other_soft_rank" in report.codes, str(report)
    report = audit(soft_spearman(lambda z: losses.soft_rank(unit_rows(z), 0.1)), kind="spearman")
    assert report.ok and "other_strength" in report.codes, str(report)


def test_population_std_is_a_note():
    report = audit(lambda z: unit_rows(z), kind="logit_standardization")
    assert report.ok and "population_std" in report.codes


def test_mean_need_not_be_subtracted_before_a_softmax():
    report = audit(lambda z: z / (1e-7 + z.std(1, keepdim=True)), kind="logit_standardization")
    assert report.ok, str(report)


# --- No misses: mistakes in KD ---


def kd_mean(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student, T), p(teacher, T), reduction="mean")


def kd_without_t_squared(student, teacher, T=4.0):
    return F.kl_div(log_p(student, T), p(teacher, T), reduction="batchmean")


def kd_t_once(student, teacher, T=4.0):
    return T * F.kl_div(log_p(student, T), p(teacher, T), reduction="batchmean")


def kd_t_to_the_fourth(student, teacher, T=4.0):
    return T**2 * kd_sum_then_mean(student, teacher, T)


def kd_reversed(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(teacher, T), p(student, T), reduction="batchmean")


def kd_networks_swapped(student, teacher, T=4.0):
    return losses.kd_loss(teacher, student, T)


def mse_of_softmaxes(student, teacher, T=4.0):
    return F.mse_loss(p(student, T), p(teacher, T))


def kd_log_missing(student, teacher, T=4.0):
    return T * T * F.kl_div(p(student, T), p(teacher, T), reduction="batchmean")


def kd_log_of_teacher(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student, T), log_p(teacher, T), reduction="batchmean")


def kd_over_batch(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student, T, 0), p(teacher, T, 0), reduction="batchmean")


def kd_teacher_hard(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student, T), p(teacher), reduction="batchmean")


def kd_student_hard(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student), p(teacher, T), reduction="batchmean")


def kd_temperature_unused(student, teacher, T=4.0):
    return F.kl_div(log_p(student), p(teacher), reduction="batchmean")


def kd_softmax_twice(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(p(student, T)), p(teacher, T), reduction="batchmean")


def kd_summed(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student, T), p(teacher, T), reduction="sum")


def kd_over_64(student, teacher, T=4.0):
    return kd_summed(student, teacher, T) / 64


def kd_minus(student, teacher, T=4.0):
    return -kd_sum_then_mean(student, teacher, T)


def kd_rescaled(student, teacher, T=4.0):
    loss = kd_sum_then_mean(student, teacher, T)
    return loss / loss.detach()


def kd_out_of_step(student, teacher, T=4.0):
    return kd_sum_then_mean(student, teacher.roll(1, 0), T)


def kd_hard_labels(student, teacher, T=4.0):
    return F.cross_entropy(student, teacher.argmax(1))


def kd_without_teacher(student, teacher, labels, T=4.0):
    return F.cross_entropy(student, labels)


def kd_without_gradient(student, teacher, T=4.0):
    return torch.tensor(kd_sum_then_mean(student, teacher, T).item(), dtype=student.dtype)


def kd_in_place(student, teacher, T=4.0):
    return T * T * F.kl_div(log_p(student.div_(T)), p(teacher, T), reduction="batchmean")


def kd_of_probabilities_in_ce(student, teacher, labels, T=4.0):
    return kd_sum_then_mean(student, teacher, T) + F.cross_entropy(p(student), labels)


WRONG_KD = [
    (kd_mean, {"mean_over_classes"}),
    (kd_without_t_squared, {"t_squared_missing"}),
    (kd_t_once, {"t_once"}),
    (kd_t_to_the_fourth, {"t_squared_twice"}),
    (kd_reversed, {"reverse_kl"}),
    (kd_networks_swapped, {"networks_swapped"}),
    (mse_of_softmaxes, {"mse_of_softmaxes"}),
    (kd_log_missing, {"student_log_missing"}),
    (kd_log_of_teacher, {"teacher_log_unexpected"}),
    (kd_over_batch, {"softmax_over_batch"}),
    (kd_teacher_hard, {"teacher_not_softened"}),
    (kd_student_hard, {"student_not_softened"}),
    (kd_temperature_unused, {"temperature_fixed_at_1"}),
    (kd_softmax_twice, {"student_softmax_twice"}),
    (kd_summed, {"summed_over_batch"}),
    (kd_over_64, {"fixed_batch_size"}),
    (kd_minus, {"wrong_sign"}),
    (kd_rescaled, {"factor_varies"}),
    (kd_out_of_step, {"samples_out_of_step"}),
    (kd_hard_labels, {"hard_teacher_labels"}),
    (kd_without_teacher, {"teacher_unused"}),
    (kd_without_gradient, {"no_gradient"}),
    (kd_in_place, {"inputs_changed"}),
    (kd_of_probabilities_in_ce, {"cross_entropy_of_probabilities"}),
]


@pytest.mark.parametrize(("loss", "expected"), WRONG_KD, ids=[loss.__name__ for loss, _ in WRONG_KD])
@pytest.mark.parametrize("kind", ["kd", "auto"])
def test_mistakes_in_kd_are_named(loss, expected, kind):
    report = audit(loss, kind=kind)
    assert codes(report) == expected, str(report)


def test_two_mistakes_are_both_named():
    def reversed_mean_without_square(student, teacher, T=4.0):
        return T * T * F.kl_div(log_p(teacher, T), p(student, T), reduction="mean")

    assert codes(audit(reversed_mean_without_square, kind="kd")) == {"reverse_kl", "mean_over_classes"}

    def mean_without_square(student, teacher, T=4.0):
        return F.kl_div(log_p(student, T), p(teacher, T), reduction="mean")

    assert codes(audit(mean_without_square, kind="kd")) == {"mean_over_classes", "t_squared_missing"}


def test_a_temperature_that_cannot_be_changed_is_still_read():
    def without_square(student, teacher):
        return kd_without_t_squared(student, teacher, 4.0)

    assert codes(audit(without_square, kind="kd", temperature=4.0)) == {"t_squared_missing"}
    assert codes(audit(without_square, kind="kd")) == {"t_squared_missing"}
    assert codes(audit(lambda student, teacher: without_square(2 * student, 2 * teacher), kind="kd")) == {
        "t_squared_missing"
    }
    assert codes(audit(kd_at_four, kind="kd", temperature=2.0)) == {"temperature_fixed_at_4"}
    assert codes(audit(KD(2.0), kind="kd", temperature=4.0)) == {"temperature_fixed_at_2"}


OWN_TEMPERATURE = {
    "mse_of_softmaxes": lambda s, t, T: F.mse_loss(p(s, T), p(t, T)),
    "reverse_kl": lambda s, t, T: kd_reversed(s, t, T),
    "student_softmax_twice": lambda s, t, T: F.kl_div(log_p(p(s, T)), p(t, T), reduction="batchmean"),
    "student_log_missing": lambda s, t, T: kd_log_missing(s, t, T),
    "softmax_over_batch": lambda s, t, T: kd_over_batch(s, t, T),
}


@pytest.mark.parametrize("T", [1.0, 3.0])
@pytest.mark.parametrize("expected", OWN_TEMPERATURE)
def test_mistakes_at_a_temperature_of_the_losss_own(expected, T):
    wrong = OWN_TEMPERATURE[expected]
    for kind in ("kd", "auto"):
        assert codes(audit(lambda student, teacher: wrong(student, teacher, T), kind=kind)) == {expected}
    # A temperature that is asked for, and not used, does not hide it.
    assert codes(audit(lambda student, teacher, temperature: wrong(student, teacher, T), kind="kd")) == {expected}
    assert codes(audit(lambda student, teacher: wrong(student, teacher, T), kind="kd", temperature=4.0)) == {expected}


def test_soft_spearman_of_softmax_answers_at_temperature_1():
    wrong = soft_spearman(lambda z: losses.soft_rank(p(z), 0.1))
    assert codes(audit(wrong, kind="spearman")) == {"ranks_of_probabilities"}


def test_dropout_inside_is_not_deterministic():
    report = audit(lambda student, teacher: kd_at_four(F.dropout(student, 0.2), teacher), kind="kd")
    assert "not_deterministic" in codes(report)


def test_finding_says_how_much_it_changes_the_gradient():
    finding = audit(kd_mean, kind="kd").findings[0]
    assert "10 ** -1 = 0.1" in finding.measured and "batchmean" in finding.fix
    assert finding.expected and finding.cause and finding.effect


IDENTITIES = [
    (kd_mean, "kd", "this is KD, equation (1.2), divided by C = 10: reduction='mean' instead of 'batchmean'"),
    (kd_mean, "auto", "this is KD, equation (1.2), divided by C = 10: reduction='mean' instead of 'batchmean'"),
    (kd_without_t_squared, "kd", "this is KD, equation (1.2), divided by T ** 2 = 16"),
    (kd_summed, "kd", "this is KD, equation (1.2), times B = 8"),
    (kd_over_64, "kd", "this is KD, equation (1.2), summed over the batch and divided by 64"),
    (kd_minus, "kd", "this is KD, equation (1.2), with its sign turned round"),
    (kd_with_cross_entropy, "auto", "this is KD, equation (1.2), times 0.9, plus cross-entropy with the labels"),
    (kd_in_place, "kd", "this is KD, equation (1.2), but see below"),
    (kd_over_batch, "auto", "this is KD with the softmax over the batch"),
    (kd_over_batch, "kd", "this is KD with the softmax over the batch, not KD, equation (1.2)"),
]


@pytest.mark.parametrize(("loss", "kind", "said"), IDENTITIES)
def test_one_sentence_says_which_loss_it_is_up_to_which_factor(loss, kind, said):
    assert audit(loss, kind=kind).identity == said


# --- No misses: mistakes in relations ---


def sp_of_normalised_features(student, teacher):
    unit = lambda features: F.normalize(features.flatten(1))  # noqa: E731
    return losses.sp_loss(unit(student), unit(teacher))


def sp_pooled(student, teacher):
    pooled = lambda features: features.flatten(2).mean(2) if features.dim() == 4 else features  # noqa: E731
    return losses.sp_loss(pooled(student), pooled(teacher))


def sp_not_squared(student, teacher):
    return (F.normalize(gram(student)) - F.normalize(gram(teacher))).norm() / len(student) ** 2


def sp_of_channels(student, teacher):
    inner = lambda features: F.normalize(features.flatten(1).T @ features.flatten(1))  # noqa: E731
    return (inner(student) - inner(teacher)).square().mean()


def rkd_without_mean(student, teacher):
    return losses.affinity_loss(student, teacher, "euclidean", "none", "smooth_l1")


def rkd_mean_of_all(student, teacher):
    distances = lambda features: losses.AFFINITIES["euclidean"](features.flatten(1))  # noqa: E731
    d_s, d_t = distances(student), distances(teacher)
    return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())


def distances_with_nan_gradient(student, teacher):
    squares = lambda f: (f.flatten(1)[:, None] - f.flatten(1)[None]).square().sum(-1)  # noqa: E731
    return F.smooth_l1_loss(squares(student).sqrt(), squares(teacher).sqrt())


WRONG_RELATIONS = [
    ("similarity", sp_with(lambda G: F.normalize(G, 1)), {"rows_l1"}),
    ("similarity", sp_of_normalised_features, {"features_normalized"}),
    ("similarity", sp_with(lambda G: G), {"other_cell"}),
    ("similarity", sp_with(lambda G: G / G.norm()), {"other_cell"}),
    ("similarity", sp_with(F.normalize, lambda e: e.sum() / len(e)), {"divided_by_batch_once"}),
    ("similarity", sp_with(F.normalize, torch.Tensor.sum), {"summed_over_pairs"}),
    ("similarity", sp_with(F.normalize, lambda e: e.sum() / 64**2), {"fixed_batch_size"}),
    ("similarity", sp_with(F.normalize, lambda e: e.mean() / len(e) ** 2), {"batch_divided_twice"}),
    ("similarity", sp_pooled, {"pooled_first"}),
    ("similarity", sp_not_squared, {"norm_not_squared"}),
    ("similarity", sp_of_channels, {"features_not_samples"}),
    ("rkd_distance", rkd_without_mean, {"other_cell"}),
    ("rkd_distance", rkd_mean_of_all, {"mean_of_all_entries"}),
    ("rkd_distance", distances_with_nan_gradient, {"not_finite"}),
]


@pytest.mark.parametrize(("kind", "loss", "expected"), WRONG_RELATIONS)
def test_mistakes_in_relations_are_named(kind, loss, expected):
    report = audit(loss, kind=kind)
    assert codes(report) == expected, str(report)


def test_auto_says_sp_with_l1_rows():
    report = audit(sp_with(lambda G: F.normalize(G, 1)))
    assert report.kind == "sp" and codes(report) == {"rows_l1"}
    assert report.identity.startswith("this is SP with L1 rows")
    assert "p = 1" in report.findings[0].cause


# --- No misses: mistakes in correlations ---


def hard_rank(z):
    return z.argsort(1).argsort(1).to(z.dtype)


def cmkd_with_hard_ranks(student, teacher):
    difficulty = -(p(teacher, 4.0) * log_p(teacher, 4.0)).sum(1) / torch.tensor(float(student.shape[1])).log()
    value, rank = 1 - rho(student, teacher), 1 - rho(hard_rank(student), hard_rank(teacher))
    return ((1 - difficulty) * value + difficulty * rank).mean()


def cmkd(**settings):
    return lambda student, teacher: losses.cmkd_loss(student, teacher, **settings)


WRONG_CORRELATIONS = [
    ("pearson", lambda s, t: 1 - F.cosine_similarity(s, t).mean(), {"not_centered"}),
    ("pearson", lambda s, t: (1 - rho(s, t)).sum(), {"summed_over_batch"}),
    ("pearson", lambda s, t: 1 - rho(s.T, t.T).mean(), {"over_batch"}),
    ("pearson", lambda s, t: 1 - rho(p(s, 4.0), p(t, 4.0)).mean(), {"of_probabilities"}),
    ("spearman", soft_spearman(lambda z: losses.soft_rank(unit_rows(z), 100.0)), {"spearman_is_pearson"}),
    ("spearman", soft_spearman(lambda z: losses.soft_rank(p(z, 4.0), 1.0)), {"spearman_is_pearson"}),
    ("spearman", soft_spearman(lambda z: losses.soft_rank(z, 1.0)), {"ranks_of_raw_logits"}),
    ("spearman", soft_spearman(lambda z: losses.soft_rank(unit_rows(z), 1e-4)), {"rank_without_gradient"}),
    ("spearman", soft_spearman(hard_rank), {"rank_without_gradient"}),
    ("cmkd", cmkd(regularization_strength=1e3), {"spearman_is_pearson"}),
    ("cmkd", cmkd_with_hard_ranks, {"rank_without_gradient"}),
    ("cmkd", cmkd(hard_samples_favor="pearson"), {"weights_turned_round"}),
    ("cmkd", cmkd(dynamic=False), {"weights_static"}),
    ("cmkd", cmkd(difficulty_temperature=1.0), {"difficulty_at_temperature_1"}),
    ("dist", lambda s, t, T: losses.dist_loss(s, t, T, 1.0, 0.0), {"part_missing"}),
    ("dist", lambda s, t, T: T**2 * (1 - losses.pearson_correlation(p(s, T), p(t, T)).mean()), {"part_missing"}),
    ("dist", lambda s, t, T: T**2 * (1 - losses.pearson_correlation(p(s, T), p(t, T), 0).mean()), {"part_missing"}),
    ("dist", lambda s, t, T: losses.dist_loss(s, t, T) / T**2, {"t_squared_missing"}),
    ("dist", lambda s, t: 2 - rho(s, t).mean() - rho(s.T, t.T).mean(), {"logits_for_probabilities"}),
]


@pytest.mark.parametrize(("kind", "loss", "expected"), WRONG_CORRELATIONS)
def test_mistakes_in_correlations_are_named(kind, loss, expected):
    report = audit(loss, kind=kind)
    assert codes(report) == expected, str(report)


def test_a_correlation_less_its_one_is_shifted_only():
    report = audit(lambda student, teacher: -rho(student, teacher).mean(), kind="correlation")
    assert report.ok and report.kind == "pearson" and "shifted_value" in report.codes


# --- No misses: DKD, logit standardisation, STKD, kernel transfer ---


def dkd(alpha, beta, power=0):
    def loss(student, teacher, labels, T):
        return losses.dkd_loss(student, teacher, labels, alpha, beta, T) * T**power

    return loss


def kernel(compare):
    def loss(student, teacher, student_landmarks, teacher_landmarks):
        return compare(student @ student_landmarks.T, teacher @ teacher_landmarks.T)

    return loss


def smooth(reduction="sum"):
    return lambda S, T: F.smooth_l1_loss(S, T, reduction=reduction)


WRONG_OTHERS = [
    ("dkd", dkd(8.0, 1.0), {}, {"weights_swapped"}),
    ("dkd", dkd(1.0, 0.0), {}, {"part_missing"}),
    ("dkd", dkd(1.0, 8.0, -2), {}, {"t_squared_missing"}),
    ("dkd", dkd(1.0, 2.0), {}, set()),  # nobody said which weights were meant
    ("dkd", dkd(1.0, 2.0), {"beta": 8.0}, {"parts_out_of_balance"}),
    ("dkd", lambda s, t, labels, T: losses.kd_loss(s, t, T), {}, {"plain_kd"}),
    ("logit_standardization", lambda z: (z - z.mean(0)) / z.std(0), {}, {"standardized_over_batch"}),
    ("logit_standardization", lambda z: (z - z.mean()) / z.std(), {}, {"standardized_over_everything"}),
    ("logit_standardization", lambda z: z - z.mean(1, keepdim=True), {}, {"std_missing"}),
    ("logit_standardization", lambda z: F.normalize(z), {}, {"row_norm_for_std"}),
    (
        "stkd",
        lambda s, t, labels, permuted_labels, lam: losses.stkd_loss(s, t, permuted_labels, labels, lam),
        {},
        {"lam_swapped"},
    ),
    (
        "stkd",
        lambda s, t, labels, permuted_labels, lam: 0.1 * F.cross_entropy(s, labels) + 0.9 * losses.kd_loss(s, t),
        {},
        {"partner_ignored"},
    ),
    ("kernel", kernel(smooth("mean")), {}, {"not_divided"}),
    ("kernel", kernel(lambda S, T: smooth()(S, T) / T.norm() / len(S)), {}, {"divided_by_batch"}),
    (
        "kernel",
        kernel(lambda S, T: smooth("mean")(S, T) / T.norm()),
        {},
        {"mean_over_entries", "divided_by_batch"},
    ),
    ("kernel", kernel(lambda S, T: F.mse_loss(S, T, reduction="sum") / T.norm()), {}, {"squared_error"}),
    ("kernel", kernel(lambda S, T: smooth()(S, T) / S.norm()), {}, {"divided_by_student"}),
]


@pytest.mark.parametrize(("kind", "loss", "options", "expected"), WRONG_OTHERS)
def test_mistakes_in_the_others_are_named(kind, loss, options, expected):
    report = audit(loss, kind=kind, **options)
    assert codes(report) == expected, str(report)


def test_scale_free_kernel_transfer_is_a_note_unless_asked_for():
    def scale_free(student, teacher, student_landmarks, teacher_landmarks):
        return losses.kernel_transfer_loss(student, teacher, student_landmarks, teacher_landmarks, scale_free=True)

    assert audit(scale_free, kind="kernel").codes == {"scale_free"}
    assert not audit(scale_free, kind="kernel", scale_free=True).codes


def test_a_loss_nobody_knows_is_not_called_by_a_wrong_name():
    def odd(student, teacher):
        return ((student - teacher).square() * torch.arange(1.0, student.shape[1] + 1)).tanh().mean()

    assert codes(audit(odd, kind="kd")) == {"unknown_loss"}
    report = audit(odd)
    assert report.kind is None and codes(report) == {"unknown_loss"}


# --- Property tests ---

FEW = settings(max_examples=25, deadline=None, derandomize=True)


@FEW
@given(
    weight=st.floats(0.01, 100),
    b=st.sampled_from([-1, 0, 1]),
    c=st.sampled_from([-1, 0]),
    t=st.sampled_from([-2, -1, 0, 1, 2]),
)
def test_any_power_of_the_sizes_is_found(weight, b, c, t):
    def loss(student, teacher, T):
        return weight * losses.kd_loss(student, teacher, T) * len(student) ** b * student.shape[1] ** c * T**t

    expected = set()
    if b:
        away = abs(weight - 1) > 0.02
        expected.add("batch_divided_twice" if b < 0 else "fixed_batch_size" if away else "summed_over_batch")
    if c:
        expected.add("mean_over_classes")
    if t:
        expected.add({-2: "t_squared_missing", -1: "t_once", 1: "t_cubed", 2: "t_squared_twice"}[t])
    report = audit(loss, kind="kd")
    assert codes(report) == expected, str(report)
    if not expected:
        assert ("weighted" in report.codes) == (abs(weight - 1) > 0.02)


@FEW
@given(alpha=st.floats(0.1, 10), beta=st.floats(0.1, 10), ce=st.floats(0, 5), temperature=st.floats(0.5, 10))
def test_weights_of_dkd_are_recovered(alpha, beta, ce, temperature):
    def loss(student, teacher, labels, T):
        return losses.dkd_loss(student, teacher, labels, alpha, beta, T) + ce * F.cross_entropy(student, labels)

    assert audit(loss, kind="dkd", temperature=temperature, alpha=alpha, beta=beta).ok
    changed = audit(loss, kind="dkd", temperature=temperature, alpha=alpha, beta=1.5 * beta)
    assert codes(changed) & {"parts_out_of_balance", "weights_swapped"}, str(changed)


CELLS = st.sampled_from(valid_cells())


def up_to_a_half(cell):
    """Where no two entries can be more than about 1 apart, smooth L1 is half the squared error."""
    small = {"row_l1", "row_l2", "row_softmax", "row_minmax", "frobenius"}
    bounded = cell["normalization"] in small or (
        cell["normalization"] == "none" and cell["affinity"] in ("cosine", "cosine_shifted", "rbf")
    )
    return {**cell, "discrepancy": "mse"} if bounded and cell["discrepancy"] == "smooth_l1" else cell


@FEW
@given(is_=CELLS, asked=CELLS)
def test_a_cell_is_taken_for_itself_alone(is_, asked):
    assume(is_ == asked or up_to_a_half(is_) != up_to_a_half(asked))

    def loss(student, teacher):
        return losses.affinity_loss(student, teacher, **is_)

    report = audit(loss, kind="similarity", **asked)
    assert report.ok == (is_ == asked), f"{is_} asked as {asked}\n{report}"
    if is_ != asked:
        said = [f"({', '.join(cell.values())})" for cell in (is_, up_to_a_half(is_))]
        assert any(cell in report.findings[0].measured for cell in said), str(report)


@FEW
@given(temperature=st.floats(0.3, 20), shift=st.floats(-50, 50), classes=st.integers(3, 40), batch=st.integers(4, 40))
def test_kd_is_kd_at_any_size(temperature, shift, classes, batch):
    def loss(student, teacher, T):
        return kd_sum_then_mean(student + shift, teacher - shift, T)

    assert audit(loss, kind="kd", temperature=temperature, num_classes=classes, batch_size=batch).ok


# --- Calling other people's code ---


def wants_probabilities(input, target):
    return F.kl_div(input, target, reduction="batchmean")


def test_adapters():
    roles = ("student_log_probabilities", "teacher_probabilities")
    assert codes(audit(wants_probabilities, kind="kd", arguments=roles)) == {"t_squared_missing"}
    mapping = {"input": "student_log_probabilities", "target": "teacher_probabilities"}
    assert codes(audit(wants_probabilities, kind="kd", arguments=mapping)) == {"t_squared_missing"}
    assert codes(audit(nn.KLDivLoss(reduction="batchmean"), kind="kd", arguments=roles)) == {"t_squared_missing"}

    assert audit(nn.KLDivLoss(reduction="batchmean"), kind="kd", temperature=1.0, arguments=roles).ok
    sixteen_times = lambda input, target: 16 * wants_probabilities(input, target)  # noqa: E731
    assert audit(sixteen_times, kind="kd", temperature=4.0, arguments=roles).ok
    assert codes(audit(wants_probabilities, kind="kd", temperature=4.0, arguments=roles)) == {"t_squared_missing"}

    def with_dictionaries(student_out, teacher_out, options):
        kd = kd_sum_then_mean(student_out["logits"], teacher_out["logits"], options["T"])
        return {"kd": 0.9 * kd, "ce": 0.1 * F.cross_entropy(student_out["logits"], options["y"])}

    take = lambda x: ({"logits": x.student}, {"logits": x.teacher}, {"T": x.temperature, "y": x.labels})  # noqa: E731
    assert audit(with_dictionaries, kind="kd", arguments=take).ok
    report = audit(with_dictionaries, kind="kd", arguments=take, output="kd")
    assert report.ok and "with_cross_entropy" not in report.codes

    assert audit(kd_teacher_first, kind="kd", arguments=("teacher", "student", "temperature")).ok
    assert codes(audit(kd_sum_then_mean, kind="kd", arguments=("teacher", "student", "temperature"))) == {"reverse_kl"}


def test_settings_reach_constructors_and_parameters():
    class Weighted(nn.Module):
        def __init__(self, temperature, alpha):
            super().__init__()
            self.temperature, self.alpha = temperature, alpha

        def forward(self, student, teacher):
            return self.alpha * losses.kd_loss(student, teacher, self.temperature)

    report = audit(Weighted, kind="kd", alpha=0.5)
    assert report.ok and "weighted" in report.codes


BAD_CALLS = [
    (lambda: audit(kd_mean, kind="kdd"), "kind is 'kdd'.*'kd'"),
    (lambda: audit(kd_mean, kind="kd", arguments=("studnt", "teacher")), "role 'studnt'"),
    (lambda: audit(kd_mean, kind="kd", gamma=3.0), "no parameter gamma"),
    (lambda: audit(lambda a, b, c, d: a, kind="kd"), "parameter 'c' has no meaning"),
    (lambda: audit(lambda student, teacher: "no", kind="kd"), "returned str"),
    (lambda: audit(lambda student, teacher: student @ teacher, kind="kd"), "failed on a random batch"),
    (lambda: audit(KD.__init__, kind="kernel"), "none takes|no meaning"),
    (lambda: load_loss("no_colon"), "target is 'no_colon'"),
    (lambda: load_loss("not_a_module:f"), "not_a_module"),
    (lambda: load_loss("kdtutor.losses:kd_los"), "has no 'kd_los'"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_what_cannot_be_called_says_what_to_pass(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_audit_error_is_a_value_error():
    assert issubclass(AuditError, ValueError)


def test_run_prints_and_returns_the_exit_status(capsys):
    assert run("kdtutor.losses:kd_loss", kind="kd") == 0
    assert "ok  kd_loss: this is KD" in capsys.readouterr().out
    assert run("torch.nn.functional:mse_loss", kind="kd", arguments=("student", "teacher")) == 1
    assert "mse_of_logits" in capsys.readouterr().out
    assert run("kdtutor.losses:nothing") == 2
    assert "no 'nothing'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"), [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError: division by zero")]
)
def test_a_module_that_cannot_be_imported_is_no_finding(tmp_path, monkeypatch, capsys, text, said):
    name = f"broken_{said[:4].lower()}"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert run(f"{name}:loss") == 2
    printed = capsys.readouterr().out
    assert f"module '{name}' cannot be imported: {said}" in printed


def test_one_thread_while_it_looks_and_as_many_as_before_when_it_is_done():
    before, seen = torch.get_num_threads(), set()

    def loss(student, teacher):
        seen.add(torch.get_num_threads())
        return kd_at_four(student, teacher)

    try:
        torch.set_num_threads(2)
        audit(loss, kind="kd")
        assert seen == {1} and torch.get_num_threads() == 2
        with pytest.raises(AuditError):
            audit(lambda student, teacher: student @ teacher, kind="kd")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_audit_leaves_torch_as_it_was():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    audit(lambda student, teacher: kd_at_four(F.dropout(student, 0.2), teacher), kind="kd")
    assert torch.equal(before, torch.get_rng_state())


def test_importing_the_audit_loads_nothing_heavy():
    code = (
        "import sys, kdtutor.audit; print([m for m in ('matplotlib', 'torchvision', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
