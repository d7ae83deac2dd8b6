"""Recommendations: what an expert agrees with, what stands beside them, what is refused."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench import advice, scaling
from gpubench.cards import GIB, catalogue, get_card
from gpubench.cli import main
from gpubench.errors import UsageError
from gpubench.job import Job, get_model
from gpubench.predict import Predictor
from gpubench.prices import Price
from gpubench.profile import load_profile
from gpubench.recommend import JOB, Question, chosen, needs_of, recommend, steps_of, ways_to_fit
from gpubench.workload import parse_case_id

PROFILES = ("balanced", "training", "finetune", "budget", "efficiency", "inference")
BALANCED = load_profile("balanced")
QLORA = Job(get_model("llama-8b"), "qlora")


def ask(job=None, **known):
    return recommend(Question(**({"profile": BALANCED, "job": job} | known)))


def names(scores):
    return [one.name for one in scores]


def reasons(answer):
    return {card.name: bars for card, bars in answer.ranking.barred}


# an expert agrees ------------------------------------------------------------------------------


def test_8_gib_are_too_few_for_qlora_of_8_billion_and_12_are_tight_and_16_are_enough():
    answer = ask(QLORA, price_limit=1000)
    barred = reasons(answer)
    for small in ("geforce-rtx-4060", "geforce-rtx-3070", "geforce-rtx-4060-ti-8gb"):
        (bar,) = barred[small]
        assert bar.kind == "memory"
        assert "has 7.8 GiB usable" in bar.reason
    rows = {row["card_id"]: row for row in advice.rows(answer)}
    assert rows["geforce-rtx-4070"]["notes"][0].startswith("tight")
    assert rows["geforce-rtx-4060-ti-16gb"]["notes"] == []
    for large in ("geforce-rtx-3090", "geforce-rtx-4090"):
        (bar,) = barred[large]
        assert bar.kind == "price"
        assert "the limit is $1,000" in bar.reason
    assert get_card(answer.ranking.scored[0].name).memory_bytes == 16 * GIB


def test_with_the_price_limit_gone_24_gib_come_first_among_geforce_20_to_40():
    answer = ask(QLORA, cards=("geforce-rtx-[234]*",))
    assert answer.ranking.scored[0].name == "geforce-rtx-4090"


def test_longer_sequences_take_the_12_gib_cards_out():
    passed = names(ask(replace(QLORA, sequence=1024), price_limit=1000).ranking.scored)
    assert "geforce-rtx-4070" not in passed
    assert "geforce-rtx-4060-ti-16gb" in passed


def test_a_faster_card_of_the_same_kind_is_never_behind_when_all_else_is_equal():
    """RTX 4070 SUPER: the 4070's memory, bandwidth and price, and more units."""
    for profile in map(load_profile, PROFILES[:2]):
        order = names(ask(profile=profile).ranking.scored)
        assert order.index("geforce-rtx-4070-super") < order.index("geforce-rtx-4070")


def test_a_precision_that_a_card_emulates_is_a_gate_and_says_what_would_pass():
    answer = ask(Job(get_model("bert-large"), precision="bf16"), cards=("*2080-ti", "*3090"))
    (bar,) = reasons(answer)["geforce-rtx-2080-ti"]
    assert bar.kind == "precision"
    assert "1 of them would pass with --precision fp16" in advice.text(answer, "table", 3)
    assert not reasons(ask(Job(get_model("bert-large"), precision="fp16"), cards=("*2080-ti",)))


def test_cards_of_no_known_price_fail_a_price_limit_and_else_stand_apart():
    answer = ask(cards=("nvidia-a100*", "*4090"))
    assert names(answer.ranking.scored) == ["geforce-rtx-4090"]
    assert set(names(answer.ranking.apart)) == {
        c for c in catalogue() if c.startswith("nvidia-a100")
    }
    said = " ".join(advice.text(answer, "table", 3).split())
    assert "Set apart, not ranked with the others: 4 cards without a known" in said
    limited = ask(cards=("nvidia-a100*", "*4090"), price_limit=5000)
    assert "no known price" in reasons(limited)["nvidia-a100-pcie-40gb"][0].reason
    said = " ".join(advice.text(limited, "table", 3).split())
    assert "4 of them only for want of a known price (" in said
    assert "): --prices FILE can give one" in said
    assert "want of" not in advice.text(ask(cards=("*3090", "*4090"), price_limit=1500), "table", 3)
    alone = ask(cards=("nvidia-a100*",))
    assert len(alone.ranking.scored) == 4
    assert "value does not count" in advice.sentence(alone)


