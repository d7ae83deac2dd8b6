"""Predictions: physics that no fit may break, learning that finds what was planted."""

import csv
import dataclasses
import json
import math
import random
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench import cli, efficiency, evidence, modelled
from gpubench.cards import ABOVE_PEAK, catalogue, get_card, unsupported_precision
from gpubench.efficiency import Observation
from gpubench.errors import UsageError
from gpubench.estimate import REACH80
from gpubench.job import CONTEXT_BYTES, Job
from gpubench.predict import MOST_TAUGHT, OPERATIONS, Predictor
from gpubench.published import COLUMNS, Published, published
from gpubench.suite import load_suite
from gpubench.transformer import get_model
from gpubench.workload import Work
from gpubench.workloads import bert

ROOT = Path(__file__).parents[2]
CARDS = sorted(catalogue())
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
SHIPPED = Predictor.shipped()

amounts = st.floats(1e3, 1e16)
precisions = st.sampled_from(PRECISIONS)
operations = st.sampled_from(OPERATIONS)


def has(card, precision):
    return precision in card.peaks and not unsupported_precision(card.capability, precision)


def ratio(card_a, card_b, work, precision, **asked):
    """How many times faster the first card is."""
    a, b = (SHIPPED.estimate(card, work, precision, **asked) for card in (card_a, card_b))
    return b / a


@st.composite
def cards_with_precision(draw):
    precision = draw(precisions)
    return draw(st.sampled_from([c for c in catalogue().values() if has(c, precision)])), precision


# what physics demands -----------------------------------------------------------------------------


@given(cards_with_precision(), operations, amounts, amounts, st.floats(1, 100), st.floats(0, 1e4))
def test_more_work_never_takes_less_time(chosen, operation, flops, moved, factor, launches):
    card, precision = chosen

    def seconds(flops, moved, launches):
        work = Work(flops=flops, bytes=moved)
        return SHIPPED.step(card, work, precision, operation=operation, launches=launches).seconds

    least = seconds(flops, moved, launches) * (1 - 1e-12)
    assert seconds(factor * flops, moved, launches) >= least
    assert seconds(flops, factor * moved, launches) >= least
    assert seconds(flops, moved, launches + factor) >= least


@given(cards_with_precision(), operations, amounts, amounts, st.floats(1e-3, 1e3))
def test_all_work_k_times_takes_k_times_as_long_but_for_launches(
    chosen, operation, flops, moved, k
):
    card, precision = chosen
    work, scaled = Work(flops=flops, bytes=moved), Work(flops=k * flops, bytes=k * moved)
    once = SHIPPED.step(card, work, precision, operation=operation)
    times = SHIPPED.step(card, scaled, precision, operation=operation)
    assert times.seconds == pytest.approx(k * once.seconds, rel=1e-9)
    assert times.low == pytest.approx(k * once.low, rel=1e-9)
    launched = SHIPPED.step(card, scaled, precision, operation=operation, launches=100)
    assert launched.seconds >= times.seconds  # equal where the card's peak is the floor of both


def better(card, factors):
    """A card of the same generation that is better in every figure, by these factors."""
    peak, bandwidth, power, cache = factors
    return dataclasses.replace(
        card,
        card_id="better",
        peaks={name: rate * peak for name, rate in card.peaks.items()},
        bandwidth=card.bandwidth * bandwidth,
        power_w=card.power_w * power,
        cache_bytes=int(card.cache_bytes * cache),
    )


factor = st.floats(1, 8)


@given(cards_with_precision(), operations, amounts, amounts, st.tuples(*[factor] * 4))
def test_a_card_better_in_every_figure_is_never_slower(chosen, operation, flops, moved, factors):
    card, precision = chosen
    work = Work(flops=flops, bytes=moved)
    found = ratio(better(card, factors), card, work, precision, operation=operation)
    assert found.value >= 1 - 1e-12


def dominates(one, other):
    figures = [(one.bandwidth, other.bandwidth), (one.power_w, other.power_w)]
    figures += [(one.cache_bytes, other.cache_bytes)]
    figures += [(one.peaks.get(name, 0.0), rate) for name, rate in other.peaks.items()]
    return all(a >= b for a, b in figures) and any(a > b for a, b in figures)


@pytest.mark.parametrize("intensity", [1, 30, 1000])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_in_the_catalogue_too_what_is_better_in_every_figure_is_faster(intensity, precision):
    pairs = [
        (one, other)
        for one in catalogue().values()
        for other in catalogue().values()
        if one.architecture == other.architecture and dominates(one, other)
    ]
    assert len(pairs) > 50
    work = Work(flops=1e12 * intensity, bytes=1e12)
    for one, other in pairs:
        assert ratio(one, other, work, precision, operation="cnn").value >= 1


@given(cards_with_precision(), operations, amounts, amounts, st.floats(0, 1e4))
def test_the_estimate_lies_between_its_bounds(chosen, operation, flops, moved, launches):
    card, precision = chosen
    work = Work(flops=flops, bytes=moved)
    found = SHIPPED.step(card, work, precision, operation=operation, launches=launches)
    assert 0 < found.low < found.seconds < found.high < math.inf


