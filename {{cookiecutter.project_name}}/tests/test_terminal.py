"""What a person sees: the bar, the lines, what --quiet and --verbose make of them, and who speaks at all."""

import argparse
import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logger.console import add_verbosity, log, progress_bar, set_up_logging
from trainer.closing import NOTHING_TRAINED
from trainer.stopwatch import Stopwatch
from trainer.trainer import Trainer
from utils.config import Config
from utils.errors import Interrupted, UserError, run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def sit_down(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Puts a terminal in the place of standard error; to be called in the test, where pytest no longer changes it."""
    return lambda: terminal(monkeypatch)


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("logger.console._REFRESH", 0.0)
    monkeypatch.setattr(log, "handlers", [])
    set_up_logging()
    return screen


def test_the_bar_shows_how_far_the_run_is_and_how_it_does(
    tiny: Callable[..., Trainer], sit_down: Callable[[], Terminal]
) -> None:
    screen = sit_down()
    tiny().train()
    shown = screen.getvalue().split("\r")
    late = [text for text in shown if text.startswith("epoch 3/3") and "14/15" in text][-1]
    for part in ("93%", " left", "loss ", "samples/s"):
        assert part in late


def test_a_bar_that_nobody_sees_is_silent(tiny: Callable[..., Trainer], capsys: pytest.CaptureFixture[str]) -> None:
    tiny().train()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("word", "lines"), [("--quiet", 0), (None, 3), ("--verbose", 3 + 3)])
def test_quiet_and_verbose(
    tiny: Callable[..., Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sit_down: Callable[[], Terminal],
    word: str | None,
    lines: int,
) -> None:
    parser = argparse.ArgumentParser()
    add_verbosity(parser)
    screen = sit_down()
    set_up_logging(level=parser.parse_args([word] if word else []).level)
    set_up_logging(tmp_path / "train.log")
    tiny().train()
    log.warning("beware")
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith(("epoch", "step"))]) == lines
    assert "beware" in out
    assert bool(screen.getvalue()) == bool(lines)
    assert " INFO epoch 3/3  " in (tmp_path / "train.log").read_text()


def test_only_the_main_process_speaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sit_down: Callable[[], Terminal],
) -> None:
    screen = sit_down()
    monkeypatch.setenv("RANK", "1")
    set_up_logging(tmp_path / "train.log")
    log.warning("from another process")
    assert list(progress_bar([1, 2], 2, 0, "bar")) == [1, 2]
    assert capsys.readouterr().out + screen.getvalue() == ""
    assert not (tmp_path / "train.log").exists()


@pytest.mark.parametrize(("rank", "local_rank", "waits"), [(0, 0, 0), (1, 1, 2), (2, 0, 1), (3, 1, 2)])
def test_a_mistake_that_all_processes_find_is_said_by_the_main_one_first(
    rank: int, local_rank: int, waits: int, script: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert script("train.py", "-c", "missing.json") == 2
    assert waited == [waits]


def test_the_stopwatch_tells_waiting_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def batches() -> "object":
        nonlocal now
        for _ in range(4):
            now += 1  # to load
            yield 8

    watch = Stopwatch()
    watch.start()
    for number, samples in enumerate(watch.fetch(batches())):  # type: ignore[arg-type]
        now += 3  # to train
        watch.count(samples)
        if number == 1:
            assert watch.read_window() == {"samples_per_second": 2.0, "data_wait": 0.25}
    watch.stop()
    now += 100  # an evaluation
    watch.start()
    assert watch.read_window() == {"samples_per_second": 2.0, "data_wait": 0.25}
    assert watch.read() == {"seconds": 0.0, "samples_per_second": 0.0, "data_wait": 0.0}


def test_a_second_ctrl_c_does_not_hide_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped_and_once_more() -> int:
        try:
            raise Interrupted(2, "to go on: …")
        finally:  # where the report is drawn
            raise KeyboardInterrupt

    def stopped_early() -> int:
        raise KeyboardInterrupt

    assert run(stopped_and_once_more) == 130
    assert capsys.readouterr().err == "to go on: …\n"
    assert run(stopped_early) == 130
    assert capsys.readouterr().err == "stopped\n"


def press_ctrl_c(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def refuse(*_: object) -> None:
    raise UserError("loggers: this one needs a package")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no file that is open")
@pytest.mark.parametrize(
    ("moment", "happens", "code", "said"),
    [
        ("utils.environment.record_environment", press_ctrl_c, 130, NOTHING_TRAINED),
        ("logger.observer.Observers.on_start", press_ctrl_c, 130, NOTHING_TRAINED),
        ("logger.observer.Observers.on_start", refuse, 2, "loggers: this one needs a package"),
    ],
)
def test_a_run_that_ends_before_its_first_step_leaves_no_folder(
    moment: str,
    happens: Callable[..., None],
    code: int,
    said: str,
    config: Config,
    tmp_path: Path,
    script: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(moment, happens)
    (tmp_path / "c.json").write_text(config.model_dump_json(by_alias=True, exclude={"schema_"}), encoding="utf-8")
    assert script("train.py", "-c", tmp_path / "c.json") == code
    assert capsys.readouterr().err == f"{said}\n"
    assert list(tmp_path.glob("*/*")) == []
