"""Published ratios stand beside measured ones, labelled and hatched, and change no verdict."""

import csv
import html
import io
import json

import pytest

from gpubench import cli, store, table
from gpubench.beside import beside, measured_like, text
from gpubench.compare import compare
from gpubench.figures import published as drawer
from gpubench.published import published, ratios
from gpubench.report import render_report
from gpubench.series import series_of

CARDS = {
    "rtx-a6000": ("NVIDIA RTX A6000", "Ampere"),
    "tesla-v100-sxm2-32gb": ("Tesla V100-SXM2-32GB", "Volta"),
    "nvidia-a100-sxm4-80gb": ("NVIDIA A100-SXM4-80GB", "Ampere"),
    "geforce-rtx-5080": ("NVIDIA GeForce RTX 5080", "Blackwell"),  # nobody's yet
    "geforce-rtx-4070-ti": ("NVIDIA GeForce RTX 4070 Ti", "Ada"),
    "unlisted-card": ("<b>Some card</b>", "unknown"),
}
FAST, SLOW = "nvidia-a100-sxm4-80gb", "tesla-v100-sxm2-32gb"


def card(card_id, **different):
    name, architecture = CARDS[card_id]
    own = {"card_id": card_id, "card": name, "architecture": architecture, "backend": "cuda"}
    return {"run_id": card_id} | own | different


def gemm(seconds, precision="fp16", **different):
    return {
        "case_id": f"gemm:shape=4096x4096x4096,precision={precision}",
        "params": {"shape": "4096x4096x4096", "precision": precision},
        "samples_s": [seconds] * 6,
        "flops": 2.0 * 4096**3,
    } | different


@pytest.fixture
def load(tmp_path, make_record):
    """The frame of a file of rows."""

    def load(*rows):
        path = tmp_path / "results.parquet"
        path.unlink(missing_ok=True)
        store.Writer(path, [make_record(**row) for row in rows])
        return table.load([str(path)])

    return load


@pytest.fixture
def two_cards(load):
    """Two cards, three trials each, one 2.5 times the other."""

    def two_cards(**different):
        return load(
            *(card(SLOW, trial=n, **different) | gemm(0.010 + n / 1e6) for n in (1, 2, 3)),
            *(card(FAST, trial=n, **different) | gemm(0.004 + n / 1e6) for n in (1, 2, 3)),
        )

    return two_cards


def of_gemm(rows):
    return next(row for row in rows if (row["operation"], row["precision"]) == ("gemm", "fp16"))


# beside a comparison ------------------------------------------------------------------------------


def test_each_published_ratio_of_the_two_cards_is_there_once(two_cards):
    rows = beside(compare(two_cards(), baseline="Tesla"))
    assert len(rows) == len(ratios(FAST, SLOW)) > 3
    for row, ratio in zip(rows, ratios(FAST, SLOW), strict=True):
        assert (row["speedup"], row["source"]) == (ratio.speedup, ratio.family)
        assert (row["provenance"], row["verdict"]) == ("published", None)
        assert row["licence"]
        assert row["source_date"]


def test_what_was_measured_of_the_kind_stands_beside_it_and_only_that(two_cards):
    rows = beside(compare(two_cards(), baseline="Tesla"))
    gemm_row = of_gemm(rows)
    assert gemm_row["measured_speedup"] == pytest.approx(2.5, rel=0.01)
    assert gemm_row["measured_cases"] == 1
    others = [row for row in rows if row is not gemm_row]
    assert {row["measured_speedup"] for row in others} == {None}


def test_the_pair_is_turned_round_with_its_baseline(two_cards):
    frame = two_cards()
    there = of_gemm(beside(compare(frame, baseline="Tesla")))
    back = of_gemm(beside(compare(frame, baseline="NVIDIA A100")))
    assert back["speedup"] == pytest.approx(1 / there["speedup"])
    assert back["measured_speedup"] == pytest.approx(1 / there["measured_speedup"])


def test_simulated_results_are_never_called_measured(two_cards):
    rows = beside(compare(two_cards(provenance="virtual", backend="virtual")))
    assert rows
    assert {row["measured_speedup"] for row in rows} == {None}


