"""torch.compile: nothing of it shows in checkpoints, and what code a batch meets does not depend on those before it."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer.restoring import restore
from trainer.trainer import Trainer
from utils import compiling
from utils.errors import UserError

MakeTrainer = Callable[..., Trainer]
SavedStates = Callable[[Trainer], list[dict[str, Any]]]
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
    tiny: MakeTrainer, saved_states: SavedStates, compiled: list[tuple[Any, ...]]
) -> None:
    """The last batch of an epoch is a short one, and the first that a run meets which goes on from before it."""
    whole = tiny(trainer=SETTINGS)
    states = saved_states(whole)
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
    assert weights(again) == weights(whole)


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
