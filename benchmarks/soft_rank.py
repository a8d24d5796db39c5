"""Soft ranks, forward and backward: ours, torchsort's compiled kernel, and other ways to pool blocks.

    python benchmarks/soft_rank.py

torchsort is optional: pip install torchsort --no-build-isolation (it needs a C++ compiler, and no nvcc on the PATH).
"""

import torch
from measure import arguments, peak_mib, ratio, seconds_in_turn, verdict, write_record
from torch import Tensor

from kdtutor.losses import correlation, soft_rank

TARGETS = {10: 4.0, 100: 2.5, 1000: 5.0}  # times torchsort's
PEAK_TARGET = 2048  # MiB, at 1,000 classes
BATCH = 256


def main():
    options = arguments(__doc__)
    result = {}
    for classes in (10,) if options.quick else TARGETS:
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(BATCH, classes, generator=generator)
        slopes = torch.randn(BATCH, classes, generator=generator)
        result[classes] = against_torchsort(values, slopes, options.quick)
        result[classes]["pooling_alone"] = pooling(values, options.quick)
    write_record(options, "soft_rank", result)


def against_torchsort(values: Tensor, slopes: Tensor, quick: bool) -> dict:
    classes = values.shape[1]
    strength = 3 / classes  # what CMKD uses

    def ours(dtype=values.dtype):
        leaf = values.detach().to(dtype).requires_grad_()
        soft_rank(leaf, strength).backward(slopes)
        return leaf.grad

    contestants = {"ours": ours, "ours, bf16": lambda: ours(torch.bfloat16)}
    try:
        import torchsort
    except ImportError:
        print("torchsort is not installed: ours alone")
    else:

        def theirs():
            leaf = values.detach().requires_grad_()
            torchsort.soft_rank(leaf, "l2", strength).backward(slopes)
            return leaf.grad

        # Ranks, not gradients: where two blocks all but touch, torchsort's float32 may pool them and ours not.
        their_ranks = torchsort.soft_rank(values, "l2", strength)
        torch.testing.assert_close(soft_rank(values, strength), their_ranks, rtol=1e-3, atol=1e-2)
        contestants["torchsort"] = theirs
    seconds = seconds_in_turn(contestants, rounds=1 if quick else 15)
    outcome = {name: {"milliseconds": 1e3 * sorted(times)[len(times) // 2]} for name, times in seconds.items()}
    outcome["ours"]["peak_mib"] = peak_mib(ours)
    print(f"\n{classes} classes, batch {BATCH}, forward and backward: {outcome['ours']['milliseconds']:.2f} ms")
    if "torchsort" in seconds:
        outcome["ours"]["times_torchsort"] = ratio(seconds["ours"], seconds["torchsort"])
        outcome["ours"]["target"] = TARGETS[classes]
        print(f"  times torchsort's     {verdict(outcome['ours']['times_torchsort'], TARGETS[classes])}")
    if classes == 1000:
        print(f"  peak memory, MiB      {verdict(outcome['ours']['peak_mib'], PEAK_TARGET)}")
    return outcome


# --- Which entries does the best non-increasing fit pool? Four ways to the same block numbers ---


def pooling(values: Tensor, quick: bool) -> dict:
    """Milliseconds of each way, on the sorted values that soft_rank hands over."""
    classes = values.shape[1]
    values = values[: 20_000 // classes]  # the slowest ways take half a minute for 256 rows of 1,000
    s = (values.double() * classes / 3).sort(descending=True).values
    y = s - torch.arange(classes, 0, -1)
    ways = {
        "merge in parallel, one shrinking list (ours)": correlation._blocks_by_merging,
        "merge in parallel, whole rows": merge_whole_rows,
        "one after the other, all rows at once": one_after_the_other,
        "min-max formula (ours on CUDA)": correlation._blocks_by_min_max,
    }
    for way in ways.values():
        assert torch.equal(way(y), correlation._blocks_by_merging(y))
    seconds = seconds_in_turn({name: lambda way=way: way(y) for name, way in ways.items()}, 1 if quick else 3)
    milliseconds = {name: 1e3 * sorted(times)[len(times) // 2] for name, times in seconds.items()}
    print(f"  pooling alone, {len(values)} rows:")
    for name, value in milliseconds.items():
        print(f"    {name:<46} {value:9.2f} ms")
    return {"rows": len(values), "milliseconds": milliseconds}


def merge_whole_rows(y: Tensor) -> Tensor:
    """All violations of all rows at once; every round looks at every entry again."""
    starts = torch.ones_like(y, dtype=torch.bool)
    while True:
        blocks = starts.cumsum(dim=-1) - 1
        counts = torch.zeros_like(y).scatter_add_(-1, blocks, torch.ones_like(y))
        means = (torch.zeros_like(y).scatter_add_(-1, blocks, y) / counts).gather(-1, blocks)
        violations = starts[:, 1:] & (means[:, 1:] > means[:, :-1])
        if not violations.any():
            return blocks
        starts[:, 1:] &= ~violations


def one_after_the_other(y: Tensor) -> Tensor:
    """The textbook's stack of blocks: push an entry, and while the top two violate, pool them. A stack for each row."""
    rows, n = y.shape
    row = torch.arange(rows)
    sums, counts = torch.zeros(rows, n + 1, dtype=y.dtype), torch.ones(rows, n + 1, dtype=y.dtype)
    sums[:, 0] = torch.inf  # a floor that nothing violates
    starts = torch.zeros(rows, n + 1, dtype=torch.int64)
    top = torch.zeros(rows, dtype=torch.int64)
    for i in range(n):
        top += 1
        sums[row, top], counts[row, top], starts[row, top] = y[:, i], 1.0, i
        at = row
        while len(at):
            above, below = top[at], top[at] - 1
            violates = sums[at, above] / counts[at, above] > sums[at, below] / counts[at, below]
            at, above, below = at[violates], above[violates], below[violates]
            sums[at, below] += sums[at, above]
            counts[at, below] += counts[at, above]
            top[at] -= 1
    begins = torch.zeros(rows, n, dtype=torch.int64)
    used = torch.arange(1, n + 1) <= top[:, None]
    begins[row[:, None].expand_as(used)[used], starts[:, 1:][used]] = 1
    return begins.cumsum(dim=-1) - 1


if __name__ == "__main__":
    main()
