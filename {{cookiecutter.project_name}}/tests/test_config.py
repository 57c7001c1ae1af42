"""Configs: what is right is read, and every mistake gets an answer."""

import json
import re
from pathlib import Path

import pytest
import torch

import model
from utils import registry
from utils.arguments import check_args
from utils.config import Component, Config
from utils.config_files import config_from_dict, load_config
from utils.config_help import SCHEMA_FILE, describe
from utils.config_rules import broken_rules, check_against_data
from utils.errors import EXTRA, ConfigError
from utils.registry import build, find

ROOT = Path(__file__).parents[1]
CONFIGS = [*ROOT.glob("config.json"), *sorted(ROOT.glob("configs/*.json"))]


def problems_of(tmp_path: Path, text: str, *words: str, name: str = "config.yaml") -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_config([CONFIGS[0], file], words)
    return "\n".join(error.value.problems).replace(str(tmp_path), "")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_config_is_right_and_can_be_stored(file: Path) -> None:
    config = load_config([file])
    assert config_from_dict(config.model_dump(mode="json", by_alias=True), [], "a checkpoint") == config


# A file for tune.py has a section that no training knows.
OVERLAYS = [file for file in sorted(ROOT.glob("configs/*.yaml")) if "\nsearch:" not in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda file: file.stem)
def test_the_files_in_configs_can_be_laid_over_it(overlay: Path) -> None:
    load_config([CONFIGS[0], overlay])


def test_words_win_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\noptimizer: {args: {lr: 1e-4}}\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    files = [CONFIGS[0], tmp_path / "a.yaml", tmp_path / "b.yaml"]
    assert load_config(files).seed == 2
    config = load_config(files, ["seed=3", "trainer.device=cpu"])
    assert (config.seed, config.trainer.device) == (3, "cpu")
    assert config.optimizer.args["lr"] == 1e-4


def test_another_type_does_not_inherit_arguments() -> None:
    config = load_config([CONFIGS[0]], ["optimizer.args.momentum=0.9", "optimizer.type=SGD"])
    assert (config.optimizer.type, config.optimizer.args) == ("SGD", {"momentum": 0.9})


