"""A look inside the model: statistics, warnings, and the first module whose values are not finite."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from logger.layer_watch import LayerWatch, warnings_about
from trainer.trainer import Trainer
from utils.errors import Diverged
from utils.layer_probe import LayerProbe

MakeTrainer = Callable[..., Trainer]
WATCHED = {"layer_watch": True}


class Root(nn.Module):
    """Takes the square root, in a module of its own or in its code, of what is negative for some samples."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(0.2))
        self.last = nn.Linear(8, 1)
        self.root = Power()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        hidden = self.first(inputs)
        if self.how == "module":
            hidden = self.root(hidden - 1)
        elif self.how == "code":
            hidden = (hidden - 1).sqrt()
        elif self.how == "backward":
            hidden = hidden + (hidden * 0).sqrt()
        outputs: torch.Tensor = self.last(hidden)
        return outputs.exp() * torch.inf if self.how == "end" else outputs


class Power(nn.Module):
    """The square root."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return as many values."""
        return values.sqrt()


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("module", "arises in root (Power)"),
        ("code", "arises in the code of the model (Root), between first (Sequential) and last (Linear)"),
        ("end", "arises in the model (Root)"),
        ("backward", "arises the gradient of the output of first.2 (Dropout)"),
    ],
)
def test_the_first_module_that_is_not_finite_is_named(how: str, place: str) -> None:
    model = Root(how)
    with LayerProbe(model) as probe:
        model(torch.randn(8, 4)).sum().backward()
    assert f"arises {probe.first_not_finite()}".startswith(place)


def test_nothing_is_named_where_all_is_finite_or_the_batch_is_to_blame() -> None:
    model = Root("")
    with LayerProbe(model) as probe:
        model(torch.randn(8, 4)).sum().backward()
    assert probe.first_not_finite() is None
    with LayerProbe(model) as probe:
        model(torch.full((8, 4), torch.nan))
    assert "what goes into first.0 (Linear), the first module" in str(probe.first_not_finite())


class Mixed(nn.Module):
    """A convolution, normalisation and an activation, an embedding's worth of code between, and a layer used twice."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.conv = nn.Sequential(self.first, self.norm, nn.ReLU(inplace))
        self.shared = nn.Linear(6, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 1, height, width)` into `(n, 2)`."""
        hidden = self.conv(inputs).mean(dim=(2, 3))
        outputs: torch.Tensor = self.last(self.shared(self.shared(hidden).tanh()))
        return outputs


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_measured_agrees_with_plain_autograd(inplace: bool) -> None:
    torch.manual_seed(0)
    model, inputs = Mixed(inplace), torch.randn(16, 1, 6, 6)
    with torch.no_grad():
        model.norm.bias[:2] = -9
    with LayerProbe(model) as probe:
        model(inputs).square().mean().backward()
    layers = probe.read()
    assert list(layers) == ["first", "norm", "conv.2", "shared", "last"]
    assert probe.read() == {}

    # The same by hand, each intermediate value with a name of its own.
    convolved = model.first(inputs)
    normed = model.norm(convolved)
    active = nn.functional.relu(normed)
    once = model.shared(active.mean(dim=(2, 3)))
    twice = model.shared(once.tanh())
    output = model.last(twice)
    values = {"first": [convolved], "norm": [normed], "conv.2": [active], "shared": [once, twice], "last": [output]}
    everything = [value for of_layer in values.values() for value in of_layer]
    found = iter(torch.autograd.grad(output.square().mean(), everything, retain_graph=True))
    for name, of_layer in values.items():
        joint, entry = torch.cat([value.flatten() for value in of_layer]), layers[name]
        gradient = torch.cat([next(found).flatten() for _ in of_layer])
        assert entry["mean"] == pytest.approx(joint.mean().item(), rel=1e-5, abs=1e-7)
        assert entry["std"] == pytest.approx(joint.std(correction=0).item(), rel=1e-5)
        assert entry["max"] == pytest.approx(joint.abs().max().item())
        assert entry["gradient"] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)
    for name in ("first", "norm", "shared", "last"):
        grads = [value.grad for value in model.get_submodule(name).parameters() if value.grad is not None]
        assert len(grads) == 2
        expected = max(grad.square().mean().sqrt().item() for grad in grads)
        assert layers[name]["weight_gradient"] == pytest.approx(expected, rel=1e-5)
    assert (layers["conv.2"]["units"], layers["conv.2"]["dead"]) == (6, 2)


def test_gradients_are_those_that_full_backward_hooks_see_where_these_work() -> None:
    """And where they do not, which is why the probe sets its hooks on tensors."""
    torch.manual_seed(0)
    seen: dict[str, float] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, into, out: seen.update({name: float(out[0].square().mean().sqrt())})

    inputs, model = torch.randn(16, 1, 6, 6, requires_grad=True), Mixed()
    handles = [model.get_submodule(name).register_full_backward_hook(note(name)) for name in ("first", "norm")]
    with LayerProbe(model) as probe:
        model(inputs).square().mean().backward()
    layers = probe.read()
    assert len(seen) == 2
    for name, gradient in seen.items():
        assert layers[name]["gradient"] == pytest.approx(gradient, rel=1e-6)
    for handle in handles:
        handle.remove()

    model = Mixed(inplace=True)
    model.norm.register_full_backward_hook(note("norm"))
    with pytest.raises(RuntimeError, match="modified inplace"):
        model(inputs)


