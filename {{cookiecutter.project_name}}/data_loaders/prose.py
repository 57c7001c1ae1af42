"""Paragraphs of English prose, which every Python carries in its documentation, or of one's own text files."""

import re
from glob import glob
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch.utils.data import Dataset

from data_loaders.byte_tokens import encode
from data_loaders.collate import pad_tokens
from data_loaders.loader import Loader, Loaders
from data_loaders.sampler import LengthGroupedSampler
from utils.errors import UserError

Fraction = Annotated[float, Field(gt=0, lt=0.5)]


class TextDataset(Dataset[torch.Tensor]):
    """Sequences of tokens, each of a length of its own."""

    def __init__(self, texts: list[bytes], max_length: int) -> None:
        """Hold texts as tokens; a longer one is cut into pieces of which a model predicts `max_length` tokens each."""
        self.sequences = [piece for text in texts for piece in cut(encode(text), max_length)]

    def __len__(self) -> int:
        """Return the number of sequences; a sampler hands out indices below it."""
        return len(self.sequences)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one sequence; `pad_tokens` makes a batch of several."""
        return self.sequences[index]

    def lengths(self) -> list[int]:
        """Return how long each sequence is, for a sampler that puts similar ones together."""
        return [len(sequence) for sequence in self.sequences]


def cut(tokens: torch.Tensor, max_length: int) -> list[torch.Tensor]:
    """Cut tokens into pieces of up to `max_length + 1`.

    A piece begins with the last token of the one before, so that each token but the very first is predicted once.
    """
    return [tokens[begin : begin + max_length + 1] for begin in range(0, len(tokens) - 1, max_length)]


def paragraphs(texts: list[bytes]) -> list[bytes]:
    """Split texts at empty lines, and keep of all paragraphs that differ in nothing but white space the first.

    Documentation repeats itself. A paragraph in the training split and once more in the test split would be a
    question whose answer was known.
    """
    found: dict[bytes, bytes] = {}
    for text in texts:
        for paragraph in re.split(rb"\n\s*\n", text.replace(b"\r\n", b"\n")):
            found.setdefault(b" ".join(paragraph.split()), paragraph.strip(b"\n"))
    found.pop(b"", None)
    return list(found.values())


def read(patterns: list[str]) -> list[bytes]:
    """Read the text files that patterns such as `data/*.txt` or `data/**/*.md` stand for.

    Raises:
        UserError: a pattern fits no file.
    """
    files: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207 - `**` in absolute ones too
        if not fitting:
            raise UserError(f"data_loader.args.files: there is no file {pattern}, as seen from {Path.cwd()}")
        files.update(fitting)
    return [Path(name).read_bytes() for name in sorted(files)]


def documentation() -> list[bytes]:
    """Return the texts of Python's own `help()`: some hundred kilobytes, a little different in each version."""
    from pydoc_data.topics import topics

    return [topics[name].encode() for name in sorted(topics)]


class ProseLoaders(Loaders):
    """Training, validation and test data: whole paragraphs, each in one split only, in batches of similar length."""

    def __init__(
        self,
        files: Annotated[list[str], Field(min_length=1)] | None = None,
        batch_size: PositiveInt = 8,
        max_length: PositiveInt = 128,
        valid_fraction: Fraction = 0.1,
        test_fraction: Fraction = 0.1,
        split_seed: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Read and split the data.

        Args:
            files: text files, or patterns such as `data/*.txt`; None takes the documentation of Python.
            batch_size: sequences per training and evaluation step.
            max_length: tokens that are predicted in one go; longer paragraphs are cut into pieces.
            valid_fraction: share of the paragraphs that validation gets.
            test_fraction: share of the paragraphs that is kept for `test.py`.
            split_seed: makes another split; apart from `seed`, so that runs of several seeds share a test set.
            seed: the run's seed, for the order of batches.

        Raises:
            UserError: there are no such files, or too few paragraphs in them.
        """
        texts = paragraphs(read(files) if files else documentation())
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(split_seed)).tolist()
        valid, test = (round(fraction * len(texts)) for fraction in (valid_fraction, test_fraction))
        if not 0 < valid + test < valid + len(texts) or min(valid, test) == 0:
            raise UserError(
                f"data_loader.args.files: {len(texts)} different paragraphs are too few to be split in three; "
                "a paragraph ends at an empty line"
            )

        def loader(rows: list[int], shuffle: bool) -> Loader:
            dataset = TextDataset([texts[row] for row in rows], max_length)
            sampler = LengthGroupedSampler(dataset.lengths(), batch_size, seed=seed, shuffle=shuffle)
            return Loader(dataset, collate_fn=pad_tokens, sampler=sampler)

        super().__init__(
            train=loader(order[valid + test :], True),
            valid=loader(order[:valid], False),
            test=loader(order[valid : valid + test], False),
        )
