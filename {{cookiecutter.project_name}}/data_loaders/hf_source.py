"""Where a Hugging Face data set comes from: local files or the Hub, read as a whole or as a stream."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from utils.config import Section
from utils.errors import UserError, disk_is_full

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
PLACE = "data_loader.args.source"
OLDEST = "5.0.1"  # before it, places in Parquet files were not found again
Files = str | list[str]


class Stream(Section):
    """Read rows one after the other and keep a few of them in memory, in place of a copy of all on the disk."""

    samples_per_epoch: PositiveInt = Field(
        description="Training samples in an epoch, as a stream does not know its length; the next epoch goes on where "
        "this one ends, and where the stream ends it begins again."
    )
    buffer: PositiveInt = Field(
        default=1000, description="Training samples that are held in memory and shuffled together."
    )
    evaluation_samples: PositiveInt = Field(
        default=1000, description="How many samples validation and test have at most; they are held in memory."
    )


class Source(Section):
    """A data set in the form that `datasets.load_dataset` understands."""

    files: Annotated[Files, Field(min_length=1)] | Annotated[dict[str, Files], Field(min_length=1)] | None = Field(
        default=None,
        description="Local files or patterns such as `data/*.parquet` (Parquet, JSON, CSV, TSV, lines of text), for "
        "the split `train`, or a mapping of splits to files.",
    )
    hub: str | None = Field(default=None, min_length=1, description="Name of a data set on the Hub, as in `user/name`.")
    subset: str | None = Field(default=None, description="Which configuration of a data set on the Hub.")
    revision: str | None = Field(
        default=None, description="Which version of it: a commit, branch or tag. Null takes the latest at every start."
    )
    train: str = Field(default="train", description="The split to train on; if it is no stream, `train[:50%]` works.")
    valid: str | None = Field(
        default=None, description="The split to validate on; null holds back rows of the training split."
    )
    test: str | None = Field(default=None, description="The split that `test.py` reads; null holds back other rows.")
    held_back: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.1, description="Share of the training split's rows, drawn by chance, for validation and for test."
    )
    stream: Stream | None = Field(default=None, description="How to read it as a stream; null reads it as a whole.")

    @model_validator(mode="after")
    def _one_origin(self) -> "Source":
        if (self.files is None) == (self.hub is None):
            raise ValueError("it should have either `files` or `hub`")
        return self

    def __str__(self) -> str:
        """Name the source as a person knows it."""
        files = self.files if isinstance(self.files, dict) else {"": self.files}
        return self.hub or ", ".join(name for split in files.values() for name in _listed(split))

    def found(self) -> dict[str, list[str]]:
        """Return the local files of each split, in order; none of a data set on the Hub.

        Raises:
            UserError: there are none where some should be.
        """
        splits = self.files if isinstance(self.files, dict) else {"train": self.files}
        return {split: [name for each in _listed(files) for name in _find(each)] for split, files in splits.items()}

    def sizes(self) -> list[int]:
        """Return the sizes of all local files, by which it is noticed that they are others than before."""
        return [] if self.hub else [Path(name).stat().st_size for split in self.found().values() for name in split]

    def open(self, split: str) -> Any:
        """Open a split, as a `datasets.Dataset` or, of a stream, a `datasets.IterableDataset`, of Arrow tables.

        What is not a stream is brought into the library's cache, in Arrow's format, and mapped into memory from there.

        Raises:
            UserError: it cannot be opened.
        """
        if find_spec("datasets") is None:
            raise UserError(f'{PLACE}: the package datasets is not installed: python -m pip install -e ".[datasets]"')
        import datasets
        from packaging.version import Version

        if Version(datasets.__version__) < Version(OLDEST):
            raise UserError(f"{PLACE}: needs datasets {OLDEST} or newer, and this is {datasets.__version__}")
        logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # it is said once, in the exception
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        files = {} if self.hub else self.found()
        hub = {"path": self.hub, "name": self.subset, "revision": self.revision}
        origin = hub if self.hub else {"data_files": files, **_format(files)}
        with explained(self):
            data = datasets.load_dataset(split=split, streaming=self.stream is not None, **origin)
            if self.stream and self.files:
                data = data.reshard()  # a Parquet file then is entered at any of its groups of rows
            return data.with_format("arrow")


def _listed(files: Files | None) -> list[str]:
    return [files] if isinstance(files, str) else files or []


def _find(pattern: str) -> list[str]:
    found = sorted(name for name in glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207 - `**` in absolute ones too
    if not found:
        raise UserError(f"{PLACE}.files: there is no file {pattern}, as seen from {Path.cwd()}")
    return found


def _format(files: dict[str, list[str]]) -> dict[str, str]:
    """Tell the format from the ends of the files' names, with or without that of a compression."""
    names = [name for split in files.values() for name in split]
    ends = {next((end for end in reversed(Path(name).suffixes) if end in FORMATS), Path(name).suffix) for name in names}
    formats = {FORMATS.get(end) for end in ends}
    if len(formats) > 1 or None in formats:
        raise UserError(
            f"{PLACE}.files: names end in {', '.join(sorted(ends))}; they should all end in one of {', '.join(FORMATS)}"
        )
    return {"path": str(formats.pop()), **({"sep": "\t"} if ends == {".tsv"} else {})}


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn what the library says of files and networks into a message for the user.

    Raises:
        UserError: in place of the library's error. One about a full disk stays as it is.
    """
    try:
        yield
    except Exception as error:
        causes = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)  # type: ignore[arg-type]
        for cause in causes:
            if disk_is_full(cause):
                raise cause from None
        if not isinstance(causes[-1], OSError | ValueError | StopIteration):
            raise
        reason = "it holds no rows" if isinstance(causes[-1], StopIteration) else str(causes[-1]).strip()
        raise UserError(f"{PLACE}: {source}: {reason}") from error
