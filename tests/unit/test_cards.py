"""The catalogue agrees with itself, and a card is found by what its driver says or not at all."""

import csv
import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.cards import (
    CATALOGUE,
    GIB,
    catalogue,
    find_card,
    get_card,
    named,
    unsupported_precision,
)
from gpubench.errors import UsageError

with CATALOGUE.open(encoding="utf-8", newline="") as lines:
    ROWS = list(csv.DictReader(lines))
CARDS = list(catalogue().values())
PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")
CAPABILITIES = {
    "Pascal": {"6.0", "6.1"},
    "Volta": {"7.0"},
    "Turing": {"7.5"},
    "Ampere": {"8.0", "8.6"},
    "Ada": {"8.9"},
    "Hopper": {"9.0"},
    "Blackwell": {"10.0", "12.0"},
}

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["card_id"])
each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.card_id)


def number(row, column):
    return float(row[column]) if row[column] else None


# the file -----------------------------------------------------------------------------------------


def test_ids_are_unique_and_every_row_becomes_a_card():
    assert len({row["card_id"] for row in ROWS}) == len(ROWS) == len(CARDS)
    assert all(row["card_id"] == "-".join(row["card_id"].lower().split()) for row in ROWS)


@each_row
def test_what_must_be_known_of_every_card_is_known_and_positive(row):
    for column in (
        *("sm_count", "cuda_cores", "boost_clock_mhz", "memory_gib", "memory_bus_bits"),
        *("memory_bandwidth_gbs", "l2_mib", "fp32_tflops", "fp64_tflops", "tdp_w", "pcie_gen"),
    ):
        assert number(row, column) > 0, column
    for column in row:
        if column.endswith(("_tflops", "_dense", "fp16acc", "fp32acc", "_nontensor")):
            assert number(row, column) is None or number(row, column) > 0, column
    assert row["compute_capability"] in CAPABILITIES[row["architecture"]]
    assert row["source"]
    assert row["confidence"] in {"high", "medium", "low"}
    year, month = row["launch_date"].split("-")
    assert 2016 <= int(year) <= 2030
    assert 1 <= int(month) <= 12


@each_row
def test_fp32_is_two_operations_per_core_and_cycle_at_boost(row):
    """The figures are printed with three digits, so 2 % is generous; no card is an exception."""
    expected = 2 * number(row, "cuda_cores") * number(row, "boost_clock_mhz") * 1e6
    assert number(row, "fp32_tflops") * 1e12 == pytest.approx(expected, rel=0.02)


@each_row
def test_cores_and_rates_fit_the_architecture(row):
    """64 or 128 cores a multiprocessor; FP64 at a half, a 32nd or a 64th of FP32's rate."""
    assert number(row, "cuda_cores") / number(row, "sm_count") in (64, 128)
    ratio = number(row, "fp32_tflops") / number(row, "fp64_tflops")
    assert min(abs(ratio / share - 1) for share in (2, 32, 64)) < 0.02
    if row["base_clock_mhz"]:
        assert number(row, "base_clock_mhz") <= number(row, "boost_clock_mhz")


TENSOR = {
    "tf32": "tf32_tensor_tflops_dense",
    "fp16": "fp16_tensor_tflops_dense_fp32acc",
    "bf16": "bf16_tensor_tflops_dense",
    "fp8": "fp8_tensor_tflops_dense",
    "int8": "int8_tensor_tops_dense",
}


@each_row
def test_tensor_cores_are_no_slower_than_cuda_cores_and_where_there_are_none_nothing_is_said(row):
    rates = {precision: number(row, column) for precision, column in TENSOR.items()}
    if number(row, "tensor_cores") == 0:
        assert set(rates.values()) == {None}
        return
    assert rates["fp16"] is not None
    for rate in rates.values():
        assert rate is None or rate >= number(row, "fp32_tflops")


