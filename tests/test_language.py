"""The task of language: a run that is killed and resumed keeps its bits, whatever its text comes from."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from baking import ENVIRONMENT, Bakery
from hub import NAME, REVISION, hub
from processes import succeed, train
from runs import KILLED, Experiment, Lab, differences, needs_posix, shared_lab, traces_of
from test_distributed import close

pytestmark = needs_posix

WORDS = [
    "model.args={max_length: 16, width: 8, depth: 1, heads: 2, dropout: 0.1}",
    "trainer.epochs=3",
    "trainer.log_every=3",
    "trainer.save_every_steps=2",
    "lr_scheduler=null",
    "loggers={tensorboard: true, chaos: true}",
]
PROSE = [*WORDS, "data_loader.args={files: [text/*.txt], batch_size: 8, max_length: 16}"]
SOURCE = "data_loader={type: hf_text.HFTextLoaders, args: {source: {files: text.jsonl}, batch_size: 8, max_length: 16}}"
MAPPED = [*WORDS, SOURCE]
# Blocks of 24 samples in epochs of 70, so that a block of each epoch is short, and the text begins again in the second.
STREAM = [*MAPPED, "data_loader.args.source.stream={samples_per_epoch: 70, buffer: 20}"]
WORKERS = [*STREAM, "data_loader.args.num_workers=2"]


@pytest.fixture(scope="module")
def lab(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("language")
    ENVIRONMENT["HF_HOME"] = str(folder / "cache")  # and not the person's own
    project = bakery.bake(folder, task="language_modeling")
    lab = shared_lab(project, folder / "lab", ("datasets", "torchmetrics.text"))
    choice = random.Random(0)
    texts = [" ".join(choice.choices(["stone", "notes", "onset", "tea"], k=choice.randint(1, 9))) for _ in range(70)]
    (lab.project / "text").mkdir()
    (lab.project / "text" / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (lab.project / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return lab


@pytest.mark.parametrize("words", [PROSE, MAPPED, STREAM, WORKERS], ids=["prose", "mapped", "stream", "workers"])
def test_kills_change_no_bit(lab: Lab, words: list[str], tmp_path: Path) -> None:
    reference = lab.reference(words)
    run = Experiment(lab, tmp_path, words)
    assert run.begin("step:5:KILL").code == KILLED
    assert run.resume("evaluation:2:KILL").code == KILLED
    assert run.resume("step:12:KILL").code == KILLED
    assert run.resume("io:9:KILL").code == KILLED
    result = run.resume()
    assert result.code == 0, result.err
    assert differences(traces_of(run.run), reference.traces) == []


@pytest.mark.parametrize(("words", "killed"), [(MAPPED, False), (STREAM, True)], ids=["mapped", "stream"])
def test_a_data_set_of_the_hub_gives_the_bits_of_its_files(
    lab: Lab, words: list[str], killed: bool, tmp_path: Path
) -> None:
    source = f"data_loader.args.source={{files: null, hub: {NAME}, revision: {REVISION}}}"
    run = Experiment(lab, tmp_path / "runs", [*words, source])
    with hub({"train.jsonl": (lab.project / "text.jsonl").read_bytes()}) as address:
        online = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")}
        result = lab.command(*run.arguments(), chaos="step:12:KILL" if killed else "", **online)
        if killed:
            assert result.code == KILLED
            result = lab.command("-r", str(run.run), **online)
    assert result.code == 0, result.err
    others = differences(traces_of(run.run), lab.reference(words).traces)
    assert [path for path in others if ".data.sizes" not in path] == []  # these are of local files


def test_two_processes_share_a_stream_and_go_on_with_it(lab: Lab, tmp_path: Path) -> None:
    """One epoch and some steps, then on from there; against a process that does all of it alone, without dropout."""
    words = [*STREAM, "model.args.dropout=0", "trainer.save_every_steps=null"]
    together, alone = Experiment(lab, tmp_path / "together", words), Experiment(lab, tmp_path / "alone", words)
    stopped = train(lab, together.arguments(), 2, chaos="step:13:TERM")
    assert [result.code for result in stopped] == [143, 143]
    succeed(lab, ["-r", str(together.run)], 2)
    assert alone.begin().code == 0
    assert close(together.run, alone.run, 2e-3)
