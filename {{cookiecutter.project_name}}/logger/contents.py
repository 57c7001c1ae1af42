"""What trackers show of a run, whichever they are: how things are called, hyperparameters, values for histograms."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import nn

from logger.console import log
from utils.config import Config
from utils.distributed import share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.monitor import Monitor

_pictures: "WeakKeyDictionary[Figure, bytes]" = WeakKeyDictionary()

# Of pictures, dots per inch.
DPI = 120
# A histogram of this many values of a tensor looks like that of all of them.
_ENOUGH = 10_000
# Fonts with Korean, Chinese and Japanese letters, of Linux, Windows and macOS.
_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans CJK JP",
    "NanumGothic",
    "Malgun Gothic",
    "Microsoft YaHei",
    "Yu Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "Arial Unicode MS",
)
# What makes no difference to the result.
_NOT_A_HYPERPARAMETER = ("$schema", "name", "loggers", "trainer.save", "trainer.log_every", "trainer.keep_last")


def step_tags(scalars: dict[str, float]) -> dict[str, float]:
    """Name the scalars of a log entry within an epoch: `train_loss` is `steps/train_loss`."""
    return {f"steps/{name}": value for name, value in scalars.items()}


def epoch_tags(scalars: dict[str, float], monitor: "Monitor") -> dict[str, float]:
    """Name the scalars of an epoch.

    `train_loss` and `val_loss` become `loss/train` and `loss/val`, which trackers show side by side.
    """
    tags = {}
    for name, value in scalars.items():
        split, _, quantity = name.partition("_")
        tags[f"{quantity}/{split}" if split in ("train", "val") else f"run/{name}"] = value
    if monitor.best is not None:
        tags[f"run/best_{monitor.metric}"] = monitor.best
    return tags


def is_due(step: int, passed: int, every: int | None) -> bool:
    """Whether something that is wanted every so many steps comes now, when it last could come `passed` steps ago."""
    return every is not None and step // every > (step - passed) // every


def hyperparameters(config: Config) -> dict[str, float | str]:
    """Return what may make a difference to the result, by a short path: `optimizer`, `optimizer.lr`."""
    flat = dict(_flatten(config.model_dump(mode="json", by_alias=True), ""))
    shown = {path: value for path, value in flat.items() if not path.startswith(_NOT_A_HYPERPARAMETER)}
    return {path.replace(".args.", ".").removesuffix(".type"): value for path, value in shown.items()}


def _flatten(value: Any, path: str) -> Iterator[tuple[str, float | str]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flatten(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _flatten(entry, f"{path}.{number}")
    elif value is not None:
        yield path, str(value).lower() if isinstance(value, bool) else value


def weights_and_gradients(model: nn.Module) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Return the finite values of each parameter and its gradient, of large ones an evenly spread part.

    Of a model that is divided among the processes, these are those of this one.
    """
    for name, parameter in model.named_parameters():
        for kind, tensor in (("weights", parameter), ("weight_gradients", parameter.grad)):
            if tensor is not None:
                flat = share(tensor.detach()).flatten()
                values = flat[:: -(-flat.numel() // _ENOUGH) or 1].float().cpu().numpy()
                if np.isfinite(values).any():
                    yield f"{kind}/{name}", values[np.isfinite(values)]


@contextmanager
def letters_of_all_languages() -> Iterator[None]:
    """Let matplotlib take letters that its own font lacks from the fonts of the system, if it has one with them."""
    from matplotlib import rc_context, rcParams
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    with rc_context({"font.family": [*rcParams["font.family"], *(font for font in _FONTS if font in installed)]}):
        yield


def picture(figure: "Figure") -> bytes:
    """Return a figure as PNG; each is drawn once, however many trackers ask for it."""
    if figure not in _pictures:
        stream = io.BytesIO()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            figure.savefig(stream, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
        for warning in said:
            if "Glyph" in str(warning.message):
                _tell_of_boxes()
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        _pictures[figure] = stream.getvalue()
    return _pictures[figure]


@cache
def _tell_of_boxes() -> None:
    log.warning(
        "pictures show boxes for letters that no font of this machine has; %s has most", " or ".join(_FONTS[:3])
    )
