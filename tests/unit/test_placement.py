"""Is it as fast as it should be? Planted slow cards are found, healthy ones left in peace."""

import dataclasses
import json
import math
import random

import pytest

from gpubench import cli, predict, store, table
from gpubench.cards import get_card
from gpubench.errors import UsageError
from gpubench.placement import checks, conclusions, expected, verdicts
from gpubench.workload import Work

CARD = get_card("geforce-rtx-3090")
#: healthy conditions of an RTX 3090
HEALTHY = {
    "run_id": "run-3090",
    "backend": "cuda",
    "card_id": "geforce-rtx-3090",
    "card": "NVIDIA GeForce RTX 3090",
    "architecture": "Ampere",
    "compute_capability": "8.6",
    "power_limit_w": 350.0,
    "sm_clock_hz": {"mean": 1.7e9, "min": 1.69e9, "max": 1.71e9},
    "temperature_c": {"mean": 60.0, "min": 55.0, "max": 64.0},
    "ecc": False,
    "pcie": "4.0 x16",
    "cuda": "12.8",
    "torch": "2.8.0+cu128",
}
SIZES = (1024, 2048, 4096, 8192)


@dataclasses.dataclass(frozen=True)
class Prediction:
    seconds: float
    low: float
    high: float
    basis: str = "a stand-in"


@dataclasses.dataclass(frozen=True)
class StandIn:
    """The catalogue's nominal time, give or take a share."""

    share: float = 0.2

    def with_measured(self, rows):
        return self

    def step(self, card, work, precision, *, operation, launches=0, case=""):
        seconds = card.nominal_s(work.flops, work.bytes, precision)
        return Prediction(seconds, seconds / (1 + self.share), seconds * (1 + self.share))


def case(n=4096, precision="fp16", slower=1.0, workload="gemm", **different):
    flops, moved = 2.0 * n**3, 3.0 * n * n * (2 if precision == "fp16" else 4)
    if workload == "memory":
        flops, moved = 0.0, 8.0 * n * n
    seconds = slower * CARD.nominal_s(flops, moved, precision)
    return (
        HEALTHY
        | {
            "workload": workload,
            "case_id": f"{workload}:shape={n}x{n}x{n},precision={precision}",
            "params": {"shape": f"{n}x{n}x{n}", "precision": precision},
            "samples_s": [seconds] * 6,
            "flops": flops,
            "bytes": moved,
        }
        | different
    )


def usual(slower=1.0, spread=0.05, **different):
    """Sixteen cases of a card, each off by chance, all slower by a factor."""
    chance = random.Random(1)
    return [
        case(n, precision, slower * math.exp(chance.gauss(0, spread)), workload, **different)
        for n in SIZES
        for precision in ("fp32", "fp16")
        for workload in ("gemm", "memory")
    ]


@pytest.fixture
def load(tmp_path, make_record):
    """The frame of a file of rows."""

    def load(*rows):
        path = tmp_path / "results.parquet"
        path.unlink(missing_ok=True)
        store.Writer(path, [make_record(**row) for row in rows])
        return table.load([str(path)])

    return load


def only(rows):
    (row,) = rows
    return row


# the verdict --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slower", "placement_"),
    [
        (0.7, "above"),
        (0.9, "as expected"),
        (1.0, "as expected"),
        (1.15, "as expected"),
        (1.3, "low"),
    ],
)
def test_a_case_is_placed_by_the_interval_of_its_prediction(slower, placement_, load):
    row = only(expected(load(case(slower=slower)), StandIn(0.2)))
    assert row["placement"] == placement_
    assert row["expected_low_s"] < row["expected_s"] < row["expected_high_s"]
    assert row["median_s"] / row["expected_s"] == pytest.approx(slower)


