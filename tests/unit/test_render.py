"""Numbers that people read, tables that programs read, and text that drives nobody's terminal."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpubench import render
from gpubench.cards import CATALOGUE
from gpubench.render import Column

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x00 \r\n<script>alert(1)</script> a|b \\| \u202eexe"

# numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (-0.0, "0"),
        (1, "1.00"),
        (-1, "-1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (9.996, "10.0"),  # not 10.00
        (99.96, "100"),  # not 100.0
        (12345.6, "12346"),
        (0.001234, "0.00123"),
        (-0.5, "-0.500"),
        (1.5e-9, "1.50e-09"),
        (5e-324, "4.94e-324"),
        (3e20, "3.00e+20"),
        (1.7976931348623157e308, "1.80e+308"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_have_three_digits_and_an_exponent_only_where_people_use_one(value, text):
    assert render.number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_shown_number_is_within_one_percent_of_the_true_one(value):
    assume(abs(value) < 1.79e308)
    shown = float(render.number(value))
    assert shown == pytest.approx(value, rel=0.01, abs=0)
    assert len(render.number(value)) <= 12


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOP/s"),
        (0.5, "0.500 FLOP/s"),
        (1, "1.00 FLOP/s"),
        (999, "999 FLOP/s"),
        (999.4, "999 FLOP/s"),
        (999.6, "1.00 kFLOP/s"),  # not 1000
        (999.6e9, "1.00 TFLOP/s"),
        (1.23e12, "1.23 TFLOP/s"),
        (-1.23e12, "-1.23 TFLOP/s"),
        (-999.6e6, "-1.00 GFLOP/s"),
        (82.6e12, "82.6 TFLOP/s"),
        (4.5e15, "4.50 PFLOP/s"),
        (4.5e20, "450000 PFLOP/s"),
        (1e-9, "1.00e-09 FLOP/s"),
        (math.nan, "nan FLOP/s"),
        (math.inf, "inf FLOP/s"),
        (-math.inf, "-inf FLOP/s"),
    ],
)
def test_quantities_take_the_prefix_that_leaves_one_to_999(value, text):
    assert render.quantity("FLOP/s")(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (1, "1.00 s"),
        (75.25, "75.2 s"),
        (0.00123, "1.23 ms"),
        (0.9996, "1.00 s"),  # not 1000 ms
        (999.6e-6, "1.00 ms"),
        (999.6e-9, "1.00 µs"),
        (2.5e-9, "2.50 ns"),
        (2.5e-10, "0.250 ns"),
        (-0.002, "-2.00 ms"),
        (math.nan, "nan s"),
        (math.inf, "inf s"),
    ],
)
def test_seconds_take_the_prefix_that_leaves_one_to_999(value, text):
    assert render.seconds(value) == text


@given(st.floats(1e-9, 1e17), st.sampled_from([render.seconds, render.quantity("B/s")]))
def test_with_a_prefix_there_is_never_a_thousand_in_front(value, show):
    assume(value < 999e15 if show is not render.seconds else value < 999)
    number, unit = show(value).split(" ")
    assert 0 < float(number) < 1000
    prefix = unit.removesuffix("B/s").removesuffix("s")
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    scale |= {"m": 1e-3, "µ": 1e-6, "n": 1e-9}
    assert float(number) * scale[prefix] == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (100_000, "27 h 46 min"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_waits_are_said_as_people_say_them(value, text):
    assert render.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 GiB"),
        (24 * 2**30, "24 GiB"),
        (int(22.5 * 2**30), "22.5 GiB"),
        (72 * 2**20, "0.0703 GiB"),
        (2**40 * 10, "10240 GiB"),
    ],
)
def test_memory_is_counted_in_powers_of_two(value, text):
    assert render.gibibytes(value) == text


def test_shares_and_half_widths():
    assert render.percent(0.1234) == "12.3 %"
    assert render.percent(0) == "0 %"
    assert render.percent(1.5) == "150 %"
    assert render.plus_minus(0.0123) == "±1.2 %"
    assert render.plus_minus(0) == "±0 %"
    assert render.plus_minus(math.inf) == "±?"
    assert render.plus_minus(math.nan) == "±?"


def test_unknown_is_none_or_not_a_number_and_zero_is_known():
    assert render.missing(None)
    assert render.missing(math.nan)
    assert render.missing(np.float64("nan"))
    assert not any(map(render.missing, (0, 0.0, "", [], False, math.inf)))


# rows ---------------------------------------------------------------------------------------------

COLUMNS = (
    Column("name", "name"),
    Column("median_s", "median", render.seconds, right=True),
    Column("note", "a|note"),
)
ROWS = [
    {"name": "gemm", "median_s": 0.00123, "note": None, "flags": ["short", "unsettled"]},
    {"name": HOSTILE, "median_s": math.nan, "note": "ü", "outcome": {"loss": math.inf}},
    {"name": "conv", "median_s": np.float64(0.5), "note": "x" * 10_000, "count": np.int64(3)},
]


def show(form, rows=ROWS):
    return render.rows(rows, COLUMNS, form, "results")


@pytest.mark.parametrize("form", render.FORMATS)
def test_no_format_lets_a_control_character_through(form):
    """Neither an escape sequence nor a reversed reading direction of a stranger's file."""
    text = show(form)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@settings(max_examples=50)
