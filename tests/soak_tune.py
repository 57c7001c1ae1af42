"""A search by Ray Tune whose trials are killed and which is interrupted itself; and a training by Ray Train.

They take a minute or two, so they are run by `make soak`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from baking import ENVIRONMENT, python, succeed
from runs import content_of, differences

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")

# The second rate makes the weights infinite. Dropout, a schedule and an optimizer with state are part of what resumes.
SEARCH = """
name: digits
model: {args: {channels: 4}}
trainer: {epochs: 40, save_every_steps: 5}
lr_scheduler: {args: {T_max: 40}}
search:
  algorithm: grid
  early_stopping: null
  space:
    optimizer.args.lr: {choice: [0.01, 1e38]}
"""


def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Look again and again for something that a search will do."""
    end = time.monotonic() + 240
    while not what():
        assert process.poll() is None, "the search ended before"
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def trainings() -> Iterator[tuple[int, int, list[str]]]:
    """Return process, parent and command line of all trainings that run on this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if any(word.endswith("/train.py") for word in words[:2]):
            yield int(folder.name), parent, words


def process_of(trial: Path) -> tuple[int, int] | None:
    """Return the process that trains a trial, and its parent, the actor."""
    for pid, parent, words in trainings():
        if str(trial.parent) in " ".join(words) and (trial.name in words[3] or f"name={trial.name}" in words):
            return pid, parent
    return None


def epochs_of(trial: Path) -> int:
    """Return how many epochs a trial has been trained."""
    return sum(len(file.read_text().splitlines()) for file in trial.glob("*/metrics.jsonl"))


class Search:
    """`python tune.py` in a process of its own."""

    def __init__(self, project: Path, *words: str) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-u", "tune.py", *words],
            cwd=project,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )

    def end(self) -> str:
        """Wait for its end, and return what it said."""
        return self.process.communicate(timeout=300)[0]


@pytest.fixture(scope="module")
def project(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of its own."""
    folder = tmp_path_factory.mktemp("tune") / full.name
    shutil.copytree(full, folder)
    (folder / "search.yaml").write_text(SEARCH, encoding="utf-8")
    return folder


def test_a_search_survives_failures_kills_and_an_interruption(project: Path) -> None:
    """One search sees everything, for it takes seconds to start Ray."""
    first = Search(project, "-c", "config.json", "-c", "search.yaml")
    wait_for(lambda: list(project.glob("saved/search/*/trial_001")), first.process)
    (folder,) = project.glob("saved/search/*")
    trial = folder / "trial_001"
    trained, killed = epochs_of(trial), 0
    for victim in (0, 1):  # the training, which its actor starts again; then the actor, which Ray does
        wait_for(lambda at=trained + 2: epochs_of(trial) >= at and process_of(trial), first.process)  # type: ignore[misc]
        trained, processes = epochs_of(trial), process_of(trial)
        assert processes
        assert processes[0] != killed
        killed = processes[0]
        os.kill(processes[victim], signal.SIGKILL)
    wait_for(lambda: epochs_of(trial) >= trained + 2, first.process)
    first.process.send_signal(signal.SIGINT)
    said = first.end()
    assert first.process.returncode == 130, said
    assert "Traceback" not in said
    assert f"python tune.py -r {folder.relative_to(project)}" in said
    while any(str(folder) in str(words) for _, _, words in trainings()):
        time.sleep(0.05)  # they write their checkpoints

    second = Search(project, "-r", str(folder.relative_to(project)))
    said = second.end()
    assert second.process.returncode == 0, said
    records = [json.loads((folder / f"trial_00{n}" / "trial.json").read_text()) for n in (1, 2)]
    assert [record["values"]["optimizer.args.lr"] for record in records] == [0.01, 1e38]
    assert records[0]["status"] == "finished"
    assert records[1]["status"].startswith("failed: ")
    # The killed trial ended with the bits of the same training that nobody disturbed.
    succeed(python("train.py", "-c", str(folder / "config.json"), "optimizer.args.lr=0.01", "name=calm", cwd=project))
    (calm,) = (project / "saved" / "calm").iterdir()
    (run,) = (path.parent for path in trial.glob("*/checkpoints"))
    for name in ("last.pth", "best.pth"):
        assert differences(content_of(run / "checkpoints" / name), content_of(calm / "checkpoints" / name)) == []


def test_ray_train_runs_train_as_torchrun_would(project: Path) -> None:
    """A run by Ray Train has the bits of one by `python train.py`."""
    words = ("-c", "config.json", "trainer.epochs=1", "lr_scheduler=null", "name=by_ray")
    said = succeed(python("ray_train.py", *words, cwd=project))
    assert "epoch 1/1" in said
    (run,) = (project / "saved" / "by_ray").iterdir()
    succeed(python("train.py", *words[:-1], "name=alone", cwd=project))
    (alone,) = (project / "saved" / "alone").iterdir()
    files = [folder / "checkpoints" / "last.pth" for folder in (run, alone)]
    assert differences(content_of(files[0]), content_of(files[1])) == []
    assert torch.load(files[0], weights_only=True)["progress"]["epoch"] == 1
