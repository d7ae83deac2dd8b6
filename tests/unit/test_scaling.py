"""Several cards of a kind scale as others have published."""

import re
from dataclasses import replace

import pytest

from gpubench import advice, scaling
from gpubench.cards import get_card
from gpubench.profile import load_profile
from gpubench.published import Published
from gpubench.recommend import Question, recommend

BALANCED = load_profile("balanced")


def ask(job=None, **known):
    return recommend(Question(**({"profile": BALANCED, "job": job} | known)))


def test_two_cards_cost_and_draw_twice_and_are_less_than_twice_as_fast():
    one, two = (ask(cards=("*4090",), count=count).options["geforce-rtx-4090"] for count in (1, 2))
    assert two.price.usd == 2 * one.price.usd
    assert two.watts == pytest.approx(2 * one.watts)
    case = next(iter(BALANCED.cases))
    gain = two.candidate.rates[case].value / one.candidate.rates[case].value
    assert 1.3 < gain < 1.95
    assert "data parallel" in advice.text(ask(cards=("*4090",), count=2), "table", 3)


def test_scaling_is_what_others_published_and_nvlink_between_all_cards_scales_best():
    shares = {
        card_id: scaling.efficiency(get_card(card_id), 8)[0].value
        for card_id in ("geforce-rtx-4090", "nvidia-h100-sxm5")
    }
    assert shares["nvidia-h100-sxm5"] > 0.9 > shares["geforce-rtx-4090"] > 0.5
    share, said = scaling.efficiency(get_card("rtx-a6000"), 4)
    assert share.low < share.value < share.high
    assert "published results of this card" in said
    assert scaling.efficiency(get_card("rtx-a6000"), 1)[0].deviation == 0


@pytest.mark.parametrize("card_id", ["nvidia-a100-pcie-80gb", "nvidia-h100-pcie"])
def test_a_board_for_a_slot_has_a_bridge_at_most_however_fast_its_nvlink(card_id):
    card = get_card(card_id)
    assert scaling.interconnect(card) == "bridge"
    assert scaling.interconnect(replace(card, nvlink=0.0)) == "none"
    pair = replace(card, card_id="nvidia-h100-nvl", driver_names=("NVIDIA H100 NVL",))
    assert scaling.interconnect(pair) == "bridge"


@pytest.mark.parametrize(
    "card_id", ["nvidia-a100-sxm4-80gb", "nvidia-h100-sxm5", "nvidia-b200-sxm"]
)
def test_a_module_of_a_system_built_around_nvlink_has_it_to_all_others(card_id):
    assert scaling.interconnect(get_card(card_id)) == "full"


@pytest.mark.parametrize("card_id", ["nvidia-a100-pcie-40gb", "nvidia-h100-pcie", "rtx-a6000"])
def test_no_more_than_all_of_the_cards_is_said_to_be_gained(card_id):
    said = " ".join(advice.text(ask(cards=(card_id,), count=4), "table", 3).split())
    share, low, high = map(int, re.search(r"(\d+) % \[(\d+), (\d+)\] of 4 times", said).groups())
    assert low < share <= high <= 100


def test_two_cards_of_one_kind_need_not_scale_alike():
    """Where neither has results of its own, how they do is not known to be the same."""
    a, b = (scaling.efficiency(get_card(name), 4)[0] for name in ("5090", "4090"))
    assert (a / b).deviation > 0.1
    # One card's results stand for its whole kind, which is less sure than its own.
    assert a.deviation > scaling.efficiency(get_card("geforce-rtx-3080-10gb"), 4)[0].deviation


def published_result(card_id, count, rate, **different):
    return replace(
        Published(
            source="somebody: a table",
            source_date="2024",
            card_id=card_id,
            n_gpus=count,
            software="torch",
            workload="resnet50",
            precision="fp16",
            mode="train",
            batch=64 * count,
            metric="throughput",
            value=rate,
            unit="images/s",
            notes="",
            licence="MIT",
        ),
        **different,
    )


def test_scaling_compares_like_with_like_and_a_cards_own_results_come_first(monkeypatch):
    plain, other = "geforce-rtx-4090", "geforce-rtx-4080"  # neither has NVLink
    results = [
        published_result(plain, 1, 100.0),
        published_result(plain, 2, 180.0),
        published_result(plain, 2, 200.0, mode="infer"),
        published_result(plain, 2, 400.0, batch=64),  # half as much on each card
        published_result(plain, 2, 500.0, software="other"),
        published_result(other, 1, 50.0),
        published_result(other, 3, 110.0),
    ]
    monkeypatch.setattr(scaling, "published", lambda: results)
    scaling._added.cache_clear()
    try:
        shares = {
            card_id: scaling.efficiency(get_card(card_id), 2)[0].value
            for card_id in (plain, other, "geforce-rtx-4070")
        }
        with pytest.raises(LookupError, match="NVLink between all cards"):
            scaling.efficiency(get_card("nvidia-h100-sxm5"), 2)
    finally:
        scaling._added.cache_clear()
    assert shares[plain] == pytest.approx(0.9)  # 0.8 of a card more
    assert shares[other] == pytest.approx(0.8)  # 1.2 cards more for two
    assert shares["geforce-rtx-4070"] == pytest.approx(0.85)  # the median of both


def test_the_interval_of_a_share_leaves_out_a_tenth_of_the_results_at_either_end(monkeypatch):
    card = "geforce-rtx-4090"
    results = [published_result(card, 1, 100.0)]
    results += [published_result(card, 2, 100.0 + 10 * tenth) for tenth in range(1, 10)]
    results += [published_result(card, 2, rate) for rate in (100.01, 199.99)]
    monkeypatch.setattr(scaling, "published", lambda: results)
    scaling._added.cache_clear()
    try:
        share, _ = scaling.efficiency(get_card(card), 2)
    finally:
        scaling._added.cache_clear()
    assert share.value == pytest.approx(1.5 / 2)
    assert share.high / share.low == pytest.approx(1.9 / 1.1)


def test_a_further_card_adds_no_more_than_a_card(monkeypatch):
    """Whatever a noisy source has."""
    card = "geforce-rtx-4090"
    results = [published_result(card, 1, 100.0)]
    results += [published_result(card, 2, rate) for rate in (150.0, 220.0, 230.0)]
    monkeypatch.setattr(scaling, "published", lambda: results)
    scaling._added.cache_clear()
    try:
        assert scaling.efficiency(get_card(card), 4)[0].value == pytest.approx(1)
    finally:
        scaling._added.cache_clear()
