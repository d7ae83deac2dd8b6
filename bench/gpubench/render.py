"""The one place that makes numbers and rows readable: for people, programs and pages.

Rows are mappings with base units in their keys (``median_s``, ``memory_bytes``). A `Column` says
how a person should see one; JSON and CSV carry the keys and plain values as they are.
"""

import csv
import io
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

FORMATS = ("table", "json", "csv", "markdown")
JSON_VERSION = 1
UNKNOWN = "–"
#: characters across where output is no terminal and COLUMNS says nothing
PIPE_WIDTH = 240
#: text is folded at spaces in columns down to this width, so that only words beyond it break;
#: the first column, which says what a row is of, keeps more
READABLE, READABLE_FIRST = 18, 32
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
_SMALL = ((1, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))

Row = Mapping[str, Any]


def clean(text: object) -> str:
    """Text without control characters: a stranger's file must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def clean_lines(text: str) -> str:
    """`clean` for text of several lines."""
    return "\n".join(clean(line) for line in text.split("\n"))


def missing(value: object) -> bool:
    """None and not-a-number both mean unknown."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, without an exponent where people would not use one."""
    if value == 0 or not math.isfinite(value):
        return f"{value + 0.0:g}"  # + 0.0: zero has no sign
    rounded = f"{value:.{digits - 1}e}"
    magnitude = int(rounded.partition("e")[2])  # after rounding: 9.996 is a 10.0
    if not -5 <= magnitude < 9:
        return rounded
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def _scale(value: float, prefixes: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The prefix that leaves 1 to 999 in front; 999.6 would be shown as 1000 and takes the next."""
    reached = (p for p in prefixes if float(f"{abs(value) / p[0]:.2e}") >= 1)
    return next(reached, (1, "") if value == 0 else prefixes[-1])


def quantity(unit: str) -> Callable[[float], str]:
    """1.23e12 with unit ``FLOP/s`` → ``1.23 TFLOP/s``; things, as ``images/s``, stand apart."""
    apart = " " if unit[:1].islower() else ""

    def show(value: float) -> str:
        if not math.isfinite(value):
            return f"{value:g} {unit}"
        scale, prefix = _scale(value, _PREFIXES)
        return f"{number(value / scale)} {prefix}{apart if prefix else ''}{unit}"

    return show


def seconds(value: float) -> str:
    """0.00123 → ``1.23 ms``."""
    if not math.isfinite(value):
        return f"{value:g} s"
    scale, prefix = _scale(value, _SMALL)
    return f"{number(value / scale)} {prefix}s"


def duration(value: float) -> str:
    """For waits: ``42 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if not math.isfinite(value):
        return UNKNOWN
    whole = max(0, round(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def gibibytes(value: float) -> str:
    """Memory sizes are powers of two: ``24 GiB``."""
    size = value / 2**30
    return f"{size:.4g} GiB" if 1 <= size < 9999.5 else f"{number(size)} GiB"


def percent(value: float) -> str:
    """0.123 → ``12.3 %``."""
    return f"{number(100 * value)} %"


def ratio(estimate: float | None, low: float, high: float) -> str:
    """``1.230 [1.200, 1.260]``, or ``[?]`` where the interval is unknown."""
    if estimate is None:
        return UNKNOWN
    bounds = f"{low:.3f}, {high:.3f}" if low > 0 and high < float("inf") else "?"
    return f"{estimate:.3f} [{bounds}]"


def interval(estimate: float, low: float, high: float, decimals: int = 0, unit: str = "") -> str:
    """``111 [92, 135]``, ``10.5 h [6.2, 17.7]``: all three with as many decimals."""
    middle, least, most = (f"{end:,.{decimals}f}" for end in (estimate, low, high))
    return f"{middle}{f' {unit}' if unit else ''} [{least}, {most}]"


def dollars(value: float) -> str:
    """``$1,499``, ``$2.83``, ``$0.012``: cents below a hundred, two digits below a dime."""
    if value >= 100:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 0.1 else f"${number(value, 2)}"


def count(number: int, noun: str) -> str:
    """``1 card``, ``2 cards``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def plus_minus(value: float) -> str:
    """A relative half-width: ``±1.2 %``; infinite is unknown."""
    return f"±{number(100 * value, 2)} %" if math.isfinite(value) else "±?"


@dataclass(frozen=True)
class Column:
    """One column for people: which key, under which heading, shown how.

    ``whole`` text is never folded in a narrow terminal: what is to be typed, or a date. ``spare``
    columns are the first to be left out of a table that a terminal is too narrow for, 1 before 2.
    """

    key: str
    heading: str
    show: Callable[[Any], str] = clean
    right: bool = False
    whole: bool = False
    spare: int = 0


def text_of(column: Column, row: Row) -> str:
    """One cell for people."""
    value = row.get(column.key)
    return UNKNOWN if missing(value) else clean(column.show(value))


def rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    form: str,
    kind: str,
    beside: Mapping[str, Any] | None = None,
) -> str:
    """Rows in one of FORMATS, ending in a newline.

    ``kind`` names the rows in the JSON envelope: ``{"kind": …, "version": …, "rows": […]}``;
    ``beside`` are further entries of it, for what is said of all rows together.
    """
    if form == "json":
        plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
        envelope = {"kind": kind, "version": JSON_VERSION, **_plain(beside or {}), "rows": plain}
        return _json(envelope, indent=1) + "\n"
    if form == "csv":
        return _csv(rows)
    if form == "markdown":
        return _markdown(rows, columns)
    return _table(rows, columns)


def _json(value: Any, indent: int | None = None) -> str:
    """JSON with readable letters and escaped control characters, the C1 ones included."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _plain(value: Any) -> Any:
    """What JSON can hold: unknown and infinite become null, numbers of numpy become Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _no_formula(text: str) -> str:
    """A spreadsheet would run text that begins like a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _csv(rows: Sequence[Row]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        plain = [_plain(row.get(key)) for key in keys]
        writer.writerow(
            _json(value)
            if isinstance(value, (list, dict))
            else _no_formula(clean(value))
            if isinstance(value, str)
            else value
            for value in plain
        )
    return out.getvalue()


def without_markup(text: str) -> str:
    """Text for Markdown: no element, cell, link or image begins in it."""
    return re.sub(r"[\\|\[!]", r"\\\g<0>", text).replace("<", "&lt;")


def _markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(without_markup, cells)) + " |\n"

    rule = "|" + "|".join(" ---: " if column.right else " --- " for column in columns) + "|\n"
    body = (line(text_of(column, row) for column in columns) for row in rows)
    return line(column.heading for column in columns) + rule + "".join(body)


Cells = list[tuple[Column, list[str]]]


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    from rich.console import Console

    console = Console(highlight=False)
    width = console.width
    if not console.is_terminal:  # a pipe has no width; don't fold what grep will read
        asked = os.environ.get("COLUMNS", "")
        width = int(asked) if asked.isdecimal() and int(asked) else PIPE_WIDTH
    cells = [(column, [text_of(column, row) for row in rows]) for column in columns]
    cells, left_out = _fitting(cells, width)
    widths = _widths(cells, width)
    # What can't be narrower is left for the terminal to break, rather than cut off.
    console = Console(highlight=False, width=max(width, _across(widths)))
    with console.capture() as capture:
        console.print(_rich_table(cells, widths))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, *_said_of(left_out, width)]) + "\n"


def _fitting(cells: Cells, width: int) -> tuple[Cells, list[Column]]:
    """The columns that find room, and those that don't: the spare ones go first, then the last."""
    order = sorted((column for column, _ in cells if column.spare), key=lambda one: one.spare)
    order += [column for column, _ in reversed(cells[1:]) if not column.spare]
    kept, left_out = cells, 0
    while left_out < len(order) and _across(_least(kept)) > width:
        left_out += 1
        kept = [(column, texts) for column, texts in cells if column not in order[:left_out]]
    return kept, [column for column, _ in cells if column in order[:left_out]]


def _said_of(left_out: Sequence[Column], width: int) -> list[str]:
    """Which columns are missing, and where they are."""
    if not left_out:
        return []
    names = ", ".join(column.heading for column in left_out if column.heading)
    text = f"not shown for want of room: {names}; a wider terminal or --format json has all"
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _across(widths: Sequence[int]) -> int:
    """Characters across, with three between two columns."""
    return sum(widths) + 3 * max(0, len(widths) - 1)


def _full(cells: Cells) -> list[int]:
    """The width at which no cell of a column is folded."""
    from rich.cells import cell_len

    return [max(map(cell_len, (column.heading, *texts))) for column, texts in cells]


def _least(cells: Cells) -> list[int]:
    """The width below which a column can't be read: numbers and short words are never folded."""
    least = []
    for place, ((column, _), full) in enumerate(zip(cells, _full(cells), strict=True)):
        readable = READABLE_FIRST if place == 0 else READABLE
        least.append(full if column.right or column.whole else min(full, readable))
    return least


def _widths(cells: Cells, width: int) -> list[int]:
    """What each column gets: the widest give first, and none more than it can."""
    full, least = _full(cells), _least(cells)
    level, widths = max(full, default=0), full
    while level and _across(widths) > width:
        level -= 1
        widths = [max(low, min(most, level)) for low, most in zip(least, full, strict=True)]
    return widths


def _rich_table(cells: Cells, widths: Sequence[int]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for (column, _), width in zip(cells, widths, strict=True):
        align: Any = "right" if column.right else "left"
        table.add_column(Text(column.heading), justify=align, overflow="fold", width=width)
    for texts in zip(*(texts for _, texts in cells), strict=True):
        table.add_row(*map(Text, texts))
    return table
