"""Searches by Ray Tune whose trials are killed and which are interrupted themselves; and trainings by Ray Train.

They take some minutes, so they are run by `make soak`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import baking
import pytest
from baking import python, succeed
from runs import content_of, differences

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")

# The second rate makes the weights infinite. Dropout, a schedule and an optimizer with state are part of what resumes.
SEARCH = """
model: {args: {channels: 4}}
loggers: {image_figures: false, plots: false, report: false}
trainer: {epochs: 40, save_every_steps: 5}
search:
  algorithm: grid
  early_stopping: null
  space:
    optimizer.args.lr: {choice: [0.01, 1e38]}
"""
OPTUNA = """
model: {args: {channels: 4}}
loggers: {image_figures: false, plots: false, report: false}
trainer: {epochs: 10}
search:
  trials: 6
  space:
    optimizer.args.lr: {log_uniform: [1e-4, 1e-1]}
    model.args.channels: {int: [2, 4]}
"""
# With a token of their own, the processes do not write one into the home folder.
ENVIRONMENT = baking.ENVIRONMENT | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
QUIET = ("loggers={image_figures: false, plots: false, report: false}",)


def wait_for(what: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Look again and again for something that will happen, while a process runs."""
    end = time.monotonic() + 240
    while not what():
        assert process is None or process.poll() is None, "the process ended before"
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def processes() -> Iterator[tuple[int, int, str]]:
    """Return process, parent and command line of all that runs on this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().replace("\0", " ")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        yield int(folder.name), parent, words


def trainings(project: Path) -> list[tuple[int, int, str]]:
    """Return the trainings of a project, those that its scripts have started."""
    return [entry for entry in processes() if f"{project}/train.py" in entry[2]]


def process_of(trial: Path, project: Path) -> tuple[int, int] | None:
    """Return the process that trains a trial, and its parent, the actor."""
    return next(((pid, parent) for pid, parent, words in trainings(project) if str(trial) in words), None)


def of_ray(started_by: int) -> set[int]:
    """Return a process and all of Ray that it has started, which bear its session's folder in their words or die."""
    family = {started_by}
    while more := {pid for pid, parent, _ in processes() if parent in family} - family:
        family |= more
    return family


def alive(pids: set[int]) -> set[int]:
    """Return those of some processes that still run."""
    return pids & {pid for pid, _, words in processes() if words}


def epochs_of(trial: Path) -> int:
    """Return how many epochs a trial has been trained."""
    return sum(len(file.read_text().splitlines()) for file in trial.glob("*/*/metrics.jsonl"))


def run_of(trial: Path) -> Path:
    """Return the folder of the one run of a trial."""
    (checkpoints,) = trial.glob("*/*/checkpoints")
    return checkpoints.parent


