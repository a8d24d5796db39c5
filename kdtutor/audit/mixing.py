"""Mixup as a function: is an image blended with one partner, and are the labels blended the same way?"""

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .calling import AuditError
from .report import Check, Finding, Report

IMAGE = (2, 6, 5)
CLASSES = 7


@dataclass(frozen=True)
class Blend:
    """What was done to images, read from the result: mixed[i] = lam[i] images[i] + (1 - lam[i]) images[partner[i]]."""

    lam: Tensor  # (B,)
    partner: Tensor  # (B,)
    error: float  # what no blend of two images explains, relative


def read_blend(images: Tensor, mixed: Tensor) -> Blend:
    """For each mixed image the partner and lam that explain it best. Random images are far apart, so there is one."""
    x, m = images.flatten(1).double(), mixed.flatten(1).double()
    away = x[:, None, :] - x[None, :, :]  # x_i - x_j
    along = ((m[:, None, :] - x[None, :, :]) * away).sum(-1) / away.square().sum(-1).clamp(min=1e-12)
    rest = (m[:, None, :] - x[None, :, :] - along[..., None] * away).norm(dim=-1)
    own = (m - x).norm(dim=-1)
    best, partner = rest.masked_fill(torch.eye(len(x), dtype=torch.bool), torch.inf).min(dim=1)
    alone = own <= 1e-5 * x.norm(dim=-1)  # lam = 1, or a partner that is the image itself
    rows = torch.arange(len(x))
    lam = torch.where(alone, torch.ones_like(own), along[rows, partner])
    error = torch.where(alone, own, best) / x.norm(dim=-1)
    return Blend(lam, torch.where(alone, rows, partner), float(error.max()))


def audit_mixup(mixup, alpha: float = 1.0, **settings) -> Report:
    """A function (images, labels, ...) that returns mixed images, both labels and lam, or mixed images and soft labels.

    Args:
        mixup: draws from torch's global generator, numpy's, or Python's; called about 200 times.
        alpha: of Beta(alpha, alpha), passed on where it has a parameter of that name.
        settings: passed on by name.
    """
    name = getattr(mixup, "__qualname__", type(mixup).__name__)
    parameters = inspect.signature(mixup).parameters
    settings = {**settings, **({"alpha": alpha} if "alpha" in parameters else {})}
    g = torch.Generator().manual_seed(0)
    draws, found, times = [], {}, Counter()
    for size in (12, 12, 9, *[6] * 200):
        images = torch.randn(size, *IMAGE, generator=g)
        labels = torch.randint(CLASSES, (size,), generator=g)
        before = images.clone()
        try:
            output = mixup(images, labels, **settings)
        except Exception as error:
            raise AuditError(f"{name} failed on images {tuple(images.shape)} and labels ({size},): {error}") from error
        parts = _read_output(name, output, images)
        blend = read_blend(before, parts["images"])
        draws.append((blend, parts, labels))
        for finding in _judge_draw(blend, parts, labels, changed=not torch.equal(before, images)):
            found.setdefault(finding.code, finding)
            times[finding.code] += 1
    found = {code: finding for code, finding in found.items() if times[code] > 5}  # rarer ones are chance
    if "not_a_blend" not in found:
        for finding in _judge_many(draws, alpha):
            found.setdefault(finding.code, finding)
    return mixing_report(name, "mixup", "mixup, equation (4.1)", list(found.values()))


def _read_output(name: str, output, images: Tensor) -> dict:
    """Sort what came back by its looks: images, labels, permuted labels, soft labels, lam, permutation."""
    wanted = "wanted (images, labels, permuted_labels, lam) or (images, soft_labels)"
    if not isinstance(output, Mapping | tuple | list):
        raise AuditError(f"{name} returned {type(output).__name__}; {wanted}")
    values = list(output.values()) if isinstance(output, Mapping) else list(output)
    fields = list(output) if isinstance(output, Mapping) else list(getattr(output, "_fields", [""] * len(values)))
    parts, whole = {}, []
    for field, value in zip(fields, values, strict=True):
        if isinstance(value, Tensor) and value.shape == images.shape and "images" not in parts:
            parts["images"] = value
        elif isinstance(value, Tensor) and value.dim() == 2 and value.is_floating_point() and len(value) == len(images):
            parts["soft_labels"] = value
        elif isinstance(value, Tensor) and value.dim() == 1 and not value.is_floating_point():
            if ("perm" in field and "label" not in field) or "index" in field:
                parts["permutation"] = value
            else:
                whole.append(value)
        elif isinstance(value, int | float) or (isinstance(value, Tensor) and value.is_floating_point()):
            parts["lam"] = torch.as_tensor(value, dtype=torch.float64).flatten()
    for key, value in zip(("labels", "permuted_labels", "permutation"), whole, strict=False):
        parts.setdefault(key, value)
    labelled = "soft_labels" in parts or {"labels", "permuted_labels", "lam"} <= set(parts)
    if "images" not in parts or not labelled:
        raise AuditError(f"{name} returned {', '.join(parts) or 'nothing known'}; {wanted}")
    return parts


