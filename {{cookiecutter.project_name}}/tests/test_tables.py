"""Tables: honest splits and statistics, what becomes of missing values, and a run's exact figures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_loaders.dataset import InMemoryDataset
from data_loaders.loader import Loader, Loaders
from data_loaders.tables import CsvLoaders, DiabetesLoaders
from model.loss import NormalizedMSELoss
from trainer.build import build_trainer
from utils.config import Config
from utils.config_files import load_config
from utils.errors import ConfigError, UserError

ROOT = Path(__file__).parents[1]
(CONFIG,) = [file for file in (ROOT / "config.json", ROOT / "configs" / "tabular_regression.json") if file.exists()]


@pytest.fixture
def shipped(tmp_path: Path) -> Callable[..., Config]:
    """The config of this task with other values."""

    def load(*words: str) -> Config:
        return load_config([CONFIG], [f"trainer.save_dir={tmp_path}", "trainer.device=cpu", *words])

    return load


@pytest.fixture(scope="module")
def loaders() -> DiabetesLoaders:
    return DiabetesLoaders(seed=1)


def columns(loader: Loader) -> tuple[torch.Tensor, ...]:
    assert isinstance(loader.dataset, InMemoryDataset)
    return loader.dataset.tensors


def splits(loaders: Loaders) -> list[Loader]:
    return [loaders.train, loaders.valid, loaders.test]


def rows(loaders: Loaders) -> list[tuple[float, ...]]:
    """All rows of all splits, the target last."""
    parts = [torch.cat([features, target[:, None]], dim=1) for features, target in map(columns, splits(loaders))]
    return [tuple(row) for row in torch.cat(parts).tolist()]


def test_every_row_is_in_one_split_in_its_own_units(loaders: DiabetesLoaders) -> None:
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    table = np.column_stack([data.data, data.target]).astype(np.float32)
    assert sorted(rows(loaders)) == sorted(map(tuple, table.tolist()))
    assert [len(columns(loader)[1]) for loader in splits(loaders)] == [310, 66, 66]


def test_the_split_has_a_seed_of_its_own(loaders: DiabetesLoaders) -> None:
    targets = [columns(DiabetesLoaders(seed=2, split_seed=seed).test)[1] for seed in (0, 1)]
    assert torch.equal(targets[0], columns(loaders.test)[1])
    assert not torch.equal(targets[1], columns(loaders.test)[1])


def test_the_statistics_are_those_of_the_training_rows(loaders: DiabetesLoaders) -> None:
    for name, tensor in zip(("feature", "target"), columns(loaders.train), strict=True):
        values = tensor.double().numpy()
        np.testing.assert_allclose(loaders.statistics[f"{name}_mean"], values.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(loaders.statistics[f"{name}_std"], values.std(axis=0), rtol=1e-6)


def write_table(file: Path, lines: int = 40) -> Path:
    """Write a table in which `price` is 3 · size + 2 · age, `year` never varies, and one of each other is missing."""
    sizes = ["" if n == 5 else n for n in range(lines)]
    ages = ["NA" if n == 7 else n % 6 for n in range(lines)]
    prices = ["" if n == 9 else 3 * n + 2 * (n % 6) for n in range(lines)]
    text = [f"{s},{p},2001,{a}" for s, p, a in zip(sizes, prices, ages, strict=True)]
    file.write_text("\n".join(["size,price,year,age", *text]) + "\n")
    return file


def csv(file: Path, **args: object) -> CsvLoaders:
    return CsvLoaders(str(file), "price", batch_size=8, seed=1, **args)  # type: ignore[arg-type]


def test_missing_values_are_refused_dropped_or_filled_in(tmp_path: Path) -> None:
    file = write_table(tmp_path / "houses.csv")
    message = r"houses.csv: 3 of 40 rows miss values \(size 1, age 1, price 1\); with data_loader.args.missing=drop"
    with pytest.raises(UserError, match=message):
        csv(file)

    table = sorted(rows(csv(file, missing="drop")), key=lambda row: row[-1])
    known = [n for n in range(40) if n not in (5, 7, 9)]
    assert table == sorted(((n, 2001, n % 6, 3 * n + 2 * (n % 6)) for n in known), key=lambda row: row[-1])

    filled = csv(file, missing="mean")
    features, target = columns(filled.train)
    training = torch.cat([features, target[:, None]], dim=1).tolist()
    assert len(rows(filled)) == 39
    for number, price in ((0, 3 * 5 + 2 * 5), (2, 3 * 7 + 2 * 1)):
        mean = np.mean([row[number] for row in training if row[-1] != price])
        assert [row[number] for row in rows(filled) if row[-1] == price] == [pytest.approx(mean)]


def test_a_column_that_never_varies_is_named_and_has_no_effect(tmp_path: Path, shipped: Callable[..., Config]) -> None:
    file = write_table(tmp_path / "houses.csv")
    data = (
        f"data_loader={{type: tables.CsvLoaders, args: {{file: {file}, target: price, missing: drop, batch_size: 8}}}}"
    )
    trainer = build_trainer(shipped(data, "model.args.num_features=3"))
    trainer.model.eval()
    table = torch.tensor([[10.0, 2001, 3], [10.0, 1900, 3]])
    first, second = trainer.model(table).tolist()
    assert first == second
    assert np.isfinite(first)


def test_columns_are_chosen_by_name_and_the_target_is_none_of_the_features(tmp_path: Path) -> None:
    file = write_table(tmp_path / "houses.csv")
    loaders = csv(file, features=["age", "size"], missing="drop")
    assert loaders.train.state_dict()["features"] == ["age", "size"]
    assert {(row[0], row[1]) for row in rows(loaders)} == {(n % 6, n) for n in range(40) if n not in (5, 7, 9)}
    with pytest.raises(UserError, match="name a column twice"):
        csv(file, features=["age", "price"], missing="drop")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,1", "2,2", "3,3"], "3 rows are too few to be split"),
        ([f"{n},5" for n in range(20)], "price is the same in all training rows"),
        ([f",{n}" for n in range(20)], "no training row has a value of size"),
    ],
)
def test_a_table_that_nothing_can_be_learned_from_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    file = tmp_path / "houses.csv"
    file.write_text("\n".join(["size,price", *lines]))
    with pytest.raises(UserError, match=message):
        csv(file, missing="mean")


def test_a_run_does_not_go_on_with_a_table_that_has_changed(tmp_path: Path) -> None:
    file = write_table(tmp_path / "houses.csv")
    before = csv(file, missing="drop").train.state_dict()
    csv(file, missing="drop").train.load_state_dict(before)
    file.write_text(file.read_text().replace("\n39,", "\n38,"))
    changed = [csv(file, missing="drop", split_seed=seed).train for seed in range(3)]
    assert any(loader.state_dict()["checksum"] != before["checksum"] for loader in changed)
    with pytest.raises(UserError, match="not those that this run began with"):
        changed[1].load_state_dict(before)


def test_a_model_for_another_number_of_features_is_refused(shipped: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"model.args.num_features: found 7, should be 10: standardize.feature_mean"):
        build_trainer(shipped("model.args.num_features=7"))


def test_loss_and_metrics_are_exact_over_samples(shipped: Callable[..., Config]) -> None:
    """66 rows in batches of 32, 32 and 2, against NumPy on all of them at once."""
    trainer = build_trainer(shipped())
    features, target = columns(trainer.loaders.test)
    trainer.model.eval()
    with torch.no_grad():
        errors = (trainer.model(features) - target).double().numpy()
    variance = columns(trainer.loaders.train)[1].double().numpy().var()
    squares, truth = np.square(errors), target.double().numpy()
    expected = {
        "test_loss": squares.mean() / variance,
        "test_mae": np.abs(errors).mean(),
        "test_rmse": np.sqrt(squares.mean()),
        "test_r2": 1 - squares.sum() / np.square(truth - truth.mean()).sum(),
    }
    assert trainer.evaluate(trainer.loaders.test, "test") == pytest.approx(expected, rel=1e-5)


def test_the_shipped_config_predicts_far_better_than_the_mean(shipped: Callable[..., Config]) -> None:
    """On five splits, for one of so few rows can be a lucky one: the first is."""
    found = []
    for split in range(5):
        trainer = build_trainer(shipped(f"data_loader.args.split_seed={split}"))
        loaders = trainer.loaders
        trainer.model.train()
        for epoch in range(trainer.config.trainer.epochs):
            loaders.train.set_position(epoch)
            for batch in loaders.train:
                trainer.train_step(batch)
                trainer.schedule.after_step()
            trainer.schedule.after_epoch({})
        metrics = trainer.evaluate(loaders.test, "test")
        errors = columns(loaders.test)[1] - loaders.statistics["target_mean"]
        found.append((metrics["test_r2"], metrics["test_rmse"] / errors.square().mean().sqrt().item()))
    print(found)
    assert all(r2 > 0.3 and ratio < 0.85 for r2, ratio in found)
    assert sum(r2 for r2, _ in found) / len(found) > 0.42


def test_the_loss_and_the_gradients_do_not_depend_on_the_unit_of_the_target(shipped: Callable[..., Config]) -> None:
    found = []
    for unit in (1, 1000):
        trainer = build_trainer(shipped("model.args.dropout=0", "optimizer={type: SGD, args: {lr: 0.1}}"))
        assert isinstance(trainer.loss.function, NormalizedMSELoss)
        for module in (trainer.model.get_submodule("unstandardize"), trainer.loss.function):
            for buffer in module.buffers():
                buffer *= unit
        features, target = columns(trainer.loaders.train)
        losses = trainer.train_step((features, unit * target))[0].losses
        assert isinstance(losses, torch.Tensor)
        found.append((losses, [parameter.grad for parameter in trainer.model.parameters()]))
    torch.testing.assert_close(found[0], found[1])
