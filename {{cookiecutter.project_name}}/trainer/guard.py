"""Keep a non-finite loss away from the weights, on an accelerator without waiting for it in every step."""

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer

from utils.device import all_finite
from utils.errors import Diverged


class NonFiniteGuard:
    """Withholds the optimizer's updates from the first loss on that is NaN or infinite.

    On the CPU the loss is just read. On an accelerator that would make the host wait, so fused optimizers read a flag
    on the device instead, the one that `GradScaler` uses (`found_inf`): when it is 1, they leave weights and state as
    they are. Once raised it stays raised, so nothing is touched until the loop next reads its losses, in `check`, and
    stops. There the loss is read in every step only for optimizers that have no fused version.
    """

    def __init__(self, optimizer: Optimizer, describe: Callable[[int], str]) -> None:
        """Watch over one optimizer.

        Args:
            optimizer: whose updates are withheld.
            describe: says what a step was doing; gets how many steps ago it was (0 is the current one).
        """
        self.optimizer = optimizer
        self.describe = describe
        groups = optimizer.param_groups
        on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
        self.by_flag = not on_cpu and all(group.get("fused") for group in groups)
        self._raised: torch.Tensor | None = None
        self._suspects: list[torch.Tensor] = []

    def __call__(self, loss: torch.Tensor, overflow: torch.Tensor | None = None) -> None:
        """Look at a step's loss, a scalar, between `backward()` and `step()`.

        Args:
            loss: of the whole batch.
            overflow: whether to leave out this one step because gradients in 16 bits are too large.

        Raises:
            Diverged: the loss is not finite, and no flag withholds the update.
        """
        if self.by_flag:
            suspect = loss.detach() * 0  # 0 × NaN and 0 × infinity are NaN, and NaN counts as true
            if self._raised is None:
                self._raised = torch.zeros((), device=loss.device)
            self._suspects.append(suspect)
            raised = self._raised.logical_or_(suspect)
            skip = raised if overflow is None else raised.logical_or(overflow).float()
            self.optimizer.found_inf = skip  # type: ignore[attr-defined]
        elif not math.isfinite(loss.item()):
            raise Diverged(self.describe(0), ago=0)
        elif overflow is not None and overflow:
            self.optimizer.zero_grad()  # a parameter without a gradient is passed over

    def check(self, losses: list[float]) -> None:
        """Look at the losses of the latest steps, oldest first, and at the flags that went up in them.

        The two differ where a `train_step` of your own trains on another loss than it reports.

        Raises:
            Diverged: one of them is not finite; the message is about the first.
        """
        suspects = torch.stack(self._suspects).tolist() if self._suspects else []
        self._suspects.clear()
        for numbers in (losses, suspects):
            bad = [not math.isfinite(number) for number in numbers]
            if any(bad):
                self.check_weights()
                ago = len(bad) - bad.index(True)  # of the first one
                raise Diverged(self.describe(ago), ago)

    def check_weights(self) -> None:
        """Look at the weights: a loss that is finite may still have a gradient that is not.

        Raises:
            Diverged: one of them is NaN or infinite.
        """
        if not all_finite([group["params"] for group in self.optimizer.param_groups]):
            raise Diverged(
                "weights have become NaN or infinite: the loss was finite, but its gradient was not, in one of the "
                "steps since the last checkpoint, which is from before"
            )
