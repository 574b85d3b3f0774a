"""Tables of text (CSV) as pandas, NumPy, R and spreadsheets write them."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.files import read_text

_DELIMITERS = ";\t|,"  # in this order: beside another one, a comma is a decimal point
_NONE = ";"  # of a single column: a comma is then a decimal point
_SPREADSHEET = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # its first line
_QUOTED = re.compile(r'"[^"]*"')
_COMMENT = re.compile(r"(^|\s)#")
_UNNAMED = re.compile(r"(Unnamed: \d+(\.\d+)*)?")  # as pandas reads no name, and writes it again
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d[\d.,' ]*")
_MISSING = ("", "NA", "N/A", "<NA>", "NULL", "null", "None", "NaN", "nan")
_BOOLEANS = {"true": 1.0, "false": 0.0}
_INDEX = ("index", "id", "idx", "row")  # such a column is one if it counts
_SHORTEST_COUNT = 3  # two rows may well be numbered by a feature
_NAMES_IN_NOTE = 3

Row = tuple[int, list[str]]


@dataclass(frozen=True)
class Table:
    """The numbers of a table.

    Attributes:
        values: (rows, columns).
        names: of the columns, or None where the table has none.
        notes: what of the file was taken for something else than numbers.
    """

    values: Array
    names: tuple[str, ...] | None
    notes: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Read a table of numbers.

    Fields are separated by what the last line has between them (or a first line such as ``sep=;``
    names): semicolons, tabs, bars, commas or white space. Where that is no comma, numbers may have
    decimal commas. What follows a ``#`` is passed over, and so is a delimiter at every line's end.

    The first line has names if one of its fields is no number, if it counts 0, 1, 2 …, or if its
    numbers rise and are whole above fractions, or the reverse: so pandas names columns. First
    columns without a name are an index and left out. So is one that counts the rows, as "index" or
    "id", or where no column has a name.

    Raises:
        InputError: if the file is no text, has no rows, or not a number in each of its fields.
    """
    text = read_text(path)
    delimiter = _delimiter_of(text)
    rows = _rows(text, delimiter)
    first, second = (next(rows, (0, [])) for _ in range(2))
    has_names = _are_names(first[1], second[1])
    top = second if has_names else first
    if not top[1]:
        value = "only names" if has_names else "an empty file"
        raise InputError(str(path), "must hold rows of numbers", value)
    layout = _layout(path, first[1] if has_names else None, top[1], delimiter)
    body = chain([top] if has_names or not second[0] else [first, second], rows)
    decimals = _Decimals(delimiter)
    is_plain = "_" not in text and (delimiter == "," or "," not in text)
    values = _numbers(path, body, layout, decimals, is_plain)
    names, notes = layout.names, layout.notes()
    if _counts_rows(values, top[1][layout.num_index]):
        if names is None or names[0].lower() in _INDEX:
            values, names = values[:, 1:], None if names is None else names[1:]
            notes.append("the first column counts the rows: taken for an index, and left out")
        elif not layout.num_index:
            notes.append(f"the column {names[0]} counts the rows: leave it out if it is an index")
    if decimals.mark == ",":
        notes.append("commas in numbers taken as decimal points")
    return Table(values, names, tuple(notes))


def delimiter_of(line: str) -> str:
    """What separates the fields of a line; a semicolon where nothing does."""
    parts = [part for part in line.strip("\n").split(" ") if part]
    if len(parts) > 1 and all(map(_is_number, parts)):  # some with decimal commas
        return " "
    bare = _QUOTED.sub("x", line).strip(" \n")
    found = next((each for each in _DELIMITERS if each in bare), None)
    return found or (" " if len(bare.split()) > 1 else _NONE)


def _delimiter_of(text: str) -> str:
    """The delimiter of a table: its last line is no line of names, but may be too short."""
    told = _SPREADSHEET.match(text)
    if told:
        return told[1]
    lines = [line for line in text.rstrip().split("\n") if not _COMMENT.match(line)]
    told_by = (delimiter_of(lines[place]) for place in (-1, 0) if lines)
    return next((each for each in told_by if each != _NONE), _NONE)


def _rows(text: str, delimiter: str) -> Iterator[Row]:
    """Rows of fields, with the number of the line that each ends in."""

    has_comments = "#" in text

    def lines() -> Iterator[str]:
        for number, line in enumerate(io.StringIO(text)):
            bare = line.strip(" \n")
            is_comment = has_comments and _COMMENT.match(bare)
            if is_comment or (number == 0 and _SPREADSHEET.fullmatch(bare)):
                yield "\n"
            else:
                yield " ".join(bare.split()) if delimiter == " " else bare

    reader = csv.reader(lines(), delimiter=delimiter, skipinitialspace=True)
    for number, row in enumerate(row for row in reader if row):
        bare = _without_comment(row) if has_comments else row
        # A name may have a "#".
        yield reader.line_num, bare if number or all(map(_is_number, bare)) else row
        has_comments &= number > 0 or bool(row[0].strip())  # the index may be "#1"


def _without_comment(row: list[str]) -> list[str]:
    for column, cell in enumerate(row):
        found = _COMMENT.search(cell)
        if found:
            return [*row[:column], cell[: found.start()]]
    return row


