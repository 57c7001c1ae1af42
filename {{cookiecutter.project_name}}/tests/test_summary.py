"""The table of layers: shapes, sizes, rates, and nothing that it leaves behind or loses."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainer.check import check_first_batch
from trainer.summary import MAX_ROWS, describe, layer_table, output_shapes
from trainer.trainer import Trainer
from utils.errors import UserError

MakeTrainer = Callable[..., Trainer]


def table(model: nn.Module, *inputs: Any, groups: list[dict[str, Any]] | None = None) -> list[str]:
    """Run a model, and return the lines of its table, with single spaces."""
    with torch.no_grad(), output_shapes(model) as shapes:
        model(*inputs)
    everything = [{"params": list(model.parameters()), "lr": 0.1}]
    lines = layer_table(model, shapes, everything if groups is None else groups).splitlines()
    return [" ".join(line.split()) for line in lines]


def size(line: str) -> int:
    """Return the number of parameters in a line."""
    cells = [word.replace(",", "") for word in re.sub(r"\(.*?\)", "", line).split()]
    return next(int(cell) for cell in cells if cell.isdigit())


class Block(nn.Module):
    """A part with parts, a parameter of its own, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.linear = nn.Linear(4, 5)
        self.spare = nn.Linear(2, 2)

    def forward(self, inputs: torch.Tensor) -> dict[str, Any]:
        """Return several tensors."""
        hidden = self.linear(inputs) * self.scale
        return {"hidden": hidden, "pair": (hidden[:, :1], hidden.sum()), "name": "x"}


class Net(nn.Module):
    """A start of its own, blocks in a list, and a head that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(1, 4))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(5, 1000)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1000)`."""
        first, second = (block(inputs + self.start) for block in self.blocks)
        outputs: torch.Tensor = self.head(first["hidden"]) + self.head(second["hidden"][0])
        return outputs


def test_the_table_names_each_layer_and_loses_no_parameter() -> None:
    lines = table(Net(), torch.zeros(3, 4))
    assert lines == [
        "layer type output parameters learning rate",
        "start Parameter 4 0.1",
        "blocks.0.scale Parameter 5 0.1",
        "blocks.0.linear Linear (3, 5) 25 0.1",
        "blocks.0.spare Linear not called 6 0.1",
        "blocks.1.scale Parameter 5 0.1",
        "blocks.1.linear Linear (3, 5) 25 0.1",
        "blocks.1.spare Linear not called 6 0.1",
        "head Linear (3, 1000), (1000,) 6,000 0.1",
        "all Net (3, 1000) 6,076 6,076 trainable",
    ]
    assert sum(map(size, lines[1:-1])) == size(lines[-1])


def test_parameters_of_attention_are_not_lost() -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.attention(inputs, inputs, inputs)

    lines = table(Self(), torch.zeros(2, 3, 8))
    assert lines[-1] == "all Self (2, 3, 8) (2, 3, 3) 288 288 trainable"
    assert sum(map(size, lines[1:-1])) == size(lines[-1])


def test_columns_are_aligned() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    with output_shapes(model) as shapes:
        model(torch.zeros(3, 4))
    assert layer_table(model, shapes, [{"params": list(model.parameters()), "lr": 1e-3}]) == (
        "layer  type        output  parameters  learning rate\n"
        "0      Linear      (3, 2)  10          0.001\n"
        "1      ReLU        (3, 2)  0\n"
        "all    Sequential  (3, 2)  10          10 trainable"
    )


def test_a_model_that_is_a_single_layer_has_a_table() -> None:
    assert table(nn.Linear(4, 1), torch.zeros(3, 4))[1:] == [
        "weight Parameter 4 0.1",
        "bias Parameter 1 0.1",
        "all Linear (3, 1) 5 5 trainable",
    ]
    assert table(nn.ReLU(), torch.zeros(3, 4))[1:] == ["all ReLU (3, 4) 0 0 trainable"]


