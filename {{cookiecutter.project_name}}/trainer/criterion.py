"""The loss and the metrics of a run, with an answer to outputs and targets that do not fit."""

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_loaders.collate import PADDING
from trainer.meter import Weighted
from utils.config import Config
from utils.distributed import gathered
from utils.errors import UserError
from utils.libraries import from_library
from utils.registry import arguments_with, build, metric_name

Measure = Callable[[Any, Any], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]

MODEL = Path(__file__).resolve().parents[1] / "model"

# Losses by what they compare, to suggest them; the first of a group is the one to try.
OF_NUMBERS = ("MSELoss", "NormalizedMSELoss")
OF_CLASSES = ("cross_entropy", "CrossEntropyLoss")
OF_TOKENS = ("token_cross_entropy",)


class Criterion:
    """The loss; it returns one value per sample (those of a pair have weights), or the mean of the batch."""

    def __init__(self, config: Config, device: torch.device) -> None:
        """Build the loss that the config names."""
        self.name = config.loss.type
        self.model = config.model
        built = build("loss", config.loss)
        self.function: Measure = built.to(device) if isinstance(built, torch.nn.Module) else built
        self.of_library = from_library(type(built))

    def __call__(self, output: Any, targets: Any) -> torch.Tensor | Weighted:
        """Compute the loss.

        Raises:
            UserError: output and targets do not fit the loss; their shapes are named. Whatever else goes wrong
                in the loss keeps its own exception.
        """
        try:
            values = self.function(output, targets)
        except (IndexError, RuntimeError, ValueError, TypeError) as error:
            better = self._better(output, targets)
            found = explain_misfit(output, targets, certain=self.of_library or bool(better))
            if found is None:
                raise
            raise UserError(f"loss {self.name}: {found} ({error}){better or self._room(output, targets)}") from error
        if self.of_library and are_broadcast(output, targets, values):
            raise UserError(
                f"loss {self.name}: {_shapes(output, targets)}; it compares them one by one: make them alike"
            )
        return _weighted(values)

    def _better(self, output: Any, targets: Any) -> str:
        """Say which losses fit, to end a message with, if this is not one of them and known well enough to tell."""
        fitting = fitting_losses(output, targets)
        known = self.name in (*OF_NUMBERS, *OF_CLASSES, *OF_TOKENS)
        return _suggest(fitting) if known and fitting and self.name not in fitting else ""

    def _room(self, output: Any, targets: Any) -> str:
        """Say which argument of the model is likely to make room for the labels, to end a message with."""
        labels = labels_outside(output, targets)
        if labels is None or labels.low < 0:
            return ""
        names = [name for name in arguments_with("model", self.model, labels.classes) if "class" in name]
        return f"; model.args.{names[0]} should be {labels.high + 1} or more" if names else ""


def fitting_losses(output: Any, targets: Any) -> tuple[str, ...]:
    """Name the losses that are for such an output and such targets, as far as their shapes tell."""
    if not (isinstance(output, torch.Tensor) and isinstance(targets, torch.Tensor)):
        return ()
    if targets.is_floating_point():
        return OF_NUMBERS if output.shape == targets.shape else ()
    if targets.ndim > 1 and output.shape[:-1] == targets.shape and output.shape[-1] > 1:
        return OF_TOKENS
    scores = output.ndim > 1 and output.shape[1] > 1
    return OF_CLASSES if scores and output.shape[:1] + output.shape[2:] == targets.shape else ()


def refuse_numbers(loss: str, output: Any, targets: Any) -> None:
    """Refuse what a cross entropy takes for probabilities of a single class, without a word.

    Raises:
        UserError: the loss is a cross entropy, and output and targets are one number per sample.
    """
    if loss in (*OF_CLASSES, *OF_TOKENS) and fitting_losses(output, targets) == OF_NUMBERS and output[0].numel() == 1:
        found = f"{_shapes(output, targets)}, and these are not scores and numbers of classes"
        raise UserError(f"loss {loss}: {found}{_suggest(OF_NUMBERS)}")


def explain_misfit(output: Any, targets: Any, *, certain: bool = False) -> str | None:
    """Say what about the shapes or labels is likely to be wrong; None when nothing is to be seen.

    A loss of torch has no bug of its own to show: where it is `certain` that they do not fit, the answer is never None.
    """
    if not (isinstance(output, torch.Tensor) and isinstance(targets, torch.Tensor)):
        return f"the model returns {_describe(output)} and the targets are {_describe(targets)}"
    if labels := labels_outside(output, targets):
        low, high, classes = labels
        return f"labels run from {low} to {high}, and the model tells {classes} classes apart (0 to {classes - 1})"
    if _are_scores_and_labels(output, targets) and not certain:
        return None
    if certain or output.shape != targets.shape or targets.dtype != output.dtype:
        return f"{_shapes(output, targets)}; their types are {output.dtype} and {targets.dtype}"
    return None


