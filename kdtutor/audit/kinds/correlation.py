"""Losses that correlate two answers: Pearson, soft Spearman, CMKD and DIST, and what is taken for them."""

from torch import Tensor

from kdtutor import losses
from kdtutor.losses.correlation import DIFFICULTIES, sample_difficulty

from ..inputs import Inputs
from .base import CLASS_LAWS, SAMPLE_LAWS, TEMPERATURE_LAWS, Kind, Known, Law, Loss


def pearson(x: Inputs) -> Tensor:
    return 1 - losses.pearson_correlation(x.student, x.teacher).mean()


def _cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    return 1 - (a * b).sum(dim).div(a.norm(dim=dim) * b.norm(dim=dim) + 1e-8).mean()


PEARSON_OTHERS = (
    Known(
        "not_centered",
        "the cosine of the logits",
        lambda x: _cosine(x.student, x.teacher),
        "the rows' means are not subtracted: a cosine, which a shift of the logits changes",
        "subtract each row's mean first",
    ),
    Known(
        "over_batch",
        "Pearson's correlation over the samples",
        lambda x: 1 - losses.pearson_correlation(x.student, x.teacher, dim=0).mean(),
        "the correlation runs over dim 0, the samples, and not over the classes",
        "use dim=1 (or -1)",
    ),
    Known(
        "over_everything",
        "one correlation of the whole batch",
        lambda x: 1 - losses.pearson_correlation(x.student.flatten(), x.teacher.flatten()),
        "the tensors are flattened, and one correlation stands for the batch",
        "correlate each row and average",
    ),
    Known(
        "of_probabilities",
        "Pearson's correlation of softmax answers",
        lambda x: 1 - losses.pearson_correlation(x.student_probabilities, x.teacher_probabilities).mean(),
        "softmax answers are correlated, where the likely classes outweigh all others (DIST does this)",
        "correlate the logits; or audit it with kind='dist'",
    ),
    Known(
        "squared_correlation",
        "1 less the squared correlation",
        lambda x: 1 - losses.pearson_correlation(x.student, x.teacher).square().mean(),
        "the correlation is squared, so the opposite answer is as good as the right one",
        "use 1 - rho",
    ),
)


def make_pearson() -> Kind:
    return Kind(
        "pearson",
        "1 - Pearson's correlation, equation (5.1)",
        "logits",
        {"pearson": pearson},
        laws=SAMPLE_LAWS,
        others=PEARSON_OTHERS,
    )


# --- Spearman ---

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)


def _rank_correlation(a: Tensor, b: Tensor, strength: float) -> Tensor:
    return 1 - losses.pearson_correlation(losses.soft_rank(a, strength), losses.soft_rank(b, strength)).mean()


def _spearman_of_zscores(strength: float) -> Known:
    return Known(
        "other_strength",
        f"soft Spearman with strength {strength:g}",
        lambda x: 1 - losses.spearman_correlation(x.student, x.teacher, strength).mean(),
        f"the soft rank's strength is {strength:g}, where 3 / C is expected",
        "pass that strength to audit, or use 3 / C",
        acceptable=True,
    )


def _spearman_of_raw(strength: float) -> Known:
    return Known(
        "ranks_of_raw_logits",
        f"soft Spearman of raw logits with strength {strength:g}",
        lambda x: _rank_correlation(x.student, x.teacher, strength),
        "the logits are ranked without being z-scored, so their size decides how soft the ranks are",
        "z-score each row before the soft rank",
    )


def _spearman_of_probabilities(strength: float) -> Known:
    return Known(
        "ranks_of_probabilities",
        f"soft Spearman of softmax answers with strength {strength:g}",
        lambda x: _rank_correlation(x.student_probabilities, x.teacher_probabilities, strength),
        "softmax answers are ranked: they lie so close that soft ranks pool them all",
        "rank z-scored logits",
    )


PEARSON_FOR_SPEARMAN = Known(
    "spearman_is_pearson",
    "plain Pearson",
    pearson,
    "the soft rank's strength is so large that all classes pool: what comes out is Pearson's correlation",
    "lower the strength: 3 / C on z-scored logits",
)


def _probabilities_as_ranks(x: Inputs) -> Tensor:
    return 1 - losses.pearson_correlation(x.student_probabilities, x.teacher_probabilities).mean()


def make_spearman(regularization_strength: float | None = None) -> Kind:
    others = (
        PEARSON_FOR_SPEARMAN,
        Known(
            "spearman_is_pearson",
            "Pearson's correlation of softmax answers",
            _probabilities_as_ranks,
            "the strength is large beside differences of probabilities: all classes pool, and Pearson is left",
            "rank z-scored logits with strength 3 / C",
        ),
        *map(_spearman_of_zscores, STRENGTHS),
        *map(_spearman_of_raw, STRENGTHS),
        *map(_spearman_of_probabilities, STRENGTHS),
    )
    return Kind(
        "spearman",
        "1 - soft Spearman's correlation, equation (5.7)",
        "logits",
        {"spearman": lambda x: 1 - losses.spearman_correlation(x.student, x.teacher, regularization_strength).mean()},
        laws=SAMPLE_LAWS,
        others=others,
        exact=False,
    )


# --- CMKD ---


def _weighted_pearson(temperature: float, hard_samples_favor: str) -> Loss:
    def loss(x: Inputs) -> Tensor:
        d = sample_difficulty(x.teacher / temperature)
        weight = 1 - d if hard_samples_favor == "spearman" else d
        return (weight * (1 - losses.pearson_correlation(x.student, x.teacher))).mean()

    return loss