def test_old_cards_say_which_software_still_serves_them_and_prices_when_they_were():
    rows = {row["card_id"]: row for row in advice.rows(ask(cards=("*gtx-10*", "*3090")))}
    assert "cu126" in rows["geforce-gtx-1080-ti"]["notes"][0]
    assert rows["geforce-rtx-3090"]["notes"] == []
    assert advice.price_text(rows["geforce-gtx-1080-ti"]) == "$699, 2017-03"


def test_where_nothing_fits_it_says_the_nearest_ways_and_they_do_fit():
    job = Job(get_model("llama-8b"), "full", batch=4)
    answer = ask(job, cards=("*4090", "*3090"))
    assert answer.ranking.scored == ()
    said = advice.sentence(answer)
    assert "None of 2 cards passes" in said
    assert "--method qlora" in said
    usable = get_card("geforce-rtx-4090").usable_bytes
    ways = ways_to_fit(Question(BALANCED, job, ("*4090", "*3090")))
    assert ways
    assert all(way.need_bytes <= usable for way in ways)
    large = Question(BALANCED, replace(QLORA, batch=8), ("*4090",))
    first = ways_to_fit(large)[0]
    batch = large.job.largest_batch(usable)
    assert 1 < batch < 8
    assert first.question.job.batch == batch
    assert first.counts == -(-8 // batch)
    each = -(-8 // first.counts)
    assert f"--batch {batch}, or --batch {each} with --count {first.counts} " in advice.way_text(
        first, recommend(large)
    )
    assert ways_to_fit(replace(large, price_limit=1600.0))[0].counts is None  # one card's price


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "bert-large", "--head", "lm", "--cards", "1660 super"),
        ("--model", "llama-8b", "--method", "qlora", "--cards", "2080 ti"),
        ("--model", "bert-large", "--head", "lm", "--cards", "1660 super", "--precision", "tf32"),
    ],
)
def test_a_card_short_of_memory_and_precision_learns_of_both_and_what_is_offered_passes(
    words, capsys
):
    status, out, _ = run(capsys, *words)
    said = " ".join(out.split())
    assert status == 0
    assert "1 for too little memory, 1 of these also for a precision not in hardware" in said
    offers = re.search(r"Cards pass with (.*?)\. Excluded", said)[1].split("; or ")
    for offer in offers:
        flags = " ".join(re.findall(r"--[a-z]+(?: (?!with )[a-z0-9]+)?", offer)).split()
        assert "--precision" in flags
        _, out, _ = run(capsys, *words, *flags)
        assert "does not pass" not in out


def test_bert_is_fine_tuned_for_classes_unless_words_are_asked_for(capsys):
    """As the workload `bert` is, which predict says fits 24 GiB."""
    words = ("--model", "bert-large", "--batch", "32", "--seq", "512", "--cards", "*4090")
    _, out, _ = run(capsys, *words)
    assert "with a head of two classes (--head classes)" in " ".join(out.split())
    assert "The one card looked at does not pass" not in out
    _, out, _ = run(capsys, *words, "--head", "lm")
    assert "with a masked-language head (--head lm)" in " ".join(out.split())
    assert "The one card looked at does not pass" in out
    status, _, err = run(capsys, "--model", "llama-8b", "--head", "classes")
    assert status == 2
    assert "no head is named 'classes'" in err
    assert "--head" not in advice.sentence(ask(QLORA))


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["full", "lora", "qlora"]),
    st.sampled_from([1, 2, 8]),
    st.booleans(),
    st.sampled_from([None, 800.0, 3000.0]),
    st.sampled_from([1, 2]),
    st.sampled_from([0.0, 20 * GIB]),
)
def test_each_way_passes_all_gates_when_asked_and_needs_less(
    method, batch, checkpointing, limit, count, least
):
    job = Job(get_model("llama-8b"), method, batch=batch, checkpointing=checkpointing)
    question = Question(
        BALANCED, job, price_limit=limit, card_bytes=least, count=count, cards=("geforce-*",)
    )
    shrunk = [way.question.job.batch for way in ways_to_fit(question)]
    assert sorted(set(shrunk) - {batch}) == [one for one in shrunk if one < batch]
    for way in ways_to_fit(question):
        answer = recommend(way.question)
        assert len(answer.ranking.scored) + len(answer.ranking.apart) == way.passing > 0
        assert way.need_bytes < job.memory().total_bytes
        if batch == 1:
            assert "batch" not in way.said
        if way.counts:
            assert recommend(replace(way.question, count=way.counts)).ranking.scored


