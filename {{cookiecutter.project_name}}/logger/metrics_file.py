"""`metrics.jsonl`: one line of JSON per evaluation, for any tool to read."""

import json
from pathlib import Path
from typing import Any

from logger.observer import AppendOnlyFiles, Observer

# Scalars that measure time or the machine: they differ between two runs that are otherwise the same.
TIMINGS = ("seconds", "samples_per_second", "data_wait", "memory_host_mb", "memory_device_mb")


class MetricsFile(Observer):
    """Writes `{"epoch": …, "step": …, "train_loss": …, …, "timing": {…}}` per evaluation."""

    def __init__(self, run_dir: Path) -> None:
        """Write into `run_dir/metrics.jsonl`."""
        super().__init__(run_dir)
        self.path = run_dir / "metrics.jsonl"
        self._files = AppendOnlyFiles(run_dir, self.path.name)

    def on_evaluation(self, step: int, epoch: int, scalars: dict[str, float], is_best: bool) -> None:
        """Append a line."""
        line: dict[str, Any] = {"epoch": epoch, "step": step, "best": is_best}
        line |= {name: value for name, value in scalars.items() if name not in TIMINGS}
        line["timing"] = {name: scalars[name] for name in TIMINGS if name in scalars}
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """See the file to the disk."""
        self._files.sync()

    def state_dict(self) -> dict[str, Any]:
        """Return the file's length."""
        return {"sizes": self._files.sizes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drop lines that were written after the checkpoint."""
        self._files.cut_back(state["sizes"])
