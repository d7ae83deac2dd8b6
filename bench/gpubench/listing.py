"""What ``gpubench list`` shows: rows and columns for each kind of extension, and the cards.

Neither torch nor pandas is needed for any of it.
"""

from typing import Any

from gpubench import plugins
from gpubench.cards import catalogue
from gpubench.render import Column, gibibytes, number, quantity

Listing = tuple[list[dict[str, Any]], tuple[Column, ...]]


def listing(what: str) -> Listing:
    """Rows and columns of one of the kinds that `gpubench list` takes."""
    makers = {
        "workloads": workloads,
        "suites": suites,
        "cards": cards,
        "models": models,
        "figures": figures,
    }
    return makers[what]() if what in makers else files(what)


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


def cards() -> Listing:
    """The catalogue."""
    rows = [
        {
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
            "launch_date": card.launch_date,
            "launch_price_usd": card.launch_price_usd,
            "confidence": card.confidence,
            "source": card.source,
        }
        for card in catalogue().values()
    ]
    flops = quantity("FLOP/s")
    return rows, (
        Column("card_id", "card id"),
        Column("architecture", "architecture"),
        Column("compute_capability", "cc", right=True),
        Column("memory_bytes", "memory", gibibytes, right=True),
        Column("bandwidth_bytes_per_s", "bandwidth", quantity("B/s"), right=True),
        Column("fp32_flops_per_s", "FP32", flops, right=True),
        Column("fp16_flops_per_s", "FP16", flops, right=True),
        Column("bf16_flops_per_s", "BF16", flops, right=True),
        Column("power_w", "power", lambda watts: f"{watts:g} W", right=True),
        Column("launch_date", "launch"),
        Column("launch_price_usd", "price then", lambda price: f"${price:g}", right=True),
    )


def models() -> Listing:
    """Every model with its modelled memory of a training step of 512 tokens, in bf16 with AdamW."""
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
        Column("name", "model"),
        Column("parameters", "parameters", lambda n: f"{number(n / 1e9)} billion", right=True),
        Column("layers", "layers", right=True),
        Column("hidden", "hidden", right=True),
        Column("positions", "tokens", right=True),
        Column("full_bytes", "full", gibibytes, right=True),
        Column("lora_bytes", "LoRA", gibibytes, right=True),
        Column("qlora_bytes", "QLoRA", gibibytes, right=True),
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