@pytest.mark.parametrize(("share", "slower"), [(0.2, 1.3), (0.07, 1.1), (0.2, 1 / 0.7)])
def test_a_planted_slow_card_is_found_where_the_interval_is_narrow_enough(share, slower, load):
    rows = expected(load(*usual(slower)), StandIn(share))
    assert verdicts(rows) == {"NVIDIA GeForce RTX 3090": "low"}
    assert "slower than expected" in conclusions(rows)[0]


def test_a_tenth_is_within_an_interval_of_a_fifth_and_is_not_called_low(load):
    """No more is claimed than the prediction knows."""
    assert set(verdicts(expected(load(*usual(1.1)), StandIn(0.2))).values()) == {"as expected"}


@pytest.mark.parametrize("seed", range(8))
def test_a_healthy_card_is_as_expected_though_one_case_in_five_is_not(seed, load):
    """The 80 % interval of 20 % is a standard deviation of 14 % in the logarithm."""
    chance = random.Random(seed)
    rows = [
        row | {"samples_s": [row["samples_s"][0] * math.exp(chance.gauss(0, 0.14))] * 6}
        for row in usual(spread=0.0)
    ]
    assert set(verdicts(expected(load(*rows), StandIn(0.2))).values()) == {"as expected"}


def test_one_slow_case_among_many_does_not_make_the_card_slow(load):
    rows = expected(load(*usual(), case(3000, slower=2.0)), StandIn())
    assert [row["placement"] for row in rows].count("low") == 1
    assert set(verdicts(rows).values()) == {"as expected"}


def test_a_card_that_is_too_fast_is_said_to_be(load):
    rows = expected(load(*usual(0.6)), StandIn())
    assert set(verdicts(rows).values()) == {"above"}
    assert "faster than expected" in conclusions(rows)[0]


def test_the_interval_is_also_a_share_of_the_peak(load):
    row = only(expected(load(case(slower=1.0)), StandIn(0.25)))
    assert row["expected_share_low"] == pytest.approx(row["share_of_peak"] / 1.25)
    assert row["expected_share_high"] == pytest.approx(row["share_of_peak"] * 1.25)
    assert only(expected(load(case()), StandIn(3.0)))["expected_share_high"] == 1


def test_the_predictor_is_told_which_case_it_is_since_other_cards_may_have_it(load):
    asked = []

    class Listening(StandIn):
        def step(self, card, work, precision, **told):
            asked.append((card.card_id, precision, told["operation"], told["case"]))
            return super().step(card, work, precision, operation=told["operation"])

    expected(load(case(2048)), Listening())
    case_id = "gemm:shape=2048x2048x2048,precision=fp16"
    assert asked == [("geforce-rtx-3090", "fp16", "gemm", case_id)]


def test_trials_are_one_case(load):
    rows = expected(load(*(case(trial=n, slower=1 + n / 100) for n in (1, 2, 3))), StandIn())
    assert only(rows)["median_s"] / only(rows)["expected_s"] == pytest.approx(1.02)


def test_a_sick_card_beside_a_healthy_one_of_its_name_is_judged_by_itself(load):
    """Pooled they would be as expected, both of them."""
    healthy = usual(0.9, device_uuid_hash="ab12" + "0" * 12)
    sick = usual(1.6, run_id="run-2", device_uuid_hash="cd34" + "0" * 12)
    rows = expected(load(*healthy, *sick), StandIn(0.25))
    assert verdicts(rows) == {
        "NVIDIA GeForce RTX 3090 #ab12": "as expected",
        "NVIDIA GeForce RTX 3090 #cd34": "low",
    }
    assert {row["trials"] for row in rows} == {1}


def test_one_card_keeps_its_name_whether_its_hash_is_known_or_not(load):
    unknown = usual(run_id="run-2")
    rows = expected(load(*usual(device_uuid_hash="ab12" + "0" * 12), *unknown), StandIn())
    assert list(verdicts(rows)) == ["NVIDIA GeForce RTX 3090"]


