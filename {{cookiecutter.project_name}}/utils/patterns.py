"""Names of a model's parts, and patterns over them, as in `features.*`."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


def class_name(module: nn.Module) -> str:
    """Return what a module's class is called; FSDP puts one of its own in front, `FSDPLinear` for `Linear`."""
    classes = type(module).__mro__
    return next(each.__name__ for each in classes if not each.__module__.startswith("torch.distributed"))


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names this part or one that contains it.

    `*` stands for anything, dots included: `features`, `features.*` and `*.weight` all match `features.0.weight`.
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def selected(name: str, patterns: Sequence[str]) -> bool:
    """Whether the last pattern that matches selects the name; one that begins with `!` makes an exception."""
    chosen = False
    for pattern in patterns:
        if matches(name, pattern.removeprefix("!")):
            chosen = not pattern.startswith("!")
    return chosen


def idle_patterns(patterns: Sequence[str], names: Iterable[str]) -> list[tuple[int, str]]:
    """Find the patterns that match none of the names.

    Returns:
        The position of each, and a sentence about it with the names that come closest.
    """
    known = sorted(names)
    idle = []
    for position, pattern in enumerate(patterns):
        bare = pattern.removeprefix("!")
        if any(matches(name, bare) for name in known):
            continue
        places = sorted({".".join(name.split(".")[:end]) for name in known for end in range(1, name.count(".") + 2)})
        close = get_close_matches(bare.rstrip(".*"), places, n=1, cutoff=0.6)
        listed = ", ".join(places[:12]) + (", …" if len(places) > 12 else "")
        hint = f"did you mean `{close[0]}`?" if close else f"allowed: patterns over {listed}"
        idle.append((position, f"found `{pattern}`, which matches nothing in the model; {hint}"))
    return idle


def all_names(named: Iterable[tuple[str, object]]) -> dict[str, list[str]]:
    """Collect the names of each part that is shared under several.

    Args:
        named: names and parts, as from `model.named_parameters(remove_duplicate=False)`.

    Returns:
        Every name of a part, under its first one.
    """
    names: dict[int, list[str]] = {}
    for name, part in named:
        names.setdefault(id(part), []).append(name)
    return {every[0]: every for every in names.values()}
