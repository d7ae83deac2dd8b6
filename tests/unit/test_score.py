"""The selection score: what may move it, what may not, and who may win."""

import datetime as dt
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpubench import rates, score, sensitivity
from gpubench.cards import GIB, catalogue, get_card
from gpubench.estimate import REACH80, Estimate, geometric_mean, product
from gpubench.profile import PARTS, load_profile
from gpubench.rates import CARD_SPREAD, measurements
from gpubench.score import Candidate, Needs
from gpubench.workload import format_value, parse_case_id

CASES = {"first": 3.0, "second": 1.0, "third": 2.0}
AMOUNT = st.floats(1e-3, 1e3)
DEVIATION = st.floats(0, 0.5)


@st.composite
def candidates(draw, names=("a", "b", "c", "d"), least=2):
    """Cards that know everything, with noise of their own and errors that they share."""
    found = []
    for name in names[: draw(st.integers(least, len(names)))]:
        rates = {
            case: Estimate.of(
                draw(AMOUNT), {f"own {name} {case}": draw(DEVIATION), "shared": draw(DEVIATION)}
            )
            for case in CASES
        }
        found.append(
            Candidate(
                name=name,
                rates=rates,
                watts={case: Estimate.of(draw(AMOUNT)) for case in CASES},
                memory_bytes=draw(AMOUNT) * GIB,
                usable_bytes=draw(AMOUNT) * GIB,
                bandwidth=draw(AMOUNT),
                price_usd=draw(AMOUNT),
                capability=draw(st.sampled_from([(6, 1), (7, 5), (8, 6), (9, 0)])),
            )
        )
    return found


@st.composite
def weights(draw):
    shares = {part: draw(st.integers(0, 10)) for part in PARTS}
    assume(any(shares.values()))
    return {part: share / sum(shares.values()) for part, share in shares.items()}


def order(ranking):
    """Names from the best, without those between which only rounding decides."""
    first = ranking.scored[0].total.log
    return [(one.name, round(one.total.log - first, 9)) for one in ranking.scored]


# estimates -------------------------------------------------------------------------------------


def test_what_two_numbers_share_cancels_in_their_ratio_and_the_rest_adds_in_squares():
    one = Estimate.of(6.0, {"level": 0.5, "one": 0.3})
    other = Estimate.of(2.0, {"level": 0.5, "other": 0.4})
    assert (one / other).value == pytest.approx(3)
    assert (one / other).deviation == pytest.approx(0.5)
    assert (one / other).high == pytest.approx(3 * math.exp(REACH80 * 0.5))
    assert (one * other).deviation == pytest.approx(math.hypot(1.0, 0.3, 0.4))
    assert (one / one).deviation == 0


@given(st.lists(st.tuples(AMOUNT, st.floats(0.1, 10)), min_size=1, max_size=6), AMOUNT)
def test_a_geometric_mean_scales_with_its_terms(pairs, factor):
    terms = [(Estimate.of(value), weight) for value, weight in pairs]
    scaled = [(Estimate.of(value * factor), weight) for value, weight in pairs]
    assert geometric_mean(scaled).value == pytest.approx(geometric_mean(terms).value * factor)


def test_an_end_beyond_all_numbers_is_infinite_rather_than_an_error():
    assert Estimate(1e6).value == math.inf
    assert product([]).value == 1


# what may not matter ---------------------------------------------------------------------------


@given(candidates(), weights(), st.sampled_from(sorted(CASES)), AMOUNT)
def test_the_unit_of_a_case_or_a_price_does_not_matter(cards, shares, case, factor):
    def in_other_units(card):
        rates = {**card.rates, case: card.rates[case] * Estimate.of(factor)}
        return replace(card, rates=rates, price_usd=card.price_usd * factor)

    before = score.rank(cards, cards[0], shares, CASES)
    others = [in_other_units(card) for card in cards]
    after = score.rank(others, others[0], shares, CASES)
    assert order(before) == order(after)
    for one, other in zip(before.scored, after.scored, strict=True):
        assert one.total.log == pytest.approx(other.total.log, abs=1e-9)


@given(candidates(), weights(), st.data())
def test_the_reference_moves_all_scores_alike_and_no_tie(cards, shares, data):
    first, second = (data.draw(st.sampled_from(cards)) for _ in range(2))
    before = score.rank(cards, first, shares, CASES)
    after = score.rank(cards, second, shares, CASES)
    assert order(before) == order(after)
    for one, other in zip(before.scored[1:], after.scored[1:], strict=True):
        ratios = [
            (winner.total / rival.total)
            for winner, rival in ((before.scored[0], one), (after.scored[0], other))
        ]
        assert ratios[0].deviation == pytest.approx(ratios[1].deviation, abs=1e-9)


