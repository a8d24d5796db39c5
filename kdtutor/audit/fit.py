"""Is a gradient a sum of known gradients, with which factors, and which power of each size is a factor?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# A gradient is explained where this share of it, or less, is left over. Loss functions add an epsilon
# here and there, and some compute in float32, so this is well above rounding in float64.
TOLERANCE = 2e-3


def fit_sum(gradient: Tensor, parts: list[Tensor]) -> tuple[list[float], float]:
    """Coefficients a with gradient ~ sum a_i part_i by least squares, and the share that is left over."""
    size = gradient.norm()
    if not torch.isfinite(gradient).all() or size == 0:
        return [0.0] * len(parts), math.inf
    sizes = [float(part.norm()) for part in parts]
    alive = [i for i, part in enumerate(parts) if sizes[i] > 0 and torch.isfinite(part).all()]
    coefficients = [0.0] * len(parts)
    rest = gradient
    if alive:
        columns = torch.stack([parts[i] / sizes[i] for i in alive], dim=1)
        solution = torch.linalg.lstsq(columns, gradient[:, None], driver="gelsd").solution[:, 0]
        rest = gradient - columns @ solution
        for i, value in zip(alive, solution.tolist(), strict=True):
            coefficients[i] = value / sizes[i]
    return coefficients, float(rest.norm() / size)


@dataclass(frozen=True)
class PowerLaw:
    """factor = constant * product of size ** power, over the sizes that were varied."""

    constant: float
    powers: dict[str, float]
    error: float  # largest relative error over the cases


def fit_power_law(factors: list[float], sizes: list[dict[str, float]]) -> PowerLaw | None:
    """Powers rounded to halves; None where a factor is 0 or their signs differ."""
    signs = {math.copysign(1, factor) for factor in factors if factor}
    if len(signs) != 1 or not all(factors):
        return None
    varied = [name for name in sizes[0] if len({case[name] for case in sizes}) > 1]
    logs = torch.tensor([math.log(abs(factor)) for factor in factors], dtype=torch.float64)
    rows = [[1.0, *(math.log(case[name]) for name in varied)] for case in sizes]
    solution = torch.linalg.lstsq(torch.tensor(rows, dtype=torch.float64), logs[:, None], driver="gelsd").solution[:, 0]
    powers = {name: round(2 * float(power)) / 2 for name, power in zip(varied, solution[1:], strict=True)}
    rest = [
        log - sum(power * math.log(case[name]) for name, power in powers.items())
        for log, case in zip(logs.tolist(), sizes, strict=True)
    ]
    middle = sum(rest) / len(rest)
    return PowerLaw(
        constant=signs.pop() * math.exp(middle),
        powers={name: power for name, power in powers.items() if power},
        error=max(abs(math.expm1(value - middle)) for value in rest),
    )
