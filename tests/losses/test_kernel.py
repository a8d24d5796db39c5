"""Class centres, kernel transfer and Nystroem factors against loops, scikit-learn and exact kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics.pairwise import linear_kernel, polynomial_kernel, rbf_kernel

from kdtutor.losses import class_centers, class_sums, kernel_transfer_loss, nystrom_kernel

EXACT = dict(rel=1e-9, abs=1e-12)
seeds = st.integers(0, 2**32 - 1)


def draw(seed, B=6, K=4, D_s=5, D_t=7):
    """Student and teacher features, student and teacher landmarks."""
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.normal(size=shape)) for shape in ((B, D_s), (B, D_t), (K, D_s), (K, D_t)))


# --- Class centres ---


@given(seeds, st.integers(1, 20))
def test_class_centers_are_the_mean_of_each_class(seed, N):
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(N, 3)), rng.integers(-1, 5, N)  # -1 is no label
    expected = [features[labels == c].mean(axis=0) if (labels == c).any() else np.zeros(3) for c in range(5)]
    centers = class_centers(torch.from_numpy(features), torch.from_numpy(labels), 5)
    assert centers.numpy() == pytest.approx(np.array(expected), **EXACT)


def test_class_sums_of_batches_add_up_to_the_centers_of_an_epoch():
    rng = np.random.default_rng(0)
    features, labels = torch.from_numpy(rng.normal(size=(30, 3))), torch.from_numpy(rng.integers(0, 4, 30))
    parts = [class_sums(f, y, 4) for f, y in zip(features.split(7), labels.split(7), strict=True)]
    sums, counts = (sum(part) for part in zip(*parts, strict=True))
    assert counts.tolist() == [(labels == c).sum() for c in range(4)]
    assert (sums / counts[:, None]).numpy() == pytest.approx(class_centers(features, labels, 4).numpy(), **EXACT)


def test_class_centers_of_half_precision_are_summed_in_full():
    # 4,096 ones do not add up in fp16, which counts to 2,048 and stops.
    features, labels = torch.ones(4096, 2).half(), torch.zeros(4096, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        sums, counts = class_sums(features, labels, 1)
    assert sums.tolist() == [[4096, 4096]] and counts.tolist() == [4096]


# --- Kernel transfer ---


def kernel_transfer_by_hand(F_s, F_t, M_s, M_t):
    S = [[sum(x * m for x, m in zip(f, center, strict=True)) for center in M_s.tolist()] for f in F_s.tolist()]
    T = [[sum(x * m for x, m in zip(f, center, strict=True)) for center in M_t.tolist()] for f in F_t.tolist()]
    differences = [abs(s - t) for row_s, row_t in zip(S, T, strict=True) for s, t in zip(row_s, row_t, strict=True)]
    norm = sum(t**2 for row in T for t in row) ** 0.5
    return sum(d**2 / 2 if d < 1 else d - 0.5 for d in differences) / norm


@given(seeds, st.integers(1, 6), st.integers(1, 5))
def test_kernel_transfer_is_its_formula(seed, B, K):
    inputs = draw(seed, B, K)
    assert kernel_transfer_loss(*inputs).item() == pytest.approx(kernel_transfer_by_hand(*inputs), **EXACT)


@given(seeds)
def test_scale_free_form_is_the_mean_in_units_of_the_teachers_root_mean_square(seed):
    F_s, F_t, M_s, M_t = draw(seed)
    rms = np.sqrt(((F_t @ M_t.T).numpy() ** 2).mean())
    d = np.abs((F_s @ M_s.T).numpy() - (F_t @ M_t.T).numpy()) / rms
    expected = np.where(d < 1, d**2 / 2, d - 0.5).mean()
    assert kernel_transfer_loss(F_s, F_t, M_s, M_t, scale_free=True).item() == pytest.approx(expected, **EXACT)


@given(seeds, st.integers(2, 5), st.floats(0.01, 100))
def test_only_the_published_form_changes_with_batch_landmarks_and_units(seed, times, unit):
    F_s, F_t, M_s, M_t = draw(seed)
    more_samples = F_s.repeat(times, 1), F_t.repeat(times, 1), M_s, M_t
    more_landmarks = F_s, F_t, M_s.repeat(times, 1), M_t.repeat(times, 1)
    published, free = (kernel_transfer_loss(F_s, F_t, M_s, M_t, scale_free=choice).item() for choice in (False, True))
    for inputs in (more_samples, more_landmarks):  # grows like sqrt(B K)
        assert kernel_transfer_loss(*inputs).item() == pytest.approx(times**0.5 * published, **EXACT)
        assert kernel_transfer_loss(*inputs, scale_free=True).item() == pytest.approx(free, **EXACT)
    other_units = unit * F_s, unit * F_t, unit * M_s, unit * M_t
    assert kernel_transfer_loss(*other_units, scale_free=True).item() == pytest.approx(free, **EXACT)


@given(seeds)
def test_kernel_transfer_is_zero_at_equality_and_ignores_rotation_and_order(seed):
    F_s, F_t, M_s, M_t = draw(seed)
    rng = np.random.default_rng(seed)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(5, 5)))[0])
    samples, landmarks = rng.permutation(len(F_s)), rng.permutation(len(M_s))
    value = kernel_transfer_loss(F_s, F_t, M_s, M_t).item()
    assert kernel_transfer_loss(F_t, F_t, M_t, M_t).item() == pytest.approx(0, abs=1e-12)
    assert kernel_transfer_loss(F_s @ rotation, F_t, M_s @ rotation, M_t).item() == pytest.approx(value, **EXACT)
    shuffled = kernel_transfer_loss(F_s[samples], F_t[samples], M_s[landmarks], M_t[landmarks])
    assert shuffled.item() == pytest.approx(value, **EXACT)


@pytest.mark.parametrize("scale_free", [False, True])
def test_a_teacher_without_similarities_gives_zero(scale_free):
    F_s, F_t, M_s, M_t = draw(0)
    F_s.requires_grad_()
    for inputs in ((F_s, F_t, M_s, 0 * M_t), (F_s, 0 * F_t, M_s, M_t)):
        loss = kernel_transfer_loss(*inputs, scale_free=scale_free)
        (grad,) = torch.autograd.grad(loss, F_s)
        assert loss.item() == 0 and (grad == 0).all()


def test_an_absent_class_adds_nothing():
    F_s, F_t, M_s, M_t = draw(1)
    zero = [torch.cat((M, torch.zeros(1, M.shape[1]))) for M in (M_s, M_t)]
    value = kernel_transfer_loss(F_s, F_t, M_s, M_t).item()
    assert kernel_transfer_loss(F_s, F_t, *zero).item() == pytest.approx(value, **EXACT)


def test_gradient_reaches_the_students_features_alone():
    inputs = [value.requires_grad_() for value in draw(2)]
    kernel_transfer_loss(*inputs).backward()
    assert inputs[0].grad.abs().max() > 0
    assert all(value.grad is None for value in inputs[1:])


# --- Nystroem ---

KERNELS = {"linear": linear_kernel, "rbf": rbf_kernel}


def rebuilt(features, landmarks, **options):
    cross, core = nystrom_kernel(features, landmarks, **options)
    return (cross @ core @ cross.T).numpy()


@pytest.mark.parametrize(("kernel", "gamma"), [("linear", None), ("rbf", None), ("rbf", 0.3)])
def test_nystrom_is_scikit_learns(kernel, gamma):
    X = np.random.default_rng(0).normal(size=(40, 6))
    oracle = Nystroem(
        kernel=kernel, gamma=gamma or (1 / 6 if kernel == "rbf" else None), n_components=5, random_state=0
    )
    embedded = oracle.fit(X).transform(X)
    landmarks = torch.from_numpy(oracle.components_)
    ours = rebuilt(torch.from_numpy(X), landmarks, kernel=kernel, gamma=gamma)
    assert ours == pytest.approx(embedded @ embedded.T, rel=1e-6, abs=1e-9)
    cross, core = nystrom_kernel(torch.from_numpy(X), landmarks, kernel, gamma)
    assert cross.shape == (40, 5) and core.shape == (5, 5)
    assert core.numpy() == pytest.approx(oracle.normalization_.T @ oracle.normalization_, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_points_as_landmarks_give_the_exact_kernel(kernel):
    X = np.random.default_rng(1).normal(size=(12, 4))  # more points than dimensions: the linear core is singular
    gamma = 0.5 if kernel == "rbf" else None
    exact = KERNELS[kernel](X, gamma=gamma) if gamma else KERNELS[kernel](X)
    assert rebuilt(torch.from_numpy(X), torch.from_numpy(X), kernel=kernel, gamma=gamma) == pytest.approx(
        exact, abs=1e-8
    )


@given(seeds, st.integers(1, 8))
def test_any_D_independent_landmarks_are_exact_for_the_linear_kernel(seed, D):
    rng = np.random.default_rng(seed)
    X, landmarks = rng.normal(size=(20, D)), np.linalg.qr(rng.normal(size=(D, D)))[0] * rng.uniform(0.5, 2, (D, 1))
    assert rebuilt(torch.from_numpy(X), torch.from_numpy(landmarks)) == pytest.approx(X @ X.T, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_landmarks_are_exact_and_repeated_landmarks_do_no_harm(kernel):
    X = np.random.default_rng(2).normal(size=(15, 6))
    exact = KERNELS[kernel](X)
    once = rebuilt(torch.from_numpy(X), torch.from_numpy(X[:4]), kernel=kernel)
    assert once[:4] == pytest.approx(exact[:4], abs=1e-9)
    twice = rebuilt(torch.from_numpy(X), torch.from_numpy(X[[0, 1, 2, 3, 0]]), kernel=kernel)
    assert twice == pytest.approx(once, abs=1e-8)


def test_the_kernel_may_be_a_callable():
    X = np.random.default_rng(3).normal(size=(10, 3))
    ours = rebuilt(torch.from_numpy(X), torch.from_numpy(X), kernel=lambda x, y: (1 + x @ y.T / 3) ** 3)
    assert ours == pytest.approx(polynomial_kernel(X), rel=1e-7)


def test_rbf_of_far_away_points_keeps_its_digits_in_float32():
    X = (np.random.default_rng(4).normal(size=(30, 6)) + 100).astype(np.float32)  # |x|^2 is 60,000, distances about 3
    cross, _ = nystrom_kernel(torch.from_numpy(X), torch.from_numpy(X[:5]), "rbf")
    assert cross.numpy() == pytest.approx(rbf_kernel(X.astype(np.float64), X[:5].astype(np.float64)), rel=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_full_matrix_is_never_formed(kernel, largest_tensor):
    N, D, K = 5000, 6, 4
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    with largest_tensor:
        nystrom_kernel(features, features[:K], kernel)
    assert N * K <= largest_tensor.elements <= N * D
