"""The affinity framework: each module, each published cell and RKD-A, against loops, scipy and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import ortho_group, zscore
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel
from sklearn.preprocessing import minmax_scale, normalize

from kdtutor.losses import (
    AFFINITIES,
    DISCREPANCIES,
    NORMALIZATIONS,
    PRESETS,
    affinity_loss,
    rkd_angle_loss,
)

EXACT = dict(rel=1e-9, abs=1e-12)
seeds = st.integers(0, 2**32 - 1)


def draw_features(seed, B=6, D_s=4, D_t=7):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(B, D_s))), torch.from_numpy(rng.normal(size=(B, D_t)))


# --- The modules, one by one, defined again with scipy and scikit-learn ---


def taylor_rbf(features, gamma=0.4, order=2):
    cosines = cosine_similarity(features)
    series = sum((2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series


def smooth_l1_by_hand(s, t):
    d = np.abs(s - t)
    return np.where(d < 1, d**2 / 2, d - 0.5).mean()


AFFINITIES_BY_HAND = {
    "inner": lambda f: f @ f.T,
    "cosine": cosine_similarity,
    "cosine_shifted": lambda f: (cosine_similarity(f) + 1) / 2,
    "euclidean": lambda f: cdist(f, f),
    "sqeuclidean": lambda f: cdist(f, f, "sqeuclidean"),
    "rbf": taylor_rbf,
}
NORMALIZATIONS_BY_HAND = {
    "none": lambda m: m,
    "row_l1": lambda m: normalize(m, norm="l1"),
    "row_l2": lambda m: normalize(m, norm="l2"),
    "row_softmax": lambda m: softmax(m, axis=1),
    "mean": lambda m: m / m[m > 0].mean(),
    "frobenius": lambda m: m / np.linalg.norm(m),
    "row_minmax": lambda m: minmax_scale(m, axis=1),
    "row_zscore": lambda m: zscore(m, axis=1),
}
DISCREPANCIES_BY_HAND = {
    "mse": lambda s, t: ((s - t) ** 2).mean(),
    "l1": lambda s, t: np.abs(s - t).mean(),
    "smooth_l1": smooth_l1_by_hand,
    "kl": lambda s, t: (t * np.log((t + 1e-7) / (s + 1e-7))).mean(),
}
CELLS = list(itertools.product(AFFINITIES_BY_HAND, NORMALIZATIONS_BY_HAND, DISCREPANCIES_BY_HAND))


def is_valid(affinity, normalization, discrepancy):
    """KL wants rows that are probability distributions."""
    if discrepancy != "kl":
        return True
    return normalization == "row_softmax" or (normalization == "row_l1" and affinity not in ("inner", "cosine"))


def cell_by_hand(student, teacher, affinity, normalization, discrepancy):
    sign = -1 if normalization == "row_softmax" and affinity.endswith("euclidean") else 1
    matrices = [
        NORMALIZATIONS_BY_HAND[normalization](sign * AFFINITIES_BY_HAND[affinity](f.numpy()))
        for f in (student, teacher)
    ]
    return DISCREPANCIES_BY_HAND[discrepancy](*matrices)


def test_the_modules_are_these_and_no_others():
    assert set(AFFINITIES) == set(AFFINITIES_BY_HAND)
    assert set(NORMALIZATIONS) == set(NORMALIZATIONS_BY_HAND)
    assert set(DISCREPANCIES) == set(DISCREPANCIES_BY_HAND)
    assert set(PRESETS) == {"sp", "rkd_distance", "pkt", "cc", "cosine_gram"}


@pytest.mark.parametrize("name", AFFINITIES_BY_HAND)
@given(seeds, st.integers(1, 7))
def test_affinity_is_its_definition(name, seed, B):
    features, _ = draw_features(seed, B)
    assert AFFINITIES[name](features).numpy() == pytest.approx(AFFINITIES_BY_HAND[name](features.numpy()), **EXACT)


@pytest.mark.parametrize("name", NORMALIZATIONS_BY_HAND)
@given(seeds, st.integers(2, 7))
def test_normalization_is_its_definition(name, seed, B):
    matrix = torch.from_numpy(np.random.default_rng(seed).normal(size=(B, B)))
    matrix[0, 0] = 1.0  # "mean" needs a positive entry
    assert NORMALIZATIONS[name](matrix).numpy() == pytest.approx(NORMALIZATIONS_BY_HAND[name](matrix.numpy()), **EXACT)


@pytest.mark.parametrize("name", DISCREPANCIES_BY_HAND)
@given(seeds, st.integers(1, 7))
def test_discrepancy_is_its_definition(name, seed, B):
    student, teacher = np.random.default_rng(seed).dirichlet(np.ones(B), size=(2, B)) * (1 if name == "kl" else 5)
    value = DISCREPANCIES[name](torch.from_numpy(student), torch.from_numpy(teacher))
    assert value.item() == pytest.approx(DISCREPANCIES_BY_HAND[name](student, teacher), **EXACT)


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_every_cell_is_its_three_modules_or_is_refused(cell):
    student, teacher = draw_features(0)
    if is_valid(*cell):
        assert affinity_loss(student, teacher, *cell).item() == pytest.approx(
            cell_by_hand(student, teacher, *cell), **EXACT
        )
    else:
        with pytest.raises(ValueError, match=r"discrepancy 'kl' compares probability distributions.*use 'row_softmax'"):
            affinity_loss(student, teacher, *cell)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if is_valid(*cell)], ids="-".join)
def test_every_cell_is_zero_at_equality_and_ignores_rotation_and_order(cell):
    student, teacher = draw_features(1)
    value = affinity_loss(student, teacher, *cell).item()
    rotation = torch.from_numpy(ortho_group.rvs(4, random_state=0))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert affinity_loss(teacher, teacher, *cell).item() == pytest.approx(0, abs=1e-12)
    assert affinity_loss(student @ rotation, teacher, *cell).item() == pytest.approx(value, **EXACT)
    assert affinity_loss(student[order], teacher[order], *cell).item() == pytest.approx(value, **EXACT)


# --- Options and callables ---


@given(seeds, st.floats(0.05, 5), st.integers(1, 6))
def test_rbf_is_its_taylor_series(seed, gamma, order):
    student, teacher = draw_features(seed)
    matrices = [taylor_rbf(f.numpy(), gamma, order) for f in (student, teacher)]
    value = affinity_loss(student, teacher, "rbf", "none", "mse", gamma=gamma, order=order)
    assert value.item() == pytest.approx(DISCREPANCIES_BY_HAND["mse"](*matrices), **EXACT)


@given(seeds, st.floats(0.05, 5))
def test_rbf_without_order_is_the_gaussian_kernel_of_unit_features(seed, gamma):
    student, teacher = draw_features(seed)
    matrices = [rbf_kernel(normalize(f.numpy()), gamma=gamma) for f in (student, teacher)]
    exact = affinity_loss(student, teacher, "rbf", "none", "mse", gamma=gamma, order=None).item()
    assert exact == pytest.approx(DISCREPANCIES_BY_HAND["mse"](*matrices), **EXACT)
    assert affinity_loss(student, teacher, "rbf", "none", "mse", gamma=gamma, order=60).item() == pytest.approx(
        exact, **EXACT
    )


@pytest.mark.parametrize("affinity", AFFINITIES_BY_HAND)
@pytest.mark.parametrize("tau", [0.1, 3.0])
def test_tau_divides_before_the_softmax_and_distances_count_as_their_negative(affinity, tau):
    student, teacher = draw_features(2)
    sign = -1 if affinity.endswith("euclidean") else 1
    matrices = [softmax(sign * AFFINITIES_BY_HAND[affinity](f.numpy()) / tau, axis=1) for f in (student, teacher)]
    value = affinity_loss(student, teacher, affinity, "row_softmax", "kl", tau=tau).item()
    assert value == pytest.approx(DISCREPANCIES_BY_HAND["kl"](*matrices), **EXACT)


def test_row_softmax_of_a_distance_favours_near_samples():
    features = torch.tensor([[0.0], [1.0], [5.0]])
    seen = []
    affinity_loss(features, features, "euclidean", "row_softmax", lambda s, t: seen.append(s) or s.sum())
    assert seen[0][0].argsort(descending=True).tolist() == [0, 1, 2]


def test_each_module_may_be_a_callable():
    student, teacher = draw_features(3)
    named = affinity_loss(student, teacher, "cosine", "row_l2", "l1").item()
    called = affinity_loss(
        student,
        teacher,
        affinity=lambda f: torch.cosine_similarity(f[:, None], f[None], dim=-1),
        normalization=lambda m: torch.nn.functional.normalize(m, dim=1),
        discrepancy=lambda s, t: (s - t).abs().mean(),
    )
    assert called.item() == pytest.approx(named, **EXACT)


def test_feature_maps_are_flattened():
    student, teacher = draw_features(4, D_s=12, D_t=24)
    maps = affinity_loss(student.reshape(6, 3, 2, 2), teacher.reshape(6, 2, 3, 4), **PRESETS["pkt"])
    assert torch.equal(maps, affinity_loss(student, teacher, **PRESETS["pkt"]))


# --- The published cells, pair by pair ---


def pairs(matrix_of):
    """A B x B matrix of Python floats from a function of (i, j)."""
    return lambda B: [[matrix_of(i, j) for j in range(B)] for i in range(B)]


def dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def norm(a):
    return dot(a, a) ** 0.5


@given(seeds, st.integers(2, 7))
def test_rkd_distance_pair_by_pair(seed, B):
    student, teacher = draw_features(seed, B)
    matrices = []
    for f in (student, teacher):
        distances = pairs(lambda i, j, f=f: norm(f[i] - f[j]))(B)
        positive = [d for row in distances for d in row if d > 0]
        mean = sum(positive) / len(positive)
        matrices.append([d / mean for row in distances for d in row])
    differences = [abs(s - t) for s, t in zip(*matrices, strict=True)]
    expected = sum(d**2 / 2 if d < 1 else d - 0.5 for d in differences) / B**2
    assert affinity_loss(student, teacher, **PRESETS["rkd_distance"]).item() == pytest.approx(expected, **EXACT)


@given(seeds, st.integers(1, 7))
def test_pkt_pair_by_pair(seed, B):
    student, teacher = draw_features(seed, B)
    matrices = []
    for f in (student, teacher):
        shifted = pairs(lambda i, j, f=f: (dot(f[i], f[j]) / norm(f[i]) / norm(f[j]) + 1) / 2)(B)
        matrices.append([entry / sum(row) for row in shifted for entry in row])
    expected = sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(*matrices, strict=True)) / B**2
    assert affinity_loss(student, teacher, **PRESETS["pkt"]).item() == pytest.approx(expected, **EXACT)


@given(seeds, st.integers(1, 7))
def test_cc_pair_by_pair(seed, B):
    student, teacher = draw_features(seed, B)
    matrices = []
    for f in (student, teacher):
        cosines = pairs(lambda i, j, f=f: dot(f[i], f[j]) / norm(f[i]) / norm(f[j]))(B)
        matrices.append([math.exp(-0.8) * (1 + 0.8 * c + 0.8**2 / 2 * c**2) for row in cosines for c in row])
    expected = sum((s - t) ** 2 for s, t in zip(*matrices, strict=True)) / B**2
    assert affinity_loss(student, teacher, **PRESETS["cc"]).item() == pytest.approx(expected, **EXACT)


@given(seeds, st.floats(0.01, 100))
def test_scale_invariance_of_the_published_cells(seed, scale):
    student, teacher = draw_features(seed)
    for preset in PRESETS.values():
        value = affinity_loss(student, teacher, **preset).item()
        assert affinity_loss(scale * student, teacher, **preset).item() == pytest.approx(value, **EXACT)


# --- Degenerate samples ---


def test_dead_and_equal_samples_have_the_affinities_their_names_promise():
    features = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    distances = AFFINITIES["euclidean"](features)
    assert distances.detach().numpy() == pytest.approx(cdist(features.detach(), features.detach()), abs=1e-12)
    (grad,) = torch.autograd.grad(distances[0, 1], features)
    assert grad.abs().max() == 0
    assert (AFFINITIES["cosine"](features)[2] == 0).all()


@pytest.mark.parametrize("width", [3, 64, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_between_equal_samples_vanish_and_are_symmetric(width, dtype):
    features = torch.randn(8, width, generator=torch.Generator().manual_seed(0)).to(dtype) + 3
    features = torch.cat((features, features[:3]))
    distances = AFFINITIES["euclidean"](features)
    assert distances.diagonal().abs().max() == 0
    exact = cdist(features.double(), features.double())
    assert distances.numpy() == pytest.approx(exact, abs=2e-3 * exact.max() if dtype is torch.float32 else 1e-6)


def test_constant_rows_normalise_to_zero_without_gradient():
    for name in ("row_minmax", "row_zscore"):
        matrix = torch.full((3, 3), 1 / 3, requires_grad=True)
        out = NORMALIZATIONS[name](matrix)
        (grad,) = torch.autograd.grad(out[:, 0].sum(), matrix)
        assert (out == 0).all() and (grad == 0).all()


def test_rows_that_vary_by_rounding_alone_normalise_to_zero():
    # A collapsed network: one sample, many times, whose similarities differ in their last digits alone.
    matrix = torch.full((3, 3), 0.3, dtype=torch.float64)
    matrix[:, 1] = 0.1 + 0.2
    for name in ("row_minmax", "row_zscore"):
        assert (NORMALIZATIONS[name](matrix) == 0).all()


# --- RKD-A ---


def rkd_angle_by_hand(student, teacher):
    """All triplets with three loops. e_ij of a point with itself has no direction and counts as 0."""
    B = len(student)

    def cosines(f):
        unit = [[(f[j] - f[i]) / (norm(f[j] - f[i]) or 1) for j in range(B)] for i in range(B)]
        return np.array([dot(unit[i][j], unit[i][k]) for i in range(B) for j in range(B) for k in range(B)])

    return smooth_l1_by_hand(cosines(student), cosines(teacher))


@given(seeds, st.integers(1, 6))
def test_rkd_angle_triplet_by_triplet(seed, B):
    student, teacher = draw_features(seed, B)
    assert rkd_angle_loss(student, teacher).item() == pytest.approx(
        rkd_angle_by_hand(student, teacher), rel=1e-7, abs=1e-12
    )


@given(seeds, st.floats(0.01, 100), st.floats(-10, 10))
def test_rkd_angle_does_not_see_similarity_transformations(seed, scale, shift):
    student, teacher = draw_features(seed)
    rotation = torch.from_numpy(ortho_group.rvs(4, random_state=seed))
    moved = rkd_angle_loss(scale * student @ rotation + shift, teacher).item()
    assert moved == pytest.approx(rkd_angle_loss(student, teacher).item(), rel=1e-6)
    assert rkd_angle_loss(scale * teacher + shift, teacher).item() == pytest.approx(0, abs=1e-12)


def test_rkd_angle_of_equal_samples():
    student, teacher = draw_features(0)
    student[1] = student[0]
    teacher[5] = teacher[4] = teacher[3]
    expected = rkd_angle_by_hand(student, teacher)
    loss = rkd_angle_loss(student.requires_grad_(), teacher)
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(expected, rel=1e-7)
    assert grad.isfinite().all()


def rkd_angle_at_once(student, teacher):
    """The plain B^3 form, for values and gradients that loops are too slow for."""

    def cosines(f):
        e = torch.nn.functional.normalize(f[None] - f[:, None], dim=2)
        return e @ e.transpose(1, 2)

    return torch.nn.functional.smooth_l1_loss(cosines(student), cosines(teacher))


def test_rkd_angle_in_chunks_gives_the_gradients_of_the_whole():
    student, teacher = draw_features(0, B=203, D_s=8, D_t=8)  # 203 anchors, 101 at a time: chunks of 101, 101, 1
    (expected,) = torch.autograd.grad(rkd_angle_at_once(student.requires_grad_(), teacher), student)
    loss = rkd_angle_loss(student, teacher)
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(rkd_angle_at_once(student, teacher).item(), rel=1e-7)
    assert grad.numpy() == pytest.approx(expected.numpy(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("loss", "is_bounded"), [(rkd_angle_loss, True), (rkd_angle_at_once, False)])
def test_rkd_angle_never_holds_a_tensor_of_all_triplets(loss, is_bounded, largest_tensor):
    B = 256
    student, teacher = torch.randn(2, B, 8, generator=torch.Generator().manual_seed(0))
    with largest_tensor:
        loss(student.requires_grad_(), teacher).backward()
    assert (largest_tensor.elements <= B**3 / 4) is is_bounded  # the plain form shows that the instrument works


def test_rkd_angle_keeps_only_matrices_of_pairs_for_the_backward_pass():
    def kept_by(loss, B):
        student, teacher = torch.randn(2, B, 8, generator=torch.Generator().manual_seed(0))
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = loss(student.requires_grad_(), teacher)
        value.backward()
        return sum(storages.values())

    B = 256
    assert kept_by(rkd_angle_at_once, B) >= B**3
    assert kept_by(rkd_angle_loss, B) <= 20 * B**2
