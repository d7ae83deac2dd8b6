"""What others have published: their results as data, with source, date, software and licence.

``data/published.csv`` holds one result a row. Absolute figures don't carry across sources (other
software, other clocks), so a result is only ever set against others of its own source: `family`
says which those are, and `ratios` sets two cards against each other in each of them. Needs nothing
but the standard library.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

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
#: what the names of workloads say of transformers; other networks are convolutional ones
TRANSFORMERS = re.compile("bert|gpt|(?<![a-z])(t5|vit)|llama|llm|transformer|reformer|whisper|dino")
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

    @property
    def operation(self) -> str:
        """What kind of work: gemm, memory, prefill, decode, transformer or cnn."""
        if self.mode == "micro":
            return "memory" if "vector" in self.workload else "gemm"
        if self.unit == "tokens/s" and self.mode == "infer":
            # of a prompt all tokens at once, else one after the other
            return "prefill" if "_pp" in self.workload else "decode"
        return "transformer" if TRANSFORMERS.search(self.workload) else "cnn"


@dataclass(frozen=True)
class Ratio:
    """How much faster one card is than another, in what one source measured on both.

    Attributes:
        workloads: what was measured, alike on both.
        speedup: geometric mean of the ratios of rates over ``workloads``, above 1 is faster.
        lowest, highest: of those ratios.
        same_batch: whether each workload ran at one batch on both.
        licences: under which the figures were published.
    """

    family: str
    source_date: str
    licences: tuple[str, ...]
    operation: str
    mode: str
    precision: str
    workloads: tuple[str, ...]
    speedup: float
    lowest: float
    highest: float
    same_batch: bool


@cache
def published() -> tuple[Published, ...]:
    """The package's own collection, in the file's order."""
    return tuple(load(PUBLISHED))


def ratios(
    card_id: str, baseline_id: str, results: Iterable[Published] | None = None
) -> list[Ratio]:
    """A card against a baseline: one ratio for each source, operation, mode and precision.

    Only results of single cards with the same software count. A workload is taken at the batches
    that both cards have, else at the one that suits each.
    """
    sides: dict[tuple[str, ...], dict[str, list[Published]]] = {}
    for one in published() if results is None else results:
        if one.card_id in (card_id, baseline_id) and one.n_gpus == 1 and one.rate is not None:
            kind = (one.family, one.operation, one.mode, one.precision)
            alike = (*kind, one.workload, one.metric, one.software)
            sides.setdefault(alike, {}).setdefault(one.card_id, []).append(one)
    pairs: dict[tuple[str, ...], list[_Pair]] = {}
    for key, both in sides.items():
        if len(both) == 2:
            pairs.setdefault(key[:4], []).append(_pair(both[card_id], both[baseline_id]))
    return [_ratio(key, found) for key, found in sorted(pairs.items())]


@dataclass(frozen=True)
class _Pair:
    speedup: float
    same_batch: bool
    results: tuple[Published, ...]


def _pair(ours: Sequence[Published], theirs: Sequence[Published]) -> _Pair:
    """One workload on both cards, as alike as the source has it."""
    alike = [(one, other) for one in ours for other in theirs if one.batch == other.batch]
    found = alike or [(max(ours, key=_rate), max(theirs, key=_rate))]
    logs = [math.log(_rate(one) / _rate(other)) for one, other in found]
    return _Pair(math.exp(fmean(logs)), bool(alike), tuple(one for pair in found for one in pair))


def _rate(result: Published) -> float:
    return result.rate or math.nan


def _ratio(key: tuple[str, ...], pairs: Sequence[_Pair]) -> Ratio:
    family, operation, mode, precision = key
    results = [result for pair in pairs for result in pair.results]
    speedups = [pair.speedup for pair in pairs]
    return Ratio(
        family=family,
        source_date=max(result.source_date for result in results),
        licences=tuple(sorted({result.licence for result in results})),
        operation=operation,
        mode=mode,
        precision=precision,
        workloads=tuple(sorted({result.workload for result in results})),
        speedup=math.exp(fmean(map(math.log, speedups))),
        lowest=min(speedups),
        highest=max(speedups),
        same_batch=all(pair.same_batch for pair in pairs),
    )


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
