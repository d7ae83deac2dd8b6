"""How much work a published result is: FLOPs, bytes and launches an item, from its workload's name.

``data/networks.csv`` has the networks, computed from their architectures by
``benchmarks/network_work.py``; what a language model does for a token follows
from its number of parameters. What no pattern matches is taken for a mix of both kinds. Needs nothing but the standard library.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpubench.cards import Card, unsupported_precision
from gpubench.efficiency import Observation
from gpubench.published import Published
from gpubench.workload import PRECISION_BYTES, Work

NETWORKS = Path(__file__).parent / "data" / "networks.csv"
# Where a source doesn't say how many items went into a step.
USUAL_BATCH = 64
# Standard deviation that not knowing the work adds to a logarithm of seconds.
UNKNOWN_MIX = 0.1
# A layer runs once forward and twice backward (gradients of its input and of its weights).
BACKWARD = 2
# Weight read and written, gradient written and read, momentum read and written: SGD as users
# have it, in FP32 whatever the products' precision.
OPTIMIZER_BYTES = 6 * 4
# Bits that a weight of a quantised format takes with its scales (llama.cpp's tables).
BITS = {"q3": 3.5, "q4": 4.5, "q5": 5.5, "q6": 6.6, "q8": 8.5, "fp16": 16.0, "bf16": 16.0}


@dataclass(frozen=True)
class Network:
    """What one item of a network costs forward.

    Attributes:
        flops: operations of its products, a multiply-add being two.
        elements: that its layers read and write, each layer on its own.
        parameters: weights and biases.
        layers: kernels of one forward pass.
    """

    name: str
    pattern: str
    operation: str
    flops: float
    elements: float
    parameters: float
    layers: float


@cache
def networks() -> tuple[Network, ...]:
    """Those of the data file, in its order: the first whose pattern is found counts."""
    with NETWORKS.open(encoding="utf-8", newline="") as lines:
        return tuple(
            Network(
                name=row["name"],
                pattern=row["pattern"],
                operation=row["operation"],
                flops=float(row["forward_gflop"]) * 1e9,
                elements=float(row["elements_moved_m"]) * 1e6,
                parameters=float(row["parameters_m"]) * 1e6,
                layers=float(row["layers"]),
            )
            for row in csv.DictReader(lines)
        )


def observation(result: Published, card: Card) -> Observation | None:
    """A published result as a step of one item; None where it is no speed."""
    if result.rate is None:
        return None
    precision = _precision(result, card)
    work, operation, launches, units = _work(result, precision)
    program = "fp32" if precision in ("fp32", "tf32") else precision
    per_card = result.rate / result.n_gpus
    return Observation(
        card=card,
        work=work,
        precision=precision,
        operation=operation,
        launches=launches,
        source=result.family,
        series=f"{result.workload} {result.mode} {program} {result.metric} {result.n_gpus}",
        seconds=units / per_card,
        noise=UNKNOWN_MIX if operation == "other" else 0.0,
    )


def _precision(result: Published, card: Card) -> str:
    """What the hardware did: automatic mixed precision has FP16 products, TF32 begins with Ampere.

    A card without a format runs such a program in FP32; of quantised weights products are FP16's.
    """
    words = result.precision.casefold()
    wanted = next((name for name in PRECISION_BYTES if words.startswith(name)), "fp16")
    if words.startswith("mixed"):
        wanted = "tf32"
    unsupported = unsupported_precision(card.capability, wanted) or wanted not in card.peaks
    return "fp32" if unsupported else wanted


def _work(result: Published, precision: str) -> tuple[Work, str, float, float]:
    """Work, operation and launches of a step, and how many of the result's units it is."""
    name = result.workload.casefold()
    if shape := re.search(r"gemm_(\d+)x(\d+)x(\d+)", name):
        rows, columns, terms = map(int, shape.groups())
        moved = rows * terms + terms * columns + rows * columns
        flops = 2.0 * rows * columns * terms
        return Work(flops, moved * PRECISION_BYTES[precision]), "gemm", 1.0, flops
    if "vector" in name:  # one product for each element, which is read and written
        return Work(1.0, 2.0 * PRECISION_BYTES[precision]), "memory", 0.0, 1.0
    if result.mode == "micro":  # a rate of products large enough that nothing else counts
        return Work(1.0, 0.0), "gemm", 0.0, 1.0
    if result.unit == "tokens/s" and result.mode == "infer":
        return _decoding(result, name)
    network = find(name)
    work, launches = item_of(network, precision, result.mode, result.batch or USUAL_BATCH)
    if result.unit != "TFLOPS":
        return work, network.operation, launches, 1.0
    # The unit is an operation, and the layer is too large for its launches to count.
    flops = work.flops or 1.0
    return Work(1.0, (work.bytes or 0.0) / flops), network.operation, 0.0, 1.0


def find(workload: str) -> Network:
    """The network of that name, or the default mix, the last one, that every name matches."""
    return next(net for net in networks() if re.search(net.pattern, workload.casefold()))


def item_of(network: Network, precision: str, mode: str, batch: int) -> tuple[Work, float]:
    """Work and launches of one item among ``batch``, in training or inference."""
    width, parameters = PRECISION_BYTES[precision], network.parameters
    passes, per_step = (1 + BACKWARD, OPTIMIZER_BYTES) if mode == "train" else (1, width)
    moved = passes * network.elements * width + per_step * parameters / batch
    return Work(passes * network.flops, moved), passes * network.layers / batch


def _decoding(result: Published, name: str) -> tuple[Work, str, float, float]:
    """A token after a token: each weight is read once for each, whatever else happens."""
    billions = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)_?b(?![a-z])", name)
    parameters = float(billions[1]) * 1e9 if billions else 7e9
    if "gpt-oss" in name:  # a mixture of experts, of which 3.6 of 20.9 billion work on a token
        parameters = 3.6e9
    bits = next((bits for start, bits in BITS.items() if result.precision.startswith(start)), 16.0)
    if "pp" in name.rpartition("_")[2]:  # the prompt: all its tokens at once
        return Work(2 * parameters, 0.0), "prefill", 0.0, 1.0
    return Work(2 * parameters, parameters * bits / 8), "decode", 0.0, 1.0
