"""Freezing and thawing: what is frozen does not change by a bit, and what thaws does so in its epoch."""

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from trainer.checkpoint import load_checkpoint
from trainer.restoring import restore
from trainer.trainer import Trainer
from utils.config_rules import broken_rules
from utils.errors import ConfigError
from utils.patterns import selected
from utils.seeding import seed_everything

MakeTrainer = Callable[..., Trainer]
COSINE = {"type": "CosineAnnealingLR", "args": {"T_max": 4}}
THAW = [{"epoch": 3, "modules": ["features.4", "features.5"], "lr": 0.01}, {"epoch": 4, "modules": ["features.*"]}]
OPTIMIZERS: dict[str, Any] = {
    "momentum": {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}},
    "AdamW": {"type": "AdamW", "args": {"lr": 0.05, "weight_decay": 0.5}},
    "AMSGrad": {"type": "Adam", "args": {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}},
    "not fused": {"type": "RMSprop", "args": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}},
}


class Tower(nn.Module):
    """All that may change in training by itself: statistics, momentum, decay, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
        )
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        outputs: torch.Tensor = self.head(self.features(inputs))
        return outputs


class Tied(nn.Module):
    """A matrix that both the embedding and the head use, and statistics that two names share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 6)
        self.norm = nn.BatchNorm1d(6)
        self.middle = nn.Linear(6, 6)
        self.again = self.norm
        self.head = nn.Linear(6, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        tokens = (inputs[:, :3] > 0).long() @ torch.tensor([1, 2, 4])
        outputs: torch.Tensor = self.head(self.again(self.middle(self.norm(self.embed(tokens)))))
        return outputs.logsumexp(1, keepdim=True)


class Identity(torch.autograd.Function):
    """Counts how often a gradient passes."""

    @staticmethod
    def forward(ctx: Any, counts: Counter[str], name: str, inputs: torch.Tensor) -> torch.Tensor:
        ctx.counts, ctx.name = counts, name
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.counts[ctx.name] += 1
        return None, None, *gradients


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers, under every name that they have."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


def hashes(model: nn.Module) -> dict[str, str]:
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in tensors(model).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def modes(trainer: Trainer) -> dict[str, bool]:
    """Train a step, and return which modules were in `train()` in it."""
    trainer.freezing.train_mode()
    trainer.train_step(next(iter(trainer.loaders.train)))
    return {name: module.training for name, module in trainer.model.named_modules(remove_duplicate=False)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("freeze", [["features"], ["features.*"], ["*", "!head"], ["*", "!head.*"]])
def test_frozen_parameters_and_statistics_stay_the_same_to_the_bit(
    tiny: MakeTrainer, optimizer: dict[str, Any], freeze: list[str]
) -> None:
    trainer = tiny(network=Tower, freeze=freeze, optimizer=optimizer, trainer={"clip_grad_norm": 0.1})
    before = hashes(trainer.model)
    trainer.train()
    assert len(before) == 13
    assert changed(before, hashes(trainer.model)) == {"head.1.weight", "head.1.bias"}


BATCH_NORM = {f"features.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize(
    ("freeze", "evaluating"),
    [
        ([], []),
        (["features"], ["features"]),
        (["features.*"], ["features"]),
        (["*", "!head"], ["features"]),
        (["features.?.*"], ["features.0", "features.1", "features.4", "features.5"]),  # names no dropout
        (["features.1"], ["features.1"]),
        (["features.3"], ["features.3"]),  # a dropout
        (["features", "!features.3"], ["features", "!features.3"]),
        (["features", "!features.1"], ["features", "!features.1"]),
        (["features", "!features.0.weight"], ["features", "!features.0"]),
        # It trains its bias, and its statistics are named by no pattern.
        (["features.1.weight"], []),
        (["*.weight"], []),
        # It trains its bias, but its statistics are to stay.
        (["features", "!features.1.bias"], ["features"]),
        (["features.1.running_*"], ["features.1"]),
    ],
    ids=str,
)
def test_patterns_freeze_what_they_name_and_nothing_else(
    tiny: MakeTrainer, freeze: list[str], evaluating: list[str]
) -> None:
    trainer = tiny(network=Tower, freeze=freeze, optimizer=OPTIMIZERS["AdamW"])
    parts = [name for name in modes(trainer) if name not in ("", "features")]
    training = modes(trainer)
    assert training[""]
    assert {name for name in parts if not training[name]} == {name for name in parts if selected(name, evaluating)}

    before = hashes(trainer.model)
    trainer.train()
    kept = {name for name in before if selected(name, freeze)}
    if "features.1" in parts and not training["features.1"]:
        kept |= {name for name in BATCH_NORM if not name.endswith(("weight", "bias"))}
    assert changed(before, hashes(trainer.model)) == before.keys() - kept


def test_a_container_is_frozen_when_all_in_it_is(tiny: MakeTrainer) -> None:
    assert not modes(tiny(network=Tower, freeze=["features.*"]))["features"]
    assert modes(tiny(network=Tower, freeze=["features.*", "!features.0.bias"]))["features"]


@pytest.mark.parametrize("name", ["embed", "head", "embed.weight", "head.weight"])
def test_a_tied_weight_is_frozen_through_either_of_its_names(tiny: MakeTrainer, name: str) -> None:
    trainer = tiny(network=Tied, freeze=[name], optimizer=OPTIMIZERS["AdamW"])
    before = hashes(trainer.model)
    trainer.train()
    same = before.keys() - changed(before, hashes(trainer.model))
    assert same == {"embed.weight", "head.weight"}
    weight = trainer.model.get_parameter("embed.weight")
    assert weight.grad is None
    assert all(weight is not each for each in trainer.optimizer.state)


@pytest.mark.parametrize("name", ["norm", "again"])
def test_shared_statistics_are_frozen_through_either_of_their_names(tiny: MakeTrainer, name: str) -> None:
    trainer = tiny(network=Tied, freeze=[name])
    before = hashes(trainer.model)
    trainer.train()
    same = before.keys() - changed(before, hashes(trainer.model))
    assert same == {part for part in before if part.startswith(("norm.", "again."))}


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_shared_thaws_with_its_last_name(tiny: MakeTrainer, order: int) -> None:
    thaws = [{"epoch": 3, "modules": ["embed"], "lr": 0.3}, {"epoch": 2, "modules": ["head"], "lr": 0.2}][::order]
    trainer = tiny(network=Tied, freeze=["embed", "head"], unfreeze=thaws)
    trained = []
    for epoch in range(3):
        trainer.freezing.set_epoch(epoch)
        trained.append(trainer.model.get_parameter("head.weight").requires_grad)
    assert trained == [False, False, True]
    rates = {name: group["lr"] for group in trainer.optimizer.param_groups for name in group["param_names"]}
    assert rates["embed.weight"] == 0.3


def test_an_epoch_begins_with_what_the_config_says_whatever_was_done_to_the_parameters(tiny: MakeTrainer) -> None:
    trainer = tiny(network=Tower, freeze=["features"])
    before = [parameter.requires_grad for parameter in trainer.model.parameters()]
    for parameter in trainer.model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
    trainer.freezing.set_epoch(1)
    assert [parameter.requires_grad for parameter in trainer.model.parameters()] == before


def test_what_is_frozen_has_no_gradient_and_no_place_in_the_optimizer(tiny: MakeTrainer) -> None:
    trainer = tiny(network=Tower, freeze=["features"], optimizer=OPTIMIZERS["AdamW"])
    trainer.train()
    assert all(parameter.grad is None for parameter in trainer.model.get_submodule("features").parameters())
    head = {id(parameter) for parameter in trainer.model.get_submodule("head").parameters()}
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == head
    assert {id(parameter) for parameter in trainer.optimizer.state} == head


@pytest.mark.parametrize(
    ("freeze", "passed"),
    [
        ([], {0, 1, 4, 5}),  # the first is below its layer, and its input needs no gradient
        (["features"], set()),
        (["features.0", "features.1"], {4, 5}),
        (["features", "!features.5"], {5}),
        (["features.5"], {0, 1, 4, 5}),  # on the way to what is trained below
    ],
    ids=str,
)
def test_nothing_is_computed_backwards_below_the_lowest_layer_that_is_trained(
    tiny: MakeTrainer, freeze: list[str], passed: set[int]
) -> None:
    trainer = tiny(network=Tower, freeze=freeze, trainer={"epochs": 1})
    counts: Counter[str] = Counter()
    for number in (0, 1, 4, 5):
        layer = trainer.model.get_submodule(f"features.{number}")
        layer.register_forward_hook(
            lambda _m, _i, out, name=number: Identity.apply(counts, name, out)  # type: ignore[no-untyped-call,unused-ignore]
        )
    trainer.train()
    assert counts == dict.fromkeys(passed, 5)


def test_gradients_left_by_an_earlier_training_are_gone(tiny: MakeTrainer) -> None:
    model = Tower()
    model(torch.ones(3, 4)).sum().backward()
    trainer = tiny(network=lambda: model, freeze=["features"])
    assert trainer.model.get_parameter("features.0.weight").grad is None


def test_what_the_model_itself_keeps_out_of_training_stays_out(tiny: MakeTrainer) -> None:
    def network() -> nn.Module:
        model = Tower()
        model.features[1].weight.requires_grad = False
        model.scale = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)  # whole numbers cannot be trained
        return model

    trainer = tiny(network=network, optimizer=OPTIMIZERS["AdamW"], freeze=["head.1.bias"])
    assert modes(trainer)["features.1"]
    named = {name for group in trainer.optimizer.param_groups for name in group["param_names"]}
    assert not named & {"features.1.weight", "scale", "head.1.bias"}
    before = hashes(trainer.model)
    trainer.train()
    same = before.keys() - changed(before, hashes(trainer.model))
    assert same == {"features.1.weight", "scale", "head.1.bias"}


def test_parts_thaw_in_their_epochs(tiny: MakeTrainer) -> None:
    trainer = tiny(network=Tower, freeze=["features"], unfreeze=THAW, lr_scheduler=COSINE, trainer={"epochs": 4})
    history = [hashes(trainer.model)]
    rates: list[dict[str, float]] = []
    end_epoch = trainer.end_epoch

    def look_first(metrics: dict[str, float]) -> None:
        history.append(hashes(trainer.model))
        rates.append({group["name"]: group["lr"] for group in trainer.optimizer.param_groups})
        end_epoch(metrics)

    trainer.end_epoch = look_first  # type: ignore[method-assign]
    trainer.train()
    news = [{name.rpartition(".")[0] for name in changed(*pair)} for pair in pairwise(history)]
    head, upper, lower = {"head.1"}, {"features.4", "features.5"}, {"features.0", "features.1"}
    assert news == [head, head, head | upper, head | upper | lower]

    half_cosines = [(1 + torch.cos(torch.tensor(torch.pi * epoch / 4)).item()) / 2 for epoch in range(4)]
    main, second, third = [[rate[name] for rate in rates] for name in rates[0]]
    assert list(rates[0]) == ["main", "features.4 features.5 from epoch 3", "features.* from epoch 4"]
    assert main == third == pytest.approx([0.05 * each for each in half_cosines], abs=1e-6)
    assert second == pytest.approx([0.01 * each for each in half_cosines], abs=1e-6)


@pytest.mark.parametrize("optimizer", ["momentum", "AdamW"])
def test_freezing_and_thawing_is_what_one_would_write_by_hand(tiny: MakeTrainer, optimizer: str) -> None:
    section = OPTIMIZERS[optimizer]
    thaw = [{"epoch": 3, "modules": ["features"], "lr": 0.01}]
    settings = {"epochs": 4, "clip_grad_norm": 0.5}
    trainer = tiny(
        network=Tower, optimizer=section, freeze=["features"], unfreeze=thaw, lr_scheduler=COSINE, trainer=settings
    )
    trainer.train()

    seed_everything(1)
    model = Tower()
    groups = [{"params": [*model.head.parameters()]}, {"params": [*model.features.parameters()], "lr": 0.01}]
    by_hand = getattr(torch.optim, section["type"])(groups, fused=True, **section["args"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(by_hand, T_max=4)
    for epoch in range(4):
        model.train()
        model.features.requires_grad_(epoch >= 2)
        if epoch < 2:
            model.features.eval()
        trainer.loaders.train.set_position(epoch)
        for inputs, targets in trainer.loaders.train:
            by_hand.zero_grad()
            functional.mse_loss(model(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            by_hand.step()
        schedule.step()
    assert hashes(trainer.model) == hashes(model)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Lay nested values out by path; tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return {path: value.numpy().tobytes()}
    if isinstance(value, dict | list | tuple):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: each for name, entry in entries for key, each in flat(entry, f"{path}.{name}").items()}
    return {path: value}


def exact_state(trainer: Trainer) -> dict[str, Any]:
    """Return what has to be the same after a resume."""
    parts = ("model", "optimizer", "lr_scheduler", "progress", "monitor", "random")
    return flat({name: trainer.state[name].state_dict() for name in parts})


@pytest.mark.parametrize("optimizer", ["momentum", "AdamW"])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(tiny: MakeTrainer, optimizer: str) -> None:
    changes = {
        "network": Tower,
        "optimizer": OPTIMIZERS[optimizer],
        "lr_scheduler": COSINE,
        "freeze": ["features"],
        "unfreeze": [{"epoch": 2, "modules": ["features.4", "features.5"]}, {"epoch": 3, "modules": ["features.*"]}],
        "trainer": {"epochs": 3, "monitor": None, "save_every_epochs": None, "clip_grad_norm": 0.5},
    }
    whole = tiny(**changes)
    after_step, end_epoch = whole.after_step, whole.end_epoch

    def save_each_step() -> None:
        after_step()
        whole.saver.save(f"step_{whole.progress.step:02d}.pth")

    def save_each_epoch(metrics: dict[str, float]) -> None:
        end_epoch(metrics)
        whole.saver.save(f"step_{whole.progress.step:02d}_evaluated.pth")

    whole.after_step, whole.end_epoch = save_each_step, save_each_epoch  # type: ignore[method-assign]
    whole.train()
    expected = exact_state(whole)

    stops = sorted(whole.saver.folder.glob("step_*.pth"))
    assert len(stops) == 15 + 3
    for stop in stops:
        resumed = tiny(**changes)
        restore(resumed, load_checkpoint(stop))
        resumed.train()
        assert exact_state(resumed) == expected, stop.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ["features.*", "hed.*"]}, "freeze.1: found `hed.*`, which matches nothing.* mean `head`?"),
        ({"freeze": ["features.*", "!feature.1"]}, "freeze.1: found `!feature.1`.* mean `features.1`?"),
        (
            {"freeze": ["features"], "unfreeze": [{"epoch": 2, "modules": ["features.1", "featurs.*"]}]},
            "unfreeze.0.modules.1: found `featurs.*`.* mean `features`?",
        ),
        (
            {"freeze": ["features"], "unfreeze": [{"epoch": 2, "modules": ["head"]}]},
            "unfreeze.0.modules: found .*head.*, of which `freeze` freezes nothing",
        ),
        (
            {"freeze": ["features"], "unfreeze": [{"epoch": epoch, "modules": ["features"]} for epoch in (2, 3)]},
            "unfreeze.1.modules: found .*features.*, of which .* earlier entries thaw all of it",
        ),
        ({"freeze": ["*"]}, "freeze: leaves nothing to train"),
        ({"freeze": ["*"], "unfreeze": [{"epoch": 2, "modules": ["head"]}]}, "freeze: leaves nothing to train in the"),
    ],
)
def test_a_config_that_freezes_nothing_or_all_is_refused(
    tiny: MakeTrainer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(network=Tower, **changes)


def test_all_idle_patterns_are_reported_at_once(tiny: MakeTrainer) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(network=Tower, freeze=["a", "head", "b"], unfreeze=[{"epoch": 2, "modules": ["c"]}])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "freeze.0",
        "freeze.2",
        "unfreeze.0.modules.0",
    ]


def test_thawing_beyond_the_last_epoch_is_refused(tiny: MakeTrainer) -> None:
    thaws = [{"epoch": 3, "modules": ["features.5"]}, {"epoch": 4, "modules": ["features.*"]}]
    config = tiny(network=Tower, freeze=["features"], unfreeze=thaws).config
    ((path, text),) = broken_rules(config)
    assert path == ("unfreeze", 1, "epoch")
    assert text == "found 4, never reached in 3 epochs; should be at most 3"


def test_the_command_ends_with_code_2_for_a_pattern_that_matches_nothing(
    script: Callable[..., int], config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["freeze=[nothing_of_this_name.*]", f"trainer.save_dir={tmp_path}"]
    assert script("train.py", "-c", config_file, *words) == 2
    assert "freeze.0: found `nothing_of_this_name.*`" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
