"""Curves as SVG that takes its colours from the page around it, and so is readable in light and dark."""

import io
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reporting.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib knows no CSS: it draws in these colours, which are then replaced.
_INK, _GRID = "#200000", "#200001"
COLOURS = 8
TITLES = {
    "lr": "learning rate",
    "samples_per_second": "samples per second",
    "data_wait": "share of time spent waiting for data",
    "memory_host_mb": "most memory used so far (MB)",
    "memory_device_mb": "most memory of the device used so far (MB)",
}


@dataclass
class Curve:
    """One line of a chart: points, the number of its colour, whether it is dashed, and what it is called if need be."""

    xs: list[float]
    ys: list[float]
    colour: int
    dashed: bool
    label: str


@dataclass
class Chart:
    """Curves of one quantity.

    Attributes:
        title: the quantity.
        curves: a line for each run, or for training and validation.
        of_model: training and validation, and not the learning rate, time or machine.
        best: the epoch to mark.
        svg: the picture.
    """

    title: str
    curves: list[Curve]
    of_model: bool
    best: int | None
    svg: str = ""


def make_charts(runs: list[RunRecord]) -> tuple[list[Chart], list[Chart]]:
    """Draw a chart for each quantity of the runs.

    With one run, training and validation have colours of their own; with several, each run has one, and training
    is dashed.

    Returns:
        Charts of what is trained and validated, and all others (learning rate, time, machine).
    """
    names = dict.fromkeys(name for run in runs for line in run.lines for name in run.values(line))
    quantities: dict[str, list[str]] = {}
    for name in names:
        split, _, rest = name.partition("_")
        if name == "seconds":
            continue  # samples per second say the same
        if split in ("train", "val"):
            quantities.setdefault(rest, []).append(name)
        else:
            quantities.setdefault("lr" if name.startswith("lr_") else name, []).append(name)
    charts: tuple[list[Chart], list[Chart]] = ([], [])
    with _style():
        figure = _empty_figure()
        for quantity, members in quantities.items():
            of_model = all(name.startswith(("train_", "val_")) for name in members)
            # The first group has the rate that is called `lr`, too.
            members = [name for name in members if name != "lr"] if len(members) > 1 and quantity == "lr" else members
            title, best = TITLES.get(quantity, quantity), _best_epoch(runs) if of_model else None
            chart = Chart(title, _curves(runs, members, of_model), of_model, best)
            if chart.curves:
                chart.svg = _draw(chart, figure, number=len(charts[0]) + 100 * len(charts[1]))
                charts[0 if of_model else 1].append(chart)
    return charts


def _best_epoch(runs: list[RunRecord]) -> int | None:
    best = runs[0].best if len(runs) == 1 else None
    return int(best["epoch"]) if best else None


def _curves(runs: list[RunRecord], names: list[str], of_model: bool) -> list[Curve]:
    curves = []
    for number, run in enumerate(runs):
        for index, name in enumerate(names):
            points = [(float(line["epoch"]), run.values(line)[name]) for line in run.lines if name in run.values(line)]
            if points:
                train = name.startswith("train_")
                label = "" if of_model or len(names) == 1 or len(runs) > 1 else name.partition("_")[2]
                # Colours that have a name of their own are not those of training and validation.
                colour = number if len(runs) > 1 else (0 if train else 1) if of_model else index + 2 * bool(label)
                xs, ys = (list(column) for column in zip(*points, strict=True))
                curves.append(Curve(xs, ys, colour % COLOURS, train and len(runs) > 1, label))
    return curves


def _style() -> AbstractContextManager[Any]:
    """Let matplotlib draw texts as texts, in the colours that stand for those of the page."""
    from matplotlib import rc_context

    style: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 9}
    style |= dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor", "axes.labelcolor"), _INK)
    style |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _GRID)
    return rc_context(style)


def _empty_figure() -> "Figure":
    """Make what all charts are drawn into, one after the other: to make it takes nearly as long as to draw a chart."""
    # Figure instead of pyplot: no window, no global state, and half the import time.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 2.7))
    # Room for labels that is the same in all charts; to compute it takes matplotlib as long as to draw.
    figure.subplots_adjust(left=0.13, bottom=0.17, right=0.96, top=0.95)
    axes = figure.add_subplot()
    axes.grid(visible=True, linewidth=0.6)
    axes.tick_params(which="both", bottom=False, left=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("epoch")
    return figure


def _draw(chart: Chart, figure: "Figure", number: int) -> str:
    """Draw one chart; `number` keeps the names in its SVG apart from those of other charts on the page."""
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator

    (axes,) = figure.axes
    for line in list(axes.lines):
        line.remove()
    for curve in chart.curves:
        few = len(curve.xs) < 25
        axes.plot(
            curve.xs,
            curve.ys,
            color=_colour(curve.colour),
            linestyle="--" if curve.dashed else "-",
            marker="o" if few else None,
            markersize=2.8,
            linewidth=1.4,
        )
    if chart.best is not None:
        axes.axvline(chart.best, color=_INK, linestyle=":", linewidth=1)
    lowest, decades = _span(chart)
    logarithmic = "loss" in chart.title and decades > 2
    axes.set_yscale("log" if logarithmic else "linear")
    axes.set_ylim(0.1, 1)  # for a chart without any finite value
    axes.relim()
    axes.autoscale()
    if not logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        if not chart.of_model and lowest >= 0:
            axes.set_ylim(bottom=0)  # so that jitter does not look like a change
    epochs = [x for curve in chart.curves for x in curve.xs]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": f"chart{number}"}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    for colour in range(COLOURS):
        svg = svg.replace(_colour(colour), f"var(--c{colour})")
    for name in ("figure_1", "axes_1"):
        svg = svg.replace(f'id="{name}"', f'id="{name}-{number}"')
    return svg


def _colour(number: int) -> str:
    return f"#1000{number:02x}"


def _span(chart: Chart) -> tuple[float, float]:
    """Return the lowest value, and how many powers of ten lie between it and the highest."""
    values = [y for curve in chart.curves for y in curve.ys if math.isfinite(y)]
    lowest, highest = (min(values), max(values)) if values else (0.0, 0.0)
    return lowest, math.log10(highest / lowest) if lowest > 0 else 0.0