def _judge_draw(blend: Blend, parts: dict, labels: Tensor, changed: bool) -> Iterator[Finding]:
    if changed:
        yield Finding(
            "inputs_changed",
            "images left as they were",
            "the function writes to the images it was given",
            "an in-place operation on an argument",
            "make a new tensor: lam * images + (1 - lam) * images[permutation]",
            "with a remembered or clean teacher, the clean images are gone",
        )
    if blend.error > 1e-3:
        yield Finding(
            "not_a_blend",
            "lam * image + (1 - lam) * partner",
            f"a part of {blend.error:.2g} of a mixed image is explained by no blend of two images of the batch",
            "the weights do not sum to 1, or more than two images are blended",
            "lam * images + (1 - lam) * images[permutation]",
            "virtual images lie off the line between two real ones",
        )
        return
    mixed = (blend.lam < 0.999) & (blend.lam > 0.001)  # elsewhere the partner cannot be read
    if "soft_labels" in parts:
        one_hot = torch.eye(parts["soft_labels"].shape[1], dtype=torch.float64)
        lam = blend.lam[:, None]
        due = lam * one_hot[labels] + (1 - lam) * one_hot[labels[blend.partner]]
        turned = (1 - lam) * one_hot[labels] + lam * one_hot[labels[blend.partner]]
        soft = parts["soft_labels"].double()
        if not torch.allclose(soft[mixed], due[mixed], atol=1e-3):
            yield _lam_swapped() if torch.allclose(soft[mixed], turned[mixed], atol=1e-3) else _labels_elsewhere()
        return
    lam = parts["lam"].expand(len(labels)) if parts["lam"].numel() == 1 else parts["lam"]
    if not torch.equal(parts["labels"], labels) or not torch.equal(
        parts["permuted_labels"][mixed], labels[blend.partner][mixed]
    ):
        swapped = torch.equal(parts["permuted_labels"], labels) and torch.equal(
            parts["labels"][mixed], labels[blend.partner][mixed]
        )
        yield _lam_swapped() if swapped else _labels_elsewhere()
    if not torch.allclose(lam[mixed], blend.lam[mixed], atol=1e-3):
        yield _lam_swapped() if torch.allclose(1 - lam[mixed], blend.lam[mixed], atol=1e-3) else _other_lam()


def _lam_swapped() -> Finding:
    return Finding(
        "lam_swapped",
        "the own label weighs lam, as the own image does",
        "the own image has weight lam, the own label 1 - lam",
        "lam and 1 - lam are swapped between images and labels",
        "lam * CE(z, labels) + (1 - lam) * CE(z, labels[permutation])",
        "every target says the opposite of its image",
    )


def _labels_elsewhere() -> Finding:
    return Finding(
        "labels_permuted_differently",
        "permuted_labels = labels[permutation], with the permutation of the images",
        "the labels' partners are not the images' partners",
        "two permutations were drawn, one for the images and one for the labels",
        "draw one permutation and use it for both",
        "a share 1 - lam of every target is noise",
    )


def _other_lam() -> Finding:
    return Finding(
        "other_lam",
        "the lam that blended the images is returned",
        "the images were blended by another lam",
        "lam was drawn twice, or changed after it was used",
        "draw lam once",
        "targets do not fit their images",
    )


