"""What each row of the catalogue says agrees with itself and with what its chip is.

A rule is a function from a row to what is wrong with it. Every row keeps to every rule or is listed
below with the reason, and for every rule a row is planted that breaks it.
"""

import csv
import re
from collections import defaultdict

import pytest

from gpubench import card_file, efficiency, stack
from gpubench.backends._nvml import _architecture
from gpubench.card_file import DESIGNS
from gpubench.cards import CATALOGUE, FIRST_CUDA, catalogue
from rungs.compiling import ARCHITECTURES

with CATALOGUE.open(encoding="utf-8", newline="") as lines:
    ROWS = {row["card_id"]: row for row in csv.DictReader(lines)}

#: figures are printed with three digits, clocks to a megahertz
ROUNDING = 0.015
#: data rates of a pin in Gbit/s that boards ship with (part lists of Micron and Samsung)
DATA_RATES = {
    "GDDR5": (7, 7.2, 8, 9),
    "GDDR5X": (10, 11, 11.4),
    "GDDR6": (10, 12, 12.5, 14, 14.5, 15, 15.5, 16, 17, 18, 20),
    "GDDR6X": (19, 19.5, 21, 22.4, 23, 24),
    "GDDR7": (28, 30, 32),
}
#: stacks are clocked as each board needs it: from the slowest to the fastest (JEDEC's standards)
STACK_RATES = {"HBM2": (1.4, 2.5), "HBM2e": (2.8, 3.6), "HBM3": (4.8, 6.4), "HBM3e": (6.2, 9.6)}
#: chip's name → compute capability (NVIDIA's list of CUDA GPUs), and the first launch of its kind;
#: there is no last one: a chip may be sold in a new card years later
CHIPS = {
    "GP100": ("6.0", "2016-04"),
    "GP10[2-8]": ("6.1", "2016-05"),
    "GV100": ("7.0", "2017-05"),
    "TU1..": ("7.5", "2018-08"),
    "GA100": ("8.0", "2020-05"),
    "GA10[2-7]": ("8.6", "2020-09"),
    "AD10.": ("8.9", "2022-09"),
    "GH100": ("9.0", "2022-03"),
    "GB100": ("10.0", "2024-03"),
    "GB20.": ("12.0", "2025-01"),
}
#: plausible price and power of a series, in US dollars and watts, with room for cards that are not
#: here yet; none has a price for data centres
RANGES = {
    "10": ((70, 3000), (30, 300)),
    "16": ((100, 400), (50, 150)),
    "20": ((200, 3000), (100, 320)),
    "30": ((150, 2200), (70, 500)),
    "40": ((200, 2000), (70, 500)),
    "50": ((200, 3000), (100, 700)),
    "ws": ((100, 15_000), (30, 700)),
    "dc": (None, (40, 1500)),
}
TENSOR = (
    *("fp16_tensor_tflops_dense_fp16acc", "fp16_tensor_tflops_dense_fp32acc"),
    *("bf16_tensor_tflops_dense", "tf32_tensor_tflops_dense", "fp8_tensor_tflops_dense"),
    "int8_tensor_tops_dense",
)
#: of these NVIDIA's datasheets print tensor peaks at a clock below the boost of the CUDA cores
LOWER_TENSOR_CLOCK = {"nvidia-h100-pcie", "nvidia-h100-sxm5", "nvidia-h200-sxm", "nvidia-b200-sxm"}

#: (card, rule) → why the row is right all the same
EXCEPTIONS = {
    **{
        (card_id, "tensor"): "tensor peaks of the datasheet belong to a lower clock"
        for card_id in LOWER_TENSOR_CLOCK
    },
    ("nvidia-l40", "tensor"): "NVIDIA's datasheet has half of the chip's rate: 181.05 TFLOPS "
    "dense against 362.05 of an L40S with as many multiprocessors",
    ("nvidia-a10g", "tensor"): "made for one cloud, with half the A10's tensor rate: 70 TFLOPS",
    ("geforce-rtx-3080-12gb", "price"): "NVIDIA named none",
    ("geforce-rtx-4090-d", "price"): "never sold for US dollars",
}


def number(row, column):
    return float(row[column]) if row[column] else None


def chip(row):
    return next(facts for name, facts in CHIPS.items() if re.fullmatch(name, row["chip"]))


def off(value, expected):
    return abs(value / expected - 1) > ROUNDING


def fp32(row):
    """Two operations a core and cycle at boost."""
    expected = 2 * number(row, "cuda_cores") * number(row, "boost_clock_mhz") / 1e6
    return off(number(row, "fp32_tflops"), expected) and f"fp32 should be {expected:.2f}"


def cores(row):
    """Multiprocessors times the cores of one; tensor cores likewise."""
    design = DESIGNS[row["compute_capability"]]
    units = number(row, "sm_count")
    each = {"7.0": 8, "7.5": 8, "6.0": 0, "6.1": 0}.get(row["compute_capability"], 4)
    each = 0 if row["series"] == "16" else each
    return number(row, "cuda_cores") != units * design.cores or (
        number(row, "tensor_cores") != units * each
    )