@given(candidates(least=3), weights(), st.randoms(), st.booleans(), AMOUNT)
def test_the_order_of_the_rows_does_not_matter(cards, shares, random, equal, limit):
    """Neither where several are equal, nor in what is left out."""
    if equal:
        cards = [replace(cards[0], name=card.name) for card in cards]
    shuffled = list(cards)
    random.shuffle(shuffled)
    needs = Needs(price_limit=limit)
    assert score.rank(cards, cards[0], shares, CASES, needs) == score.rank(
        shuffled, cards[0], shares, CASES, needs
    )


def test_the_reference_has_100_of_everything_and_is_sure_of_it():
    card = candidate("x", 5.0)
    one = score.score(card, card, dict.fromkeys(PARTS, 0.2), CASES)
    assert {part: round(one.parts[part].value, 9) for part in PARTS} == dict.fromkeys(PARTS, 100.0)
    assert (one.total.low, one.total.high) == pytest.approx((100, 100))


# what has to matter ----------------------------------------------------------------------------


BETTER = {
    "rates": lambda card, factor: {
        "rates": {name: rate * Estimate.of(factor) for name, rate in card.rates.items()}
    },
    "one rate": lambda card, factor: {
        "rates": {**card.rates, "second": card.rates["second"] * Estimate.of(factor)}
    },
    "watts": lambda card, factor: {
        "watts": {name: watt / Estimate.of(factor) for name, watt in card.watts.items()}
    },
    "memory": lambda card, factor: {"memory_bytes": card.memory_bytes * factor},
    "bandwidth": lambda card, factor: {"bandwidth": card.bandwidth * factor},
    "price": lambda card, factor: {"price_usd": card.price_usd / factor},
}
COUNTS_IN = {
    "rates": {"performance", "efficiency", "value"},
    "one rate": {"performance", "efficiency", "value"},
    "watts": {"efficiency"},
    "memory": {"memory"},
    "bandwidth": {"bandwidth"},
    "price": {"value"},
}


@pytest.mark.parametrize("what", BETTER)
@given(candidates(), weights(), st.floats(1.01, 100))
def test_more_of_anything_good_raises_the_score_if_it_weighs_and_never_lowers_it(
    what, cards, shares, factor
):
    improved = replace(cards[1], **BETTER[what](cards[1], factor))
    before, after = (score.score(card, cards[0], shares, CASES) for card in (cards[1], improved))
    if any(shares[part] for part in COUNTS_IN[what]):
        assert after.total.log > before.total.log
    else:
        assert after.total.log == pytest.approx(before.total.log, abs=1e-9)


@given(candidates(), weights(), st.sampled_from(sorted(CASES)))
def test_a_missing_case_leaves_no_score_and_says_so(cards, shares, case):
    rates = {name: rate for name, rate in cards[1].rates.items() if name != case}
    lacking = replace(cards[1], rates=rates, gaps={case: "oom: too large"})
    one = score.score(lacking, cards[0], shares, CASES)
    assert one.total is None
    assert (one.present, one.cases) == (2, 3)
    assert one.gaps == {case: "oom: too large"}
    assert not {"performance", "efficiency", "value"} & set(one.parts)
    ranking = score.rank([cards[0], lacking], cards[0], shares, CASES)
    assert [found.name for found in ranking.scored] == [cards[0].name]
    unsaid = replace(lacking, gaps={})
    (_, (bar,)), *_ = score.rank([unsaid], cards[0], shares, CASES).barred
    assert bar.kind == "case"
    assert "2 of 3 cases" in bar.reason
    assert case in bar.reason


# gates -----------------------------------------------------------------------------------------