@given(cards_with_precision(), cards_with_precision(), operations, amounts, amounts)
def test_a_ratio_is_that_of_the_times_and_surer_than_they_are(a, b, operation, flops, moved):
    (one, precision), (other, _) = a, b
    if not has(other, precision):
        return
    work = Work(flops=flops, bytes=moved)
    first, second = (
        SHIPPED.step(card, work, precision, operation=operation) for card in (one, other)
    )
    found = ratio(one, other, work, precision, operation=operation)
    assert found.value == pytest.approx(second.seconds / first.seconds)
    back = ratio(other, one, work, precision, operation=operation)
    assert found.low == pytest.approx(1 / back.high)
    # Were both independent the widths would add up; what they share cancels.
    apart = math.hypot(*(math.log(one.high / one.seconds) for one in (first, second)))
    assert math.log(found.high / found.value) < apart
    if one == other:
        assert found.low == found.value == found.high == 1


def in_one_machine(slope):
    """What the host costs is one error for both cards."""
    return {
        effect[:2] if effect[0] in efficiency.OF_THE_HOST else effect: weight
        for effect, weight in slope.items()
    }


@pytest.mark.parametrize(
    "pair", [("geforce-rtx-4070", "geforce-rtx-4090"), ("tesla-t4", "nvidia-a100-pcie-40gb")]
)
def test_errors_by_cause_make_up_the_models_variances(pair):
    """The rule of a sum's variance, once for a time and once for the difference of two."""
    learnt, work = SHIPPED.efficiencies, Work(flops=1e13, bytes=1e10)
    whole = evidence.complete(work, "fp16", "transformer")
    asked = [Observation(get_card(card), whole, "fp16", "transformer", 500.0) for card in pair]
    noise = learnt.noise_of(asked[0])
    one, other = (in_one_machine(learnt.log_seconds(step)[1]) for step in asked)
    difference = {
        effect: one.get(effect, 0.0) - other.get(effect, 0.0) for effect in {*one, *other}
    }
    told = {"operation": "transformer", "launches": 500.0}
    a, b = (SHIPPED.estimate(get_card(card), work, "fp16", **told) for card in pair)
    assert a.deviation**2 == pytest.approx(learnt.variance(one) + noise)
    assert (a / b).deviation ** 2 == pytest.approx(learnt.variance(difference) + 2 * noise)


@given(
    cards_with_precision(),
    st.sampled_from(["gemm", "transformer", "memory", "reduction"]),
    amounts,
    amounts,
)
def test_no_time_is_shorter_than_a_card_can_take(chosen, operation, flops, moved):
    card, precision = chosen
    found = SHIPPED.step(card, Work(flops=flops, bytes=moved), precision, operation=operation)
    products = operation in ("gemm", "transformer")
    least = flops / card.peaks[precision] if products else moved / card.bandwidth
    assert found.low * ABOVE_PEAK >= least * (1 - 1e-9)


def test_the_shipped_model_alone_would_be_faster_than_a_card_can_be():
    """Else the floor under its bounds would do nothing."""
    card, work = get_card("geforce-rtx-3060-12gb"), Work(flops=1e14, bytes=1e9)
    found = SHIPPED.step(card, work, "bf16", operation="gemm")
    assert found.seconds == pytest.approx(1e14 / card.peaks["bf16"])
    assert found.low == pytest.approx(found.seconds / ABOVE_PEAK)


def test_a_time_is_less_sure_than_the_order_of_two_cards():
    work, a100 = Work(flops=1e13, bytes=1e10), get_card("nvidia-a100-sxm4-80gb")
    alone = SHIPPED.step(a100, work, "fp16", operation="transformer")
    order = ratio(a100, get_card("geforce-rtx-3090"), work, "fp16", operation="transformer")
    assert math.log(alone.high / alone.low) > 1.2 * math.log(order.high / order.low)


def test_a_generation_that_no_result_speaks_of_is_less_sure():
    work = Work(flops=1e13, bytes=1e10)

    def width(card_id):
        found = SHIPPED.step(get_card(card_id), work, "bf16", operation="gemm")
        return math.log(found.high / found.low)

    assert width("nvidia-h100-sxm5") > width("nvidia-a100-pcie-40gb")


def test_what_no_result_speaks_of_keeps_its_full_width():
    learnt = SHIPPED.efficiencies
    for name in ("source", "series"):
        assert learnt.variance({(name, "unheard of", ""): 2.0}) == pytest.approx(
            (2 * learnt.widths[name]) ** 2
        )


def test_training_moves_at_least_what_the_leanest_network_does():
    declared = Work(flops=1e12, bytes=1e6)
    assert evidence.complete(declared, "fp16", "cnn").bytes == pytest.approx(2 * 2e-3 * 1e12)
    assert evidence.complete(declared, "fp16", "gemm").bytes == 1e6
    more = Work(flops=1e12, bytes=1e12)
    assert evidence.complete(more, "fp16", "cnn").bytes == 1e12


