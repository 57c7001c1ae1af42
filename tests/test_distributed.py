"""Several processes train as one would: the same steps, the same numbers, one checkpoint, one voice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Launch, start, succeed, train
from runs import (
    DIGITS,
    HALF,
    KILLED,
    STOPPED,
    Experiment,
    Lab,
    differences,
    needs_posix,
    shared_lab,
    traces_of,
)
from trainer.checkpoint import load_checkpoint

pytestmark = needs_posix

# 1,257 training samples: eight batches of 157 and one sample, of which all processes but one get nothing.
EVEN = [
    *(word for word in DIGITS if not word.startswith(("data_loader", "lr_scheduler"))),
    "data_loader.args.batch_size=157",
    "model.args.dropout=0",
    "metrics=[{type: accuracy}, {type: MulticlassF1Score, args: {num_classes: 10}}]",
    "trainer.epochs=2",
    "loggers={chaos: true}",
]
PIECES = [*EVEN, "trainer.clip_grad_norm=1.0", "trainer.ema=0.9", "loss.args.label_smoothing=0.1"]


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def close(one: Path, other: Path, tolerance: float) -> bool:
    """Whether two runs measured the same, and ended with the same weights, up to rounding."""
    for a, b in zip(metrics_of(one), metrics_of(other), strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    weights = [load_checkpoint(run / "checkpoints" / "last.pth")["model"] for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=tolerance, atol=tolerance)
    return True


@pytest.mark.parametrize(
    ("words", "others"),
    [
        (EVEN, ["trainer.strategy=ddp"]),
        (EVEN, ["trainer.strategy=fsdp"]),
        (PIECES, ["trainer.strategy=ddp"]),
        (PIECES, ["trainer.strategy=fsdp"]),
    ],
    ids=["ddp", "fsdp", "ddp, clipped and averaged", "fsdp, clipped and averaged"],
)
def test_any_number_of_processes_trains_alike(lab: Lab, tmp_path: Path, words: list[str], others: list[str]) -> None:
    lab.reference(words)
    alone = next((lab.folder / f"reference-{list(lab._references).index(' '.join(words))}").glob("*/*"))
    together = Experiment(lab, tmp_path, [*words, *others])
    said = succeed(lab, together.arguments(), 3 if words is EVEN and "ddp" in others[0] else 2)
    assert close(together.run, alone, 2e-3)
    assert [result.out for result in said[1:]] == [""] * (len(said) - 1), "one process speaks for all"
    assert "Warning" not in "".join(result.err for result in said)
    assert "  ConvNet  " in said[0].out, "layers are called by their own names, not FSDPConvNet"


def test_a_run_goes_on_with_another_strategy_and_number_of_processes(lab: Lab, tmp_path: Path) -> None:
    """One epoch sharded over two processes, one of copies on two, one on a single process; then against one alone."""
    words = [*PIECES, "trainer.epochs=3", "lr_scheduler=null"]
    mixed, alone = Experiment(lab, tmp_path / "mixed", words), Experiment(lab, tmp_path / "alone", words)
    succeed(lab, [*mixed.arguments(), "trainer.epochs=1", "trainer.strategy=fsdp"], 2)
    succeed(lab, ["-r", str(mixed.run), "trainer.epochs=2", "trainer.strategy=ddp"], 2)
    result = lab.train("-r", str(mixed.run), "trainer.epochs=3")
    assert result.code == 0, result.err
    assert alone.begin().code == 0
    assert close(mixed.run, alone.run, 5e-3)


def test_pieces_of_a_batch_add_up_to_the_whole(lab: Lab, tmp_path: Path) -> None:
    """Batch normalisation sees a piece at a time, so it is frozen here; the last batch has but one sample."""
    words = [*EVEN, "freeze=[features.1, features.5]", "trainer.clip_grad_norm=0.5"]
    whole, pieces = Experiment(lab, tmp_path / "whole", words), Experiment(lab, tmp_path / "pieces", words)
    assert whole.begin().code == 0
    succeed(lab, [*pieces.arguments(), "trainer.accumulate=3"], 2)
    assert close(pieces.run, whole.run, 2e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_is_frozen_stays_and_thaws_with_an_average_and_pieces(lab: Lab, tmp_path: Path, strategy: str) -> None:
    words = [
        *PIECES,
        "freeze=[features]",
        "unfreeze=[{epoch: 2, modules: [features.0, features.4]}]",
        "trainer.accumulate=3",
        "trainer.keep_last=2",
    ]
    alone, together = Experiment(lab, tmp_path / "alone", words), Experiment(lab, tmp_path / "together", words)
    assert alone.begin().code == 0
    succeed(lab, [*together.arguments(), f"trainer.strategy={strategy}"], 2)
    assert close(together.run, alone.run, 2e-3)
    first, second = (load_checkpoint(together.run / "checkpoints" / f"epoch_000{epoch}.pth") for epoch in (1, 2))
    start_of = load_checkpoint(alone.run / "checkpoints" / "epoch_0001.pth")["model"]
    for name, value in start_of.items():
        if name.startswith("features"):
            assert torch.equal(first["model"][name], value)
            assert torch.equal(first["training_model"][name], value)
            assert torch.equal(second["model"][name], value) is not name.startswith(("features.0", "features.4"))


def test_evaluation_counts_every_sample_once_even_where_a_process_has_none(lab: Lab, tmp_path: Path) -> None:
    """Of each batch of one sample all processes but one get nothing, and one metric collects what it got."""
    metrics = "metrics=[{type: accuracy}, {type: MulticlassAUROC, args: {num_classes: 10}}]"
    run = Experiment(lab, tmp_path, [*EVEN, metrics, "trainer.ema=0.5", "trainer.epochs=1"])
    assert run.begin().code == 0
    (reported,) = metrics_of(run.run)
    del reported["val_multiclass_auroc"]  # torchmetrics looks at a whole batch to tell whether it holds probabilities
    collected = []
    for processes in (1, 3):
        words = ["-r", str(run.run), "--split", "val", "data_loader.args.batch_size=1"]
        results = [lab.wait(process) for process in start(lab, words, processes, script="test.py")]
        assert [(result.code, result.err) for result in results] == [(0, "")] * processes
        report = json.loads((run.run / "checkpoints" / "best.val.json").read_text(encoding="utf-8"))["metrics"]
        collected.append(report.pop("val_multiclass_auroc"))
        assert report == pytest.approx({name: reported[name] for name in report}, rel=1e-5)
    assert collected[1] == pytest.approx(collected[0], rel=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_part_is_run_once_in_all_processes(lab: Lab, tmp_path: Path, strategy: str) -> None:
    sharded = f"trainer.sharded_checkpoints={str(strategy == 'fsdp').lower()}"
    words = [*EVEN, "--check", f"trainer.strategy={strategy}", sharded, f"trainer.save_dir={tmp_path / 'saved'}"]
    results = succeed(lab, ["-c", "config.json", *words], 2)
    assert results[0].out.endswith("all is well\n")
    assert list(tmp_path.iterdir()) == []


FAILING = """
from trainer.trainer import Trainer
from utils.distributed import rank


