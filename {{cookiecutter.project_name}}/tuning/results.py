"""What came out of a search: a table, and a file of it.

All of it is read from the folders of the trials, so it can be made anew at any time.
"""

import csv
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = "trial.json"
TABLE = "results.csv"
UNFINISHED = "unfinished"
SHOWN = 10  # rows of the table on the terminal


@dataclass
class Trial:
    """A trial as its folder tells it.

    Attributes:
        folder: that of the trial; the run's folder is in it.
        values: the values that it was given, by key path.
        status: `unfinished`, `finished`, `stopped early`, or `failed: ` and why.
        epochs: how many were trained.
        best: the best value of the metric; None before the first evaluation.
        best_epoch: the epoch of that.
        run: the run's folder.
    """

    folder: Path
    values: dict[str, Any]
    status: str
    epochs: int = 0
    best: float | None = None
    best_epoch: int = 0
    run: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self.status.startswith("failed")

    def write(self) -> None:
        """Write down what the run's own files do not say."""
        self.folder.mkdir(exist_ok=True)
        unfinished = self.folder / "trial.tmp"
        text = json.dumps({"values": self.values, "status": self.status}, indent=2)
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(self.folder / RECORD)

    def describe(self, metric: str) -> str:
        """Say in a line what it was and what came of it."""
        value = "" if self.best is None else f"{metric} {self.best:<8.4g}  "
        given = "  ".join(f"{short(key)}={cell(value)}" for key, value in self.values.items())
        return f"{self.folder.name}  {value}{given}  {cut(self.status)} (epoch {self.epochs})"


def cut(status: str) -> str:
    """Cut a long reason for the terminal; all of it is in the trial's `trial.json` and `stderr.txt`."""
    return textwrap.shorten(status, 80, placeholder=" …")


def short(key: str) -> str:
    """Shorten a key path as TensorBoard shows it: `optimizer.args.lr` is `optimizer.lr`."""
    return key.replace(".args.", ".")


def cell(value: Any) -> str:
    """Write a value so that it fits into a table."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def run_files(folder: Path, name: str) -> list[Path]:
    """Find a file in the runs of a trial, the newest run last; usually there is one run."""
    return sorted(folder.glob(f"*/*/{name}"), key=lambda path: path.relative_to(folder).parts[1])


def read_trial(folder: Path, metric: str) -> Trial:
    """Read a trial's record and the metrics of its run."""
    trial = Trial(folder, **json.loads((folder / RECORD).read_text(encoding="utf-8")))
    if files := run_files(folder, "metrics.jsonl"):
        trial.run = files[-1].parent
        for line in map(json.loads, files[-1].read_text(encoding="utf-8").splitlines()):
            trial.epochs = line["epoch"]
            if line["best"]:
                trial.best, trial.best_epoch = line[metric], line["epoch"]
    return trial


def forget_unfinished(search: Path) -> None:
    """Remove the records of unfinished trials: Ray writes them anew for those that it still knows after a kill."""
    for file in search.glob(f"*/{RECORD}"):
        if json.loads(file.read_text(encoding="utf-8"))["status"] == UNFINISHED:
            file.unlink()


def read_trials(search: Path, rule: str) -> list[Trial]:
    """Read all trials of a search, the best first, those without a value after them, and those that failed last.

    Args:
        search: the folder of the search.
        rule: what is better, as in `max val_accuracy`.
    """
    mode, metric = rule.split()
    trials = [read_trial(record.parent, metric) for record in sorted(search.glob(f"*/{RECORD}"))]
    sign = -1 if mode == "max" else 1

    def rank(trial: Trial) -> tuple[bool, bool, float]:
        return trial.failed, trial.best is None, sign * (trial.best or 0)

    return sorted(trials, key=rank)


def table(trials: list[Trial], metric: str) -> str:
    """Write the best trials, and all that failed, in aligned columns."""
    keys = list(trials[0].values) if trials else []
    rows = [["", metric, "epoch", "of", *map(short, keys), ""]]
    failed = [trial for trial in trials if trial.failed]
    sound = [trial for trial in trials if not trial.failed]
    for trial in sound[:SHOWN] + failed:
        value = ["", ""] if trial.best is None else [f"{trial.best:.4g}", str(trial.best_epoch)]
        given = [cell(trial.values[key]) for key in keys]
        rows.append([trial.folder.name, *value, str(trial.epochs), *given, cut(trial.status)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(sound) > SHOWN:
        lines.insert(1 + SHOWN, f"… {len(sound) - SHOWN} more in {TABLE}")
    return "\n".join(lines)


def write_csv(search: Path, trials: list[Trial], metric: str) -> None:
    """Write the table of all trials for other programs to read."""
    keys = list(trials[0].values) if trials else []
    with open(search / TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "status", metric, "best_epoch", "epochs", *keys, "run"])
        for trial in trials:
            given = [value if isinstance(value, str) else json.dumps(value) for value in trial.values.values()]
            best = ["", ""] if trial.best is None else [trial.best, trial.best_epoch]
            writer.writerow([trial.folder.name, trial.status, *best, trial.epochs, *given, trial.run or ""])