class LabelRange(NamedTuple):
    """The lowest and the highest label of a batch, and how many classes there are scores for."""

    low: int
    high: int
    classes: int


def labels_outside(output: Any, targets: Any) -> LabelRange | None:
    """Return the range of the labels, if these are scores and labels and there are not scores for all of them."""
    if not _are_scores_and_labels(output, targets):
        return None
    labels = targets[targets != PADDING]
    classes = output.shape[-1] if output.shape[:-1] == targets.shape else output.shape[1]
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    return LabelRange(low, high, classes) if low < 0 or high >= classes else None


def _are_scores_and_labels(output: Any, targets: Any) -> bool:
    if not (isinstance(output, torch.Tensor) and isinstance(targets, torch.Tensor)):
        return False
    whole_numbers = not targets.is_floating_point() and targets.dtype != torch.bool
    return whole_numbers and output.ndim == targets.ndim + 1 and len(output) == len(targets)


def are_broadcast(output: Any, targets: Any, losses: Any) -> bool:
    """Say whether a loss of torch has paired what does not belong together: `(n, 1)` with `(n,)`, say."""
    if not (isinstance(output, torch.Tensor) and isinstance(targets, torch.Tensor)) or output.shape == targets.shape:
        return False
    classes = output.ndim == targets.ndim + 1 and losses.shape == targets.shape  # scores, and numbers of classes
    return not classes


def _place(error: BaseException) -> str:
    """Say where in this project an error was raised, if it was here."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(frame.filename).name}:{frame.lineno}: " for frame in frames if Path(frame.filename).parent == MODEL]
    return f"model/{own[-1]}" if own else ""


def _suggest(losses: tuple[str, ...]) -> str:
    return f"; loss.type={' or '.join(losses)} is for these"


def _shapes(output: torch.Tensor, targets: torch.Tensor) -> str:
    return f"the model's output has shape {tuple(output.shape)}, the targets {tuple(targets.shape)}"


def _weighted(values: Any) -> torch.Tensor | Weighted:
    return Weighted(*values) if isinstance(values, tuple) else values


def _describe(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


class Metrics:
    """The metrics of the config: functions per sample, and classes of torchmetrics for evaluation only."""

    def __init__(self, config: Config, device: torch.device) -> None:
        """Build the metrics that the config names."""
        self.per_sample: dict[str, Measure] = {}
        self.collected: dict[str, Any] = {}
        for component in config.metrics:
            built = build("metrics", component)
            if isinstance(built, torch.nn.Module):  # a torchmetrics class: it keeps state, and costs 0.1 ms a step
                built.dist_sync_fn = _of_all  # type: ignore[assignment]
                self.collected[metric_name(component)] = built.to(device)
            else:
                self.per_sample[metric_name(component)] = built

    def values(self, output: Any, targets: Any) -> dict[str, torch.Tensor | Weighted]:
        """Compute the metrics that are means over samples: a value for each sample, some of them with weights.

        Raises:
            UserError: a function returned a single number, which cannot be averaged exactly.
        """
        values = {name: _weighted(function(output, targets)) for name, function in self.per_sample.items()}
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim == 0:
                raise UserError(
                    f"metrics: {name} in model/metric.py returns a single number for a batch; it has to return one "
                    "value per sample, so that batches of different sizes are averaged right"
                )
        return values

    def try_out(self, output: Any, targets: Any) -> None:
        """Compute each metric once, and forget it.

        Raises:
            UserError: one of them does not fit; the message says where that showed.
        """
        measures = {**self.per_sample, **{name: metric.update for name, metric in self.collected.items()}}
        for name, measure in measures.items():
            try:
                measure(output, targets)
            except (IndexError, RuntimeError, ValueError, TypeError) as error:
                found = explain_misfit(output, targets, certain=True)
                raise UserError(f"metrics: {name}: {found} ({_place(error)}{error})") from error
        self.values(output, targets)
        for metric in self.collected.values():
            metric.reset()

    def collect(self, output: Any, targets: Any) -> None:
        """Let the classes of torchmetrics take in a batch of an evaluation."""
        regression = isinstance(targets, torch.Tensor) and targets.is_floating_point() and targets.device.type != "mps"
        if regression and self.collected:
            output, targets = output.double(), targets.double()  # they subtract large sums of squares
        for metric in self.collected.values():
            metric.update(output, targets)

    def computed(self) -> dict[str, float]:
        """Compute the classes of torchmetrics over what all processes have collected."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``compute``")  # of a process that had no samples
            return {name: float(metric.compute()) for name, metric in self.collected.items()}


def _of_all(state: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
    """Return a metric's state of each process, without those that had no samples: theirs has another form."""
    states = [each.to(state.device) for each in gathered(state.cpu()) if each.numel()]
    return states or [state]