@given(
    candidates(least=3),
    weights(),
    st.builds(
        Needs,
        memory_bytes=AMOUNT.map(lambda size: size * GIB),
        card_bytes=AMOUNT.map(lambda size: size * GIB),
        precisions=st.sampled_from([(), ("bf16",), ("fp8",), ("fp16", "tf32")]),
        price_limit=st.none() | AMOUNT,
    ),
)
def test_a_card_that_fails_a_gate_is_never_ranked_however_good(cards, shares, needs):
    best = replace(
        cards[0], rates={name: rate * Estimate.of(1e6) for name, rate in cards[0].rates.items()}
    )
    ranking = score.rank([best, *cards[1:]], cards[1], shares, CASES, needs)
    ranked = {one.name: one.candidate for one in (*ranking.scored, *ranking.apart)}
    for card in ranked.values():
        assert card.usable_bytes >= needs.memory_bytes
        assert card.memory_bytes >= needs.card_bytes
        assert needs.price_limit is None or card.price_usd <= needs.price_limit
        assert "fp8" not in needs.precisions or card.capability >= (8, 9)
        assert "bf16" not in needs.precisions or card.capability >= (8, 0)
    assert ranked.keys() | {card.name for card, _ in ranking.barred} == {c.name for c in cards}
    assert all(bars for _, bars in ranking.barred)


def candidate(name="x", rate=1.0, **known):
    facts = {
        "watts": dict.fromkeys(CASES, Estimate.of(100.0)),
        "memory_bytes": 8.0 * GIB,
        "usable_bytes": 7.8 * GIB,
        "bandwidth": 1e9,
        "price_usd": 500.0,
        "capability": (7, 5),
    }
    rates = {case: Estimate.of(rate, {f"own {name}": 0.05}) for case in CASES}
    return Candidate(**({"name": name, "rates": rates} | facts | known))


@pytest.mark.parametrize(
    ("needs", "known", "kind", "words"),
    [
        (Needs(memory_bytes=10 * GIB), {}, "memory", "needs 10.0 GiB, has 7.8 GiB usable"),
        (Needs(memory_bytes=1), {"usable_bytes": None}, "memory", "unknown memory"),
        (Needs(card_bytes=12 * GIB), {}, "memory", "is 8 GiB, wanted are 12 GiB"),
        (Needs(precisions=("bf16",)), {}, "precision", "bf16 begins with Ampere"),
        (Needs(precisions=("fp32",)), {"capability": None}, "precision", "fp32 is unknown"),
        (Needs(price_limit=400), {}, "price", "costs $500, the limit is $400"),
        (
            Needs(price_limit=400),
            {"price_usd": None},
            "price",
            "no known price to hold against the limit of $400",
        ),
        (Needs(), {"gaps": {"first": "wrong: off by 2"}}, "case", "wrong: off by 2"),
    ],
)
def test_each_gate_gives_its_reason_with_numbers_and_the_unknown_does_not_pass(
    needs, known, kind, words
):
    (bar,) = score.bars(candidate(**known), needs)
    assert bar.kind == kind
    assert words in bar.reason


def test_what_just_meets_a_gate_passes():
    needs = Needs(7.8 * GIB, 8 * GIB, ("fp16",), 500.0)
    assert score.bars(candidate(), needs) == ()


# ties, fronts, missing prices ------------------------------------------------------------------


def test_a_tie_is_of_the_ratio_and_so_it_is_not_passed_on():
    """Of three cards a little apart the middle one ties with both, the outer two do not."""
    cards = [
        replace(candidate(name), rates={case: Estimate.of(rate, {name: 0.05}) for case in CASES})
        for name, rate in (("low", 0.94), ("middle", 1.0), ("high", 1.06))
    ]
    only_speed = {"performance": 1.0}
    ranking = score.rank(cards, cards[0], only_speed, CASES)
    assert [one.name for one in ranking.as_good] == ["high", "middle"]
    without_best = score.rank(cards[:2], cards[0], only_speed, CASES)
    assert [one.name for one in without_best.as_good] == ["middle", "low"]


def test_an_error_that_all_share_makes_no_tie():
    shared = {"level of the model": 2.0}
    cards = [
        replace(candidate(name), rates={case: Estimate.of(rate, shared) for case in CASES})
        for name, rate in (("slow", 1.0), ("fast", 1.1))
    ]
    ranking = score.rank(cards, candidate("other"), {"performance": 1.0}, CASES)
    fast, slow = (one.total for one in ranking.scored)
    assert fast.low < slow.high  # each interval alone holds the other's score
    assert [one.name for one in ranking.as_good] == ["fast"]