@pytest.mark.parametrize("form", render.FORMATS)
@given(text=st.text(max_size=30))
def test_no_text_at_all_gets_control_characters_through(form, text):
    out = render.rows([{"name": text, "k": {text: [text]}}], COLUMNS, form, "x")
    assert all(c.isprintable() or c == "\n" for c in out)


@pytest.mark.parametrize("form", render.FORMATS)
def test_no_rows_are_a_table_without_rows(form):
    text = show(form, [])
    if form == "json":
        assert json.loads(text)["rows"] == []
    elif form == "csv":
        assert list(csv.reader(io.StringIO(text))) in ([], [[]])
    else:
        assert "median" in text


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_json_is_versioned_and_names_its_rows():
    envelope = json.loads(show("json"), parse_constant=refuse)
    assert envelope["kind"] == "results"
    assert envelope["version"] == render.JSON_VERSION
    assert list(envelope) == ["kind", "version", "rows"]


def test_json_holds_plain_values_and_null_for_what_is_unknown_or_endless():
    first, second, third = json.loads(show("json"), parse_constant=refuse)["rows"]
    assert first == ROWS[0]
    assert second["median_s"] is None
    assert second["outcome"] == {"loss": None}
    assert second["name"] == HOSTILE
    assert (third["median_s"], third["count"]) == (0.5, 3)


def test_json_keeps_letters_readable():
    assert "größer 🚀" in render.rows([{"name": "größer 🚀"}], COLUMNS, "json", "x")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c_s"]), json_values), max_size=3))
def test_json_gives_back_what_went_in(rows):
    assert json.loads(render.rows(rows, (), "json", "x"), parse_constant=refuse)["rows"] == rows


def test_arrays_and_numbers_of_numpy_are_plain_in_json():
    row = {"a": np.arange(3), "b": np.float32(0.5), "c": np.bool_(True), "d": np.array([math.nan])}
    out = json.loads(render.rows([row], (), "json", "x"), parse_constant=refuse)
    assert out["rows"] == [{"a": [0, 1, 2], "b": 0.5, "c": True, "d": [None]}]


def test_csv_has_every_key_once_and_parses():
    rows = list(csv.DictReader(io.StringIO(show("csv"))))
    assert list(rows[0]) == ["name", "median_s", "note", "flags", "outcome", "count"]
    assert [row["median_s"] for row in rows] == ["0.00123", "", "0.5"]
    assert json.loads(rows[0]["flags"]) == ["short", "unsettled"]
    assert json.loads(rows[1]["outcome"]) == {"loss": None}
    assert rows[2]["note"] == "x" * 10_000
    assert rows[2]["count"] == "3"
    assert "nan" not in show("csv").casefold()


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_csv_keeps_one_row_a_line_whatever_the_text(texts):
    out = render.rows([{"name": text, "n": 1} for text in texts], COLUMNS, "csv", "x")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["n"] for row in rows] == ["1"] * len(texts)
    cleaned = [render.clean(text) for text in texts]
    # A spreadsheet would run what begins like a formula, so a quote goes before it.
    expected = [f"'{text}" if text.startswith(("=", "+", "-", "@")) else text for text in cleaned]
    assert [row["name"] for row in rows] == expected
    assert out.count("\n") == len(texts) + 1


