"""The task of tables: a run that is killed and resumed keeps its bits, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from baking import Bakery
from runs import KILLED, Experiment, Lab, differences, needs_posix, shared_lab, traces_of

pytestmark = needs_posix

TABLE = "data_loader={type: tables.CsvLoaders, args: {file: data.csv, target: y, missing: mean, batch_size: 8}}"
# 42 training rows in batches of 8, the last of them of 2; metrics of torchmetrics, and the loss with its buffer.
WORDS = [
    TABLE,
    "model.args={num_features: 2, hidden: 8}",
    "trainer.epochs=3",
    "trainer.log_every=2",
    "trainer.save_every_steps=2",
    "lr_scheduler=null",
    "loggers={tensorboard: true, chaos: true, table_figures: false, plots: false, report: false}",
]


@pytest.fixture(scope="module")
def lab(bakery: Bakery, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("tables")
    lab = shared_lab(bakery.bake(folder, task="tabular_regression"), folder / "lab")
    write_table(lab.project / "data.csv")
    return lab


def write_table(file: Path, noise: int = 7) -> None:
    rows = [f"{'' if n == 5 else n},{n * n % 11},{2 * n + n % noise}" for n in range(60)]
    file.write_text("\n".join(["a,b,y", *rows]), encoding="utf-8")


def test_kills_change_no_bit(lab: Lab, tmp_path: Path) -> None:
    reference = lab.reference(WORDS)
    run = Experiment(lab, tmp_path, WORDS)
    assert run.begin("step:9:KILL").code == KILLED
    assert run.resume("evaluation:2:KILL").code == KILLED
    assert run.resume("io:7:KILL").code == KILLED
    result = run.resume()
    assert result.code == 0, result.err
    assert differences(traces_of(run.run), reference.traces) == []


def test_a_run_does_not_go_on_with_another_table(lab: Lab, tmp_path: Path) -> None:
    run = Experiment(lab, tmp_path, WORDS)
    assert run.begin("step:9:KILL").code == KILLED
    write_table(lab.project / "data.csv", noise=5)
    result = run.resume()
    write_table(lab.project / "data.csv")
    assert result.code == 2
    assert "not those that this run began with" in result.err
    assert "Traceback" not in result.err
    assert run.resume().code == 0
    assert differences(traces_of(run.run), lab.reference(WORDS).traces) == []
