"""On GPUs: runs that go on to the same bits, copies to the host, and several GPUs against one. Skipped without any."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import saved_states
from trainer.checkpoint import load_checkpoint
from trainer.restoring import restore
from trainer.snapshot import snapshot
from trainer.trainer import Trainer
from utils.distributed import share

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

MakeTrainer = Callable[..., Trainer]
ROOT = Path(__file__).parents[1]
EVERYTHING: dict[str, Any] = {"accumulate": 3, "ema": 0.5, "clip_grad_norm": 0.5, "channels_last": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "tf32": {"precision": "tf32", "deterministic": True},
    "bf16": {"precision": "bf16", **EVERYTHING},
    "fp16": {"precision": "fp16", **EVERYTHING},
    "compiled": {"compile": True, "precision": "bf16"},
    "compiled for all shapes": {"compile": "dynamic"},
}


def exact(trainer: Trainer) -> dict[str, Any]:
    """All that is trained, and the random numbers that would come next."""
    state = {name: part.state_dict() for name, part in trainer.state.items() if name != "loggers"}
    copied = snapshot(state)
    return {name: _plain(copied[name]) for name in ("model", "optimizer", "scaler", "random", "progress")}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_goes_on_to_the_same_bits(tiny: MakeTrainer, settings: dict[str, Any]) -> None:
    """From within an epoch, just before its last batch, which is a short one."""
    settings = {"device": "cuda", "epochs": 3, "save_every_steps": 4, "keep_last": 0, "monitor": None, **settings}
    whole = tiny(trainer=settings)
    states = saved_states(whole)
    assert states[0]["progress"]["step"] == 4
    assert all(value.device.type == "cpu" for value in states[0]["model"].values())
    again = tiny(trainer=settings)
    restore(again, states[0])
    again.train()
    assert exact(again) == exact(whole)


def test_what_was_copied_to_the_host_does_not_change_with_what_it_was_copied_from() -> None:
    values = torch.arange(2.0**24, device="cuda")
    copied = snapshot({"part": {"values": values, "again": [values[:5]]}})["part"]
    values.zero_()
    assert copied["values"].is_pinned()
    assert torch.equal(copied["values"], torch.arange(2.0**24))
    assert copied["again"][0].tolist() == [0, 1, 2, 3, 4]


def train_together(make: MakeTrainer, folder: Path, settings: dict[str, Any]) -> None:
    trainer = make(folder, network=network, trainer=settings)
    assert next(trainer.model.parameters()).device.index == torch.cuda.current_device()
    trainer.train()


def network() -> nn.Module:
    first = nn.Linear(4, 400, bias=False)  # the gradient of a bias would be 0 but for rounding, and Adam enlarge that
    return nn.Sequential(first, nn.BatchNorm1d(400), nn.Tanh(), nn.Linear(400, 400), nn.Linear(400, 1))


@needs_two
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp in shards"])
def test_two_gpus_train_as_one_does_which_can_go_on(
    in_processes: Callable[..., None], tiny: MakeTrainer, tmp_path: Path, strategy: str, precision: str
) -> None:
    if strategy != "ddp":
        pytest.importorskip("trainer.sharding")
    settings = {"device": "cuda", "precision": precision, "ema": 0.5, "clip_grad_norm": 0.5, "epochs": 1}
    divided = {"strategy": strategy.split()[0], "sharded_checkpoints": strategy == "fsdp in shards"}
    in_processes(2, train_together, tmp_path / "run", settings | divided)
    alone = tiny(network=network, trainer=settings)
    alone.train()
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pth")
    tolerance = 1e-3 if precision == "fp32" else 5e-2
    for name, value in alone.state["model"].state_dict().items():
        torch.testing.assert_close(state["model"][name], value.cpu(), rtol=tolerance, atol=tolerance)
    longer = tiny(network=network, trainer=settings | {"epochs": 4})
    restore(longer, state)
    longer.train()


def stay_small(make: MakeTrainer, folder: Path) -> None:
    layers = 8
    size = layers * 2048 * 2048 * 4
    torch.cuda.reset_peak_memory_stats()
    settings = {"device": "cuda", "strategy": "fsdp", "sharded_checkpoints": True, "epochs": 1, "monitor": None}

    def tower() -> nn.Module:
        parts = [nn.Linear(2048, 2048) for _ in range(layers)]
        return nn.Sequential(nn.Linear(4, 2048), *parts, nn.Linear(2048, 1))

    trainer = make(folder, network=tower, trainer=settings)
    assert torch.cuda.max_memory_allocated() < 0.75 * size, "the whole model was on the GPU when it was divided"
    own = sum(share(parameter).nbytes for parameter in trainer.model.parameters())
    assert own < 0.55 * size
    trainer.train()
    # Share of weights, gradients and two numbers of Adam, and two layers that are gathered at a time.
    assert torch.cuda.max_memory_allocated() < 4 * 0.55 * size + 4 * size / layers


@needs_two
def test_no_gpu_ever_holds_a_whole_model_that_is_divided(in_processes: Callable[..., None], tmp_path: Path) -> None:
    pytest.importorskip("trainer.sharding")
    in_processes(2, stay_small, tmp_path / "run")


@needs_two
def test_the_commands_work_on_two_gpus(config_file: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["trainer.epochs=1", f"trainer.save_dir={tmp_path}", "lr_scheduler=null", "loggers={}"]
    subprocess.run([*torchrun, "train.py", "-c", str(config_file), *words], cwd=ROOT, check=True, timeout=300)
    (run,) = tmp_path.glob("*/*")
    subprocess.run([*torchrun, "train.py", "-r", str(run), "trainer.epochs=2"], cwd=ROOT, check=True, timeout=300)
    subprocess.run([*torchrun, "test.py", "-r", str(run)], cwd=ROOT, check=True, timeout=300)
    assert list((run / "checkpoints").glob("*.test.json"))
