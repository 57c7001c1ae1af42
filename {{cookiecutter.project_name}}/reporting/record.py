"""What a run's folder tells, read as far as it is there: a run may be young, stopped or from an older version."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.run_folder import checkpoints_of
from utils.errors import UserError


@dataclass
class RunRecord:
    """One run.

    Attributes:
        folder: where it lies.
        lines: its evaluations, oldest first, as in `metrics.jsonl`.
        config: its config, by dotted key.
        starts: machine and software, an entry for each start, as in `environment.json`.
        tests: what `test.py` measured, by file name.
        figures: the pictures in its `plots/`, apart from the curves, which the report draws itself.
        texts: the texts in its `plots/`.
        finished: it has reached its end.
    """

    folder: Path
    lines: list[dict[str, Any]]
    config: dict[str, Any]
    starts: list[dict[str, Any]]
    tests: dict[str, Any]
    figures: list[Path]
    texts: list[Path]
    finished: bool

    @property
    def name(self) -> str:
        """The experiment's name and the run's, as in `digits/20261122-230926-3c3d`."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}"

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation of the best checkpoint; None where nothing is watched, or nothing was evaluated yet."""
        return next((line for line in reversed(self.lines) if line.get("best")), None)

    @property
    def shown(self) -> dict[str, Any]:
        """The evaluation that stands for the run: the best one, else the last."""
        return self.best or (self.lines[-1] if self.lines else {})

    def values(self, line: dict[str, Any]) -> dict[str, float]:
        """Return an evaluation's numbers, those of time and machine too."""
        entries = {**line, **line.get("timing", {})}
        return {
            name: float(value)
            for name, value in entries.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("epoch", "step")
        }


def read_run(folder: Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        UserError: it is not one.
    """
    if not any((folder / name).exists() for name in ("metrics.jsonl", "config.json", "checkpoints")):
        raise UserError(f"{folder}: is not the folder of a run, saved/<name>/<run>")
    starts = _read_json(folder / "environment.json")
    config = flatten(_read_json(folder / "config.json") or {})
    headers = checkpoints_of(folder)
    return RunRecord(
        folder=folder,
        lines=_read_lines(folder / "metrics.jsonl"),
        config={key: value for key, value in config.items() if key not in ("", "$schema")},
        starts=starts if isinstance(starts, list) else [],
        tests={path.name: _read_json(path) for path in sorted((folder / "checkpoints").glob("*.json"))},
        figures=[path for path in sorted((folder / "plots").rglob("*.png")) if path.stem != "curves"],
        texts=sorted((folder / "plots").rglob("*.txt")),
        finished=bool(headers and headers[0][0].finished),
    )


def flatten(config: Any, above: str = "") -> dict[str, Any]:
    """Turn nested mappings into one whose keys are paths, as on the command line."""
    if not isinstance(config, dict) or not config:
        return {above: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{above}.{key}" if above else str(key))
    return flat


def differences(runs: list[RunRecord]) -> dict[str, list[Any]]:
    """Return the keys in which the runs' configs differ, each with a value per run; None where it has no such key."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # a run that was killed may leave half a line, and is cut back when it goes on
            continue
        if isinstance(line, dict) and "epoch" in line:
            lines.append(line)
    return lines
