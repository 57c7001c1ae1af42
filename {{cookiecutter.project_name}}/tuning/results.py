"""What came out of a search: a table, the best config, and TensorBoard's page of hyperparameters.

All of it is read from the folders of the trials, so it can be made anew at any time.
"""

import csv
import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = "trial.json"
BEST, TABLE = "best.json", "results.csv"
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
    """

    folder: Path
    values: dict[str, Any]
    status: str
    epochs: int = 0
    best: float | None = None
    best_epoch: int = 0
    run: Path | None = None

    def write(self) -> None:
        """Write down what the metrics file does not say."""
        self.folder.mkdir(exist_ok=True)
        unfinished = self.folder / "trial.tmp"
        text = json.dumps({"values": self.values, "status": self.status}, indent=2)
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(self.folder / RECORD)

    def plain_values(self) -> dict[str, bool | int | float | str]:
        """Return the values, lists and the like as text, for programs that know only numbers and text."""
        values = self.values.items()
        return {key: value if isinstance(value, int | float | str) else json.dumps(value) for key, value in values}

    def describe(self, metric: str) -> str:
        """Say in a line what it was and what came of it."""
        value = "" if self.best is None else f"{metric.split()[1]} {self.best:<8.4g}"
        drawn = "  ".join(f"{key}={short(value)}" for key, value in self.values.items())
        return f"{self.folder.name}  {value}  {drawn}  {cut(self.status)} (epoch {self.epochs})"


def cut(status: str) -> str:
    """Cut a long reason for the terminal; all of it is in the trial's `trial.json` and `stderr.txt`."""
    return textwrap.shorten(status, 80, placeholder=" …")


def short(value: Any) -> str:
    """Write a value so that it fits into a table."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def better(metric: str, best: float | None, value: float) -> float | None:
    """Return the better of two values of a metric, such as `max val_accuracy`; a NaN is never better."""
    if math.isnan(value) or (best is not None and (value <= best if metric.startswith("max") else value >= best)):
        return best
    return value


def read_trial(folder: Path, metric: str) -> Trial:
    """Read a trial's record and the metrics of its run."""
    trial = Trial(folder, **json.loads((folder / RECORD).read_text(encoding="utf-8")))
    files = sorted(folder.glob("*/metrics.jsonl"))
    if files:
        trial.run = files[-1].parent
        for line in map(json.loads, files[-1].read_text(encoding="utf-8").splitlines()):
            trial.epochs = line["epoch"]
            best = better(metric, trial.best, line[metric.split()[1]])
            if best != trial.best:
                trial.best, trial.best_epoch = best, line["epoch"]
    return trial


def forget_unfinished(search: Path) -> None:
    """Remove the records of unfinished trials: Ray writes them anew for those that it still knows after a kill."""
    for file in search.glob(f"*/{RECORD}"):
        if json.loads(file.read_text(encoding="utf-8"))["status"] == "unfinished":
            file.unlink()


def read_trials(search: Path, metric: str) -> list[Trial]:
    """Read all trials of a search, the best first, those without a value last."""
    trials = [read_trial(record.parent, metric) for record in sorted(search.glob(f"*/{RECORD}"))]
    sign = -1 if metric.startswith("max") else 1

    def rank(trial: Trial) -> tuple[bool, bool, float]:
        return trial.status.startswith("failed"), trial.best is None, sign * (trial.best or 0)

    return sorted(trials, key=rank)


def table(trials: list[Trial], metric: str) -> str:
    """Write the best trials, and all that failed, in aligned columns."""
    name = metric.split()[1]
    keys = list(trials[0].values) if trials else []
    rows = [["", name, "epoch", "of", *keys, ""]]
    failed = [trial for trial in trials if trial.status.startswith("failed")]
    sound = [trial for trial in trials if trial not in failed]
    for trial in sound[:SHOWN] + failed:
        value = ["", ""] if trial.best is None else [f"{trial.best:.4g}", str(trial.best_epoch)]
        drawn = [short(trial.values[key]) for key in keys]
        rows.append([trial.folder.name, *value, str(trial.epochs), *drawn, cut(trial.status)])
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
        writer.writerow(["trial", "status", metric.split()[1], "best_epoch", "epochs", *keys, "run"])
        for trial in trials:
            drawn = trial.plain_values().values()
            best = ["", ""] if trial.best is None else [trial.best, trial.best_epoch]
            writer.writerow([trial.folder.name, trial.status, *best, trial.epochs, *drawn, trial.run or ""])


def write_hparams(trials: list[Trial], metric: str) -> None:
    """Write for TensorBoard's page HPARAMS what each trial was given and what came of it."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    for trial in trials:
        if trial.best is None:
            continue
        for old in trial.folder.glob("events.out.tfevents.*"):
            old.unlink()
        tag = f"search/{metric.split()[1]}"
        with SummaryWriter(str(trial.folder)) as writer:
            for summary in hparams(trial.plain_values(), {tag: trial.best}):
                writer.file_writer.add_summary(summary)
            writer.add_scalar(tag, trial.best, trial.best_epoch)