def test_rates_and_what_is_frozen_are_shown(tiny: MakeTrainer) -> None:
    def network() -> nn.Module:
        layers = [nn.Linear(4, 6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)]
        return nn.Sequential(*layers)

    trainer = tiny(
        network=network,
        freeze=["0", "1", "2.weight"],
        unfreeze=[{"epoch": 2, "modules": ["1"], "lr": 0.002}],
        optimizer={"type": "SGD", "args": {"lr": 0.1}, "groups": [{"params": ["3.bias"], "lr": 0.3}]},
    )
    lines = [" ".join(line.split()) for line in check_first_batch(trainer).splitlines()]
    assert lines[1:] == [
        "0 Linear (8, 6) 30 frozen",
        "1 Linear (8, 6) 42 frozen, later 0.002",
        "2 BatchNorm1d (8, 6) 12 0.1; frozen",
        "3 Linear (8, 1) 7 0.1; 0.3",
        "all Sequential (8, 1) 91 13 trainable",
    ]


def test_a_deep_model_is_summed_up_by_its_upper_parts() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(25)), nn.Linear(4, 1))
    lines = table(model, torch.zeros(3, 4))
    assert lines[1] == "0 Sequential (3, 4) 20 0.1"
    assert len(lines) == 1 + 26 + 1
    assert sum(map(size, [" ".join(line.split()[1:]) for line in lines[1:-1]])) == size(lines[-1])


def test_a_broad_model_is_cut_and_says_so() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(50)))
    lines = table(model, torch.zeros(3, 4), groups=[{"params": list(model[45:].parameters()), "lr": 0.1}])
    assert len(lines) == 1 + MAX_ROWS + 1
    assert lines[-2] == "… 11 more 220 0.1; frozen"
    assert lines[-1] == "all Sequential (3, 4) 1,000 1,000 trainable"


def test_a_layer_that_returns_ever_other_shapes_does_not_fill_the_line() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Identity()

        def forward(self, inputs: torch.Tensor) -> None:
            for length in (1, 1, 2, 3, 4):
                self.part(inputs[:length])

    assert table(Loop(), torch.zeros(4, 2))[1:] == [
        "part Identity (1, 2), (2, 2), … 0",
        "all Loop NoneType 0 0 trainable",
    ]


def test_a_model_may_take_and_return_anything() -> None:
    class Anything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, batch: dict[str, torch.Tensor], more: tuple[torch.Tensor, ...]) -> Any:
            return self.block(batch["x"] + more[0])

    lines = table(Anything(), {"x": torch.zeros(3, 4)}, (torch.zeros(4),))
    assert lines[-1] == "all Anything {hidden: (3, 5), pair: (3, 1) (), name: str} 36 36 trainable"
    assert describe([torch.zeros(2), None]) == "(2,) NoneType"


def test_no_hook_stays_behind_even_after_an_error() -> None:
    model = Net()
    with pytest.raises(RuntimeError), output_shapes(model):
        model(torch.zeros(3, 99))
    table(model, torch.zeros(3, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_check_runs_the_model_once_and_leaves_no_trace(tiny: MakeTrainer) -> None:
    trainer = tiny()
    calls: list[bool] = []

    def draw(module: nn.Module, _inputs: Any, _output: Any) -> None:
        calls.append(module.training)
        torch.rand(1)

    trainer.model.register_forward_hook(draw)
    before, random = trainer.model.state_dict(), torch.get_rng_state()
    before = {name: value.clone() for name, value in before.items()}
    check_first_batch(trainer)
    assert calls == [False]
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


@pytest.mark.filterwarnings("error")  # torch warns of the first; only our answer is to be seen
@pytest.mark.parametrize(("loss", "outputs"), [("MSELoss", 3), ("CrossEntropyLoss", 1)])
def test_a_loss_that_torch_takes_without_an_error_is_refused(tiny: MakeTrainer, loss: str, outputs: int) -> None:
    trainer = tiny(network=lambda: nn.Linear(4, outputs), loss={"type": loss})
    with pytest.raises(UserError, match=rf"loss {loss}: .* output has shape \(8, {outputs}\), the targets \(8, 1\)"):
        check_first_batch(trainer)