def _are_names(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the fields of the first row are names; see ``read_table``."""
    fields = [field.strip() for field in first]
    if any(field not in _MISSING and not _is_number(field) for field in fields):
        return True
    while fields and not fields[-1]:
        fields.pop()
    named = fields[_num_unnamed(fields) :]
    if len(named) < len(fields):
        return bool(named)
    # Of a column all numbers are whole, or none is; its name is written in its own way.
    styles = [[bool(_WHOLE.fullmatch(field.strip())) for field in row] for row in (named, second)]
    differ = bool(second) and all(one != other for one, other in zip(*styles, strict=False))
    if named == [str(column) for column in range(len(named))]:
        return bool(second) and (len(named) > 1 or differ)
    values = [_Decimals(";")(field) for field in named if field not in _MISSING]
    rises = len(values) == len(named) > 1 and all(low < high for low, high in pairwise(values))
    return rises and differ


@dataclass(frozen=True)
class _Layout:
    """What the fields of a row are.

    Attributes:
        width: number of them.
        num_index: how many at its start are an index.
        is_closed: whether a delimiter ends each line: the last field is then empty.
        names: of the fields between, or None.
    """

    width: int
    num_index: int
    is_closed: bool
    names: tuple[str, ...] | None

    def name(self, column: int) -> str:
        """What to call a column of numbers, counted from 0."""
        return str(self.num_index + column + 1) if self.names is None else self.names[column]

    def notes(self) -> list[str]:
        """What is to be said of it."""
        notes = []
        if self.names is not None:
            more = len(self.names) - _NAMES_IN_NOTE
            named = ", ".join(self.names[:_NAMES_IN_NOTE]) + (f" and {more:,} more" * (more > 0))
            notes.append(f"first line taken as column names: {named}")
        if self.num_index:
            count = "column" if self.num_index == 1 else f"{self.num_index} columns"
            notes.append(f"the first {count} without a name taken for an index, and left out")
        return notes


def _layout(
    path: Path, header: Sequence[str] | None, row: Sequence[str], delimiter: str
) -> _Layout:
    """The layout of rows like the first one of numbers, under a line of names if there is one."""
    width = len(row)
    if header is None:
        return _Layout(width, 0, width > 1 and not row[-1].strip(), None)
    names = [name.strip() for name in header]
    is_closed = 1 < width >= len(names) and not row[-1].strip()
    if len(names) == width:
        is_closed = is_closed and not names[-1]
        names = names[: width - is_closed]
    given = width - is_closed
    # Beside a single name it may be a decimal comma.
    has_unnamed = len(names) == given - 1 and (len(names) > 1 or delimiter != ",")
    if len(names) != given and not has_unnamed:
        requirement = f"must have a name for each of {given} columns"
        remedy = "save it with names for all columns or for none, and with decimal points"
        raise InputError(str(path), requirement, ", ".join(names), remedy)
    num_index = 1 if has_unnamed else _num_unnamed(names) % given
    return _Layout(width, num_index, is_closed, tuple(names[num_index - has_unnamed :]))


def _num_unnamed(names: Sequence[str]) -> int:
    """How many columns at the start have no name."""
    return next((n for n, name in enumerate(names) if not _UNNAMED.fullmatch(name)), len(names))


def _numbers(
    path: Path,
    rows: Iterable[Row],
    layout: _Layout,
    to_number: Callable[[str], float],
    is_plain: bool,
) -> Array:
    """The numbers of all rows; plain ones are what Python takes for numbers, where it does."""
    values = array("d")
    for line, row in rows:
        if len(row) != layout.width:
            value = f"{len(row)} after {layout.width}, in line {line}"
            raise InputError(str(path), "must have as many fields in each row", value)
        cells = row[layout.num_index : layout.width - layout.is_closed]
        index, closing = row[: layout.num_index], row[layout.width - layout.is_closed :]
        if any(closing) or not all(index):
            requirement = "must have one line of names, and rows that are all alike"
            raise InputError(str(path), requirement, f"another in line {line}")
        try:
            if not is_plain:
                raise ValueError
            values.extend(list(map(float, cells)))
        except ValueError:
            for column, cell in enumerate(cells):
                try:
                    values.append(to_number(cell))
                except ValueError as error:
                    place = f"in line {line}, column {layout.name(column)}"
                    raise _refusal(path, cell.strip(), place) from error
    return np.frombuffer(values, dtype=np.float64).reshape(-1, len(cells))


def _refusal(path: Path, cell: str, place: str) -> InputError:
    if cell in _MISSING:
        value, remedy = f"none {place}", "fill in what is missing, or leave such rows out"
    elif _GROUPED.fullmatch(cell):
        value = f"{cell!r} {place}"
        remedy = "write decimal points, and nothing between thousands"
    else:
        value, remedy = f"{cell!r} {place}", "leave columns of text or dates out"
    return InputError(str(path), "must have a number in each field", value, remedy)


def _counts_rows(values: Array, field: str) -> bool:
    """Whether the first of several columns rises by 1 from row to row, in whole numbers."""
    (count, columns), first = values.shape, values[:1, 0]
    return (
        columns > 1
        and count >= _SHORTEST_COUNT
        and bool(_WHOLE.fullmatch(field.strip()))
        and np.array_equal(values[:, 0], np.arange(count) + first)
    )


def _is_number(field: str) -> bool:
    try:
        _Decimals(";")(field)
    except ValueError:
        return False
    return True


class _Decimals:
    """Reads numbers that all have decimal points, or all commas where these delimit nothing."""

    def __init__(self, delimiter: str) -> None:
        self.mark = "." if delimiter == "," else ""  # none was seen

    def __call__(self, field: str) -> float:
        text = field.strip()
        for mark in ".,":
            if mark in text and self.mark not in ("", mark):  # it may part thousands
                raise ValueError(text)
            self.mark = mark if mark in text else self.mark
        if "_" in text:  # between digits Python passes over it
            raise ValueError(text)
        known = _BOOLEANS.get(text.lower())
        return float(text.replace(",", ".", 1)) if known is None else known
