"""Results as what the model learns from: how much work each was, on which card, how long it took.

``data/networks.csv`` has the networks, computed from their architectures by
``benchmarks/network_work.py``; what a language model does for a token follows from its
number of parameters. What no pattern matches is taken for a mix of both kinds.
"""

import csv
import math
import re
import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from gpubench.cards import Card, catalogue, unsupported_precision
from gpubench.efficiency import Observation
from gpubench.errors import UsageError
from gpubench.published import Published
from gpubench.record import FAILURES
from gpubench.render import missing
from gpubench.workload import PRECISION_BYTES, Work, format_value, parse_case_id

NETWORKS = Path(__file__).parent / "data" / "networks.csv"
# Where a source doesn't say how many items went into a step.
USUAL_BATCH = 64
# Elements that training moves at least, per operation of its products: `Work.bytes` of a training
# step is often the parameters' traffic alone. VGG's, and a transformer's of hidden size 4096.
LEAST_TRAFFIC = {"cnn": 2e-3, "transformer": 6e-4}

# Kernels of BERT's training step by layer: forward, twice that backward, and the optimizer's; for
# autocast also the conversion of weights and inputs. They are `job.Job.launches` over the layers.
LAUNCHES_PER_LAYER, LAUNCHES_PER_LAYER_AUTOCAST = 49, 85
# Layers and width; and what a layer's kernels read and write for a token going forward, in
# elements over the width (`transformer.Transformer.block_moved`). Going back moves twice as much.
BERT_SHAPES = {"tiny": (2, 128), "base": (12, 768), "large": (24, 1024)}
BERT_MOVED = 44
# The operation of a workload and its kernels per step, where these hang on no parameter.
PLAIN_OPERATIONS = {
    "gemm": ("gemm", 1.0),
    "memory": ("memory", 1.0),
    "softmax": ("memory", 1.0),  # one pass over memory, as they are declared
    "bias_gelu": ("memory", 1.0),
    "reduction": ("reduction", 2.0),
    "mnist": ("cnn", 60.0),
}
FORWARD_BACKWARD_LAUNCHES = 3
# A layer runs once forward and twice backward (gradients of its input and of its weights).
BACKWARD = 2
# Weight read and written, gradient written and read, momentum read and written: SGD as users
# have it, in FP32 whatever the products' precision.
OPTIMIZER_BYTES = 6 * 4
# Networks that stand for whatever has their name in it; their own item is a sequence of SQuAD.
STANDING_FOR_OTHERS = ("bert_base", "bert_large")
# Bits that a weight of a quantised format takes with its scales (llama.cpp's tables).
BITS = {"q3": 3.5, "q4": 4.5, "q5": 5.5, "q6": 6.6, "q8": 8.5, "fp16": 16.0, "bf16": 16.0}


# Flags by which a trial says itself that something slowed it.
SLOWED = frozenset(("throttled_power", "throttled_thermal", "other_processes", "clocks_moving"))


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


def from_published(results: Iterable[Published]) -> list[Observation]:
    """Speeds of one card of the catalogue each.

    What several cards reach together hangs on their links too, of which the model knows nothing.
    """
    known = catalogue()
    found = (
        _of_published(result, known[result.card_id])
        for result in results
        if result.n_gpus == 1 and result.card_id in known
    )
    return [one for one in found if one is not None]


def _of_published(result: Published, card: Card) -> Observation | None:
    """A published result as a step of one item; None where it is no speed.

    A card without the format runs such a program in FP32.
    """
    if result.rate is None:
        return None
    wanted = _precision(result)
    missing = unsupported_precision(card.capability, wanted) or wanted not in card.peaks
    precision = "fp32" if missing else wanted
    work, operation, launches, units = _work(result, precision)
    # The same program: FP32 ones run in TF32 where the card has it.
    program = "fp32" if wanted == "tf32" else result.precision
    # A time per batch is of so many items at once.
    items = (result.batch or USUAL_BATCH) if result.unit.endswith("/batch") else 1
    return Observation(
        card=card,
        work=work,
        precision=precision,
        operation=operation,
        launches=launches,
        source=result.family,
        series=f"{result.workload} {result.mode} {program} {result.metric} {result.n_gpus}",
        seconds=units / (result.rate * items / result.n_gpus),
        guessed=operation == "other" or (operation == "transformer" and not _counts(result)),
    )


def _precision(result: Published) -> str:
    """What products were asked for; of mixed precision and of quantised weights FP16's."""
    words = result.precision.casefold()
    if words.startswith("mixed"):  # milabench's own choice, which it doesn't say
        return "tf32"
    return next((name for name in PRECISION_BYTES if words.startswith(name)), "fp16")


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
        tokens = re.search(r"_seq(\d+)", name) if result.unit == "tokens/s" else None
        return work, network.operation, launches, float(tokens[1]) if tokens else 1.0
    # The unit is an operation, and the layer is too large for its launches to count.
    flops = work.flops or 1.0
    return Work(1.0, (work.bytes or 0.0) / flops), network.operation, 0.0, 1.0


def _counts(result: Published) -> bool:
    """Whether the work of a transformer's unit is known: an operation, or a network's own item."""
    known = find(result.workload).name not in STANDING_FOR_OTHERS
    return known or result.unit == "TFLOPS" or "squad" in result.workload.casefold()


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
    if re.search(r"_pp\d+$", name):  # the prompt: all its tokens at once
        return Work(2 * parameters, 0.0), "prefill", 0.0, 1.0
    return Work(2 * parameters, parameters * bits / 8), "decode", 0.0, 1.0


