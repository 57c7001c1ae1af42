"""Transfer learning from the command line: a network is trained, its head changed, the rest frozen and thawed."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from baking import python, succeed
from runs import KILLED, Experiment, Lab, differences, events_of, needs_posix, shared_lab, traces_of

pytestmark = needs_posix

SHORT = ["model.args.channels=4", "trainer.device=cpu", "trainer.log_every=1", "loggers.report=false"]
PRETRAIN = ["-c", "config.json", "-c", "configs/pretrain.yaml", *SHORT, "trainer.epochs=3", "lr_scheduler=null"]
# Four steps to an epoch, two epochs before the thaw and two after it.
FINETUNE = [
    "-c",
    "configs/finetune.yaml",
    *SHORT,
    "data_loader.args.samples_per_class=4",
    "unfreeze=[{epoch: 3, modules: [features.*], lr: 0.0003}]",
    "trainer.epochs=4",
    "trainer.save_every_steps=1",
    "trainer.keep_last=4",
]
THAWING = "features.* from epoch 3"

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def lab(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return shared_lab(full, tmp_path_factory.getbasetemp() / "lab")


@pytest.fixture(scope="session")
def pretrained(lab: Lab) -> Path:
    """The folder of a network that knows the digits 0 to 4, where `configs/finetune.yaml` looks for it."""
    result = lab.train(*PRETRAIN)
    assert result.code == 0, result.err
    (run,) = (lab.project / "saved" / "digits_0_to_4").iterdir()
    return run


def model_of(file: Path) -> Weights:
    weights: Weights = torch.load(file, map_location="cpu", weights_only=True)["model"]
    return weights


def last_of(run: Path) -> Weights:
    return model_of(run / "checkpoints" / "last.pth")


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()}


def lines_of(text: str) -> list[str]:
    """Return lines with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_network_is_fine_tuned_as_the_readme_says(lab: Lab, pretrained: Path) -> None:
    result = lab.command("-c", "config.json", *FINETUNE)
    assert result.code == 0, result.err
    start = last_of(pretrained)
    backbone = {name for name in start if name.startswith("features.")}
    head = start.keys() - backbone
    size = sum(start[name].numel() for name in backbone if name.endswith(("weight", "bias")))
    newest = pretrained.relative_to(lab.project) / "checkpoints" / "last.pth"

    said = lines_of(result.out)
    assert f"starting from {newest}: {len(backbone)} loaded, {len(head)} skipped" in said
    assert "features.1.running_mean loaded (4,)" in said
    assert any(re.fullmatch(r"head\..*\.weight skipped", line) for line in said)
    assert "features.0 Conv2d (5, 4, 8, 8) 36 frozen, later 0.0003" in said
    assert any(re.fullmatch(r"head\.\d Linear \(5, 5\) \d+ 0.003", line) for line in said)
    assert f"parameter group `{THAWING}`: {size:,} parameters, lr 0.0003, weight decay 0.01" in said

    (run,) = (lab.project / "saved" / "digits_5_to_9").iterdir()
    weights = [model_of(run / "checkpoints" / f"epoch_{epoch:04d}.pth") for epoch in (1, 2, 3, 4)]
    assert changed(start, weights[0]) == changed(weights[0], weights[1]) == head
    assert changed(weights[1], weights[2]) == changed(weights[2], weights[3]) == start.keys()

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    cosine = [(1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [line["lr_main"] for line in lines] == pytest.approx([0.003 * each for each in cosine])
    assert [line[f"lr_{THAWING}"] for line in lines] == pytest.approx([0.0003 * each for each in cosine])
    shown = events_of(run)
    assert [value for _, value in shown["run/lr_main"]] == pytest.approx([line["lr_main"] for line in lines])
    assert len([tag for tag in shown if tag.startswith("run/lr_")]) == 2
    assert b"parameter groups" in next(run.glob("events*")).read_bytes()

    succeed(python("test.py", "-r", str(run), cwd=lab.project))
    report = json.loads((run / "checkpoints" / "last.test.json").read_text())
    assert report["metrics"]["test_accuracy"] > 0.2


@pytest.mark.parametrize("overlays", [[], ["-c", "configs/from_scratch.yaml"]], ids=["finetune", "from scratch"])
def test_the_configs_fit_together_as_they_are(lab: Lab, pretrained: Path, overlays: list[str]) -> None:
    result = lab.train("-c", "config.json", "-c", "configs/finetune.yaml", *overlays, "--check", SHORT[0])
    assert result.code == 0, result.err
    assert ("starting from" in result.out) is not bool(overlays)
    assert ("frozen, later" in result.out) is not bool(overlays)


def test_kills_before_at_and_after_the_thaw_change_no_bit(lab: Lab, pretrained: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    shutil.copy(pretrained / "checkpoints" / "last.pth", weights)
    loggers = "loggers={tensorboard: true, chaos: true, image_figures: false, plots: false, report: false}"
    words = [*FINETUNE, f"init_from.path={weights}", loggers]
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path / "runs", words)
    assert lab.command(*run.arguments(), chaos="step:5:KILL").code == KILLED
    weights.unlink()  # a run that goes on has its own
    for event in (
        "batch:1",  # within the second epoch
        "end_epoch:1",  # its steps are done, its evaluation is not
        "replace last.pth:4",  # the second epoch is done, and the next checkpoint is in the making
        "batch:1",  # at the first step after the thaw
        "step:2",
        "evaluation:1",
        "step:2",
    ):
        result = run.resume(f"{event}:KILL")
        assert result.code == KILLED, (event, result.err)
    result = lab.command("-r", str(run.run))
    assert result.code == 0, result.err
    assert "starting from" not in result.out
    assert differences(traces_of(run.run), reference.traces) == []


class Malice:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        """Name the trace."""
        self.trace = trace

    def __reduce__(self) -> Any:
        """Pickle as a call."""
        return os.mkdir, (str(self.trace),)


def write_files(folder: Path, weights: Weights) -> None:
    """Write files that `init_from` may meet."""
    torch.save(weights, folder / "plain.pth")
    torch.save({"state_dict": {f"module.{name}": each for name, each in weights.items()}}, folder / "other.ckpt")
    renamed = {name.replace("features.", "encoder."): each for name, each in weights.items()}
    torch.save({"model": renamed}, folder / "renamed.pth")
    torch.save({"x": torch.zeros(1)}, folder / "stranger.pth")
    torch.save({"state_dict": weights, "callback": Malice(folder / "trace")}, folder / "malicious.pth")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("plain.pth", []),
        ("other.ckpt", []),
        ("renamed.pth", ["init_from.rename={encoder.: features.}"]),
        ("weights.safetensors", []),
        ("run", []),
    ],
)
def test_weights_come_from_files_of_other_programs_too(
    lab: Lab, pretrained: Path, tmp_path: Path, name: str, more: list[str]
) -> None:
    weights = last_of(pretrained)
    write_files(tmp_path, weights)
    if name == "weights.safetensors":
        pytest.importorskip("safetensors.torch").save_file(weights, tmp_path / name)
    path = pretrained if name == "run" else tmp_path / name
    words = ["trainer.epochs=1", "init_from.skip=[]", "model.args.num_classes=6", "freeze=[features]", *more]
    config = ["-c", "config.json", *SHORT, "lr_scheduler=null", f"trainer.save_dir={tmp_path}"]
    result = lab.train(*config, *words, f"init_from.path={path}")
    assert result.code == 2, "a head for 6 digits cannot learn 10"
    result = lab.train(*config, *words, f"init_from.path={path}", "model.args.num_classes=10")
    assert result.code == 0, result.err
    (run,) = (tmp_path / "digits").iterdir()
    after = last_of(run)
    other = {name for name in weights if weights[name].shape != after[name].shape}
    assert f": {len(weights) - 2} loaded, 2 mismatched\n" in result.out
    for each in other:
        assert any(line.startswith(f"{each} mismatched (5") for line in lines_of(result.out))
    assert other <= changed(weights, after) <= {name for name in weights if name.startswith("head.")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["freeze=[featurs.*]"], "freeze.0: found `featurs.*`, which matches nothing in the model; did you mean `feat"),
        (["freeze=[features.*, '!head.7']"], "freeze.1: found `!head.7`, which matches nothing"),
        (["freeze=['*']"], "freeze: leaves nothing to train in the first epoch"),
        (["freeze=[features.*]", "unfreeze=[{epoch: 9, modules: [features]}]"], "unfreeze.0.epoch: found 9, never"),
        (["unfreeze=[{epoch: 2, modules: [features]}]"], "unfreeze.0.modules: found ['features'], of which `freeze`"),
        (["optimizer.groups=[{params: [haed.*], lr: 0.1}]"], "optimizer.groups.0.params.0: found `haed.*`, which"),
        (["init_weights=[{type: zeros_, params: [haed.*]}]"], "init_weights.0.params.0: found `haed.*`, which"),
        (["init_from.path=nowhere"], "init_from.path: there is no nowhere"),
        (["init_from={path: TMP/plain.pth, skip: [haed.*]}"], "init_from.skip.0: found `haed.*`, which matches"),
        (["init_from={path: TMP/stranger.pth}"], "init_from: nothing in TMP/stranger.pth fits the model"),
        (
            ["init_from={path: TMP/malicious.pth}"],
            "init_from.path: TMP/malicious.pth: refused: to load it would mean to run code",
        ),
        (["init_from={path: TMP}"], "init_from.path: TMP is neither the folder of a run"),
    ],
)
def test_what_cannot_be_meant_ends_with_code_2(
    lab: Lab, pretrained: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    write_files(tmp_path, last_of(pretrained))
    short = [*SHORT, "trainer.epochs=3", "lr_scheduler=null", f"trainer.save_dir={tmp_path / 'saved'}"]
    words = [word.replace("TMP", str(tmp_path)) for word in words]
    result = lab.train("-c", "config.json", *short, *words)
    assert result.code == 2
    assert message.replace("TMP", str(tmp_path)) in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "saved").exists()
    assert not (tmp_path / "trace").exists()


