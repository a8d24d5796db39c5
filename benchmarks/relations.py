"""Relational losses, forward and backward, beside their plain definitions and the way repositories write them.

    python benchmarks/relations.py

"plain" is the definition in the fewest operations, without our guards for dead rows, equal samples or
half precision. "usual" is written here after the form that popular repositories share.
"""

import math
from collections.abc import Callable

import torch
from measure import arguments, peak_mib, ratio, seconds_in_turn, write_record
from torch import Tensor
from torch.nn import functional as F

from kdtutor import losses

CLASSES = 10
CUBE_LIMIT = 256  # the usual RKD-A holds several tensors of B^3 numbers: at 1,024 some 20 GB


# --- Plain definitions, and the usual forms ---


def plain_sp(s, t):
    s, t = s.flatten(1), t.flatten(1)
    return (F.normalize(t @ t.T) - F.normalize(s @ s.T)).square().sum() / len(s) ** 2


def usual_sp(s, t):
    s, t = s.view(s.shape[0], -1), t.view(t.shape[0], -1)
    G_s, G_t = F.normalize(torch.mm(s, s.t())), F.normalize(torch.mm(t, t.t()))
    difference = G_t - G_s
    return (difference * difference).view(-1, 1).sum(0).sum() / (s.shape[0] * s.shape[0])


def plain_rkd_distance(s, t):
    # Through matrix products a sample would be a little away from itself, and count among the positive distances.
    d_s, d_t = (torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist") for f in (s, t))
    return F.smooth_l1_loss(d_s / d_s[d_s > 0].mean(), d_t / d_t[d_t > 0].mean())


def usual_rkd_distance(s, t):
    def distances(e):
        squares = e.pow(2).sum(dim=1)
        d = (squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * (e @ e.t())).clamp(min=1e-12).sqrt()
        d = d.clone()
        d[range(len(e)), range(len(e))] = 0
        return d

    with torch.no_grad():
        d_t = distances(t)
        d_t = d_t / d_t[d_t > 0].mean()
    d_s = distances(s)
    return F.smooth_l1_loss(d_s / d_s[d_s > 0].mean(), d_t)


def plain_rkd_angle(s, t):
    e_s, e_t = (F.normalize(f[None] - f[:, None], dim=2) for f in (s, t))
    return F.smooth_l1_loss(e_s @ e_s.mT, e_t @ e_t.mT)


def usual_rkd_angle(s, t):
    with torch.no_grad():
        e_t = F.normalize(t.unsqueeze(0) - t.unsqueeze(1), p=2, dim=2)
        angles_t = torch.bmm(e_t, e_t.transpose(1, 2)).view(-1)
    e_s = F.normalize(s.unsqueeze(0) - s.unsqueeze(1), p=2, dim=2)
    return F.smooth_l1_loss(torch.bmm(e_s, e_s.transpose(1, 2)).view(-1), angles_t)


def plain_pkt(s, t, eps=1e-7):
    p_s, p_t = ((F.normalize(f) @ F.normalize(f).T + 1) / 2 for f in (s, t))
    p_s, p_t = p_s / p_s.sum(1, keepdim=True), p_t / p_t.sum(1, keepdim=True)
    return (p_t * ((p_t + eps) / (p_s + eps)).log()).mean()


def usual_pkt(s, t, eps=1e-7):
    def probabilities(f):
        f = f / (torch.sqrt(torch.sum(f**2, dim=1, keepdim=True)) + eps)
        f[f != f] = 0
        similarity = (torch.mm(f, f.transpose(0, 1)) + 1.0) / 2.0
        return similarity / torch.sum(similarity, dim=1, keepdim=True)

    p_s, p_t = probabilities(s), probabilities(t)
    return torch.mean(p_t * torch.log((p_t + eps) / (p_s + eps)))


def plain_cc(s, t, gamma=0.4):
    def kernel(f):
        u = F.normalize(f)
        c = u @ u.T
        return math.exp(-2 * gamma) * (1 + 2 * gamma * c + 2 * gamma**2 * c**2)

    return F.mse_loss(kernel(s), kernel(t))


def usual_cc(s, t, gamma=0.4, order=2):
    def kernel(f):
        f = F.normalize(f, p=2, dim=-1)
        similarity = torch.matmul(f, f.t())
        total = torch.zeros_like(similarity)
        for p in range(order + 1):
            factor = math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p)
            total = total + factor * torch.pow(similarity, p)
        return total

    return F.mse_loss(kernel(s), kernel(t))


