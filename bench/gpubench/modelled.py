"""A suite's results on cards that are not at hand: rows that are modelled, and say so."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpubench import names, render
from gpubench.cards import CONTEXT_BYTES, MEMORY_BOUND_INTENSITY, Card, unsupported_precision
from gpubench.evidence import step_of
from gpubench.predict import Predictor
from gpubench.render import Column
from gpubench.suite import Suite
from gpubench.workload import Case, Work, all_workloads


def rows(cards: Sequence[Card], suite: Suite, predictor: Predictor) -> list[dict[str, Any]]:
    """A row for each card and case: seconds with 80 % bounds, or why there are none."""
    known = all_workloads()  # once: it looks through folders
    works = [known[case.workload].work(dict(case.params)) for case in suite.cases]
    return [
        _row(card, case, work, predictor)
        for card in cards
        for case, work in zip(suite.cases, works, strict=True)
    ]


def _row(card: Card, case: Case, work: Work | None, predictor: Predictor) -> dict[str, Any]:
    params = dict(case.params)
    row: dict[str, Any] = {
        "card_id": card.card_id,
        "card": card.name,
        "architecture": card.architecture,
        "workload": case.workload,
        "case_id": case.id,
        "cache": case.cache,
        "params": {name: str(value) for name, value in params.items()},
        "precision": case.precision,
        "provenance": "modelled",
        "status": "ok",
        "reason": None,
        **dict.fromkeys(("seconds", "low_s", "high_s", "rate", "rate_unit", "footprint_bytes")),
        "fits_memory": None,
        "basis": predictor.basis,
    }
    if work is None:
        return row | {"status": "unsupported", "reason": "its work is only known once it runs"}
    if work.footprint is not None:
        row["footprint_bytes"] = work.footprint
        row["fits_memory"] = card.fits(work.footprint)
    precision = case.precision or "fp32"
    if reason := unsupported_precision(card.capability, precision):
        return row | {"status": "unsupported", "reason": reason}
    if precision not in card.peaks:
        return row | {"status": "unsupported", "reason": f"its {precision} rate is not known"}
    if work.footprint is not None and not row["fits_memory"]:
        sizes = (work.footprint + CONTEXT_BYTES, card.usable_bytes)  # what `Card.fits` compares
        need, have = map(render.gibibytes, sizes)
        return row | {"status": "oom", "reason": f"needs about {need} of {have} usable"}
    moved, operation, launches = step_of(case.workload, params, work)
    found = predictor.step(
        card, moved, precision, operation=operation, launches=launches, case=case.id
    )
    rate, unit = _rate(work, found.seconds)
    times = {"seconds": found.seconds, "low_s": found.low, "high_s": found.high}
    return row | times | {"rate": rate, "rate_unit": unit}


def _rate(work: Work, seconds: float) -> tuple[float, str]:
    """The rate a workload is judged by, as `table.throughput` has it for measured rows."""
    if work.items:
        return work.items / seconds, f"{work.item or 'item'}s/s"
    if (work.flops or 0.0) > MEMORY_BOUND_INTENSITY * (work.bytes or 0.0):
        return (work.flops or 0.0) / seconds, "FLOP/s"
    return (work.bytes or 0.0) / seconds, "B/s"


def text(found: Sequence[dict[str, Any]], form: str) -> str:
    """The rows in one of `render.FORMATS`; for people each card is marked as modelled."""
    if form in ("json", "csv"):
        return render.rows(found, COLUMNS, form, "predictions")
    labels = names.case_labels(found)
    shown = [
        row
        | {
            "card": f"{row['card']} (modelled)",
            "case": labels[row["case_id"], row["cache"]],
            "bounds": _bounds(row),
            "rate_text": _rate_text(row),
            "result": row["reason"] or row["status"],
        }
        for row in found
    ]
    return render.rows(shown, COLUMNS, form, "predictions")


def _bounds(row: Mapping[str, Any]) -> str | None:
    if row["seconds"] is None:
        return None
    return f"{render.seconds(row['low_s'])} to {render.seconds(row['high_s'])}"


def _rate_text(row: Mapping[str, Any]) -> str | None:
    return None if row["rate"] is None else render.quantity(row["rate_unit"])(row["rate"])


COLUMNS = (
    Column("card", "card"),
    Column("case", "case"),
    Column("seconds", "time", render.seconds, right=True),
    Column("bounds", "80 % within", right=True),
    Column("rate_text", "rate", right=True, spare=1),
    Column("result", "result"),
)
