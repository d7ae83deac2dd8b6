"""What is listed is what was asked for: cards chosen and sorted, and nothing dropped in silence."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import cli, listing
from gpubench.advice import label
from gpubench.cards import GIB, catalogue, get_card
from gpubench.published import published
from gpubench.verbs.list import OF_CARDS, SORTS


def cards(**wishes):
    return listing.cards(**wishes)[0]


def run(capsys, *words):
    status = cli.main(["list", *words])
    return status, *capsys.readouterr()


# cards --------------------------------------------------------------------------------------------


def test_without_a_wish_the_whole_catalogue_is_there_in_its_order():
    assert [row["card_id"] for row in cards()] == list(catalogue())


@given(
    memory=st.sampled_from([0, 8, 16, 24.0, 80, 1000]),
    price=st.none() | st.sampled_from([100, 499, 1000, 1e6]),
    power=st.sampled_from([60, 250, 350, float("inf")]),
    names=st.none() | st.sampled_from([["Ampere"], ["ada", "TURING"]]),
)
def test_what_is_listed_fits_and_what_fits_is_listed(memory, price, power, names):
    wanted = {name.casefold() for name in names} if names else None
    fitting = [
        card.card_id
        for card in catalogue().values()
        if card.memory_bytes >= memory * GIB
        and card.power_w <= power
        and (
            price is None or (card.launch_price_usd is not None and card.launch_price_usd <= price)
        )
        and (wanted is None or card.architecture.casefold() in wanted)
    ]
    found = cards(architecture=names, min_memory=memory, max_price=price, max_power=power)
    assert [row["card_id"] for row in found] == fitting


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sort", SORTS)
def test_sorting_goes_from_the_least_and_keeps_the_unknown_for_last(sort, reverse):
    key = listing.SORTS[sort]
    values = [row[key] for row in cards(sort=sort, reverse=reverse)]
    known = [value for value in values if value]
    assert len(values) == len(catalogue())
    assert known == sorted(known, reverse=reverse)
    assert not any(values[len(known) :])
    assert (None in values) is (sort == "price")


def test_reversed_without_sorting_is_the_catalogue_from_its_end():
    assert [row["card_id"] for row in cards(reverse=True)] == list(catalogue())[::-1]


def test_the_flag_knows_every_order_and_no_other():
    assert set(SORTS) == set(listing.SORTS)


# the command --------------------------------------------------------------------------------------


def test_the_flags_reach_the_list(capsys):
    words = ("cards", "--architecture", "ampere", "--min-memory", "16", "--max-price", "2000")
    status, out, _ = run(capsys, *words, "--max-power", "400", "--format", "json")
    assert status == 0
    assert [row["card_id"] for row in json.loads(out)["rows"]] == ["geforce-rtx-3090"]


def test_a_pattern_chooses_by_id_and_by_name(capsys):
    _, out, _ = run(
        capsys, "cards", "--only", "*4060-ti*", "--only", "nvidia h100*", "--format", "csv"
    )
    ids = {line.split(",")[0] for line in out.splitlines()[1:]}
    assert ids == {
        *("geforce-rtx-4060-ti-8gb", "geforce-rtx-4060-ti-16gb"),
        *("nvidia-h100-pcie", "nvidia-h100-sxm5"),
    }


@pytest.mark.parametrize("what", ["workloads", "suites", "published", "profiles", "figures"])
@pytest.mark.parametrize(
    "flag",
    [
        ("--architecture", "Ada"),
        ("--min-memory", "16"),
        ("--max-price", "16"),
        ("--max-power", "16"),
        ("--sort", "name"),
        ("--reverse",),
    ],
)
def test_flags_of_cards_are_refused_for_other_kinds(what, flag, capsys):
    status, out, err = run(capsys, what, *flag)
    assert (status, out) == (2, "")
    assert f"{flag[0]} is for cards; {what} have no such thing" in err
    assert "\n  → " in err


def test_every_flag_of_cards_is_refused_elsewhere():
    """A new one can't be forgotten: all flags but those that every kind has."""
    parser = cli.parser(["list"])
    action = next(one for one in parser._actions if one.choices and "list" in one.choices)
    flags = {one.dest for one in action.choices["list"]._actions}
    assert flags - {"help", "what", "only", "format"} == set(OF_CARDS)


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "much", ""])
def test_a_limit_is_a_number_above_zero(value, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["list", "cards", f"--min-memory={value}"])
    assert caught.value.code == 2
    assert "is not a number above zero" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["$1,600", "1,600", "$1600"])
def test_a_price_may_be_written_as_people_write_it(written, capsys):
    shown = run(capsys, "cards", "--max-price", written)
    assert shown == run(capsys, "cards", "--max-price", "1600")
    assert shown != run(capsys, "cards", "--max-price", "1500")


def test_an_unknown_architecture_is_answered_with_those_that_there_are(capsys):
    status, _, err = run(capsys, "cards", "--architecture", "Ampre")
    assert status == 2
    assert "did you mean 'Ampere'?" in err
    assert "Pascal, Volta, Turing, Ampere, Ada, Hopper, Blackwell" in err


def test_that_nothing_fits_is_said(capsys):
    status, _, err = run(capsys, "cards", "--max-price", "1")
    assert status == 0
    assert "there are no cards like that" in err


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_a_terminal_shows_each_card_in_one_line_with_the_whole_of_its_id(
    capsys, monkeypatch, width
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = run(capsys, "cards")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in out.splitlines()]
    text, _, _ = "\n".join(lines[2:]).partition("not shown for want of room")
    assert [line.split()[0] for line in text.splitlines()] == list(catalogue())
    assert max(map(len, lines)) <= width
    assert "type this" in lines[0]


def test_what_other_tables_call_a_card_can_be_typed():
    for card_id in catalogue():
        assert get_card(label(card_id)).card_id == card_id


# others' results ----------------------------------------------------------------------------------


def test_all_published_results_are_listed_with_source_and_licence(capsys):
    _, out, _ = run(capsys, "published", "--format", "json")
    rows = json.loads(out)["rows"]
    assert len(rows) == len(published())
    assert all(row["source"] and row["source_date"] and row["licence"] for row in rows)


@pytest.mark.parametrize(
    ("pattern", "key", "part"),
    [("*3080*", "card_id", "3080"), ("resnet50", "workload", "resnet50")],
)
def test_published_results_are_chosen_by_card_or_workload(pattern, key, part, capsys):
    _, out, _ = run(capsys, "published", "--only", pattern, "--format", "json")
    rows = json.loads(out)["rows"]
    assert 0 < len(rows) < len(published())
    assert all(part in row[key] for row in rows)


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_published_results_have_every_format(form, capsys):
    status, out, _ = run(capsys, "published", "--only", "*t4*", "--format", form)
    assert status == 0
    assert out.count("\n") > 10
