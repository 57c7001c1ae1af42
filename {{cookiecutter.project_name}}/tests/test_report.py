"""The report: one HTML file about a run, or about several."""

import json
import math
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reporting.charts import make_charts
from reporting.page import write_report
from reporting.record import differences, read_run
from trainer.trainer import Trainer
from utils.errors import UserError


class Page(HTMLParser):
    """What a page holds: its text, its tags, the addresses that it names, and the rows of its tables."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = ""
        self.tags, self.addresses = [""], [""]
        self.rows: list[list[str]] = [[]]
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.tags[-1] != "style":
            self.text += data
            if self.rows[-1]:
                self.rows[-1][-1] += data.strip()


def png() -> bytes:
    """The smallest picture: one grey pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")


def make_run(folder: Path, lines: list[dict[str, Any]], config: dict[str, Any] | None = None, rest: str = "") -> Path:
    """Write the files of a run by hand."""
    (folder / "checkpoints").mkdir(parents=True)
    text = "".join(json.dumps({"step": 10 * line["epoch"], "best": False} | line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + rest, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config or {"name": "x"}), encoding="utf-8")
    return folder


def report(*runs: Path) -> Page:
    """Write a report about runs, and read it."""
    file = runs[0] / "page.html"
    write_report([read_run(run) for run in runs], file)
    return Page(file)


