"""The page: what the records tell, laid out by `page.html` and, of several runs, `comparison.html`."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from reporting.charts import COLOURS, make_charts
from reporting.record import RunRecord, differences

_ROWS = 200  # of the table of epochs; a longer run shows every second, third, … epoch


def write_report(runs: list[RunRecord], path: Path) -> None:
    """Write one HTML file about one run, or about several and how they differ."""
    # Both are imported here because only a report needs them.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # whatever a name or a diff holds, it is text and not markup
        undefined=StrictUndefined,
        optimized=False,  # what is rendered once is not worth it
        trim_blocks=True,
        lstrip_blocks=True,
    )
    experiments = {run.folder.resolve().parent for run in runs}
    environment.filters.update(
        number=number,
        text=text,
        picture=picture,
        breakable=breakable,
        rows=rows,
        label=lambda run: run.name if len(experiments) > 1 else run.folder.name,
    )
    main, other = make_charts(runs)
    page = environment.get_template("page.html").render(
        runs=runs,
        charts=main,
        other_charts=other,
        colours=COLOURS,
        columns=columns(runs),
        differences=differences(runs) if len(runs) > 1 else {},
        direction=direction(runs),
        title=title(runs),
    )
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)


def title(runs: list[RunRecord]) -> str:
    """Return what stands above the page."""
    if len(runs) == 1:
        return runs[0].name
    experiments = dict.fromkeys(run.folder.resolve().parent.name for run in runs)
    return f"{len(runs)} runs of {', '.join(experiments)}"


def columns(runs: list[RunRecord]) -> list[str]:
    """Return what a table of results shows: all that is validated, then all else that is about the model."""
    names = dict.fromkeys(name for run in runs for line in run.lines for name in run.values(line))
    return [name for name in names if name.startswith("val_")] + [name for name in names if name.startswith("train_")]


def direction(runs: list[RunRecord]) -> tuple[str, float | None]:
    """Return the metric that all runs watch and the best value that any of them reached; ("", None) if they differ."""
    rules = {run.config.get("trainer.monitor") for run in runs}
    rule = rules.pop() if len(rules) == 1 else None
    if not isinstance(rule, str):
        return "", None
    mode, _, name = rule.partition(" ")
    values = [run.values(run.best)[name] for run in runs if run.best and name in run.values(run.best)]
    return name, (max if mode == "max" else min)(values) if values else None


def rows(run: RunRecord) -> list[dict[str, Any]]:
    """Return the evaluations that a table has room for: evenly spaced ones, the best and the last."""
    every = -(-len(run.lines) // _ROWS) or 1
    return [
        line
        for number, line in enumerate(run.lines)
        if number % every == 0 or line is run.best or line is run.lines[-1]
    ]


def number(value: Any) -> str:
    """Write a number as short as it stays useful; a dash stands for what is missing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return "–" if value is None else str(value)


def text(value: Any) -> str:
    """Write a value of a config or an environment as it stands in its file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def breakable(name: str) -> Any:
    """Let a name be broken after a dot or an underscore, where a phone has no room for it."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._/])", r"\1<wbr>", str(escape(name))))


def picture(path: Path) -> str:
    """Return a PNG file as an address that carries the picture itself."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