@each_row
def test_peaks_are_dense_each_narrower_format_at_least_as_fast(row):
    """A figure with sparsity in one column and not in the next would break these ratios."""
    rates = {precision: number(row, column) for precision, column in TENSOR.items()}
    if rates["bf16"]:
        assert rates["bf16"] == rates["fp16"]
    if rates["tf32"]:
        assert rates["fp16"] / rates["tf32"] == pytest.approx(2, rel=0.02)
    if rates["fp8"]:
        assert rates["fp8"] / rates["fp16"] == pytest.approx(2, rel=0.02)
    if rates["int8"]:
        # Turing GeForce halves FP16 with FP32 accumulation; its INT8 stays at four times that.
        assert min(abs(rates["int8"] / rates["fp16"] / factor - 1) for factor in (2, 4)) < 0.02


def test_a_driver_name_is_claimed_once_or_told_apart_by_memory():
    claims = defaultdict(list)
    for card in CARDS:
        for name in {name.replace("NVIDIA", "").strip().casefold() for name in card.driver_names}:
            claims[name].append(card)
    for name, cards in claims.items():
        sizes = sorted(card.memory_bytes for card in cards)
        for smaller, larger in itertools.pairwise(sizes):
            assert larger > 1.15 * smaller, name
    shared = {name for name, cards in claims.items() if len(cards) > 1}
    assert shared >= {"geforce rtx 3080", "geforce rtx 4060 ti"}


# a card -------------------------------------------------------------------------------------------


@each_card
def test_a_card_has_a_peak_in_each_precision_that_its_hardware_has_and_in_no_other(card):
    for precision in ("fp64", "fp32", "fp16"):
        assert card.peak_flops(precision) > 0
    for precision in PRECISIONS:
        if unsupported_precision(card.capability, precision):
            assert card.peak_flops(precision) is None
    for precision in ("tf32", "bf16", "fp8"):
        expected = not unsupported_precision(card.capability, precision)
        assert (card.peak_flops(precision) is not None) == expected, precision
    assert card.peak_flops("fp4") is None


@each_card
def test_base_units_are_of_plausible_size(card):
    assert 4 * GIB <= card.memory_bytes <= 300 * GIB
    assert 1e11 <= card.bandwidth <= 1e13
    assert 1e12 <= card.peaks["fp32"] <= 2e14
    assert 2**19 <= card.cache_bytes <= 2**28
    assert 30 <= card.power_w <= 1500
    assert card.launch_price_usd is None or 100 <= card.launch_price_usd <= 50_000


def test_figures_that_everybody_knows():
    """NVIDIA's own: 82.6 TFLOP/s and 1,008 GB/s of a 4090; 312 and 2,039 of an A100 80 GB."""
    ada, ampere = get_card("geforce-rtx-4090"), get_card("nvidia-a100-sxm4-80gb")
    assert ada.peak_flops("fp32") == pytest.approx(82.6e12, rel=0.001)
    assert ada.bandwidth == pytest.approx(1008e9, rel=0.001)
    assert (ada.memory_bytes, ada.power_w, ada.capability) == (24 * GIB, 450, (8, 9))
    assert ampere.peak_flops("bf16") == pytest.approx(312e12, rel=0.001)
    assert ampere.bandwidth == pytest.approx(2039e9, rel=0.001)


def test_error_correction_takes_memory_where_it_is_on_as_delivered_and_has_none_of_its_own():
    """Data-centre cards with GDDR; HBM has bits for it, and workstation cards come without."""
    shares = {"nvidia-l4": 0.91, "nvidia-a40": 0.91, "rtx-a6000": 0.975, "rtx-6000-ada": 0.975}
    shares |= {"quadro-rtx-8000": 0.975, "nvidia-a100-pcie-40gb": 0.975, "geforce-rtx-4090": 0.975}
    for card_id, share in shares.items():
        card = get_card(card_id)
        assert card.usable_bytes / card.memory_bytes == pytest.approx(share), card_id


def test_fp64_products_run_on_tensor_cores_where_these_are_faster():
    """NVIDIA's datasheets: twice the CUDA cores' rate on A100 and H100, and no more on B200."""
    known = {"nvidia-a100-sxm4-80gb": 19.5, "nvidia-h100-sxm5": 67, "nvidia-b200-sxm": 37}
    for card_id, tflops in (known | {"tesla-v100-sxm2-16gb": 7.8}).items():
        assert get_card(card_id).peak_flops("fp64") == pytest.approx(tflops * 1e12, rel=0.1)