def measured(rows: Iterable[Mapping[Hashable, Any]]) -> Iterator[Observation]:
    """What the model learns from rows of `table.load`: one of each card, case and cache.

    Left out is what is not measured (virtual), what can't count (`refused`), older software, and
    cards that the catalogue lacks. Trials that say themselves that something slowed them teach only
    where no other is there.
    """
    trials: dict[tuple[Any, ...], list[Mapping[Hashable, Any]]] = {}
    for row in rows:
        if row["provenance"] == "measured" and row["card_id"] in catalogue():
            key = tuple(row[column] for column in ("card_id", "case_id", "cache", "workload_hash"))
            trials.setdefault(key, []).append(row)
    for (card_id, case_id, *_), same in trials.items():
        if refused(same):
            continue
        counted = newest([row for row in same if row["status"] == "ok"])
        calm = [row for row in counted if not SLOWED & set(row["flags"] or ())] or counted
        middle = math.exp(statistics.median(math.log(row["median_s"]) for row in calm))
        found = _of_row(catalogue()[card_id], case_id, calm[0], middle)
        if found is not None:
            yield found


def refused(rows: Sequence[Mapping[Hashable, Any]]) -> str | None:
    """Why a case can't count, whatever else was measured of it; None if it can."""
    for row in rows:
        if row["status"] in FAILURES:
            return f"{row['status']}: {row['reason'] or 'no reason given'}"
    if any("above_peak" in (row["flags"] or ()) for row in rows):
        return "above_peak: faster than the card can be"
    if all(row["status"] != "ok" for row in rows):
        return f"{rows[-1]['status']}: {rows[-1]['reason'] or 'no reason given'}"
    if not all(_is_of_its_case(row) for row in rows if row["status"] == "ok"):
        return "wrong: its work or its parameters are not those of its case"
    return None


def _is_of_its_case(row: Mapping[Hashable, Any]) -> bool:
    """Whether a row's work is what its case is known to be: rates and peaks hang on it."""
    try:
        workload, params = parse_case_id(str(row["case_id"]))
        declared = workload.work(params)
    except UsageError:  # of an older version, or of a workload that isn't here
        return True
    own = dict(row["params"] or {})
    if row["workload"] != workload.name or any(
        own.get(name) != format_value(value) for name, value in params.items()
    ):
        return False
    known = {} if declared is None else {"flops": declared.flops, "bytes": declared.bytes}
    return all(
        math.isclose(0.0 if missing(row[name]) else row[name], amount, rel_tol=0.01)
        for name, amount in known.items()
        if amount is not None
    )


def newest(rows: Sequence[Mapping[Hashable, Any]]) -> list[Mapping[Hashable, Any]]:
    """Those of the newest row's software."""

    def software(row: Mapping[Hashable, Any]) -> tuple[str, str]:
        return str(row["torch"]), str(row["driver"])

    latest = software(max(rows, key=lambda row: str(row["started_at"])))
    return [row for row in rows if software(row) == latest]


def _of_row(
    card: Card, case_id: str, row: Mapping[Hashable, Any], seconds: float
) -> Observation | None:
    precision = row["precision"] or "fp32"
    if precision not in card.peaks or unsupported_precision(card.capability, precision):
        return None
    flops, moved = (
        None if row[key] is None or math.isnan(row[key]) else float(row[key])
        for key in ("flops", "bytes")
    )
    if not flops and not moved:
        return None
    declared = Work(flops=flops, bytes=moved)
    work, operation, launches = step_of(row["workload"], row["params"] or {}, declared)
    return Observation(
        card=card,
        work=complete(work, precision, operation),
        precision=precision,
        operation=operation,
        launches=launches,
        series=case_id,
        seconds=seconds,
    )


def step_of(workload: str, params: Mapping[str, Any], work: Work) -> tuple[Work, str, float]:
    """What a case is to the model: work with all that its kernels move, operation, launches.

    `bert` declares the traffic of its parameters alone, since that is what any software moves.
    """
    operation, launches = operation_of(workload, params)
    sizes = [str(params.get(name)) for name in ("batch", "sequence")]
    if workload == "bert" and all(size.isdecimal() and len(size) < 10 for size in sizes):
        layers, hidden = BERT_SHAPES.get(str(params.get("size")), BERT_SHAPES["base"])
        elements = (1 + BACKWARD) * BERT_MOVED * hidden * layers * int(sizes[0]) * int(sizes[1])
        each = PRECISION_BYTES.get(str(params.get("precision")), 4)
        work = replace(work, bytes=(work.bytes or 0.0) + each * elements)
    return work, operation, launches


def operation_of(workload: str, params: Mapping[str, Any]) -> tuple[str, float]:
    """The model's operation, and kernels per step; a workload it doesn't know is ``other``."""
    if workload in ("conv2d", "attention"):
        both = params.get("direction") == "forward_backward"
        return workload, FORWARD_BACKWARD_LAUNCHES if both else 1.0
    if workload == "bert":
        autocast = str(params.get("precision")) in ("fp16", "bf16")
        each = LAUNCHES_PER_LAYER_AUTOCAST if autocast else LAUNCHES_PER_LAYER
        layers, _ = BERT_SHAPES.get(str(params.get("size")), BERT_SHAPES["base"])
        return "transformer", each * layers
    return PLAIN_OPERATIONS.get(workload, ("other", 1.0))


def complete(work: Work, precision: str, operation: str) -> Work:
    """The work with the traffic that training has at least, where it declares less."""
    moved = work.bytes or 0.0
    if operation in LEAST_TRAFFIC:
        least = LEAST_TRAFFIC[operation] * (work.flops or 0.0) * PRECISION_BYTES[precision]
        moved = max(moved, least)
    return Work(flops=work.flops, bytes=moved)
