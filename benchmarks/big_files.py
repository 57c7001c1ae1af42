"""Writes files of any size, a chunk at a time, for `memory.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_name}}"))

from data_loaders.token_file import header_of

CHUNK = 10_000_000  # bytes
ROW = 1000  # bytes of a row of text


def write_tokens(folder: Path, name: str, megabytes: int) -> None:
    """Write a file of random tokens, and its header."""
    generator = np.random.default_rng(0)
    left = count = megabytes * 1_000_000 // 2
    path = folder / f"{name}.bin"
    with path.open("wb") as file:
        while left:
            number = min(left, CHUNK)
            file.write(generator.integers(0, 257, number, np.uint16).astype("<u2").tobytes())
            left -= number
    header = {"dtype": "uint16", "vocabulary": 257, "num_tokens": count, "bytes_per_token": 1.0}
    header_of(path).write_text(json.dumps(header), encoding="utf-8")


def write_table(folder: Path, name: str, megabytes: int) -> None:
    """Write a Parquet file of random letters in rows of 1,000 bytes, a thousand rows to a group."""
    import pyarrow
    from pyarrow import parquet

    generator = np.random.default_rng(0)
    schema = pyarrow.schema([("text", pyarrow.string())])
    with parquet.ParquetWriter(folder / f"{name}.parquet", schema, compression="none", use_dictionary=False) as writer:
        for _ in range(megabytes):
            letters = generator.integers(97, 123, 1_000_000, np.uint8).tobytes().decode()
            texts = [letters[begin : begin + ROW] for begin in range(0, len(letters), ROW)]
            writer.write_table(pyarrow.table({"text": texts}, schema), row_group_size=1000)