def make_cmkd(
    difficulty: str = "teacher_entropy",
    difficulty_temperature: float = 4.0,
    hard_samples_favor: str = "spearman",
    dynamic: bool = True,
    regularization_strength: float | None = None,
) -> Kind:
    chosen = {
        "difficulty": difficulty,
        "difficulty_temperature": difficulty_temperature,
        "hard_samples_favor": hard_samples_favor,
        "dynamic": dynamic,
        "regularization_strength": regularization_strength,
    }

    def cmkd(**changes) -> Loss:
        return lambda x: losses.cmkd_loss(x.student, x.teacher, **(chosen | changes))

    def variant(code: str, cause: str, fix: str, acceptable: bool = False, **changes) -> Known:
        said = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        return Known(code, f"CMKD with {said}", cmkd(**changes), cause, fix, acceptable)

    turned = "pearson" if hard_samples_favor == "spearman" else "spearman"
    others = (
        variant(
            "weights_turned_round",
            "difficult samples favour the other of the two terms",
            f"give {hard_samples_favor} the weight d and the other term 1 - d",
            hard_samples_favor=turned,
        ),
        variant(
            "weights_static",
            "both terms count one half for every sample",
            "weigh them by the sample's difficulty",
            dynamic=False,
        ),
        *(
            variant(
                "other_difficulty",
                f"difficulty is measured by {name}",
                "pass difficulty to audit",
                True,
                difficulty=name,
            )
            for name in DIFFICULTIES
            if name != difficulty
        ),
        variant(
            "difficulty_at_temperature_1",
            "difficulty is measured at temperature 1, where a trained teacher finds every training image easy",
            f"divide the logits by {difficulty_temperature:g} before the entropy",
            difficulty_temperature=1.0,
        ),
        variant(
            "spearman_is_pearson",
            "the soft rank's strength is so large that all classes pool: both terms are Pearson's correlation",
            "lower the strength: 3 / C on z-scored logits",
            regularization_strength=1e4,
        ),
        *(
            variant(
                "other_strength",
                f"the soft rank's strength is {strength:g}",
                "pass regularization_strength to audit, or use 3 / C",
                True,
                regularization_strength=strength,
            )
            for strength in STRENGTHS[:-1]
        ),
        Known(
            "rank_without_gradient",
            "the weighted Pearson term alone",
            _weighted_pearson(difficulty_temperature, hard_samples_favor),
            "the rank term sends no gradient: argsort, or a soft rank whose strength is too small; or it is missing",
            "use a soft rank of z-scored logits with strength 3 / C",
        ),
        Known(
            "spearman_missing",
            "plain Pearson",
            pearson,
            "the rank term is missing, or its strength is so large that it is Pearson's too",
            "add 1 - soft Spearman with weight d",
        ),
        Known(
            "pearson_missing",
            "soft Spearman alone",
            lambda x: 1 - losses.spearman_correlation(x.student, x.teacher, regularization_strength).mean(),
            "the value term is missing",
            "add 1 - Pearson with weight 1 - d",
        ),
    )
    return Kind(
        "cmkd",
        "CMKD, equation (5.9), a reconstruction",
        "logits",
        {"cmkd": cmkd()},
        laws=SAMPLE_LAWS,
        others=others,
        exact=False,
    )


# --- DIST ---


def make_dist(beta: float = 1.0, gamma: float = 1.0) -> Kind:
    def dist(b: float, g: float) -> Loss:
        return lambda x: losses.dist_loss(x.student, x.teacher, x.temperature, b, g)

    def of(transform, correlate) -> Loss:
        def loss(x: Inputs) -> Tensor:
            s, t = transform(x)
            return beta * correlate(s, t, 1) + gamma * correlate(s, t, 0)

        return loss

    rho = lambda s, t, dim: 1 - losses.pearson_correlation(s, t, dim).mean()  # noqa: E731
    cosine = lambda s, t, dim: _cosine(s, t, dim)  # noqa: E731
    answers = lambda x: (x.student_probabilities, x.teacher_probabilities)  # noqa: E731
    others = (
        Known(
            "logits_for_probabilities",
            "DIST of logits",
            of(lambda x: (x.student, x.teacher), rho),
            "logits are correlated, not softmax answers",
            "apply softmax at the temperature first",
        ),
        Known(
            "logits_for_probabilities",
            "the correlation of logits over classes",
            pearson,
            "logits are correlated, not softmax answers, and over classes alone",
            "apply softmax at the temperature first, and add the correlation over samples",
        ),
        Known(
            "not_centered",
            "DIST with cosines",
            of(answers, cosine),
            "means are not subtracted, so cosines are taken where correlations are due",
            "subtract the mean over classes, and over samples, first",
        ),
        Known(
            "temperature_ignored",
            "DIST at temperature 1",
            of(lambda x: (x.student.softmax(-1), x.teacher.softmax(-1)), rho),
            "the logits are not divided by the temperature",
            "divide both networks' logits by the temperature",
        ),
        Known(
            "softmax_over_batch",
            "DIST with the softmax over the batch",
            of(lambda x: ((x.student / x.temperature).softmax(0), (x.teacher / x.temperature).softmax(0)), rho),
            "softmax runs over dim 0, the samples",
            "use softmax(dim=1)",
        ),
    )
    over_samples = (
        Law("C", 1, "summed_over_classes", "the classes' correlations are summed", "average them"),
        *(law for law in CLASS_LAWS if law.size == "C"),
    )
    return Kind(
        "dist",
        "DIST, equation (5.10)",
        "logits",
        {"correlation over classes": dist(1.0, 0.0), "correlation over samples": dist(0.0, 1.0)},
        weights={"correlation over classes": beta, "correlation over samples": gamma},
        laws=TEMPERATURE_LAWS + SAMPLE_LAWS + over_samples,
        others=others,
    )
