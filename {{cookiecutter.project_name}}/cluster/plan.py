"""What a training takes of memory, network and disk: arithmetic, before anything is rented.

python cluster/plan.py 7e9                    a model of 7,000 million parameters on 1, 8, 64 and 1,024 devices
python cluster/plan.py 7e9 --ema --half       with an average of the weights, and in bf16
"""

import argparse
from dataclasses import dataclass

FLOAT, HALF = 4, 2  # bytes


@dataclass(frozen=True)
class Plan:
    """A training of this project; all results are in bytes.

    Attributes:
        parameters: of the model, all of them trained.
        processes: one for each device.
        strategy: `ddp` (a copy of the model on each) or `fsdp` (a share of it).
        states: numbers that the optimizer keeps for each parameter: 2 for Adam, 1 for momentum, 0 for plain SGD.
        ema: whether an average of the weights is kept.
        half: whether `trainer.precision` is bf16 (of fp16 the same is true with ddp alone).
        parts: repeated parts of the network, of which `fsdp` gathers one at a time.
    """

    parameters: int
    processes: int = 1
    strategy: str = "ddp"
    states: int = 2
    ema: bool = False
    half: bool = False
    parts: int = 32

    def state(self) -> int:
        """Return what has to be kept from step to step, gradients included; all of it is in 32 bits."""
        return FLOAT * self.parameters * (2 + self.states + self.ema)

    def memory(self) -> int:
        """Return what each device has to hold, besides the activations."""
        if self.processes > 1 and self.strategy == "fsdp":
            # Two parts' weights, and one's gradients, which are copied into 32 bits to be added up.
            gathered = (3 * HALF + FLOAT if self.half else 4 * FLOAT) * self.parameters // self.parts
            return self.state() // self.processes + gathered
        # Multiplication in 16 bits keeps its copies of the weights for the backward pass.
        return self.state() + (HALF * self.parameters if self.half else 0)

    def sent(self) -> int:
        """Return what each process sends in a step, over a ring and in one piece."""
        # Gradients that are added up pass each link twice; a share of weights, or of gradients, once. Sharded weights
        # are gathered for the forward pass and again for the backward pass, and gradients are scattered.
        each = 2 * FLOAT if self.strategy == "ddp" else 2 * (HALF if self.half else FLOAT) + FLOAT
        return each * self.parameters * (self.processes - 1) // self.processes

    def checkpoint(self) -> int:
        """Return the size of a checkpoint: last.pth, best.pth and each epoch_XXXX.pth are one each."""
        return self.state() - FLOAT * self.parameters  # no gradients


def shown(number: float, unit: str) -> str:
    """Write a number with three digits and a prefix."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number * 1e3:.3g} m{unit}" if number else "-"


def table(plans: list[Plan], network: float, disk: float) -> str:
    """Lay plans out in a table.

    Args:
        plans: what to show.
        network: bytes per second that a process can send.
        disk: bytes per second that a process can write.
    """
    rows = [
        ("devices", "strategy", "memory each", "sent a step", "which takes", "checkpoint", "one writes", "all write")
    ]
    for plan in plans:
        size = plan.checkpoint()
        together = size / plan.processes / disk if plan.strategy == "fsdp" else 0
        rows.append(
            (
                *(f"{plan.processes:,}", plan.strategy, shown(plan.memory(), "B"), shown(plan.sent(), "B")),
                *(shown(plan.sent() / network, "s"), shown(size, "B"), shown(size / disk, "s"), shown(together, "s")),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parameters", type=float, help="of the model; the table of layers at a run's start counts them")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64, 1024], help="1 8 64 1024 if not given")
    parser.add_argument("--states", type=int, default=2, help="numbers that the optimizer keeps for each: 2 for Adam")
    parser.add_argument("--ema", action="store_true", help="with an average of the weights")
    parser.add_argument("--half", action="store_true", help="in bf16; with ddp, fp16 is the same")
    parser.add_argument("--parts", type=int, default=32, help="repeated parts of the network (32)")
    parser.add_argument("--network", type=float, default=25, help="GB that a device can send in a second (25)")
    parser.add_argument("--disk", type=float, default=0.4, help="GB that a process can write in a second (0.4)")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    words = parse_arguments()
    plans = [
        Plan(int(words.parameters), devices, strategy, words.states, words.ema, words.half, words.parts)
        for devices in words.devices
        for strategy in (("ddp",) if devices == 1 else ("ddp", "fsdp"))
    ]
    print(table(plans, words.network * 1e9, words.disk * 1e9))


if __name__ == "__main__":
    main()
