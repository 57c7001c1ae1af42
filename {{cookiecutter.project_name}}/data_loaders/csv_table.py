"""Numbers from a CSV file, and a clear answer to whatever is wrong with it."""

import csv
import math
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.config_problems import nearest
from utils.errors import UserError

# What stands, in any mixture of capitals, for a value that is not known.
MISSING = {"", "?", "-", "na", "n/a", "nan", "null", "none"}
LARGEST = float(np.finfo(np.float32).max)


def read_header(file: Path, delimiter: str = ",") -> list[str]:
    """Read the names of the columns, which stand in the first line.

    Raises:
        UserError: there is no such file, no such line, or a name stands there twice.
    """
    first = next(_records(file, delimiter), None)
    if first is None:
        raise UserError(f"{file}: the file is empty")
    header = [name.strip() for name in first[1]]
    if all(_is_number(name) for name in header):
        raise UserError(f"{file}: the first line should name the columns, and holds numbers: {', '.join(header)}")
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise UserError(f"{file}: more than one column has the name {', '.join(twice)}")
    return header


def read_columns(file: Path, names: list[str], delimiter: str = ",") -> NDArray[np.float64]:
    """Read columns by their names.

    Returns:
        Numbers `(rows, len(names))`, NaN where a value is missing.

    Raises:
        UserError: a column is not there or does not hold numbers, or the file is no table. All columns that are
            wrong are named, with the first line and value that are.
    """
    header = read_header(file, delimiter)
    _refuse_unknown(file, names, header)
    places = [header.index(name) for name in names]
    columns = [array("d") for _ in names]
    wrong: dict[str, list[str]] = {name: [] for name in names}
    records = _records(file, delimiter)
    next(records)
    for line, row in records:
        if len(row) != len(header):
            raise UserError(f"{file}: line {line} has {len(row)} values, but the header names {len(header)} columns")
        for name, place, column in zip(names, places, columns, strict=True):
            try:
                column.append(_number(row[place]))
            except ValueError:
                wrong[name].append(f'line {line} holds "{row[place]}"')
    problems = [
        f"column {name} does not hold numbers alone: {found[0]}"
        + (f", and {len(found) - 1} more lines are like it" if found[1:] else "")
        for name, found in wrong.items()
        if found
    ]
    if problems:
        raise UserError("\n".join([f"{file}: leave columns out, or turn their text into numbers", *problems]))
    return np.array(columns, dtype=np.float64).T


def _refuse_unknown(file: Path, names: list[str], header: list[str]) -> None:
    unknown = [f"there is no column {name}{nearest(name, header)}" for name in names if name not in header]
    if unknown:
        hint = "; set `delimiter` to what separates them" if len(header) == 1 else ""
        raise UserError("\n".join([f"{file}: its columns are {', '.join(header)}{hint}", *unknown]))


def _records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Read line by line, past a byte order mark and empty lines; a quoted value may hold delimiters and line ends."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
            try:
                for row in reader:
                    if any(map(str.strip, row)):
                        yield reader.line_num, row
            except csv.Error as error:
                raise UserError(f"{file}: line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text in UTF-8 ({error})") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error


def _number(text: str) -> float:
    """Read a number, NaN for a missing one; raise ValueError for anything else."""
    if text.strip().lower() in MISSING:
        return math.nan
    value = float(text)
    if "_" in text or not abs(value) <= LARGEST:  # Python reads 1_000 and inf, and 1e99 is too large for 32 bits
        raise ValueError(text)
    return value


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(_number(text))
    except ValueError:
        return False