def test_without_tensor_cores_fp16_runs_on_the_cuda_cores():
    """At FP32's rate on consumer Pascal, where libraries widen; at twice that on P100, GTX 16."""
    for card_id, factor in {
        "geforce-gtx-1080-ti": 1,
        "tesla-p100-pcie-16gb": 2,
        "geforce-gtx-1660-ti": 2,
    }.items():
        card = get_card(card_id)
        ratio = card.peak_flops("fp16") / card.peak_flops("fp32")
        assert ratio == pytest.approx(factor, rel=0.01)


@each_card
def test_nominal_times_grow_with_the_work_and_never_beat_the_peaks(card):
    assert 0 < card.nominal_s(0, 0, None) < card.nominal_s(1e12, 0, "fp32")
    assert card.nominal_s(1e12, 0, "fp32") < card.nominal_s(1e12, 1e9, "fp32")
    assert card.nominal_s(1e12, None, "fp32") > 1e12 / card.peaks["fp32"]
    assert card.nominal_s(None, 1e12, None) > 1e12 / card.bandwidth
    # What the card lacks is priced as FP32, which is what software falls back to.
    assert card.nominal_s(1e12, 0, "fp4") == card.nominal_s(1e12, 0, "fp32")


# naming one ---------------------------------------------------------------------------------------


@each_card
def test_a_card_is_named_by_its_id_and_by_each_name_that_no_other_has(card):
    assert get_card(card.card_id) == card
    for name in (card.card_id, *card.driver_names):
        sharing = [one for one in CARDS if name in (one.card_id, *one.driver_names)]
        plain = name.replace("NVIDIA ", "").replace("GeForce ", "")
        for spelled in (name, name.upper(), plain, plain.lower().replace(" ", "-"), f" {plain} "):
            assert named(spelled) == sharing, spelled


@given(st.sampled_from(CARDS), st.randoms(), st.sampled_from(["", "NVIDIA ", "nvidia geforce "]))
def test_the_order_of_words_and_the_maker_are_no_matter(card, random, maker):
    words = card.card_id.split("-")
    random.shuffle(words)
    assert named(maker + " ".join(words)) == [card]


@pytest.mark.parametrize(
    ("name", "card_id"),
    [
        ("RTX 4090", "geforce-rtx-4090"),
        ("rtx-4090", "geforce-rtx-4090"),
        ("rtx4090", "geforce-rtx-4090"),
        ("4090", "geforce-rtx-4090"),  # not the 4090 D
        ("4080", "geforce-rtx-4080"),  # not the SUPER
        ("4070 ti", "geforce-rtx-4070-ti"),  # not the Ti SUPER
        ("4070ti", "geforce-rtx-4070-ti"),
        ("4070 Ti Super", "geforce-rtx-4070-ti-super"),
        ("3060", "geforce-rtx-3060-12gb"),  # a driver's name, and no other card's
        ("4060 Ti 16 GB", "geforce-rtx-4060-ti-16gb"),
        ("gtx 1060", "geforce-gtx-1060-6gb"),
        ("T4", "tesla-t4"),
        ("p100", "tesla-p100-pcie-16gb"),
        ("A10", "nvidia-a10"),
        ("a6000", "rtx-a6000"),
        ("h200", "nvidia-h200-sxm"),
        ("6000 ada", "rtx-6000-ada"),
        ("Titan RTX", "titan-rtx"),
    ],
)
def test_names_as_people_type_them(name, card_id):
    assert get_card(name).card_id == card_id


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a100", ["pcie-40gb", "sxm4-40gb", "pcie-80gb", "sxm4-80gb"]),
        ("A100 80GB", ["pcie-80gb", "sxm4-80gb"]),
        ("h100", ["pcie", "sxm5"]),
        ("3080", ["10gb", "12gb"]),
        ("1660", ["super", "ti"]),
        ("rtx 6000", ["quadro-rtx-6000", "rtx-6000-ada"]),
        ("titan", ["titan-xp", "titan-v", "titan-rtx"]),
    ],
)
def test_what_several_cards_are_named_is_no_guess_but_a_list(name, parts):
    with pytest.raises(UsageError, match=f"{len(parts)} cards are named") as caught:
        get_card(name)
    ids = str(caught.value).partition(": ")[2].split(", ")
    assert len(ids) == len(parts)
    assert all(part in card_id for part, card_id in zip(parts, ids, strict=True))