@given(candidates(least=3), weights())
def test_a_missing_price_neither_wins_nor_loses_it_stands_apart(cards, shares):
    assume(shares["value"] < 1)
    unpriced = replace(cards[0], price_usd=None)
    ranking = score.rank([unpriced, *cards[1:]], cards[1], shares, CASES)
    if shares["value"]:
        assert [one.name for one in ranking.apart] == [unpriced.name]
        assert ranking.apart[0].without == ("value",)
        assert unpriced.name not in {one.name for one in ranking.scored}
        if ranking.apart[0].total is not None:
            with pytest.raises(ValueError, match="different parts"):
                score.clearly_better(ranking.scored[0], ranking.apart[0])
    else:
        assert ranking.apart == ()
        assert len(ranking.scored) == len(cards)


def test_those_that_stand_apart_are_in_their_own_order_the_best_first():
    unpriced = [candidate(name, rate, price_usd=None) for name, rate in (("x", 1.0), ("y", 2.0))]
    ranking = score.rank(
        [candidate("z"), *unpriced],
        candidate("z"),
        {"value": 1, "memory": 1, "performance": 1},
        CASES,
    )
    assert [one.name for one in ranking.scored] == ["z"]
    assert [one.name for one in ranking.apart] == ["y", "x"]


def test_where_only_the_price_weighs_a_card_without_one_is_out_with_that_reason():
    cards = [candidate("x", price_usd=None), candidate("y")]
    ranking = score.rank(cards, cards[1], {"value": 1.0}, CASES)
    assert [one.name for one in ranking.scored] == ["y"]
    assert ranking.apart == ()
    ((barred, (bar,)),) = ranking.barred
    assert barred.name == "x"
    assert "nothing that is weighed is known of it: value" in bar.reason


def test_where_no_card_has_a_price_all_are_ranked_without():
    cards = [candidate(name, rate, price_usd=None) for name, rate in (("x", 1.0), ("y", 2.0))]
    ranking = score.rank(cards, candidate("z"), dict.fromkeys(PARTS, 0.2), CASES)
    assert [one.name for one in ranking.scored] == ["y", "x"]
    assert ranking.scored[0].without == ("value",)


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),  # so few that some are equal
        min_size=1,
        max_size=8,
    )
)
def test_the_front_is_who_no_other_beats_and_it_is_never_empty(points):
    front = score.front(points)
    assert front
    for name, (gain, cost) in points.items():
        beaten = any(
            (other[0] >= gain and other[1] < cost) or (other[0] > gain and other[1] <= cost)
            for other in points.values()
        )
        assert (name in front) is not beaten


# rows ------------------------------------------------------------------------------------------


BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def row(card_id="geforce-rtx-3090", case="first", seconds=0.1, **known):
    card = catalogue().get(card_id)
    return {
        "card_id": card_id,
        "card": card.name if card else card_id,
        "case_id": case,
        "cache": "cold",
        "workload_version": 1,
        "workload_hash": "abc",
        "timer": "cuda_event",
        "cold_by": "rotation",
        "provenance": "measured",
        "status": "ok",
        "reason": None,
        "flags": [],
        "median_s": seconds,
        "low_s": seconds * 0.99,
        "high_s": seconds * 1.01,
        "torch": "2.9",
        "driver": "580",
        "trial": 1,
        "run_id": "one",
        "started_at": BEGIN,
        "energy_j": None,
        "device_uuid_hash": "uuid",
    } | known


def only(rows, cases=CASES):
    (found,) = measurements(rows, cases)
    return found


@pytest.mark.parametrize("status", ["failed", "wrong", "oom", "timeout", "crashed"])
def test_one_failed_trial_leaves_the_case_without_a_number_whatever_the_others_gave(status):
    bad = row(status=status, reason="because", median_s=math.nan, trial=2)
    for rows in ([row(), bad], [bad, row()]):
        found = only(rows)
        assert found.rates == {}
        assert found.gaps == {"first": f"{status}: because"}


def test_a_rate_above_the_peak_never_enters():
    found = only([row(), row(trial=2, flags=["above_peak"], seconds=1e-9)])
    assert found.rates == {}
    assert "above_peak" in found.gaps["first"]


@pytest.mark.parametrize(
    "provenance", ["virtual", "published", "modelled", None, "of some other kind"]
)
def test_rows_of_other_origins_are_not_there_at_all(provenance):
    assert measurements([row(provenance=provenance)], CASES) == []
    found = only([row(), row(provenance=provenance, seconds=1e-6)])
    assert found.rates["first"].value == pytest.approx(10)


def test_what_the_card_does_not_support_is_a_gap_unless_it_was_measured_after_all():
    lacks = row(status="unsupported", reason="no bf16", median_s=math.nan)
    assert only([lacks]).gaps == {"first": "unsupported: no bf16"}
    assert only([lacks, row(trial=2)]).rates["first"].value == pytest.approx(10)


