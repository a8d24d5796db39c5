"""What the benchmarks share: contestants timed in turn, the memory a call takes, and the record of it.

On a machine that others use too, a second is not always a second. So contestants take turns, round
after round, and what is reported is a ratio: the median over the rounds of one's time over another's.
"""

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from kdtutor.records import environment, write_json

RECORDS = Path(__file__).resolve().parents[1] / "results" / "speed"


def arguments(description: str) -> argparse.Namespace:
    """`--quick`: a smoke test, whose numbers mean nothing. `--record FOLDER`: where the record goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="run every line once, on little; the numbers mean nothing")
    parser.add_argument("--record", type=Path, help="folder of the record; results/speed, or nowhere with --quick")
    options = parser.parse_args()
    if options.record is None and not options.quick:
        options.record = RECORDS
    return options


def seconds_in_turn(
    contestants: Mapping[str, Callable], rounds: int = 9, at_least: float = 0.02
) -> dict[str, list[float]]:
    """Seconds of a call of each contestant in each round, by torch's benchmark timer.

    Args:
        at_least: seconds that one measurement lasts; a shorter call is repeated and averaged.
    """
    threads = torch.get_num_threads()  # the timer would set it to 1
    timers = {
        name: Timer("contestant()", globals={"contestant": contestant}, num_threads=threads)
        for name, contestant in contestants.items()
    }
    calls = {}
    for name, timer in timers.items():
        calls[name] = max(1, round(at_least / timer.timeit(1).mean))  # timeit warms up by itself
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(calls[name]).mean)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds of ours / theirs, each pair measured side by side."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def peak_mib(call: Callable) -> float:
    """MiB that torch held at most for a call, beyond what was there before."""
    call()  # what is kept for good is not the call's own
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    # Every allocation (positive) and release (negative). torch shows only sums of them in public.
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0)) / 2**20


def verdict(value: float, target: float, at_least: bool = False) -> str:
    met = value >= target if at_least else value <= target
    return f"{value:.2f} (target {'>=' if at_least else '<='} {target:g}: {'met' if met else 'MISSED'})"


def write_record(options: argparse.Namespace, name: str, result) -> None:
    """`result` with versions and machine, as results/speed/<name>.json."""
    if options.record is None:
        return
    options.record.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    machine = {**environment(), "cores": os.cpu_count(), "load_average": load}
    write_json(options.record / f"{name}.json", {"machine": machine, "result": result})
    print(f"record: {options.record / name}.json")