def test_a_long_list_ends_with_how_many_more_there_are():
    with pytest.raises(UsageError, match=r"titan-rtx and \d+ more") as caught:
        get_card("rtx")
    assert str(caught.value).count(", ") == 7


@pytest.mark.parametrize(
    ("name", "nearest", "search"),
    [
        ("geforce-rtx-4909", "geforce-rtx-4090", "`gpubench list cards`"),
        ("RTX 4908", "geforce-rtx-4090", "`gpubench list cards`"),
        ("gtx 4090", "geforce-rtx-4090", "--only '*4090*'"),
        ("3060 8GB", "geforce-rtx-3060-12gb", "--only '*3060*'"),
        ("tesla t5", "tesla-t4", "`gpubench list cards`"),
        ("h100 sxm", "nvidia-h100-sxm5", "--only '*100*'"),
    ],
)
def test_an_unknown_card_is_refused_with_the_nearest_and_a_search(name, nearest, search):
    with pytest.raises(UsageError, match=f"no card is named '{name}'") as caught:
        get_card(name)
    assert f"did you mean '{nearest}'" in caught.value.remedy
    assert search in caught.value.remedy


def test_whoever_asks_for_another_makers_card_learns_whose_are_there():
    with pytest.raises(UsageError) as caught:
        get_card("RX 7900 XTX")
    assert caught.value.remedy.endswith("NVIDIA cards only")


@given(st.text(max_size=30))
def test_whatever_is_typed_is_a_card_that_has_its_words_or_a_usual_mistake(name):
    try:
        cards = named(name)
    except UsageError as error:
        cards, remedy = [], error.remedy
    assert all(cards.count(card) == 1 for card in cards)
    assert cards or "gpubench list cards" in remedy


@pytest.mark.parametrize("name", ["", " ", "NVIDIA", "geforce", "-"])
def test_no_words_name_no_card(name):
    with pytest.raises(UsageError, match="no card is named"):
        get_card(name)


# finding one --------------------------------------------------------------------------------------


@each_card
@pytest.mark.parametrize("share", [0.92, 1.0, 1.01])
def test_a_card_is_found_by_each_of_its_names_and_about_its_memory(card, share):
    """Drivers keep up to 8 % back for error correction, and some sizes are decimal."""
    for name in card.driver_names:
        assert find_card(name, int(share * card.memory_bytes)) == card


@each_card
@pytest.mark.parametrize(
    ("share", "is_it"), [(0.95, True), (1.05, True), (0.7, False), (1.36, False)]
)
def test_a_card_whose_memory_is_of_another_speed_is_another(card, share, is_it):
    """GTX 1650 and RTX 3060 Ti were sold with two kinds of memory under one name."""
    found = find_card(card.name, card.memory_bytes, share * card.bandwidth)
    assert (found == card) is is_it


@each_card
def test_the_makers_prefix_spacing_and_case_are_no_matter(card):
    plain = card.name.replace("NVIDIA ", "")
    for name in (plain, f"NVIDIA {plain}", f" NVIDIA  {plain} ", plain.upper(), plain.lower()):
        assert find_card(name, card.memory_bytes) == card


