"""A real search by Ray Tune, of few and tiny trials: one fails, one is killed, and the results are as they should be.

What takes longer stands in soak_tune.py: an actor that is killed, a search that is interrupted, Ray Train.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

import pytest
from baking import ENVIRONMENT, python, succeed

SEARCH = """
name: digits
model: {args: {channels: 2}}
loggers: {tensorboard: false, image_figures: false, plots: false, report: false}
search:
  algorithm: grid
  early_stopping: null
  space:
    optimizer.args.lr: {choice: [0.003, 1e38]} # the second one makes the weights infinite
    trainer.epochs: {choice: [2]}
"""

# What the killed training does is what tests/test_resume.py has proved; here it is to be started again.
KILLER = """
import os, pathlib, signal, trainer.saving
save = trainer.saving.Saver.after_epoch

def after_epoch(self, is_best):
    save(self, is_best)
    trial = self.run_dir.parents[1]
    mark = trial / "killed"
    if self.trainer.progress.epoch == 1 and trial.name == "trial_001" and not mark.exists():
        self.wait()
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

trainer.saving.Saver.after_epoch = after_epoch
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_search_survives_what_happens_to_its_trials(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise Ray writes one into the home folder.
    monkeypatch.setitem(ENVIRONMENT, "RAY_AUTH_TOKEN", secrets.token_hex(32))
    project = Path(shutil.copytree(full, tmp_path / full.name))
    (project / "search.yaml").write_text(SEARCH, encoding="utf-8")
    with open(project / "data_loaders" / "digits.py", "a", encoding="utf-8") as file:
        file.write(KILLER)
    said = succeed(python("tune.py", "-c", "config.json", "-c", "search.yaml", cwd=project))
    (folder,) = project.glob("saved/search/*")

    records = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/trial.json")}
    assert [records[name]["values"]["optimizer.args.lr"] for name in sorted(records)] == [0.003, 1e38]
    assert records["trial_001"]["status"] == "finished"
    assert records["trial_002"]["status"].startswith("failed: the loss is not finite at step 2 ")
    assert (folder / "trial_001" / "killed").exists()
    (metrics,) = folder.glob("trial_001/digits/*/metrics.jsonl")
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [1, 2]
    starts = json.loads((metrics.parent / "environment.json").read_text())
    assert ["-r" in start["command"] for start in starts] == [False, True]

    table = said[said.rindex("val_accuracy  epoch") :].splitlines()
    assert table[1].startswith("trial_001")
    assert "failed: the loss is not finite" in table[2]
    best = json.loads((folder / "best.json").read_text())
    assert (best["name"], best["trainer"]["save_dir"], best["optimizer"]["args"]["lr"]) == ("digits", "saved", 0.003)
