"""Parameter groups: every parameter in its one place, at its rate, and what one would have written by hand."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainer.parameter_groups import describe_groups
from trainer.trainer import Trainer
from utils.config_files import load_config
from utils.errors import ConfigError
from utils.seeding import seed_everything

MakeTrainer = Callable[..., Trainer]


class Net(nn.Module):
    """Weights, biases, scales of normalisation of one and more dimensions, and a matrix with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.main = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.GroupNorm(2, 6))
        self.plane = nn.LayerNorm([2, 3])
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        hidden = self.plane(self.main(inputs).view(-1, 2, 3)).flatten(1)
        outputs: torch.Tensor = self.head(self.second(self.first(hidden))) * self.scale
        return outputs


def optimizer(*groups: dict[str, Any], **changes: Any) -> dict[str, Any]:
    section = {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.2}, "groups": list(groups)}
    return {"optimizer": section | changes}


def places(trainer: Trainer) -> dict[str, list[str]]:
    return {group["name"]: group["param_names"] for group in trainer.optimizer.param_groups}


def options(trainer: Trainer, *keys: str) -> dict[str, tuple[float, ...]]:
    return {group["name"]: tuple(group[key] for key in keys) for group in trainer.optimizer.param_groups}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        optimizer(decay_bias_and_norm=False),
        optimizer({"params": ["*.weight"], "lr": 0.1}, {"params": ["main", "head"], "weight_decay": 0.0}),
        optimizer({"params": ["*"], "lr": 0.1}),
        optimizer({"params": ["second"], "lr": 0.1}),
        {"freeze": ["main", "first"]},
        {
            "freeze": ["main", "second"],
            "unfreeze": [{"epoch": 3, "modules": ["main.2"]}, {"epoch": 2, "modules": ["second", "main.3"]}],
            **optimizer({"params": ["*.bias"], "lr": 0.1}, decay_bias_and_norm=False),
        },
    ],
)
def test_each_parameter_is_in_one_group_and_what_stays_frozen_in_none(
    tiny: MakeTrainer, changes: dict[str, Any]
) -> None:
    trainer = tiny(network=Net, **changes)
    groups = trainer.optimizer.param_groups
    counts = Counter(id(parameter) for group in groups for parameter in group["params"])
    stages = trainer.freezing.parameter_stages()
    names = {name for name, stage in stages.items() if stage is not None}
    assert set(counts.values()) == {1}
    assert counts.keys() == {id(trainer.model.get_parameter(name)) for name in names}
    for group in groups:
        assert [id(p) for p in group["params"]] == [id(trainer.model.get_parameter(n)) for n in group["param_names"]]
    assert len({group["name"] for group in groups}) == len(groups)


def test_the_first_group_that_selects_a_parameter_has_it(tiny: MakeTrainer) -> None:
    groups = (
        {"params": ["main.*", "!main.2"], "lr": 0.1},
        {"params": ["*.bias"], "lr": 0.2, "weight_decay": 0.0},
        {"params": ["main"], "weight_decay": 0.3},
    )
    trainer = tiny(network=Net, **optimizer(*groups))
    assert places(trainer) == {
        "main": ["main.2.weight"],
        "main.* !main.2": [f"main.{layer}.{kind}" for layer in (0, 1, 3) for kind in ("weight", "bias")],
        "*.bias": ["main.2.bias", "plane.bias", "second.bias", "head.bias"],
        "all others": ["scale", "plane.weight", "first.weight", "head.weight"],
    }
    assert options(trainer, "lr", "weight_decay") == {
        "main": (0.01, 0.3),
        "main.* !main.2": (0.1, 0.2),
        "*.bias": (0.2, 0.0),
        "all others": (0.01, 0.2),
    }


@pytest.mark.parametrize("name", ["first", "second", "second.weight"])
def test_a_tied_weight_is_found_by_either_of_its_names(tiny: MakeTrainer, name: str) -> None:
    trainer = tiny(network=Net, **optimizer({"params": [name], "lr": 0.1}))
    assert "first.weight" in places(trainer)[name]


def test_what_thaws_has_groups_of_its_own_and_comes_last(tiny: MakeTrainer) -> None:
    thaws = [{"epoch": 2, "modules": ["main.0"], "lr": 0.3}, {"epoch": 2, "modules": ["plane"]}]
    groups = {"params": ["main", "plane.bias"], "lr": 0.1}
    trainer = tiny(network=Net, freeze=["main.0", "plane"], unfreeze=thaws, **optimizer(groups))
    assert list(options(trainer, "lr").items()) == [
        ("main", (0.01,)),
        ("main plane.bias", (0.1,)),
        ("main plane.bias, main.0 from epoch 2", (0.3,)),
        ("plane from epoch 2", (0.01,)),
        ("main plane.bias, plane from epoch 2", (0.1,)),
    ]


