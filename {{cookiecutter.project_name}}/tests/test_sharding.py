"""A model that is divided among processes (FSDP2), and checkpoints in shards."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.tensor import DTensor

from tests.conftest import saved_states
from trainer.checkpoint import DamagedCheckpoint, load_checkpoint, read_header
from trainer.restoring import restore
from trainer.run_folder import find_checkpoint
from trainer.sharding import repeated_parts, size
from trainer.shards import INDEX, Shards, digest_of
from trainer.trainer import Trainer
from utils.config_files import load_config
from utils.distributed import rank, share, whole
from utils.errors import ConfigError, RunFailed

MakeTrainer = Callable[..., Trainer]
FSDP = {"strategy": "fsdp", "sharded_checkpoints": True}


def large() -> nn.Module:
    """Has 160,000 weights in the middle, which are divided on their own."""
    return nn.Sequential(nn.Linear(4, 400), nn.Sequential(nn.Linear(400, 400), nn.Tanh()), nn.Linear(400, 1))


def never_gather(make: MakeTrainer, folder: Path, settings: dict[str, Any]) -> None:
    gathered: list[int] = []
    real = DTensor.full_tensor

    def watched(tensor: DTensor, **options: Any) -> torch.Tensor:
        gathered.append(tensor.numel())
        return real(tensor, **options)

    DTensor.full_tensor = watched  # type: ignore[assignment,method-assign]
    trainer = make(folder, network=large, trainer=settings)
    trainer.guard.by_flag = True  # as on a GPU, where the optimizer gets a flag beside divided gradients
    trainer.train()
    again = make(folder, network=large, trainer=settings | {"epochs": 3})
    restore(again, find_checkpoint(folder, whole=False)[1])
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(share(one), share(other))
    assert sum(share(parameter).numel() for parameter in again.model.parameters()) < 0.6 * size(again.model)
    for entry in again.optimizer.state_dict()["state"].values():
        assert isinstance(entry["exp_avg"], DTensor)
    again.train()
    assert max(gathered, default=1) == 1, "only norms are put together"


def test_no_process_ever_has_the_whole_model(
    in_processes: Callable[..., None], tiny: MakeTrainer, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "ema": 0.5, "clip_grad_norm": 0.5, "precision": "fp16", "channels_last": True, **FSDP}
    in_processes(2, never_gather, tmp_path / "run", settings)
    last = tmp_path / "run" / "checkpoints" / "last.pth"
    assert all(value.is_meta for value in torch.load(last, weights_only=True)["model"].values())

    whole = load_checkpoint(last)
    dcp_to_torch_save(last.parent / "shards" / read_header(last).shards, tmp_path / "torch.pth")
    for name, value in torch.load(tmp_path / "torch.pth", weights_only=True)["model"].items():
        assert torch.equal(whole["model"][name], value)
    alone = tiny(network=large, trainer={"epochs": 4, "ema": 0.5})
    restore(alone, find_checkpoint(tmp_path / "run", whole=False)[1])
    for name, value in alone.model.state_dict().items():
        assert torch.equal(whole["training_model"][name], value)
    alone.train()
    assert alone.progress.epoch == 4


def parts() -> nn.Module:
    """Has three parts that are divided on their own, one of them with batch normalisation."""
    middle = [nn.Sequential(nn.Linear(400, 400), norm, nn.Tanh()) for norm in (nn.LayerNorm(400), nn.BatchNorm1d(400))]
    return nn.Sequential(nn.Linear(4, 400), *middle, nn.Linear(400, 400), nn.Linear(400, 1))


def compute_in_16_bits(make: MakeTrainer, folder: Path) -> None:
    settings = {"epochs": 2, "strategy": "fsdp", "precision": "bf16", "ema": 0.5, "accumulate": 2, "monitor": None}
    trainer = make(folder, network=parts, trainer={**settings, "save_every_steps": 3, "keep_last": 0})
    formats: set[torch.dtype] = set()
    for number, expected in ((1, torch.bfloat16), (2, torch.float32), (3, torch.bfloat16)):

        def look(module: nn.Module, *_: Any, expected: torch.dtype = expected) -> None:
            assert {parameter.dtype for parameter in module.parameters()} == {expected}
            formats.add(expected)

        trainer.model.get_submodule(str(number)).register_forward_pre_hook(look)
    states = saved_states(trainer)
    assert len(formats) == 2
    assert states[0]["progress"]["step"] == 3
    kept = (*states[0]["training_model"].values(), *states[0]["optimizer"]["state"][2].values())
    assert {tensor.dtype for tensor in kept if tensor.is_floating_point()} == {torch.float32}
    again = make(folder.with_name("again"), network=parts, trainer=settings)
    restore(again, states[0])
    again.train()
    for one, other in zip(trainer.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(share(one), share(other))


def gradients_in_16_bits(make: MakeTrainer, folder: Path) -> None:
    gradients = []
    for settings in ({"strategy": "fsdp", "precision": "bf16"}, {"strategy": "ddp"}):
        trainer = make(folder, network=parts, trainer={"epochs": 1, **settings})
        trainer.train_step(trainer.move(trainer.loaders.train.load_batch(0)[0]))
        found = [whole(parameter.grad) for parameter in trainer.model.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()


@pytest.mark.parametrize("function", [compute_in_16_bits, gradients_in_16_bits])
def test_parts_compute_in_16_bits(
    in_processes: Callable[..., None], tmp_path: Path, function: Callable[..., None]
) -> None:
    """Their gradients are close to those in 32 bits, and a run goes on to the same bits."""
    in_processes(2, function, tmp_path / "run")


def fill_the_disk(make: MakeTrainer, folder: Path) -> None:
    trainer = make(folder, trainer={"save_every_steps": 1, **FSDP})
    trainer.train()
    real = os.fsync

    def fail(descriptor: Any) -> None:
        if "distcp" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    if rank() == 1:
        os.fsync = fail  # type: ignore[assignment]
    with pytest.raises(RunFailed, match=r"could not write a checkpoint at step \d+: the disk is full"):
        trainer.saver.save("last.pth")
    distributed.barrier()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks for the names of open files, as Linux tells them")
def test_a_full_disk_of_one_process_is_told_by_all_of_them(in_processes: Callable[..., None], tmp_path: Path) -> None:
    in_processes(2, fill_the_disk, tmp_path / "run")
    assert find_checkpoint(tmp_path / "run")[1]["progress"]["finished"]


class Evil:
    """Pickles to a command."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_an_index_that_would_run_code_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(pickle.dumps(Evil(tmp_path / "harm")))
    digests = {INDEX: digest_of(tmp_path / INDEX)}
    with pytest.raises(DamagedCheckpoint, match=r"refused: to load it would mean to run \w+\.mkdir"):
        Shards(tmp_path, digests)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(DamagedCheckpoint, match=r"__0_0\.distcp: is not there"):
        Shards(tmp_path, {**digests, "__0_0.distcp": ""})


def test_repeated_parts_are_divided_one_by_one_and_large_ones_further() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400)) for _ in range(3))
    model = nn.Sequential(nn.ModuleDict({"blocks": blocks, "small": nn.Linear(10, 10)}), nn.Linear(400, 400))
    assert list(repeated_parts(model, largest=size(model) // 2)) == [*blocks, model[1]]


def test_sharded_checkpoints_without_shares_are_refused(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.sharded_checkpoints: found true, but with"):
        load_config([config_file], ["trainer.sharded_checkpoints=true"])
