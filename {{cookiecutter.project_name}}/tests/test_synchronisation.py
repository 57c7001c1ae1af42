"""Between two log entries nothing makes the host wait for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.trainer import Trainer

TO_HOST = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero")


class Reads(TorchDispatchMode):
    """Counts the operations that read a tensor's values, which on an accelerator would wait for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operation, and do it."""
        if function.name() in TO_HOST:
            self.found.append(function.name())
        return function(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List what is read in the block; `tolist` passes by the dispatcher."""
    with Reads() as reads, monkeypatch.context() as patch:
        real = torch.Tensor.tolist
        patch.setattr(torch.Tensor, "tolist", lambda tensor: reads.found.append("tolist") or real(tensor))
        yield reads.found


def quiet(tiny: Callable[..., Trainer], **trainer: Any) -> Trainer:
    return tiny(metrics=[], trainer={"epochs": 2, "log_every": 1000, "save_every_epochs": None, **trainer})


SETTINGS: list[dict[str, Any]] = [
    {},
    {"precision": "bf16", "accumulate": 3, "ema": 0.9, "clip_grad_norm": 1.0},
    {"precision": "fp16", "channels_last": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "bf16", "fp16"])
def test_a_step_between_log_entries_reads_nothing(
    tiny: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    trainer = quiet(tiny, **settings)
    trainer.guard.by_flag = True  # as on an accelerator; on the CPU it reads the loss, for which nobody has to wait
    trainer.freezing.train_mode()
    batches = list(trainer.loaders.train)
    with counted(monkeypatch) as found:
        for batch in batches:
            trainer.count(trainer.meter, *trainer.train_step(batch))
            trainer.after_step()
        assert found == []
        trainer.meter.flush()
        assert found == ["tolist"], "what does read is noticed, and once for all steps"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "bf16", "fp16"])
def test_an_epoch_between_log_entries_never_waits_for_the_gpu(
    tiny: Callable[..., Trainer], settings: dict[str, Any]
) -> None:
    trainer = quiet(tiny, device="cuda", **settings)
    trainer.train_epoch()
    trainer.progress.batch = 0
    loader = trainer.loaders.train
    trainer.freezing.train_mode()
    loader.set_position(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in loader:
            moved = tuple(tensor.to("cuda", non_blocking=True) for tensor in batch)
            trainer.count(trainer.meter, *trainer.train_step(moved))
            trainer.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