def test_only_like_is_set_against_like():
    other = "geforce-rtx-4090"
    rows = [row(), row(workload_hash="old", seconds=0.01), row(other), row("tesla-t4", cache="hot")]
    found = {one.card_id: one for one in measurements(rows, CASES)}
    assert found["geforce-rtx-3090"].rates["first"].value == pytest.approx(10)
    assert "variant" in found["tesla-t4"].gaps["first"]


def test_the_newest_software_of_a_card_counts_and_is_not_pooled_with_older():
    later = BEGIN + dt.timedelta(days=1)
    rows = [row(), row(torch="2.10", seconds=0.05, started_at=later)]
    for given_rows in (rows, rows[::-1]):
        assert only(given_rows).rates["first"].value == pytest.approx(20)


def test_one_card_is_one_specimen_and_several_say_more_of_their_kind():
    def spread(rows):
        errors = only(rows).rates["first"].errors
        return errors["specimen geforce-rtx-3090"]

    assert spread([row(), row(trial=2)]) == pytest.approx(CARD_SPREAD)
    four = [row(device_uuid_hash=str(number)) for number in range(4)]
    assert spread(four) == pytest.approx(CARD_SPREAD / 2)


def test_the_mean_difference_of_two_specimens_is_the_published_eight_per_cent():
    assert 2 / math.sqrt(math.pi) * CARD_SPREAD == pytest.approx(0.08)


def test_the_noise_of_a_rate_is_that_between_processes_where_there_are_several():
    name = "noise geforce-rtx-3090 first"
    one = only([row()]).rates["first"].errors[name]
    assert one == pytest.approx(0.0051, rel=0.01)  # ±1 % at 95 % is 0.51 % a deviation
    several = [row(trial=trial, seconds=0.1 * factor) for trial, factor in enumerate((0.9, 1, 1.1))]
    assert only(several).rates["first"].errors[name] > 5 * one


# result files ----------------------------------------------------------------------------------


def card_rows(card_id, profile, factor=1.0, skip=(), **known):
    return [
        row(card_id, case, (place + 1) * 1e-3 / factor, **(declared(case) | known))
        for place, case in enumerate(profile.cases)
        if case not in skip
    ]


def declared(case_id):
    """What a row of a case says of it."""
    workload, params = parse_case_id(case_id)
    work = workload.work(params)
    texts = {name: format_value(value) for name, value in params.items()}
    return {"workload": workload.name, "params": texts, "flops": work.flops, "bytes": work.bytes}


def test_scores_of_result_files_are_relative_to_the_reference_where_it_was_measured():
    profile = load_profile("balanced")
    rows = card_rows("geforce-rtx-4090", profile, 2.0) + card_rows("geforce-rtx-3090", profile)
    results = score.of_results(rows, profile)
    assert results.comparable
    assert results.reference == "geforce-rtx-3090"
    best, reference = results.ranking.scored
    assert best.name == "geforce-rtx-4090"
    assert best.parts["performance"].value == pytest.approx(200)
    assert best.parts["value"].value == pytest.approx(200 * 1499 / 1599)
    assert reference.total.value == pytest.approx(100)
    without = score.of_results(card_rows("tesla-t4", profile) + rows[:1], profile)
    assert without.reference == "tesla-t4"


def test_a_card_without_all_cases_has_no_score_and_says_how_many_it_has():
    profile = load_profile("balanced")
    skipped = list(profile.cases)[:2]
    rows = card_rows("geforce-rtx-3090", profile)
    rows += card_rows("geforce-rtx-4090", profile, 9.0, skip=skipped)
    results = score.of_results(rows, profile)
    assert not results.comparable
    (lacking,) = results.incomplete
    assert lacking.total is None
    assert (lacking.present, lacking.cases) == (8, 10)
    assert set(lacking.gaps) == set(skipped)
    nobody = score.of_results(rows[:3], profile)
    assert nobody.reference is None
    assert nobody.incomplete[0].present == 3


@pytest.mark.parametrize("provenance", ["virtual", "modelled"])
def test_rows_that_were_not_measured_have_no_score(provenance):
    """A stranger's file may call its rows anything."""
    profile = load_profile("balanced")
    rows = card_rows("geforce-rtx-3090", profile, provenance=provenance)
    assert score.of_results(rows, profile).found == []