def test_biases_and_normalisation_can_be_spared_weight_decay(tiny: MakeTrainer) -> None:
    trainer = tiny(network=Net, **optimizer(decay_bias_and_norm=False))
    assert places(trainer)["main"] == ["main.0.weight", "main.2.weight", "first.weight", "head.weight"]
    assert options(trainer, "weight_decay") == {"main": (0.2,), "main, no decay": (0.0,)}


def test_groups_are_what_one_would_write_by_hand_to_the_bit(tiny: MakeTrainer) -> None:
    section = optimizer({"params": ["head"], "lr": 0.03, "weight_decay": 0.5}, decay_bias_and_norm=False)
    trainer = tiny(network=Net, **section)
    trainer.train()

    seed_everything(1)
    model = Net()
    own = dict(model.named_parameters())
    decayed = ("main.0.weight", "main.2.weight", "first.weight")
    apart = (*decayed, "head.weight", "head.bias")
    groups: list[dict[str, Any]] = [
        {"params": [own[name] for name in decayed]},
        {"params": [own[name] for name in own if name not in apart], "weight_decay": 0.0},
        {"params": [own["head.weight"]], "lr": 0.03, "weight_decay": 0.5},
        {"params": [own["head.bias"]], "lr": 0.03, "weight_decay": 0.0},
    ]
    by_hand = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.2, fused=True)
    for epoch in range(3):
        trainer.loaders.train.set_position(epoch)
        for inputs, targets in trainer.loaders.train:
            by_hand.zero_grad()
            functional.mse_loss(model(inputs), targets).backward()
            by_hand.step()
    for (name, one), (_, other) in zip(trainer.model.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_rates_of_all_groups_are_logged_where_there_are_several(tiny: MakeTrainer) -> None:
    halving = {"lr_scheduler": {"type": "ExponentialLR", "args": {"gamma": 0.5}}}
    trainer = tiny(network=Net, **optimizer({"params": ["head"], "lr": 0.08}), **halving)
    trainer.train()
    text = (trainer.saver.run_dir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    logged = [{key: value for key, value in line.items() if key.startswith("lr")} for line in lines]
    assert logged[0] == {"lr": 0.01, "lr_main": 0.01, "lr_head": 0.08}
    assert logged[2] == {"lr": 0.0025, "lr_main": 0.0025, "lr_head": 0.02}
    assert not [name for name in tiny(network=Net).scalars({}) if name.startswith("lr_")]


def test_groups_are_described_in_a_line_each(tiny: MakeTrainer) -> None:
    trainer = tiny(network=Net, **optimizer({"params": ["head"], "lr": 0.08}))
    assert describe_groups(trainer.optimizer.param_groups).splitlines() == [
        "parameter group `main`: 151 parameters, lr 0.01, weight decay 0.2",
        "parameter group `head`: 7 parameters, lr 0.08, weight decay 0.2",
    ]


HEAD = {"params": ["head"], "lr": 0.1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            optimizer(HEAD, {"params": ["head", "mian.*"], "lr": 0.1}),
            "optimizer.groups.1.params.1: found `mian.*.*mean `main`?",
        ),
        (
            optimizer({"params": ["*"], "lr": 0.1}, HEAD),
            "optimizer.groups.1.params: found .*head.*, of which earlier groups took all",
        ),
        (
            {"freeze": ["head"], **optimizer(HEAD)},
            "optimizer.groups.0.params: found .*head.*, of which nothing is trained",
        ),
        (
            {**optimizer(HEAD), "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 3}}},
            "lr_scheduler.args.max_lr: sets one rate for all; .*'main', 'head'",
        ),
        (
            {**optimizer(HEAD), "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": [0.1], "total_steps": 3}}},
            "lr_scheduler.args: OneCycleLR says: .*param_groups",
        ),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(tiny: MakeTrainer, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(network=Net, **changes)


def test_one_cycle_takes_a_peak_for_each_group(tiny: MakeTrainer, config_file: Path) -> None:
    cycle = {"type": "OneCycleLR", "args": {"max_lr": [0.1, 0.02], "total_steps": 15}, "interval": "step"}
    trainer = tiny(network=Net, **optimizer(HEAD), lr_scheduler=cycle)
    rates = []
    after_step = trainer.after_step

    def look_first() -> None:
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        after_step()

    trainer.after_step = look_first  # type: ignore[method-assign]
    trainer.train()
    assert [max(rates_of_group) for rates_of_group in zip(*rates, strict=True)] == pytest.approx([0.1, 0.02], rel=0.05)
    assert len(rates) == 15
    # Before there is a model, nobody knows how many groups there will be: as many as there are peaks are assumed.
    load_config([config_file], [f"lr_scheduler={json.dumps(cycle)}"])
