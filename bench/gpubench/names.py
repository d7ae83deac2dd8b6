"""Short names for people: of cases, by what tells them apart, and of whatever is too long."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpubench import render

LONGEST_LABEL = 42
_SIZES = re.compile(r"\d+(x\d+)+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_POWERS = {2: "²", 3: "³"}


def case_labels(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str | None], str]:
    """Short names of cases by (case id, cache): ``gemm 1024³ fp32``, not escaped.

    Parameters that all cases of a workload share are left out, and the cache state is named only
    where a case was measured in both. Where short names collide the case id stands for itself.
    """
    cases = {(row["case_id"], row["cache"]): row for row in rows}
    by_workload: dict[object, list[dict[str, str]]] = {}
    for row in cases.values():
        by_workload.setdefault(row["workload"], []).append(parameters(row))
    shared = {workload: _shared(found) for workload, found in by_workload.items()}
    states: dict[str, set[str | None]] = {}
    for case_id, cache in cases:
        states.setdefault(case_id, set()).add(cache)
    labels = {}
    for (case_id, cache), row in cases.items():
        label = case_label(row, shared[row["workload"]])
        label += f" ({row['variant']})" if row.get("variant") else ""
        labels[case_id, cache] = f"{label} ({cache})" if len(states[case_id]) > 1 else label
    taken = Counter(labels.values())
    return {
        key: render.clean(label if taken[label] == 1 else f"{key[0]} {key[1] or ''}".strip())
        for key, label in labels.items()
    }


def case_label(row: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """``gemm 1024³ fp32`` from a row, its precision last."""
    named = {name: text for name, text in parameters(row).items() if name not in without}
    precision = named.pop("precision", None)
    values = [_value(name, text) for name, text in named.items()]
    return " ".join([str(row["workload"]), *values, *([precision] if precision else [])])


def parameters(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's parameters; none where a file lacks them."""
    return dict(row["params"] or {}) if isinstance(row["params"], Mapping) else {}


def _shared(cases: Sequence[dict[str, str]]) -> set[str]:
    if len(cases) < 2:
        return set()
    return {name for name in cases[0] if len({case.get(name) for case in cases}) == 1}


def _value(name: str, text: str) -> str:
    words = name.replace("_", " ")
    if _SIZES.fullmatch(text):
        sizes = text.split("x")
        power = _POWERS.get(len(sizes)) if len(set(sizes)) == 1 else None
        return f"{sizes[0]}{power}" if power else "×".join(sizes)
    if text in ("true", "false"):
        return words if text == "true" else f"not {words}"
    return f"{words} {text}" if _NUMBER.fullmatch(text) else text


def shorten(text: str, longest: int = LONGEST_LABEL) -> str:
    """Cut out the middle: names differ at their ends as often as at their beginnings."""
    if len(text) <= longest:
        return text
    tail = longest // 2 - 1
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def natural(text: str) -> list[tuple[int, str]]:
    """A sorting key by which 512 comes before 1024."""
    parts = re.split(r"(\d{1,18})", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
