"""Tokens in files that may be larger than memory: only what a batch needs is read, at any place.

`tokens.bin` is nothing but numbers of 2 or 4 bytes, lowest byte first; `tokens.bin.json` beside it says what they are.
`prepare.py` writes both.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, StringConstraints

from data_loaders.dataset import BatchDataset
from data_loaders.loader import Loader, Loaders
from utils.errors import UserError

DTYPES = {"uint16": "<u2", "uint32": "<u4"}
Folder = Annotated[str, StringConstraints(min_length=1)]


class TokenFile(BatchDataset):
    """Windows of a token file.

    It holds no data but a view on the file, opened when it is first asked for, in each process anew. What has been
    read stays in the system's cache of files, which gives its memory back when others need it.
    """

    def __init__(self, path: Path, length: int, stride: int | None = None) -> None:
        """Look at the header of a file.

        Args:
            path: the file of tokens.
            length: tokens that are predicted in one window; the last ones of a file may fill none.
            stride: tokens from the beginning of a window to that of the next; None lets each begin where the one
                before ends, so that a token is predicted once in an epoch.

        Raises:
            UserError: the file or its header is missing or damaged, or there are too few tokens.
        """
        self.path, self.length, self.stride = path, length, stride or length
        self.header = read_header(path)
        self._view: NDArray[Any] | None = None
        if len(self) <= 0:
            raise UserError(f"{path}: {self.header['num_tokens']} tokens are too few for a window of {length} + 1")

    def __len__(self) -> int:
        """Return the number of windows; a sampler hands out indices below it."""
        return int(self.header["num_tokens"] - 1 - self.length) // self.stride + 1

    def __getitems__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, the tokens that come next, both of shape `(len(indices), length)`.

        Raises:
            UserError: there are tokens that the vocabulary has not.
        """
        windows = np.empty((len(indices), self.length + 1), np.int64)
        for row, index in enumerate(indices):
            windows[row] = self.read(index * self.stride, self.length + 1)
        if windows.max() >= self.header["vocabulary"]:
            raise UserError(f"{self.path} is damaged: token {windows.max()} is none of its {self.header['vocabulary']}")
        tokens = torch.from_numpy(windows)
        return tokens[:, :-1], tokens[:, 1:]

    def read(self, begin: int, count: int) -> NDArray[Any]:
        """Return tokens from any place of the file; nothing before them is read."""
        if self._view is None:
            self._view = np.memmap(self.path, DTYPES[self.header["dtype"]], mode="r")
        return self._view[begin : begin + count]

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to a worker process: all but the view, which pickle would turn into the whole file."""
        return self.__dict__ | {"_view": None}


def header_of(path: Path) -> Path:
    """Return where the header of a token file stands."""
    return path.with_name(path.name + ".json")


def read_header(path: Path) -> dict[str, Any]:
    """Read what a token file holds, and see that the file is whole.

    Returns:
        `dtype`, `num_tokens` (how many there are), `vocabulary` (how many different ones) and `bytes_per_token`.

    Raises:
        UserError: the file or its header is missing or damaged.
    """
    try:
        header: dict[str, Any] = json.loads(header_of(path).read_text(encoding="utf-8"))
        expected, size = np.dtype(DTYPES[header["dtype"]]).itemsize * int(header["num_tokens"]), path.stat().st_size
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; python prepare.py writes token files") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{header_of(path)} is damaged: {error!r}; write the tokens again with prepare.py") from error
    if size != expected:
        raise UserError(
            f"{path} is damaged: it has {size} bytes, and its header says {expected}; "
            "write the tokens again with prepare.py"
        )
    return header


class TokenFileLoaders(Loaders):
    """The files `train.bin`, `valid.bin` and `test.bin` of a folder, as `prepare.py` writes them."""

    def __init__(
        self,
        folder: Folder,
        batch_size: PositiveInt = 32,
        length: PositiveInt = 256,
        stride: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        *,
        seed: int,
    ) -> None:
        """Open the files.

        Args:
            folder: where they lie.
            batch_size: windows per training and evaluation step.
            length: tokens that are predicted in one window.
            stride: tokens from one training window to the next; None is as many as `length`, and 1 makes a window
                of every place of the file.
            num_workers: processes that read ahead, of use where the disk is slow.
            seed: the run's seed, for the order of windows.

        Raises:
            UserError: a file is missing or damaged.
        """

        def loader(name: str, shuffle: bool) -> Loader:
            dataset = TokenFile(Path(folder) / f"{name}.bin", length, stride if shuffle else None)
            return Loader(dataset, batch_size, seed=seed, shuffle=shuffle, num_workers=num_workers)

        super().__init__(train=loader("train", True), valid=loader("valid", False), test=loader("test", False))