def test_automatic_mixed_precision_is_held_against_fp16_and_fp32_against_fp32(load):
    rows = [
        card(own)
        | {"workload": "bert", "case_id": f"bert:precision={precision}", "items": 8.0}
        | {"params": {"precision": precision}, "samples_s": [seconds] * 6, "trial": trial}
        for own, factor in ((SLOW, 2.0), (FAST, 1.0))
        for precision, seconds in (("fp16", factor * 0.01), ("fp32", factor * factor * 0.01))
        for trial in (1, 2, 3)
    ]
    found = beside(compare(load(*rows), baseline="Tesla"))
    bert = [row for row in found if (row["operation"], row["mode"]) == ("transformer", "train")]
    assert {row["precision"] for row in bert} == {"amp", "fp16"}
    assert [row["measured_speedup"] for row in bert] == pytest.approx([2.0] * len(bert))


@pytest.mark.parametrize("other", ["geforce-rtx-5080", "unlisted-card"])
def test_of_cards_that_nobody_set_against_each_other_nothing_is_said(other, load):
    frame = load(*(card(own) | gemm(0.01) for own in (SLOW, other)))
    assert beside(compare(frame)) == []
    assert text([], "table") == ""


def test_the_same_card_twice_is_no_pair(load):
    rows = [card(SLOW, run_id=run) | gemm(0.01) for run in ("one", "two")]
    frame = load(*rows)
    frame["file"] = ["one.parquet", "two.parquet"]
    assert beside(compare(frame, by="run")) == []


# the command --------------------------------------------------------------------------------------


@pytest.fixture
def command(two_cards, tmp_path, capsys):
    """`gpubench compare` of the two cards."""

    def command(*words):
        two_cards()
        results = str(tmp_path / "results.parquet")
        status = cli.main(["compare", results, "--baseline", "Tesla", *words])
        return status, *capsys.readouterr()

    return command


def test_without_the_flag_nothing_published_is_shown(command):
    for form in ("table", "json", "csv", "markdown"):
        assert "published" not in command("--format", form)[1]


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_with_it_a_second_table_says_what_it_is(form, command):
    plain, (_, out, _) = (
        command("--format", form)[1],
        command("--format", form, "--with", "published"),
    )
    assert out.startswith(plain)
    second = out.removeprefix(plain)
    assert "published by others, with other software" in second
    assert "no part of a verdict" in second
    assert "mli/transformers-benchmarks" in second
    assert "Apache-2.0" in second


@pytest.mark.parametrize("form", ["json", "csv"])
def test_for_programs_the_rows_tell_themselves_apart(form, command):
    def rows(*words):
        out = command("--format", form, *words)[1]
        return json.loads(out)["rows"] if form == "json" else list(csv.DictReader(io.StringIO(out)))

    plain, found = rows(), rows("--with", "published")
    measured = [row for row in found if row["provenance"] == "measured"]
    others = [row for row in found if row["provenance"] == "published"]
    assert len(measured) == len(plain)
    assert len(others) == len(ratios(FAST, SLOW))
    assert [row["verdict"] for row in measured] == [row["verdict"] for row in plain]
    assert not any(row["verdict"] for row in others)


def test_it_changes_neither_conclusions_nor_the_exit_status(command):
    words = ("--baseline", "NVIDIA A100", "--fail-on", "slower")
    status, _, err = command(*words)
    assert status == 1
    assert (status, err) == command(*words, "--with", "published")[::2]


def test_that_nobody_published_anything_is_said(load, tmp_path, capsys):
    load(*(card(own) | gemm(0.01) for own in (SLOW, "geforce-rtx-5080")))
    assert cli.main(["compare", str(tmp_path / "results.parquet"), "--with", "published"]) == 0
    assert "nobody published" in capsys.readouterr().err


# the figure ---------------------------------------------------------------------------------------


def bars(drawing):
    return [trace for trace in drawing.data if trace.type == "bar"]


def test_every_bar_is_hatched_and_named_as_published(two_cards):
    drawing = drawer.figure(two_cards())
    assert bars(drawing)
    for trace in bars(drawing):
        assert trace.marker.pattern.shape == "/"
        assert trace.name.startswith("published, ")
        assert all("published" in label for label in trace.hovertext)


