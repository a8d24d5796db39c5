"""Losses that compare softmax answers: KD, logit standardisation, DKD and STKD, and what is taken for them."""

from torch import Tensor
from torch.nn import functional as F

from kdtutor import losses

from ..inputs import Inputs
from .base import CLASS_LAWS, SAMPLE_LAWS, TEMPERATURE_LAWS, Kind, Known, Loss

LAWS = CLASS_LAWS + TEMPERATURE_LAWS + SAMPLE_LAWS


def _soft(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.student_probabilities, x.teacher_probabilities


def _per_sample(entries: Tensor) -> Tensor:
    return entries.sum() / len(entries)


def _kl(log_p_s: Tensor, log_p_t: Tensor) -> Tensor:
    """KL(teacher || student), mean over samples, of any two tensors in the place of log-probabilities."""
    return _per_sample(log_p_t.exp() * (log_p_t - log_p_s))


def _kl_at(student_logits: Tensor, teacher_logits: Tensor, scale: float = 1.0) -> Tensor:
    return scale * _kl(student_logits.log_softmax(-1), teacher_logits.log_softmax(-1))


def kd(x: Inputs) -> Tensor:
    return losses.kd_loss(x.student, x.teacher, x.temperature)


def _reverse(x: Inputs) -> Tensor:
    return x.temperature**2 * _kl(x.teacher_log_probabilities, x.student_log_probabilities)


def _jensen_shannon(x: Inputs) -> Tensor:
    p_s, p_t = _soft(x)
    middle = ((p_s + p_t) / 2).log()
    return x.temperature**2 * (_kl(middle, p_s.log()) + _kl(middle, p_t.log())) / 2


def _kd_of_standardized(x: Inputs) -> Tensor:
    return losses.kd_loss(losses.standardize_logits(x.student), losses.standardize_logits(x.teacher), x.temperature)


FIXED_TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0)


def _with_fixed_temperature(t: float) -> Known:
    return Known(
        f"temperature_fixed_at_{t:g}",
        f"KD at temperature {t:g}, whatever temperature is asked for",
        lambda x: _kl_at(x.student / t, x.teacher / t),
        f"the temperature {'is not used: logits are not divided by it' if t == 1 else f'is fixed at {t:g}'}",
        "divide the logits of both networks by the temperature that was asked for",
        scaled_in="BC",
    )


