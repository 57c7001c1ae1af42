"""Run folders: no two runs share one, no two processes train in one, and going back to an older point is safe."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from runs import (
    DIGITS,
    KILLED,
    STOPPED,
    WORKERS,
    Experiment,
    Lab,
    differences,
    needs_posix,
    shared_lab,
    traces_of,
)
from trainer import run_folder
from trainer.run_folder import RunLock, create_run_folder, newest_unfinished
from utils.environment import record_environment
from utils.errors import UserError

pytestmark = needs_posix


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(draws))

    class Noon(run_folder.datetime):  # type: ignore[misc, name-defined]
        @classmethod
        def now(cls, tz: object = None) -> Noon:
            return cls(2030, 1, 2, 12)

    monkeypatch.setattr(run_folder, "datetime", Noon)
    folders = [create_run_folder(tmp_path, "name").name for _ in range(2)]
    assert folders == ["20300102-120000-aaaa", "20300102-120000-bbbb"]


def test_two_runs_at_once_do_not_disturb_each_other(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(DIGITS)
    both = Experiment(lab, tmp_path, DIGITS)
    processes = [lab.start(*both.arguments()) for _ in range(2)]
    assert [lab.wait(process).code for process in processes] == [0, 0]
    assert len(both.runs) == 2
    for run in both.runs:
        assert differences(traces_of(run), reference.traces) == []


def test_a_run_that_is_being_trained_cannot_be_resumed_and_after_a_kill_it_can(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(WORKERS)
    run = Experiment(lab, tmp_path, WORKERS)
    process = lab.start(*run.arguments(), chaos="batch:10:STOP")
    assert lab.wait(process).code == STOPPED
    for path in (run.run, run.run / "checkpoints" / "last.pth"):
        refused = lab.train("-r", str(path))
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.endswith("this run is being trained by another process: wait for it or stop it first\n")
    other = lab.train("-r", "auto", *run.arguments(), chaos="step:3:KILL")
    assert other.code == KILLED
    assert len(run.runs) == 2, "a new run is started beside the one that is being trained"

    os.kill(process.pid, signal.SIGKILL)
    assert lab.wait(process).code == KILLED
    os.killpg(process.pid, 0)  # its workers are still there, for they look after their parent every five seconds
    result = lab.train("-r", str(run.runs[0]))
    assert result.code == 0, result.err
    assert differences(traces_of(run.runs[0]), reference.traces) == []


def test_a_lock_is_held_until_the_process_ends(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert not lock.is_held()
    RunLock(tmp_path).acquire()  # nobody keeps the object
    assert not lock.is_held(), "it is held by this process, not by another"
    child = os.fork()
    if child == 0:
        run_folder._held.clear()  # as a process of its own would have it
        os._exit(int(RunLock(tmp_path).is_held()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_requeued_job_goes_on_with_the_newest_run_that_is_not_finished(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(DIGITS)
    job = Experiment(lab, tmp_path, DIGITS)
    again = ["-r", "auto", *job.arguments()]
    assert lab.train(*again, chaos="step:1:KILL").code == KILLED  # before there is a checkpoint
    (lost,) = job.runs
    assert lab.train("-r", str(lost)).code == 2
    assert lab.train(*again, chaos="step:9:KILL").code == KILLED
    assert lab.train(*again, chaos="step:9:KILL").code == KILLED
    assert lab.train(*again).code == 0
    (run,) = set(job.runs) - {lost}
    assert differences(traces_of(run), reference.traces) == []
    assert newest_unfinished(tmp_path, "digits") is None
    assert lab.train(*again, chaos="batch:1:KILL").code == KILLED
    assert len(job.runs) == 3


def test_going_on_from_an_older_checkpoint_moves_the_newer_ones_aside(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(DIGITS)
    run = Experiment(lab, tmp_path, [*DIGITS, "trainer.keep_last=3"])
    assert run.begin().code == 0
    folder = run.run / "checkpoints"
    result = lab.train("-r", str(folder / "epoch_0001.pth"), chaos="step:2:KILL")
    assert result.code == KILLED
    for name in ("last.pth", "epoch_0003.pth"):
        assert f"{name} is ahead of step 7: moved to {folder / 'ahead_of_step_7'}" in result.out
    assert {"last.pth", "epoch_0002.pth", "epoch_0003.pth"} <= {
        path.name for path in (folder / "ahead_of_step_7").iterdir()
    }
    assert len((run.run / "metrics.jsonl").read_text().splitlines()) == 1
    assert run.resume().code == 0
    assert differences(traces_of(run.run), reference.traces) == []


def test_a_damaged_newest_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(DIGITS)
    run = Experiment(lab, tmp_path, DIGITS)
    assert run.begin("step:12:KILL").code == KILLED
    last = run.run / "checkpoints" / "last.pth"
    content = bytearray(last.read_bytes())
    content[1000] ^= 1
    last.write_bytes(content)
    result = run.resume()
    assert result.code == 0, result.err
    assert f"{last}: damaged: its bytes are not those that were written; best.pth is used instead" in result.out
    assert differences(traces_of(run.run), reference.traces) == []


def test_a_folder_without_write_permission_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="nothing can be written there"):
        RunLock(tmp_path).acquire()


def test_a_start_that_is_cut_off_does_not_spoil_the_list_of_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    record_environment(tmp_path, torch.device("cpu"), 1)
    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        record_environment(tmp_path, torch.device("cpu"), 2)
    monkeypatch.undo()
    record_environment(tmp_path, torch.device("cpu"), 3)
    starts = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert [start["seed"] for start in starts] == [1, 3]
