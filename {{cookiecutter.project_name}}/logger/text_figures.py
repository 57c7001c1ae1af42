"""Pictures for language models: texts by the loss of each character, loss by position; and what the model writes."""

import codecs
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import PositiveInt
from torch.nn import functional

from data_loaders.byte_tokens import END, NUM_TOKENS, decode, encode
from data_loaders.collate import PADDING
from logger.contents import DPI
from logger.figures import Figures
from utils.distributed import share
from utils.generation import generate
from utils.seeding import random_state_kept

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.trainer import StepResult

_COLUMNS = 48
_CELL = 10, 21  # pixels
_FONT = "DejaVu Sans Mono"  # it comes with matplotlib
_VISIBLE = {"\n": "↵", "\t": "→"}


class TextFigures(Figures):
    """Draws from batches of tokens `(n, length)`, the tokens that come next, and scores for those.

    Padding does not count. Where tokens are no bytes, the loss by position is all that is drawn.
    """

    def __init__(
        self,
        run_dir: Path,
        every: PositiveInt = 1000,
        texts: PositiveInt = 6,
        length: PositiveInt = 200,
        prompt: str = "",
    ) -> None:
        """Draw, and let the model write, now and then, and after the last epoch.

        Args:
            run_dir: the run's folder.
            every: training steps between two drawings; they come after an epoch.
            texts: how many are shown, of the longest in the first batches.
            length: bytes that the model writes.
            prompt: what these go on from; "" lets the model begin a text.
        """
        super().__init__(run_dir, every)
        self.shown = texts
        self.length = length
        self.prompt = prompt

    def fits(self, batch: Any, result: "StepResult") -> bool:
        """Whether these are tokens, and scores of the next ones."""
        parts = [*batch[:1], result.targets, result.output] if isinstance(batch, list | tuple) else []
        if not parts or not all(isinstance(part, torch.Tensor) for part in parts):
            return False
        tokens, targets, scores = parts
        whole = not (targets.is_floating_point() or tokens.is_floating_point())
        self._are_bytes = scores.shape[-1] == NUM_TOKENS
        return whole and targets.ndim == 2 and tokens.shape == targets.shape == scores.shape[:-1]

    def reset(self) -> None:
        """Forget all texts."""
        self._texts: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums = torch.zeros(2, 0)

    def collect(self, batch: Any, result: "StepResult") -> None:
        """Add up losses by position, and keep some of the longest texts."""
        targets, scores = result.targets, result.output.float().flatten(0, 1)
        losses = functional.cross_entropy(scores, targets.flatten(), reduction="none", ignore_index=PADDING)
        losses = losses.view_as(targets)
        sums = torch.stack([losses.sum(dim=0), (targets != PADDING).sum(dim=0).float()])
        if sums.shape[1] > self._sums.shape[1]:
            self._sums, sums = sums, self._sums.to(sums.device)
        self._sums[:, : sums.shape[1]] += sums
        if self._texts is None or targets.shape[1] > self._texts[0].shape[1]:
            self._texts = targets[: self.shown], losses[: self.shown]

    def figures(self) -> "dict[str, Figure]":
        """Draw both."""
        assert self._texts is not None
        sums, counts = self._sums.tolist()
        means = [total / count for total, count in zip(sums, counts, strict=True) if count]
        figures = {"validation/loss_by_position": draw_positions(means, sum(sums) / sum(counts))}
        if self._are_bytes:
            texts = [list(characters(*pair)) for pair in zip(*(part.tolist() for part in self._texts), strict=True)]
            figures["validation/token_loss"] = draw_texts(texts)
        return figures

    def texts(self) -> Mapping[str, str]:
        """Let the model write, as it was evaluated; no random number of training's own is used."""
        trainer = self._trainer if self._are_bytes else None
        if not trainer or not isinstance(getattr(trainer.model, "max_length", None), int):
            return {}
        # To call a model that is divided takes all processes, and only this one watches.
        if any(share(parameter) is not parameter for parameter in trainer.model.parameters()):
            return {}
        tokens = encode(self.prompt.encode()).tolist()[:-1]
        averaged = trainer.average.applied() if trainer.average else nullcontext()
        eager = torch.compiler.set_stance("force_eager")  # each length that is written would be compiled by itself
        with random_state_kept(), averaged, trainer.precision.autocast(), eager:
            written = generate(trainer.model, tokens, self.length, temperature=0.8)
        text = decode(tokens[1:] + written)
        return {"validation/written": "".join(each if each.isprintable() or each == "\n" else "·" for each in text)}


def characters(tokens: list[int], losses: list[float]) -> Iterator[tuple[str, float]]:
    """Make visible characters of bytes, with what their bytes lost in all; padding is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    total = 0.0
    for token, loss in zip(tokens, losses, strict=True):
        if token == PADDING:
            continue
        total += loss
        text = decoder.decode(b"", final=True) + "∎" if token == END else decoder.decode(bytes([token]))
        for character in text:
            yield _VISIBLE.get(character, character if character.isprintable() else "·"), total
            total = 0.0


def draw_texts(texts: list[list[tuple[str, float]]]) -> "Figure":
    """Draw texts on a ground that is the redder, the less the model expected a character."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.font_manager import findfont, get_font

    empty: list[tuple[str, float]] = []
    rows = [row for text in texts for row in [*_rows(text), empty]][:-1]
    losses = [[loss for _, loss in row] + [0.0] * (_COLUMNS - len(row)) for row in rows]
    width, height = _CELL[0] * _COLUMNS + 40, _CELL[1] * len(rows) + 75
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axis: Axes = figure.add_axes((20 / width, 15 / height, 1 - 40 / width, 1 - 75 / height))
    ground = LinearSegmentedColormap.from_list("ground", ["#ffffff", "#ffe9a8", "#ff9d5c", "#f0524f"])
    guess = math.log(NUM_TOKENS)
    axis.imshow(losses, cmap=ground, vmin=0, vmax=guess, aspect="auto", interpolation="nearest")
    axis.axis("off")
    axis.set_title(
        f"validation texts: white is expected, red is no better\nthan a guess (a loss of {guess:.1f})", fontsize=10
    )
    size = _CELL[0] / DPI * 72 / 0.602  # a character of the font is 0.602 times as wide
    known = get_font(findfont(_FONT)).get_charmap()
    for number, row in enumerate(rows):
        text = "".join(character if ord(character) in known else "□" for character, _ in row)
        axis.text(-0.5, number, text, va="center_baseline", fontsize=size, family=_FONT, parse_math=False)
    return figure


def _rows(text: list[tuple[str, float]]) -> list[list[tuple[str, float]]]:
    return [text[begin : begin + _COLUMNS] for begin in range(0, len(text), _COLUMNS)]


def draw_positions(means: list[float], mean: float) -> "Figure":
    """Draw how the loss falls as a text goes on, and the model knows more of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    axis: Axes = figure.add_subplot()
    axis.plot(range(1, len(means) + 1), means, linewidth=1.2)
    axis.axhline(mean, color="grey", linestyle=":", linewidth=1, label=f"mean: {mean:.3g}")
    axis.set(xlabel="position of the token", ylabel="cross entropy (nats)", title="loss by position, validation data")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
