"""What others have published: their results as data, with source, date, software and licence.

``data/published.csv`` holds one result a row. Absolute figures don't carry across sources (other
software, other clocks), so a result is only ever set against others of its own source: `family`
says which those are, and `ratios` sets two cards against each other in each of them.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from gpubench.cards import get_card
from gpubench.errors import UnreadableResult, UsageError

PUBLISHED = Path(__file__).parent / "data" / "published.csv"
#: what a second brings of each unit; of times it is their inverse, in steps or images
RATES = {
    "images/s": 1.0,
    "sequences/s": 1.0,
    "items/s": 1.0,
    "tokens/s": 1.0,
    "TFLOPS": 1e12,
}
TIMES = {"ms/batch": 1e-3, "s/batch": 1.0, "ms/image": 1e-3}
#: how others spell units, modes and precisions, in small letters and without spaces
SPELLINGS = {
    **dict.fromkeys(("img/s", "imgs/s", "image/s"), "images/s"),
    **dict.fromkeys(("seq/s", "seqs/s", "sequence/s", "sentences/s"), "sequences/s"),
    **dict.fromkeys(("samples/s", "sample/s", "examples/s", "item/s"), "items/s"),
    **dict.fromkeys(("tok/s", "token/s"), "tokens/s"),
    **dict.fromkeys(("tflop/s", "tflops/s"), "TFLOPS"),
    **dict.fromkeys(("ms/step", "ms/iteration"), "ms/batch"),
    **dict.fromkeys(("s/step", "s/iteration"), "s/batch"),
    **{unit.casefold(): unit for unit in (*RATES, *TIMES)},
    **dict.fromkeys(("train", "training", "finetuning", "fine-tuning"), "train"),
    **dict.fromkeys(("infer", "inference"), "infer"),
    "float64": "fp64",
    **dict.fromkeys(("float32", "single"), "fp32"),
    **dict.fromkeys(("float16", "half"), "fp16"),
    "bfloat16": "bf16",
}
MODES = ("train", "infer", "micro")
#: numbers as hardware multiplies them, mixtures of two, and weights of so many bits
PRECISIONS = re.compile(r"fp64|fp32|tf32|bf16|fp16|fp8|int8|amp|mixed\b.*|q[2-8](\b|_).*")
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
        address = re.sub(r"^\w+://", "", self.source)
        return address.partition(":")[0].partition(" (")[0]

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
    """The results of a file in the format of ``data/published.csv``.

    Further columns are ignored, but for ``quality``: what isn't ``ok`` is left out. Cards may have
    any name that one card of the catalogue goes by; units, modes and precisions usual spellings.

    Raises:
        UnreadableResult: it can't be read, lacks a column, holds a number or a word that can't be,
            or no result at all.
    """
    found = False
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            _check_columns(path, reader.fieldnames or ())
            for row in reader:
                if (row.get("quality") or "ok").strip() == "ok":
                    found = True
                    yield _result(row, f"{path}, line {reader.line_num}")
    except UnicodeDecodeError as error:
        raise UnreadableResult(f"{path} is not in UTF-8", "save it as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableResult(f"{path}: {reason}", "check the path") from error
    if not found:
        raise _refused(path, "it has no result of quality ok")


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if missing := sorted(set(COLUMNS) - set(columns)):
        separated = f", or isn't separated by commas: {columns[0]!r}" if len(columns) == 1 else ""
        raise _refused(path, f"it lacks the columns {', '.join(missing)}{separated}")


def _result(row: Mapping[str, str | None], where: str) -> Published:
    texts = {name: (row.get(name) or "").strip() for name in COLUMNS}
    try:
        value, count = float(texts["value"]), _whole(texts["n_gpus"])
        batch = _whole(texts["batch"]) if texts["batch"] else None
    except ValueError as error:
        raise _refused(where, str(error)) from error
    if not 0 < value < math.inf or count < 1 or (batch is not None and batch < 1):
        raise _refused(where, "value, batch and n_gpus have to be above zero")
    if not texts["card_id"] or not texts["workload"]:
        raise _refused(where, "card_id and workload can't be empty")
    words = {name: texts[name] for name in COLUMNS if name not in ("value", "batch", "n_gpus")}
    words["card_id"] = _card_id(words["card_id"])
    words |= {name: _spelled(words[name]) for name in ("unit", "mode", "precision")}
    if words["mode"] not in MODES:
        raise _refused(where, f"mode {words['mode']!r} is none of {', '.join(MODES)}")
    if not PRECISIONS.fullmatch(words["precision"]):
        known = "fp32, tf32, fp16, bf16, amp, mixed, q4 and the like"
        raise _refused(where, f"precision {words['precision']!r} is none of {known}")
    return Published(value=value, batch=batch, n_gpus=count, **words)


def _whole(text: str) -> int:
    """A number without a fraction; programs that know a column as numbers write 96.0."""
    return int(text.removesuffix(".0"))


@cache
def _card_id(name: str) -> str:
    """The card that goes by this name; the name itself where no card does, or more than one."""
    try:
        return get_card(name).card_id
    except UsageError:
        return name


def _spelled(text: str) -> str:
    """A word as this package spells it; the word itself where it isn't known."""
    plain = re.sub(r"/sec(onds?)?$", "/s", text.casefold().replace(" per ", "/")).replace(" ", "")
    return SPELLINGS.get(plain, text)


def _refused(where: object, problem: str) -> UnreadableResult:
    return UnreadableResult(
        f"{where} is not a file of published results: {problem}",
        "bench/gpubench/data/README.md describes the columns",
    )
