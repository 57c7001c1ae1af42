"""The digits: honest splits, and augmentation that can be repeated."""

import itertools

import pytest
import torch

from data_loaders.digits import DigitsDataset, DigitsLoaders, shift
from data_loaders.loader import Loader


@pytest.fixture(scope="module")
def loaders() -> DigitsLoaders:
    return DigitsLoaders(seed=1)


def dataset(loader: Loader) -> DigitsDataset:
    assert isinstance(loader.dataset, DigitsDataset)
    return loader.dataset


def labels(loader: Loader) -> torch.Tensor:
    return dataset(loader).tensors[1]


def pictures(loader: Loader) -> list[bytes]:
    return [image.numpy().tobytes() for image in dataset(loader).tensors[0]]


def splits(loaders: DigitsLoaders) -> tuple[Loader, Loader, Loader]:
    return loaders.train, loaders.valid, loaders.test


def test_every_image_is_in_exactly_one_split(loaders: DigitsLoaders) -> None:
    """The 1,797 images differ from each other, so an image names itself."""
    everything = list(itertools.chain(*map(pictures, splits(loaders))))
    assert len(everything) == len(set(everything)) == 1797


def test_the_splits_have_the_size_asked_for() -> None:
    loaders = DigitsLoaders(valid_fraction=0.3, test_fraction=0.1, seed=1)
    shares = [len(labels(loader)) / 1797 for loader in splits(loaders)]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.001)


def test_each_digit_has_the_same_share_in_every_split(loaders: DigitsLoaders) -> None:
    whole = torch.cat([labels(loader) for loader in splits(loaders)]).bincount() / 1797
    for loader in splits(loaders):
        share = labels(loader).bincount() / len(labels(loader))
        assert (share - whole).abs().max() < 0.005


def test_the_split_has_a_seed_of_its_own(loaders: DigitsLoaders) -> None:
    assert pictures(DigitsLoaders(seed=2).test) == pictures(loaders.test)
    assert labels(DigitsLoaders(seed=1, split_seed=1).test).tolist() != labels(loaders.test).tolist()


def test_images_are_normalised_by_the_training_split_alone(loaders: DigitsLoaders) -> None:
    train, valid, test = (dataset(loader).tensors[0] for loader in splits(loaders))
    assert train.shape[1:] == (1, 8, 8)
    assert train.mean().item() == pytest.approx(0, abs=1e-5)
    assert train.std().item() == pytest.approx(1, abs=1e-5)
    # The darkest pixel, 0 before, is the same number everywhere: all splits went through the same transformation.
    assert train.min() == valid.min() == test.min()
    assert valid.mean().item() != pytest.approx(0, abs=1e-5)


def test_images_stand_with_their_labels(loaders: DigitsLoaders) -> None:
    """The nearest image of another split shows the same digit 98 times in 100; by chance it would be 10."""
    train, valid = dataset(loaders.train).tensors, dataset(loaders.valid).tensors
    nearest = torch.cdist(valid[0].flatten(1), train[0].flatten(1)).argmin(dim=1)
    assert (train[1][nearest] == valid[1]).float().mean() > 0.95


def test_only_training_images_are_augmented(loaders: DigitsLoaders) -> None:
    for loader, augmented in zip(splits(loaders), [True, False, False], strict=True):
        images, _ = loader.load(list(range(100)))
        assert torch.equal(images, dataset(loader).tensors[0][:100]) is not augmented


def test_augmentation_can_be_switched_off() -> None:
    loader = DigitsLoaders(augment=False, seed=1).train
    images, _ = loader.load(list(range(100)))
    assert torch.equal(images, dataset(loader).tensors[0][:100])


def test_augmentation_depends_on_seed_epoch_and_index_alone(loaders: DigitsLoaders) -> None:
    def augmented(seed: int, epoch: int, indices: list[int]) -> torch.Tensor:
        plain = dataset(loaders.train)
        again = DigitsDataset(*plain.tensors, augment=True, seed=seed)
        again.set_epoch(epoch)
        images: torch.Tensor = again.__getitems__(indices)[0]
        return images

    images = augmented(1, 2, list(range(100)))
    torch.rand(3)  # a number more or less from the global generator
    assert torch.equal(augmented(1, 2, [70, 5]), images[[70, 5]])
    assert not torch.equal(augmented(1, 3, list(range(100))), images)
    assert not torch.equal(augmented(2, 2, list(range(100))), images)


def test_all_nine_shifts_occur_equally_often() -> None:
    ramp = (10 * torch.arange(8)[:, None] + torch.arange(8)).float().expand(900, 1, 8, 8)
    images, _ = DigitsDataset(ramp, torch.zeros(900), augment=True, seed=1).__getitems__(range(900))
    values, counts = images[:, 0, 4, 4].unique(return_counts=True)
    assert values.tolist() == [33, 34, 35, 43, 44, 45, 53, 54, 55]
    assert (counts - 100).abs().max() < 50  # five standard deviations


def test_a_shift_moves_the_image_and_repeats_its_edge() -> None:
    shifts = torch.tensor(list(itertools.product(range(3), range(3))))
    images = torch.randn(9, 1, 4, 6)
    moved = shift(images, shifts)
    assert moved.shape == images.shape
    for n, row, column in itertools.product(range(9), range(4), range(6)):
        from_row = min(max(row + int(shifts[n, 0]) - 1, 0), 3)
        from_column = min(max(column + int(shifts[n, 1]) - 1, 0), 5)
        assert moved[n, 0, row, column] == images[n, 0, from_row, from_column]


def test_a_rare_digit_is_rare_in_training_alone_and_drawn_as_often_as_others_if_that_is_wished(
    loaders: DigitsLoaders,
) -> None:
    unbalanced = DigitsLoaders(rare=[8], rare_samples=3, sampler="weighted", augment=False, seed=1)
    before, counts = labels(loaders.train).bincount(), labels(unbalanced.train).bincount()
    assert counts[8] == 3
    assert (counts == before).sum() == 9
    assert pictures(unbalanced.test) == pictures(loaders.test)
    assert pictures(unbalanced.valid) == pictures(loaders.valid)
    drawn = torch.zeros(10)
    for epoch in range(3):
        unbalanced.train.set_position(epoch)
        drawn += torch.cat([batch[1] for batch in unbalanced.train]).bincount(minlength=10)
    assert (drawn / drawn.sum() - 0.1).abs().max() < 0.02