# what is asked wrongly ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card_id", "work", "precision", "operation", "said"),
    [
        ("tesla-t4", Work(flops=1.0), "bf16", "gemm", "begins with Ampere"),
        ("tesla-t4", Work(flops=1.0), "fp32", "gem", "no operation is named 'gem'"),
        ("tesla-t4", Work(), "fp32", "gemm", "without work"),
        ("nvidia-b200-sxm", Work(flops=1.0), "fp4", "gemm", "no fp4 rate"),
    ],
)
def test_a_question_without_an_answer_is_refused(card_id, work, precision, operation, said):
    with pytest.raises(UsageError, match=said):
        SHIPPED.step(get_card(card_id), work, precision, operation=operation)


# what is learnt -----------------------------------------------------------------------------------

TRUTH = dict(
    zip(
        ("7.0", "7.5", "8.0", "8.6", "8.9"),
        (0.0, 0.25, 0.0, -0.25, 0.0),
        strict=True,
    )
)
SEEN = (
    *("tesla-v100-sxm2-16gb", "tesla-v100-pcie-32gb", "titan-v"),
    *("geforce-rtx-2080-ti", "geforce-rtx-2070", "titan-rtx", "tesla-t4"),
    *("nvidia-a100-sxm4-80gb", "nvidia-a100-pcie-40gb", "nvidia-a30"),
    *("geforce-rtx-3090", "geforce-rtx-3080-10gb", "rtx-a6000", "rtx-a4000"),
    *("geforce-rtx-4090", "geforce-rtx-4070", "nvidia-l4"),
)


def planted(seed, cards=SEEN, noise=0.03, level=0.2):
    """Results of two sources on these cards, from efficiencies that are known."""
    generator = random.Random(seed)
    widths = dict.fromkeys(efficiency.WIDTHS, 0.0)
    state = efficiency.Efficiencies({}, *_nothing(), widths, noise, {})
    found = []
    for source, flops, moved in (("one", 1e12, 2e9), ("one", 1e11, 9e9), ("other", 1e12, 4e9)):
        for card_id in cards:
            step = Observation(
                card=get_card(card_id),
                work=Work(flops=flops, bytes=moved),
                precision="fp16",
                operation="cnn",
                source=source,
                series=f"{flops} {moved}",
            )
            log, slope = state.log_seconds(step)
            share = -slope[efficiency.TENSOR,]
            log += level * (source == "one") - share * TRUTH[step.card.compute_capability]
            log += generator.gauss(0, noise)
            found.append(dataclasses.replace(step, seconds=math.exp(log)))
    return found


def _nothing():
    return np.zeros(0), np.zeros((0, 0))


def test_a_fit_finds_what_was_planted():
    learnt = efficiency.fit(planted(seed=1))
    for generation, truth in TRUTH.items():
        value = learnt.value(("generation compute", generation, "tensor cores"))
        spread = math.sqrt(
            learnt.variance({("generation compute", generation, "tensor cores"): 1.0})
        )
        assert abs(value - truth) < 3 * spread
        assert value * truth >= 0.02 if truth else abs(value) < 0.2
    assert 0.02 < learnt.noise < 0.05


def test_what_is_fitted_is_what_is_asked():
    """The formula stands twice, for one step in words and for all at once in arrays."""
    learnt = SHIPPED.efficiencies
    for card_id in CARDS[::3]:
        step = Observation(
            get_card(card_id), Work(flops=3e10, bytes=2e9), "fp32", "cnn", 700, "new", "new", 1.0
        )
        index = efficiency._index([step])
        design = efficiency._Design.of([step], index)
        (expected,), (slope,) = design.predicted(np.array([learnt.value(e) for e in index]))
        log, gradient = learnt.log_seconds(step)
        assert expected == pytest.approx(log, abs=1e-12)
        assert {e: slope[at] for e, at in index.items() if slope[at]} == pytest.approx(
            {e: value for e, value in gradient.items() if value}, abs=1e-12
        )


def test_a_fit_hangs_on_no_order():
    observations = planted(seed=2)
    mixed = random.Random(0).sample(observations, len(observations))
    one, other = efficiency.fit(observations), efficiency.fit(mixed)
    assert one.index == other.index
    assert other.mean == pytest.approx(one.mean, abs=1e-9)


def test_intervals_have_the_share_that_they_promise():
    """Of planted results of cards that were left out, over many draws."""
    inside = total = 0
    for seed in range(12):
        observations = planted(seed, noise=0.05)
        for card_id in SEEN[::4]:
            learnt = efficiency.fit([o for o in observations if o.card.card_id != card_id])
            for one in observations:
                if one.card.card_id == card_id:
                    log, slope = learnt.log_seconds(one)
                    spread = math.sqrt(learnt.variance(slope) + learnt.noise_of(one))
                    inside += abs(math.log(one.seconds) - log) < REACH80 * spread
                    total += 1
    assert 0.72 < inside / total <= 0.90