def shares(row):
    """FP64 and FP16 on the CUDA cores are shares of FP32's rate."""
    design = DESIGNS[row["compute_capability"]]
    rate, half = number(row, "fp32_tflops"), number(row, "fp16_tflops_nontensor")
    # Small figures have two digits: 0.033 of a GTX 1050 Ti.
    wrong = abs(number(row, "fp64_tflops") / (rate * design.fp64) - 1) > 0.02
    return wrong or (half is not None and abs(half / (rate * design.fp16) - 1) > 0.02)


def bandwidth(row):
    """The bus times a data rate that such memory has; HBM stacks have 1,024 bits, others 32."""
    bits, kind = number(row, "memory_bus_bits"), row["memory_type"]
    rate = number(row, "memory_bandwidth_gbs") * 8 / bits
    if kind in STACK_RATES:
        low, high = STACK_RATES[kind]
        return bits % 1024 != 0 or not low <= rate <= high
    return bits % 32 != 0 or min(abs(rate / known - 1) for known in DATA_RATES[kind]) > 0.004


def tensor(row):
    """Multiprocessors times what the tensor cores of one do in a cycle, at boost."""
    clock = number(row, "sm_count") * number(row, "boost_clock_mhz") / 1e6
    rates = card_file.tensor_rates(row["compute_capability"], row["name"])
    for column in TENSOR:
        value = number(row, column)
        if (value is None) != (column not in rates):
            return f"{column}: {value}"
        if value is not None and off(value, rates[column] * clock):
            return f"{column} should be {rates[column] * clock:.1f}"
    return None


def architecture(row):
    """Chip, compute capability and architecture name one another."""
    return (
        DESIGNS[row["compute_capability"]].architecture != row["architecture"]
        or chip(row)[0] != row["compute_capability"]
    )


def date(row):
    """A month, and none before the first card of the chip's architecture."""
    _, first = chip(row)
    plain = re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", row["launch_date"])
    return not plain or row["launch_date"] < first


def price(row):
    """What cards of its series have cost; data centres have no launch price."""
    limits, value = RANGES[row["series"]][0], number(row, "launch_price_usd")
    if limits is None:
        return value is not None
    # Of workstation cards NVIDIA names no price as a rule.
    if value is None:
        return row["series"] != "ws"
    return not limits[0] <= value <= limits[1]


def power(row):
    """Within what the series has."""
    low, high = RANGES[row["series"]][1]
    return not low <= number(row, "tdp_w") <= high


def clocks(row):
    """The base clock is below the boost clock."""
    base = number(row, "base_clock_mhz")
    return base is not None and not 0 < base < number(row, "boost_clock_mhz")


def series(row):
    """GeForce numbers are their series; names of the rest begin otherwise."""
    found = re.search(r"GeForce [GR]TX (\d\d)", row["name"])
    return row["series"] != found[1] if found else row["series"] in ("16", "30", "40", "50")


