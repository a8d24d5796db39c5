"""A run's state between two epochs; everything else follows from the settings, the epoch and the seed."""

import torch
from torch import Tensor, nn


def pack(student: nn.Module, optimizer: torch.optim.Optimizer, method) -> dict[str, Tensor]:
    """All that a run needs to go on, as named tensors."""
    tensors = {f"student.{name}": value for name, value in student.state_dict().items()}
    tensors |= {f"method.{name}": value for name, value in method.state_dict().items()}
    for name, parameter in student.named_parameters():
        if "momentum_buffer" in optimizer.state[parameter]:
            tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    return tensors


def restore(tensors: dict[str, Tensor], student: nn.Module, optimizer: torch.optim.Optimizer, method) -> None:
    """Put everything back where `pack` found it."""
    device = next(student.parameters()).device

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value.to(device) for name, value in tensors.items() if name.startswith(prefix)
        }

    student.load_state_dict(part("student."))
    method.load_state_dict(part("method."))
    momentum = part("momentum.")
    for name, parameter in student.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