def test_the_reach_of_an_interval_is_students():
    """Nine tenths of his t with four degrees of freedom, of variance one, lie below it."""
    t = math.sqrt(2) * REACH80
    tail = 1 + t**2 / 4
    below = 0.5 + 3 / 8 * t / math.sqrt(tail) * (1 - t**2 / (12 * tail))
    assert below == pytest.approx(0.9, abs=1e-12)


def test_a_series_of_known_level_moves_no_card():
    """A result of a program that only one card ran says nothing about other cards' ratio."""
    observations = planted(seed=3)
    lone = dataclasses.replace(observations[0], series="lone", guessed=True, seconds=1e4)
    step = dataclasses.replace(observations[5], source="new", series="new")
    before, after = (
        efficiency.fit(list_).log_seconds(step)[0]
        for list_ in (observations, [*observations, lone])
    )
    assert after == pytest.approx(before, abs=0.1)


# results measured here ----------------------------------------------------------------------------


def row(card_id="geforce-rtx-4090", seconds=0.01, **changes):
    return {
        "card_id": card_id,
        "case_id": "gemm:shape=8192x8192x8192,precision=fp16",
        "workload": "gemm",
        "params": {"shape": "8192x8192x8192", "precision": "fp16"},
        "precision": "fp16",
        "provenance": "measured",
        "status": "ok",
        "reason": None,
        "flags": [],
        "cache": "cold",
        "workload_hash": "abc",
        "started_at": datetime(2026, 1, 2, tzinfo=UTC),
        "torch": "2.9",
        "driver": "580",
        "median_s": seconds,
        "flops": 2 * 8192.0**3,
        "bytes": 6 * 8192.0**2,
    } | changes


GEMM = Work(flops=2 * 8192.0**3, bytes=6 * 8192.0**2)


def gemm_on(predictor, card_id, case=""):
    return predictor.step(get_card(card_id), GEMM, "fp16", operation="gemm", launches=1, case=case)


def test_a_slow_result_makes_the_same_step_slower_on_other_cards_and_surer():
    before = gemm_on(SHIPPED, "geforce-rtx-4080")
    slow = SHIPPED.with_measured([row(seconds=2 * gemm_on(SHIPPED, "geforce-rtx-4090").seconds)])
    after = gemm_on(slow, "geforce-rtx-4080", case=row()["case_id"])
    assert 1.5 < after.seconds / before.seconds < 2
    assert after.high / after.low < before.high / before.low
    other_step = gemm_on(slow, "geforce-rtx-4080")
    assert before.seconds < other_step.seconds < after.seconds
    assert "measured on 1 card" in slow.basis
    assert "measured" not in SHIPPED.basis


def test_a_result_moves_a_term_by_its_share_of_the_surprise():
    """The rule of normal distributions: covariance over variance, times what was unexpected."""
    learnt, effect = dataclasses.replace(SHIPPED.efficiencies, noise=0.5), ("operation", "gemm")
    (seen,) = evidence.measured([row()])
    log, slope = learnt.log_seconds(seen)
    surprise = 0.05
    after = efficiency.updated(
        learnt, [dataclasses.replace(seen, seconds=math.exp(log + surprise))]
    )
    spread = learnt.variance(slope)
    both = learnt.variance(slope | {effect: slope[effect] + 1.0})
    covariance = (both - spread - learnt.variance({effect: 1.0})) / 2
    share = covariance / (spread + learnt.noise_of(seen))
    moved = after.value(effect) - learnt.value(effect)
    assert moved == pytest.approx(share * surprise, rel=0.05)


def test_one_measured_card_makes_others_of_its_generation_nearer_than_strangers():
    slow = SHIPPED.with_measured([row(seconds=1.5 * gemm_on(SHIPPED, "geforce-rtx-4090").seconds)])
    moved = {}
    for card_id in ("geforce-rtx-4070", "nvidia-a100-sxm4-80gb"):
        asked = Observation(get_card(card_id), GEMM, "fp16", "gemm", 1)
        after, before = (one.efficiencies.log_seconds(asked)[0] for one in (slow, SHIPPED))
        moved[card_id] = after - before  # without the floor at the peak
    assert moved["geforce-rtx-4070"] > moved["nvidia-a100-sxm4-80gb"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": "virtual"},
        {"status": "failed", "median_s": math.nan},
        {"flags": ["above_peak"]},
        {"card_id": "my-own-card"},
        {"card_id": None},
        {"flops": None, "bytes": math.nan},
        {"precision": "bf16", "card_id": "tesla-t4"},
    ],
)
def test_what_says_nothing_about_a_card_is_not_learnt_from(changes):
    assert list(evidence.measured([row(**changes)])) == []
    assert SHIPPED.with_measured([row(**changes)]) is SHIPPED


def test_trials_count_once_with_their_median():
    trials = [row(seconds=seconds) for seconds in (0.01, 0.03, 0.011, 0.009, 0.04)]
    (found,) = evidence.measured(trials)
    assert found.seconds == pytest.approx(0.011)


