"""Tables as pandas, NumPy, R and spreadsheets write them, beside what pandas reads in them."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from opmerge.data import Source, open_source
from opmerge.data.tables import read_table
from opmerge.errors import InputError
from opmerge.schedules import resolve_schedule
from opmerge.spectra import resolve_spectrum

pandas = pytest.importorskip("pandas", reason="the independent reader is pandas")

Seen = Callable[[str, object, object], None]
SAMPLES: NDArray[np.float64] = np.random.default_rng(0).normal(size=(40, 4))
FRAME = pandas.DataFrame(SAMPLES)
NAMED = pandas.DataFrame(SAMPLES, columns=["a", "b c", 'd"e', "f, g"])


def written(tmp_path: Path, frame: Any, **options: Any) -> Path:
    frame.to_csv(tmp_path / "a.csv", **options)
    return tmp_path / "a.csv"


def read(source: Source) -> NDArray[np.float64]:
    return np.concatenate(list(source.batches()))


DATES = pandas.date_range("2024-02-28", periods=40)
LEVELS = pandas.MultiIndex.from_arrays([np.arange(40) // 7, np.arange(40) % 7])


@pytest.mark.parametrize(
    ("frame", "options"),
    [
        (FRAME, {}),
        (FRAME, {"index": False}),
        (FRAME, {"header": False}),
        (FRAME, {"header": False, "index": False}),
        (FRAME[[1, 3]], {"index": False}),
        (NAMED, {}),
        (NAMED, {"index": False}),
        (NAMED, {"sep": ";"}),
        (NAMED, {"sep": ";", "decimal": ","}),
        (NAMED, {"sep": "\t", "index": False}),
        (NAMED, {"sep": "\t", "decimal": ",", "index": False}),
        (NAMED, {"sep": "|"}),
        (FRAME, {"sep": " "}),
        (NAMED, {"quoting": 1}),
        (NAMED, {"encoding": "utf-16"}),
        (NAMED, {"encoding": "utf-8-sig", "lineterminator": "\r\n"}),
        (NAMED, {"float_format": "%.17e"}),
        (NAMED.set_index(DATES), {}),
        (NAMED.set_index(pandas.Index([f"photo {n}.png" for n in range(40)])), {}),
        (NAMED.set_index(LEVELS), {}),
        (NAMED.reset_index(), {"index": False}),
        (NAMED.sample(frac=1, random_state=0), {}),
        (NAMED["a"].to_frame(), {}),
        (NAMED["a"].to_frame(), {"sep": ";", "decimal": ",", "index": False, "quoting": 1}),
        (pandas.DataFrame(SAMPLES, columns=[0.5, 1.5, 2.5, 3.5]), {}),
        (pandas.DataFrame((9 * SAMPLES).round(), columns=[1, 2, 3, 5]), {"index": False}),
        (
            pandas.DataFrame((9 * SAMPLES).astype(int), columns=[0.5, 1.0, 2.0, 3.0]),
            {"index": False},
        ),
        (FRAME[7:], {"header": False}),
        (pandas.DataFrame(SAMPLES, columns=[400, 410, 420, 500]), {"index": False}),
        (pandas.DataFrame(SAMPLES, columns=["größe", "長さ", "l\nm", "#"]), {}),
        (pandas.DataFrame((100 * SAMPLES).astype(int)), {}),
        (pandas.DataFrame((100 * SAMPLES).astype(int)), {"index": False}),
        (pandas.DataFrame(SAMPLES > 0), {"index": False}),
    ],
)
def test_what_pandas_writes_is_read_as_the_same_numbers(
    tmp_path: Path, seen: Seen, frame: Any, options: dict[str, Any]
) -> None:
    values = frame.drop(columns="index", errors="ignore").to_numpy(dtype=np.float64)
    got = read_table(written(tmp_path, frame, **options)).values
    what = f"{type(frame.index).__name__}, columns {list(frame.columns)}, {options}"
    seen(f"pandas' CSV: {what}", values.shape, got.shape)
    np.testing.assert_allclose(got, values, rtol=1e-15)


def test_a_table_that_pandas_read_and_wrote_again_has_no_more_columns(tmp_path: Path) -> None:
    path = written(tmp_path, NAMED)
    for _ in range(2):  # then there are "Unnamed: 0.1", "Unnamed: 0" and an index
        path = written(tmp_path, pandas.read_csv(path))
    np.testing.assert_array_equal(read_table(path).values, SAMPLES)


def test_the_spectrum_of_a_table_is_that_of_its_array(tmp_path: Path, seen: Seen) -> None:
    digits = read(open_source("digits"))
    expected = np.linalg.eigvalsh(np.cov(digits.T, ddof=0))[-1]
    for options in ({}, {"index": False}, {"header": False}, {"sep": ";", "decimal": ","}):
        path = written(tmp_path, pandas.DataFrame(digits), **options)
        got = resolve_spectrum(str(path)).eigenvalues[0]
        seen(f"digits through to_csv({options}): largest eigenvalue", expected, got)
        assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (",a,b\n0,1,2\n1,3,4\n", "the first column without a name taken for an index"),
        (',,a,b\n"x",5,1,2\n"y",6,3,4\n', "the first 2 columns without a name taken for an index"),
        ("0,1.5,2\n1,3,4\n2,5,6\n", "the first column counts the rows: taken for an index"),
        ("t,1,2\n0,3,4\n1,5,6\n2,7,8\n", "the column t counts the rows: leave it out if"),
        ("a;b\n1,5;2\n2,5;3\n", "commas in numbers taken as decimal points"),
        ("0,1\n1.5,2.5\n3.5,4.5\n", "first line taken as column names: 0, 1"),
    ],
)
def test_what_is_no_sample_is_told(tmp_path: Path, text: str, note: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert any(each.startswith(note) for each in open_source(str(tmp_path / "a.csv")).notes)


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("plain", "1,2\n3,4.5\n"),
        ("spaces", "  1   2\n  3   4.5\n"),
        ("comments of NumPy", "# a, b\n1,2 # first, and\n# between\n3,4.5\n"),
        ("Excel's first line", "sep=;\r\na;b\r\n1;2\r\n3;4,5\r\n"),
        ("delimiter at the end", "a,b,\n1,2,\n3,4.5,\n"),
        ("delimiter at the end of numbers alone", "a,b\n1,2,\n3,4.5,\n"),
        ("delimiter at the end, no names", "1,2,\n3,4.5,\n"),
        ("R's write.table", '"a" "b"\n"1" 1 2\n"2" 3 4.5\n'),
        ("R's write.csv", '"","a","b"\n"1",1,2\n"2",3,4.5\n'),
        ("Apple's old line ends", "a,b\r1,2\r3,4.5\r"),
        ("empty lines", "\na,b\n\n1,2\n   \n3,4.5\n\n"),
        ("rows with a number sign", ",a,b\n#1,1,2\n#2,3,4.5\n"),
        ("decimal commas between spaces", "1,0 2,0\n3,0 4,5\n"),
        ("names in quotes", '"a;b","c"\n1,2\n"3",4.5\n'),
    ],
)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_tables_of_others_are_read(
    tmp_path: Path, seen: Seen, case: str, text: str, mark: bytes
) -> None:
    (tmp_path / "a.csv").write_bytes(mark + text.encode())
    got = read_table(tmp_path / "a.csv").values.tolist()
    seen(f"CSV: {case}", [[1, 2], [3, 4.5]], got)
    assert got == [[1, 2], [3, 4.5]]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("a,b\n1,\n3,4\n", "got none in line 2, column b; fill in what is missing"),
        ("a,b\n1,2\nNA,4\n", "got none in line 3, column a; fill in what is missing"),
        ("day,b\n2024-01-01,2\n", "'2024-01-01' in line 2, column day; leave columns of text"),
        ('a,b\n"1,234.5",2\n', "'1,234.5' in line 2, column a; write decimal points"),
        ("a;b\n1.234,5;2\n", "'1.234,5' in line 2, column a; write decimal points"),
        ("a;b\n1.5;2,5\n", "'2,5' in line 2, column b; write decimal points"),
        ("a,b\n1_000,2\n", "'1_000' in line 2, column a"),
        ("1,2\n3,4\n5\n", "must have as many fields in each row, got 1 after 2, in line 3"),
        ("1,2\n3,4,5\n", "must have as many fields in each row, got 3 after 2, in line 2"),
        ("a,b,c\n1,2\n3,4\n", "must have a name for each of 2 columns, got a, b, c"),
        ("a\n1,5\n2,5\n", "must have a name for each of 2 columns, got a; save it with names"),
        (",x,x\n,0,1\n0,1.5,2.5\n", "must have one line of names"),
        ("1,2,\n3,4,5\n", "must have one line of names, and rows that are all alike"),
        ("a,b\n", "must hold rows of numbers, got only names"),
        ("", "must hold rows of numbers, got an empty file"),
        ("\n# nothing\n", "must hold rows of numbers, got an empty file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, seen: Seen, text: str, refusal: str
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_table(tmp_path / "a.csv")
    seen(f"CSV {text!r}", refusal, error.value)
    assert refusal in str(error.value)


def test_text_in_another_encoding_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("größe,b\n1,2\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"must be text in UTF-8, .* save it in that encoding"):
        read_table(tmp_path / "a.csv")


@pytest.mark.parametrize("options", [{}, {"index": False}, {"sep": ";", "decimal": ","}])
def test_schedules_and_eigenvalues_are_tables_too(tmp_path: Path, options: dict[str, Any]) -> None:
    alphas = np.cos(np.linspace(0, np.pi / 2, 5))
    frame = pandas.DataFrame({"sigmas": alphas[::-1], "alphas": alphas})
    schedule = resolve_schedule(str(written(tmp_path, frame, **options)), 4)
    np.testing.assert_allclose(schedule.alphas, alphas, rtol=1e-15)
    series = pandas.Series([2.0, 0.5, 0.25])
    spectrum = resolve_spectrum(str(written(tmp_path, series, **options)), as_eigenvalues=True)
    assert spectrum.eigenvalues.tolist() == [2.0, 0.5, 0.25]


@pytest.mark.parametrize("label", ["id", "ID", "idx", "row"])
def test_an_index_with_its_usual_names_is_one(tmp_path: Path, label: str, seen: Seen) -> None:
    values = np.random.default_rng(0).normal(size=(9, 3))
    frame = pandas.DataFrame(values, columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "table.csv", index_label=label)
    got = read_table(tmp_path / "table.csv")
    seen(f"to_csv(index_label={label!r})", values.shape, got.values.shape)
    assert np.array_equal(got.values, values)
    assert any("index" in note for note in got.notes)


def test_a_table_of_tabs_is_read_by_its_ending(tmp_path: Path, seen: Seen) -> None:
    frame = pandas.DataFrame(np.random.default_rng(3).normal(size=(6, 3)), columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "table.TSV", sep="\t")
    got = np.concatenate(list(open_source(str(tmp_path / "table.TSV")).batches()))
    expected = pandas.read_csv(tmp_path / "table.TSV", sep="\t", index_col=0).to_numpy()
    seen("a .tsv of pandas with its index", expected.shape, got.shape)
    np.testing.assert_array_equal(got, expected)
