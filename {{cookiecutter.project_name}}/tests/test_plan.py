"""The arithmetic of cluster/plan.py agrees with what a training really keeps, exchanges and writes."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

from cluster.plan import HALF, Plan
from trainer.trainer import Trainer
from utils.distributed import share

ROOT = Path(__file__).parents[1]
MakeTrainer = Callable[..., Trainer]


def large() -> nn.Module:
    """Has 160,000 weights in the middle, beside which the rest is small."""
    return nn.Sequential(nn.Linear(4, 400), nn.Sequential(nn.Linear(400, 400), nn.Tanh()), nn.Linear(400, 1))


def planned(processes: int = 1, strategy: str = "ddp", ema: bool = False) -> Plan:
    return Plan(sum(parameter.numel() for parameter in large().parameters()), processes, strategy, ema=ema)


def kept_by(trainer: Trainer) -> int:
    """Add up weights, gradients, what the optimizer keeps of each, and averages, as far as they lie here."""
    parameters = list(trainer.model.parameters())
    kept = [*parameters, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
    kept += [value for entry in trainer.optimizer.state.values() for value in entry.values()]
    kept += list(trainer.average.averages.values()) if trainer.average else []
    return sum(share(tensor.detach()).nbytes for tensor in kept)


@pytest.mark.parametrize("ema", [False, True])
def test_memory_and_checkpoint_of_one_process(tiny: MakeTrainer, ema: bool) -> None:
    trainer = tiny(network=large, trainer={"epochs": 1, "ema": 0.9 if ema else None})
    trainer.train()
    assert kept_by(trainer) == pytest.approx(planned(ema=ema).memory(), rel=0.001)
    size = (trainer.saver.folder / "last.pth").stat().st_size
    assert size == pytest.approx(planned(ema=ema).checkpoint(), rel=0.02)


def exchange_copies(make: MakeTrainer, folder: Path) -> None:
    trainer = make(folder, network=large, trainer={"epochs": 1})
    steps: list[int] = []
    buckets: list[torch.Tensor] = []

    def count(_: None, bucket: distributed.GradBucket) -> Future[torch.Tensor]:  # type: ignore[name-defined]
        buckets.append(bucket.buffer())
        steps.extend([0] * bucket.is_last())
        return allreduce_hook(distributed.group.WORLD, bucket)  # type: ignore[arg-type]

    trainer.parallel.network(trainer.model).register_comm_hook(None, count)
    trainer.train()
    plan = planned(2)
    # Over a ring of two, each sends as much as there is to be added up.
    assert sum(bucket.nbytes for bucket in buckets) == len(steps) * plan.sent()
    of_gradients = {
        parameter.grad.untyped_storage().data_ptr()
        for parameter in trainer.model.parameters()
        if parameter.grad is not None
    }
    assert of_gradients <= {bucket.untyped_storage().data_ptr() for bucket in buckets}
    assert kept_by(trainer) == pytest.approx(plan.memory(), rel=0.001)


def test_memory_and_exchange_of_two_copies(in_processes: Callable[..., None], tmp_path: Path) -> None:
    in_processes(2, exchange_copies, tmp_path / "run")


def keep_shares(make: MakeTrainer, folder: Path) -> None:
    trainer = make(folder, network=large, trainer={"epochs": 1, "strategy": "fsdp"})
    trainer.train()
    plan = planned(2, "fsdp")
    assert kept_by(trainer) == pytest.approx(plan.state() / 2, rel=0.02)
    if (folder / "checkpoints" / "last.pth").exists():
        assert (folder / "checkpoints" / "last.pth").stat().st_size == pytest.approx(plan.checkpoint(), rel=0.03)


@pytest.mark.skipif(importlib.util.find_spec("trainer.sharding") is None, reason="has no trainer/sharding.py")
def test_memory_and_checkpoint_of_two_shares(in_processes: Callable[..., None], tmp_path: Path) -> None:
    in_processes(2, keep_shares, tmp_path / "run")


def keep_no_copies(make: MakeTrainer, folder: Path) -> None:
    trainer = make(folder, network=parts, trainer={"epochs": 1, "strategy": "fsdp", "precision": "bf16"})
    sizes: set[int] = set()

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (400, 400):
            held.append(tensor)
            sizes.add(tensor.nbytes)
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(gathered, lambda tensor: tensor), trainer.precision.autocast():
        trainer.network(torch.ones(2, 4))
    assert sizes == {HALF * 400 * 400}
    assert [tensor.untyped_storage().nbytes() for tensor in held] == [0] * 3, "they are gathered again when needed"


def parts() -> nn.Module:
    """Has three parts that are divided on their own."""
    return nn.Sequential(nn.Linear(4, 400), *(nn.Linear(400, 400) for _ in range(3)), nn.Linear(400, 1))


@pytest.mark.skipif(importlib.util.find_spec("trainer.sharding") is None, reason="has no trainer/sharding.py")
def test_parts_in_16_bits_keep_no_copies_of_their_weights(in_processes: Callable[..., None], tmp_path: Path) -> None:
    in_processes(2, keep_no_copies, tmp_path / "run")


def test_16_bits_keep_copies_of_the_weights_for_the_backward_pass() -> None:
    model, held = large(), {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() in (160_000, 1600):
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model(torch.ones(2, 4))
    extra = sum(tensor.nbytes for tensor in held.values() if tensor.dtype == torch.bfloat16)
    plan = planned()
    assert extra == pytest.approx(HALF * plan.parameters, rel=0.02)
    assert Plan(plan.parameters, half=True).memory() - plan.memory() == HALF * plan.parameters


def test_what_the_page_shows_is_what_the_script_prints() -> None:
    page = (ROOT / "cluster" / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ python (cluster/plan\.py.*)\n((?:.+\n)+?)```", page, re.MULTILINE)
    assert shown
    for words, table in shown:
        done = subprocess.run([sys.executable, *words.split()], cwd=ROOT, capture_output=True, encoding="utf-8")
        assert done.stdout == table, done.stderr