def _judge_many(draws: list, alpha: float) -> Iterator[Finding]:
    """Over many draws: does the permutation move, is lam Beta(alpha, alpha), one for the batch?"""
    if all(torch.equal(blend.partner, torch.arange(len(blend.partner))) for blend, _, _ in draws):
        yield Finding(
            "never_mixed",
            "another image as partner",
            "every image comes back as it was",
            "the permutation is the identity, or lam is always 1",
            "permutation = torch.randperm(len(images))",
            "plain training under another name",
        )
        return
    # Where lam is 1, or nearly, the images do not show who their partners were.
    seen = [blend for blend, _, _ in draws[3:] if (blend.lam < 0.999).any()]
    if len({tuple(blend.partner.tolist()) for blend in seen}) == 1:
        yield Finding(
            "fixed_permutation",
            "a fresh permutation for every batch",
            "the partner of an image is always found at the same place",
            "the permutation is made once, or the generator is seeded in every call",
            "permutation = torch.randperm(len(images)) in every call",
            "less variety, since neighbours in the batch are always paired",
        )
    mixed = [(b.lam[(b.partner != torch.arange(len(b.lam)))]) for b, _, _ in draws]
    mixed = [lam for lam in mixed if len(lam)]
    if any(float(lam.max() - lam.min()) > 1e-3 for lam in mixed):
        yield Finding(
            "lam_per_sample",
            "one lam for the batch, as published",
            "each sample has its own lam",
            "lam is drawn per sample: a variant that trains as well",
            "nothing to mend, if the losses take a lam per sample",
            note=True,
        )
    first = torch.stack([lam[0] for lam in mixed])
    distance = _distance_to_beta(first, alpha)
    if distance > 1.95 / len(first) ** 0.5:  # one honest function in a thousand fails this
        folded = (
            _distance_to_beta(torch.cat((first, 1 - first)), alpha) <= 1.95 / len(first) ** 0.5 and first.min() >= 0.499
        )
        yield Finding(
            "lam_folded" if folded else "lam_distribution",
            f"lam drawn from Beta({alpha:g}, {alpha:g})",
            f"distribution functions {distance:.2f} apart over {len(first)} draws, mean {first.mean():.2f}",
            "lam is replaced by max(lam, 1 - lam), a common variant"
            if folded
            else "lam is drawn from another distribution",
            "nothing to mend" if folded else f"lam = numpy.random.beta({alpha:g}, {alpha:g})",
            "" if folded else "virtual images are nearer to, or farther from, the real ones than alpha says",
            note=folded,
        )


def _distance_to_beta(lam: Tensor, alpha: float) -> float:
    """The Kolmogorov-Smirnov distance of draws from Beta(alpha, alpha)."""
    lam = lam.clamp(0, 1).double().sort().values
    below = _beta_integral(torch.minimum(lam, 1 - lam), alpha)  # the density is symmetric
    at = torch.where(lam <= 0.5, below, 1 - below)
    steps = torch.arange(len(lam) + 1, dtype=torch.float64) / len(lam)
    return float(torch.maximum((at - steps[:-1]).abs(), (at - steps[1:]).abs()).max())


def _beta_integral(x: Tensor, alpha: float, points: int = 20_000) -> Tensor:
    """The distribution function of Beta(alpha, alpha) up to x <= 1/2, by the midpoint rule.

    With u = t ** alpha the integrand t ** (alpha - 1) (1 - t) ** (alpha - 1) loses its pole at 0.
    """
    end = 0.5**alpha
    u = (torch.arange(points, dtype=torch.float64) + 0.5) * (end / points)
    total = torch.nn.functional.pad(((1 - u ** (1 / alpha)) ** (alpha - 1)).cumsum(0), (1, 0))
    position = (x**alpha / end * points).clamp(max=points)
    left = position.long().clamp(max=points - 1)
    value = total[left] + (position - left) * (total[left + 1] - total[left])
    return 0.5 * value / total[-1]


def mixing_report(name: str, kind: str, title: str, found: list[Finding]) -> Report:
    findings = tuple(finding for finding in found if not finding.note)
    return Report(
        name=name,
        kind=kind,
        identity=f"this is {title}" if not findings else f"not {title}",
        findings=findings,
        notes=tuple(finding for finding in found if finding.note),
        checks=(Check("each image blended with one partner", "not_a_blend" not in {f.code for f in findings}),),
    )