RULES = (
    *(fp32, cores, shares, bandwidth, tensor, architecture, date, price, power, clocks, series),
)
#: for each rule a card, a column of it, and a slip as people make it
PLANTED = {
    "fp32": ("geforce-rtx-4090", "boost_clock_mhz", "2230"),  # the base clock
    "cores": ("geforce-rtx-3090", "tensor_cores", "656"),  # Turing's number each
    "shares": ("geforce-rtx-3060-12gb", "fp64_tflops", "0.398"),  # 1/32
    "bandwidth": ("geforce-rtx-3070", "memory_bandwidth_gbs", "608"),  # the 3070 Ti's
    "tensor": ("geforce-rtx-3080-10gb", "fp16_tensor_tflops_dense_fp32acc", "119"),  # FP16 sums
    "architecture": ("nvidia-a30", "compute_capability", "8.6"),
    "date": ("geforce-rtx-2060", "launch_date", "2009-01"),  # for 2019
    "price": ("geforce-rtx-3050", "launch_price_usd", "2490"),
    "power": ("nvidia-l4", "tdp_w", "7.2"),
    "clocks": ("geforce-gtx-1080", "base_clock_mhz", "1784"),
    "series": ("geforce-rtx-4060", "series", "50"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("card_id", ROWS)
def test_a_row_keeps_to_a_rule_or_is_a_known_exception(card_id, rule):
    """The other way round, too: an exception that is none any more leaves the list."""
    problem = rule(ROWS[card_id])
    assert bool(problem) == ((card_id, rule.__name__) in EXCEPTIONS), problem


def test_a_card_that_is_not_here_yet_keeps_to_every_rule():
    """A made-up RTX 5055: the cheapest of its series, and launched last."""
    row = ROWS["geforce-rtx-5070"] | {
        "card_id": "geforce-rtx-5055",
        "name": "NVIDIA GeForce RTX 5055",
        "chip": "GB209",
        "sm_count": "16",
        "cuda_cores": "2048",
        "tensor_cores": "64",
        "boost_clock_mhz": "2500",
        "base_clock_mhz": "2300",
        "memory_gib": "8",
        "memory_bus_bits": "64",
        "memory_bandwidth_gbs": "224.0",
        "l2_mib": "16",
        "fp32_tflops": "10.24",
        "fp16_tflops_nontensor": "10.24",
        "fp64_tflops": "0.16",
        "tdp_w": "100",
        "launch_date": "2026-12",
        "launch_price_usd": "229",
    }
    clock = number(row, "sm_count") * number(row, "boost_clock_mhz") / 1e6
    rates = card_file.tensor_rates(row["compute_capability"], row["name"])
    row |= {column: f"{rate * clock:.1f}" for column, rate in rates.items()}
    assert [rule.__name__ for rule in RULES if rule(row)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_wrong_row_breaks_its_rule(rule):
    card_id, column, value = PLANTED[rule.__name__]
    assert not rule(ROWS[card_id])
    assert ROWS[card_id][column] != value
    assert rule(ROWS[card_id] | {column: value})


@pytest.mark.parametrize("column", TENSOR)
def test_a_sparse_peak_in_any_tensor_column_is_noticed(column):
    row = ROWS["nvidia-a40" if "fp8" not in column else "nvidia-l4"]
    assert tensor(row | {column: str(2 * number(row, column))})
    assert tensor(row | {column: ""})


@pytest.mark.parametrize("card_id", sorted(LOWER_TENSOR_CLOCK))
def test_the_lower_clock_of_a_datasheet_is_a_little_lower(card_id):
    """Between 0.92 and 1 of boost, and the same for every format."""
    row = ROWS[card_id]
    rates = card_file.tensor_rates(row["compute_capability"], row["name"])
    units = number(row, "sm_count") / 1e6
    implied = [number(row, column) / (rates[column] * units) for column in TENSOR]
    assert max(implied) / min(implied) < 1.01
    assert 0.92 < implied[0] / number(row, "boost_clock_mhz") < 1


def claims(rows):
    """Names that two rows claim although their memory doesn't tell them apart."""
    found = defaultdict(list)
    for row in rows:
        names = {row["name"], *row["name_aliases"].split("|")} - {""}
        for name in {" ".join(name.replace("NVIDIA", "").split()).casefold() for name in names}:
            found[name].append(number(row, "memory_gib"))
    return [
        name
        for name, sizes in found.items()
        for smaller, larger in zip(sorted(sizes), sorted(sizes)[1:], strict=False)
        if larger <= 1.15 * smaller
    ]


def test_a_name_is_claimed_once_or_told_apart_by_memory():
    assert claims(ROWS.values()) == []
    twin = ROWS["geforce-rtx-4090"] | {"card_id": "geforce-rtx-4090-twin"}
    assert claims([*ROWS.values(), twin]) == ["geforce rtx 4090"]
    other = ROWS["tesla-t4"] | {"name_aliases": "NVIDIA GeForce RTX 3080", "memory_gib": "11"}
    assert set(claims([*ROWS.values(), other])) == {"geforce rtx 3080"}


#: what the model of efficiency has to be told of each: whether it is a graphics chip with tensor
#: cores, and whether half of its FP32 units are those that take integers as well
DECIDED = {
    "6.0": (False, False),
    "6.1": (False, False),
    "7.0": (False, False),
    "7.5": (True, False),
    "8.0": (False, False),
    "8.6": (True, True),
    "8.9": (True, True),
    "9.0": (False, False),
    "10.0": (False, False),
    "12.0": (True, True),
}


def undecided(capability):
    """The tables that know each compute capability and don't know this one."""
    version = tuple(map(int, capability.split(".")))
    told = (capability in efficiency.GRAPHICS_CHIPS, capability in efficiency.TWO_FP32_UNITS)
    tables = {
        "card_file.DESIGNS": capability in DESIGNS,
        "cards.FIRST_CUDA": version < (8, 0) or capability in FIRST_CUDA,
        "efficiency.GRAPHICS_CHIPS and TWO_FP32_UNITS": DECIDED.get(capability) == told,
        "CHIPS": capability in {facts[0] for facts in CHIPS.values()},
        "data/builds.csv": bool(stack.builds_for(version)),
        "the kernels' ARCHITECTURES": capability.replace(".", "") in ARCHITECTURES,
        "backends._nvml": "compute capability" not in _architecture(version),
    }
    return [name for name, known in tables.items() if not known]


@pytest.mark.parametrize(
    "capability", sorted({card.compute_capability for card in catalogue().values()})
)
def test_an_architecture_is_known_wherever_architectures_are(capability):
    assert undecided(capability) == []
    (name,) = {
        card.architecture for card in catalogue().values() if card.compute_capability == capability
    }
    assert _architecture(tuple(map(int, capability.split(".")))) == name


def test_an_architecture_that_is_new_lists_where_it_has_to_be_decided():
    assert len(undecided("14.0")) >= 6


def test_every_design_is_some_cards():
    assert {card.compute_capability for card in catalogue().values()} == set(DESIGNS)