def test_a_panel_names_its_source_and_the_note_each_licence(two_cards):
    drawing = drawer.figure(two_cards())
    titles = [note.text for note in drawing.layout.annotations]
    assert any(title.startswith("mli/transformers-benchmarks@") for title in titles)
    assert len(titles) == len({trace.xaxis for trace in drawing.data})
    note = drawing.layout.meta["note"]
    for title in titles:
        assert f"github.com/{title.split(',')[0]} (20" in note
    assert "Apache-2.0" in note
    assert "BSD-3-Clause" in note


def test_a_bar_is_the_ratio_to_the_first_card_of_the_page_within_the_source(two_cards):
    drawing = drawer.figure(two_cards())
    # The older card comes first in the catalogue and on the page.
    panel = drawer._panel("github.com/mli/transformers-benchmarks@3370b2b3", [SLOW, FAST])
    assert panel.reference == SLOW
    (ratio,) = panel.found[FAST, "fp16"]
    assert (ratio.operation, ratio.mode) == ("transformer", "train")
    trace = next(
        trace for trace in bars(drawing) if any("mli/" in text for text in trace.hovertext)
    )
    place = panel.cards.index(FAST)
    position = min(range(len(trace.y)), key=lambda n: abs(trace.y[n] - place))
    assert trace.x[position] == pytest.approx(ratio.speedup, rel=1e-5)


def test_measured_ratios_are_diamonds_of_their_own(two_cards, load):
    drawing = drawer.figure(
        load(
            *(
                card(own)
                | {"workload": "bert", "case_id": "bert:precision=fp16", "items": 8.0}
                | {"params": {"precision": "fp16"}, "samples_s": [seconds] * 6}
                for own, seconds in ((FAST, 0.01), (SLOW, 0.03))
            )
        )
    )
    diamonds = [trace for trace in drawing.data if trace.type == "scatter"]
    assert {trace.name for trace in diamonds} == {"measured here"}
    places = [float(x) for trace in diamonds for x in trace.x]
    assert places == pytest.approx([3.0] * len(places))
    simulated = drawer.figure(two_cards(provenance="virtual", backend="virtual"))
    assert not [trace for trace in simulated.data if trace.type == "scatter"]


@pytest.mark.parametrize("simulated", [FAST, SLOW])
def test_no_diamond_sets_a_measured_card_against_a_simulated_one(simulated, load):
    rows = [
        {"workload": "bert", "case_id": "bert:precision=fp16", "params": {"precision": "fp16"}}
        | card(own, provenance="virtual" if own == simulated else "measured")
        for own in (FAST, SLOW)
    ]
    assert not [trace for trace in drawer.figure(load(*rows)).data if trace.type == "scatter"]


def test_a_panel_has_the_cards_at_hand_and_their_neighbours_only(load):
    drawing = drawer.figure(load(card("geforce-rtx-4070-ti") | gemm(0.01)))
    (labels,) = [axis.ticktext for axis in drawing.select_yaxes()]
    assert sum(label.startswith("<b>") for label in labels) == 1
    assert 2 <= len(labels) <= 2 + drawer.MOST_NEIGHBOURS


@pytest.mark.parametrize("card_id", ["geforce-rtx-5080", "unlisted-card"])
def test_nothing_is_drawn_of_cards_that_nobody_published(card_id, load):
    assert drawer.figure(load(card(card_id) | gemm(0.01))) is None
    assert drawer.figure(load()) is None


def test_every_published_card_can_be_drawn():
    for card_id in {one.card_id for one in published()}:
        panels = [drawer._panel(family, [card_id]) for family in drawer._families()]
        for panel in filter(None, panels):
            assert panel.reference == card_id
            assert card_id in panel.cards
            assert len(panel.cards) == len(set(panel.cards)) > 1


def test_the_page_shows_it_with_its_caption_and_its_licences(two_cards):
    page = html.unescape(render_report(two_cards()))
    assert "What others published" in page
    assert "None of it enters a verdict." in page
    assert "Sources and licences: github.com/" in page


def test_no_case_in_common_is_no_ratio(two_cards):
    one, other = series_of(two_cards())
    found = ratios(FAST, SLOW)
    assert measured_like(found, one.rows, [])[0] is None
    assert measured_like([], one.rows, other.rows) == (None, 0)
    failed = [row | {"status": "oom"} for row in other.rows]
    assert measured_like(found, one.rows, failed) == (None, 0)