def test_full_training_that_few_cards_hold_is_offered_with_cheaper_methods():
    limited = ask(Job(get_model("llama-8b")), price_limit=800)
    said = advice.sentence(limited)
    assert "float32 master weights" in said
    assert "QLoRA (--method qlora)" in said
    assert "batch 1 (--batch" not in said
    assert f"{len(ask(QLORA, price_limit=800).ranking.scored)} cards" in said
    one = ask(Job(get_model("llama-8b")))  # a B200 alone holds it
    assert len(one.ranking.scored) + len(one.ranking.apart) < 3
    assert "More cards pass with" in advice.sentence(one)
    assert not ask(QLORA).ways  # many pass


def test_a_wish_for_memory_that_no_card_has_is_named_as_the_cause():
    answer = ask(QLORA, card_bytes=200 * GIB)
    said = advice.sentence(answer)
    assert "The wish for 200 GiB (--min-memory) is the cause, not the job" in said
    assert f"{len(ask(QLORA).ranking.scored) + len(ask(QLORA).ranking.apart)} cards" in said
    assert "--method" not in said
    assert "--min-memory" not in advice.sentence(ask(Job(get_model("llama-8b")), price_limit=800))


def test_a_rank_beyond_the_models_width_is_refused_for_the_rank():
    with pytest.raises(UsageError, match="rank 99999") as error:
        Job(get_model("llama-8b"), "lora", rank=99_999)
    assert "rank" in error.value.remedy


def test_changes_that_nobody_would_make_are_left_out():
    for name in PROFILES:
        for change in ask(profile=load_profile(name)).changes:
            if change.kind == "price":
                assert 0.4 <= change.after / change.before <= 2.5
            if change.kind == "weight":
                assert change.after <= 0.5


def test_the_answer_says_whose_prices_and_what_100_is_and_how_many_more_there_are():
    answer = ask()
    said = " ".join(advice.text(answer, "table", 3).split())
    assert "prices are launch prices (--prices FILE gives today's)" in said
    assert "a score of 100 is the GeForce RTX 3090" in said
    assert f"{len(answer.ranking.scored) - 3} more with --top {len(answer.ranking.scored)}" in said
    assert "more with --top" not in advice.text(answer, "table", 99)


def test_with_given_prices_100_is_said_to_be_the_reference_at_its_launch_price():
    """Which as a candidate, at the price that was given, is better than 100."""
    prices = {"geforce-rtx-3090": Price(700.0, "", "today.csv")}
    answer = ask(prices=prices, cards=("*3090",))
    assert answer.ranking.scored[0].total.value > 105
    said = advice.sentence(answer)
    assert "a score of 100 is the GeForce RTX 3090 at its launch price of $1,499." in said
    assert "at its launch price" not in advice.sentence(ask(cards=("*3090",)))


def test_of_several_cards_100_is_as_many_of_the_reference():
    cards = ("*h100-sxm5", "*3090")
    said = " ".join(advice.text(ask(count=4, cards=cards), "table", 3).split())
    assert "a score of 100 is 4 × GeForce RTX 3090." in said
    assert "The job is what keeps 4 × GeForce RTX 3090 busy for 24 h" in said
    given = {"nvidia-h100-sxm5": Price(20_000.0, "", "given")}
    said = advice.sentence(ask(count=4, cards=cards, prices=given))
    assert "100 is 4 × GeForce RTX 3090 at its launch price of $1,499 each." in said
    rows = {row["card_id"]: row for row in advice.rows(ask(count=4, cards=cards, prices=given))}
    assert rows["geforce-rtx-3090"]["score"] == pytest.approx(100)
    assert "a score of 100 is the GeForce RTX 3090." in advice.sentence(ask(cards=cards))


