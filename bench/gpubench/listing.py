"""What ``gpubench list`` shows: extensions of a kind, the cards, or others' results, as rows.

Neither torch nor pandas is needed for any of it.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from gpubench import plugins
from gpubench.cards import GIB, Card, catalogue
from gpubench.errors import unknown_name
from gpubench.render import Column, gibibytes, number, quantity

Listing = tuple[list[dict[str, Any]], tuple[Column, ...]]

#: what ``--only`` looks at
NAMES = ("name", "card_id", "workload", "source")
SORTS = {
    "name": "card_id",
    "date": "launch_date",
    "memory": "memory_bytes",
    "bandwidth": "bandwidth_bytes_per_s",
    "fp32": "fp32_flops_per_s",
    "fp16": "fp16_flops_per_s",
    "power": "power_w",
    "price": "launch_price_usd",
}


def listing(what: str, only: Sequence[str] | None = None, **wishes: Any) -> Listing:
    """Rows and columns of a kind of extension, of ``cards`` or of ``published``.

    Args:
        what: as `gpubench list` takes it.
        only: patterns of which one has to match one of a row's names.
        wishes: of `cards`.
    """
    makers = {
        "workloads": workloads,
        "suites": suites,
        "figures": figures,
        "published": others_results,
        "models": models,
    }
    if what == "cards":
        rows, columns = cards(**wishes)
    else:
        rows, columns = makers[what]() if what in makers else files(what)
    return [row for row in rows if not only or _matches(row, only)], columns


def _matches(row: dict[str, Any], patterns: Sequence[str]) -> bool:
    names = [str(row[name]).casefold() for name in NAMES if name in row]
    return any(fnmatchcase(name, pattern.casefold()) for name in names for pattern in patterns)


def workloads() -> Listing:
    """Every workload with its axes."""
    from gpubench.workload import all_workloads

    rows = [
        {
            "name": name,
            "version": workload.version,
            "summary": workload.summary,
            "axes": {axis: list(values) for axis, values in workload.axes.items()},
        }
        for name, workload in all_workloads().items()
    ]
    return rows, (
        Column("name", "workload"),
        Column("version", "version", right=True),
        Column("summary", "what it measures"),
        Column("axes", "axes", ", ".join),
    )


def suites() -> Listing:
    """Every suite with the number of its cases."""
    from gpubench.suite import load_suite

    loaded = [load_suite(name) for name in plugins.files("suites", ".toml")]
    rows = [
        {"name": suite.name, "cases": len(suite.cases), "summary": suite.summary}
        for suite in loaded
    ]
    return rows, (
        Column("name", "suite"),
        Column("cases", "cases", right=True),
        Column("summary", "what it is for"),
    )


def cards(
    *,
    architecture: Sequence[str] | None = None,
    min_memory: float = 0.0,
    max_price: float | None = None,
    max_power: float = float("inf"),
    sort: str | None = None,
    reverse: bool = False,
) -> Listing:
    """The catalogue, or the cards of it that fit.

    Args:
        architecture: names, one of which it has to have.
        min_memory: GiB, the least.
        max_price: US dollars at launch, the most; cards whose price isn't known are left out.
        max_power: watts, the most.
        sort: one of SORTS, from the least; unknown is last either way.
        reverse: from the other end.

    Raises:
        UsageError: no card has such an architecture.
    """
    by_age = sorted(catalogue().values(), key=lambda card: card.capability)
    known = list(dict.fromkeys(card.architecture for card in by_age))
    wanted = [_architecture(name, known) for name in architecture or known]
    rows = [
        _card_row(card)
        for card in catalogue().values()
        if card.architecture in wanted
        and card.memory_bytes >= min_memory * GIB
        and card.power_w <= max_power
        and (max_price is None or (card.launch_price_usd or float("inf")) <= max_price)
    ]
    if reverse:  # first, so that what is equal keeps its order the other way round, too
        rows.reverse()
    if sort:
        key = SORTS[sort]
        known_ones = [row for row in rows if row[key]]
        known_ones.sort(key=lambda row: row[key], reverse=reverse)
        rows = known_ones + [row for row in rows if not row[key]]
    own = [Column("own", "", lambda own: "yours" if own else "")]
    columns = [*CARD_COLUMNS, *(own if any(row["own"] for row in rows) else [])]
    return rows, tuple(columns)


def _architecture(name: str, known: Sequence[str]) -> str:
    for one in known:
        if one.casefold() == name.casefold():
            return one
    raise unknown_name("architecture", name, known)


def _card_row(card: Card) -> dict[str, Any]:
    return {
        "card_id": card.card_id,
        "name": card.name,
        "architecture": card.architecture,
        "compute_capability": card.compute_capability,
        "memory_bytes": card.memory_bytes,
        "bandwidth_bytes_per_s": card.bandwidth,
        "fp32_flops_per_s": card.peak_flops("fp32"),
        "fp16_flops_per_s": card.peak_flops("fp16"),
        "bf16_flops_per_s": card.peak_flops("bf16"),
        "power_w": card.power_w,
        "launch_date": card.launch_date or None,
        "launch_price_usd": card.launch_price_usd,
        "confidence": card.confidence,
        "source": card.source,
        "own": card.own,
    }


_FLOPS = quantity("FLOP/s")
CARD_COLUMNS = (
    Column("card_id", "card: type this", whole=True),
    Column("architecture", "architecture", spare=4),
    Column("compute_capability", "cc", right=True, spare=3),
    Column("memory_bytes", "memory", gibibytes, right=True),
    Column("bandwidth_bytes_per_s", "bandwidth", quantity("B/s"), right=True),
    Column("fp32_flops_per_s", "FP32", _FLOPS, right=True, spare=2),
    Column("fp16_flops_per_s", "FP16", _FLOPS, right=True),
    Column("bf16_flops_per_s", "BF16", _FLOPS, right=True, spare=1),
    Column("power_w", "power", lambda watts: f"{watts:g} W", right=True, spare=5),
    Column("launch_date", "launch", whole=True, spare=6),
    Column("launch_price_usd", "price then", lambda price: f"${price:g}", right=True),
)


def others_results() -> Listing:
    """What others have published, with the licence of each."""
    from dataclasses import asdict

    from gpubench.published import published

    rows = [asdict(result) | {"family": result.family} for result in published()]
    return rows, (
        Column("card_id", "card id", whole=True),
        Column("n_gpus", "cards", right=True, spare=3),
        Column("workload", "workload"),
        Column("mode", "mode", spare=4),
        Column("precision", "precision", spare=6),
        Column("batch", "batch", right=True, spare=5),
        Column("value", "value", number, right=True),
        Column("unit", "unit"),
        Column("family", "source", spare=1),
        Column("source_date", "date", whole=True, spare=2),
    )


def models() -> Listing:
    """Every model with its modelled memory of a step of 1 × 512 tokens, bf16, AdamW.

    As published, BERT's parameters are those with a masked-language head; its memory is that with
    the head that it is fine-tuned with, of two classes.
    """
    from gpubench.job import METHODS, Job, all_models

    def memory(model: Any, method: str) -> float:
        return Job(model, method, sequence=min(512, model.positions)).memory().total_bytes

    rows = [
        {
            "name": name,
            "parameters": model.parameters,
            "layers": model.layers,
            "hidden": model.hidden,
            "positions": model.positions,
            **{f"{method}_bytes": memory(model, method) for method in METHODS},
            "source": model.source,
        }
        for name, model in all_models().items()
    ]
    return rows, (
        Column("name", "model", whole=True),
        Column("parameters", "parameters", lambda n: f"{number(n / 1e9)} billion", right=True),
        Column("layers", "layers", right=True, spare=3),
        Column("hidden", "hidden", right=True, spare=1),
        Column("positions", "longest sequence", right=True, spare=2),
        Column("full_bytes", "full, 1 × 512", gibibytes, right=True),
        Column("lora_bytes", "LoRA, 1 × 512", gibibytes, right=True),
        Column("qlora_bytes", "QLoRA, 1 × 512", gibibytes, right=True),
    )


def figures() -> Listing:
    """The report's figures, in their order."""
    modules = sorted(plugins.modules("figures"), key=lambda module: module.ORDER)
    rows = [{"name": plugins.stem(module), "title": module.TITLE} for module in modules]
    return rows, (Column("name", "figure"), Column("title", "what it shows"))


def files(kind: str) -> Listing:
    """TOML extensions by name and summary."""
    rows = [
        {"name": name, "summary": str(plugins.read_toml(path).get("summary", ""))}
        for name, path in plugins.files(kind, ".toml").items()
    ]
    return rows, (Column("name", kind.removesuffix("s")), Column("summary", "what it is for"))
