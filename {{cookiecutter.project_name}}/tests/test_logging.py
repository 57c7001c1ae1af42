"""What a run leaves to read: metrics.jsonl, TensorBoard events, train.log, and its config and environment."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from logger.console import log, progress_bar, set_up_logging
from logger.metrics_file import MetricsFile
from logger.observer import Observer, Observers
from trainer.trainer import Trainer
from utils import environment
from utils.config_files import load_config


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def scalars_of(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Read TensorBoard's events as TensorBoard does: steps and values by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(run_dir))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_there_is_a_line_of_metrics_for_each_evaluation(finished_run: Path) -> None:
    lines = lines_of(finished_run)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["step"] == 2 * lines[0]["step"]
    for line in lines:
        assert {"best", "train_loss", "val_loss", "lr", "timing"} <= line.keys()
        assert line["timing"]["samples_per_second"] > 0
    assert lines[0]["best"] is True


def test_tensorboard_has_the_same_numbers(finished_run: Path) -> None:
    scalars, lines = scalars_of(finished_run), lines_of(finished_run)
    for tag, name in [("loss/train", "train_loss"), ("loss/val", "val_loss"), ("run/lr", "lr")]:
        assert [step for step, _ in scalars[tag]] == [line["step"] for line in lines]
        assert [value for _, value in scalars[tag]] == pytest.approx([line[name] for line in lines])
    speeds = [line["timing"]["samples_per_second"] for line in lines]
    assert [value for _, value in scalars["run/samples_per_second"]] == pytest.approx(speeds)


def test_tensorboard_has_an_entry_every_few_steps(finished_run: Path) -> None:
    last = lines_of(finished_run)[-1]["step"]
    entries = scalars_of(finished_run)["steps/train_loss"]
    assert [step for step, _ in entries] == list(range(5, last + 1, 5))


def test_entries_within_an_epoch_are_means_since_the_last_one(tiny: Callable[..., Trainer]) -> None:
    seen: list[tuple[int, float]] = []

    class Watching(Observer):
        def on_step(self, step: int, scalars: dict[str, float]) -> None:
            seen.append((step, scalars["train_loss"]))

    trainer = tiny(trainer={"epochs": 1, "log_every": 2})
    trainer.observers.members["watching"] = Watching(trainer.saver.run_dir)
    losses: list[float] = []
    train_step = trainer.train_step

    def keep(batch: Any) -> Any:
        result = train_step(batch)
        losses.append(result[0].losses.mean().item())
        return result

    trainer.train_step = keep  # type: ignore[method-assign]
    trainer.train()
    assert [step for step, _ in seen] == [2, 4]
    assert [loss for _, loss in seen] == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:4]) / 2])


def test_the_log_file_tells_the_story_with_the_time(finished_run: Path) -> None:
    text = (finished_run / "train.log").read_text(encoding="utf-8")
    assert f"training in {finished_run}" in text
    assert " INFO epoch 1/2  " in text
    for line in lines_of(finished_run):
        assert f"epoch {line['epoch']}/2  train_loss {line['train_loss']:.4g}" in text
    assert f"python test.py -r {finished_run}" in text


def test_the_run_keeps_its_config_and_what_it_ran_on(finished_run: Path) -> None:
    config = load_config([finished_run / "config.json"])
    assert config.trainer.epochs == 2
    assert "$schema" not in (finished_run / "config.json").read_text(encoding="utf-8")
    (start,) = json.loads((finished_run / "environment.json").read_text(encoding="utf-8"))
    assert start["command"][1].endswith("train.py")
    assert start["packages"]["torch"]
    assert start["seed"] == config.seed


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_new_file_that_git_does_not_know_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "utils").mkdir()
    for name in (".gitignore", "new model.py", "ignored.py", "utils/file.py"):
        (tmp_path / name).write_text("ignored.py\n")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "utils" / "environment.py"))
    git = environment.describe_environment(torch.device("cpu"), 1)["git"]
    assert git == {"commit": None, "diff": None, "untracked": [".gitignore", "new model.py", "utils/"]}
    monkeypatch.setattr(environment, "__file__", str(tmp_path / ".git" / "x.py"))
    assert environment.describe_environment(torch.device("cpu"), 1)["git"]["untracked"] is None


@pytest.mark.parametrize("file", ["metrics.jsonl", "events.out.tfevents.x"])
def test_what_was_written_after_a_checkpoint_is_dropped(tiny: Callable[..., Trainer], file: str) -> None:
    trainer = tiny(loggers={"tensorboard": True})
    path = trainer.saver.run_dir / file
    path.write_text("before\n")
    state = trainer.observers.state_dict()
    with path.open("a") as stream:
        stream.write("after\n")
    trainer.observers.load_state_dict(state)
    assert path.read_text() == "before\n"


def test_all_observers_are_told_and_closed_in_order(tiny: Callable[..., Trainer], tmp_path: Path) -> None:
    calls: list[str] = []

    class Telling(Observer):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_") or name == "close":
                calls.append(name)
            return super().__getattribute__(name)

    trainer = tiny(trainer={"epochs": 1, "log_every": 5})
    trainer.observers = Observers({"telling": Telling(tmp_path)})
    trainer.train()
    evaluated = ["on_evaluation_batch"] * 3
    assert calls == ["on_start", "on_step", *evaluated, "on_evaluation", "on_end", "close"]


def test_observers_are_closed_when_a_run_fails(tiny: Callable[..., Trainer], tmp_path: Path) -> None:
    class Closing(Observer):
        closed = False

        def close(self) -> None:
            self.closed = True

    trainer, closing = tiny(), Closing(tmp_path)
    trainer.observers = Observers({"closing": closing})
    trainer.train_epoch = lambda: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert closing.closed


def test_metrics_are_one_line_of_plain_json_each(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.on_evaluation(20, 1, {"val_loss": 0.5, "seconds": 2.0}, is_best=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        b'{"epoch": 1, "step": 20, "best": true, "val_loss": 0.5, "timing": {"seconds": 2.0}}\n'
    )


def test_messages_go_to_standard_output_and_the_bar_stays_silent_there(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(log.handlers)
    set_up_logging()
    assert list(progress_bar([1, 2], 2, 0, "bar")) == [1, 2]
    log.info("a message")
    log.handlers = handlers
    assert capsys.readouterr() == ("a message\n", "")


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is reported in another way there")
def test_a_reader_that_has_left_ends_a_command_without_a_traceback() -> None:
    code = "import sys; from utils.errors import run; sys.exit(run(lambda: print('x' * 100_000, flush=True) or 0))"
    root = Path(__file__).parents[1]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_garbage_is_looked_for_while_a_command_runs_but_not_among_what_was_imported() -> None:
    code = """
        import gc, sys
        gc.disable()
        import torch
        from utils.errors import run
        imported = len(gc.get_objects())
        sys.exit(run(lambda: print(gc.isenabled(), len(gc.get_objects()) < imported / 100) or 0))
    """
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout == "True True\n"


def test_nothing_is_looked_for_while_a_training_imports() -> None:
    code = """
        import gc, runpy, sys
        class Watch:
            def find_spec(name, path, target=None):
                if name == "torch":
                    print(gc.isenabled())
        sys.meta_path.insert(0, Watch)
        sys.argv = ["train.py", "--keys"]
        runpy.run_path("train.py", run_name="__main__")
    """
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(code)]
    output = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[0] == "False"