def test_nothing_that_passes_is_an_answer_and_no_error(capsys):
    status, out, _ = run(capsys, "--model", "llama-8b", "--price-limit", "10")
    assert status == 0
    assert out.startswith(f"None of {len(catalogue())} cards passes")
    _, out, _ = run(capsys, "--model", "llama-8b", "--cards", "*4090")
    assert out.startswith("The one card looked at does not pass")
    assert not re.search(r"\b1 cards", out)


def test_more_cards_are_said_to_hold_the_whole_job_each():
    said = " ".join(advice.text(ask(QLORA, count=2), "table", 3).split())
    assert "usable on each card" in said
    assert "sharding (FSDP, ZeRO-3) isn't modelled" in said


def test_a_batch_is_each_cards_and_splitting_it_over_the_cards_is_the_first_way():
    """BERT-large, 32 × 512 with logits of every token, is too much for 24 GiB; 16 are not."""
    job = Job(get_model("bert-large"), batch=32, sequence=512, head="lm")
    answer = ask(job, count=2, cards=("*3090", "*4090"))
    said = advice.sentence(answer)
    assert "batch 32 × 512 tokens on each card, 64 a step" in said
    first = answer.ways[0]
    need = replace(job, batch=16).memory().total_bytes / GIB
    assert advice.way_text(first, answer) == (
        f"the batch split over the cards, --batch 16 with --count 2 (32 a step): {need:.1f} GiB, "
        "2 cards"
    )
    assert recommend(first.question).ranking.scored
    second = answer.ways[1]
    batch = second.question.job.batch
    assert 16 < batch < 32
    assert (
        f"--batch {batch} with --count 2 ({2 * batch} a step), or --batch 16 with --count 4 (64 a "
        "step)" in advice.way_text(second, answer)
    )
    alone = ask(job, cards=("*3090",))
    assert "on each card" not in advice.sentence(alone)
    assert "split" not in advice.sentence(alone)


def test_more_cards_do_not_pool_their_memory():
    one, two = (ask(QLORA, count=count) for count in (1, 2))
    assert {n for n, bars in reasons(one).items() if bars[0].kind == "memory"} == {
        n for n, bars in reasons(two).items() if bars[0].kind == "memory"
    }


# cost ------------------------------------------------------------------------------------------


def test_the_cost_of_a_job_is_its_electricity_and_its_share_of_the_price():
    answer = ask(QLORA, cards=("*4090",), tokens=1e9, hours=1000.0, electricity=0.5)
    option = answer.options["geforce-rtx-4090"]
    rate = option.candidate.rates[JOB].value * QLORA.tokens
    hours = 1e9 / rate / 3600
    assert option.hours.value == pytest.approx(hours)
    assert option.electricity_usd == pytest.approx(hours * 0.450 * 0.5)
    assert option.cost_usd == pytest.approx(hours * 0.450 * 0.5 + 1599 * hours / 1000)


@pytest.mark.parametrize("nothing", ["0", "$0", "0.00"])
def test_electricity_may_cost_nothing(nothing, capsys):
    asked = ("--model", "llama-8b", "--method", "qlora", "--cards", "*4090", "*a100-pcie-40gb")
    status, out, _ = run(capsys, *asked, "--electricity", nothing, "--format", "json")
    rows = {row["card_id"]: row for row in json.loads(out)["rows"]}
    assert status == 0
    assert {row["electricity_usd"] for row in rows.values()} == {0}
    row = rows["geforce-rtx-4090"]
    assert row["job_cost_usd"] == pytest.approx(1599 * row["job_hours"] / 8760)
    _, out, _ = run(capsys, *asked, "--electricity", nothing)
    assert "electricity at $0 per kWh" in " ".join(out.split())


def test_steps_and_tokens_of_a_day_are_in_the_answer_and_a_step_is_that_of_all_cards(capsys):
    asked = ("--model", "llama-8b", "--method", "qlora", "--cards", "*4090", "--batch", "2")
    for count in (1, 2):
        words = (*asked, "--count", str(count), "--steps", "1000")
        _, out, _ = run(capsys, *words, "--format", "json")
        (row,) = json.loads(out)["rows"]
        tokens = 2 * 512 * count
        assert row["tokens_per_day"] == pytest.approx(row["steps_per_day"] * tokens)
        assert row["job_hours"] == pytest.approx(24 * 1000 / row["steps_per_day"])
        _, out, _ = run(capsys, *words)
        assert f"The job is {1000 * tokens:,} tokens" in " ".join(out.split())
        heading = next(line for line in out.splitlines() if "takes [80 %]" in line)
        assert re.search(r"takes \[80 %\] +tokens/day", heading)
        assert f"  {row['tokens_per_day'] / 1e6:.0f} M  " in out
    assert "tokens/day" not in run(capsys, "--cards", "*4090")[1]


