"""Keep a non-finite loss away from the weights without reading the loss in every step."""

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer

from utils.errors import Diverged


class NonFiniteGuard:
    """Withholds the optimizer's updates from the first loss on that is NaN or infinite.

    Reading a loss makes the host wait for the device. Fused optimizers read a flag on the device instead, the
    one that `GradScaler` uses (`found_inf`): when it is 1, they leave weights and state as they are. Once raised
    it stays raised, so nothing is touched until the loop next reads its losses, in `check`, and stops. The
    loss is read in every step only for optimizers that have no fused version.
    """

    def __init__(self, optimizer: Optimizer, describe: Callable[[int], str]) -> None:
        """Watch over one optimizer.

        Args:
            optimizer: whose updates are withheld.
            describe: says what a step was doing; gets how many steps ago it was (0 is the current one).
        """
        self.optimizer = optimizer
        self.describe = describe
        self.fused = all(group.get("fused") for group in optimizer.param_groups)
        self._raised: torch.Tensor | None = None

    def __call__(self, loss: torch.Tensor) -> None:
        """Look at a step's loss, a scalar, between `backward()` and `step()`.

        Raises:
            Diverged: the loss is not finite and the optimizer has no flag that would withhold the update.
        """
        bad = loss.detach() * 0 != 0  # 0 × NaN and 0 × infinity are NaN, and NaN is not 0
        if self.fused:
            self._raised = bad if self._raised is None else self._raised | bad
            self.optimizer.found_inf = self._raised.float()  # type: ignore[attr-defined]
        elif bad:
            raise Diverged(self.describe(0))

    def check(self, losses: list[float]) -> None:
        """Look at the losses of the latest steps, oldest first.

        Raises:
            Diverged: one of them is not finite; the message is about the first.
        """
        for position, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(self.describe(len(losses) - position))
