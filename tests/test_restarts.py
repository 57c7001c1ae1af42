"""Processes and machines are lost and replaced under torchrun, and the run that they trained goes on."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from processes import Launch, start, succeed, train
from runs import DIGITS, KILLED, Experiment, Lab, differences, shared_lab, traces_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in Linux's /proc")
at_length = pytest.mark.skipif(not os.environ.get("SOAK"), reason="takes minutes: make soak")

WORDS = [*(word for word in DIGITS if not word.startswith("loggers")), "loggers={chaos: true}"]
LONGER = [*WORDS, "trainer.epochs=30", "lr_scheduler=null"]
PAIR = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the traces of a run on two processes that nobody disturbs."""
    experiment = Experiment(lab, tmp_path_factory.mktemp("undisturbed"), WORDS)
    succeed(lab, experiment.arguments(), 2)
    return traces_of(experiment.run)


def step_of(checkpoint: Path) -> int:
    step: int = torch.load(checkpoint, weights_only=True)["progress"]["step"]
    return step


def test_processes_that_replace_others_go_on_with_their_run_and_no_other(
    lab: Lab, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    """Here they are started as torchrun starts them, and start again; so does the first, before any checkpoint.

    All the while there is another unfinished run of that name, which is newer too.
    """
    experiment = Experiment(lab, tmp_path / "runs", WORDS)
    assert experiment.begin(chaos="step:10:KILL").code == KILLED
    other = experiment.run.rename(experiment.run.with_name("99999999-999999-0000"))
    left = (other / "checkpoints" / "last.pth").read_bytes()

    (tmp_path / "agent").mkdir()
    agent = {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "agent" / "attempt_0" / "0" / "error.json")}
    said = []
    for chaos in ("batch:1:KILL", "step:9:KILL", ""):
        processes = start(lab, experiment.arguments(), 2, chaos, **agent)
        results = [lab.wait(process) for process in processes]
        said.append(results[0].out)
        assert [result.code for result in results] == ([KILLED, 1] if chaos else [0, 0])
    *pair, _ = experiment.runs
    lost, run = sorted(pair, key=lambda run: any((run / "checkpoints").iterdir()))  # both may be of one second
    assert not any((lost / "checkpoints").iterdir())
    assert f"training in {lost}" in said[0]
    assert f"training in {run}" in said[1]
    assert f"going on from {run}" in said[2]
    assert differences(traces_of(run), undisturbed) == []
    assert (other / "checkpoints" / "last.pth").read_bytes() == left


def test_a_run_that_was_resumed_from_a_file_does_not_return_to_it(
    lab: Lab, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    experiment = Experiment(lab, tmp_path / "runs", WORDS)
    train(lab, experiment.arguments(), 2, chaos="step:4:TERM")
    last = experiment.run / "checkpoints" / "last.pth"
    kept = Path(shutil.copy(last, last.with_name("kept.pth")))

    (tmp_path / "agent").mkdir()
    agent = {"TORCHELASTIC_ERROR_FILE": str(tmp_path / "agent" / "attempt_0" / "0" / "error.json")}
    again = ["-r", str(kept)]
    killed, _ = [lab.wait(process) for process in start(lab, again, 2, "step:9:KILL", **agent)]
    first, _ = [lab.wait(process) for process in start(lab, again, 2, **agent)]
    assert f"going on from {kept}, after step {step_of(kept)}" in killed.out
    assert f"going on from {last}, after step 1" in first.out
    assert differences(traces_of(experiment.run), undisturbed) == []


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=at_length, id="1-at_length")])
def test_a_killed_process_is_replaced_and_the_run_goes_on_to_the_same_bits(
    lab: Lab, tmp_path: Path, undisturbed: dict[str, str], victim: int
) -> None:
    experiment = Experiment(lab, tmp_path, WORDS)
    launch = Launch(lab.project)
    launch.start("--nproc-per-node=2", "--max-restarts=1", "train.py", *experiment.arguments())
    launch.wait_for("epoch 1/3")
    launch.kill(victim)
    assert launch.end() == [0], launch.said
    assert launch.said.count("\ngoing on from ") == 1
    assert differences(traces_of(experiment.run), undisturbed) == []


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=at_length, id="0-at_length")])
def test_two_torchruns_replace_a_killed_process_and_stop_together(lab: Lab, tmp_path: Path, victim: int) -> None:
    """After the restart one of them gets SIGTERM, and all processes stop. All that changes no bit in the end."""
    reference, experiment = Experiment(lab, tmp_path / "reference", LONGER), Experiment(lab, tmp_path / "run", LONGER)
    succeed(lab, reference.arguments(), 2)
    launch = Launch(lab.project)
    host, guest = launch.start_two(PAIR, "train.py", *experiment.arguments())
    launch.wait_for("epoch +2/")
    launch.kill(victim)
    launch.wait_for("going on from ")
    launch.wait_for("epoch ")
    guest.terminate()
    launch.wait_for("stopped by SIGTERM after step")
    host.terminate()  # with a restart left, it would wait for another to take the place of the one that is gone
    assert 0 not in launch.end()
    succeed(lab, ["-r", str(experiment.run)], 2)
    assert differences(traces_of(experiment.run), traces_of(reference.run)) == []