def test_a_card_without_a_price_shows_its_electricity_alone_and_says_so():
    answer = ask(QLORA, cards=("nvidia-a100-pcie-40gb",))
    electricity = answer.options["nvidia-a100-pcie-40gb"].electricity_usd
    said = advice.text(answer, "table", 1)
    assert f"${electricity:.2f} *" in said
    assert "* electricity alone" in said
    assert "electricity alone" not in advice.text(ask(QLORA, cards=("*4090",)), "table", 1)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("job", [None, QLORA])
def test_the_tables_fit_120_columns_with_every_card_in_them(job, count):
    answer = ask(job, count=count, tokens=1e10)
    widest = max(map(len, advice.tables(answer, 99, "table").splitlines()))
    assert widest <= 120


def test_without_a_job_the_work_is_a_day_of_the_reference():
    option = ask(cards=("*3090",)).options["geforce-rtx-3090"]
    assert option.hours.value == pytest.approx(24)
    assert option.hours.deviation == pytest.approx(0)


# measured --------------------------------------------------------------------------------------


def measured_rows(card_id, factor=1.0, skip=0, **known):
    """Rows as if the card had been measured at the model's level times a factor."""
    steps = steps_of(Question(BALANCED))
    predictor = Predictor.shipped()
    return [
        measured_row(card_id, case, step, predictor, factor) | known
        for case, step in list(steps.items())[skip:]
    ]


def measured_row(card_id, case, step, predictor, factor):
    modelled = predictor.step(
        get_card(card_id),
        step.work,
        step.precision,
        operation=step.operation,
        launches=step.launches,
        case=case,
    )
    workload, _, inside = case.partition(":")
    found, params = parse_case_id(case)
    declared = found.work(params)
    seconds = modelled.seconds / factor
    return {
        "card_id": card_id,
        "card": get_card(card_id).name,
        "workload": workload,
        "case_id": case,
        "params": dict(part.split("=") for part in inside.split(",")),
        "precision": step.precision,
        "cache": "cold",
        "workload_version": 1,
        "workload_hash": "abc",
        "timer": "cuda_event",
        "cold_by": None,
        "provenance": "measured",
        "status": "ok",
        "reason": None,
        "flags": [],
        "median_s": seconds,
        "low_s": seconds * 0.99,
        "high_s": seconds * 1.01,
        "flops": declared.flops,
        "bytes": declared.bytes,
        "items": declared.items,
        "torch": "2.9",
        "driver": "580",
        "trial": 1,
        "run_id": "one",
        "started_at": "2026-01-01",
        "energy_j": None,
        "device_uuid_hash": "uuid",
    }


def test_measured_cases_take_the_place_of_the_model_and_are_counted():
    rows = measured_rows("geforce-rtx-3090", skip=3)
    answer = ask(rows=rows, cards=("*3090", "*4090"))
    found = {row["card_id"]: row for row in advice.rows(answer)}
    assert found["geforce-rtx-3090"]["measured_cases"] == 7
    assert "7 of 10 measured" in found["geforce-rtx-3090"]["provenance"]
    assert found["geforce-rtx-4090"]["provenance"] == "modelled"
    case = rows[0]["case_id"]
    rate = answer.options["geforce-rtx-3090"].candidate.rates[case]
    assert rate.value == pytest.approx(1 / rows[0]["median_s"])


def test_a_draw_that_was_measured_is_what_electricity_is_reckoned_with():
    rows = measured_rows("geforce-rtx-3090")
    read = [row | {"energy_j": 150.0 * row["median_s"]} for row in rows]
    plain, known = (
        ask(rows=one, cards=("*3090",)).options["geforce-rtx-3090"] for one in (rows, read)
    )
    assert (plain.watts, known.watts) == pytest.approx((350, 150))
    assert known.electricity_usd == pytest.approx(plain.electricity_usd * 150 / 350)


