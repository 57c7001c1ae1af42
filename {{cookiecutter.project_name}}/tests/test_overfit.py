"""`train.py --overfit N`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import overfit
from trainer.trainer import Trainer
from utils.errors import RunFailed, UserError

MakeTrainer = Callable[..., Trainer]


def test_this_projects_model_learns_samples_by_heart_and_leaves_nothing_behind(
    config_file: Path, tmp_path: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("trainer.device=cpu", f"trainer.save_dir={tmp_path / 'saved'}")
    assert script("train.py", "-c", config_file, *words, "--overfit", "4") == 0
    said = capsys.readouterr().out
    assert "step    1  loss" in said
    assert "learned 4 samples by heart" in said
    assert not (tmp_path / "saved").exists()


class Constant(nn.Module):
    """Cannot learn anything but one number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        return self.value.expand(len(inputs), 1)


def test_a_model_that_cannot_learn_is_told_so_with_advice(tiny: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "MAX_STEPS", 20)
    with pytest.raises(RunFailed, match=r"in 20 steps the loss went from .*(.|\n)*--find-lr"):
        overfit.run(tiny(network=Constant), 4)


def test_what_keeps_from_learning_by_heart_is_taken_away(tiny: MakeTrainer) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), nn.TransformerEncoderLayer(4, 1, dropout=0.3), nn.Linear(4, 1))

    trainer = tiny(network=network, optimizer={"type": "AdamW", "args": {"weight_decay": 0.1}})
    overfit.stop_regularising(trainer)
    trainer.model.train()
    inputs = torch.randn(3, 4)
    assert torch.equal(trainer.model(inputs), trainer.model(inputs))
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.0]


@pytest.mark.parametrize("samples", [0, -1, 38])
def test_it_takes_as_many_samples_as_there_are(tiny: MakeTrainer, samples: int) -> None:
    with pytest.raises(UserError, match="there are 1 to 37 samples"):
        overfit.run(tiny(), samples)


def test_no_samples_is_not_the_same_as_no_trial(config_file: Path, script: Callable[..., int]) -> None:
    assert script("train.py", "-c", config_file, "trainer.device=cpu", "--overfit", "0") == 2
