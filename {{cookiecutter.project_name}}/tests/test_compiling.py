"""torch.compile: nothing of it shows in checkpoints, and what code a batch meets does not depend on those before it."""

import importlib.util
import shutil
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import saved_states
from trainer.restoring import restore
from trainer.trainer import Trainer
from utils import compiling
from utils.distributed import whole
from utils.errors import UserError

MakeTrainer = Callable[..., Trainer]
SETTINGS: dict[str, Any] = {"epochs": 2, "compile": True, "save_every_steps": 4, "keep_last": 0}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Lists the shapes for which the model is compiled; no code is made, which would take a compiler and its time."""
    shapes: list[tuple[Any, ...]] = []

    def note(graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        values = [node.meta.get("example_value") for node in graph.graph.nodes if node.op == "placeholder"]
        tensors = [value for value in values if isinstance(value, torch.Tensor) and value.ndim == 2]
        shapes.extend(tuple(value.shape) for value in tensors if not isinstance(value, torch.nn.Parameter))
        return graph.forward

    def compile_(model: torch.nn.Module, dynamic: bool) -> None:
        model._compiled_call_impl = torch.compile(model._call_impl, dynamic=dynamic, backend=note)

    torch._dynamo.reset()
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    return shapes


def weights(trainer: Trainer) -> dict[str, list[Any]]:
    return {name: value.tolist() for name, value in trainer.model.state_dict().items()}


def test_each_shape_is_compiled_for_itself_whichever_comes_first(
    tiny: MakeTrainer, compiled: list[tuple[Any, ...]]
) -> None:
    """The last batch of an epoch is a short one, and the first that a run meets which goes on from before it."""
    first_run = tiny(trainer=SETTINGS)
    states = saved_states(first_run)
    assert states[0]["progress"]["step"] == 4
    assert list(states[0]["model"]) == ["linear.weight", "linear.bias"]
    first = list(compiled)
    assert {str(shape) for shape in first} == {"(8, 4)", "(5, 4)"}, "numbers, and no symbol that stands for any"

    torch._dynamo.reset()  # as in a new process
    again = tiny(trainer=SETTINGS)
    restore(again, states[0])
    again.train()
    assert compiled[len(first)] == (5, 4)
    assert sorted(compiled[len(first) :]) == sorted(first)
    assert weights(again) == weights(first_run)


def normalised() -> nn.Module:
    """Has batch normalisation, and two parts that are divided on their own."""
    parts = [nn.Sequential(nn.Linear(400, 400), nn.Tanh()) for _ in range(2)]
    return nn.Sequential(nn.Linear(4, 400), nn.BatchNorm1d(400), *parts, nn.Linear(400, 1))


def go_on_compiled(make: MakeTrainer, folder: Path, strategy: str) -> None:
    shutil.which = lambda name: name  # type: ignore[assignment]
    nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")  # type: ignore[method-assign,assignment]
    settings = SETTINGS | {"strategy": strategy, "precision": "bf16"}
    trainer = make(folder, network=normalised, trainer=settings)
    states = saved_states(trainer)
    assert list(states[0]["model"])[:3] == ["0.weight", "0.bias", "1.weight"]
    torch._dynamo.reset()
    again = make(folder.with_name("again"), network=normalised, trainer=settings)
    restore(again, states[0])
    again.train()
    for one, other in zip(trainer.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(whole(one), whole(other))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_compile_and_go_on_to_the_same_bits(
    in_processes: Callable[..., None], tmp_path: Path, strategy: str
) -> None:
    if strategy == "fsdp" and importlib.util.find_spec("trainer.sharding") is None:
        pytest.skip("has no trainer/sharding.py")
    in_processes(2, go_on_compiled, tmp_path / "run", strategy)


def test_one_code_serves_all_shapes_on_request(tiny: MakeTrainer, compiled: list[tuple[Any, ...]]) -> None:
    tiny(trainer=SETTINGS | {"compile": "dynamic"}).train()
    assert len(compiled) == 2, "one for training and one for evaluation"


def test_too_many_shapes_are_named_and_so_is_a_missing_compiler(
    tiny: MakeTrainer, compiled: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "SHAPES", 1)
    with pytest.raises(UserError, match=r"batches come in more than 1 shapes.*trainer\.compile=\"dynamic\""):
        tiny(trainer=SETTINGS).train()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"trainer\.compile needs a C\+\+ compiler"):
        tiny(trainer=SETTINGS)
