"""Reading CSV files: what people's files are like, and what is said of those that will not do."""

from pathlib import Path

import numpy as np
import pytest

from data_loaders.csv_table import read_columns, read_header
from utils.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


def test_columns_are_found_by_their_names(file: Path) -> None:
    file.write_text("a,b,c\n1,2,3\n4,5.5,-6e1\n")
    assert read_columns(file, ["c", "a"]).tolist() == [[3, 1], [-60, 4]]


def test_what_spreadsheets_write_is_read(file: Path) -> None:
    """A byte order mark, quotes around anything, a name with a comma and a line end, empty lines, CRLF, blanks."""
    file.write_bytes(b'\xef\xbb\xbf"price", "size,\r\nm2",note\r\n"1", 2 ,"a ""b"", c"\r\n\r\n3,4,d\r\n,,\r\n')
    assert read_header(file) == ["price", "size,\r\nm2", "note"]
    assert read_columns(file, ["price", "size,\r\nm2"]).tolist() == [[1, 2], [3, 4]]


def test_another_delimiter(file: Path) -> None:
    file.write_text("a;b\n1;2\n")
    assert read_columns(file, ["b"], ";").tolist() == [[2]]
    with pytest.raises(UserError, match=r"its columns are a;b; set `delimiter` to what separates them"):
        read_columns(file, ["b"])


def test_missing_values_are_nan(file: Path) -> None:
    file.write_text("a,b\n1,\n,2\nNA,NaN\nnull,?\n")
    values = read_columns(file, ["a", "b"])
    assert np.isnan(values).tolist() == [[False, True], [True, False], [True, True], [True, True]]


def test_all_columns_without_numbers_are_named_with_line_and_value(file: Path) -> None:
    file.write_text('a,city,b,date\n1,"Rome,\nIt",1,2001\n2,Oslo,inf,2002\n3,Bonn,1_0,2003\n')
    with pytest.raises(UserError) as refused:
        read_columns(file, ["a", "city", "b", "date"])
    assert str(refused.value).splitlines() == [
        f"{file}: leave columns out, or turn their text into numbers",
        'column city does not hold numbers alone: line 3 holds "Rome,',
        'It", and 2 more lines are like it',
        'column b does not hold numbers alone: line 4 holds "inf", and 1 more lines are like it',
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n , \n", "the file is empty"),
        (b"1,2\n3,4\n", "the first line should name the columns, and holds numbers: 1, 2"),
        (b"age,bmi,age\n1,2,3\n", "more than one column has the name age"),
        (b"agee,bmi\n1,2\n", "there is no column age; did you mean `agee`"),
        (b"age,bmi\n1,2\n1,2,3\n", "line 3 has 3 values, but the header names 2 columns"),
        (b"age,bmi\n1,1e39\n", 'column bmi does not hold numbers alone: line 2 holds "1e39"'),
        (b'age,bmi\n1,"2\n3,4\n', "line 3: unexpected end of data"),
        (b"age,bmi\n1,2\xff\n", "not a text in UTF-8"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_will_not_do_is_explained(file: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_columns(file, ["age", "bmi"])
    assert str(refused.value).startswith(f"{file}: ")
    assert message in str(refused.value)