def split_cells(line):
    """The cells of a row as GitHub's Markdown splits them: a backslash takes the next sign along.

    `table_cell` in cmark-gfm's extensions/ext_scanners.re.
    """
    cells, cell, signs = [], "", iter(line)
    for sign in signs:
        if sign == "\\":
            cell += next(signs, "")
        elif sign == "|":
            cells.append(cell)
            cell = ""
        else:
            cell += sign
    return [text[1:-1] for text in cells[1:]]


@given(st.text(st.sampled_from("a|\\<\n`*"), max_size=12))
def test_markdown_cells_stay_in_their_column_whatever_the_text(text):
    out = render.rows([{"name": text, "median_s": 1.0, "note": "end"}], COLUMNS, "markdown", "x")
    heading, rule, row = out.splitlines()
    assert rule == "| --- | ---: | --- |"
    assert split_cells(heading) == ["name", "median", "a|note"]
    name, median, note = split_cells(row)
    assert (median, note) == ("1.00 s", "end")
    assert name.replace("&lt;", "<") == render.clean(text)


def test_markdown_has_no_links_and_images_of_a_strangers_text():
    said = "![](http://a/b.png) [here](http://a) <b> \\[x](y)"
    plain = r"\!\[](http://a/b.png) \[here](http://a) &lt;b> \\\[x](y)"
    assert render.without_markup(said) == plain
    rows = [{"name": said, "median_s": 1.0, "note": ""}]
    assert f"| {plain} |" in render.rows(rows, COLUMNS, "markdown", "x")


def test_markdown_starts_no_markup():
    assert "<script" not in show("markdown")


def test_people_see_units_and_a_dash_for_the_unknown():
    text = show("table")
    lines = text.splitlines()
    assert lines[0].split() == ["name", "median", "a|note"]
    assert "1.23 ms" in text
    assert "–" in next(line for line in lines if "owned" in line)
    assert all(line == line.rstrip() for line in lines)


def test_markup_of_the_terminal_library_is_only_text():
    text = render.rows([{"name": "[red]not red[/red] :smile:"}], COLUMNS, "table", "x")
    assert "[red]not red[/red] :smile:" in text


def test_a_pipe_gets_whole_lines(monkeypatch):
    """Without a terminal nothing is folded at 80 characters: grep has to find a case."""
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "conv2d:layer=conv3_3x3,batch=32,direction=forward_backward,precision=fp16"
    assert name in render.rows([{"name": name, "median_s": 1.0}], COLUMNS, "table", "x")


def test_a_pipe_is_as_wide_as_it_is_asked_to_be(monkeypatch):
    row = {"name": "gemm", "median_s": 1.0, "note": "several words " * 4}
    for asked, width in (("40", 40), ("100", 100), ("0", 240), ("wide", 240)):
        monkeypatch.setenv("COLUMNS", asked)
        lines = render.rows([row], COLUMNS, "table", "x").splitlines()
        assert max(map(len, lines)) <= width
        assert (len(lines) > 3) == (width == 40)


def on_a_terminal(monkeypatch, width, columns, rows):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    return re.sub(r"\x1b\[[0-9;]*m", "", render.rows(rows, columns, "table", "x")).splitlines()