def plain_cosine_gram(s, t):
    return F.mse_loss(F.normalize(s) @ F.normalize(s).T, F.normalize(t) @ F.normalize(t).T)


def usual_cosine_gram(s, t):
    def gram(f):
        f = f / f.norm(p=2, dim=1, keepdim=True)
        return torch.mm(f, f.t())

    return ((gram(s) - gram(t)) ** 2).mean()


def plain_kernel(s, t, m_s, m_t):
    S, T = s @ m_s.T, t @ m_t.T
    return F.smooth_l1_loss(S, T, reduction="sum") / T.norm()


def usual_kernel(s, t, m_s, m_t):
    S, T = torch.mm(s, m_s.t()), torch.mm(t, m_t.t()).detach()
    return torch.nn.SmoothL1Loss(reduction="none")(S, T).sum() / torch.sqrt((T**2).sum())


def _pearson(a, b):
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def _correlation_matching(z_s, z_t, soft_rank: Callable):
    p = (z_t / 4).softmax(1)
    d = -(p * p.log()).sum(1) / math.log(z_t.shape[1])
    ranks = [soft_rank((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, unbiased=False)) for z in (z_s, z_t)]
    return ((1 - d) * (1 - _pearson(z_s, z_t)) + d * (1 - _pearson(*ranks))).mean()


def plain_cmkd(z_s, z_t):
    """With soft ranks by their min-max formula, differentiated by torch."""
    return _correlation_matching(z_s, z_t, min_max_soft_rank)


def usual_cmkd(z_s, z_t):
    import torchsort

    strength = 3 / z_s.shape[1]
    return _correlation_matching(z_s, z_t, lambda z: torchsort.soft_rank(z, "l2", strength))


def min_max_soft_rank(values: Tensor) -> Tensor:
    n = values.shape[1]
    s, order = (values * n / 3).sort(dim=1, descending=True)
    y = s - torch.arange(n, 0, -1)
    before = F.pad(y.cumsum(1), (1, 0))
    lengths = torch.arange(1, n + 1) - torch.arange(n)[:, None]
    means = ((before[:, None, 1:] - before[:, :-1, None]) / lengths.clamp(min=1)).masked_fill(lengths < 1, -torch.inf)
    best_end = means.flip(-1).cummax(-1).values.flip(-1).masked_fill(lengths < 1, torch.inf)
    return torch.zeros_like(s).scatter(1, order, s - best_end.amin(1))


# --- Side by side ---


