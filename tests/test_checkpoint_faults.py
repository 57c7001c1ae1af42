"""Whatever happens while a checkpoint is written or to a file afterwards, a sound one is found, and only that."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import DIGITS, Experiment, Lab, Tap, differences, needs_posix, shared_lab, traces_of
from trainer import checkpoint
from trainer.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint
from trainer.monitor import Monitor
from trainer.progress import Progress
from trainer.run_folder import find_checkpoint, newest_checkpoint
from utils.errors import RunFailed, UserError
from utils.errors import run as run_main

NAMES = ("last.pth", "best.pth", "epoch_0002.pth")
# The calls of a save of three files of some 30 kB, apart from the writes, whose number is torch's affair.
EXPECTED = """
open last.pth.tmp, write last.pth.tmp, read last.pth.tmp, write last.pth.tmp, fsync last.pth.tmp, close last.pth.tmp,
open last.pth.tmp, open best.pth.tmp, read last.pth.tmp, write best.pth.tmp, read last.pth.tmp, fsync best.pth.tmp,
close best.pth.tmp, close last.pth.tmp, replace best.pth,
open last.pth.tmp, open epoch_0002.pth.tmp, read last.pth.tmp, write epoch_0002.pth.tmp, read last.pth.tmp,
fsync epoch_0002.pth.tmp, close epoch_0002.pth.tmp, close last.pth.tmp, replace epoch_0002.pth,
replace last.pth, open checkpoints, fsync checkpoints
"""


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run's folder with checkpoints of step 1."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    save(tmp_path / "run", 1)
    return tmp_path / "run"


def state_of(step: int) -> dict[str, Any]:
    weights = torch.randn(4000, generator=torch.Generator().manual_seed(step))
    return {"model": {"weight": weights}, "progress": {"step": step}, "config": {"name": "faults"}}


def save(run: Path, step: int) -> None:
    paths = [run / "checkpoints" / name for name in NAMES]
    save_checkpoint(state_of(step), paths, step=step, finished=False)


def is_of(state: dict[str, Any], step: int) -> bool:
    expected = state_of(step)
    return torch.equal(state["model"]["weight"], expected["model"]["weight"]) and state["progress"]["step"] == step


def tapped_save(run: Path, fault: Callable[[int], int | None] = lambda number: None) -> list[str]:
    """Save step 2, with a fault at a call that is known by its number, and return the calls."""
    calls: list[str] = []

    def report(call: str, file: str) -> int | None:
        calls.append(f"{call} {file}")
        return fault(len(calls) - 1)

    with Tap(run / "checkpoints", report):
        save(run, 2)
    return calls


def calls_of_a_save(run: Path) -> int:
    count = len(tapped_save(run))
    save(run, 1)
    return count


def test_each_file_is_on_the_disk_before_it_gets_its_name_and_then_the_name_is(run: Path) -> None:
    calls = tapped_save(run)
    once = [call for number, call in enumerate(calls) if number == 0 or call != calls[number - 1]]
    assert ", ".join(once) == " ".join(EXPECTED.split())
    for name in NAMES:
        writes = [number for number, call in enumerate(calls) if call == f"write {name}.tmp"]
        assert max(writes) < calls.index(f"fsync {name}.tmp") < calls.index(f"replace {name}")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_an_error_at_any_call_leaves_a_sound_checkpoint_and_no_rubbish(run: Path, number: int) -> None:
    for faulty in range(calls_of_a_save(run)):

        def fail(call: int, faulty: int = faulty) -> None:
            if call == faulty:
                raise OSError(number, os.strerror(number))

        with pytest.raises(OSError, match=os.strerror(number)):
            tapped_save(run, fail)
        _, state, damaged = newest_checkpoint(run)
        assert is_of(state, 1) or is_of(state, 2)
        assert not damaged
        assert {path.name for path in (run / "checkpoints").iterdir()} == set(NAMES)
        save(run, 1)


def test_a_write_that_takes_only_a_part_is_carried_on_with(run: Path) -> None:
    calls = tapped_save(run, lambda call: 1 + call % 7)
    assert len(calls) > 3 * 16000 / 7
    assert all(is_of(load_checkpoint(run / "checkpoints" / name), 2) for name in NAMES)


@needs_posix
def test_a_kill_at_any_call_leaves_a_sound_checkpoint(run: Path) -> None:
    steps = set()
    for faulty in range(calls_of_a_save(run)):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                tapped_save(run, lambda call, faulty=faulty: os.kill(os.getpid(), 9) if call == faulty else None)  # type: ignore[misc]
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -9
        _, state, damaged = newest_checkpoint(run)
        steps.add(state["progress"]["step"])
        assert is_of(state, state["progress"]["step"])
        assert not damaged
        assert {path.name for path in (run / "checkpoints").glob("*.pth")} == set(NAMES)
        save(run, 1)
    assert steps == {1, 2}
    assert not list(run.rglob("*.tmp"))  # each save takes over the temporary file of one that was killed


def complaint(file: Path) -> str:
    try:
        load_checkpoint(file)
    except DamagedCheckpoint as error:
        return str(error)
    return "none"


def test_a_change_of_any_byte_and_a_cut_at_any_length_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "last.pth"
    save_checkpoint({"model": {"weight": torch.arange(3.0)}}, [file], step=12, finished=True)
    whole = file.read_bytes()
    assert load_checkpoint(file)["model"]["weight"].tolist() == [0, 1, 2]
    end = len(whole) - 300  # there all the bytes that the hash does not cover are, and before it every third will do
    versions = [whole + b"\0", whole + whole]
    for place in (*range(0, end, 3), *range(end, len(whole))):
        others = (0x01, 0x20, 0xFF) if place >= end else (0x04,)
        versions += [whole[:place] + bytes([whole[place] ^ other]) + whole[place + 1 :] for other in others]
        versions.append(whole[:place])
    # In the header, whatever JSON would read the same way.
    versions += [whole.replace(b'"step": 12', text) for text in (b'"step":12', b'"step":\t12', b'"step": 012')]
    for version in versions:
        file.write_bytes(version)
        said = complaint(file)
        assert said.startswith(f"{file}: ")
        assert "damaged" in said
        assert "\n" not in said


def test_the_newest_sound_file_is_found_and_the_damaged_ones_are_named(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(run, 2)
    folder = run / "checkpoints"
    save_checkpoint(state_of(3), [folder / "last.pth"], step=3, finished=False)
    content = bytearray((folder / "last.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "last.pth").write_bytes(content)  # with a header that is sound
    (folder / "best.pth").write_bytes(b"")
    path, state, damaged = newest_checkpoint(run)
    assert (path.name, is_of(state, 2)) == ("epoch_0002.pth", True)
    assert [line.split(": ")[0] for line in damaged] == [str(folder / "best.pth"), str(folder / "last.pth")]

    shutil.copy(folder / "best.pth", folder / "epoch_0002.pth")
    with pytest.raises(UserError, match="no checkpoint that could be resumed") as error:
        find_checkpoint(run)
    assert all(name in str(error.value) for name in NAMES)


class Evil:
    """Pickles to a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_file_that_would_run_code_is_refused_in_one_line(tmp_path: Path) -> None:
    evil = {"model": Evil(f"touch {tmp_path / 'harm'}")}
    forged, raw, plain = (tmp_path / name for name in ("forged.pth", "raw.pth", "plain.pth"))
    save_checkpoint(evil, [forged], step=1, finished=False)  # by somebody who knows how to make the hash right
    raw.write_bytes(pickle.dumps(evil))
    torch.save(evil, plain)
    for file, words in [(forged, "run code"), (raw, "not a checkpoint"), (plain, "not a checkpoint")]:
        with pytest.raises(DamagedCheckpoint, match=words) as error:
            load_checkpoint(file)
        assert "weights_only" not in str(error.value)
        assert str(error.value).count("\n") == 0
    assert not (tmp_path / "harm").exists()


