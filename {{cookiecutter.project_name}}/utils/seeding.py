"""The global random generators: seeding them, and carrying their state through a checkpoint."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from utils.distributed import gathered, rank


def seed_everything(seed: int) -> None:
    """Seed torch (every device), NumPy and Python, and let cuDNN pick algorithms that repeat their bits."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


class RandomState:
    """The state of all global generators as plain types and tensors, read and written at step boundaries."""

    def state_dict(self) -> dict[str, Any]:
        """Read the generators' state."""
        version, numbers, gauss = random.getstate()
        numpy_state: Any = np.random.get_state(legacy=False)
        state: dict[str, Any] = {
            "python": {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss},
            "numpy": {
                "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
                "pos": int(numpy_state["state"]["pos"]),
                "has_gauss": int(numpy_state["has_gauss"]),
                "gauss": float(numpy_state["gauss"]),
            },
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        if torch.backends.mps.is_available():
            state["mps"] = torch.mps.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Write the generators' state; devices that this machine lacks are passed over."""
        python, numpy_state = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(python["numbers"].tolist()), python["gauss"]))
        key = numpy_state["key"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", key, numpy_state["pos"], numpy_state["has_gauss"], numpy_state["gauss"]))
        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state and torch.cuda.is_available():
            for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(device_state.cpu(), device)
        if "mps" in state and torch.backends.mps.is_available():
            torch.mps.set_rng_state(state["mps"].cpu())


class RandomStates(RandomState):
    """The state of the generators of all processes; each has its own, so that no two drop out the same."""

    def state_dict(self) -> dict[str, Any]:
        """Read the state of the main process, and under `others` of the others."""
        state, *others = gathered(super().state_dict())
        return {**state, "others": others} if others else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Write this process's state; a process that is new keeps the state that it started with."""
        states = [state, *state.get("others", [])]
        if rank() < len(states):
            super().load_state_dict(states[rank()])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give all global generators back the state that they had on entry."""
    keeper = RandomState()
    state = keeper.state_dict()
    try:
        yield
    finally:
        keeper.load_state_dict(state)
