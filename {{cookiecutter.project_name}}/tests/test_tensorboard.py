"""What TensorBoard shows, read as TensorBoard itself reads it; and that watching a run does not change it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]
from torch import nn

from logger.event_file import EventFile
from logger.model_graph import model_graph
from trainer.trainer import Trainer
from utils.seeding import RandomState

MakeTrainer = Callable[..., Trainer]


def events_of(run_dir: Path) -> Any:
    return EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}).Reload()


@pytest.fixture
def watched(tiny: MakeTrainer) -> tuple[Trainer, Any]:
    """A finished run of three epochs of five steps, with an entry every four steps and histograms every five."""
    trainer = tiny(
        loggers={"tensorboard": {"histograms_every": 5}},
        optimizer={"type": "AdamW", "args": {"lr": 0.05}, "groups": [{"params": ["*.bias"], "lr": 0.1}]},
    )
    trainer.train()
    return trainer, events_of(trainer.saver.run_dir)


def test_there_are_curves_of_everything_that_matters(watched: tuple[Trainer, Any]) -> None:
    trainer, events = watched
    entries = {"train_loss", "lr", "grad_norm", "samples_per_second", "data_wait", "memory_host_mb"}
    rates = {f"lr_{group['name']}" for group in trainer.optimizer.param_groups}
    assert len(rates) == 2
    for name in entries | rates:
        assert [event.step for event in events.Scalars(f"steps/{name}")] == [4, 8, 12]
    for tag in ("loss/train", "loss/val", "run/best_val_loss", "run/data_wait"):
        assert [event.step for event in events.Scalars(tag)] == [5, 10, 15]
    assert events.Scalars("run/best_val_loss")[-1].value == pytest.approx(trainer.monitor.best)
    assert all(0 <= event.value <= 1 for event in events.Scalars("steps/data_wait"))


def test_training_and_validation_are_laid_out_on_one_chart(watched: tuple[Trainer, Any]) -> None:
    _, events = watched
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["loss"] == ["loss/train", "loss/val"]
    written = set(events.Tags()["scalars"])
    assert all(any(tag.removesuffix(".*") in name for name in written) for tags in charts.values() for tag in tags)


def test_the_table_of_hyperparameters_has_a_row_for_the_run_itself(watched: tuple[Trainer, Any]) -> None:
    trainer, events = watched
    assert [
        path for path in trainer.saver.run_dir.rglob("events.out.tfevents.*") if path.parent != trainer.saver.run_dir
    ] == []
    found: dict[str, Any] = {}
    for tag, content in events.summary_metadata.items():
        if tag.startswith("_hparams_/"):
            found[tag] = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
    row = found["_hparams_/session_start_info"].session_start_info.hparams
    assert row["optimizer.lr"].number_value == 0.05
    assert row["optimizer"].string_value == "AdamW"
    assert "loggers.tensorboard.histograms_every" not in row
    assert found["_hparams_/session_end_info"].session_end_info.status == 1


def test_histograms_text_and_graph_are_there(watched: tuple[Trainer, Any]) -> None:
    _, events = watched
    tags = events.Tags()
    expected = {f"{kind}/linear.{part}" for kind in ("weights", "weight_gradients") for part in ("weight", "bias")}
    assert set(tags["histograms"]) == expected
    for name in expected:
        assert [event.step for event in events.Histograms(name)] == [8, 12]
    assert events.Histograms("weights/linear.weight")[0].histogram_value.num == 4
    assert {"config/text_summary", "parameter groups/text_summary"} <= set(tags["tensors"])
    assert '"lr": 0.05' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert any("linear" in node.name for node in events.Graph().node)


def test_a_run_that_goes_on_where_the_clock_is_behind_is_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = EventAccumulator(str(tmp_path))
    for second, first_step in ((100_000.5, 1), (99_000.5, 3), (100_000.9, 5)):
        monkeypatch.setattr("logger.event_file.time.time", lambda second=second: second)
        file = EventFile(tmp_path, first_step)
        for step in range(first_step, first_step + 3):  # the third is beyond the checkpoint
            file.add(step=step, summary={"value": [{"tag": "loss", "simple_value": first_step}]})
            shown.Reload()
        file.close()
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [
        (1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5)
    ]  # fmt: skip
    assert [event.step for event in events_of(tmp_path).Scalars("loss")] == list(range(1, 8))


def test_watching_changes_no_bit(tiny: MakeTrainer) -> None:
    watched, alone = tiny(loggers={"tensorboard": {"histograms_every": 1}}), tiny()
    for trainer in (watched, alone):
        torch.manual_seed(3)
        trainer.train()
    for one, other in zip(watched.model.state_dict().values(), alone.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


class Forked(nn.Module):
    """Parts in different modes, statistics, dropout, and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        outputs: torch.Tensor = self.linear(self.drop(self.norm(inputs))) + torch.rand(())
        return outputs


def test_drawing_the_graph_leaves_the_model_as_it_was(tiny: MakeTrainer) -> None:
    trainer = tiny(network=Forked, loggers={"tensorboard": True})
    trainer.model.train()
    trainer.model.get_submodule("norm").eval()
    before = str(trainer.model.state_dict()), [module.training for module in trainer.model.modules()]
    random = str(RandomState().state_dict())
    trainer.observers.on_start(trainer)
    assert (str(trainer.model.state_dict()), [module.training for module in trainer.model.modules()]) == before
    assert str(RandomState().state_dict()) == random
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert model_graph(trainer).node


class Untraceable(nn.Linear):
    """Returns what the tracer of torch cannot take."""

    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, input: torch.Tensor) -> Any:  # noqa: A002 - the name is PyTorch's
        """Turn `(n, 4)` into a set, while it is traced."""
        return {1} if torch._C._is_tracing() else super().forward(input)


def test_a_model_that_cannot_be_traced_is_trained_without_a_graph(
    tiny: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("logger.tensorboard.log.info", lambda text, *values: told.append(text % values))
    trainer = tiny(network=Untraceable, loggers={"tensorboard": True})
    trainer.train()
    (line,) = (line for line in told if "no graph" in line)
    assert "\n" not in line
    assert trainer.progress.finished


def test_gradients_that_are_not_finite_do_not_end_a_run_by_their_histogram(tiny: MakeTrainer) -> None:
    trainer = tiny(loggers={"tensorboard": {"histograms_every": 1}})
    trainer.observers.on_start(trainer)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    trainer.observers.members["tensorboard"].on_step(4, {})


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_norm_of_the_gradient_is_that_before_clipping(tiny: MakeTrainer, limit: float | None) -> None:
    trainer, plain = tiny(trainer={"clip_grad_norm": limit}), tiny()
    batch = next(iter(trainer.loaders.train))
    for each in (trainer, plain):
        torch.manual_seed(1)
        each.train_step(batch)
    whole = torch.cat([p.grad.flatten() for p in plain.model.parameters() if p.grad is not None])
    assert trainer.gradients.norm() == pytest.approx(whole.norm().item())
    assert whole.norm() > 0.5
