"""How long a training step takes: this project against a loop written by hand, and against its peers.

    make bench                                          everything, some minutes
    python benchmarks/speed.py --rounds 3 --scale 0.2   quickly
    python benchmarks/speed.py --only "this project" "bare loop" --jobs "tiny MLP"

All loops do the same work (data, network, batch size, optimizer, one thread) in one process. In each round every loop
trains each network anew, so that whatever else the machine does falls on all of them. A ratio is the median over the
rounds of a loop's time over that of the bare loop of the same round.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_MININTERVAL", "0.1")

import torch
import workloads as jobs_module
from loops import LOOPS, quietly
from workloads import Workload, workloads

HERE = Path(__file__).parent
PEERS = ("lightning", "accelerate", "pytorch-ignite", "transformers")
BARE = "bare loop"
IN_MEMORY = ("by hand, batches in memory", "by hand, in memory, fused")

Times = dict[str, list[float]]


def measure(job: Workload, name: str) -> float:
    """Train a job once with a loop, and return the seconds of a step."""
    gc.collect()
    torch.compiler.reset()  # what was compiled for the networks of other turns counts against a limit
    with tempfile.TemporaryDirectory() as folder, quietly():
        return LOOPS[name](job, Path(folder)).seconds_per_step


def run(jobs: list[Workload], names: list[str], rounds: int, minutes: float) -> dict[str, Times]:
    """Let all loops take turns; one that fails is named and left out from then on."""
    times: dict[str, Times] = {job.name: {} for job in jobs}
    failed: set[tuple[str, str]] = set()
    end = time.monotonic() + 60 * minutes
    for number in range(-1, rounds):  # the first round warms up and does not count
        if number > 0 and time.monotonic() > end:
            break
        for job in jobs:
            for name in random.sample(names, len(names)):
                if (job.name, name) in failed:
                    continue
                try:
                    seconds = measure(job, name)
                except Exception as error:  # a missing or broken peer must not cost the others their numbers
                    failed.add((job.name, name))
                    times[job.name].pop(name, None)
                    print(f"{job.name}: {name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
                    continue
                if number >= 0:
                    times[job.name].setdefault(name, []).append(seconds)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return times


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Summarise the rounds of one job: µs per step, and ratios to the bare loop of the same round."""
    rows = {}
    for name in [name for name in LOOPS if name in times]:
        values = [1e6 * value for value in times[name]]
        low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        row = {"median": middle, "lower quartile": low, "upper quartile": high, "rounds": len(values)}
        if len(times.get(BARE, [])) == len(values):
            row["ratio"] = statistics.median(one / other for one, other in zip(times[name], times[BARE], strict=True))
        rows[name] = row
    return rows


def own_cost(times: Times, by_hand: str) -> float | None:
    """Return the µs per step that the Trainer, metric apart, adds to a loop by hand over the same batches."""
    names = ("this project, no metric", by_hand)
    if not all(name in times for name in names):
        return None
    return statistics.median(1e6 * (one - other) for one, other in zip(*(times[name] for name in names), strict=True))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Lay a summary out as Markdown."""
    lines = ["| loop | µs per step | quartiles | × bare |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        quartiles = f"{row['lower quartile']:.0f} to {row['upper quartile']:.0f}"
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        lines.append(f"| {name} | {row['median']:.0f} | {quartiles} | {ratio} |")
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """Describe what the numbers were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PEERS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "missing"
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"cpu": model, "cores": str(os.cpu_count()), **gpu, **versions}


def chart(results: dict[str, Any], file: Path) -> None:
    """Draw the ratios, a panel for each job."""
    from matplotlib.figure import Figure

    jobs = {name: entry["loops"] for name, entry in results["jobs"].items() if entry["loops"]}
    figure = Figure(figsize=(4.6 * len(jobs), 3.8), layout="constrained")
    panels = figure.subplots(1, len(jobs), squeeze=False, sharey=True)[0]
    for axis, (name, rows) in zip(panels, jobs.items(), strict=True):
        shown = {loop: row["ratio"] for loop, row in rows.items() if "ratio" in row}
        colours = ["tab:orange" if loop == "this project" else "tab:grey" for loop in shown]
        bars = axis.barh(list(shown), list(shown.values()), color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.axvline(1, color="black", linewidth=1, linestyle=":")
        axis.set(title=name, xlabel="time of a step, × bare loop")
        axis.margins(x=0.15)
        if not axis.yaxis_inverted():
            axis.invert_yaxis()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, print, and write the JSON and the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop (15)")
    parser.add_argument("--minutes", type=float, default=7, help="begin no further round after so long (7)")
    parser.add_argument("--scale", type=float, default=1, help="how many of the steps to take (1)")
    parser.add_argument("--only", nargs="*", choices=LOOPS, default=list(LOOPS), help="these loops")
    parser.add_argument("--jobs", nargs="*", default=[], help="these networks")
    parser.add_argument("--cpu", action="store_true", help="measure processor time, on a machine that is busy")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where speed.json and speed.png go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cpu:
        jobs_module.TELL = time.process_time
    jobs = [job for job in workloads(arguments.scale) if not arguments.jobs or job.name in arguments.jobs]
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    times = run(jobs, arguments.only, arguments.rounds, arguments.minutes)

    results: dict[str, Any] = {"machine": about, "jobs": {}}
    for job in jobs:
        rows = summary(times[job.name])
        own = {name: cost for name in IN_MEMORY if (cost := own_cost(times[job.name], name)) is not None}
        results["jobs"][job.name] = {"loops": rows, "own cost": own, "times": times[job.name]}
        print(f"\n{job.name}, batches of {job.batch_size}, {job.steps} steps a round\n\n{table(rows)}")
        for name, cost in own.items():
            print(f"\nthe Trainer's own cost, metric apart, against {name}: {cost:.0f} µs per step")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "speed.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    chart(results, arguments.out / "speed.png")
    print(f"\nwritten to {arguments.out}: speed.json, speed.png")


if __name__ == "__main__":
    main()
