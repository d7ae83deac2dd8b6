"""What cards cost: launch prices of the catalogue with their dates, or a file of the user's.

A launch price is never today's; each price says what it is and when it was. A file's prices take
the place of the launch prices of its cards, and of no others.

The file is CSV with the columns ``card_id``, ``price_usd`` and, if known, ``date``, or TOML with a
``[[price]]`` block of these keys for each card.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from gpubench import plugins
from gpubench.cards import Card, get_card
from gpubench.errors import UsageError

COLUMNS = ("card_id", "price_usd", "date")
TOML_EXAMPLE = '[[price]] card_id = "tesla-t4", price_usd = 400, date = "2026-01-31", a key a line'
CSV_EXAMPLE = "tesla-t4,400,2026-01-31"
#: dollars of a price; ratios of prices beyond are beyond what can be reckoned with
LEAST, MOST = 0.01, 1e9
#: $ in front, commas that part thousands and nothing else, and a point that can't be meant so
WRITTEN = re.compile(r"\$?\s*(\d{1,3}(,\d{3})+|\d+)(\.(?!\d{3}(?!\d))\d*)?([eE]\+?\d+)?")


@dataclass(frozen=True)
class Price:
    """A price in US dollars, with its date where that is said.

    Attributes:
        kind: launch, or given by the user.
        source: the name of the user's file.
    """

    usd: float
    date: str
    kind: str
    source: str = ""


def launch_prices(cards: Iterable[Card]) -> dict[str, Price]:
    """The catalogue's prices by card id; cards without one are left out."""
    return {
        card.card_id: Price(card.launch_price_usd, card.launch_date, "launch")
        for card in cards
        if card.launch_price_usd
    }


def load_prices(name: str) -> dict[str, Price]:
    """The prices of a file by card id.

    Raises:
        UsageError: it can't be read, or holds what is no card, price or date, or a card twice.
    """
    path = Path(name)
    rows = _toml(path) if path.suffix == ".toml" else _csv(path)
    found: dict[str, Price] = {}
    for where, row in rows:
        try:
            card_id = get_card(str(row.get("card_id") or "").strip()).card_id
        except UsageError as error:
            raise UsageError(f"{where}: {error}", error.remedy) from error
        if card_id in found:
            raise UsageError(f"{where}: {card_id} has a price already", "leave one of them")
        usd = _usd(where, row.get("price_usd"))
        found[card_id] = Price(usd, _date(where, row), "given", path.name)
    if not found:
        raise UsageError(f"{path} has no prices", _format(path))
    return found


def _csv(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            _no_others(path, reader.fieldnames or ())
            return [_whole(f"{path}, line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path}: {getattr(error, 'strerror', None) or error}", "check the path"
        ) from error


def _whole(where: str, row: dict[Any, Any]) -> tuple[str, Mapping[str, Any]]:
    """A line with no more cells than the header: an unquoted 1,200 is two, and the first is 1."""
    if None in row:
        raise UsageError(
            f"{where}: it has more cells than the header", 'quote a price with a comma: "1,200"'
        )
    return where, row


def _toml(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    content = plugins.read_toml(path)
    blocks = content.pop("price", [])
    fits = isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks)
    if content or not fits:
        raise UsageError(
            f"{path}: prices are written as [[price]] blocks, and nothing else",
            f"as: {TOML_EXAMPLE}",
        )
    for block in blocks:
        _no_others(path, block)
    return [(f"{path}, price {number}", block) for number, block in enumerate(blocks, start=1)]


def _no_others(path: Path, names: Iterable[str]) -> None:
    names = list(names)
    wrong = [name for name in names if name not in COLUMNS]
    missing = [name for name in COLUMNS[:2] if name not in names]
    if wrong or missing:
        problem = f"unknown {wrong[0]!r}" if wrong else f"it lacks {missing[0]!r}"
        raise UsageError(f"{path}: {problem}", _format(path))


def _format(path: Path) -> str:
    if path.suffix == ".toml":
        return f"its keys are {', '.join(COLUMNS)}, as: {TOML_EXAMPLE}"
    return f"its columns are {', '.join(COLUMNS)}, as: {CSV_EXAMPLE}"


def _usd(where: str, value: Any) -> float:
    """``700``, ``"$700"`` and ``"1,200"``; ``1.200``, ``1.200,50``, ``700 €`` may be anything."""
    text = "" if isinstance(value, bool) else str(value).strip()
    price = float(re.sub(r"[$,\s]", "", text)) if WRITTEN.fullmatch(text) else math.nan
    if not LEAST <= price <= MOST:
        raise UsageError(
            f"{where}: price_usd = {value!r} is no price from {LEAST:g} to {MOST:g}",
            'write US dollars, as 1200, 1200.50, $1200 or, quoted in a CSV file, "1,200"',
        )
    return price


def _date(where: str, row: Mapping[str, Any]) -> str:
    """A day or a month; TOML has dates of its own."""
    text = str(row.get("date") or "").strip()
    try:
        if text:
            date.fromisoformat(text if len(text) > len("2026-01") else f"{text}-01")
    except ValueError as error:
        raise UsageError(f"{where}: date = {text!r} is no date", "write 2026-01-31") from error
    return text
