"""The three splits of a Hugging Face data set, read as a whole or as a stream."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_loaders.hf_blocks import BlockSampler, StreamedRows
from data_loaders.hf_rows import Converter, MappedRows, check_columns
from data_loaders.hf_source import PLACE, Source
from data_loaders.hf_split import Split, SplitName
from data_loaders.hf_stream import RowStream
from data_loaders.loader import Loader, Loaders
from data_loaders.sampler import EpochSampler
from logger.console import log
from utils.errors import UserError

MakeSampler = Callable[[MappedRows, bool], EpochSampler]


class HFLoader(Loader):
    """Training samples; checkpoints keep what they are of, so that data that has changed is noticed."""

    about: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Return what the data is."""
        return self.about

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See that the data is that with which the run began.

        Raises:
            UserError: it is not.
        """
        if any(state.get(name) != value for name, value in self.about.items()):
            raise UserError(
                f"{PLACE}: the data is not that with which this run began; start a new run, and name this one in "
                "init_from to begin with its weights"
            )


class StreamLoader(HFLoader):
    """Training samples of a stream; checkpoints also say where the block begins that the latest batch is of."""

    dataset: StreamedRows

    def __iter__(self) -> Any:
        """Iterate over the epoch's batches from the position that was set."""
        if self.num_workers > 0:
            self.dataset.move_to(self.dataset.place)  # closes files that forked workers would share with this process
        for batch, place in super().__iter__():
            if place["sample"] != self.dataset.place["sample"]:
                self.dataset.move_to(place)
            yield batch

    def load(self, indices: list[int]) -> Any:
        """Load one batch here and now, in this process and apart from any iteration."""
        return super().load(indices)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return what the data is, and a place in it from which the next batch can be reached."""
        return {**super().state_dict(), "place": self.dataset.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the place; what is before it is not read again."""
        super().load_state_dict(state)
        self.close()
        self.dataset.move_to(state["place"])


class HFLoaders(Loaders):
    """Training, validation and test data of a source, by way of a converter from rows to samples."""

    def __init__(
        self,
        source: Source,
        converter: Converter,
        batch_size: int,
        num_workers: int,
        seed: int,
        make_sampler: MakeSampler | None = None,
        **about: Any,
    ) -> None:
        """Open the source.

        Args:
            source: where the data is and how it is read, also as it stands in a config.
            converter: how rows become samples.
            batch_size: samples per training and evaluation step.
            num_workers: processes that read ahead. Of a stream each of them reads all rows, and converts its own.
            seed: the run's seed, for the order of samples.
            make_sampler: makes the order of samples, for training (True) or not; None, and streams, shuffle.
            about: what checkpoints shall keep besides.

        Raises:
            UserError: the source cannot be read, or is not what was expected.
        """
        source = Source.model_validate(source)

        def loader(name: SplitName) -> Loader:
            samples = open_samples(Split(source, name), converter, batch_size)
            order: EpochSampler | None = None
            if isinstance(samples, StreamedRows):
                order = BlockSampler(len(samples), samples.block, batch_size, seed=seed)
            elif make_sampler:
                order = make_sampler(samples, name == "train")
            kind = StreamLoader if isinstance(samples, StreamedRows) else HFLoader
            loader = kind(
                samples, batch_size, seed=seed, shuffle=name == "train", num_workers=num_workers, sampler=order
            )
            loader.about = {"samples": len(samples), "sizes": source.sizes(), **about}
            return loader

        super().__init__(train=loader("train"), valid=loader("valid"), test=loader("test"))

    def seen_first(self) -> int:
        """Return how many training samples can be looked at before training: all, or the first block of a stream."""
        samples = self.train.dataset
        return samples.block if isinstance(samples, StreamedRows) else len(samples)


def open_samples(split: Split, converter: Converter, batch_size: int) -> MappedRows | StreamedRows:
    """Open a split; of a stream, validation and test are read into memory."""
    if split.source.stream is None:
        table = split.open()
        check_columns(table.data.schema, converter, split.source)
        if split.name == "train":
            folders = sorted({str(Path(file["filename"]).parent) for file in table.cache_files})
            log.info("%s: %d rows, mapped from %s", split.source, len(table), ", ".join(folders))
        return MappedRows(table, converter, split)
    stream, settings = RowStream(split, converter), split.source.stream
    if split.name == "train":
        block = -(-settings.buffer // batch_size) * batch_size  # so that a batch lies within one block
        return StreamedRows(stream, settings.samples_per_epoch, block)
    return MappedRows(stream.head(settings.evaluation_samples), converter, most=settings.evaluation_samples)