@pytest.mark.parametrize(
    ("name", "gib", "card_id"),
    [
        ("NVIDIA GeForce RTX 3080", 10, "geforce-rtx-3080-10gb"),
        ("NVIDIA GeForce RTX 3080", 12, "geforce-rtx-3080-12gb"),
        ("GeForce RTX 3080", 9.75, "geforce-rtx-3080-10gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 8, "geforce-rtx-4060-ti-8gb"),
        ("NVIDIA GeForce RTX 4060 Ti", 15.6, "geforce-rtx-4060-ti-16gb"),
        # As drivers report them, with what they keep back.
        ("Tesla T4", 14.75, "tesla-t4"),
        ("NVIDIA A10G", 22.49, "nvidia-a10g"),
        ("NVIDIA H200", 140.4, "nvidia-h200-sxm"),
        ("NVIDIA H100 80GB HBM3", 79.65, "nvidia-h100-sxm5"),
        ("NVIDIA L40S", 44.99, "nvidia-l40s"),
    ],
)
def test_colliding_names_and_real_drivers(name, gib, card_id):
    assert find_card(name, int(gib * GIB)).card_id == card_id


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 16),  # another chip
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.75),  # a seventh of the card
        ("GRID A100-10C", 10),
        ("NVIDIA GeForce RTX 3060", 8),  # same name, two thirds of the bandwidth
        ("NVIDIA GeForce RTX 3050", 6),
        ("NVIDIA GeForce RTX 2060", 12),
        ("NVIDIA", 24),
        ("", 24),
        ("AMD Radeon RX 7900 XTX", 24),
    ],
)
def test_what_is_another_card_is_not_taken_for_one_of_the_catalogue(name, gib):
    assert find_card(name, int(gib * GIB)) is None


def test_without_its_memory_only_a_name_of_its_own_finds_a_card():
    assert find_card("NVIDIA GeForce RTX 4090", None).card_id == "geforce-rtx-4090"
    assert find_card("NVIDIA GeForce RTX 3080", None) is None
    assert find_card("NVIDIA GeForce RTX 9999", None) is None


@given(
    st.text(max_size=40) | st.sampled_from([card.name for card in CARDS]),
    st.integers(0, 300 * GIB),
)
def test_what_is_found_has_that_name_and_about_that_memory(name, memory_bytes):
    card = find_card(name, memory_bytes)
    assert card is None or name in card.driver_names
    assert card is None or card.memory_bytes == pytest.approx(memory_bytes, rel=0.2)


# precisions ---------------------------------------------------------------------------------------

#: what the hardware does, by compute capability: CUDA C++ Programming Guide, "Arithmetic
#: Instructions" and "Compute Capabilities"; INT8 is DP4A on Pascal and Volta, absent on P100
SUPPORTED = {
    (6, 0): {"fp64", "fp32", "fp16"},
    (6, 1): {"fp64", "fp32", "fp16", "int8"},
    (7, 0): {"fp64", "fp32", "fp16", "int8"},
    (7, 5): {"fp64", "fp32", "fp16", "int8"},
    (8, 0): {"fp64", "fp32", "fp16", "int8", "tf32", "bf16"},
    (8, 6): {"fp64", "fp32", "fp16", "int8", "tf32", "bf16"},
    (8, 9): set(PRECISIONS),
    (9, 0): set(PRECISIONS),
    (10, 0): set(PRECISIONS),
    (12, 0): set(PRECISIONS),
}


@pytest.mark.parametrize("capability", SUPPORTED, ids=lambda pair: ".".join(map(str, pair)))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_supported_where_the_hardware_has_it(capability, precision):
    reason = unsupported_precision(capability, precision)
    assert (reason is None) == (precision in SUPPORTED[capability])


@pytest.mark.parametrize(
    ("capability", "precision", "reason"),
    [
        ((6, 1), "bf16", "bf16 begins with Ampere (compute capability 8.0); this card has 6.1"),
        ((7, 5), "tf32", "tf32 begins with Ampere (compute capability 8.0); this card has 7.5"),
        ((8, 6), "fp8", "fp8 begins with Ada (compute capability 8.9); this card has 8.6"),
    ],
)
def test_the_reason_names_the_first_architecture_that_has_it(capability, precision, reason):
    assert unsupported_precision(capability, precision) == reason


@given(st.sampled_from(PRECISIONS), st.tuples(st.integers(5, 13), st.integers(0, 9)))
def test_a_newer_card_can_do_what_an_older_one_can(precision, capability):
    newer = (capability[0], capability[1] + 1)
    if unsupported_precision(capability, precision) is None:
        assert unsupported_precision(newer, precision) is None