def test_what_was_measured_of_one_card_scales_to_several_as_the_model_does():
    rows = measured_rows("geforce-rtx-4090")
    option = ask(rows=rows, cards=("*4090",), count=2).options["geforce-rtx-4090"]
    share, _ = scaling.efficiency(option.card, 2)
    for row in rows:
        rate = option.candidate.rates[row["case_id"]]
        assert rate.value == pytest.approx(2 * share.value / row["median_s"])
        assert share.errors.items() <= rate.errors.items()


def test_a_failed_case_takes_a_card_out_and_is_not_filled_by_the_model():
    rows = measured_rows("geforce-rtx-4090")
    rows[0] |= {"status": "oom", "reason": "out of memory", "median_s": math.nan}
    answer = ask(rows=rows, cards=("*3090", "*4090"))
    assert names(answer.ranking.scored) == ["geforce-rtx-3090"]
    (bar,) = reasons(answer)["geforce-rtx-4090"]
    assert bar.kind == "case"
    assert "oom: out of memory" in bar.reason
    assert rows[0]["case_id"] not in answer.options["geforce-rtx-4090"].candidate.rates


@pytest.mark.parametrize("provenance", ["virtual", "modelled", "published"])
def test_rows_that_were_not_measured_change_nothing(provenance):
    rows = measured_rows("geforce-rtx-3090", 50.0, provenance=provenance)
    plain, fooled = ask(cards=("*3090", "*4090")), ask(rows=rows, cards=("*3090", "*4090"))
    assert names(plain.ranking.scored) == names(fooled.ranking.scored)
    for one, other in zip(plain.ranking.scored, fooled.ranking.scored, strict=True):
        assert one.total.value == pytest.approx(other.total.value)


def test_it_says_how_many_rows_count_and_that_those_of_processors_and_virtual_cards_do_not():
    rows = measured_rows("geforce-rtx-3090")
    rows[0] |= {"status": "oom", "reason": "out of memory", "median_s": math.nan}
    said = " ".join(advice.text(ask(rows=rows, files=2), "table", 3).split())
    assert f"2 result files: {len(rows) - 1} of {len(rows)} rows count" in said
    for useless in ({"card_id": None}, {"provenance": "virtual"}):
        rows = [row | useless for row in measured_rows("geforce-rtx-3090")]
        said = " ".join(advice.text(ask(rows=rows, files=1), "table", 3).split())
        assert "1 result file, no usable rows: processors and simulated cards don't count" in said
    assert "result file" not in advice.text(ask(), "table", 3)


@pytest.mark.parametrize("width", [60, 100, 140])
def test_prose_keeps_to_the_width_and_loses_no_word(width):
    answer = ask(QLORA, price_limit=1000, count=2)
    said, whole = (advice.text(answer, "table", 3, columns) for columns in (width, 10_000))
    assert said.split() == whole.split()
    prose = said.replace(advice.tables(answer, 3, "table").strip("\n"), "")
    assert max(map(len, prose.splitlines())) <= width < max(map(len, whole.splitlines()))


# the command -----------------------------------------------------------------------------------


