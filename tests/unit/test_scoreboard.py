"""Scores of result files in `compare`, in the report and in the Pareto figure."""

import json
import re

import pytest

from gpubench import scoreboard, store, table
from gpubench.cards import get_card
from gpubench.cli import main
from gpubench.figures import pareto
from gpubench.profile import load_profile
from gpubench.report import render_report
from gpubench.workload import format_value, parse_case_id

BALANCED = load_profile("balanced")
CARDS = {"geforce-rtx-3090": 1.0, "geforce-rtx-4090": 1.7, "nvidia-a10": 0.6}


@pytest.fixture
def write(tmp_path, make_record):
    """A result file of cards that have all cases of a profile, but for what is different."""

    def write(cards=CARDS, different=None, name="results"):
        records = []
        for card_id, speed in cards.items():
            card = get_card(card_id)
            for place, case_id in enumerate(BALANCED.cases):
                workload, params = parse_case_id(case_id)
                work = workload.work(params)
                seconds = (place + 1) / speed  # slow enough to be below every peak
                known = {
                    "run_id": f"run-{card_id}",
                    "card_id": card_id,
                    "card": card.name,
                    "architecture": card.architecture,
                    "workload": workload.name,
                    "case_id": case_id,
                    "params": {name: format_value(value) for name, value in params.items()},
                    "samples_s": [seconds * factor for factor in (0.99, 1.0, 1.01)] * 4,
                    "flops": work.flops,
                    "bytes": work.bytes,
                    "timer": "cuda_event",
                    "backend": "cuda",
                }
                records.append(
                    make_record(**(known | ((different or {}).get((card_id, place), {}))))
                )
        path = tmp_path / f"{name}.parquet"
        store.Writer(path, records)
        return str(path)

    return write


def compare(capsys, *words):
    assert main(["compare", *words]) == 0
    return capsys.readouterr()


def section(page, anchor):
    found = re.search(rf'<section id="{anchor}">.*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def test_compare_ends_with_the_scores_of_cards_that_have_all_cases(write, capsys):
    out, err = compare(capsys, write())
    below = out[out.index("score [80 %]") :]
    lines = [line for line in below.splitlines() if "NVIDIA" in line]
    assert [name for name in ("4090", "3090", "A10") for line in lines if name in line]
    assert lines[0].split()[3] == "4090"
    assert "10 of 10" in lines[0]
    assert "NVIDIA GeForce RTX 4090 leads" in err
    assert "value: ranked apart" in lines[2]  # a data-centre card has no launch price


def test_compare_says_what_is_missing_and_gives_no_number(write, capsys):
    lost = {("geforce-rtx-4090", 0): {"status": "oom", "reason": "too large", "samples_s": None}}
    frame = table.load([write(different=lost)])
    results = scoreboard.read(frame.to_dict("records"), BALANCED)
    rows = {row["card_id"]: row for row in scoreboard.rows_of(results)}
    row = rows["geforce-rtx-4090"]
    assert row["score_text"] is None
    assert row["cases_text"] == "9 of 10"
    assert "oom: too large" in row["detail"]
    assert row["front"] == []


def test_a_comparison_without_the_cases_of_the_profile_has_no_table_of_scores(write, capsys):
    out, err = compare(capsys, write(), "--profile", "inference")
    assert "score [80 %]" not in out
    assert "no card has all 5 cases of profile inference; the most is 1" in err
    found = json.loads(compare(capsys, write(), "--format", "json").out)
    assert found["kind"] == "comparison"


def test_a_recommendation_takes_what_the_files_measured(write, capsys):
    assert main(["recommend", write(), "--format", "json"]) == 0
    rows = {row["card_id"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {rows[card]["provenance"] for card in CARDS} == {"measured"}
    assert rows["geforce-rtx-4080"]["provenance"] == "modelled"
    ratio = rows["geforce-rtx-4090"]["performance"] / rows["geforce-rtx-3090"]["performance"]
    assert ratio == pytest.approx(1.7)


def test_the_report_has_scores_and_a_figure_only_where_there_are_two_cards(write):
    both = render_report(table.load([write()]))
    assert "4090" in section(both, "score")
    assert 'id="data-pareto"' in both
    one = render_report(table.load([write({"geforce-rtx-3090": 1.0}, name="one")]))
    assert section(one, "score") == ""
    assert 'id="data-pareto"' not in one


@pytest.mark.parametrize("provenance", ["virtual", "modelled"])
def test_what_was_not_measured_is_neither_in_the_table_of_scores_nor_in_the_figure(
    provenance, write
):
    places = range(len(BALANCED.cases))
    one = {("geforce-rtx-4090", place): {"provenance": provenance} for place in places}
    frame = table.load([write(different=one)])
    assert "4090" not in section(render_report(frame), "score")
    names = {trace.name for trace in pareto.figure(frame).data if trace.name}
    assert not {name for name in names if "4090" in name}
    every = {(card, place): {"provenance": provenance} for card in CARDS for place in places}
    assert pareto.figure(table.load([write(different=every, name="none")])) is None


def test_the_figure_draws_price_and_power_and_joins_only_the_front(write):
    beaten = {"geforce-rtx-3090-ti": 1.05}  # as many watts as the 4090, for less speed
    drawing = pareto.figure(table.load([write(CARDS | beaten)]))
    titles = [annotation.text for annotation in drawing.layout.annotations]
    assert titles == ["launch price in US dollars", "board power in watts"]
    priced = [trace for trace in drawing.data if trace.xaxis == "x" and trace.mode != "lines"]
    assert {float(trace.x[0]) for trace in priced} == {
        1499,
        1599,
        1999,
    }  # the A10 has no launch price
    (line,) = (trace for trace in drawing.data if trace.xaxis == "x2" and trace.mode == "lines")
    assert [float(x) for x in line.x] == [150, 350, 450]
    assert [round(float(y)) for y in line.y] == [60, 100, 170]


def test_a_strangers_card_name_stays_text(write):
    evil = {"card": "<script>alert(1)</script>\x1b[31m"}
    places = range(len(BALANCED.cases))
    different = {("geforce-rtx-4090", place): evil for place in places}
    frame = table.load([write(different=different)])
    page = render_report(frame)
    assert "<script>alert(1)" not in page
    assert "<script>" not in str(pareto.figure(frame).to_json())