def test_all_problems_are_reported_with_line_and_remedy(tmp_path: Path) -> None:
    text = "trainer:\n  epohs: 3\n  log_every: 0\nmodel:\n  type: conv_nte.ConvNet\n"
    lines = problems_of(tmp_path, text, "optimizer.args.lr=fast", "trainer.monitor=max val_acc").splitlines()
    assert len(lines) == 5
    assert any(line.startswith('command line: optimizer.args.lr: found "fast", should be') for line in lines)
    assert any("config.yaml:2: trainer.epohs: " in line and "did you mean `epochs`?" in line for line in lines)
    assert any("config.yaml:3: trainer.log_every: found 0, " in line for line in lines)
    assert any("config.yaml:5: model.type: " in line for line in lines)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "c.yaml", "/c.yaml: is empty"),
        ('{"seed": 1,\n "seed": 2}', "c.json", '/c.json:2: has the key "seed" twice'),
        ("seed: 1\nname: a\nseed: 2", "c.yaml", '/c.yaml:3: has the key "seed" twice'),
        ("a: [1,\nb: }", "c.yaml", "/c.yaml:2: is not valid YAML"),
        ('{"seed": NaN}', "c.json", "/c.json:1: seed: found nan, should be a finite number"),
        ("seed: !!python/name:os.system", "c.yaml", "tags are not allowed"),
        ("a: &a [*a]", "c.yaml", "an alias that contains itself"),
        ("seed: 1", "c.txt", "is not a config file"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, name: str, message: str) -> None:
    assert message in problems_of(tmp_path, text, name=name)


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "utf16.yaml").write_bytes("seed: 1".encode("utf-16"))
    for name, message in [
        ("folder.json", "is a folder"),
        ("utf16.yaml", "is not UTF-8"),
        ("utf6.yaml", "utf16.yaml`?"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            load_config([tmp_path / name])


def test_what_is_missing_is_reported_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "upper.yaml").write_text("seed: 1\nmetrics:\n  - args: {}\n")
    with pytest.raises(ConfigError, match=r"upper\.yaml:3: metrics\.0\.type: required"):
        load_config([CONFIGS[0], tmp_path / "upper.yaml"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed", "command line: `seed`: should be `key.path=value`"),
        ("=1", "command line: `=1`: should be `key.path=value`"),
        ("trainer.monitor=max val_acc", "there will be no val_acc"),
        ("trainer.monitor=accuracy", 'found "accuracy", not allowed'),
        ("lr_scheduler={type: StepLR, args: {step_size: 10000}}", "never reached"),
        ("lr_scheduler={type: ReduceLROnPlateau, interval: step}", 'should be "epoch"'),
        ("optimizer.args.lr=-1", "Invalid learning rate"),
        ("lr=0.1", "did you mean `optimizer.args.lr`?"),
        ("learning_rate=0.1", "did you mean `optimizer.args.lr`?"),
        ("optimizer=SGD", 'found "SGD", should be a mapping; did you mean `optimizer.type=SGD`?'),
        ("metrics=accuracy", 'found "accuracy", should be a list; did you mean `metrics=[{type: accuracy}]`?'),
        ("freeze=head", 'found "head", should be a list; did you mean `freeze=[head]`?'),
        ("trainer.early_stop=None", 'found "None", should be a whole number; did you mean `trainer.early_stop=null`?'),
        ("lr_scheduler=none", "did you mean `lr_scheduler=null`?"),
        ("freeze=None", "did you mean `freeze=[]`?"),
        ("metrics=accuracy,f1", "did you mean `metrics=[{type: accuracy}, {type: f1}]`?"),
        ("loggers.tensorboard={histograms_every: none}", "did you mean `null`?"),
        ("trainer.epochs=ten", 'found "ten", should be a whole number'),
        ("optimizer={type: SGD, args: {learning_rate: 0.1}}", "did you mean `lr`?"),
        ("loss.type=os.system", "no such type"),
        ("model.type=os.system", "no file model/os.py"),
        ("loggers.carrier_pigeon=true", "no logger in logger/carrier_pigeon.py"),
        ("data_loader.args.seed=1", "cannot be set"),
        (
            "optimizer={type: Rprop, groups: [{params: ['*'], lr: 0.1, weight_decay: 0.1}]}",
            "optimizer.groups.0.weight_decay: found 0.1, but Rprop has no weight decay",
        ),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, word: str, message: str) -> None:
    assert message in problems_of(tmp_path, "{}", word)


@pytest.mark.parametrize("word", ["trainer.strategy=fsdp", "trainer.sharded_checkpoints=true"])
def test_a_strategy_whose_file_was_deleted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setitem(registry.STRATEGIES, "fsdp", ("deleted", "Sharding"))
    name = word.partition("=")[0]
    expected = f'command line: {name}: needs strategy "fsdp", but this project has no trainer/deleted.py; it has "ddp"'
    assert problems_of(tmp_path, "{}", word) == f"{expected}; {EXTRA}"


@pytest.mark.parametrize(
    ("section", "type_"), [("loggers", "layer_watch"), ("loggers", "wandb"), ("data_loader", "hf_text.HFTextLoaders")]
)
def test_where_a_part_that_was_deleted_is_to_be_had(monkeypatch: pytest.MonkeyPatch, section: str, type_: str) -> None:
    monkeypatch.setattr(registry, "_exists", lambda *_: False)
    with pytest.raises(ConfigError, match=f"this project has no .*{type_.partition('.')[0]}.py.*; {EXTRA}$"):
        find(section, type_)


def test_another_form_of_an_argument_is_asked_for() -> None:
    def target(names: list[str] | None, many: list[int], pairs: list[list[int]]) -> None: ...

    found = check_args(target, {"names": "cat", "many": "None", "pairs": ["3"]}, injected=())
    assert [problem.path for problem in found] == [("names",), ("many",), ("pairs", 0)]
    for problem, meant in zip(found, ("[cat]", "[]", "[3]"), strict=True):
        assert problem.text.endswith(f"should be a list; did you mean `{meant}`?")


def test_a_package_that_a_file_needs_and_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "borrowed.py").write_text("import nowhere.to_be_found\n", encoding="utf-8")
    monkeypatch.setattr(model, "__path__", [*model.__path__, str(tmp_path)])
    with pytest.raises(ConfigError, match=r"model/borrowed\.py needs the module nowhere, which is not there: install"):
        find("model", "borrowed.net")
    (tmp_path / "neighbour.py").write_text("from borrowed import net\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"from this project it is imported as model\.borrowed$"):
        find("model", "neighbour.net")
    (tmp_path / "mistaken.py").write_text("import utils.nothing\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match=r"utils\.nothing"):
        find("model", "mistaken.net")


@pytest.mark.parametrize(
    ("type_", "hint"),
    [
        ("trainr.Trainer", "; did you mean `trainer.Trainer`?"),
        ("trainer.Trainner", "; did you mean `trainer.Trainer`?"),
        ("os.Trainer", "; did you mean `trainer.Trainer`?"),
        ("os.system", ""),
        ("trainer.system", ""),
    ],
)
def test_a_hint_is_given_only_where_a_name_is_close(type_: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        find("trainer", type_)
    assert str(error.value).partition("; did you mean")[1:] == hint.partition("; did you mean")[1:]


@pytest.mark.parametrize(
    ("section", "type_", "meant"),
    [
        ("loss", "mse", "MSELoss"),
        ("loss", "l1", "L1Loss"),
        ("optimizer", "adamw", "AdamW"),
        ("optimizer", "sgd", "SGD"),
        ("lr_scheduler", "plateau", "ReduceLROnPlateau"),
        ("metrics", "accurracy", "accuracy"),
        ("metrics", "f1", "F1Score"),
        ("data_loader", "tabels.FolderLoaders", "own_data.FolderLoaders"),
        ("data_loader", "tables.folder_loaders", "own_data.FolderLoaders"),
        ("data_loader", "FolderLoaders", "own_data.FolderLoaders"),
    ],
)
def test_the_name_that_was_meant_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, type_: str, meant: str
) -> None:
    text = "def helper(): ...\n\n\nclass FolderLoaders(Loaders): ...\n"
    (tmp_path / "own_data.py").write_text(text, encoding="utf-8")
    (tmp_path / "tables.py").write_text("def folder_loader(): ...\n", encoding="utf-8")
    (tmp_path / "__init__.py").touch()
    monkeypatch.setitem(registry.PACKAGES, "data_loader", tmp_path.name)
    monkeypatch.setitem(registry.TYPES, tmp_path.name, registry.TYPES["data_loaders"])
    monkeypatch.syspath_prepend(tmp_path.parent)
    with pytest.raises(ConfigError) as error:
        find(section, type_)
    assert str(error.value).endswith(f"; did you mean `{meant}`?")
    assert "helper" not in str(error.value)


def test_a_logger_that_is_off_need_not_be_there() -> None:
    assert load_config([CONFIGS[0]], ["loggers.wandb=false"]).loggers["wandb"] is False


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data_loader.args.batch_size=2000", "data_loader.args.batch_size: found 2000, more than the 1000 samples"),
        (
            "lr_scheduler={args: {T_max: 20}, interval: step}",
            "lr_scheduler.args.T_max: found 20, but this counts steps",
        ),
        ("lr_scheduler={args: {T_max: 400}, interval: step}", "lr_scheduler.args.T_max: found 400, never reached"),
        ("lr_scheduler={args: {T_max: 320}, interval: step}", ""),
    ],
)
def test_a_config_that_does_not_fit_the_data_is_refused(word: str, message: str) -> None:
    schedule = "lr_scheduler={type: CosineAnnealingLR, args: {T_max: 20}}"
    config = load_config([CONFIGS[0]], ["trainer.epochs=20", schedule, word])
    assert "".join(check_against_data(config, steps_per_epoch=16, train_size=1000)).startswith(message)
    assert message or not check_against_data(config, steps_per_epoch=16, train_size=1000)


def test_a_type_can_name_only_what_its_section_offers() -> None:
    assert find("optimizer", "AdamW") is torch.optim.AdamW
    for section, name in [("loss", "torch"), ("optimizer", "Optimizer"), ("metrics", "__builtins__")]:
        with pytest.raises(ConfigError):
            find(section, name)


def test_a_loss_of_torch_gives_one_value_per_sample() -> None:
    loss = build("loss", Component(type="MSELoss"))
    assert loss(torch.zeros(3), torch.ones(3)).shape == (3,)


def test_the_schema_for_editors_is_in_step() -> None:
    written = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert describe(written) == describe(), "run `python -m utils.config_help` after a change of utils/config.py"


def test_folders_and_files_of_any_kind_may_lie_beside_the_networks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "__init__.py").touch()
    (tmp_path / "notes.py").write_bytes(b"# coding: latin-1\n# \xe9\nclass Noted: ...\n")
    monkeypatch.setattr("model.__path__", [str(tmp_path)])
    with pytest.raises(ConfigError, match=r"did you mean `notes\.Noted`"):
        find("model", "note.Noted")


def test_sequences_must_not_be_longer_than_the_network_allows(config: Config) -> None:
    config.data_loader.args["max_length"], config.model.args["max_length"] = 256, 128
    ((path, text),) = broken_rules(config)
    assert path == ("data_loader", "args", "max_length")
    assert text == "found 256, but model.args.max_length is 128: raise that too"
