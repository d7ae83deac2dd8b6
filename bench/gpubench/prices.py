"""What cards cost: launch prices of the catalogue with their dates, or a file of the user's.

A launch price is never today's; it says what it is and when it was. With a file only its prices
count: some cards at today's price and others at that of ten years ago would compare nothing.

The file is CSV with the columns ``card_id``, ``price_usd`` and, if known, ``date``, or TOML with a
``[[price]]`` block of these keys for each card.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from gpubench import plugins
from gpubench.cards import Card, get_card
from gpubench.errors import UsageError

COLUMNS = ("card_id", "price_usd", "date")


@dataclass(frozen=True)
class Price:
    """A price in US dollars; ``kind`` says whose, ``date`` of when (empty where not said)."""

    usd: float
    date: str
    kind: str


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
        found[card_id] = Price(_usd(where, row.get("price_usd")), _date(where, row), path.name)
    if not found:
        raise UsageError(f"{path} has no prices", f"its columns are {', '.join(COLUMNS)}")
    return found


def _csv(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            _no_others(path, reader.fieldnames or ())
            return [(f"{path}, line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path}: {getattr(error, 'strerror', None) or error}", "check the path"
        ) from error


def _toml(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    content = plugins.read_toml(path)
    blocks = content.pop("price", [])
    fits = isinstance(blocks, list) and all(isinstance(block, dict) for block in blocks)
    if content or not fits:
        raise UsageError(f"{path}: prices are written as [[price]] blocks, and nothing else")
    for block in blocks:
        _no_others(path, block)
    return [(f"{path}, price {number}", block) for number, block in enumerate(blocks, start=1)]


def _no_others(path: Path, names: Iterable[str]) -> None:
    names = list(names)
    wrong = [name for name in names if name not in COLUMNS]
    missing = [name for name in COLUMNS[:2] if name not in names]
    if wrong or missing:
        problem = f"unknown {wrong[0]!r}" if wrong else f"it lacks {missing[0]!r}"
        raise UsageError(f"{path}: {problem}", f"its columns are {', '.join(COLUMNS)}")


def _usd(where: str, value: Any) -> float:
    try:
        price = float(value)
    except (TypeError, ValueError):
        price = math.nan
    if isinstance(value, bool) or not 0 < price < math.inf:
        raise UsageError(f"{where}: price_usd = {value!r} is no price above zero")
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
