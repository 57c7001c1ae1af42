"""Where tensors live. What needs an accelerator is skipped where there is none."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from trainer.checkpoint import load_checkpoint
from trainer.restoring import restore
from trainer.trainer import Trainer
from utils.config import Config
from utils.config_files import load_config
from utils.device import all_finite, choose_device, move, not_finite
from utils.errors import ConfigError, UserError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


class Pair(NamedTuple):
    left: torch.Tensor
    right: str


def test_auto_takes_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for cuda, mps, best in [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert choose_device("auto").type == best


def test_auto_is_a_device_that_works() -> None:
    assert torch.ones(2, device=choose_device("auto")).sum() == 2


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UserError, match=r'trainer\.device: "cuda:1" is not there: PyTorch sees 1 CUDA devices'):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="mps"):
        choose_device("mps")


def test_a_name_that_is_no_device_is_refused_with_the_config(config_file: object) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.device"):
        load_config([config_file], ["trainer.device=gpu"])  # type: ignore[list-item]


def test_batches_of_any_form_are_moved_and_keep_it() -> None:
    meta = torch.device("meta")
    batch = {"a": [torch.ones(1), "text"], "b": (torch.ones(2), 3), "c": Pair(torch.ones(3), "right")}
    moved = move(batch, meta)
    assert moved["a"][0].device == moved["b"][0].device == moved["c"].left.device == meta
    assert (moved["a"][1], moved["b"][1], moved["c"].right) == ("text", 3, "right")
    assert [type(moved[key]) for key in "abc"] == [list, tuple, Pair]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_found_in_batches_of_any_form(bad: float) -> None:
    assert all_finite({"a": [torch.ones(1), "text"], "b": (torch.ones(2, dtype=torch.int64), None)})
    assert not all_finite({"a": [torch.ones(1), torch.tensor([0.0, bad])]})
    assert not all_finite((torch.ones(1), {"b": torch.tensor(bad)}))
    assert not_finite({"a": [torch.tensor([[0.0, bad], [0, 0], [bad, 0]])], "b": torch.tensor(1)}, [7, 5, 3]) == [7, 3]
    assert not_finite(torch.ones(2), [7, 5]) == []
    assert not_finite((torch.ones(2), torch.tensor([0, 0, bad])), [7, 5]) == [7, 5]  # whose it is cannot be told


@needs_cuda
def test_training_on_cuda_gives_what_training_on_the_cpu_gives(tiny: Callable[..., Trainer]) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        trainer = tiny(dropout=0.0, trainer={"device": device})  # another device draws other random numbers
        trainer.train()
        losses.append(trainer.evaluate(trainer.loaders.test, "test")["test_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_cuda
def test_a_checkpoint_written_on_cuda_opens_anywhere(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny(trainer={"device": "cuda", "epochs": 1})
    trainer.train()
    state = load_checkpoint(trainer.saver.folder / "last.pth")
    assert {value.device.type for value in state["model"].values()} == {"cpu"}
    restore(tiny(trainer={"device": "cpu", "epochs": 2}), state)


@needs_cuda
def test_the_same_seed_gives_the_same_bits_on_cuda(config: Config, tiny: Callable[..., Trainer]) -> None:
    weights = []
    for _ in range(2):
        trainer = tiny(trainer={"device": "cuda"})
        trainer.train()
        weights.append(trainer.model.state_dict()["linear.weight"].clone())
    assert torch.equal(*weights)