def run(capsys, *words):
    status = main(["recommend", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_strangers_reason_is_no_line_and_no_markup_of_ours():
    forged = "gone\n\nGeForce RTX 3060 wins ![](http://a/b.png) <img src=x>"
    answer = ask(price_limit=1000)
    barred = [
        (one, [replace(bar, reason=forged) for bar in bars]) for one, bars in answer.ranking.barred
    ]
    answer = replace(answer, ranking=replace(answer.ranking, barred=barred))
    for form in ("table", "markdown"):
        said = advice.text(answer, form, 3, 10_000)
        assert "gone  GeForce RTX 3060 wins" in said
        assert not any(line.startswith("GeForce RTX 3060 wins") for line in said.split("\n"))
    assert "<img" not in said
    assert "![" not in said


def test_json_has_every_card_with_its_reasons_and_the_answer_beside_them(capsys):
    asked = ("--model", "llama-8b", "--method", "qlora", "--format", "json")
    status, out, _ = run(capsys, *asked)
    found = json.loads(out)
    assert status == 0
    assert found["kind"] == "recommendation"
    assert len(found["rows"]) == len(catalogue())
    assert found["answer"]
    assert "memory" in {change["kind"] for change in found["changes"]}
    limited = json.loads(run(capsys, *asked, "--price-limit", "1000")[1])
    assert {change["kind"] for change in limited["changes"]} >= {"weight", "limit", "memory"}
    standings = {row["standing"] for row in found["rows"]}
    assert standings == {"winner", "ranked", "apart", "excluded"}
    for row in found["rows"]:
        assert bool(row["reasons"]) is (row["standing"] == "excluded")
    assert len({tuple(row) for row in found["rows"]}) == 1  # the same keys in every row


def test_what_was_read_of_a_model_of_ones_own_and_its_memory_stand_in_the_answer(tmp_path, capsys):
    folder = tmp_path / "own-model"
    folder.mkdir()
    sizes = {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 8, "intermediate_size": 1408, "vocab_size": 1000}
    (folder / "config.json").write_text(json.dumps(sizes | {"max_position_embeddings": 1024}))
    job = Job(get_model(str(folder / "config.json")), batch=8)
    words = ("--model", str(folder / "config.json"), "--batch", "8")
    _, out, _ = run(capsys, *words)
    said = " ".join(out.split())
    millions = job.parameters / 1e6
    assert f"own-model has {millions:.3g} million parameters (3 layers, 512 wide" in said
    memory = job.memory()
    assert f"most is taken at {memory.moment}, in GiB: " in said
    assert f"activations {memory.parts['activations'] / GIB:.1f}" in said
    assert f"reserve {memory.parts['reserve'] / GIB:.1f}" not in said  # too little to show
    _, out, _ = run(capsys, *words, "--format", "json")
    found = json.loads(out)["job"]
    assert (found["model"], found["parameters"]) == ("own-model", job.parameters)
    sizes = [value for name, value in found.items() if name.endswith("_bytes")]
    assert math.fsum(sizes) == pytest.approx(memory.total_bytes)
    assert len(sizes) == len(memory.parts)
    _, out, _ = run(capsys, "--format", "json")
    assert "job" not in json.loads(out)


def test_the_table_begins_with_the_answer_and_ends_with_the_assumptions(capsys):
    status, out, _ = run(capsys, "--top", "3", "--count", "2", "--price-limit", "3000")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith("2 × ")
    (scores,) = (
        number for number, line in enumerate(lines) if line.startswith("card  ") and "score" in line
    )
    (takes,) = (number for number, line in enumerate(lines) if "takes [80 %]" in line)
    assert all(re.search(r"\$\d,\d{3}, 20\d\d-\d\d", line) for line in lines[takes + 2 : takes + 5])
    assert max(map(len, lines[scores : takes + 5])) <= 120
    assert "launch price" in lines[takes]
    assert "job cost" in lines[takes]
    assert all(
        re.search(r"[\d.]+ h \[[\d.]+, [\d.]+\]", line) for line in lines[takes + 2 : takes + 5]
    )
    assert all(" 2 × " in line for line in lines[takes + 2 : takes + 5])
    for words in ("What would change", "h of use", "never today's", "data parallel"):
        assert words in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "qlora"], "--method says how a model is trained"),
        (["--tokens", "5"], "--tokens says how a model is trained"),
        (["--cards", "rtx-9999"], "no card is named 'rtx-9999'"),
        (["--cards", "*9999*"], "matches no card"),
        (["--profile", "best"], "no profile is named 'best'"),
        (["--prices", "nowhere.csv"], "No such file"),
        (["--model", "llama-9b"], "llama-9b"),
        (["--model", "bert-large", "--seq", "99999"], "sequence"),
        (["nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_what_makes_no_sense_is_refused_in_two_lines(capsys, words, said):
    status, out, err = run(capsys, *words)
    assert status == 2
    assert out == ""
    assert said in err
    assert err.count("\n") == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--price-limit", "0"],
        ["--count", "0"],
        ["--hours", "x"],
        ["--hours", "5e-324"],
        ["--tokens", "1", "--steps", "1"],
        ["--tokens", "1e308"],
        ["--steps", "1e19"],
        ["--min-memory", "1e308"],
        ["--electricity", "nan"],
        ["--electricity", "-1"],
        ["--electricity", "free"],
    ],
)
def test_numbers_that_cannot_be_are_refused(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["recommend", *words])
    assert stop.value.code == 2