def hooks_of(model: nn.Module) -> list[Any]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_modules = [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]
    grads = [getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in model.parameters()]
    return of_modules + [hook for hooks in grads for hook in (hooks or {}).values()]


def hooks_of_optimizer(trainer: Trainer) -> list[Any]:
    kinds = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    return [hook for kind in kinds for hook in getattr(trainer.optimizer, kind).values()]


def test_watching_changes_no_bit_and_leaves_no_hook(tiny: MakeTrainer) -> None:
    plain = tiny()
    plain.train()
    watched = tiny(loggers={"layer_watch": {"every": 3}})
    watched.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name])
    assert hooks_of(watched.model) + hooks_of_optimizer(watched) == []
    run = watched.saver.run_dir
    lines = [json.loads(line) for line in (run / "layers.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 1), (1, 4), (2, 7), (2, 10), (3, 13)]
    assert lines[0]["layers"]["linear"]["weight_gradient"] > 0
    assert (run / "plots" / "layers.png").stat().st_size > 5000


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_run_that_diverges_names_the_module_and_keeps_the_batch(
    tiny: MakeTrainer, by_flag: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the loss is read in each step, or every fourth as on an accelerator; dropout draws as in the bad step."""
    monkeypatch.setattr("logger.console.log.propagate", True)
    trainer = tiny(loggers=WATCHED, dropout=0.5, optimizer={"type": "AdamW", "args": {"lr": 0.05}})
    trainer.guard.by_flag = by_flag
    seen: list[torch.Tensor] = []

    def spoil(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        seen.append(output.detach().clone())
        return output / 0 * 0 if trainer.progress.step >= 6 and trainer.model.training else None

    handle = trainer.model.get_submodule("dropout").register_forward_hook(spoil)
    with pytest.raises(Diverged) as caught:
        trainer.train()
    assert caught.value.ago == (2 if by_flag else 0)
    assert "arises in dropout (Dropout)" in caplog.text
    file = trainer.saver.run_dir / "bad_batch.pth"
    assert f"python replay.py {file}" in caplog.text
    saved = torch.load(file, weights_only=True)
    assert saved["step"] == 6
    again, of_step = seen[-1], seen[6 + 3]  # three batches of the first epoch's evaluation came in between
    assert torch.equal(again, of_step)
    indices = trainer.loaders.train.batch_sampler.batch(1)
    assert saved["indices"] == indices
    assert torch.equal(saved["batch"][0], trainer.loaders.train.load(indices)[0])
    trainer.observers.close()
    handle.remove()
    assert hooks_of(trainer.model) + hooks_of_optimizer(trainer) == []


def test_a_bad_batch_is_replayed_by_one_command(
    config_file: Path, tmp_path: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate beyond all measure; the weights stay finite for a step or two."""
    words = ["trainer.device=cpu", f"trainer.save_dir={tmp_path}", "trainer.log_every=1", "lr_scheduler=null"]
    words += ["optimizer={type: SGD, args: {lr: 1e30}}", "loggers={layer_watch: true}"]
    assert script("train.py", "-c", config_file, *words) == 3
    (file,) = tmp_path.glob("*/*/bad_batch.pth")
    said = capsys.readouterr()
    story = next(line for line in said.out.splitlines() if "NaN or infinite" in line)
    assert f"python replay.py {file}" in said.out
    assert script("replay.py", file) == 0
    assert story in capsys.readouterr().out
    assert script("replay.py", file.parent / "config.json") == 2


def test_gradients_and_dead_units_are_judged_from_the_last_layer() -> None:
    layers: dict[str, dict[str, Any]] = {
        "a": {"weight_gradient": 1e-6},
        "b": {"weight_gradient": 3e5, "units": 8, "dead": 2},
        "c": {"units": 8, "dead": 3},
        "d": {"weight_gradient": 1.0},
    }
    told = warnings_about(layers)
    assert [text.split(":")[0] for text in told] == ["a", "b", "c"]
    for text, word in zip(told, ("vanishes", "explodes", "dead"), strict=True):
        assert word in text


def test_a_deep_sigmoid_network_is_told_that_its_gradients_vanish() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()) for _ in range(12)), nn.Linear(8, 1))
    with LayerProbe(deep) as probe:
        deep(torch.randn(32, 8)).square().mean().backward()
    told = warnings_about(probe.read())
    assert told
    assert told[0].startswith("0.0: the gradient vanishes")


def test_what_was_written_after_a_checkpoint_is_dropped(tmp_path: Path) -> None:
    watch = LayerWatch(tmp_path)
    watch.path.write_text("before\n")
    state = watch.state_dict()
    watch.path.write_text("before\nafter\n")
    watch.load_state_dict(state)
    assert watch.path.read_text() == "before\n"
