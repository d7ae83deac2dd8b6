"""What others have published: their results as data, with source, date, software and licence.

``data/published.csv`` holds one result a row. Absolute figures don't carry across sources (other
software, other clocks), so a result is only ever set against others of its own source: `family`
says which those are. Needs nothing but the standard library.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpubench.errors import UnreadableResult

PUBLISHED = Path(__file__).parent / "data" / "published.csv"
#: what a second brings of each unit; of times it is their inverse, in steps or images
RATES = {
    "images/s": 1.0,
    "sequences/s": 1.0,
    "items/s": 1.0,
    "tokens/s": 1.0,
    "TFLOPS": 1e12,
}
TIMES = {"ms/batch": 1e-3, "ms/image": 1e-3}
COLUMNS = (
    *("source", "source_date", "card_id", "n_gpus", "software", "workload", "precision", "batch"),
    *("metric", "value", "unit", "notes", "licence", "mode"),
)


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        source: repository and revision, file and place in it.
        mode: ``train``, ``infer`` or ``micro``.
        batch: of all cards together; None where it was not said.
        rate: items, steps or FLOPs a second, more is better; None of what is no speed.
    """

    source: str
    source_date: str
    card_id: str
    n_gpus: int
    software: str
    workload: str
    precision: str
    mode: str
    batch: int | None
    metric: str
    value: float
    unit: str
    notes: str
    licence: str

    @property
    def family(self) -> str:
        """The source without the place in it: its results were taken by the same people alike."""
        return self.source.partition(":")[0].partition(" (")[0]

    @property
    def rate(self) -> float | None:
        """Units a second, whatever the source printed."""
        if self.unit in TIMES:
            return 1 / (self.value * TIMES[self.unit])
        scale = RATES.get(self.unit)
        return None if scale is None else self.value * scale


@cache
def published() -> tuple[Published, ...]:
    """The package's own collection, in the file's order."""
    return tuple(load(PUBLISHED))


def load(path: Path) -> Iterator[Published]:
    """The results of a file in the format of ``data/published.csv``; further columns are ignored.

    Raises:
        UnreadableResult: it can't be read, lacks a column, or holds a number that can't be.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise _refused(path, f"it lacks the columns {', '.join(sorted(missing))}")
            for number, row in enumerate(reader, start=2):
                yield _result(row, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableResult(f"{path}: {reason}", "check the path") from error


def _result(row: Mapping[str, str | None], where: str) -> Published:
    texts = {name: (row.get(name) or "").strip() for name in COLUMNS}
    try:
        value, batch = float(texts["value"]), int(texts["batch"]) if texts["batch"] else None
        count = int(texts["n_gpus"])
    except ValueError as error:
        raise _refused(where, str(error)) from error
    if not 0 < value < math.inf or count < 1 or (batch is not None and batch < 1):
        raise _refused(where, "value, batch and n_gpus have to be above zero")
    if not texts["card_id"] or not texts["workload"]:
        raise _refused(where, "card_id and workload can't be empty")
    words = {name: texts[name] for name in COLUMNS if name not in ("value", "batch", "n_gpus")}
    return Published(value=value, batch=batch, n_gpus=count, **words)


def _refused(where: object, problem: str) -> UnreadableResult:
    return UnreadableResult(
        f"{where} is not a file of published results: {problem}",
        "bench/gpubench/data/README.md describes the columns",
    )