# what to check ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"power_limit_w": 250.0}, "the power limit is 250 W, the card's own 350 W"),
        ({"sm_clock_hz": {"mean": 1.2e9, "min": 1.2e9, "max": 1.2e9}}, "ran at 1.20 GHz"),
        ({"temperature_c": {"mean": 80.0, "min": 70.0, "max": 86.0}}, "reached 86 °C"),
        ({"flags": ["throttled_thermal"]}, "too hot"),
        ({"flags": ["throttled_power"]}, "held the clocks down at the power limit"),
        ({"flags": ["other_processes"]}, "another process"),
        ({"flags": ["drift"]}, "slower while it ran"),
        ({"cuda": "11.0"}, "built for CUDA 11.0, older than 11.1"),
        ({"pcie": "3.0 x4", "items": 8.0, "workload": "mnist"}, "4 PCIe lanes"),
        (
            {"ecc": True, "workload": "memory", "case_id": "memory:shape=1", "flops": 0.0},
            "error correction is on",
        ),
    ],
)
def test_a_low_result_says_what_its_own_row_shows(different, words, load):
    rows = expected(load(case(slower=2.0, **different)), StandIn())
    assert only(rows)["placement"] == "low"
    assert any(words in text for text in only(rows)["checks"])
    assert any(f"check: {words}" in line or words in line for line in conclusions(rows)[1:])


@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_a_healthy_row_gives_no_cause_and_an_unknown_one_none_either(name, load):
    healthy, unknown = case(slower=2.0), case(slower=2.0, **{name: None})
    for row in (healthy, unknown):
        (found,) = load(row).to_dict("records")
        assert checks(found, CARD) == []


def test_without_a_cause_in_the_rows_it_says_where_else_to_look(load):
    lines = conclusions(expected(load(*usual(1.6)), StandIn()))
    assert any("nothing in the rows explains it" in line for line in lines)


def test_causes_are_counted_over_the_low_cases(load):
    lines = conclusions(expected(load(*usual(1.6, power_limit_w=200.0)), StandIn()))
    assert any("the power limit is 200 W" in line and "(16 of 16 cases)" in line for line in lines)
    assert not any("nothing in the rows" in line for line in lines)


def test_what_would_make_a_card_slow_is_mentioned_where_it_did_not(load):
    """A prediction is too wide to see every limit; the rows show it all the same."""
    lines = conclusions(expected(load(*usual(1.0, power_limit_w=300.0)), StandIn(0.5)))
    assert "as expected" in lines[0]
    assert lines[1].startswith("  seen: the power limit is 300 W")
    assert not any("check" in line for line in lines)
    assert len(conclusions(expected(load(*usual()), StandIn(0.5)))) == 1


def test_it_says_how_sure_the_prediction_is(load):
    assert "sure to a factor of 1.25" in conclusions(expected(load(*usual()), StandIn(0.25)))[0]


# with the predictor that is shipped ---------------------------------------------------------------


def modelled(load, slower, *cards):
    """Rows of several cards as the shipped predictor has them, the first slower by a factor."""
    predictor = predict.Predictor.shipped()
    rows = []
    for card_id in cards:
        card = get_card(card_id)
        for row in usual(spread=0.0):
            asked = Work(row["flops"], row["bytes"])
            precision, operation = row["params"]["precision"], row["workload"]
            step = predictor.step(card, asked, precision, operation=operation, launches=1)
            seconds = step.seconds * (slower if card_id == cards[0] else 1.0)
            rows.append(
                {key: value for key, value in row.items() if key not in NOT_OF_OTHERS}
                | {"card_id": card_id, "card": card.name, "architecture": card.architecture}
                | {"compute_capability": card.compute_capability, "samples_s": [seconds] * 6}
            )
    return expected(load(*rows), predictor)


NOT_OF_OTHERS = ("power_limit_w", "sm_clock_hz", "temperature_c", "cuda", "pcie", "ecc")


