"""Copies of a model on several processes (DistributedDataParallel): what they exchange, and what they refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

from trainer.trainer import Trainer
from utils.distributed import is_main
from utils.errors import UserError, run

MakeTrainer = Callable[..., Trainer]


class Idle(nn.Module):
    """Has a part that takes no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.spare = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn `(n, 4)` into `(n, 1)`."""
        outputs: torch.Tensor = self.linear(inputs)
        return outputs


def exchange_once(make: MakeTrainer, folder: Path) -> None:
    trainer = make(folder, trainer={"epochs": 1, "accumulate": 4})
    exchanges: list[int] = []

    def count(_: None, bucket: distributed.GradBucket) -> Future[torch.Tensor]:  # type: ignore[name-defined]
        exchanges.append(bucket.index())
        return allreduce_hook(distributed.group.WORLD, bucket)  # type: ignore[arg-type]

    trainer.parallel.network(trainer.model).register_comm_hook(None, count)
    trainer.train()
    assert exchanges == [0] * len(trainer.loaders.train), "once in a step, and not for each of its 4 pieces"


def test_gradients_are_exchanged_once_in_a_step_however_many_pieces_it_has(
    in_processes: Callable[..., None], tmp_path: Path
) -> None:
    in_processes(2, exchange_once, tmp_path / "run")


def train_without_the_folder(make: MakeTrainer, folder: Path) -> None:
    trainer = make(folder)
    if not is_main():
        trainer.saver.run_dir = folder / "of another machine"
    trainer.train()
    assert trainer.progress.finished


def test_only_the_main_process_needs_to_see_the_runs_folder(in_processes: Callable[..., None], tmp_path: Path) -> None:
    in_processes(2, train_without_the_folder, tmp_path / "run")


def refuse_idle(make: MakeTrainer, folder: Path) -> None:
    with pytest.raises(UserError, match=r"no part in the latest training step: spare\.weight, spare\.bias\n"):
        make(folder, network=Idle).train()


def test_a_parameter_without_part_in_a_step_is_named(in_processes: Callable[..., None], tmp_path: Path) -> None:
    in_processes(2, refuse_idle, tmp_path / "run")


@pytest.mark.parametrize(
    "said",
    [
        "[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [192.0.2.2]:31094",
        "[../gloo/transport/tcp/pair.cc:537] read [192.0.2.2]:31094: Connection reset by peer",
        "[../gloo/transport/tcp/pair.cc:537] writev [192.0.2.2]:31094: Broken pipe",
        "[../gloo/transport/tcp/pair.cc:537] read [192.0.2.2]:31094: Connection timed out",
        "[../gloo/transport/tcp/pair.cc:537] read [192.0.2.2]:31094: No route to host",
        "[../gloo/transport/tcp/pair.cc:537] writev [192.0.2.2]:31094: Network is unreachable",
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_lost_connection_is_told_in_a_line(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise RuntimeError(said)

    with pytest.raises(RuntimeError):
        run(fail)  # a process that is alone has no others
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(fail) == 1
    assert capsys.readouterr().err.startswith("another process of this training has ended or cannot be reached")
    with pytest.raises(RuntimeError, match="singular"):
        run(lambda: len(torch.linalg.inv(torch.zeros(2, 2))))
