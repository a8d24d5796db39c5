"""The most memory that a stretch of work has held, as far as the system tells."""

import sys

import torch


def forget_peak(device: torch.device) -> None:
    """Start a new stretch. Where the system cannot (outside Linux, on the CPU), the process's peak goes on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:  # a container may forbid it
            return


def peak_mib(device: torch.device) -> float:
    """MiB: allocated by torch on CUDA, resident in the whole process on a CPU; NaN where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["VmHWM"].split()[0]) / 2**10
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return float("nan")