@pytest.mark.parametrize("card_id", ["geforce-rtx-3090", "nvidia-h100-sxm5", "tesla-t4"])
def test_the_shipped_predictor_finds_half_speed_and_leaves_full_speed_in_peace(card_id, load):
    name = get_card(card_id).name
    for slower, verdict in ((1.0, "as expected"), (1.1, "as expected"), (2.2, "low")):
        assert verdicts(modelled(load, slower, card_id))[name] == verdict


def test_other_cards_at_hand_make_the_expectation_narrower_and_the_card_itself_does_not(load):
    def width(*cards):
        rows = [row for row in modelled(load, 1.0, *cards) if "3090" in str(row["card"])]
        return sum(math.log(row["expected_high_s"] / row["expected_s"]) for row in rows)

    alone = width("geforce-rtx-3090")
    assert width("geforce-rtx-3090", "geforce-rtx-4090") < 0.9 * alone
    slow = modelled(load, 1.5, "geforce-rtx-3090")
    fine = modelled(load, 1.0, "geforce-rtx-3090")
    assert [row["expected_s"] for row in slow] == pytest.approx([row["expected_s"] for row in fine])


# of what nothing is expected ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"backend": "cpu", "card_id": "cpu-x"}, "processors are not in the catalogue"),
        ({"card_id": "unlisted-x"}, "the card is not in the catalogue"),
        ({"workload": "someones"}, "no model of this workload"),
        ({"flops": None, "bytes": None}, "its work is not declared"),
        ({"flags": ["launch_bound"]}, "the host is the slower part"),
        ({"status": "oom", "reason": "none left", "samples_s": None}, "not measured"),
        ({"samples_s": [1e-9] * 6}, "it is above the card's peak"),
    ],
)
def test_it_says_why_nothing_is_expected(different, reason, load):
    rows = expected(load(case(**different)), StandIn())
    assert only(rows)["placement"] is None
    assert only(rows)["placement_reason"] == reason
    assert only(rows)["expected_s"] is None
    assert verdicts(rows) == {}
    assert reason in conclusions(rows)[-1]


def test_simulated_results_are_refused(load):
    virtual = {"provenance": "virtual", "backend": "virtual"}
    with pytest.raises(UsageError, match="these results are virtual: they say nothing of a card"):
        expected(load(case(**virtual)), StandIn())
    mixed = expected(load(case(), case(2048, **virtual)), StandIn())
    assert {row["placement"]: row["placement_reason"] for row in mixed} == {
        "as expected": None,
        None: "virtual, not measured",
    }


# the command --------------------------------------------------------------------------------------


@pytest.fixture
def show(load, tmp_path, capsys, monkeypatch):
    """`gpubench show --expected` of rows, with the stand-in for a predictor."""

    def show(*rows, form="table"):
        load(*rows)
        monkeypatch.setattr(predict.Predictor, "shipped", lambda *_: StandIn())
        words = ["show", str(tmp_path / "results.parquet"), "--expected", "--format", form]
        status = cli.main(words)
        return status, *capsys.readouterr()

    return show


def test_the_table_has_the_interval_and_the_placement(show):
    status, out, err = show(*usual(1.6, power_limit_w=200.0))
    assert status == 0
    assert "expected" in out
    assert "low" in out
    assert "slower than expected" in err
    assert "check: the power limit is 200 W" in err


def test_for_programs_the_fields_have_their_units(show):
    _, out, _ = show(case(slower=1.6), form="json")
    (row,) = json.loads(out)["rows"]
    assert row["placement"] == "low"
    assert row["expected_low_s"] < row["expected_s"] < row["expected_high_s"]
    assert "expected_text" not in row


def test_of_a_processor_it_says_so(show):
    status, _, err = show(case(backend="cpu", card_id="cpu-x", card="Some processor"))
    assert status == 0
    assert "processors are not in the catalogue" in err


def test_simulated_results_end_with_what_to_do(show):
    status, out, err = show(case(provenance="virtual", backend="virtual"))
    assert (status, out) == (2, "")
    assert "\n  → give results that were measured" in err