def test_measured_energy_takes_the_place_of_board_power():
    profile = load_profile("balanced")
    rows = card_rows("geforce-rtx-3090", profile)
    plain = card_rows("rtx-a6000", profile)
    frugal = [one | {"energy_j": 100.0 * one["median_s"]} for one in plain]
    results = score.of_results(rows + frugal, profile)
    found = {one.name: one for one in results.ranking.scored}
    assert found["rtx-a6000"].parts["efficiency"].value == pytest.approx(100 * 350 / 100)
    # board power against what was read is unsure; against another board power it is not
    alike = score.of_results(rows + plain, profile)
    surer = next(one for one in alike.ranking.scored if one.name.startswith("rtx-a6000"))
    assert surer.parts["efficiency"].deviation < found["rtx-a6000"].parts["efficiency"].deviation


def test_the_draw_of_each_case_weighs_as_the_case_does():
    drawn = {"first": 100.0, "second": 200.0, "third": 800.0}
    card = candidate(watts={case: Estimate.of(watts) for case, watts in drawn.items()})
    one = score.score(card, candidate(), {"efficiency": 1.0}, CASES)
    mean = (100**3 * 200 * 800**2) ** (1 / 6)  # by the weights of CASES
    assert one.parts["efficiency"].value == pytest.approx(100 * 100 / mean)


def test_how_far_below_its_boards_power_a_card_draws_is_partly_its_own():
    a, b = (rates.board_power(get_card(name)) for name in ("4090", "5090"))
    assert 0 < (a / b).deviation < a.deviation


def test_equal_cards_have_no_change_that_would_be_printed_as_none():
    cards = [candidate("one"), candidate("two")]
    weights = {"performance": 1.0, "value": 1.0}
    ranking = score.rank(cards, cards[0], weights, CASES)
    assert sensitivity.nearest_weight(ranking, weights) is None
    assert sensitivity.nearest_price(ranking, weights) == []
    # Equal in total from different parts: any other share decides, the present one is none.
    faster = replace(cards[1], rates={c: r * Estimate.of(2.0) for c, r in cards[1].rates.items()})
    dearer = replace(faster, price_usd=4.0 * cards[0].price_usd)
    ranking = score.rank([cards[0], dearer], cards[0], weights, CASES)
    assert ranking.scored[0].total.value == pytest.approx(ranking.scored[1].total.value)
    assert sensitivity.nearest_weight(ranking, weights) is None


def test_devices_that_the_catalogue_lacks_are_ranked_by_performance_alone():
    profile = load_profile("balanced")
    rows = card_rows("cpu-a", profile) + card_rows("cpu-b", profile, 3.0)
    results = score.of_results(rows, profile)
    assert [one.name for one in results.ranking.scored] == ["cpu-b", "cpu-a"]
    assert set(results.ranking.scored[0].parts) == {"performance"}


# the page --------------------------------------------------------------------------------------


def tables(page):
    """The Markdown tables of a page as lists of rows, each a list of cells."""
    lines = [line.strip().strip("|").split("|") for line in page.splitlines() if line[:1] == "|"]
    found = []
    for cells in ([cell.strip() for cell in line] for line in lines):
        if set("".join(cells)) <= set("-: "):
            found.append([])  # the rule below a heading
        elif found:
            found[-1].append(cells)
    return found


def test_the_score_worked_by_hand_is_what_the_code_computes():
    page = (Path(__file__).parents[2] / "docs/score.md").read_text()
    worked = page.split("## One score by hand")[1].split("## How sure")[0]
    given_rows, expected = tables(worked)
    given_rows = [line for line in given_rows if line[1].isdecimal()]  # else the next's heading
    cases = {"first": 3.0, "second": 1.0}
    cards = {
        name: Candidate(
            name=name,
            rates={"first": Estimate.of(float(one)), "second": Estimate.of(float(two))},
            watts=dict.fromkeys(cases, Estimate.of(float(watts))),
            memory_bytes=float(memory),
            bandwidth=float(bandwidth),
            price_usd=float(price),
        )
        for name, one, two, memory, bandwidth, watts, price in given_rows
    }
    shares = dict(zip(PARTS, (4, 2, 1, 1, 2), strict=True))
    assert len(expected) == len(cards) == 3
    for name, *numbers in expected:
        one = score.score(cards[name], cards["reference"], shares, cases)
        found = [*(one.parts[part].value for part in PARTS), one.total.value]
        assert [f"{number:.1f}" for number in found] == numbers
    assert "= 134.4" in worked