def test_a_run_ends_with_a_page_that_needs_nothing_else(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny(loggers={"report": True})
    run = trainer.saver.run_dir
    (run / "plots").mkdir()
    (run / "plots" / "confusion.png").write_bytes(png())
    (run / "plots" / "written.txt").write_text("한 <b>\n", encoding="utf-8")
    (run / "config.json").write_text(trainer.config.model_dump_json(by_alias=True), encoding="utf-8")
    trainer.train()
    page = Page(run / "report.html")
    assert "finished:\n  3 of 3 epochs, 15 steps" in page.text
    assert page.tags.count("svg") == 4  # loss, learning rate, samples per second, waiting for data
    assert "script" not in page.tags
    assert any(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert all(address.startswith(("data:", "#")) for address in page.addresses if address)
    assert "한 <b>\n" in page.text
    assert ["optimizer.args.lr", "0.05"] in page.rows
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert any(row[0] == "3" and f"{last['val_loss']:.4g}" in row for row in page.rows if row)


def test_a_run_that_breaks_off_has_its_page_too(tiny: Callable[..., Trainer]) -> None:
    trainer = tiny(loggers={"report": True})
    trainer.end_epoch = lambda metrics: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    text = Page(trainer.saver.run_dir / "report.html").text
    assert "not finished" in text
    assert "No epoch has been evaluated yet." in text


def test_several_runs_are_compared(tmp_path: Path) -> None:
    shared = {"name": "x", "trainer": {"epochs": 2, "monitor": "max val_f1"}}
    runs = [
        make_run(
            tmp_path / "x" / f"run-{lr}",
            [{"epoch": 1, "best": True, "val_f1": best}, {"epoch": 2, "val_f1": 0.1, "train_loss": 2.0}],
            shared | {"optimizer": {"args": {"lr": lr}}},
        )
        for lr, best in ((0.1, 0.5), (0.2, 0.75))
    ]
    page = report(*runs)
    assert [row for row in page.rows if "lr" in "".join(row)][:1] == [["optimizer.args.lr", "0.1", "0.2"]]
    assert ["run-0.1", "2 (not finished)", "1", "0.5", "–"] in page.rows
    assert ["run-0.2", "2 (not finished)", "1", "0.75", "–"] in page.rows
    html = (runs[0] / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'<td class="best">\s*([\d.]+)</td>', html) == ["0.75"]
    assert page.tags.count("svg") == 2
    assert "var(--c0)" in html
    assert "var(--c1)" in html


@pytest.mark.parametrize(
    ("lines", "rest", "charts", "shown"),
    [
        ([{"epoch": 1, "val_loss": 0.5, "lr": 1, "lr_body": 1, "lr_the_head": 2}], "", 2, "the_head"),
        ([], "", 0, "No epoch has been evaluated yet."),
        ([{"epoch": 1, "val_loss": 0.5}], '{"epoch": 2, "val', 1, "0.5"),
        ([{"epoch": 1, "val_loss": float("nan")}, {"epoch": 2, "val_loss": float("inf")}], "", 1, "inf"),
        ([{"epoch": 1, "val_loss": 1}, {"epoch": 2, "best": True, "val_f1": 1.0, "timing": {"mb": 3.5}}], "", 3, "3.5"),
    ],
    ids=["groups", "no epoch", "half a line", "not finite", "other metrics"],
)
def test_runs_of_all_kinds_have_a_page(
    tmp_path: Path, lines: list[dict[str, Any]], rest: str, charts: int, shown: str
) -> None:
    run = make_run(tmp_path / "run", lines, rest=rest)
    page = report(run)
    assert page.tags.count("svg") == charts
    assert shown in page.text
    report(run, make_run(tmp_path / "other", [{"epoch": 1, "train_loss": 2.0}]))


def test_whatever_a_name_holds_is_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&$x_$'
    starts = [{"command": ["python", evil], "git": {"commit": evil, "diff": evil}, "packages": {evil: evil}}]
    # A folder's name cannot hold a slash.
    run = make_run(tmp_path / "<b>&$x_$", [{"epoch": 1, "best": True, f"val_{evil}": 1.0}], {evil: {evil: evil}})
    (run / "environment.json").write_text(json.dumps(starts), encoding="utf-8")
    for page in (report(run), report(run, make_run(tmp_path / "other", []))):
        assert "script" not in page.tags
        assert page.tags.count("b") == page.text.count("best, epoch 1")  # the page's own, in its tiles
        assert page.text.count(evil) >= 6


def test_the_script_takes_folders_of_runs_and_passes_over_files(
    finished_run: Path, script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        shutil.copytree(finished_run, runs / name)
    assert script("report.py", runs / "one") == 0
    assert "finished:\n  2 of 2 epochs" in Page(runs / "one" / "report.html").text
    assert script("report.py", runs) == 0
    assert "2 runs of runs" in Page(runs / "comparison.html").text
    words: list[object] = [*runs.iterdir(), "-o", tmp_path / "mine.html"]  # now the page itself lies among the runs
    assert script("report.py", *words) == 0
    assert "Nowhere: it is the same config." in Page(tmp_path / "mine.html").text
    capsys.readouterr()
    for folder, said in ((tmp_path / "nothing", "no such folder"), (runs / "one" / "checkpoints", "not the folder")):
        assert script("report.py", folder) == 2
        assert said in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a run"):
        read_run(tmp_path)


def test_keys_differ_where_one_run_lacks_them(tmp_path: Path) -> None:
    configs: list[dict[str, Any]] = [{"a": 1, "b": {"c": [1]}}, {"a": 1, "b": {"c": [2], "d": None}}]
    runs = [read_run(make_run(tmp_path / str(n), [], config)) for n, config in enumerate(configs)]
    assert differences(runs) == {"b.c": [[1], [2]]}


def test_a_chart_owes_nothing_to_the_one_that_was_drawn_before_it(tmp_path: Path) -> None:
    values = {
        "train_loss": [100.0, 1.0, 0.01],  # on a logarithmic scale
        "train_accuracy": [-0.5, 0.5, 0.9],
        "lr": [0.001, 0.1, 0.01],  # from 0 on
        "val_bias": [-2.0, -1.0, -3.0],
        "val_loss": [50.0, 2.0, 0.02],
        "val_nothing": [math.nan, math.nan, math.nan],
    }
    lines = [
        {"epoch": number, "best": number == 2, **{name: column[number - 1] for name, column in values.items()}}
        for number in (1, 2, 3)
    ]

    def drawn(names: list[str]) -> dict[str, str]:
        kept = [{name: line[name] for name in ("epoch", "best", *names)} for line in lines]
        charts = make_charts([read_run(make_run(tmp_path / "-".join(names), kept))])
        names_of_parts = r'id="[^"]*"|#[^")]*(?="|\))'
        return {chart.title: re.sub(names_of_parts, "", chart.svg) for group in charts for chart in group}

    together = drawn(list(values))
    alone = drawn(["train_loss", "val_loss"]) | drawn(["train_accuracy"]) | drawn(["lr"]) | drawn(["val_bias"])
    alone |= drawn(["val_nothing"])
    assert together == alone
    assert len(alone) == 5
