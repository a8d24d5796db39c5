"""How good a network is, and how well it knows how good it is."""

import torch
from torch import Tensor, nn

from . import distributed
from .data import ImageSet, normalize


@torch.inference_mode()
def predict(model: nn.Module, data: ImageSet, batch_size: int = 1000) -> Tensor:
    """Logits (N, C) of a network, in eval mode and full precision, for images as they are."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    own = distributed.every_own(len(data))
    logits = []
    for images in data.images[own].split(batch_size):
        images = normalize(images.to(device), data.mean, data.std).contiguous(memory_format=torch.channels_last)
        logits.append(model(images).float())
    model.train(was_training)
    own_logits = torch.cat(logits)
    whole = own_logits.new_zeros(len(data), *own_logits.shape[1:])
    whole[own] = own_logits
    return distributed.add_up(whole)


def evaluate(
    model: nn.Module, data: ImageSet, teacher_logits: Tensor | None = None, bins: int = 15
) -> dict[str, float]:
    """How good a network is, and how well it knows.

    Args:
        data: labelled images. teacher_logits: (N, C), for the agreement.
        bins: of equal width, for the calibration error.

    Returns:
        top1: share of right answers. nll: mean negative log-likelihood, in nats.
        ece: expected calibration error, sum over bins of (share of images) * |accuracy - confidence|.
        overconfidence: mean confidence - accuracy; positive: surer than it should be.
        agreement: share of images for which teacher and student give the same answer.
    """
    if data.labels is None or bool((data.labels < 0).any()):
        raise ValueError("data must have a label for every image to be evaluated on")
    return metrics(predict(model, data), data.labels, teacher_logits, bins)


def metrics(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None, bins: int = 15) -> dict[str, float]:
    """What `evaluate` returns, from logits (N, C) and labels (N,)."""
    logits, labels = logits.cpu(), labels.cpu()
    confidence, answer = logits.softmax(dim=1).max(dim=1)
    right = (answer == labels).double()
    confidence = confidence.double()
    which_bin = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).scatter_add(0, which_bin, right - confidence)
    result = {
        "top1": right.mean(),
        "nll": nn.functional.cross_entropy(logits, labels),
        "ece": gaps.abs().sum() / len(labels),
        "overconfidence": (confidence - right).mean(),
    }
    if teacher_logits is not None:
        result["agreement"] = (answer == teacher_logits.cpu().argmax(dim=1)).double().mean()
    return {name: float(value) for name, value in result.items()}