def start(project: Path, *words: str) -> subprocess.Popen[str]:
    """Start a script in a session of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-u", *words],
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], code: int) -> str:
    """Wait for the end of a script, and return what it said."""
    said = process.communicate(timeout=400)[0]
    assert process.returncode == code, said
    assert "Traceback" not in said, said
    return said


def same_bits(run: Path, other: Path) -> None:
    """See that two runs have ended with the same bits."""
    for name in ("last.pth", "best.pth"):
        files = [folder / "checkpoints" / name for folder in (run, other)]
        assert differences(content_of(files[0]), content_of(files[1])) == []


@pytest.fixture
def project(full: Path, tmp_path: Path) -> Path:
    """Return a project of its own."""
    folder = Path(shutil.copytree(full, tmp_path / full.name))
    (folder / "search.yaml").write_text(SEARCH, encoding="utf-8")
    (folder / "optuna.yaml").write_text(OPTUNA, encoding="utf-8")
    return folder


def test_a_search_survives_failures_kills_and_an_interruption(project: Path) -> None:
    """One search sees everything, for it takes seconds to start Ray."""
    first = start(project, "tune.py", "-c", "config.json", "-c", "search.yaml")
    wait_for(lambda: list(project.glob("saved/search/*/trial_001")), first)
    (folder,) = project.glob("saved/search/*")
    trial = folder / "trial_001"
    trained, killed = epochs_of(trial), 0
    for victim in (0, 1):  # the training, which its actor starts again; then the actor, which Ray does
        wait_for(lambda at=trained + 2: epochs_of(trial) >= at and process_of(trial, project), first)  # type: ignore[misc]
        trained, found = epochs_of(trial), process_of(trial, project)
        assert found
        assert found[0] != killed
        killed = found[0]
        os.kill(found[victim], signal.SIGKILL)
    wait_for(lambda: epochs_of(trial) >= trained + 2, first)
    everybody = of_ray(first.pid)
    assert len(everybody) > 3
    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C does
    said = end(first, 130)
    assert f"python tune.py -r {folder.relative_to(project)}" in said
    wait_for(lambda: not alive(everybody))
    assert not trainings(project)

    end(start(project, "tune.py", "-r", str(folder.relative_to(project))), 0)
    records = [json.loads((folder / f"trial_00{n}" / "trial.json").read_text()) for n in (1, 2)]
    assert [record["values"]["optimizer.args.lr"] for record in records] == [0.01, 1e38]
    assert records[0]["status"] == "finished"
    assert records[1]["status"].startswith("failed: ")
    # The killed trial ended with the bits of the same training that nobody disturbed.
    succeed(python("train.py", "-c", str(folder / "best.json"), "name=calm", cwd=project))
    (calm,) = (project / "saved" / "calm").iterdir()
    same_bits(run_of(trial), calm)


def test_a_killed_search_leaves_nothing_running_and_goes_on(project: Path) -> None:
    """Ray itself sees to the first, and its records to the second."""
    first = start(project, "tune.py", "-c", "config.json", "-c", "optuna.yaml")
    wait_for(lambda: list(project.glob("saved/search/*/trial_003/*/*/metrics.jsonl")), first)
    everybody = of_ray(first.pid)
    first.kill()
    first.wait()
    wait_for(lambda: not alive(everybody) and not trainings(project))
    (folder,) = project.glob("saved/search/*")
    said = end(start(project, "tune.py", "-r", str(folder)), 0)
    records = [json.loads(file.read_text()) for file in folder.glob("*/trial.json")]
    assert len(records) == 6
    assert {record["status"] for record in records} <= {"finished", "stopped early"}
    assert all(isinstance(record["values"]["model.args.channels"], int) for record in records)
    assert "python train.py -c saved/search" in said


@contextmanager
def cluster(tmp_path: Path) -> Iterator[str]:
    """Start a Ray cluster of one machine, as `ray start` does, and yield its address."""
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    words = ["start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--include-dashboard=false"]
    words += [f"--temp-dir={tmp_path}", "--disable-usage-stats"]
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), *words], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    ) as process:

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens)
        try:
            yield f"127.0.0.1:{port}"
            assert process.poll() is None, "the cluster lives on"
        finally:
            process.terminate()


def test_on_a_cluster_search_and_training_run_and_leave_it_as_it_was(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A cluster lives longer than what runs on it."""
    with cluster(tmp_path_factory.mktemp("r")) as address:
        there = ("--address", address, "-c", "config.json")
        end(start(project, "tune.py", *there, "-c", "optuna.yaml", "search.trials=2"), 0)
        assert not trainings(project)
        assert len(list(project.glob("saved/search/*/*/trial.json"))) == 2
        said = end(start(project, "ray_train.py", "--workers", "2", *there, "-c", "configs/debug.yaml"), 0)
        assert "finished after epoch 2" in said
        assert not trainings(project)


def test_nothing_starts_where_there_is_no_room_or_no_cluster(project: Path) -> None:
    """Each is told in a line, and leaves no folder behind."""
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    words = ("-c", "config.json", "-c", "search.yaml")
    said = end(start(project, "tune.py", *words, "search.cpus_per_trial=1000"), 2)
    assert said.startswith("no room for trials (search.cpus_per_trial, search.gpus_per_trial): each takes 1000 CPU")
    said = end(start(project, "ray_train.py", "--workers", "1000", "-c", "config.json"), 2)
    assert said.startswith("no room for 1000 workers (--workers, --cpus)")
    said = end(start(project, "tune.py", *words, "--address", f"127.0.0.1:{port}"), 2)
    assert "there is no Ray cluster" in said
    assert not (project / "saved").exists()


def test_ray_train_runs_train_as_torchrun_would_and_goes_on_after_a_crash_and_ctrl_c(project: Path) -> None:
    """A run by Ray Train, killed and interrupted, has the bits of one by `torchrun`."""
    words = (
        "-c",
        "config.json",
        "model.args.channels=4",
        "trainer.epochs=40",
        "trainer.save_every_steps=5",
        *QUIET,
    )

    def epochs() -> int:
        return sum(len(file.read_text().splitlines()) for file in project.glob("saved/by_ray/*/metrics.jsonl"))

    script = ("ray_train.py", "--workers", "2", "--restarts", "1")
    first = start(project, *script, *words, "name=by_ray")
    wait_for(lambda: epochs() >= 3, first)
    os.kill(max(trainings(project))[0], signal.SIGKILL)
    before = epochs()
    wait_for(lambda: epochs() >= before + 3, first)
    first.send_signal(signal.SIGINT)
    said = end(first, 130)
    assert "to go on" in said
    assert not trainings(project)
    (run,) = (project / "saved" / "by_ray").iterdir()
    said = end(start(project, *script, "-r", str(run.relative_to(project))), 0)
    assert "finished after epoch 40" in said
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    succeed(python(*torchrun, "train.py", *words, "name=by_torchrun", cwd=project))
    (other,) = (project / "saved" / "by_torchrun").iterdir()
    same_bits(run, other)
