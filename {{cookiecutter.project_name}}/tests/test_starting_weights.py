"""Starting weights: other random values by name, and a trained network's from files of all kinds."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from logger.console import log
from trainer import starting_weights
from trainer.starting_weights import load_starting_weights, set_starting_weights
from trainer.trainer import Trainer
from utils.config import InitFrom, InitWeights
from utils.errors import ConfigError, UserError

MakeTrainer = Callable[..., Trainer]
Weights = dict[str, torch.Tensor]


class Net(nn.Module):
    """A body with statistics, and a head whose size may differ."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, outputs)`."""
        outputs: torch.Tensor = self.head(self.body(inputs))
        return outputs


def weights(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def trained(outputs: int = 1) -> Weights:
    """Return weights that no fresh network has, statistics included."""
    torch.manual_seed(7)
    model = Net(outputs)
    for _ in range(3):
        model(torch.randn(9, 4) + 1)
    return weights(model)


def load(path: Path | str, model: nn.Module, **options: Any) -> None:
    load_starting_weights(InitFrom(path=str(path), **options), model)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was logged."""
    messages: list[str] = []
    monkeypatch.setattr(log, "info", lambda text, *args: messages.append(text % args))
    return messages


# Other random values


def fill(model: nn.Module, *entries: dict[str, Any]) -> None:
    for number, entry in enumerate(entries):
        starting_weights.initialise(InitWeights(**entry), model, f"init_weights.{number}")


def test_weights_are_filled_as_by_calls_of_torch_nn_init() -> None:
    torch.manual_seed(3)
    model, by_hand = Net(), Net()
    by_hand.load_state_dict(model.state_dict())
    before = weights(model)

    torch.manual_seed(4)
    fill(
        model,
        {"type": "kaiming_normal_", "args": {"nonlinearity": "relu"}, "params": ["*.weight", "!body.1"]},
        {"type": "uniform_", "args": {"a": 1, "b": 2}, "params": ["body.*.bias"]},
        {"type": "zeros_", "params": ["body.1.bias"]},  # a later entry overwrites an earlier one
    )
    torch.manual_seed(4)
    own = dict(by_hand.named_parameters())
    nn.init.kaiming_normal_(own["body.0.weight"], nonlinearity="relu")
    nn.init.kaiming_normal_(own["head.weight"], nonlinearity="relu")
    nn.init.uniform_(own["body.0.bias"], 1, 2)
    nn.init.uniform_(own["body.1.bias"], 1, 2)
    nn.init.zeros_(own["body.1.bias"])
    assert not changed(weights(model), weights(by_hand))
    assert changed(before, weights(model)) == {"body.0.weight", "head.weight", "body.0.bias"}
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())


def test_a_tied_weight_is_filled_once_through_either_name() -> None:
    model = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    model["two"].weight = model["one"].weight
    torch.manual_seed(5)
    fill(model, {"type": "normal_", "params": ["two.weight"]})
    torch.manual_seed(5)
    assert torch.equal(model.get_parameter("one.weight"), torch.empty(3, 3).normal_())


def test_a_function_of_the_project_needs_no_thought_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(tensor: torch.Tensor) -> None:
        tensor.fill_(0.5)

    monkeypatch.setattr(starting_weights, "find", lambda section, name: halves)
    model = Net()
    fill(model, {"type": "halves", "params": ["head.weight"]})
    assert model.head.weight.unique().item() == 0.5


def test_a_run_with_filled_weights_can_be_repeated(tiny: MakeTrainer) -> None:
    def run(seed: int) -> Weights:
        entries = [{"type": "orthogonal_", "args": {"gain": 0.5}, "params": ["linear.weight"]}]
        trainer = tiny(seed=seed, init_weights=entries)
        set_starting_weights(trainer.config, trainer.model)
        trainer.train()
        return weights(trainer.model)

    assert not changed(run(1), run(1))
    assert changed(run(1), run(2)) == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "zeros_", "params": ["head", "bdy.*"]}, "init_weights.0.params.1: found `bdy.*` mean `body`?"),
        ({"type": "xavier_normal_", "params": ["head"]}, "init_weights.0: xavier_normal_ cannot fill head.bias: "),
    ],
)
def test_what_cannot_be_filled_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fill(Net(), entry)
    start, _, end = message.partition("` ")
    assert start in str(caught.value)
    assert end in str(caught.value)


# A trained network's weights


def as_safetensors(content: Weights, path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(content, path)


FORMS: dict[str, Callable[[Weights, Path], object]] = {
    "state_dict.pth": torch.save,
    "lightning.ckpt": lambda content, path: torch.save({"epoch": 3, "state_dict": content, "lr": 0.1}, path),
    "model.pt": lambda content, path: torch.save({"model": content, "optimizer": {"state": {}}}, path),
    "parallel.pth": lambda content, path: torch.save(
        {"state_dict": {f"module.{name}": value for name, value in content.items()}}, path
    ),
    "compiled.pth": lambda content, path: torch.save(
        {f"_orig_mod.module.{name}": value for name, value in content.items()}, path
    ),
    "legacy.pth": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "double.pth": lambda content, path: torch.save(
        {name: value.double() if value.is_floating_point() else value for name, value in content.items()}, path
    ),
    "weights.safetensors": as_safetensors,
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_taken_from_any_kind_of_file(form: str, tmp_path: Path, said: list[str]) -> None:
    content = trained()
    FORMS[form](content, tmp_path / form)
    model = Net()
    parameters = list(model.parameters())
    load(tmp_path / form, model)
    assert not changed(content, weights(model))
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    assert said[0].startswith(f"starting from {tmp_path / form}: 9 loaded\n")


@pytest.fixture
def runs(tiny: MakeTrainer) -> Path:
    """A folder with three runs, of which the last has no checkpoint yet; the first epoch of each was the best."""
    for seed in (1, 2):
        trainer = tiny(network=Net, seed=seed)
        losses = map(float, itertools.count())
        trainer.evaluate = lambda *_, losses=losses: {"val_loss": next(losses)}  # type: ignore[method-assign]
        trainer.train()
    folder: Path = tiny(network=Net).saver.run_dir.parent
    return folder


def test_of_a_folder_the_best_checkpoint_of_the_newest_run_counts(runs: Path, said: list[str]) -> None:
    best = torch.load(runs / "run-1" / "checkpoints" / "best.pth", weights_only=True)["model"]
    for path in (runs, runs / "run-1", runs / "run-1" / "checkpoints" / "best.pth"):
        model = Net()
        load(path, model)
        assert not changed(best, weights(model))
    last = torch.load(runs / "run-1" / "checkpoints" / "last.pth", weights_only=True)["model"]
    (runs / "run-1" / "checkpoints" / "best.pth").unlink()
    load(runs, model)
    assert changed(best, weights(model))
    assert not changed(last, weights(model))
    assert [message.partition(": ")[0] for message in said] == [
        f"starting from {runs / 'run-1' / 'checkpoints' / name}.pth" for name in ("best", "best", "best", "last")
    ]


def test_starting_from_weights_is_not_resuming(runs: Path, tiny: MakeTrainer, said: list[str]) -> None:
    trainer = tiny(network=Net, init_from={"path": str(runs / "run-0")}, trainer={"epochs": 1})
    set_starting_weights(trainer.config, trainer.model)
    best = torch.load(runs / "run-0" / "checkpoints" / "best.pth", weights_only=True)["model"]
    assert not changed(best, weights(trainer.model))
    assert (trainer.progress.epoch, trainer.progress.step, trainer.monitor.best) == (0, 0, None)
    assert not trainer.optimizer.state
    trainer.train()
    (line,) = (trainer.saver.run_dir / "metrics.jsonl").read_text().splitlines()
    assert (json.loads(line)["epoch"], json.loads(line)["step"]) == (1, 5)


def test_what_fits_is_loaded_and_the_rest_is_listed(tmp_path: Path, said: list[str]) -> None:
    content = trained(outputs=3)
    content["extra.weight"] = torch.zeros(2)
    del content["body.0.bias"]
    torch.save(content, tmp_path / "weights.pth")
    model = Net()
    before = weights(model)
    load(tmp_path / "weights.pth", model, skip=["body.1", "!body.1.running_*"])
    assert changed(before, weights(model)) == {"body.0.weight", "body.1.running_mean", "body.1.running_var"}
    assert said == [
        f"starting from {tmp_path / 'weights.pth'}: 1 missing, 3 loaded, 3 skipped, 1 superfluous, 2 mismatched\n"
        "  body.0.bias                 missing      keeps its own start, (6,)\n"
        "  body.0.weight               loaded       (6, 4)\n"
        "  body.1.bias                 skipped\n"
        "  body.1.num_batches_tracked  skipped\n"
        "  body.1.running_mean         loaded       (6,)\n"
        "  body.1.running_var          loaded       (6,)\n"
        "  body.1.weight               skipped\n"
        "  extra.weight                superfluous  the model has no such part\n"
        "  head.bias                   mismatched   (3,) in the file, here (1,)\n"
        "  head.weight                 mismatched   (3, 6) in the file, here (1, 6)"
    ]


def test_beginnings_of_names_can_be_changed(tmp_path: Path, said: list[str]) -> None:
    content = trained()
    names = {name: name.replace("body.", "net.backbone.").replace("head.", "net.fc.") for name in content}
    torch.save({f"module.{names[name]}": value for name, value in content.items()}, tmp_path / "weights.pth")
    model = Net()
    load(tmp_path / "weights.pth", model, rename={"net.backbone.": "body.", "net.fc.": "head."})
    assert not changed(content, weights(model))


def test_a_part_of_the_model_may_be_called_module(tmp_path: Path, said: list[str]) -> None:
    wrapper = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save({name: value + 1 for name, value in wrapper.state_dict().items()}, tmp_path / "own.pth")
    torch.save({f"module.{name}": value + 2 for name, value in wrapper.state_dict().items()}, tmp_path / "parallel.pth")
    start = weights(wrapper)
    for added, file in enumerate(("own.pth", "parallel.pth"), 1):
        load(tmp_path / file, wrapper)
        assert not changed({name: value + added for name, value in start.items()}, weights(wrapper))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ["head.*", "hed.*"]}, r"init_from.skip.1: found `hed.\*`.* mean `head`?"),
        ({"rename": {"backbone.": "body."}}, "init_from.rename: no name in the file begins with `backbone.`; .*body.0"),
        ({"rename": {"body.0.": "x.", "body.1.": "x."}}, "init_from.rename: gives the name `x.weight` twice"),
        ({"rename": {"body.": "a.", "head.": "b."}}, "init_from: nothing in .* fits the model: 9 superfluous"),
        ({"skip": ["*"]}, "init_from: nothing in .* fits the model: 9 skipped"),
    ],
)
def test_options_that_fit_nothing_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    torch.save(trained(), tmp_path / "weights.pth")
    model = Net()
    before = weights(model)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "weights.pth", model, **options)
    assert not changed(before, weights(model))


class Malice:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "weights.pth"
    for content in (Malice(trace), {"state_dict": trained() | {"x": Malice(trace)}}):
        torch.save(content, file)
        with pytest.raises(UserError, match="refused: to load it would mean to run code"):
            load(file, Net())
        file.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(UserError, match="refused: to load it would mean to run code"):
            load(file, Net())
    torch.save(Net(), file)
    with pytest.raises(UserError, match=r"refused.* save its state_dict alone"):
        load(file, Net())
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malice(trace)))
    assert trace.exists()  # it would have done so


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "neither a checkpoint nor a file of torch.save"),
        ("text.pth", b"hello world", "neither a checkpoint nor a file of torch.save"),
        ("text.pth", b"name: digits\nseed: 42\n", "neither a checkpoint nor a file of torch.save"),
        ("cut.pth", b"\x80", r"cut\.pth: cannot be read as a checkpoint"),
        ("text.safetensors", b"hello world", "cannot be read as safetensors"),
        ("list.pth", [torch.zeros(2)], "holds a list, not weights by name"),
        ("numbers.pth", {"a": 1, "b": {"c": torch.zeros(1)}}, r"holds no weights: its keys are \['a', 'b'\]"),
        ("numbered.pth", {1: torch.zeros(1)}, "nothing in .* fits the model"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path / name, Net())


def test_a_place_without_weights_is_refused(tmp_path: Path, tiny: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"init_from.path: there is no .*nowhere"):
        load(tmp_path / "nowhere", Net())
    with pytest.raises(UserError, match="is neither the folder of a run that has a checkpoint nor one of such runs"):
        load(tmp_path, Net())
    tiny()
    with pytest.raises(UserError, match="is neither the folder of a run that has a checkpoint"):
        load(tmp_path, Net())


def test_a_damaged_checkpoint_is_refused(runs: Path) -> None:
    file = runs / "run-0" / "checkpoints" / "best.pth"
    content = bytearray(file.read_bytes())
    place = content.index(torch.load(file, weights_only=True)["model"]["body.0.weight"].numpy().tobytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged: its bytes are not those that were written"):
        load(file, Net())
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged: its end is missing"):
        load(file, Net())
