"""The search for hyperparameters, as far as it needs no Ray: the search space, and what becomes of the trials."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logger.metrics_file import MetricsFile
from trainer.monitor import Monitor
from tuning.results import Trial, forget_unfinished, read_trials, table, write_csv
from tuning.search_config import load_search
from tuning.values import words_for
from utils.config_files import load_config
from utils.errors import ConfigError

ROOT = Path(__file__).parents[1]
RULE, METRIC = "max val_accuracy", "val_accuracy"


def problems_of(config: Path, tmp_path: Path, text: str) -> str:
    file = tmp_path / "search.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_search([config, file])
    return "\n".join(error.value.problems).replace(str(tmp_path), "")


def test_the_search_file_fits_the_config(config_file: Path) -> None:
    config, search = load_search([config_file, ROOT / "configs" / "search.yaml"], ["search.trials=3", "seed=7"])
    assert (config.seed, search.trials) == (7, 3)
    assert "optimizer.args.lr" in search.space


def test_every_mistake_in_a_search_is_told_with_its_line(config_file: Path, tmp_path: Path) -> None:
    text = """search:
  trails: 3
  space:
    optimizer.args.lr: {loguniform: [1e-4, 1e-2]}
    optimizer.args.weight_decay: {uniform: [1, 0]}
    optimizer.args.eps: {log_uniform: [0, 1]}
    seed: {int: [1, 2.5]}
    trainer.clip_grad_norm: {choice: []}
    trainer.epochs: {choice: [5], int: [1, 2]}
    trainer.monitor: {choice: [min val_loss]}
    trainer..epochs: {choice: [5]}
    optimizer.args.fused: 5
    model.argz: {choice: [{}]}
optimizer: {args: {lrr: 1}}
"""
    found = problems_of(config_file, tmp_path, text)
    for line in (
        "/search.yaml:2: search.trails: no such key; allowed: algorithm, trials,",
        "/search.yaml:4: search.space.optimizer.args.lr: found",
        "did you mean `log_uniform`?",
        "/search.yaml:5: search.space.optimizer.args.weight_decay.uniform: found [1, 0], the first should be",
        "/search.yaml:6: search.space.optimizer.args.eps.log_uniform: found [0, 1], on a logarithmic scale",
        "/search.yaml:7: search.space.seed.int: found [1, 2.5], should be two whole numbers",
        "/search.yaml:8: search.space.trainer.clip_grad_norm.choice: found [], should be a list",
        "/search.yaml:9: search.space.trainer.epochs: found",
        "/search.yaml:10: search.space.trainer.monitor: cannot be varied",
        "/search.yaml:11: search.space.trainer..epochs: should be a key path",
        "/search.yaml:12: search.space.optimizer.args.fused: found 5, should be a mapping",
        "/search.yaml:13: search.space.model.argz: ",
        "/search.yaml:14: optimizer.args.lrr: found",
    ):
        assert line in found
    assert len(found.splitlines()) == 12


def test_what_could_be_drawn_is_checked_like_a_config(config_file: Path, tmp_path: Path) -> None:
    text = """lr_scheduler: null
search:
  space:
    optimizer.args.lrr: {log_uniform: [1e-4, 1e-2]}
    trainer.epohs: {choice: [5, 10]}
    trainer.clip_grad_norm: {uniform: [0.1, 1]}
    trainer.log_every: {choice: [5, 0]}
    seed: {choice: [1, two]}