KD_OTHERS = (
    *map(_with_fixed_temperature, FIXED_TEMPERATURES),
    Known(
        "reverse_kl",
        "the reverse divergence, KL(student || teacher)",
        _reverse,
        "the two arguments of the divergence are swapped, or the student is passed where the teacher belongs",
        "F.kl_div(student_log_probabilities, teacher_probabilities): the student goes first, as a log",
        scaled_in="BCT",
    ),
    Known(
        "jensen_shannon",
        "the Jensen-Shannon divergence",
        _jensen_shannon,
        "both answers are compared with their average",
        "use KL(teacher || student)",
        scaled_in="BCT",
    ),
    Known(
        "mse_of_softmaxes",
        "the squared error of the softmax answers",
        lambda x: _per_sample((_soft(x)[0] - _soft(x)[1]).square()),
        "probabilities are compared by mean squared error: its gradient vanishes where the student is sure and wrong",
        "use temperature ** 2 * F.kl_div(log_p_s, p_t, reduction='batchmean')",
    ),
    Known(
        "l1_of_softmaxes",
        "the absolute error of the softmax answers",
        lambda x: _per_sample((_soft(x)[0] - _soft(x)[1]).abs()),
        "probabilities are compared by mean absolute error",
        "use temperature ** 2 * F.kl_div(log_p_s, p_t, reduction='batchmean')",
    ),
    Known(
        "mse_of_logits",
        "the squared error of the logits",
        lambda x: _per_sample((x.student - x.teacher).square()),
        "logits are matched directly: the limit of KD at a very high temperature, and no longer blind to row shifts",
        "compare softmax answers by KL; or call the loss logit matching",
    ),
    Known(
        "mse_of_log_softmaxes",
        "the squared error of the log-probabilities",
        lambda x: _per_sample((x.student_log_probabilities - x.teacher_log_probabilities).square()),
        "log-probabilities are compared by mean squared error: unlikely classes rule the loss",
        "use temperature ** 2 * F.kl_div(log_p_s, p_t, reduction='batchmean')",
    ),
    Known(
        "student_not_softened",
        "KD with the temperature on the teacher alone",
        lambda x: _kl_at(x.student, x.teacher / x.temperature),
        "the student's logits are not divided by the temperature",
        "divide the student's logits by the temperature too",
        scaled_in="BC",
    ),
    Known(
        "teacher_not_softened",
        "KD with the temperature on the student alone",
        lambda x: _kl_at(x.student / x.temperature, x.teacher),
        "the teacher's logits are not divided by the temperature",
        "divide the teacher's logits by the temperature too",
        scaled_in="BC",
    ),
    Known(
        "temperature_inverted",
        "KD with logits multiplied by the temperature",
        lambda x: _kl_at(x.student * x.temperature, x.teacher * x.temperature),
        "logits are multiplied by the temperature: answers get sharper, not softer",
        "divide the logits by the temperature",
        scaled_in="BC",
    ),
    Known(
        "temperature_squared",
        "KD with logits divided by the temperature twice",
        lambda x: _kl_at(x.student / x.temperature**2, x.teacher / x.temperature**2),
        "logits are divided by the temperature twice, once before the loss and once inside",
        "divide the logits by the temperature in one place only",
        scaled_in="BC",
    ),
    Known(
        "both_softmax_twice",
        "KD of answers that went through softmax twice",
        lambda x: _kl_at(x.student.softmax(-1) / x.temperature, x.teacher.softmax(-1) / x.temperature),
        "the loss applies softmax to its arguments, and something before it did already: nearly uniform answers",
        "pass logits, or drop one of the two softmaxes",
        scaled_in="BC",
    ),
    Known(
        "both_softmax_twice_tempered",
        "KD of answers that went through softmax twice",
        lambda x: _kl_at(x.student_probabilities, x.teacher_probabilities),
        "softmax is applied to probabilities: nearly uniform answers",
        "pass logits, or drop one of the two softmaxes",
        scaled_in="BC",
    ),
    Known(
        "student_softmax_twice",
        "KD with the student's softmax applied twice",
        lambda x: _kl_at(x.student_probabilities, x.teacher / x.temperature),
        "log_softmax is applied to the student's probabilities",
        "apply log_softmax to the student's logits",
        scaled_in="BC",
    ),
    Known(
        "teacher_softmax_twice",
        "KD with the teacher's softmax applied twice",
        lambda x: _kl_at(x.student / x.temperature, x.teacher_probabilities),
        "softmax is applied to the teacher's probabilities",
        "apply softmax to the teacher's logits once",
        scaled_in="BC",
    ),
    Known(
        "student_log_missing",
        "the mean of p_t (log p_t - p_s)",
        lambda x: -_per_sample(x.teacher_probabilities * x.student_probabilities),
        "F.kl_div is given the student's probabilities, and it wants their logarithm",
        "give F.kl_div the student's log_softmax",
        scaled_in="BC",
    ),
    Known(
        "teacher_log_unexpected",
        "the mean of log p_t (log log p_t - log p_s)",
        lambda x: -_per_sample(x.teacher_log_probabilities * x.student_log_probabilities),
        "F.kl_div is given the teacher's log-probabilities without log_target=True; the value is NaN",
        "give F.kl_div the teacher's softmax, or set log_target=True",
        scaled_in="BC",
    ),
    Known(
        "teacher_log_mistaken",
        "KD with exp(p_t) in the place of p_t",
        lambda x: -_per_sample(x.teacher_probabilities.exp() * x.student_log_probabilities),
        "log_target=True is set, but the teacher's probabilities are passed without their logarithm",
        "give F.kl_div the teacher's log_softmax, or drop log_target=True",
        scaled_in="BC",
    ),
    Known(
        "softmax_over_batch",
        "KD with the softmax over the batch",
        lambda x: _kl((x.student / x.temperature).log_softmax(0), (x.teacher / x.temperature).log_softmax(0)),
        "softmax runs over dim 0, the samples, and not over the classes",
        "use dim=1 (or -1) in softmax and log_softmax",
    ),
    Known(
        "student_softmax_over_batch",
        "KD with the student's softmax over the batch",
        lambda x: _kl((x.student / x.temperature).log_softmax(0), (x.teacher / x.temperature).log_softmax(1)),
        "the student's log_softmax runs over dim 0, the samples, and not over the classes",
        "use dim=1 (or -1) in log_softmax",
    ),
    Known(
        "softmax_over_everything",
        "KD with one softmax over the whole batch",
        lambda x: _kl(
            (x.student / x.temperature).flatten().log_softmax(0).view_as(x.student),
            (x.teacher / x.temperature).flatten().log_softmax(0).view_as(x.teacher),
        ),
        "softmax runs over all samples and classes at once",
        "use dim=1 (or -1) in softmax and log_softmax",
    ),
    Known(
        "hard_teacher_labels",
        "cross-entropy with the teacher's most likely class",
        lambda x: F.cross_entropy(x.student, x.teacher.argmax(-1)),
        "the teacher's answer is reduced to its most likely class, so what it knows of the others is lost",
        "compare with the teacher's softmax at the temperature",
    ),
    Known(
        "teacher_unused",
        "plain cross-entropy with the labels",
        lambda x: F.cross_entropy(x.student, x.labels),
        "the teacher's answer is not used",
        "add temperature ** 2 * KL(teacher || student)",
    ),
    Known(
        "standardized_logits",
        "KD of standardised logits",
        _kd_of_standardized,
        "logits are standardised before the softmax (logit standardisation, a method of its own)",
        "audit it with kind='logit_standardization', or leave the logits as they are",
        scaled_in="BCT",
    ),
    Known(
        "samples_out_of_step",
        "KD with the teacher's answers of other samples",
        lambda x: losses.kd_loss(x.student, x.teacher.roll(1, 0), x.temperature),
        "the teacher's answers are out of step with the student's by one sample",
        "compare answers to the same image",
        scaled_in="BCT",
    ),
)


