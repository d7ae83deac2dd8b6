"""Result files as tables: derived columns, keyed by architecture, card, workload and case.

Everything here is derived when reading and kept nowhere: rates from the declared work, intervals
from the samples, shares of peak from the catalogue.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gpubench import render, stats, store
from gpubench.cards import ABOVE_PEAK, MEMORY_BOUND_INTENSITY, catalogue
from gpubench.names import case_labels
from gpubench.record import FAILURES, IDENTITY
from gpubench.render import Column

#: what trials of one case have to share beside the case
SAME = [*IDENTITY, "torch", "driver"]
#: of these, what only a result knows of itself, and how a case's name says it
TIMED = {"timer": "timer {}", "cold_by": "cold by {}"}
INDEX = ["architecture", "card", "workload", "case_id"]
#: of the trials of a case, the median: seconds, and joules of a step
MIDDLES = ("burst_s", "sustained_s", "energy_j")
ONE_TRIAL = (
    "± of one trial is the spread within that process; several trials show the spread between "
    "processes"
)
#: of the hash of a card or machine, where it tells two apart
UNIT_LETTERS = 4
SUMMARY = (
    *("cache", "precision", "params", *SAME, "trials", "status", "reason", "median_s"),
    *("half_width", "spread", "throughput", "throughput_unit", "share_of_peak", "flags"),
    *MIDDLES,
)
#: and above the peak at the clock that was seen by more than its reading may be off
ABOVE_PEAK_AT_CLOCK = 1.03
#: over the reference clock, which no card's own firmware goes so far beyond
MOST_CLOCK = 1.6
MOST_INNER = 10**9
#: what a row may say of when it was measured; other tools stop at year 9999 at the latest
EARLIEST, LATEST = (pd.Timestamp(year, 1, 1, tz="UTC") for year in (1970, 2200))
#: multiplications that a 3 × 3 convolution may do without, F(4×4, 3×3) of Lavin and Gray 2016
WINOGRAD_SAVING = 4.0


def load(patterns: Sequence[str]) -> pd.DataFrame:
    """Read result files into one frame: a row per case and trial, with the derived columns.

    Of a case that was tried again, the last attempt counts.

    Raises:
        UnreadableResult: a file can't be read.
    """
    parts = []
    for path in store.expand(patterns):
        part = _frame(store.read(path))
        part["file"] = path.rsplit("/", 1)[-1]
        parts.append(part)
    frame = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    keys = ["run_id", "case_id", "cache", "trial"]
    frame = frame.sort_values("attempt", kind="stable").drop_duplicates(keys, keep="last")
    frame = frame.sort_index().reset_index(drop=True)
    return derive(frame)


def _frame(table: pa.Table) -> pd.DataFrame:
    """To pandas, with plain Python where a cell is text, a list or a mapping: None is unknown."""
    numbers = [field.name for field in table.schema if not _is_plain(field.type)]
    frame = table.select(numbers).to_pandas()
    for field in table.schema:
        if _is_plain(field.type):
            values = table.column(field.name).to_pylist(maps_as_pydicts="lossy")
            whole = [_whole(value, field.type) for value in values]
            frame[field.name] = pd.Series(whole, dtype=object, index=frame.index)
    known = frame["started_at"].between(EARLIEST, LATEST)
    frame["started_at"] = frame["started_at"].where(known)
    ordered: pd.DataFrame = frame[table.column_names]
    return ordered


def _whole(value: Any, kind: pa.DataType) -> Any:
    """A cell without what a file of a stranger's may leave open inside of it."""
    if value is None:
        return None
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return [text for text in value if text is not None]
    if pa.types.is_struct(kind):  # mean, least and most of a reading: all of them, or it is unknown
        parts = value.values()
        return value if all(part is not None and math.isfinite(part) for part in parts) else None
    return value