def test_trials_that_something_slowed_teach_only_where_there_is_no_other():
    slowed = [
        row(seconds=1.0, flags=[flag]) for flag in ("other_processes", "throttled_thermal", "drift")
    ]
    (found,) = evidence.measured([row(), *slowed[:2]])
    assert found.seconds == pytest.approx(0.01)
    (found,) = evidence.measured(slowed[:1])
    assert found.seconds == pytest.approx(1.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", ["base", "large"])
def test_a_network_launches_the_same_whether_case_or_job(size, precision):
    _, launches = evidence.operation_of("bert", {"size": size, "precision": precision})
    job = Job(get_model(f"bert-{size}"), precision=precision, batch=8, sequence=128)
    assert launches == pytest.approx(job.launches, rel=0.05)


def test_what_berts_layers_move_is_what_its_model_says():
    for size, (layers, hidden) in evidence.BERT_SHAPES.items():
        if size != "tiny":
            model = get_model(f"bert-{size}")
            assert (model.layers, model.hidden) == (layers, hidden)
            assert model.block_moved == evidence.BERT_MOVED * hidden


@pytest.mark.parametrize(
    ("card_id", "sequences_s"), [("nvidia-a100-sxm4-80gb", 110), ("tesla-v100-sxm2-32gb", 52)]
)
def test_the_case_of_bert_large_may_be_as_slow_as_what_was_published_of_it(card_id, sequences_s):
    """SQuAD's sequences of 384 tokens in mixed precision, by NVIDIA's DeepLearningExamples."""
    params = {"size": "large", "batch": "32", "sequence": "384", "precision": "fp16"}
    declared = bert.work("large", 32, 384, "fp16")
    work, operation, launches = evidence.step_of("bert", params, declared)
    found = SHIPPED.step(get_card(card_id), work, "fp16", operation=operation, launches=launches)
    assert found.low < 32 / sequences_s < found.high


def test_a_strangers_parameters_are_no_reason_to_stop():
    for odd in ({}, {"size": "huge"}, {"batch": "-1", "sequence": "x"}, {"batch": "9" * 400}):
        work, operation, _ = evidence.step_of("bert", odd, Work(flops=1.0, bytes=2.0))
        assert (work.bytes, operation) == (2.0, "transformer")


def test_tf32_is_never_slower_than_the_fp32_that_it_may_fall_back_to():
    for card_id in CARDS:
        if has(get_card(card_id), "tf32"):
            work = Work(flops=1e9, bytes=1e6)
            times = {
                kind: SHIPPED.step(get_card(card_id), work, kind, operation="cnn", launches=60)
                for kind in ("fp32", "tf32")
            }
            assert times["tf32"].seconds <= times["fp32"].seconds


def test_what_teaches_is_what_may_stand_in_a_score():
    """A case that failed in any trial says nothing; of older software nothing either."""
    wrong = row(status="wrong", reason="differs", median_s=math.nan)
    assert list(evidence.measured([row(), wrong])) == []
    older = [row(seconds=0.02, torch="2.6", started_at=datetime(2025, 1, 2, tzinfo=UTC))] * 2
    (found,) = evidence.measured([*older, row()])
    assert found.seconds == pytest.approx(0.01)
    both = list(evidence.measured([row(), row(seconds=0.005, cache="hot")]))
    assert sorted(one.seconds for one in both) == pytest.approx([0.005, 0.01])


@pytest.mark.parametrize("slower", [3, 6, 10])
def test_a_wild_result_moves_other_cards_little(slower):
    """One card throttled to a third or a tenth, and nothing in its row says so."""
    usual = gemm_on(SHIPPED, "geforce-rtx-4090").seconds
    wild = row(seconds=slower * usual)
    before = gemm_on(SHIPPED, "geforce-rtx-4080").seconds
    alone = SHIPPED.with_measured([wild])
    assert gemm_on(alone, "geforce-rtx-4080", case=wild["case_id"]).seconds < 2 * before
    assert (
        gemm_on(alone, "geforce-rtx-3090").seconds
        < 1.5 * gemm_on(SHIPPED, "geforce-rtx-3090").seconds
    )
    good = [
        row(
            card_id=card_id,
            case_id=f"gemm:n={n}",
            flops=2.0 * n**3,
            bytes=6.0 * n**2,
            seconds=gemm_of(n, card_id),
        )
        for n, card_id in zip((2048, 3072, 4096, 5120, 6144, 7168, 16384), CYCLE, strict=True)
    ]
    told, mistold = SHIPPED.with_measured(good), SHIPPED.with_measured([*good, wild])
    for card_id in ("geforce-rtx-4080", "geforce-rtx-3090", "nvidia-a100-sxm4-80gb"):
        moved = gemm_on(mistold, card_id).seconds / gemm_on(told, card_id).seconds
        assert moved < 1.1


@pytest.mark.parametrize("factor", [1 / 100, 100])
def test_a_result_far_from_all_expectation_teaches_nothing_fast_or_slow(factor):
    usual = gemm_on(SHIPPED, "geforce-rtx-4090").seconds
    wild = row(seconds=factor * usual, cache="hot")
    assert SHIPPED.with_measured([wild]) is SHIPPED
    both = SHIPPED.with_measured([row(seconds=usual), wild])
    assert both.basis.endswith("(1 more too far from all expectation)")
    alone = SHIPPED.with_measured([row(seconds=usual)])
    assert gemm_on(both, "geforce-rtx-4080") == dataclasses.replace(
        gemm_on(alone, "geforce-rtx-4080"), basis=both.basis
    )


def test_of_more_results_than_are_taught_the_last_count_as_the_first():
    usual = gemm_on(SHIPPED, "geforce-rtx-4090").seconds
    one = Observation(get_card("geforce-rtx-4090"), GEMM, "fp16", "gemm", 1, seconds=usual)
    slow = dataclasses.replace(
        one, card=get_card("tesla-t4"), seconds=2 * gemm_on(SHIPPED, "tesla-t4").seconds
    )
    many = [dataclasses.replace(one, series=str(place)) for place in range(MOST_TAUGHT)]
    many += [dataclasses.replace(slow, series=str(place)) for place in range(MOST_TAUGHT)]
    taught = SHIPPED.with_observations(many)
    before, after = (gemm_on(one, "tesla-t4").seconds for one in (SHIPPED, taught))
    assert after > 1.2 * before


CYCLE = ("geforce-rtx-4090", "geforce-rtx-3080-10gb") * 3 + ("geforce-rtx-4090",)


def gemm_of(n, card_id):
    """What is expected of a square product."""
    work = Work(flops=2.0 * n**3, bytes=6.0 * n**2)
    return SHIPPED.step(get_card(card_id), work, "fp16", operation="gemm", launches=1).seconds


def test_two_cards_asked_about_stand_in_one_machine():
    """What its host costs is the same for both, and so no error of their ratio."""
    asked = {"operation": "transformer", "launches": 1e4}
    work = Work(flops=1e12, bytes=1e10)
    between = ratio(get_card("5090"), get_card("4090"), work, "bf16", **asked)
    hosts = {cause: error for cause, error in between.errors.items() if cause.startswith("host")}
    assert len(hosts) == 2
    alone = SHIPPED.estimate(get_card("4090"), work, "bf16", **asked)
    launches = next(cause for cause in hosts if "launch" in cause)
    assert abs(hosts[launches]) < 0.5 * abs(alone.errors[launches])


def test_a_users_own_card_changes_no_other_cards_prediction(tmp_path, monkeypatch):
    before = gemm_on(SHIPPED, "geforce-rtx-5080").seconds
    example = re.search(r"```toml\n(.*?)```", (ROOT / "docs/commands.md").read_text(), re.DOTALL)
    folder = tmp_path / "own" / "cards"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(example[1])
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path / "own"))
    forget()
    try:
        assert any(card.own for card in catalogue().values())
        assert gemm_on(SHIPPED, "geforce-rtx-5080").seconds == before
    finally:
        monkeypatch.undo()
        forget()