@pytest.mark.parametrize("width", range(12, 60, 3))
def test_a_narrow_terminal_does_without_what_is_spare_and_says_so(monkeypatch, width):
    """Widths with three between them: 10, 23 with one more, 36, 49."""
    columns = [
        Column("a", "to type", whole=True),
        Column("b", "second", spare=2),
        Column("c", "first", spare=1),
        Column("d", "third", spare=3),
    ]
    row = {key: key * 10 for key in "abcd"}
    lines = on_a_terminal(monkeypatch, width, columns, [row])
    kept = [key for key, least in zip("adbc", (0, 23, 36, 49), strict=True) if width >= least]
    assert lines[2].split() == [key * 10 for key in "abcd" if key in kept]
    said = " ".join(lines[3:])
    assert said.startswith("not shown for want of room: ") == (len(kept) < 4)
    for column in columns:
        assert (column.heading in said.split(";")[0]) == (column.key not in kept)
    assert ("--format json has all" in said) == (len(kept) < 4)


@pytest.mark.parametrize("width", range(30, 110, 5))
def test_no_width_folds_a_word_or_a_number_or_loses_the_first_column(monkeypatch, width):
    """What a terminal library leaves to a narrow column is a letter a line, or no column."""
    columns = [
        Column("card", "card"),
        *(Column(key, key * 9, right=True) for key in "xyz"),
        Column("verdict", "verdict"),
        Column("flags", "flags"),
    ]
    row = {
        "card": "GeForce RTX 4070 Ti SUPER",
        **dict.fromkeys("xyz", "1.23 [1.00, 1.40]"),
        "verdict": "inconclusive",
        "flags": "other_processes throttled_power unconverged unsettled",
    }
    lines = on_a_terminal(monkeypatch, width, columns, [row])
    assert lines[2].startswith("GeForce RTX 4070 Ti SUPER")
    assert all(len(line) <= width for line in lines)
    known = set(" ".join([*row.values(), *(one.heading for one in columns)]).split())
    table = " ".join([lines[0], *lines[2:]]).partition("not shown for want")[0]
    assert set(table.split()) <= known


def test_what_is_not_spare_goes_from_the_last_on(monkeypatch):
    columns = [Column(key, key, whole=True) for key in "abc"]
    lines = on_a_terminal(monkeypatch, 25, columns, [{key: key * 10 for key in "abc"}])
    assert lines[2].split() == ["a" * 10, "b" * 10]
    assert lines[3].startswith("not shown for want of")


def test_one_column_alone_is_never_cut_off(monkeypatch):
    lines = on_a_terminal(monkeypatch, 10, [Column("a", "a", whole=True)], [{"a": "x" * 30}])
    assert "x" * 30 in lines[2]


def test_what_is_whole_is_not_folded_where_others_are(monkeypatch):
    columns = [Column("a", "to type", whole=True), Column("b", "words")]
    rows = [{"a": "geforce-rtx-4070-ti-super", "b": "some words " * 2}]
    lines = on_a_terminal(monkeypatch, 48, columns, rows)
    assert lines[2].startswith("geforce-rtx-4070-ti-super ")
    assert len(lines) > 3


@pytest.mark.parametrize("form", ["json", "csv", "markdown"])
def test_what_is_spare_in_a_table_is_in_every_other_form(monkeypatch, form):
    monkeypatch.setenv("COLUMNS", "10")
    columns = [Column("a", "a"), Column("b", "b", spare=1)]
    assert "beside" in render.rows([{"a": "x" * 30, "b": "beside"}], columns, form, "x")


# one place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (render.interval(111.4, 92.0, 1350.0), "111 [92, 1,350]"),
        (render.interval(0.5, 0.25, 1.0, 2), "0.50 [0.25, 1.00]"),
        (render.interval(10.5, 6.25, 17.7, 1, "h"), "10.5 h [6.2, 17.7]"),
        (render.dollars(1499), "$1,499"),
        (render.dollars(2.831), "$2.83"),
        (render.dollars(0.0123), "$0.012"),
        (render.count(1, "card"), "1 card"),
        (render.count(0, "card"), "0 cards"),
    ],
)
def test_intervals_dollars_and_plurals_are_made_here(shown, text):
    assert shown == text


def test_nobody_else_makes_dollars_of_a_number():
    for path in CATALOGUE.parents[1].rglob("*.py"):
        if path.stem not in ("render", "listing"):  # a column of whole launch prices: $1499
            assert not re.search(r"\$\{[^}]*:,?\.\df\}", path.read_text()), path.name
