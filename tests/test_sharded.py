"""Checkpoints in shards: the same bits as those in one file, whatever is killed, and whoever goes on from them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from processes import start, succeed, train
from runs import HALF, KILLED, STOPPED, Experiment, Lab, differences, needs_posix, shared_lab, traces_of
from test_distributed import PIECES, close
from trainer.checkpoint import read_header

pytestmark = needs_posix

# With all that is divided: weights, their average, the state of the optimizer; with batches in pieces, and 16 bits.
WHOLE = [
    *(word for word in HALF if not word.startswith("lr_scheduler")),
    "trainer.strategy=fsdp",
]
SHARDED = [*WHOLE, "trainer.sharded_checkpoints=true"]


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


@pytest.fixture(scope="module")
def whole(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose checkpoints are whole files. Tests only read it."""
    experiment = Experiment(lab, tmp_path_factory.mktemp("whole"), WHOLE)
    succeed(lab, experiment.arguments(), 2)
    return experiment.run


# Of the main process; `make soak` takes all of them.
MOMENTS = (
    "write __0_0.distcp:100",  # in the save of step 6, which comes again and again
    "fsync shards:1",  # the shards are complete, and no file names them
    "replace epoch_0001.pth:1",  # best.pth is ahead of last.pth
    "open __0_0.distcp:1",
    "fsync __0_0.distcp:1",
    "fsync .metadata.tmp:1",
    "rename .metadata:1",
    "write last.pth.tmp:2",
    "replace last.pth:1",
    "fsync checkpoints:1",
    "unlink epoch_0001.pth:1",
)


@pytest.fixture(scope="module")
def killed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run with shards, of which one process or the other was killed in the middle of many a save."""
    experiment = Experiment(lab, tmp_path_factory.mktemp("killed"), SHARDED)
    words = experiment.arguments()
    for moment in MOMENTS if os.environ.get("SOAK") else MOMENTS[:3]:
        results = train(lab, words, 2, chaos=f"{moment}:KILL")
        assert [result.code for result in results] == [KILLED, 1], (moment, results)
        assert "another process of this training has ended" in results[1].err
        words = ["-r", str(experiment.run)]
    main, other = start(lab, words, 2, chaos="fsync __0_0.distcp:2:STOP")
    assert lab.wait(main).code == STOPPED
    os.kill(other.pid, signal.SIGKILL)
    os.kill(main.pid, signal.SIGCONT)
    assert lab.wait(other).code == KILLED
    assert lab.wait(main).code == 1
    succeed(lab, words, 2)
    return experiment.run


def test_kills_in_the_middle_of_a_save_change_no_bit(killed: Path, whole: Path) -> None:
    assert differences(traces_of(killed), traces_of(whole)) == []


def test_no_process_writes_the_whole_and_what_is_not_needed_is_removed(killed: Path) -> None:
    folder = killed / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.pth", "epoch_0003.pth", "last.pth", "shards"}
    weights = torch.load(folder / "last.pth", weights_only=True)["model"]
    assert all(value.is_meta for name, value in weights.items() if "running" not in name and "num_" not in name)
    (shards,) = (folder / "shards").iterdir()
    sizes = {path.name: path.stat().st_size for path in shards.iterdir()}
    assert sorted(sizes) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert sizes["__0_0.distcp"] == pytest.approx(sizes["__1_0.distcp"], rel=0.1)


def test_any_number_of_processes_goes_on_by_any_strategy(lab: Lab, tmp_path: Path) -> None:
    """Each in a copy of a run of two: more processes and fewer, to shards and to whole files."""
    fsdp, sharded = "trainer.strategy=fsdp", "trainer.sharded_checkpoints=true"
    first = Experiment(lab, tmp_path / "first", [*PIECES, "trainer.epochs=1", fsdp, sharded])
    succeed(lab, first.arguments(), 2)
    ends = []
    for name, processes, words in (
        ("three", 3, []),
        ("one", 1, []),
        ("copies", 2, ["trainer.strategy=ddp", "trainer.sharded_checkpoints=false"]),
    ):
        run = Path(shutil.copytree(first.run, tmp_path / name / "run"))
        succeed(lab, ["-r", str(run), "trainer.epochs=2", *words], processes)
        assert bool(read_header(run / "checkpoints" / "last.pth").shards) is (name == "three")
        ends.append(run)
    for run in ends[1:]:
        assert close(run, ends[0], 5e-3)


def test_a_damaged_shard_is_passed_over_by_all(lab: Lab, killed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    folder = run / "checkpoints"
    succeed(lab, ["-r", str(run), "trainer.epochs=4", "trainer.keep_last=2"], 2)
    newest = folder / "shards" / read_header(folder / "last.pth").shards
    content = bytearray((newest / "__1_0.distcp").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "__1_0.distcp").write_bytes(content)  # which only the other process looks at
    main, other = succeed(lab, ["-r", str(run)], 2)
    assert f"{newest / '__1_0.distcp'}: damaged" in main.out
    assert "epoch_0003.pth, after step 21" in main.out
    assert other.out == ""
    shutil.rmtree(folder / "shards")
    main, _ = train(lab, ["-r", str(run)], 2)
    assert main.code == 2
    assert "is not there; a checkpoint needs it" in main.err
    assert "Traceback" not in main.err


def test_test_py_measures_alike_with_any_number_of_processes_and_from_one_file(
    lab: Lab, killed: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    file = tmp_path / "whole.pth"
    result = lab.wait(lab.start("-r", str(run), str(file), script="merge.py"))
    assert result.code == 0, result.err
    line = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    for processes, source in ((1, run), (3, run), (1, file), (2, file)):
        results = [
            lab.wait(each) for each in start(lab, ["-r", str(source), "--split", "val"], processes, script="test.py")
        ]
        assert [each.code for each in results] == [0] * processes, results
        report = json.loads(
            (run / "checkpoints" / "best.val.json" if source == run else file.with_suffix(".val.json")).read_text()
        )
        for name, value in report["metrics"].items():
            assert value == pytest.approx(line[name], rel=1e-5)
