"""The audit of mixup: functions that mix images, and training steps that mix inside."""

import random

import pytest
import torch
from torch.nn import functional as F

from kdtutor import losses
from kdtutor.audit import AuditError, audit


def codes(report):
    return {finding.code for finding in report.findings}


def mix(
    images,
    labels,
    alpha=1.0,
    two_permutations=False,
    lam_swapped=False,
    lam_twice=False,
    fixed=False,
    in_place=False,
    off_the_line=False,
    folded=False,
    per_sample=False,
):
    """Mixup, with a switch for each mistake."""
    lam = random.betavariate(alpha, alpha)
    lam = max(lam, 1 - lam) if folded else lam
    weight = torch.tensor([random.betavariate(alpha, alpha) for _ in labels]) if per_sample else torch.tensor(lam)
    permutation = torch.arange(len(images)).roll(1) if fixed else torch.randperm(len(images))
    weights = weight.view(-1, 1, 1, 1) if per_sample else weight
    partners = images[permutation].clone()
    mixed = (images.mul_(weights) if in_place else weights * images) + (1 - weights) * partners
    mixed = mixed + 0.3 * images.roll(2, 0) if off_the_line else mixed
    other = torch.randperm(len(images)) if two_permutations else permutation
    weight = 1 - weight if lam_swapped else weight
    weight = torch.tensor(random.betavariate(alpha, alpha)) if lam_twice else weight
    return mixed, labels, labels[other], weight


def mix_to_soft_labels(images, labels, swapped=False):
    mixed, labels, partners, lam = mix(images, labels)
    first, second = F.one_hot(labels, 7).float(), F.one_hot(partners, 7).float()
    return mixed, (1 - lam) * first + lam * second if swapped else lam * first + (1 - lam) * second


def with_alpha_one(images, labels, alpha=0.2):
    return mix(images, labels, 1.0)


CASES = [
    ({}, set(), set()),
    ({"folded": True}, set(), {"lam_folded"}),
    ({"per_sample": True}, set(), {"lam_per_sample"}),
    ({"two_permutations": True}, {"labels_permuted_differently"}, set()),
    ({"lam_swapped": True}, {"lam_swapped"}, set()),
    ({"lam_twice": True}, {"other_lam"}, set()),
    ({"fixed": True}, {"fixed_permutation"}, set()),
    ({"in_place": True}, {"inputs_changed"}, set()),
    ({"off_the_line": True}, {"not_a_blend"}, set()),
]


@pytest.mark.parametrize(("switches", "findings", "notes"), CASES)
def test_mistakes_of_mixing_functions_are_named(switches, findings, notes):
    random.seed(0)
    report = audit(mix, kind="mixup", **switches)
    assert codes(report) == findings and report.codes == findings | notes, str(report)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_own_mixup_passes_clean(alpha):
    report = audit(losses.mixup, kind="mixup", alpha=alpha)
    assert report.ok and not report.notes, str(report)


def test_alpha_that_is_not_used_is_found():
    random.seed(0)
    assert codes(audit(with_alpha_one, kind="mixup", alpha=0.2)) == {"lam_distribution"}


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_fixed_permutation_is_seen_at_any_alpha(alpha):
    random.seed(0)
    assert codes(audit(mix, kind="mixup", alpha=alpha, fixed=True)) == {"fixed_permutation"}


def test_images_that_are_never_mixed():
    report = audit(lambda images, labels: (images.clone(), labels, labels, 1.0), kind="mixup")
    assert codes(report) == {"never_mixed"}


def test_soft_labels():
    random.seed(0)
    assert audit(mix_to_soft_labels, kind="mixup").ok
    assert codes(audit(mix_to_soft_labels, kind="mixup", swapped=True)) == {"lam_swapped"}


def test_what_is_no_mixup_says_so():
    with pytest.raises(AuditError, match="wanted \\(images, labels, permuted_labels, lam\\)"):
        audit(lambda images, labels: (images,), kind="mixup")
    with pytest.raises(AuditError, match="failed on images"):
        audit(lambda images, labels: images @ labels, kind="mixup")


# --- Steps ---


