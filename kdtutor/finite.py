"""Numbers that stop being numbers, noticed without waiting for the device.

After the first step whose loss or gradient is not finite, every update is masked: the weights
stay those from before that step. Only now and then is the device asked whether it happened;
the step is then made again to name the term and the layer.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class NonFiniteError(ArithmeticError):
    """Training met NaN or infinity. The student holds the weights from before the step that did it."""


class FiniteWatch:
    """Keeps the number of the first bad step on the device and masks all updates from it on."""

    def __init__(self, student: nn.Module, optimizer: torch.optim.Optimizer):
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.buffers = list(student.buffers())
        device = self.parameters[0].device
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        # Fused optimizers leave everything as it is in a step whose found_inf is 1 (made for gradient scaling).
        optimizer.found_inf = self.masked = torch.zeros((), device=device)
        self.seen = self.first_bad.clone() if device.type == "cpu" else self.first_bad.cpu().pin_memory()

    def before_forward(self) -> None:
        """Keep BatchNorm's statistics: the forward pass changes them before anyone knows whether it was good."""
        self.kept = [buffer.clone() for buffer in self.buffers]

    def after_backward(self, step: int, loss: Tensor) -> None:
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        bad = ~(loss.isfinite() & norm.isfinite())
        self.first_bad.copy_(torch.where(bad & (self.first_bad < 0), step, self.first_bad))
        self.masked.copy_(self.first_bad >= 0)
        for buffer, kept in zip(self.buffers, self.kept, strict=True):
            torch.where(self.masked.bool(), kept, buffer, out=buffer)

    def send(self) -> None:
        """Start copying the answer to the host, without waiting for it."""
        self.seen.copy_(self.first_bad, non_blocking=True)

    def bad_step(self) -> int | None:
        """The first bad step as of the last `send` that has arrived."""
        return None if self.seen < 0 else int(self.seen)


def first_bad_layer(student: nn.Module, forward_and_backward: Callable[[], None]) -> str:
    """Run a step again and name the first layer whose output, or else whose gradient, is not finite."""
    outputs: list[str] = []

    def look(name: str):
        def hook(module, args, output):
            if isinstance(output, Tensor) and not output.isfinite().all():
                outputs.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in student.named_modules() if name]
    try:
        forward_and_backward()
    finally:
        for hook in hooks:
            hook.remove()
    if outputs:
        return f"the output of layer {outputs[0]}"
    gradients = [name for name, p in student.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return f"the gradient of {gradients[-1]}" if gradients else "no single layer: each output and gradient is finite"