def cases(batch: int) -> dict[str, tuple[dict[str, Callable], Tensor, tuple[Tensor, ...]]]:
    """name -> (ways to compute it, the student's tensor, the other arguments), shaped as cnn14k's and the teacher's."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    maps = draw(batch, 32, 7, 7).relu(), (draw(batch, 96, 7, 7).relu(),)
    embeddings = draw(batch, 32).relu(), (draw(batch, 96).relu(),)
    logits = draw(batch, CLASSES), (3 * draw(batch, CLASSES),)
    landmarks = draw(CLASSES, 32).relu(), draw(CLASSES, 96).relu()

    def preset(name):
        return lambda s, t: losses.affinity_loss(s, t, **losses.PRESETS[name])

    ways = {
        "sp_loss": ((losses.sp_loss, plain_sp, usual_sp), *maps),
        "sp": ((preset("sp"), plain_sp, usual_sp), *maps),
        "rkd_distance": ((preset("rkd_distance"), plain_rkd_distance, usual_rkd_distance), *embeddings),
        "pkt": ((preset("pkt"), plain_pkt, usual_pkt), *embeddings),
        "cc": ((preset("cc"), plain_cc, usual_cc), *embeddings),
        "cosine_gram": ((preset("cosine_gram"), plain_cosine_gram, usual_cosine_gram), *embeddings),
        "kernel_transfer": (
            (losses.kernel_transfer_loss, plain_kernel, usual_kernel),
            embeddings[0],
            (*embeddings[1], *landmarks),
        ),
        "cmkd": ((losses.cmkd_loss, plain_cmkd, usual_cmkd), *logits),
        "rkd_angle": ((losses.rkd_angle_loss, plain_rkd_angle, usual_rkd_angle), *embeddings),
    }
    return {
        name: (dict(zip(("ours", "plain", "usual"), triple, strict=True)), student, others)
        for name, (triple, student, others) in ways.items()
    }


def forward_and_backward(loss: Callable, student: Tensor, others: tuple[Tensor, ...]):
    leaf = student.detach().requires_grad_()
    value = loss(leaf, *others)
    value.backward()
    return value.detach(), leaf.grad


def have_torchsort() -> bool:
    try:
        import torchsort  # noqa: F401
    except ImportError:
        print("torchsort is not installed: CMKD without its usual form")
        return False
    return True


def compare(ways: dict[str, Callable], student: Tensor, others: tuple[Tensor, ...], quick: bool) -> dict:
    calls = {name: lambda way=way: forward_and_backward(way, student, others) for name, way in ways.items()}
    values = {name: call() for name, call in calls.items()}
    for other in values.values():  # the same loss, or the race means nothing
        torch.testing.assert_close(values["ours"], other, rtol=2e-3, atol=1e-6)
    if len(ways) == 1:  # nothing to race against
        return {"ours": {"peak_mib": peak_mib(calls["ours"])}}
    rounds = 1 if quick else 5 if len(student) > 256 else 15
    seconds = seconds_in_turn(calls, rounds, at_least=0 if quick else 0.01)
    outcome = {
        name: {"milliseconds": 1e3 * sorted(times)[len(times) // 2], "peak_mib": peak_mib(calls[name])}
        for name, times in seconds.items()
    }
    for name in ways:
        if name != "ours":
            outcome["ours"][f"times_{name}"] = ratio(seconds["ours"], seconds[name])
    return outcome


def main():
    options = arguments(__doc__)
    torchsort = have_torchsort()
    result: dict[str, dict] = {}
    for batch in (32,) if options.quick else (64, 256, 1024):
        print(f"\nbatch {batch}      ours ms   / plain   / usual   peak MiB: ours   plain   usual")
        result[batch] = {}
        for name, (ways, student, others) in cases(batch).items():
            if name == "cmkd" and not torchsort:
                del ways["usual"]
            if name == "rkd_angle" and batch > CUBE_LIMIT:
                ways = {"ours": ways["ours"]}
            outcome = result[batch][name] = compare(ways, student, others, options.quick)
            print(line(name, outcome))
    write_record(options, "relations", result)


def line(name: str, outcome: dict) -> str:
    def cell(who, what, width, digits):
        value = outcome.get(who, {}).get(what)
        return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"

    return (
        f"{name:<16}{cell('ours', 'milliseconds', 8, 2)}{cell('ours', 'times_plain', 10, 2)}"
        f"{cell('ours', 'times_usual', 10, 2)}"
        f"{cell('ours', 'peak_mib', 17, 1)}{cell('plain', 'peak_mib', 8, 1)}{cell('usual', 'peak_mib', 8, 1)}"
    )


if __name__ == "__main__":
    main()
