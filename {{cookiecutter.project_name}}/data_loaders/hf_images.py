"""Images of a Hugging Face data set, and the numbers of their classes."""

import json
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from data_loaders.hf_loaders import HFLoaders
from data_loaders.hf_rows import Numbers
from data_loaders.hf_source import PLACE, Source
from data_loaders.image_files import read_image
from logger.console import log
from utils.errors import UserError

MEASURED = 1000


class Images:
    """From encoded images and class numbers to normalised images and labels; decoded when a batch wants them."""

    counts = None  # each row is a sample

    def __init__(self, image: str, label: str, size: int, channels: int) -> None:
        """Read these two columns, and resize the images."""
        self.columns, self.size = [image, label], size
        self.class_names: list[str] = []
        self.mean, self.std = np.zeros((channels, 1, 1), np.float32), np.ones((channels, 1, 1), np.float32)

    def check(self, schema: Any) -> list[str]:
        """Say which column is not what it should be, and note what the data calls its classes."""
        from pyarrow import types

        image, label = (schema.field(name).type for name in self.columns)
        encoded = types.is_struct(image) and {"bytes", "path"} <= {field.name for field in image}
        problems = [] if encoded else [f"column {self.columns[0]} holds {image}, and no images"]
        if not types.is_integer(label):
            problems.append(f"column {self.columns[1]} holds {label}, and no classes")
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features", self.columns[1], "names"):
            about = about.get(key) or {}
        self.class_names = list(about) or self.class_names
        return problems

    def batch(self, rows: Any, parts: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images `(n, channels, size, size)` and labels `(n,)`.

        Raises:
            UserError: an image cannot be decoded, or a label is missing.
        """
        images, labels = (rows.column(name).to_pylist() for name in self.columns)
        if None in images or None in labels:
            raise UserError(f"{PLACE}: values are missing in {' or '.join(self.columns)}; leave rows out")
        pixels = np.stack([self._decoded(**image) for image in images])
        return torch.from_numpy((pixels - self.mean) / self.std), torch.tensor(labels)

    def _decoded(self, bytes: bytes | None, path: str | None) -> NDArray[np.float32]:  # noqa: A002 - so named in the data
        name = f"{PLACE}: column {self.columns[0]}: {path or 'an image'}"
        return read_image(path or "" if bytes is None else BytesIO(bytes), self.size, len(self.mean), name)


class HFImageLoaders(HFLoaders):
    """Images from a column of a data set, not augmented.

    What turns rows into images serves training and evaluation alike, and is not told the epoch and the number of a
    sample, of which all random numbers of augmentation are functions. To augment, read the images in the `__getitem__`
    of a dataset of your own, as `image_folder.ImageFolder` does.
    """

    def __init__(
        self,
        source: Source,
        image: str = "image",
        label: str = "label",
        batch_size: PositiveInt = 64,
        size: PositiveInt = 32,
        channels: Literal[1, 3] = 3,
        num_workers: NonNegativeInt = 0,
        mean: list[float] | None = None,
        std: list[PositiveFloat] | None = None,
        *,
        seed: int,
    ) -> None:
        """Open the data.

        Args:
            source: where the data is, and how it is read.
            image: name of the column that holds the images.
            label: name of the column that holds the numbers of their classes, from 0 on.
            batch_size: samples per training and evaluation step.
            size: height and width to which images are resized.
            channels: 1 for grey, 3 for colour.
            num_workers: processes that decode images ahead.
            mean: of each channel, with pixels from 0 to 1; None measures it over some training images at each start.
            std: the standard deviation of each channel, likewise.
            seed: the run's seed, for the order of samples.

        Raises:
            UserError: the data cannot be read, or a column is not there or holds something else.
        """
        if (mean is None) != (std is None) or any(v is not None and len(v) != channels for v in (mean, std)):
            raise UserError(f"data_loader.args: mean and std belong together, with {channels} numbers in each")
        converter = Images(image, label, size, channels)
        super().__init__(source, converter, batch_size, num_workers, seed)
        self.class_names = converter.class_names
        if mean is None or std is None:
            pixels = self.train.load(list(range(min(MEASURED, self.seen_first()))))[0].double()
            measured = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
            mean, std = ([round(number, 6) for number in numbers.tolist()] for numbers in measured)
            log.info(
                "measured; the next run need not, with: data_loader.args.mean=%s data_loader.args.std=%s", mean, std
            )
        converter.mean[:, 0, 0], converter.std[:, 0, 0] = mean, np.maximum(std, 1e-6)