def _is_plain(kind: pa.DataType) -> bool:
    tests = (pa.types.is_nested, pa.types.is_string, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def derive(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that follow from the kept ones.

    ``median_s low_s high_s``: of the samples, with the distribution-free 95 % interval;
    ``flops_per_s bytes_per_s items_per_s``; ``throughput throughput_unit``: the one that suits
    the workload; ``share_of_peak``: of the card's dense peak in that precision or of its memory
    bandwidth, whichever is more; ``precision``. A row that contradicts itself, such as an ok one
    without a positive time, becomes a failed one with the reason: never a number.
    """
    frame = _without_contradictions(frame)
    frame["inner"] = frame["inner"].where(frame["inner"].between(1, MOST_INNER)).fillna(1)
    intervals = [
        stats.sample_interval(samples) if status == "ok" else None
        for samples, status in zip(frame["samples_s"], frame["status"], strict=True)
    ]
    frame["median_s"] = [interval.estimate if interval else math.nan for interval in intervals]
    frame["low_s"] = [interval.low if interval else math.nan for interval in intervals]
    frame["high_s"] = [interval.high if interval else math.nan for interval in intervals]
    for work in ("flops", "bytes", "items"):
        frame[f"{work}_per_s"] = frame[work].astype(float) / frame["median_s"]
    frame["precision"] = [(params or {}).get("precision") for params in frame["params"]]
    chosen = [throughput(row) for row in frame.to_dict("records")]
    frame["throughput"] = [value for value, _ in chosen]
    frame["throughput_unit"] = [unit for _, unit in chosen]
    frame["share_of_peak"] = [_share_of_peak(row) for row in frame.to_dict("records")]
    frame["flags"] = [
        [*(row["flags"] or ()), *(["above_peak"] if _is_above_peak(row) else [])]
        for row in frame.to_dict("records")
    ]
    held = [
        stats.burst_and_sustained(row["samples_s"], int(row["inner"]))
        if row["status"] == "ok"
        else (math.nan, math.nan)
        for row in frame.to_dict("records")
    ]
    frame["burst_s"], frame["sustained_s"] = zip(*held, strict=True) if held else ([], [])
    return frame


def _without_contradictions(frame: pd.DataFrame) -> pd.DataFrame:
    problems = [
        None if row["status"] in (*FAILURES, "unsupported") else store.contradiction(row)
        for row in frame.to_dict("records")
    ]
    broken = pd.Series([problem is not None for problem in problems], index=frame.index, dtype=bool)
    reasons = pd.Series(problems, index=frame.index, dtype=object)
    return frame.assign(
        status=frame["status"].mask(broken, "failed"), reason=frame["reason"].mask(broken, reasons)
    )


def throughput(row: Mapping[Hashable, Any]) -> tuple[float, str]:
    """The rate a workload is judged by: what it trains on, else what it is made of most.

    Below a few operations per byte every device waits for memory, and FLOP/s say nothing.
    """
    if row["items"] > 0:
        return row["items_per_s"], f"{row['item'] or 'item'}s/s"
    if row["flops"] > MEMORY_BOUND_INTENSITY * (row["bytes"] if row["bytes"] > 0 else 0.0):
        return row["flops_per_s"], "FLOP/s"
    return row["bytes_per_s"], "B/s"


def _share_of_peak(row: Mapping[Hashable, Any]) -> float:
    card = catalogue().get(row["card_id"] or "")
    if card is None:
        return math.nan
    peak = card.peak_flops(row["precision"] or "fp32")
    if (row["notes"] or {}).get("arithmetic") == "3xTF32":  # FP32 data on tensor cores
        peak = (card.peak_flops("tf32") or 0.0) / 3
    compute = row["flops_per_s"] / peak if peak else math.nan
    return float(np.fmax(compute, row["bytes_per_s"] / card.bandwidth))


def _is_above_peak(row: Mapping[Hashable, Any]) -> bool:
    """Beyond what the card can do at the clock that was seen; at any plausible one, if none was."""
    card, clock = catalogue().get(row["card_id"] or ""), row["sm_clock_hz"]
    saving = WINOGRAD_SAVING if "algorithm" in (row["notes"] or {}) else 1.0
    if card is None or not clock or not 0 < clock["max"] <= MOST_CLOCK * card.boost_clock_hz:
        return bool(row["share_of_peak"] > ABOVE_PEAK * saving)
    # Memory has a clock of its own, so a lower one of the chip lowers no bandwidth.
    reached = max(clock["max"] / card.boost_clock_hz, 1.0 if is_memory_bound(row) else 0.0)
    return bool(row["share_of_peak"] > ABOVE_PEAK_AT_CLOCK * reached * saving)


def is_memory_bound(row: Mapping[Hashable, Any]) -> bool:
    """Whether a workload does so few operations per byte that devices wait for memory."""
    return bool(throughput(row)[1] == "B/s")


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per card and case, over its trials, indexed by INDEX.

    ``median_s`` is the median of the trials' medians. ``half_width`` is relative and of the 95 %
    interval: between trials where there are two or more (Student's t on the logarithms), within
    the one process otherwise; ``spread`` says which. A failed case keeps its row. Trials are of one
    row only where card, code, way of timing and software are the same.
    """
    rows = [_summarise(group) for group in _trials(frame)]
    columns = None if rows else [*INDEX, *SUMMARY]
    return pd.DataFrame(rows, columns=columns).set_index(INDEX).sort_index(kind="stable")


def _trials(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows behind each row of a summary."""
    keys = [*INDEX, "cache", *SAME]
    groups = _timed_alike(frame).groupby(keys, sort=False, dropna=False)
    return [group for _, group in groups]


def unit_of(row: Mapping[Hashable, Any]) -> str | None:
    """``#ab12``: the one card that was measured, or else the one machine; None if unknown."""
    hashes = (row["device_uuid_hash"], row["host_hash"])
    known = next((text for text in hashes if not render.missing(text)), None)
    return None if known is None else f"#{str(known)[:UNIT_LETTERS]}"


def pooled(frame: pd.DataFrame) -> list[str]:
    """In words: each card of which a `summary` pools trials of several, or of several machines.

    Their names are salted hashes: machines with fresh homes look like several as well.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for group in _trials(frame[frame["status"] == "ok"]):
        units = {unit for row in group.to_dict("records") if (unit := unit_of(row))}
        if len(units) > 1:
            own = not group["device_uuid_hash"].isna().all()
            key = (str(group["card"].iloc[0]), "card" if own else "machine")
            found.setdefault(key, set()).update(units)
    return [
        f"{render.clean(card)}: trials of {render.count(len(units), noun)}, "
        f"{render.clean(' and '.join(sorted(units)))}, are pooled"
        for (card, noun), units in found.items()
    ]


def pooled_runs(frame: pd.DataFrame) -> list[str]:
    """In words: of how many runs a `summary` pools trials; parts with one run id are one run."""
    groups = _trials(frame[frame["status"] == "ok"])
    runs = [set(group["run_id"].dropna()) for group in groups]
    found = set().union(*(several for several in runs if len(several) > 1))
    said = f"trials of {render.count(len(found), 'run')} are pooled"
    return [f"{said}; `gpubench compare` tells them apart"] if found else []


def _timed_alike(frame: pd.DataFrame) -> pd.DataFrame:
    """What has no result was not timed in any way: it counts among the trials that were."""
    keys = [*INDEX, "cache", *(name for name in SAME if name not in TIMED)]
    rows = frame[[*keys, *TIMED, "status"]].to_dict("records")
    known: dict[tuple[str, ...], list[Any]] = {}
    for row in rows:
        if row["status"] == "ok":
            known.setdefault(as_text(row, keys), [row[name] for name in TIMED])
    timed = [
        own if row["status"] == "ok" else known.get(as_text(row, keys), own)
        for row in rows
        for own in [[row[name] for name in TIMED]]
    ]
    return frame.assign(
        **{
            name: pd.Series([row[place] for row in timed], dtype=object, index=frame.index)
            for place, name in enumerate(TIMED)
        }
    )


def as_text(row: Mapping[Any, Any], names: Sequence[str]) -> tuple[str, ...]:
    """Cells that compare as equal where both are unknown."""
    return tuple("" if render.missing(row[name]) else str(row[name]) for name in names)


def _summarise(group: pd.DataFrame) -> dict[str, Any]:
    ok = group[group["status"] == "ok"]
    last = (ok if len(ok) else group).iloc[-1]
    row = {column: last[column] for column in [*INDEX, "cache", "precision", "params", *SAME]}
    row["trials"] = len(ok)
    row["status"] = _status(group)
    reasons = (text for text in group["reason"] if isinstance(text, str))
    row["reason"] = None if row["status"] == "ok" else next(reasons, None)
    medians = list(ok["median_s"])
    row["median_s"] = stats.median(medians) if medians else math.nan
    row["half_width"], row["spread"] = _half_width(ok)
    factor = last["median_s"] / row["median_s"] if medians else math.nan
    row["throughput"] = last["throughput"] * factor
    row["throughput_unit"] = last["throughput_unit"]
    row["share_of_peak"] = last["share_of_peak"] * factor
    row["flags"] = sorted({flag for flags in ok["flags"] for flag in flags})
    for name in MIDDLES:  # whoever needs only some columns leaves these out
        row[name] = float(ok[name].astype(float).median()) if name in ok else math.nan
    return row


def _status(group: pd.DataFrame) -> str:
    failed = [status for status in group["status"] if status in FAILURES]
    if failed:
        return str(failed[0])
    # What one suite left out as too slow another may have measured.
    return "ok" if (group["status"] == "ok").any() else str(group["status"].iloc[-1])


def _half_width(ok: pd.DataFrame) -> tuple[float, str | None]:
    if len(ok) == 0:
        return math.nan, None
    if len(ok) == 1:
        only = ok.iloc[0]
        reach = max(only["high_s"] - only["median_s"], only["median_s"] - only["low_s"])
        return reach / only["median_s"], "samples"
    logs = [math.log(value) for value in ok["median_s"]]
    # Equal to the last digit is a coarse clock, not certainty.
    return (stats.mean_half_width(logs) if len(set(logs)) > 1 else math.inf), "trials"


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A summary's rows with its index as columns, for `render.rows`; unknown is None."""
    return [
        {str(key): None if render.missing(value) else value for key, value in row.items()}
        for row in frame.reset_index().to_dict("records")
    ]


def show_throughput(row: dict[str, Any]) -> str:
    """``1.23 TFLOP/s`` from a row."""
    if render.missing(row["throughput"]):
        return render.UNKNOWN
    return render.quantity(str(row["throughput_unit"]))(row["throughput"])


def marked(card: object, provenance: object) -> str:
    """The card's name, saying so where its numbers were not measured."""
    plain = str(card) if not render.missing(card) else "card unknown"
    if provenance == "measured" or f"({provenance})" in plain:
        return plain
    return f"{plain} ({provenance})"


def with_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the cells that people read and programs don't: short names, rates with units."""
    labels = case_labels(rows)
    return [
        row
        | {
            "card": marked(row["card"], row["provenance"]),
            "case": labels[row["case_id"], row["cache"]] + variant,
            "throughput_text": show_throughput(row),
            "result": row["status"] if row["status"] != "ok" else " ".join(row["flags"]) or "ok",
        }
        for row, variant in zip(rows, _variants(rows), strict=True)
    ]


def _variants(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a case's name lacks, where one card has it twice: of two sources, two timers or so."""
    texts = {"source": "{}", **TIMED}
    told = [{"source": source(row)} | {name: row[name] for name in TIMED} for row in rows]
    own = ("architecture", "card", "provenance", "case_id", "cache")
    cases = [as_text(row, own) for row in rows]
    seen: dict[tuple[object, ...], set[object]] = {}
    for case, values in zip(cases, told, strict=True):
        for name, value in values.items():
            seen.setdefault((case, name), set()).add(value)
    variants = []
    for case, values in zip(cases, told, strict=True):
        differing = [name for name in texts if len(seen[case, name]) > 1]
        parts = ", ".join(texts[name].format(values[name]) for name in differing)
        variants.append(render.clean(f" ({parts})") if parts else "")
    return variants


def source(row: Mapping[str, Any]) -> str:
    """``version 2, source 02c206``: the code of a workload, as a case's name says it."""
    version, code = (
        "unknown" if render.missing(row[name]) else row[name]
        for name in ("workload_version", "workload_hash")
    )
    return f"version {version}, source {str(code)[:6]}"


def text(
    rows: Sequence[dict[str, Any]],
    form: str,
    extra: Sequence[Column] = (),
    without: Sequence[str] = (),
) -> str:
    """Rows of a summary in one of `render.FORMATS`; a terminal may do ``without`` some statuses."""
    columns = [*COLUMNS, *extra]
    if form == "table":
        kept = [row for row in with_text(rows) if row["status"] not in without]
        return under_heading(kept, columns)
    shown = with_text(rows) if form == "markdown" else rows
    return render.rows(shown, columns, form, "results")


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why cases have no result: each that failed, and how many are left out for one reason."""
    failed = [row for row in rows if row["reason"] and row["status"] in FAILURES]
    left_out: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"] and row["status"] not in FAILURES:
            left_out.setdefault(str(row["reason"]), []).append(str(row["case_id"]))
    lines = [(str(row["case_id"]), str(row["reason"])) for row in failed]
    lines += [
        (cases[0] if len(cases) == 1 else render.count(len(cases), "case"), reason)
        for reason, cases in left_out.items()
    ]
    return [f"{render.clean(what)}: {render.clean(reason)}" for what, reason in lines]


def within_one_trial(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where some intervals know one process only: they look surer than those of more."""
    return [ONE_TRIAL] if any(row["spread"] == "samples" for row in rows) else []


def under_heading(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """A table for the terminal, with the card above it where all rows have the same."""
    cards = {(str(row["card"]), str(row["architecture"])) for row in rows}
    if len(cards) != 1:
        return render.rows(rows, columns, "table", "")
    kept = [column for column in columns if column.key not in ("card", "architecture")]
    heading = render.clean(" · ".join(cards.pop()))
    return f"{heading}\n\n{render.rows(rows, kept, 'table', '')}"


COLUMNS = (
    Column("architecture", "architecture", spare=3),
    Column("card", "card"),
    Column("case", "case"),
    Column("cache", "cache", spare=4),
    Column("median_s", "median", render.seconds, right=True),
    Column("half_width", "95 %", render.plus_minus, right=True),
    Column("trials", "trials", right=True, spare=2),
    Column("throughput_text", "throughput", right=True, spare=5),
    Column("share_of_peak", "of peak", render.percent, right=True, spare=1),
    Column("result", "result", spare=6),
)