def forget():
    """Read the catalogue, and what is computed from it, anew."""
    for known in (catalogue, efficiency._usual_clock, efficiency._usual_flops_per_watt):
        known.cache_clear()


def test_with_one_measured_card_published_results_of_others_are_predicted_better():
    """Leave a source out, then give it one card: the errors of its other cards fall."""
    results = list(published())
    source = next(r.family for r in results if "mli/transformers" in r.family)
    known = [r for r in results if r.family != source and r.n_gpus == 1]
    theirs = evidence.from_published([r for r in results if r.family == source])
    given_card = "geforce-rtx-3090-ti"
    predictor = Predictor.of(known)
    told = predictor.with_observations([o for o in theirs if o.card.card_id == given_card])

    def error(one):
        rest = [o for o in theirs if o.card.card_id != given_card]
        logs = [abs(one.efficiencies.log_seconds(o)[0] - math.log(o.seconds)) for o in rest]
        return sorted(logs)[len(logs) // 2]

    assert error(told) < 0.8 * error(predictor)


# published results --------------------------------------------------------------------------------


def result(**changes):
    words = dict.fromkeys(COLUMNS, "")
    words.pop("batch")
    fields = words | {
        "source": "example.org/a/b@1: table",
        "card_id": "tesla-t4",
        "n_gpus": 1,
        "workload": "resnet50",
        "precision": "fp32",
        "mode": "train",
        "batch": 64,
        "value": 100.0,
        "unit": "images/s",
    }
    return Published(**(fields | changes))


def one(**changes):
    (found,) = evidence.from_published([result(**changes)])
    return found


def test_published_rates_become_seconds_of_an_item():
    assert one().seconds == pytest.approx(0.01)
    assert one(unit="ms/batch", value=640.0).seconds == pytest.approx(0.01)
    assert one(unit="ms/image", value=10.0).seconds == pytest.approx(0.01)
    product = one(workload="gemm_1024x128x512_nn", mode="micro", unit="TFLOPS", value=2.0)
    assert product.seconds == pytest.approx(2 * 1024 * 128 * 512 / 2e12)


def test_training_an_image_is_three_forward_passes():
    train, infer = one(), one(mode="infer")
    assert train.work.flops == pytest.approx(3 * infer.work.flops)
    assert train.work.flops == pytest.approx(3 * 8.18e9, rel=0.01)
    assert train.launches == pytest.approx(3 * infer.launches)
    assert one(batch=1).launches == 64 * train.launches


def test_results_of_several_cards_and_of_power_are_left_out():
    left_out = [result(n_gpus=8), result(unit="W"), result(card_id="nothing-known")]
    assert evidence.from_published(left_out) == []


@pytest.mark.parametrize(
    ("name", "operation", "guessed"),
    [
        ("ResNet-50 v1.5", "cnn", False),
        ("resnet18", "cnn", False),
        ("bert_large_squad", "transformer", False),
        ("bert-base-uncased", "transformer", True),
        ("gpt3-xl", "transformer", True),
        ("stable_dreams", "other", True),
        ("t5_encoder", "transformer", True),
        ("google/t5-base", "transformer", True),
        ("vit_l_16", "transformer", True),
        ("darknet53", "other", True),
        ("resnest50", "other", True),
        ("sknet50", "other", True),
    ],
)
def test_names_are_matched_by_pattern_and_strangers_are_a_guess(name, operation, guessed):
    found = one(workload=name)
    assert (found.operation, found.guessed) == (operation, guessed)


def test_a_guess_is_less_sure():
    sure, guess = one(), one(workload="stable_dreams")
    assert SHIPPED.efficiencies.noise_of(guess) > SHIPPED.efficiencies.noise_of(sure)


def test_tokens_are_read_from_the_weights():
    token = one(workload="llama2_7b_decode256", mode="infer", unit="tokens/s", precision="q4_0")
    assert token.operation == "decode"
    assert token.work.bytes == pytest.approx(7e9 * 4.5 / 8)
    half = one(workload="llama2_7b_decode256", mode="infer", unit="tokens/s", precision="fp16")
    assert half.work.bytes == pytest.approx(14e9)


def test_tf32_is_the_same_program_as_fp32_and_mixed_precision_another():
    ampere = one(card_id="nvidia-a10", precision="tf32")
    assert ampere.series == one(precision="fp32").series
    assert ampere.precision == "tf32"
    assert one(precision="amp").series != ampere.series
    assert one(precision="bf16").precision == "fp32"  # a T4 has none


# data that is made --------------------------------------------------------------------------------


def test_the_networks_are_what_their_script_computes():
    script = ROOT / "benchmarks" / "network_work.py"
    assert subprocess.run([sys.executable, script, "--check"]).returncode == 0


# Parameters in millions and multiply-adds in billions: torchvision's documentation of its models'
# weights; Inception-v4: Bianco et al. 2018 (arXiv:1810.00736); ViT: timm's results.
KNOWN = {
    "resnet50": (25.557, 4.09),
    "resnet152": (60.193, 11.51),
    "vgg16": (138.358, 15.47),
    "alexnet": (61.101, 0.71),
    "mobilenet_v2": (3.505, 0.30),
    "densenet121": (7.979, 2.83),
    "wide_resnet50_2": (68.883, 11.4),
    "inception4": (42.68, 12.3),
    "vit_base": (86.57, 17.58),
    "vit_small": (22.05, 4.61),
}


@pytest.mark.parametrize("name", KNOWN)
def test_networks_have_the_sizes_that_are_known_of_them(name):
    network = next(net for net in evidence.networks() if net.name == name)
    parameters, multiply_adds = KNOWN[name]
    assert network.parameters / 1e6 == pytest.approx(parameters, rel=0.001)
    assert network.flops / 2e9 == pytest.approx(multiply_adds, rel=0.01)


def test_what_is_shipped_is_what_the_published_results_teach():
    fresh = efficiency.fit(evidence.from_published(published())).shared()
    kept = SHIPPED.efficiencies
    assert dict(kept.index) == dict(fresh.index)
    assert kept.mean == pytest.approx(fresh.mean, abs=1e-4)
    assert kept.covariance == pytest.approx(fresh.covariance, abs=1e-4)
    assert kept.noise == pytest.approx(fresh.noise, rel=1e-3)


def test_the_page_says_what_the_validation_found():
    page = (ROOT / "docs" / "prediction.md").read_text()
    found = json.loads((ROOT / "docs" / "prediction.json").read_text())
    for name, group in found["summaries"].items():
        model = group["model"]
        cells = [name, f"{group['results']} / {group['cards']}"]
        cells += [f"{100 * model[key]:.1f} %" for key in ("median", "p90")]
        assert f"| {' | '.join(cells)} |" in page
    for name, source in found["strangers"].items():
        assert f"| {name} | {source['results']} / {source['cards']} | " in page
        assert f"{100 * source['told_median']:.1f} %" in page


def test_over_all_results_the_model_is_ahead_of_each_baseline_and_its_interval_holds():
    """Of the committed validation: the gate that a worse model would trip when it is made again."""
    found = json.loads((ROOT / "docs" / "prediction.json").read_text())["summaries"]
    for family in ("all", "cnn", "gemm", "transformer"):
        medians = {
            name: found[family][name]["median"] for name in ("peak", "bandwidth", "roofline")
        }
        assert found[family]["model"]["median"] < min(medians.values())
    assert 0.75 <= found["all"]["coverage"] <= 0.85


# the command --------------------------------------------------------------------------------------


def predict(capsys, *words):
    status = cli.main(["predict", *words])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_command_models_every_case_of_a_suite(capsys):
    status, out, err = predict(capsys, "tesla-t4", "nvidia-h200-sxm", "--format", "json")
    rows = json.loads(out)["rows"]
    assert status == 0
    assert len(rows) == 2 * len(load_suite("quick").cases)
    assert {row["provenance"] for row in rows} == {"modelled"}
    assert "modelled, not measured" in err
    for row in rows:
        if row["status"] == "ok":
            assert 0 < row["low_s"] < row["seconds"] < row["high_s"]
            assert row["rate"] > 0
        else:
            assert row["seconds"] is None
            assert row["reason"]
    unsupported = {r["precision"] for r in rows if r["status"] == "unsupported"}
    assert unsupported == {"tf32", "bf16"}


def test_a_case_that_does_not_fit_has_no_time(capsys):
    suite = ("--suite", "full", "--only", "bert*large*32*512*")
    _, out, _ = predict(capsys, "geforce-gtx-1060-6gb", *suite, "--format", "json")
    rows = json.loads(out)["rows"]
    assert {row["status"] for row in rows} <= {"oom", "unsupported"}
    assert any("GiB" in row["reason"] for row in rows)
    _, out, _ = predict(capsys, "nvidia-h200-sxm", *suite, "--format", "json")
    assert {row["status"] for row in json.loads(out)["rows"]} == {"ok"}


@pytest.mark.parametrize(("beyond", "fits"), [(0, True), (1, False)])
def test_a_case_fits_what_recommend_counts_as_usable(beyond, fits):
    """To the byte: the card's memory less what its driver keeps back and CUDA's context takes."""
    card, case = get_card("tesla-t4"), load_suite("quick").cases[0]
    work = Work(flops=1e9, footprint=card.usable_bytes - CONTEXT_BYTES + beyond)
    assert modelled._row(card, case, work, SHIPPED)["fits_memory"] is fits


def test_people_see_that_it_is_modelled(capsys):
    for form in ("table", "markdown"):
        _, out, _ = predict(capsys, "tesla-t4", "--only", "gemm", "--format", form)
        body = [line for line in out.splitlines() if "T4" in line]
        assert body
        assert all("(modelled)" in line for line in body)
    _, out, _ = predict(capsys, "tesla-t4", "--only", "gemm", "--format", "csv")
    assert all(row["provenance"] == "modelled" for row in csv.DictReader(out.splitlines()))


def test_a_card_may_be_named_and_its_rows_have_its_id_once(capsys):
    words = ("--only", "gemm", "--format", "csv")
    _, out, _ = predict(capsys, "T4", "tesla-t4", "NVIDIA T4", *words)
    assert out == predict(capsys, "tesla-t4", *words)[1]
    assert "tesla-t4" in out


def test_an_unknown_card_is_the_usual_mistake(capsys):
    status, _, err = predict(capsys, "tesla-t5")
    assert status == 2
    assert "no card is named 'tesla-t5'" in err
    assert "did you mean 'tesla-t4'" in err


def test_results_that_teach_nothing_are_said_to(capsys):
    status, _, err = predict(
        capsys, "tesla-t4", "--only", "gemm", "--results", str(ROOT / "results/cpu-quick-1.parquet")
    )
    assert status == 0
    assert "nothing in these results" in err


def test_rates_are_those_of_measured_rows():
    from gpubench import table

    for work in (Work(1e9, 1e6), Work(1e6, 1e6), Work(1e9, 1e6, 32, "image"), Work(0, 1e6)):
        row = {
            "items": math.nan if work.items is None else work.items,
            "item": work.item,
            "flops": work.flops,
            "bytes": work.bytes,
            "items_per_s": (work.items or math.nan) / 0.5,
            "flops_per_s": work.flops / 0.5,
            "bytes_per_s": work.bytes / 0.5,
        }
        assert modelled._rate(work, 0.5) == table.throughput(row)


def test_predicting_needs_no_heavy_library():
    code = (
        "import sys\nfrom gpubench.cli import main\nmain(['predict', 'tesla-t4'])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"torch", "pandas", "plotly", "pyarrow", "scipy", "transformers"}


@settings(max_examples=25)
@given(st.sampled_from(CARDS))
def test_every_card_of_the_catalogue_gets_an_answer(card_id):
    rows = modelled.rows([get_card(card_id)], load_suite("quick").select(["gemm"]), SHIPPED)
    assert any(row["status"] == "ok" for row in rows)
    assert modelled.text(rows, "table")
