"""What a step comes to in pieces, in 16 bits, with clipped gradients and averaged weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainer.build import build_trainer
from trainer.checkpoint import load_checkpoint
from trainer.restoring import restore
from trainer.trainer import Trainer
from utils.config import Config

MakeTrainer = Callable[..., Trainer]


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    parameters = trainer.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}


def step_gradients(trainer: Trainer, number: int) -> dict[str, torch.Tensor]:
    """Return the gradients of a step on a batch of the first epoch, in `eval()`: BatchNorm would look at each piece."""
    trainer.loaders.train.set_position(0)
    trainer.progress.batch = number
    batch, _ = trainer.loaders.train.load_batch(number)
    trainer.model.eval()
    trainer.train_step(trainer.move(batch))
    return gradients(trainer)


@pytest.mark.parametrize("pieces", [3, 1000])
def test_pieces_of_whole_and_incomplete_batches_add_up(config: Config, pieces: int) -> None:
    """Those of this project's own data; where lengths vary, a piece counts as much as there is in it."""
    for number in (0, -1):
        whole = build_trainer(config)
        in_pieces = build_trainer(config)
        in_pieces.scaler.count, in_pieces.scaler.divided = pieces, True
        number %= len(whole.loaders.train)
        expected = step_gradients(whole, number)
        for name, gradient in step_gradients(in_pieces, number).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def by_weight(output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss in which samples do not count the same, and some not at all."""
    return (output - targets).square(), (targets.abs() * 2).floor()


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_pieces_add_up_where_samples_do_not_count_the_same(tiny: MakeTrainer, pieces: int) -> None:
    trainers = [tiny(dropout=0.0, trainer={"epochs": 2, "accumulate": count}) for count in (1, pieces)]
    for trainer in trainers:
        trainer.loss.function = by_weight
        trainer.train()
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_in_16_bits_gradients_are_clipped_after_they_are_unscaled(tiny: MakeTrainer) -> None:
    trainers = [
        tiny(dropout=0.0, trainer={"clip_grad_norm": 0.5, "precision": precision}) for precision in ("fp32", "fp16")
    ]
    trainers[1].scaler.factor.fill_(256.0)  # the larger one that it begins with would overflow
    whole, half = (step_gradients(trainer, 0) for trainer in trainers)
    for trainer in trainers:
        assert trainer.gradients.norm() == pytest.approx(trainers[0].gradients.norm(), rel=1e-2)
    assert float(nn.utils.get_total_norm(half.values())) == pytest.approx(0.5, rel=1e-3)
    for name, gradient in half.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])  # one that has a flag to leave a step out, and one not
@pytest.mark.parametrize("by_flag", [True, False])
def test_a_step_whose_gradients_overflow_is_left_out(tiny: MakeTrainer, optimizer: str, by_flag: bool) -> None:
    changes: dict[str, Any] = {
        "optimizer": {"type": optimizer, "args": {"lr": 0.05}},
        "trainer": {"precision": "fp16", "save_every_steps": 1, "epochs": 1},
    }
    trainer = tiny(**changes)
    trainer.guard.by_flag = by_flag and optimizer == "AdamW"  # as on a GPU
    trainer.scaler.factor.fill_(2.0**40)
    step_gradients(trainer, 0)
    fresh = tiny(**changes)
    for one, other in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert float(trainer.scaler.factor) == 2.0**39
    trainer.saver.save("last.pth")
    again = tiny(**changes)
    restore(again, load_checkpoint(trainer.saver.folder / "last.pth"))
    assert float(again.scaler.factor) == 2.0**39


def test_the_average_of_the_weights_is_what_is_evaluated_and_saved(tiny: MakeTrainer) -> None:
    trainer = tiny(trainer={"epochs": 1, "ema": 0.5})
    weight = dict(trainer.model.named_parameters())["linear.weight"]
    steps = [weight.detach().clone()]
    after_step = trainer.after_step

    def keep() -> None:
        steps.append(weight.detach().clone())
        after_step()

    trainer.after_step = keep  # type: ignore[method-assign]
    trainer.train()
    average = steps[0]
    for number, step in enumerate(steps[1:], 1):
        decay = min(0.5, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * step
    state = load_checkpoint(trainer.saver.folder / "last.pth")
    torch.testing.assert_close(state["model"]["linear.weight"], average)
    assert torch.equal(state["training_model"]["linear.weight"], steps[-1])

    plain = tiny(trainer={"epochs": 1})
    plain.model.load_state_dict(state["model"])
    assert trainer.evaluate(trainer.loaders.valid, "val") == plain.evaluate(plain.loaders.valid, "val")
    assert torch.equal(weight, steps[-1])


def test_images_and_weights_lie_channel_by_channel_on_request(tiny: MakeTrainer) -> None:
    trainer = tiny(network=lambda: nn.Conv2d(3, 4, 3), trainer={"channels_last": True})
    assert next(trainer.model.parameters()).is_contiguous(memory_format=torch.channels_last)
    images, targets = trainer.move((torch.zeros(2, 3, 5, 5), torch.zeros(2)))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets.shape == (2,)


def test_deterministic_operations_are_asked_for_by_one_run_and_not_by_the_next(tiny: MakeTrainer) -> None:
    for wanted in (True, False):
        tiny(trainer={"deterministic": wanted})
        assert torch.are_deterministic_algorithms_enabled() is wanted