def step(student, teacher, images, labels, mistake=None):
    mixed = losses.mixup(images, labels)
    asked = mixed.images
    if mistake == "mixed twice":
        asked = losses.mixup(images, labels).images
    elif mistake == "lam swapped":
        asked = (1 - mixed.lam) * images + mixed.lam * images[mixed.permutation]
    elif mistake == "clean" or (mistake or "").startswith("interpolated"):
        asked = images
    teacher_logits = teacher(asked)
    if mistake == "answers shuffled":
        teacher_logits = teacher_logits[torch.randperm(len(images))]
    if (mistake or "").startswith("interpolated"):
        partner = torch.randperm(len(images)) if mistake == "interpolated elsewhere" else mixed.permutation
        teacher_logits = mixed.lam * teacher_logits + (1 - mixed.lam) * teacher_logits[partner]
    if mistake != "gradient":
        teacher_logits = teacher_logits.detach()
    student_logits = student(images if mistake == "student clean" else mixed.images)
    if mistake == "student detached":
        student_logits = student_logits.detach()
    return F.kl_div(student_logits.log_softmax(1), teacher_logits.softmax(1), reduction="batchmean")


STEPS = [
    (None, set(), set()),
    ("interpolated", set(), set()),
    ("interpolated elsewhere", {"different_permutations"}, set()),
    ("clean", {"teacher_sees_clean_images"}, set()),
    ("student clean", {"student_sees_clean_images"}, set()),
    ("answers shuffled", {"teacher_answers_permuted"}, set()),
    ("mixed twice", {"different_permutations"}, set()),
    ("lam swapped", {"different_lam"}, set()),
    ("gradient", {"teacher_gets_gradient"}, set()),
    ("student detached", {"no_gradient"}, set()),
]


@pytest.mark.parametrize(("mistake", "findings", "notes"), STEPS)
def test_mistakes_of_steps_are_named(mistake, findings, notes):
    report = audit(step, kind="mixup_step", mistake=mistake)
    assert codes(report) == findings and report.codes == findings | notes, str(report)


def test_a_step_may_ask_the_networks_more_than_once():
    def with_clean_images_too(student, teacher, images, labels):
        mixed = losses.mixup(images, labels)
        with torch.no_grad():
            answers = teacher(torch.cat((images, mixed.images)))[len(images) :]
        distilled = F.kl_div(student(mixed.images).log_softmax(1), answers.softmax(1), reduction="batchmean")
        return distilled + F.cross_entropy(student(images), labels)

    def with_its_partner(student, teacher, images, labels):
        mixed = losses.mixup(images, labels)
        with torch.no_grad():
            first, second = teacher(images).softmax(1), teacher(images[mixed.permutation]).softmax(1)
        target = mixed.lam * first + (1 - mixed.lam) * second
        return F.kl_div(student(mixed.images).log_softmax(1), target, reduction="batchmean")

    for right in (with_clean_images_too, with_its_partner):
        report = audit(right, kind="mixup_step")
        assert report.ok and not report.notes, str(report)


def test_where_it_cannot_be_told_which_answers_meet_a_clean_teacher_is_a_note():
    generator = torch.Generator().manual_seed(0)  # not torch's own, so the step cannot be played again

    def interpolated(student, teacher, images, labels):
        mixed = losses.mixup(images, labels, generator=generator)
        with torch.no_grad():
            answers = teacher(images)
        answers = mixed.lam * answers + (1 - mixed.lam) * answers[mixed.permutation]
        return F.kl_div(student(mixed.images).log_softmax(1), answers.softmax(1), reduction="batchmean")

    report = audit(interpolated, kind="mixup_step")
    assert report.ok and report.codes == {"teacher_sees_clean_images"}, str(report)


def test_relations_of_mixed_answers_are_right():
    def step_with_relations(student, teacher, images, labels):
        mixed = losses.mixup(images, labels)
        with torch.no_grad():
            answers = teacher(mixed.images)
        return losses.kd_loss(student(mixed.images), answers) + losses.sp_loss(student(mixed.images), answers)

    assert not audit(step_with_relations, kind="mixup_step").codes


def test_a_network_that_is_not_asked():
    report = audit(lambda student, teacher, images, labels: F.cross_entropy(student(images), labels), kind="mixup_step")
    assert codes(report) == {"network_not_asked"}


@pytest.mark.parametrize("output", [None, 3.0, torch.zeros(2), "mixed"])
def test_what_is_no_mixture_at_all_is_named(output):
    with pytest.raises(AuditError, match=f"returned {type(output).__name__}; wanted"):
        audit(lambda images, labels: output, "mixup")