def test_a_newer_format_is_refused_with_these_words_even_if_its_header_has_more_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.pth"
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    monkeypatch.setattr(checkpoint, "asdict", lambda header: {**asdict(header), "more": [1]})
    save_checkpoint(state_of(1), [file], step=1, finished=False)
    monkeypatch.undo()
    with pytest.raises(UserError, match="written in checkpoint format 2, and this project reads formats up to 1"):
        load_checkpoint(file)
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(file)


def test_the_state_of_every_schedule_and_optimizer_comes_back_as_it_was(tmp_path: Path) -> None:
    from trainer.snapshot import snapshot

    arguments: dict[str, dict[str, Any]] = {
        "CosineAnnealingLR": {"T_max": 9},
        "CosineAnnealingWarmRestarts": {"T_0": 3},
        "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
        "ExponentialLR": {"gamma": 0.9},
        "MultiStepLR": {"milestones": [2, 4]},
        "OneCycleLR": {"max_lr": 0.1, "total_steps": 9},
        "StepLR": {"step_size": 2},
    }
    for name in [*arguments, "ConstantLR", "LinearLR", "PolynomialLR", "ReduceLROnPlateau"]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments.get(name, {}))
        state = schedule.state_dict()
        save_checkpoint(snapshot({"lr_scheduler": state}), [tmp_path / "a.pth"], step=0, finished=False)
        assert load_checkpoint(tmp_path / "a.pth")["lr_scheduler"] == state, name
    for name in ("SGD", "AdamW", "RMSprop", "Adagrad", "Adafactor", "NAdam", "LBFGS"):
        weight = torch.nn.Parameter(torch.ones(2, 2))
        optimizer = getattr(torch.optim, name)([weight])
        optimizer.step(lambda weight=weight: weight.square().sum().backward() or weight.sum())
        state = optimizer.state_dict()
        save_checkpoint(snapshot({"optimizer": state}), [tmp_path / "a.pth"], step=0, finished=False)
        assert str(load_checkpoint(tmp_path / "a.pth")["optimizer"]) == str(state), name


