"""`train.py --find-lr`."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer import find_lr
from trainer.trainer import Trainer
from utils.errors import RunFailed

MakeTrainer = Callable[..., Trainer]


def test_it_leaves_a_picture_and_a_suggestion_and_no_run(
    config_file: Path, tmp_path: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"
    assert script("train.py", "-c", config_file, "trainer.device=cpu", f"trainer.save_dir={saved}", "--find-lr") == 0
    said = capsys.readouterr().out
    (picture,) = saved.iterdir()
    assert picture.name.endswith("-find_lr.png")
    assert picture.stat().st_size > 5000
    assert str(picture) in said
    suggested = float(said.split("optimizer.args.lr=")[1].split()[0])
    assert 1e-5 < suggested < 1


def test_the_rates_rise_evenly_and_groups_keep_their_ratio(tiny: MakeTrainer) -> None:
    groups = [{"params": ["linear.bias"], "lr": 0.005}]
    trainer = tiny(optimizer={"type": "SGD", "args": {"lr": 0.05}, "groups": groups})
    seen: list[list[float]] = []
    step = trainer.train_step

    def train_step(batch: object) -> object:
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
        return step(batch)

    trainer.train_step = train_step  # type: ignore[assignment,method-assign]
    rates, losses = find_lr.try_rates(trainer)
    assert rates[0] == pytest.approx(1e-7)
    assert rates[30] / rates[29] == pytest.approx(1e8 ** (1 / 239))
    assert max(first / second for first, second in seen) == pytest.approx(min(a / b for a, b in seen))
    assert sorted({round(first / second, 3) for first, second in seen})[0] in (0.1, 10.0)
    # Beyond 1 or so this problem diverges, and the test stops before the last rate.
    assert 0.1 < rates[-1] < 10
    assert len(losses) == len(rates)
    lowest, suggested = find_lr.read_curve(rates, losses)
    assert 1e-4 < suggested < lowest < 1


def test_the_curve_is_read_where_it_falls_fastest() -> None:
    rates = [10 ** (-7 + 8 * i / 239) for i in range(240)]
    losses = [2 - math.tanh(2 * (math.log10(rate) + 3)) + (5 * max(0, math.log10(rate))) for rate in rates]
    lowest, suggested = find_lr.read_curve(rates, losses)
    assert suggested == pytest.approx(1e-3, rel=0.2)
    assert lowest == pytest.approx(1, rel=0.5)


def test_a_loss_that_is_never_finite_is_told_in_words(tiny: MakeTrainer) -> None:
    for by_flag in (True, False):  # the update is withheld, or the guard raises
        trainer = tiny(optimizer={"type": "AdamW", "args": {"lr": 0.1}})
        trainer.guard.by_flag = by_flag
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(float("nan"))
        with pytest.raises(RunFailed, match="not finite even at the smallest"):
            find_lr.run(trainer, True)
