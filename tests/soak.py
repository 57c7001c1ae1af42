"""Kill training runs at random moments, resume them, and compare every bit with a run that nobody killed.

    python tests/soak.py --kills 100 --seed 0 --minutes 30

Prints a table; the exit status is 0 if all runs ended with the right bits. What is chosen at random follows from
the seed, but a kill after some time hits the run wherever it is then.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

from baking import Bakery, settings_file
from clean_copy import clean_copy
from runs import DIGITS, KILLED, NOISY, OTHER_PARTS, WORKERS, Experiment, Lab, Result, differences, traces_of

CONFIGURATIONS = {"digits": DIGITS, "noisy": NOISY, "noisy, 2 workers": WORKERS, "digits, other parts": OTHER_PARTS}


@dataclass
class Tally:
    """What was done to the runs of one configuration, and what came of it."""

    seconds: float = 0.0
    runs: int = 0
    kills: int = 0
    kills_by_time: int = 0
    resumes: int = 0
    mismatches: int = 0


class Soak:
    """Runs of several configurations that are killed until that was done often enough."""

    def __init__(self, lab: Lab, kills: int, seed: int, minutes: float) -> None:
        """Plan."""
        self.lab = lab
        self.kills = kills
        self.chance = random.Random(seed)
        self.end = time.monotonic() + 60 * minutes
        self.tallies = {name: Tally() for name in CONFIGURATIONS}

    @property
    def done(self) -> int:
        """How many kills there were."""
        return sum(tally.kills for tally in self.tallies.values())

    @property
    def over(self) -> bool:
        """Whether it is enough, or the time is up."""
        return self.done >= self.kills or time.monotonic() > self.end

    def run(self) -> None:
        """Take the configurations in turn."""
        self.lab.train("--keys")  # for the imports, which shall not count as a run's time
        for name, words in CONFIGURATIONS.items():
            start = time.monotonic()
            self.lab.reference(words)
            self.tallies[name].seconds = time.monotonic() - start
        while not self.over:
            for name in CONFIGURATIONS:
                if not self.over:
                    self.torment(name)

    def torment(self, name: str) -> None:
        """Train one run to its end, with several kills on the way."""
        tally, words = self.tallies[name], CONFIGURATIONS[name]
        folder = self.lab.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{tally.runs}"
        experiment = Experiment(self.lab, folder, words)
        tally.runs += 1
        left = self.chance.randint(3, 9)
        starts = 0
        while True:
            starts += 1
            result = self.train(experiment, tally, kill=left > 0 and not self.over)
            if result.code != KILLED:
                break
            tally.kills += 1
            left -= 1
        tally.resumes += starts - 1
        wrong = self.judge(experiment, name, result)
        if wrong:
            tally.mismatches += 1
            print(f"{name}: {folder}: {len(wrong)} differences: {wrong[:5]}", flush=True)
        else:
            shutil.rmtree(folder)
        print(f"{self.done:>4} kills; {name}: a run of {starts} starts is {'WRONG' if wrong else 'right'}", flush=True)

    def train(self, experiment: Experiment, tally: Tally, *, kill: bool) -> Result:
        """Start a run or go on with it, and perhaps kill it."""
        # A run that was killed before its first checkpoint is lost, and another one is begun.
        begun = with_checkpoints(experiment)
        words = ["-r", str(begun[0])] if begun else experiment.arguments()
        if not kill:
            return self.lab.train(*words)
        if self.chance.random() < 0.3:
            process = self.lab.start(*words)
            time.sleep(self.chance.uniform(0, tally.seconds))
            os.kill(process.pid, signal.SIGKILL)  # which does nothing if it has ended and only waits to be asked
            result = self.lab.wait(process)
            tally.kills_by_time += result.code == KILLED
            return result
        counts = self.lab.reference(experiment.words).counts
        rare = self.chance.choice(sorted(counts.keys() - {"loss"}))
        event = self.chance.choice(["step", "batch", "evaluation", "io", "io", rare])
        return self.lab.train(*words, chaos=f"{event}:{self.chance.randint(1, max(1, counts[event] // 2))}:KILL")

    def judge(self, experiment: Experiment, name: str, result: Result) -> list[str]:
        """Name what is wrong with a run at its end."""
        if result.code != 0:
            return [f"exit status {result.code}: {result.err}"]
        (run,) = with_checkpoints(experiment)
        rubbish = [path.name for path in run.rglob("*.tmp")]
        return rubbish + differences(traces_of(run), self.lab.reference(CONFIGURATIONS[name]).traces)

    def report(self) -> None:
        """Print the table."""
        print(f"\n{'configuration':<22}{'runs':>6}{'kills':>7}{'by time':>9}{'resumes':>9}{'mismatches':>12}")
        total = Tally()
        for name, tally in [*self.tallies.items(), ("all", total)]:
            row = [tally.runs, tally.kills, tally.kills_by_time, tally.resumes, tally.mismatches]
            print(f"{name:<22}{row[0]:>6}{row[1]:>7}{row[2]:>9}{row[3]:>9}{row[4]:>12}")
            total.runs += tally.runs
            total.kills += tally.kills
            total.kills_by_time += tally.kills_by_time
            total.resumes += tally.resumes
            total.mismatches += tally.mismatches


def with_checkpoints(experiment: Experiment) -> list[Path]:
    """Return the folders of runs that can be resumed."""
    return [run for run in experiment.runs if any((run / "checkpoints").glob("*.pth"))]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how often to kill (100)")
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen at random (0)")
    parser.add_argument("--minutes", type=float, default=30, help="when to end at the latest (30)")
    return parser.parse_args()


def main() -> int:
    """Bake a project, torment it, and say what came out."""
    arguments = parse_arguments()
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    project = Bakery(clean_copy(folder / "template"), settings_file(folder)).bake(folder / "baked")
    (folder / "lab").mkdir()
    lab = Lab(project, folder / "lab")
    soak = Soak(lab, arguments.kills, arguments.seed, arguments.minutes)
    try:
        soak.run()
    finally:
        lab.close()
    soak.report()
    runs = sum(tally.runs for tally in soak.tallies.values())
    mismatches = sum(tally.mismatches for tally in soak.tallies.values())
    print(f"\n{soak.done} of {arguments.kills} kills in {time.monotonic() - start:.0f} s (seed {arguments.seed}):")
    print(f"{runs - mismatches} of {runs} runs ended with the bits of a run that was never killed")
    if mismatches:
        print(f"the others are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