class FailingTrainer(Trainer):
    def train_step(self, batch):
        if rank() == 1 and self.progress.step == 3:
            raise ValueError("the reactor is on fire")
        return super().train_step(batch)
"""


def test_a_failure_in_one_process_ends_all_with_its_message(lab: Lab, tmp_path: Path) -> None:
    (lab.project / "trainer" / "failing.py").write_text(FAILING, encoding="utf-8")
    run = Experiment(lab, tmp_path, [*EVEN, "trainer.type=failing.FailingTrainer"])
    launch = Launch(lab.project)
    launch.start("--nproc-per-node=2", "train.py", *run.arguments())
    assert 0 not in launch.end()
    said = launch.said
    assert "ValueError: the reactor is on fire" in said
    assert "another process of this training has ended or cannot be reached, and this one ends with it" in said


def test_a_lost_process_ends_all_and_they_go_on_to_the_same_bits(lab: Lab, tmp_path: Path) -> None:
    words = HALF
    reference = Experiment(lab, tmp_path / "reference", words)
    succeed(lab, reference.arguments(), 2)

    run = Experiment(lab, tmp_path / "run", words)
    main, other = start(lab, run.arguments(), 2, chaos="step:10:STOP")
    assert lab.wait(main).code == STOPPED
    os.kill(other.pid, signal.SIGKILL)
    os.kill(main.pid, signal.SIGCONT)
    assert lab.wait(other).code == KILLED
    ended = lab.wait(main)
    assert ended.code == 1
    assert ended.err.startswith("another process of this training has ended or cannot be reached")
    assert "Traceback" not in ended.err

    stopped = train(lab, ["-r", str(run.run)], 2, chaos="step:4:TERM")  # one process gets the signal, both stop
    assert [result.code for result in stopped] == [128 + signal.SIGTERM] * 2
    assert "to go on: python train.py -r" in stopped[0].err
    assert stopped[1].err == ""
    succeed(lab, ["-r", str(run.run)], 2)
    assert differences(traces_of(run.run), traces_of(reference.run)) == []


LONELY = """
from utils.distributed import gathered, rank
from utils.errors import UserError

def lonely(output, target, label_smoothing: float = 0.0):
    if rank() == 1:
        raise UserError("the key is missing on this machine")
    gathered("waits for the other")
    return output[:, 0]
"""


@pytest.mark.parametrize(
    ("word", "mistake"),
    [
        ("loss.type=lonely", "the key is missing on this machine"),  # of one process; the other waits
        ("optimizer.args.learning_rate=0.1", "did you mean `lr`?"),
    ],
)
def test_a_mistake_is_said_once_whoever_makes_it(lab: Lab, word: str, mistake: str, tmp_path: Path) -> None:
    file = lab.project / "model" / "loss.py"
    before = file.read_text(encoding="utf-8")
    file.write_text(before + LONELY, encoding="utf-8")
    launch = Launch(lab.project)
    launch.start("--nproc-per-node=2", "train.py", *Experiment(lab, tmp_path, [*EVEN, word]).arguments())
    ended = launch.end()
    file.write_text(before, encoding="utf-8")
    assert 0 not in ended
    assert launch.said.count(mistake) == 1, launch.said