def test_it_answers_without_torch_pandas_and_scipy():
    code = (
        "import sys\nfrom gpubench.cli import main\n"
        "main(['recommend', '--model', 'llama-8b', '--method', 'qlora'])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {"torch", "pandas", "scipy", "pyarrow", "plotly", "cupy"}


GOOD = """
reference = "geforce-rtx-3090"
[weights]
performance = 1
value = 1
[cases]
"gemm:shape=4096x4096x4096,precision=bf16" = 1
"""


def test_a_strangers_text_cannot_drive_the_terminal(tmp_path, capsys):
    path = tmp_path / "evil\x1b[31m.csv"
    path.write_text("card_id,price_usd\ngeforce-rtx-4090,1000\n")
    profile = tmp_path / "evil\x1b[31m.toml"
    profile.write_text(GOOD)
    for words in (["--prices", str(path)], ["--profile", str(profile)]):
        status, out, _ = run(capsys, *words)
        assert status == 0
        assert "evil" in out
        assert "\x1b" not in out


def test_needs_of_a_job_are_its_own_and_not_the_profiles():
    finetune = load_profile("finetune")
    needs = needs_of(Question(finetune, QLORA), steps_of(Question(finetune, QLORA)))
    assert needs.memory_bytes == QLORA.memory().total_bytes
    assert needs.card_bytes == 0
    half = replace(QLORA, precision="fp16")  # which the profile's gate, bf16, must not narrow
    assert needs_of(Question(finetune, half), steps_of(Question(finetune, half))).precisions == (
        "fp16",
    )
    own = needs_of(Question(finetune), steps_of(Question(finetune)))
    assert own.card_bytes == 12 * GIB
    assert "bf16" in own.precisions


def test_a_winner_alone_has_no_mark_of_a_tie():
    alone = ask(cards=("*5090", "*1060*"))
    assert len(alone.ranking.as_good) == 1
    said = advice.text(alone, "table", 3)
    assert "≈" not in said
    assert "No other card is within the error." in said
    tied = advice.text(ask(QLORA, cards=("*5080", "*5070-ti")), "table", 3)
    assert tied.count("≈ GeForce") == 4  # two in either table
    assert "≈ marks" in tied
    assert "`gpubench list published`; docs/prediction.md has the errors" in " ".join(tied.split())


def test_the_front_is_explained_and_says_which_unranked_cards_shape_it():
    """An A100 is faster for fewer watts than an RTX 3090, and has no row in the table."""
    alone = ask(cards=("*3090",))
    said = " ".join(advice.text(alone, "table", 3).split())
    assert "front: no other card that passes is as fast for less money (price)" in said
    assert "set apart" not in said
    assert alone.frugal == {"geforce-rtx-3090"}
    both = ask(cards=("*3090", "nvidia-a100-pcie-40gb"))
    assert both.frugal == {"nvidia-a100-pcie-40gb"}
    assert both.cheap == {"geforce-rtx-3090"}
    said = " ".join(advice.text(both, "table", 3).split())
    assert "the 1 card set apart, without a price, count for power alone" in said
    assert "front:" not in advice.text(ask(QLORA, price_limit=10), "table", 3)


def test_the_order_of_ranks_is_that_of_scores_and_ties_are_marked():
    rows = advice.rows(ask())
    ranked = [row for row in rows if row["standing"] in ("winner", "ranked")]
    assert [row["score"] for row in ranked] == sorted((r["score"] for r in ranked), reverse=True)
    for row in ranked:
        assert row["as_good_as_winner"] is (row["of_winner_high"] >= 1)


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        (["RTX 3060"], ["geforce-rtx-3060-12gb"]),
        (["3080", "t4"], ["geforce-rtx-3080-10gb", "geforce-rtx-3080-12gb", "tesla-t4"]),
        (["h100"], ["nvidia-h100-pcie", "nvidia-h100-sxm5"]),
        (["*H100*", "h100"], ["nvidia-h100-pcie", "nvidia-h100-sxm5"]),
    ],
)
def test_cards_are_chosen_by_names_of_which_several_may_be_meant_or_by_globs(patterns, ids):
    assert [card.card_id for card in chosen(patterns)] == ids
