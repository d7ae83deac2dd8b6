"""Others' results: read in full or refused in words, and compared within one source only."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.cards import catalogue
from gpubench.errors import UnreadableResult
from gpubench.published import COLUMNS, RATES, TIMES, Published, load, published, ratios

#: SPDX names of licences that allow the figures to be passed on
PERMISSIVE = {"MIT", "Apache-2.0", "BSD-3-Clause"}
ONE = Published(
    source="example.org/bench@abc:table.csv row 1",
    source_date="2024-01",
    card_id="tesla-t4",
    n_gpus=1,
    software="one stack",
    workload="resnet50",
    precision="fp16",
    mode="train",
    batch=64,
    metric="throughput",
    value=100.0,
    unit="images/s",
    notes="",
    licence="MIT",
)


def result(card_id, value, **different):
    return dataclasses.replace(ONE, card_id=card_id, value=value, **different)


# the collection -----------------------------------------------------------------------------------


def test_every_result_is_of_a_card_of_the_catalogue_under_a_permissive_licence():
    assert len(published()) == 967
    assert {one.card_id for one in published()} <= set(catalogue())
    assert {one.licence for one in published()} <= PERMISSIVE


@pytest.mark.parametrize("one", published()[::17], ids=lambda one: f"{one.card_id} {one.workload}")
def test_a_result_says_where_and_when_it_comes_from(one):
    assert one.source.startswith("github.com/")
    assert re.fullmatch(r"20\d\d-\d\d", one.source_date)
    assert one.software
    assert one.mode in {"train", "infer", "micro"}


def test_what_is_a_speed_has_a_rate_and_what_is_none_has_none():
    units = {one.unit for one in published() if one.rate is None}
    assert units == {"W"}
    assert {one.unit for one in published()} <= {*RATES, *TIMES, "W"}
    assert all(0 < one.rate < math.inf for one in published() if one.rate is not None)


@pytest.mark.parametrize(
    ("value", "unit", "rate"),
    [
        (200.0, "images/s", 200.0),
        (5.0, "TFLOPS", 5e12),
        (20.0, "ms/batch", 50.0),
        (0.5, "s/batch", 2.0),
        (250.0, "W", None),
    ],
)
def test_a_rate_is_of_a_second_and_more_is_better(value, unit, rate):
    assert result("tesla-t4", value, unit=unit).rate == rate


def test_a_family_is_the_source_without_the_place_in_it():
    assert ONE.family == "example.org/bench@abc"
    assert dataclasses.replace(ONE, source="a/b (a note)").family == "a/b"
    for address in ("https://site.org/one:table 3", "http://site.org/one", "site.org/one:x"):
        assert dataclasses.replace(ONE, source=address).family == "site.org/one"
    families = {one.family for one in published()}
    assert len(families) == 14
    assert all("row" not in family for family in families)


@pytest.mark.parametrize(
    ("workload", "mode", "unit", "operation"),
    [
        ("resnet50", "train", "images/s", "cnn"),  # which has a t5 in it
        ("wide_resnet50_2", "train", "ms/batch", "cnn"),
        ("t5_encoder_fwd", "infer", "TFLOPS", "transformer"),
        ("milabench_t5", "train", "items/s", "transformer"),
        ("bert_large_squad", "train", "sequences/s", "transformer"),
        ("gpt2_124m_seq1024", "train", "tokens/s", "transformer"),
        ("vit_base_patch16_224", "infer", "images/s", "transformer"),
        ("gemm_large", "micro", "TFLOPS", "gemm"),
        ("vector_multiply", "micro", "TFLOPS", "memory"),
        ("llama2_7b_q4_0_tg128", "infer", "tokens/s", "decode"),
        ("llama2_7b_q4_0_pp512", "infer", "tokens/s", "prefill"),
    ],
)
def test_what_kind_of_work_it_is(workload, mode, unit, operation):
    assert dataclasses.replace(ONE, workload=workload, mode=mode, unit=unit).operation == operation


# a file -------------------------------------------------------------------------------------------


def written(tmp_path, *rows, columns=COLUMNS):
    lines = [",".join(columns)]
    for row in rows:
        text = (
            {name: str(getattr(row, name)) for name in COLUMNS}
            if isinstance(row, Published)
            else row
        )
        lines.append(",".join(f'"{text.get(name, "")}"' for name in columns))
    path = tmp_path / "own.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(**different):
    return {name: str(getattr(ONE, name)) for name in COLUMNS} | different


def test_what_was_written_is_read_and_further_columns_are_ignored(tmp_path):
    path = written(tmp_path, row() | {"quality": "ok"}, columns=(*COLUMNS, "quality"))
    assert list(load(path)) == [ONE]
    assert next(load(written(tmp_path, row(batch="")))).batch is None


@pytest.mark.parametrize(
    ("different", "problem"),
    [
        ({"value": "fast"}, "could not convert"),
        ({"value": "nan"}, "above zero"),
        ({"value": "inf"}, "above zero"),
        ({"value": "-1"}, "above zero"),
        ({"value": ""}, "could not convert"),
        ({"batch": "0"}, "above zero"),
        ({"batch": "many"}, "invalid literal"),
        ({"n_gpus": "0"}, "above zero"),
        ({"n_gpus": ""}, "invalid literal"),
        ({"card_id": " "}, "can't be empty"),
        ({"workload": ""}, "can't be empty"),
        ({"mode": "benchmark"}, "mode 'benchmark' is none of train, infer, micro"),
        ({"mode": ""}, "mode '' is none of"),
        ({"precision": "fp61"}, "precision 'fp61' is none of fp32, tf32"),
        ({"precision": ""}, "precision '' is none of"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(different, problem, tmp_path):
    path = written(tmp_path, row(), row(**different))
    with pytest.raises(UnreadableResult, match=r"own\.csv, line 3 is not a file of") as caught:
        list(load(path))
    assert problem in str(caught.value)
    assert "README.md" in caught.value.remedy


def test_a_missing_column_is_named(tmp_path):
    path = written(tmp_path, columns=[name for name in COLUMNS if name not in ("unit", "mode")])
    with pytest.raises(UnreadableResult, match="lacks the columns mode, unit"):
        list(load(path))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_file_with_other_separators_is_refused_by_its_first_line(separator, tmp_path):
    path = written(tmp_path, row())
    path.write_text(path.read_text().replace(",", separator), encoding="utf-8")
    with pytest.raises(UnreadableResult, match="isn't separated by commas: 'source"):
        list(load(path))


@pytest.mark.parametrize(("encoding", "end"), [("utf-8-sig", "\n"), ("utf-8", "\r\n")])
def test_what_spreadsheets_write_is_read(encoding, end, tmp_path):
    path = written(tmp_path, row(batch="96.0"))
    path.write_text(path.read_text(), encoding=encoding, newline=end)
    (found,) = load(path)
    assert found == dataclasses.replace(ONE, batch=96)


def test_another_encoding_is_named_as_the_fault(tmp_path):
    path = written(tmp_path, row())
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(UnreadableResult, match="not in UTF-8"):
        list(load(path))


@pytest.mark.parametrize(
    ("column", "theirs", "ours"),
    [
        ("unit", "img/s", "images/s"),
        ("unit", "images/sec", "images/s"),
        ("unit", "Samples per second", "items/s"),
        ("unit", "seq/s", "sequences/s"),
        ("unit", "tok/s", "tokens/s"),
        ("unit", "TFLOP/s", "TFLOPS"),
        ("unit", "s/batch", "s/batch"),
        ("unit", "ms / step", "ms/batch"),
        ("unit", "furlongs", "furlongs"),
        ("mode", "training", "train"),
        ("mode", "Train", "train"),
        ("mode", "inference", "infer"),
        ("precision", "float32", "fp32"),
        ("precision", "single", "fp32"),
        ("precision", "Half", "fp16"),
        ("precision", "bfloat16", "bf16"),
        ("precision", "q4 (ollama default)", "q4 (ollama default)"),
        ("card_id", "RTX 4090", "geforce-rtx-4090"),
        ("card_id", "NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"),
        ("card_id", "Radeon VII", "Radeon VII"),
    ],
)
def test_words_may_be_spelled_as_is_usual(column, theirs, ours, tmp_path):
    (found,) = load(written(tmp_path, row(**{column: theirs})))
    assert getattr(found, column) == ours


def test_results_of_doubtful_quality_are_left_out(tmp_path):
    columns = (*COLUMNS, "quality")
    rows = [row(value="1") | {"quality": quality} for quality in ("ok", "suspect", "")]
    assert len(list(load(written(tmp_path, *rows, columns=columns)))) == 2
    for none in ([rows[1]], []):
        with pytest.raises(UnreadableResult, match="no result of quality ok"):
            list(load(written(tmp_path, *none, columns=columns)))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'source,"\x00'])
def test_what_is_no_such_file_is_refused_in_words(content, tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(UnreadableResult, match=r"own\.csv"):
        list(load(path))
    with pytest.raises(UnreadableResult, match="No such file"):
        list(load(tmp_path / "nowhere.csv"))


cells = st.dictionaries(st.sampled_from(COLUMNS), st.text(max_size=12), max_size=6)


@given(different=cells, noise=st.binary(max_size=30))
def test_whatever_a_file_holds_it_is_results_or_an_error_in_words(
    different, noise, tmp_path_factory
):
    path = tmp_path_factory.mktemp("any") / "own.csv"
    head = ",".join(COLUMNS).encode()
    body = ",".join(row(**different).values()).encode("utf-8", "surrogatepass")
    path.write_bytes(head + b"\n" + body + b"\n" + noise)
    try:
        found = list(load(path))
    except UnreadableResult:
        return
    assert all(one.value > 0 and one.n_gpus > 0 and one.card_id for one in found)


# two cards ----------------------------------------------------------------------------------------


def test_a_ratio_is_of_rates_within_a_source():
    (found,) = ratios("a", "b", [result("a", 300.0), result("b", 100.0)])
    assert (found.speedup, found.lowest, found.highest) == pytest.approx((3, 3, 3))
    assert found.workloads == ("resnet50",)
    assert found.same_batch
    assert (found.family, found.licences) == ("example.org/bench@abc", ("MIT",))
    assert ratios("b", "a", [result("a", 300.0), result("b", 100.0)])[0].speedup == pytest.approx(
        1 / 3
    )


def test_of_times_less_is_faster():
    times = {"unit": "ms/batch"}
    (found,) = ratios("a", "b", [result("a", 10.0, **times), result("b", 20.0, **times)])
    assert found.speedup == pytest.approx(2)


@pytest.mark.parametrize(
    "different",
    [
        {"source": "example.org/other:x"},
        {"software": "another stack"},
        {"workload": "vgg16"},
        {"precision": "fp32"},
        {"mode": "infer"},
        {"metric": "latency"},
        {"n_gpus": 2},
        {"unit": "W"},
    ],
)
def test_what_differs_in_more_than_the_card_is_no_pair(different):
    assert ratios("a", "b", [result("a", 300.0), result("b", 100.0, **different)]) == []


def test_workloads_of_one_kind_are_averaged_geometrically():
    results = [
        *(result("a", 400.0), result("b", 100.0)),
        *(result("a", 10.0, workload="vgg16"), result("b", 10.0, workload="vgg16")),
    ]
    (found,) = ratios("a", "b", results)
    assert found.speedup == pytest.approx(2)
    assert (found.lowest, found.highest) == pytest.approx((1, 4))
    assert found.workloads == ("resnet50", "vgg16")


def test_the_same_batch_goes_before_the_fastest():
    results = [
        *(result("a", 300.0), result("a", 900.0, batch=512)),
        *(result("b", 100.0), result("b", 50.0, batch=8)),
    ]
    (found,) = ratios("a", "b", results)
    assert (found.speedup, found.same_batch) == (pytest.approx(3), True)
    apart = [result("a", 300.0), result("a", 900.0, batch=512), result("b", 50.0, batch=8)]
    (found,) = ratios("a", "b", apart)
    assert (found.speedup, found.same_batch) == (pytest.approx(18), False)


@pytest.mark.parametrize("card_id", sorted({one.card_id for one in published()})[::3])
def test_ratios_of_the_collection_are_plausible_and_the_other_way_round_the_inverse(card_id):
    """A card is no more than 25 times another of these, and a reversed pair is the reciprocal."""
    for other in sorted({one.card_id for one in published()} - {card_id}):
        there, back = ratios(card_id, other), ratios(other, card_id)
        assert [one.speedup for one in there] == pytest.approx([1 / one.speedup for one in back])
        assert all(1 / 25 < one.speedup < 25 for one in there)
        assert all(one.lowest <= one.speedup * 1.0001 for one in there)
