"""Rows that vary, and rows that do not: what correlations, z-scores and normalised matrices share."""

import torch
from torch import Tensor


def spread(values: Tensor, dim: int) -> Tensor:
    """Largest less smallest value, with `dim` kept as 1; 0 where a slice varies by no more than rounding does."""
    smallest, largest = torch.aminmax(values.detach(), dim=dim, keepdim=True)
    size = torch.maximum(largest.abs(), smallest.abs())
    found = largest - smallest
    return found.masked_fill(found <= 8 * torch.finfo(values.dtype).eps * size, 0)


def is_constant(values: Tensor, dim: int) -> Tensor:
    """True where the spread is 0. NaN is not constant."""
    return spread(values, dim) == 0


def unit_deviations(values: Tensor, dim: int = -1) -> Tensor:
    """Deviations from the mean at length 1; a constant slice becomes 0 and passes no gradient.

    Deviations are first divided by the slice's spread, which changes nothing but keeps their
    squares clear of overflow and underflow.
    """
    deviations = divide_or_zero(values - values.mean(dim, keepdim=True), spread(values, dim))
    return divide_or_zero(deviations, torch.linalg.vector_norm(deviations, dim=dim, keepdim=True))


def divide_or_zero(values: Tensor, size: Tensor) -> Tensor:
    """values / size, and 0 without gradient where the size is 0: a dead row stays dead, never NaN or huge."""
    return values / size.masked_fill(size == 0, torch.inf)
