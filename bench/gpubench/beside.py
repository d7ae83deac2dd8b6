"""What others published of two cards, beside what was measured of them here.

Absolute figures don't carry from one software to another, so only ratios within one source are
shown. They are labelled as published and enter no verdict.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gpubench import render
from gpubench.published import Ratio, ratios
from gpubench.render import Column
from gpubench.stats import geometric_mean

Row = Mapping[str, Any]

#: which measured workloads a published operation can be held against
ALIKE: Mapping[str, tuple[str, ...]] = {
    "gemm": ("gemm",),
    "memory": ("memory",),
    "cnn": ("conv2d", "mnist"),
    "transformer": ("bert",),
}
#: automatic mixed precision multiplies in FP16
PRECISIONS: Mapping[str, str] = {"amp": "fp16"}


def beside(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each pair of cards in a comparison's rows, what others published of the same two.

    One row for each source, operation, mode and precision: ``speedup`` with the lowest and highest
    of its ``workloads``, and ``measured_speedup``, the geometric mean over the ``measured_cases``
    of the comparison that are most like it.
    """
    pairs = dict.fromkeys(
        (row["card_id"], row["baseline_card_id"], row["side"], row["baseline"]) for row in rows
    )
    found = []
    for card_id, baseline_id, side, baseline in pairs:
        own = [row for row in rows if (row["side"], row["baseline"]) == (side, baseline)]
        if card_id and baseline_id:
            found += [
                _published_row(ratio, own, side, baseline) for ratio in ratios(card_id, baseline_id)
            ]
    return found


def _published_row(ratio: Ratio, rows: Sequence[Row], side: str, baseline: str) -> dict[str, Any]:
    measured = [row["speedup"] for row in rows if _is_like(row, ratio) and row["speedup"]]
    return {
        "provenance": "published",
        "source": ratio.family,
        "source_date": ratio.source_date,
        "licence": ", ".join(ratio.licences),
        "side": side,
        "card_id": rows[0]["card_id"],
        "baseline": baseline,
        "baseline_card_id": rows[0]["baseline_card_id"],
        "operation": ratio.operation,
        "mode": ratio.mode,
        "precision": ratio.precision,
        "workloads": list(ratio.workloads),
        "same_batch": ratio.same_batch,
        "speedup": ratio.speedup,
        "speedup_low": ratio.lowest,
        "speedup_high": ratio.highest,
        "measured_speedup": geometric_mean(measured) if measured else None,
        "measured_cases": len(measured),
        "verdict": None,
    }


def _is_like(row: Row, ratio: Ratio) -> bool:
    """Whether a measured row, or a comparison of two, is of the published operation."""
    params = row["params"] if isinstance(row["params"], Mapping) else {}
    precision = PRECISIONS.get(ratio.precision, ratio.precision)
    return (
        row["provenance"] == "measured"
        and row["workload"] in ALIKE.get(ratio.operation, ())
        and params.get("precision", precision) == precision
    )


def measured_like(
    found: Sequence[Ratio], baseline: Sequence[Row], other: Sequence[Row]
) -> tuple[float | None, int]:
    """Geometric mean of the measured speedups in cases like the published ones, and their number.

    ``baseline`` and ``other`` are rows of summaries; a case counts if it is ok on both.
    """
    before = {(row["case_id"], row["cache"]): row for row in baseline if row["status"] == "ok"}
    speedups = [
        before[key]["median_s"] / row["median_s"]
        for row in other
        if (key := (row["case_id"], row["cache"])) in before
        and row["status"] == "ok"
        and any(_is_like(row, ratio) for ratio in found)
    ]
    return (geometric_mean(speedups) if speedups else None), len(speedups)


def text(rows: Sequence[Row], form: str) -> str:
    """Rows of `beside` as people read them, under a line that says what they are."""
    if not rows:
        return ""
    shown = [
        dict(row)
        | {
            "what": f"{row['operation']}, {row['mode']}",
            "pair": f"{row['card_id']} against {row['baseline_card_id']}",
            "published_text": _spread(row),
            "count": len(row["workloads"]),
            "source_text": f"{str(row['source']).removeprefix('github.com/')}",
        }
        for row in rows
    ]
    return f"\n{PUBLISHED}\n\n{render.rows(shown, PUBLISHED_COLUMNS, form, 'published')}"


def _spread(row: Row) -> str:
    text = render.number(row["speedup"])
    if len(row["workloads"]) > 1:
        low, high = render.number(row["speedup_low"]), render.number(row["speedup_high"])
        text += f" ({low} to {high})"
    return text if row["same_batch"] else f"{text}, other batches"


PUBLISHED = (
    "published by others, with other software: how the same two cards compare there; no part of a "
    "verdict"
)
PUBLISHED_COLUMNS = (
    Column("pair", "cards"),
    Column("what", "operation"),
    Column("precision", "precision"),
    Column("count", "workloads", right=True),
    Column("published_text", "published speedup", right=True),
    Column("measured_speedup", "measured here", render.number, right=True),
    Column("measured_cases", "cases", right=True),
    Column("source_text", "source"),
    Column("source_date", "date"),
    Column("licence", "licence"),
)
