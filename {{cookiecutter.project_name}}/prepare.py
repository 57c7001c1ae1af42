"""Turn text files of any size into token files, which training reads at any place and never as a whole.

python prepare.py data/*.txt --out data/tokens                     5 % of the paragraphs each for validation and test
python prepare.py a.txt --valid b.txt --test c.txt --out data/tokens     whole files
"""

import argparse
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from data_loaders.byte_tokens import END, NUM_TOKENS
from data_loaders.token_file import header_of
from utils.errors import UserError, run

LONGEST = 1 << 20


class TokenWriter:
    """Writes a token file and its header; only when all went well do they get their names."""

    def __init__(self, path: Path) -> None:
        """Begin the file."""
        self.path, self.temporary = path, path.with_name(path.name + ".tmp")
        self.texts = self.tokens = 0
        self.file = self.temporary.open("wb")

    def __enter__(self) -> "TokenWriter":
        """Return the writer."""
        return self

    def write(self, text: bytes) -> None:
        """Add a text, and the sign that it is over."""
        self.file.write(np.append(np.frombuffer(text, np.uint8).astype("<u2"), np.array(END, "<u2")).tobytes())
        self.texts += 1
        self.tokens += len(text) + 1

    def __exit__(self, kind: object, *_: object) -> None:
        """Complete the file, or remove it."""
        with self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        if kind is not None:
            self.temporary.unlink()
            return
        header = {
            "dtype": "uint16",
            "vocabulary": NUM_TOKENS,
            "num_tokens": self.tokens,
            "bytes_per_token": (self.tokens - self.texts) / self.tokens,
        }
        # The header goes first and comes last: if this is cut off, there is none, and never one of another file.
        header_of(self.path).unlink(missing_ok=True)
        self.temporary.replace(self.path)
        header_of(self.temporary).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        header_of(self.temporary).replace(header_of(self.path))


def paragraphs(files: Iterable[Path]) -> Iterator[bytes]:
    """Read files a paragraph at a time; one of more than a megabyte comes in parts, as a file may exceed memory."""
    for path in files:
        with path.open("rb") as file:
            text = bytearray()
            while line := file.readline(LONGEST):
                text += line.replace(b"\r\n", b"\n")
                if not line.strip() or len(text) >= LONGEST:
                    yield bytes(text).strip(b"\n")
                    text.clear()
            yield bytes(text).strip(b"\n")


def split_of(text: bytes, share: float) -> str:
    """Say which split a paragraph belongs to: by its words, so that one that is repeated is always in the same."""
    place = zlib.crc32(b" ".join(text.split())) / 2**32
    return "test" if place < share else "valid" if place < 2 * share else "train"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="text files")
    parser.add_argument("--valid", nargs="+", type=Path, default=[], metavar="FILE", help="text files for validation")
    parser.add_argument("--test", nargs="+", type=Path, default=[], metavar="FILE", help="text files for test.py")
    parser.add_argument("--share", type=float, default=0.05, help="without them, share of the text for each (0.05)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the token files go")
    arguments = parser.parse_args()
    if bool(arguments.valid) != bool(arguments.test):
        parser.error("--valid and --test go together")
    if not 0 < arguments.share < 0.5:
        parser.error("--share has to be between 0 and 0.5")
    return arguments


def main() -> int:
    """Write the three files, and say what is in them."""
    arguments = parse_arguments()
    given = {"train": arguments.files, "valid": arguments.valid, "test": arguments.test}
    for path in (path for files in given.values() for path in files):
        if not path.is_file():
            raise UserError(f"{path} is no file")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(TokenWriter(arguments.out / f"{name}.bin")) for name in given}
        for name, files in given.items():
            for text in filter(bytes.strip, paragraphs(files)):
                writers[name if arguments.valid else split_of(text, arguments.share)].write(text)
        empty = [name for name, writer in writers.items() if not writer.tokens]
        if empty:
            raise UserError(f"there is too little text: nothing is left for {' and '.join(empty)}")
    for writer in writers.values():
        print(f"{writer.path}: {writer.tokens:,} tokens in {writer.texts:,} paragraphs")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