"""
    found = problems_of(config_file, tmp_path, text)
    assert "/search.yaml:4: search.space.optimizer.args.lrr: found " in found
    assert "/search.yaml:5: search.space.trainer.epohs: no such key" in found
    assert "did you mean `epochs`?" in found
    assert "/search.yaml:7: search.space.trainer.log_every: found 0, " in found
    assert '/search.yaml:8: search.space.seed: found "two", should be a whole number' in found
    assert "clip_grad_norm: found" not in found


def test_values_that_do_not_go_together_are_refused_for_the_one_that_is_varied(
    config_file: Path, tmp_path: Path
) -> None:
    schedule = "lr_scheduler: {type: CosineAnnealingLR, args: {T_max: 20}}\ntrainer: {epochs: 20}\n"
    text = schedule + "search:\n  space:\n    trainer.epochs: {choice: [20, 5]}\n"
    assert "search.space.trainer.epochs: with 5: lr_scheduler.args.T_max: " in problems_of(config_file, tmp_path, text)
    file = tmp_path / "search.yaml"
    file.write_text(text.replace("20, 5", "20, 30") + "    lr_scheduler.args.T_max: {int: [5, 20]}\n")
    load_search([config_file, file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "search: required, but missing"),
        ("search: {space: {}}", "search.space: "),
        ("search: {algorithm: grid, space: {seed: {int: [1, 2]}}}", "search.space.seed.int: cannot be used in a grid"),
        ("search: {algorithm: grid, trials: 3, space: {seed: {choice: [1, 2]}}}", "search.trials: cannot be set"),
        ("search: {algorithm: bayes, space: {seed: {choice: [1, 2]}}}", 'search.algorithm: found "bayes"'),
        ("trainer: {monitor: null}\nsearch: {space: {seed: {choice: [1, 2]}}}", "trainer.monitor: found null"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(config_file: Path, tmp_path: Path, text: str, message: str) -> None:
    assert message in problems_of(config_file, tmp_path, text)


def test_drawn_values_reach_the_config_as_they_are(config_file: Path) -> None:
    values = {
        "optimizer.args.lr": 1.2345678901234567e-05,
        "optimizer": {"type": "SGD", "args": {"momentum": 0.9}},
        "trainer.clip_grad_norm": None,
        "lr_scheduler": None,
        "name": "yes",
    }
    config = load_config([config_file], words_for(values))
    assert config.optimizer.type == "SGD"
    assert config.optimizer.args == {"momentum": 0.9, "lr": 1.2345678901234567e-05}
    assert config.name == "yes"


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """The folder of a search with trials that ended in every way."""
    for number, (status, accuracies) in enumerate(
        [
            ("finished", [0.5, 0.9, 0.8]),
            ("failed: diverged", [0.99]),
            ("stopped early", [0.4, float("nan")]),
            ("unfinished", []),
            ("finished", [0.6, 0.91]),
        ]
    ):
        folder = tmp_path / f"trial_{number}"
        Trial(folder, {"optimizer.args.lr": 0.1 / (number + 1), "model.args.sizes": [1, 2]}, status).write()
        file, monitor = MetricsFile(folder / "digits" / "20260101-000000-abcd"), Monitor(RULE)
        file.run_dir.mkdir(parents=True)
        for epoch, value in enumerate(accuracies, start=1):
            scalars = {METRIC: value}
            file.on_evaluation(epoch, epoch, scalars, monitor.update(scalars, epoch))
    return tmp_path


def test_the_best_trial_comes_first_and_failed_ones_last_with_their_reason(search: Path) -> None:
    trials = read_trials(search, RULE)
    assert [trial.folder.name for trial in trials] == ["trial_4", "trial_0", "trial_2", "trial_3", "trial_1"]
    assert [(trial.best, trial.best_epoch, trial.epochs) for trial in trials[:2]] == [(0.91, 2, 2), (0.9, 2, 3)]
    lines = table(trials, METRIC).splitlines()
    assert lines[0].split() == ["val_accuracy", "epoch", "of", "optimizer.lr", "model.sizes"]
    assert lines[1].split() == ["trial_4", "0.91", "2", "2", "0.02", "[1,", "2]", "finished"]
    assert lines[-1].endswith("failed: diverged")
    assert next(trial.folder.name for trial in read_trials(search, "min val_accuracy")) == "trial_2"


def test_trials_that_ray_has_forgotten_do_not_stay_in_the_table(search: Path) -> None:
    forget_unfinished(search)
    assert [trial.folder.name for trial in read_trials(search, RULE)] == ["trial_4", "trial_0", "trial_2", "trial_1"]


def test_a_long_table_is_cut_but_not_its_failures(search: Path) -> None:
    trials = read_trials(search, RULE)
    lines = table(trials[:1] * 30 + trials[-1:], METRIC).splitlines()
    assert len(lines) == 1 + 10 + 1 + 1
    assert lines[-2] == "… 20 more in results.csv"
    assert lines[-1].endswith("failed: diverged")


def test_other_programs_can_read_the_results(search: Path) -> None:
    trials = read_trials(search, RULE)
    write_csv(search, trials, METRIC)
    rows = (search / "results.csv").read_text().splitlines()
    assert rows[0] == "trial,status,val_accuracy,best_epoch,epochs,optimizer.args.lr,model.args.sizes,run"
    assert rows[1].startswith('trial_4,finished,0.91,2,2,0.02,"[1, 2]",')


def test_without_ray_it_says_what_to_install(
    config_file: Path,
    tmp_path: Path,
    script: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "tuning.ray_search", raising=False)
    words = ["-c", config_file, "-c", ROOT / "configs" / "search.yaml", f"trainer.save_dir={tmp_path}"]
    assert script("tune.py", *words) == 2
    assert 'python -m pip install -e ".[tune]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert script("ray_train.py", "-c", config_file) == 2
    assert 'python -m pip install -e ".[tune]"' in capsys.readouterr().err


def test_what_is_no_search_cannot_be_resumed(
    tmp_path: Path, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("tune.py", "-r", tmp_path) == 2
    assert "is not the folder of a search" in capsys.readouterr().err
