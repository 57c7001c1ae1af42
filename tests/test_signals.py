"""SIGINT and SIGTERM, sent to the whole process group as by a terminal or Slurm: a run stops where it can go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runs import DIGITS, NOISY, WORKERS, Experiment, Lab, differences, needs_posix, shared_lab, traces_of

pytestmark = needs_posix

CODES = {"INT": 130, "TERM": 143}

# Sends a signal while a module is imported, wherever that stands in the code.
DURING_IMPORT = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == os.environ["AT_IMPORT_OF"]:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


@pytest.mark.parametrize(
    ("words", "event", "name", "steps"),
    [
        (DIGITS, "batch:10", "INT", {10}),
        (DIGITS, "evaluation:4", "TERM", {14}),
        # Saves go on in the background, until the next one at the latest, two steps later.
        (DIGITS, "replace last.pth:3", "TERM", {6, 7, 8}),
        (DIGITS, "replace best.pth:2", "INT", {15, 16}),  # the save at the end of an epoch
        (WORKERS, "batch:10", "TERM", {10}),
        (WORKERS, "evaluation:5", "INT", {14}),
        (WORKERS, "fsync last.pth.tmp:2", "INT", {4, 5, 6}),
    ],
)
def test_a_run_stops_at_a_safe_point_and_goes_on_to_the_same_bits(
    lab: Lab, words: list[str], event: str, name: str, steps: set[int], tmp_path: Path
) -> None:
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path, words)
    stopped = run.begin(f"{event}:{name}")
    assert stopped.code == CODES[name], stopped.err
    found = re.match(f"stopped by SIG{name} after step (\\d+) ", stopped.err)
    assert found, stopped.err
    assert int(found[1]) in steps
    assert stopped.err.endswith(f"to go on: python train.py -r {run.run}\n")
    assert len(stopped.err.splitlines()) == 1
    result = run.resume()
    assert f"last.pth, after step {found[1]}\n" in result.out
    assert result.code == 0, result.err
    assert differences(traces_of(run.run), reference.traces) == []


@pytest.mark.parametrize("words", [DIGITS, WORKERS], ids=["digits", "workers"])
def test_a_second_signal_stops_at_once(lab: Lab, words: list[str], tmp_path: Path) -> None:
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path, words)
    stopped = run.begin("batch:10:INT+TERM")
    assert stopped.code == CODES["TERM"]
    assert stopped.err == "\nstopped at once by a second signal\n"
    result = run.resume()
    assert "last.pth, after step 8\n" in result.out
    assert differences(traces_of(run.run), reference.traces) == []


def test_a_signal_during_the_very_last_evaluation_or_save_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(DIGITS)
    run = Experiment(lab, tmp_path, DIGITS)
    assert run.begin(f"evaluation:{reference.counts['evaluation']}:TERM").code == CODES["TERM"]
    assert run.resume("end_epoch:1:TERM").code == 0, "nothing was left to do when the signal came"
    assert differences(traces_of(run.run), reference.traces) == []


def test_a_job_that_slurm_stops_and_requeues_goes_on(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(WORKERS)
    job = Experiment(lab, tmp_path, WORKERS)
    again = ["-r", "auto", *job.arguments()]
    assert lab.train(*again, chaos="batch:5:TERM").code == CODES["TERM"]
    assert lab.train(*again, chaos="batch:5:TERM").code == CODES["TERM"]
    assert lab.train(*again, chaos="step:5:KILL").code == -9  # the 30 seconds were not enough
    assert lab.train(*again).code == 0
    assert differences(traces_of(job.run), reference.traces) == []


def test_workers_are_deaf_to_signals_even_while_they_start(lab: Lab, tmp_path: Path) -> None:
    """On macOS, and on Linux from Python 3.14 on, workers do not inherit the main process's handlers."""
    run = Experiment(lab, tmp_path, [*NOISY, "data_loader.args.num_workers=1"])
    afresh = {"START_METHOD": "forkserver", "SIGNAL_TO_STARTING_WORKERS": "yes"}
    stopped = lab.command(*run.arguments(), **afresh)
    assert stopped.code == CODES["TERM"], stopped.err
    assert stopped.err.startswith("stopped by SIGTERM after step 1 ")
    assert len(stopped.err.splitlines()) == 1


@pytest.mark.parametrize(("module", "number"), [("torch.nn", 2), ("torch.nn", 15), ("sklearn.utils", 2)])
def test_a_signal_before_training_begins_ends_the_command_without_a_traceback(
    lab: Lab, module: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DURING_IMPORT)
    signals = {"AT_IMPORT_OF": module, "SIGNAL": str(number), "PYTHONPATH": str(tmp_path)}
    run = Experiment(lab, tmp_path / "saved", DIGITS)
    stopped = lab.command(*run.arguments(), **signals)
    assert stopped.code in (-number, 128 + number)
    assert stopped.out == ""
    assert re.fullmatch("(stopped( before the first step: .*)?\n)?", stopped.err)
    assert run.runs == []