def make_kd() -> Kind:
    return Kind("kd", "KD, equation (1.2)", "logits", {"kd": kd}, laws=LAWS, others=KD_OTHERS)


def _standardized_with(scale) -> Loss:
    def loss(x: Inputs) -> Tensor:
        return losses.kd_loss(scale(x.student), scale(x.teacher), x.temperature)

    return loss


def _zscore(dim, correction):
    return lambda z: (z - z.mean(dim, keepdim=True)) / (1e-7 + z.std(dim, keepdim=True, correction=correction))


def make_logit_standardization() -> Kind:
    every = lambda z: (z - z.mean()) / (1e-7 + z.std())  # noqa: E731
    std = losses.standardize_logits
    others = (
        Known(
            "population_std",
            "logit standardisation with the population standard deviation",
            _standardized_with(_zscore(-1, 0)),
            "std divides by C and not by C - 1: a slightly higher temperature, C / (C - 1) under a root",
            "tensor.std(dim=-1), which is unbiased, gives the published numbers",
            acceptable=True,
        ),
        Known(
            "standardized_over_batch",
            "KD of logits standardised over the batch",
            _standardized_with(_zscore(0, 1)),
            "mean and std run over dim 0, the samples",
            "use dim=-1: each row by its own mean and standard deviation",
        ),
        Known(
            "standardized_over_everything",
            "KD of logits standardised by one mean and std of the whole batch",
            _standardized_with(every),
            "mean and std are taken without a dim, over samples and classes together",
            "use dim=-1, keepdim=True",
        ),
        Known(
            "std_missing",
            "plain KD",
            kd,
            "the logits are not divided by their standard deviation (a shift alone changes nothing under softmax)",
            "divide each row by its standard deviation",
        ),
        Known(
            "variance_for_std",
            "KD of logits divided by their variance",
            _standardized_with(lambda z: (z - z.mean(-1, keepdim=True)) / z.var(-1, keepdim=True)),
            "the logits are divided by their variance",
            "divide by the standard deviation",
        ),
        Known(
            "row_norm_for_std",
            "KD of logits divided by their length",
            _standardized_with(lambda z: F.normalize(z, dim=-1)),
            "rows are divided by their Euclidean norm",
            "subtract the row's mean and divide by its standard deviation",
        ),
        Known(
            "student_alone_standardized",
            "KD with the student's logits standardised alone",
            lambda x: losses.kd_loss(std(x.student), x.teacher, x.temperature),
            "only the student's logits are standardised",
            "standardise the teacher's logits too",
        ),
        Known(
            "teacher_alone_standardized",
            "KD with the teacher's logits standardised alone",
            lambda x: losses.kd_loss(x.student, std(x.teacher), x.temperature),
            "only the teacher's logits are standardised",
            "standardise the student's logits too",
        ),
        Known(
            "statistics_detached",
            "logit standardisation without the gradient through the standard deviation",
            _standardized_with(lambda z: (z - z.mean(-1, keepdim=True)) / (1e-7 + z.std(-1, keepdim=True)).detach()),
            "the standard deviation is detached, so the loss still pulls at the size of the logits",
            "let the gradient flow through std",
        ),
        Known(
            "teacher_scale_for_both",
            "KD of logits divided by the teacher's standard deviation",
            lambda x: losses.kd_loss(
                x.student / x.teacher.std(-1, keepdim=True), x.teacher / x.teacher.std(-1, keepdim=True), x.temperature
            ),
            "both networks' logits are divided by the teacher's standard deviation",
            "divide each network's logits by its own",
        ),
        Known(
            "reverse_kl",
            "the reverse divergence of standardised logits",
            lambda x: _reverse(x.changed(student=std(x.student), teacher=std(x.teacher))),
            "the two arguments of the divergence are swapped",
            "F.kl_div(student_log_probabilities, teacher_probabilities)",
        ),
    )
    return Kind(
        "logit_standardization",
        "KD of standardised logits, equation (1.5)",
        "logits",
        {"kd": _kd_of_standardized},
        laws=LAWS,
        others=others,
    )


