"""Many processes, one batch: `torchrun --nproc-per-node N -m kdtutor ...` on torch's DistributedDataParallel.

Relational losses need to see the whole batch. So every rank runs its own rows through the network,
the outputs are gathered, and every rank computes the same loss of the whole batch. A gather passes
back the sum over N ranks of N equal losses, and DistributedDataParallel takes the mean over ranks:
the two cancel, and the gradient is that of one process with the whole batch, to rounding.

With a single process every function here returns what it was given.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .models import Outputs


def start() -> None:
    """Join the other processes, if torchrun started this one; NCCL where there is CUDA, else gloo."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def ranks() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes records and draws bars."""
    return not dist.is_initialized() or dist.get_rank() == 0


def own_rows(values: Tensor) -> Tensor:
    """This rank's share of a batch whose size the number of ranks divides."""
    return values if ranks() == 1 else values.chunk(ranks())[dist.get_rank()]


def every_own(count: int) -> slice:
    """Which of `count` pieces of work are this rank's: every so many of them."""
    return slice(dist.get_rank() if dist.is_initialized() else 0, count, ranks())


def gather(outputs: Outputs) -> Outputs:
    """The outputs for the whole batch, on every rank, with gradients."""
    if ranks() == 1:
        return outputs
    features = {name: _Gather.apply(values) for name, values in outputs.features.items()}
    return Outputs(_Gather.apply(outputs.logits), features)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        whole = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(ranks())]
        dist.all_gather(whole, own.contiguous())
        return torch.cat(whole)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return own_rows(gradient)


def parallel(network: nn.Module) -> nn.Module:
    """The network with its gradients averaged over the ranks."""
    if ranks() == 1:
        return network
    device = next(network.parameters()).device
    return nn.parallel.DistributedDataParallel(network, [device] if device.type == "cuda" else None, static_graph=True)


def add_up(value: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if ranks() > 1:
        dist.all_reduce(value)
    return value


def agree_on_buffers(network: nn.Module) -> None:
    """The first rank's BatchNorm statistics on every rank."""
    if ranks() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