def test_sigterm_to_torchrun_and_all_its_processes_ends_in_a_checkpoint(lab: Lab, tmp_path: Path) -> None:
    """A system may send it to all of them, and then they get it twice."""
    experiment = Experiment(lab, tmp_path, [*WORDS, "trainer.epochs=1000", "lr_scheduler=null"])
    launch = Launch(lab.project)
    agent = launch.start("--nproc-per-node=2", "train.py", *experiment.arguments())
    launch.wait_for("epoch    2/")
    for pid in [*(pid for pid, _ in launch.processes().values()), agent.pid]:
        os.kill(pid, signal.SIGTERM)
    assert launch.end() != [0]
    assert launch.said.count("\nstopped by SIGTERM after step") == 1
    assert launch.said.count("to go on: python train.py -r") == 1
    assert step_of(experiment.run / "checkpoints" / "last.pth") > 14


@at_length
@pytest.mark.parametrize("nodes", ["2", "1:2"])
@pytest.mark.parametrize("victim", ["first", "second"])
def test_a_lost_machine_is_replaced_at_length(lab: Lab, tmp_path: Path, nodes: str, victim: str) -> None:
    """Where one may be enough, the other goes on alone, and stops for the one that comes.

    The machine that is lost is not the one that keeps what they agree on. By their addresses it has the main process
    or the other one.
    """
    words = [*WORDS, "trainer.epochs=60", "lr_scheduler=null"]
    reference, experiment = Experiment(lab, tmp_path / "reference", words), Experiment(lab, tmp_path / "runs", words)
    succeed(lab, reference.arguments(), 2)
    launch = Launch(lab.project, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    options = [f"--nnodes={nodes}", "--nproc-per-node=1", "--max-restarts=2"]
    addresses = ("localhost", "127.0.0.1") if victim == "first" else ("127.0.0.1", "localhost")
    _, lost = launch.start_two(options, "train.py", *experiment.arguments(), addresses=addresses)
    launch.wait_for("epoch +3/")
    assert launch.processes()[0 if victim == "first" else 1][1] == lost.pid
    launch.lose(lost)
    if nodes == "1:2":
        launch.wait_for("going on from ")
        launch.wait_for("epoch ")
    launch.start(*launch.words_of(lost))
    launch.wait_for("going on from ")
    assert launch.end() == [0, 0], launch.said
    assert step_of(experiment.run / "checkpoints" / "last.pth") == 7 * 60
    if nodes == "2":
        assert differences(traces_of(experiment.run), traces_of(reference.run)) == []