def test_a_state_that_could_not_be_loaded_again_is_refused_when_it_is_saved() -> None:
    from trainer.snapshot import snapshot

    best = torch.ones(1).numpy().sum()
    with pytest.raises(TypeError, match=r"monitor\.history\.1: a checkpoint holds .* this is a float32"):
        snapshot({"monitor": {"best": 1.0, "history": [2.0, best]}})


def test_a_program_that_knows_nothing_of_the_project_can_read_a_checkpoint(lab: Lab, tmp_path: Path) -> None:
    run = Experiment(lab, tmp_path / "saved", DIGITS)
    assert run.begin("step:5:KILL").code == -9
    code = (
        "import sys, torch; state = torch.load(sys.argv[1], weights_only=True); "
        "print(sorted(state), *state['model'], *{value.device for value in state['model'].values()})"
    )
    file = run.run / "checkpoints" / "last.pth"
    done = subprocess.run([sys.executable, "-I", "-c", code, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'config', 'data', 'format'" in done.stdout
    assert "features.0.weight" in done.stdout
    assert done.stdout.endswith("cpu\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of so many bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: int) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("a small disk can be mounted by root alone, and on Linux")
        return disk

    yield mount
    subprocess.run(["umount", "-l", str(disk)], capture_output=True)


def fill(file: Path, leave: int) -> None:
    """Write until so many bytes are left."""
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        while shutil.disk_usage(file.parent).free > leave:
            ballast.write(bytes(1000))


@needs_posix
def test_a_full_disk_is_named_and_what_was_saved_goes_on_when_there_is_space(
    lab: Lab, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    reference = lab.reference(DIGITS)
    size = reference.bytes + 4096
    disk = small_disk(10 * size)
    fill(disk / "ballast", leave=7 * size // 2)  # of four files at the end of the first epoch
    run = Experiment(lab, disk / "saved", DIGITS)
    result = run.begin()
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "the disk is full" in result.err
    assert f"to go on from there: python train.py -r {run.run}" in result.err
    assert not list(run.run.rglob("*.tmp"))

    fill(disk / "rest", leave=0)
    result = run.resume()  # now not even a log line can be written
    assert (result.code, "Traceback" in result.err) == (1, False), result.err
    assert "the disk is full" in result.err

    (disk / "ballast").unlink()
    assert run.resume().code == 0
    assert differences(traces_of(run.run), reference.traces) == []


def test_a_full_disk_is_told_without_a_traceback_wherever_it_shows(
    small_disk: Callable[[int], Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from logger.console import log, set_up_logging
    from logger.tensorboard import TensorBoard

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own
    disk = small_disk(40_000)
    observer = TensorBoard(disk)
    observer.on_start(SimpleNamespace(progress=Progress(step=1), monitor=Monitor(None, None)))  # type: ignore[arg-type]
    fill(disk / "ballast", leave=0)

    def write_events() -> int:
        try:
            observer.on_evaluation(1, 1, {f"val_{number}": 0.0 for number in range(300)}, True)
            return int(bool(observer.state_dict()))
        except OSError as error:
            raise RunFailed("as a save says it") from error
        finally:
            observer.close()

    def write_a_log() -> int:
        set_up_logging(Path("/dev/full"))
        try:
            log.info("a line")
        finally:
            log.handlers.clear()
        return 0

    mains = {write_events: "as a save says it\n", write_a_log: "the disk is full; what was saved before is whole\n"}
    for main, said in mains.items():
        capfd.readouterr()
        assert run_main(main) == 1
        assert capfd.readouterr().err == said


def test_other_trouble_of_a_disk_keeps_its_traceback() -> None:
    def main() -> int:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        run_main(main)


@needs_posix
def test_scarce_space_is_reported_before_the_first_epoch(lab: Lab, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(300_000)  # less than one checkpoint takes
    run = Experiment(lab, disk, [*DIGITS, "model.args.channels=32"])
    result = run.begin()
    assert "0 MB free, and this run's checkpoints will take about" in result.out
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "the disk is full\nno checkpoint of this run has been written" in result.err
    assert not list(run.run.rglob("*.pth*"))
