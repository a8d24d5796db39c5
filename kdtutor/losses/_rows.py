"""Rows that vary, and rows that do not: what correlations, z-scores and normalised matrices share."""

import torch
from torch import Tensor


def is_constant(values: Tensor, dim: int) -> Tensor:
    """True, with `dim` kept as 1, where a slice varies by no more than rounding does. NaN is not constant."""
    smallest, largest = torch.aminmax(values.detach(), dim=dim, keepdim=True)
    size = torch.maximum(largest.abs(), smallest.abs())
    return (largest - smallest) <= 8 * torch.finfo(values.dtype).eps * size


def unit_deviations(values: Tensor, dim: int = -1) -> Tensor:
    """Deviations from the mean at length 1; a constant slice becomes 0 and passes no gradient.

    Deviations are first divided by the slice's range, which changes nothing but keeps their
    squares clear of overflow and underflow.
    """
    smallest, largest = torch.aminmax(values.detach(), dim=dim, keepdim=True)
    spread = (largest - smallest).masked_fill(is_constant(values, dim), torch.inf)
    deviations = (values - values.mean(dim, keepdim=True)) / spread
    return divide_or_zero(deviations, torch.linalg.vector_norm(deviations, dim=dim, keepdim=True))


def divide_or_zero(values: Tensor, size: Tensor) -> Tensor:
    """values / size, and 0 without gradient where the size is 0: a dead row stays dead, never NaN or huge."""
    return values / size.masked_fill(size == 0, torch.inf)
