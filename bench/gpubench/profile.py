"""Selection profiles: how much each part of a score counts, over which cases, and what is a must.

A profile is one TOML file in ``profiles/`` or anywhere::

    summary = "what it is for"
    reference = "geforce-rtx-3090"  # what is 100; the ranking does not depend on it

    [weights]                       # only their shares matter; 0 leaves a part out
    performance = 4
    memory = 2
    bandwidth = 1
    efficiency = 1
    value = 2

    [gates]                         # optional: what a card must have to be scored at all
    precision = ["bf16"]            # in hardware
    memory_gib = 12

    [cases]                         # case ids, as `gpubench run --dry-run` shows them, and weights
    "gemm:shape=8192x8192x8192,precision=bf16" = 1
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpubench import plugins
from gpubench.cards import FIRST_CAPABILITY, GIB, Card, get_card
from gpubench.errors import UsageError, unknown_name

#: the parts of a score, in the order in which they are shown
PARTS = ("performance", "memory", "bandwidth", "efficiency", "value")
DEFAULT = "balanced"
#: under which a report's frame carries its profile (``frame.attrs``)
PROFILE = "gpubench profile"
KEYS = ("summary", "reference", "weights", "gates", "cases")
GATES = ("precision", "memory_gib")
#: large enough for any preference, and far from where a sum of weights overflows
LARGEST = 1e6


@dataclass(frozen=True)
class Profile:
    """What a buyer weighs.

    Attributes:
        weights: share of each of PARTS; they add up to 1.
        cases: weight of each case by its id, in the file's order.
        reference: the card whose every part is 100.
        precisions: what a card must do in hardware.
        memory_bytes: least memory of a card.
    """

    name: str
    summary: str
    reference: Card
    weights: Mapping[str, float]
    cases: Mapping[str, float]
    precisions: tuple[str, ...] = ()
    memory_bytes: float = 0.0


def load_profile(name: str) -> Profile:
    """A shipped profile or an extension by name, or a TOML file by path.

    Raises:
        UsageError: no such profile, or something in it is not what a profile may hold.
    """
    path = Path(name) if name.endswith(".toml") else plugins.find("profiles", name, ".toml")
    content = plugins.read_toml(path)
    _known(path, "", content, KEYS)
    for key in ("reference", "weights", "cases"):
        if key not in content:
            raise UsageError(f"{path} lacks {key!r}", "the head of profile.py shows a whole file")
    weights = _weights(path, "weights", content["weights"], PARTS)
    cases = _weights(path, "cases", content["cases"])
    for case_id in cases:
        workload, colon, _ = case_id.partition(":")
        if not workload or not colon:
            raise UsageError(
                f"{path}: cases: {case_id!r} is no case id",
                "`gpubench run --dry-run --format json` shows the ids",
            )
    gates = _table(path, "gates", content.get("gates", {}))
    _known(path, "gates.", gates, GATES)
    total = math.fsum(weights.values())
    return Profile(
        name=path.stem,
        summary=_text(path, "summary", content.get("summary", "")),
        reference=_reference(path, content["reference"], weights),
        weights={part: weights.get(part, 0.0) / total for part in PARTS},
        cases=cases,
        precisions=_precisions(path, gates.get("precision", [])),
        memory_bytes=GIB * _number(path, "gates.memory_gib", gates.get("memory_gib", 0)),
    )


def _reference(path: Path, value: Any, weights: Mapping[str, float]) -> Card:
    name = _text(path, "reference", value)
    try:
        card = get_card(name)
    except UsageError as error:
        raise UsageError(f"{path}: reference: {error}", error.remedy) from error
    if weights.get("value") and not card.launch_price_usd:
        raise UsageError(
            f"{path}: reference: {card.card_id} has no launch price, which value is held against",
            "name a card with a launch price, or set weights.value = 0",
        )
    return card


def _weights(
    path: Path, key: str, content: Any, known: Sequence[str] | None = None
) -> dict[str, float]:
    table = _table(path, key, content)
    if known:
        _known(path, f"{key}.", table, known)
    found = {name: _number(path, f"{key}.{name}", value) for name, value in table.items()}
    positive = {name: weight for name, weight in found.items() if weight > 0}
    if not positive:
        raise UsageError(f"{path}: {key} has no weight above zero", "give at least one")
    return positive


def _precisions(path: Path, value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    known = ("fp64", "fp32", *FIRST_CAPABILITY)
    if not isinstance(names, list) or not all(name in known for name in names):
        raise UsageError(
            f"{path}: gates.precision = {value!r} is no list of precisions",
            f"known: {', '.join(known)}",
        )
    return tuple(names)


def _known(path: Path, prefix: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            error = unknown_name("key", prefix + key, [prefix + name for name in known])
            raise UsageError(f"{path}: {error}", error.remedy)


def _table(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {key} = {value!r} is no table", f"write it below [{key}]")
    return value


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{path}: {key} = {value!r} is no text", "put it in quotes")
    return value


def _number(path: Path, key: str, value: Any) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not 0 <= value <= LARGEST:
        raise UsageError(
            f"{path}: {key} = {value!r} is no number", f"give one from 0 to {LARGEST:g}"
        )
    return float(value)