def make_dkd(alpha: float = 1.0, beta: float = 8.0) -> Kind:
    def part(a: float, b: float):
        return lambda x: losses.dkd_loss(x.student, x.teacher, x.labels, a, b, x.temperature)

    others = (
        Known(
            "plain_kd",
            "plain KD",
            kd,
            "the two parts are added with the teacher's own weights, so nothing is decoupled",
            "give the part of the other classes the constant weight beta",
        ),
        Known(
            "target_left_in",
            "a second part that still holds the target class",
            lambda x: part(alpha, 0)(x) + beta * kd(x),
            "the second part compares all classes, not only those that are not the target",
            "put the target's logit at minus infinity (or subtract 1000) before the second softmax",
        ),
        Known(
            "target_masked_by_zero",
            "a second part with the target's logit at zero",
            lambda x: (
                part(alpha, 0)(x)
                + beta
                * x.temperature**2
                * _kl_at(
                    *((z * (1 - F.one_hot(x.labels, x.num_classes))) / x.temperature for z in (x.student, x.teacher))
                )
            ),
            "the target's logit is multiplied by 0, and exp(0) is 1: the class stays in the softmax",
            "put the target's logit at minus infinity (or subtract 1000) before the second softmax",
        ),
        Known(
            "target_is_teachers_choice",
            "DKD around the teacher's most likely class",
            lambda x: losses.dkd_loss(x.student, x.teacher, x.teacher.argmax(-1), alpha, beta, x.temperature),
            "the target class is the teacher's most likely one and not the label",
            "build the mask from the labels",
        ),
        Known(
            "teacher_unused",
            "plain cross-entropy with the labels",
            lambda x: F.cross_entropy(x.student, x.labels),
            "the teacher's answer is not used",
            "add the two parts of DKD",
        ),
    )
    return Kind(
        "dkd",
        "DKD, equation (1.4)",
        "logits",
        {"target part": part(1.0, 0.0), "part of the other classes": part(0.0, 1.0)},
        weights={"target part": alpha, "part of the other classes": beta},
        laws=LAWS,
        others=others,
    )


def make_stkd(weight: float = 0.9) -> Kind:
    def with_ce(ce):
        return lambda x: (1 - weight) * ce(x) + weight * kd(x)

    def mixed_ce(x: Inputs) -> Tensor:
        return losses.mixup_cross_entropy(x.student, x.labels, x.permuted_labels, x.lam)

    others = (
        Known(
            "lam_swapped",
            "STKD with lam and 1 - lam swapped",
            with_ce(lambda x: losses.mixup_cross_entropy(x.student, x.permuted_labels, x.labels, x.lam)),
            "the image's own label gets 1 - lam, and its partner's gets lam",
            "lam * CE(z, labels) + (1 - lam) * CE(z, permuted_labels)",
        ),
        Known(
            "partner_ignored",
            "STKD that knows the image's own label alone",
            with_ce(lambda x: F.cross_entropy(x.student, x.labels)),
            "cross-entropy uses one of the two labels of a virtual image",
            "lam * CE(z, labels) + (1 - lam) * CE(z, permuted_labels)",
        ),
        Known(
            "lam_unused",
            "STKD with both labels at one half",
            with_ce(lambda x: losses.mixup_cross_entropy(x.student, x.labels, x.permuted_labels, 0.5)),
            "the two labels are averaged whatever lam is",
            "weigh them by lam and 1 - lam",
        ),
        Known(
            "reverse_kl",
            "STKD with the reverse divergence",
            lambda x: (1 - weight) * mixed_ce(x) + weight * _reverse(x),
            "the two arguments of the divergence are swapped",
            "F.kl_div(student_log_probabilities, teacher_probabilities)",
        ),
        Known(
            "teacher_answers_permuted",
            "STKD with the teacher's answers rolled by one sample",
            lambda x: (
                (1 - weight) * mixed_ce(x) + weight * losses.kd_loss(x.student, x.teacher.roll(1, 0), x.temperature)
            ),
            "the teacher's answers are out of step with the virtual images",
            "compare answers to the same virtual image",
        ),
    )
    return Kind(
        "stkd",
        "STKD, equation (4.3)",
        "logits",
        {"mixed cross-entropy": mixed_ce, "kd": kd},
        weights={"mixed cross-entropy": 1 - weight, "kd": weight},
        laws=LAWS,
        others=others,
    )