def test_a_damaged_network_is_no_start(lab: Lab, pretrained: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    content = bytearray((pretrained / "checkpoints" / "last.pth").read_bytes())
    with zipfile.ZipFile(pretrained / "checkpoints" / "last.pth") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 200] ^= 1
    file.write_bytes(content)
    result = lab.train("-c", "config.json", *SHORT, f"init_from.path={file}", f"trainer.save_dir={tmp_path}")
    assert result.code == 2
    assert "damaged: its bytes are not those that were written" in result.err


BACKBONE = '''
"""A network from timm."""

import timm
from torch import nn


def resnet(num_classes: int = 10) -> nn.Module:
    """Build a small residual network for images with one channel."""
    network: nn.Module = timm.create_model("test_resnet", in_chans=1, num_classes=num_classes)
    return network
'''


def test_a_backbone_of_timm_is_a_function_of_three_lines(full: Path, tmp_path: Path) -> None:
    try:
        timm = importlib.import_module("timm")
    except Exception as error:  # it imports much else, which may fail in other ways than by being absent
        pytest.skip(f"timm cannot be imported: {error}")
    project = shutil.copytree(full, tmp_path / "project")
    (project / "model" / "backbone.py").write_text(BACKBONE.lstrip())
    words = [
        "model={type: backbone.resnet, args: {num_classes: 10}}",
        "freeze=['*', '!fc']",
        "trainer.epochs=2",
        "trainer.keep_last=2",
        "trainer.device=cpu",
        "lr_scheduler=null",
    ]
    said = succeed(python("train.py", "-c", "config.json", *words, cwd=project))
    assert "layer4" in said
    assert "frozen" in said
    (run,) = (project / "saved" / "digits").iterdir()
    first, second = (model_of(run / "checkpoints" / f"epoch_000{epoch}.pth") for epoch in (1, 2))
    assert first.keys() == timm.create_model("test_resnet").state_dict().keys()
    assert changed(first, second) == {"fc.weight", "fc.bias"}
