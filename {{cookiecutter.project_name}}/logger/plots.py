"""The pictures and texts of a run as files in `plots/`, and its curves, drawn when it ends."""

import json
from typing import TYPE_CHECKING

from logger.contents import picture
from logger.observer import Observer

if TYPE_CHECKING:
    from matplotlib.figure import Figure as AnyFigure

    from trainer.trainer import Trainer


class Plots(Observer):
    """Draws `plots/curves.png` from `metrics.jsonl`: a chart per quantity, training and validation on one.

    What other observers draw and write is kept beside it; what is newer replaces what is older and has the same name.
    """

    def on_figure(self, name: str, figure: "AnyFigure", step: int) -> None:
        """Keep a picture: `validation/mistakes` becomes `plots/mistakes.png`."""
        self._save(name, ".png", picture(figure))

    def on_text(self, name: str, text: str, step: int) -> None:
        """Keep a text: `validation/written` becomes `plots/written.txt`."""
        self._save(name, ".txt", text.encode("utf-8"))

    def on_end(self, trainer: "Trainer") -> None:
        """Draw the picture."""
        # Figure instead of pyplot: no window, no global state, and half the import time.
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        text = (self.run_dir / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        quantities = [name.removeprefix("val_") for name in (lines or [{}])[0] if name.startswith("val_")]
        if not quantities:
            return
        best = next((line["epoch"] for line in reversed(lines) if line["best"]), None)
        columns = min(3, len(quantities))
        rows = -(-len(quantities) // columns)
        width, height = 5 * columns, 3.6 * rows
        figure = Figure(figsize=(width, height))
        # Room for labels, in inches; to compute it takes matplotlib as long as to draw.
        figure.subplots_adjust(
            left=0.6 / width, right=1 - 0.2 / width, bottom=0.5 / height, top=1 - 0.4 / height, wspace=0.2, hspace=0.36
        )
        for number, quantity in enumerate(quantities, 1):
            axis = figure.add_subplot(rows, columns, number)
            for split, colour in (("train", "C0"), ("val", "C1")):
                points = [(line["epoch"], line.get(f"{split}_{quantity}")) for line in lines]
                points = [point for point in points if point[1] is not None]
                if points:
                    marker = "." if len(points) < 30 else None
                    axis.plot(*zip(*points, strict=True), color=colour, label=split, marker=marker)
            if best is not None:
                axis.axvline(best, color="grey", linestyle=":", linewidth=1, label="best")
            axis.set_title(quantity, y=1)  # for a height of its own choice it would lay out all labels once more
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            axis.grid(alpha=0.3)
            if number == 1:
                axis.legend()
        self._save("curves", ".png", picture(figure))

    def _save(self, name: str, suffix: str, content: bytes) -> None:
        (self.run_dir / "plots").mkdir(exist_ok=True)
        (self.run_dir / "plots" / (name.rpartition("/")[2] + suffix)).write_bytes(content)
