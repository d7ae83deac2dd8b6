"""The validation of predictions: what it makes of files that users give."""

import csv
import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from gpubench.published import COLUMNS, published

pytest.importorskip("scipy", reason="the rank correlation")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "validate_prediction.py"


@pytest.fixture(scope="module")
def validation():
    spec = importlib.util.spec_from_file_location("validate_prediction", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


RESULT = dataclasses.replace(
    next(one for one in published() if one.workload == "resnet50" and one.n_gpus == 1),
    source="github.com/someone/bench@abc:a table",
    unit="images/s",
)


@pytest.fixture
def written(tmp_path):
    def write(*results):
        path = tmp_path / "own.csv"
        with path.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, COLUMNS)
            writer.writeheader()
            for one in results:
                writer.writerow({name: getattr(one, name) for name in COLUMNS})
        return path

    return write


def of(card_id, **different):
    return dataclasses.replace(RESULT, card_id=card_id, **different)


def test_what_of_a_file_is_not_compared_is_said_with_its_reason(validation, written, capsys):
    own = [of("geforce-rtx-4090"), of("geforce-rtx-3090")]
    others = [
        of("geforce-rtx-4090", unit="furlongs"),
        of("geforce-rtx-4090", n_gpus=8),
        of("Radeon VII"),
        of("geforce-rtx-4090", workload="vgg16"),  # of no other card
        published()[0],
    ]
    assert validation.given(written(*own, *others)) == [*own, *others[:-1]]
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 7 results are compared" in line
    for reason in (
        "known already 1",
        "no speed (furlongs) 1",
        "several cards 1",
        "a card that the catalogue lacks (Radeon VII) 1",
        "no card beside it in its series 1",
    ):
        assert reason in line


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([of("geforce-rtx-4090")], "nothing to compare"),
        ([], "no result of quality ok"),
        ([of("geforce-rtx-4090", mode="unheard-of")], "line 2"),
    ],
)
def test_a_file_of_which_nothing_can_be_compared_ends_the_validation(
    validation, written, results, words
):
    with pytest.raises(SystemExit) as ended:
        validation.given(written(*results))
    assert words in str(ended.value.code)


def test_revisions_of_one_repository_keep_their_names_apart(validation):
    sources = ["github.com/a/b@1", "github.com/a/b@2", "github.com/c/d@3", "somewhere"]
    assert list(validation.short(sources).values()) == ["a/b@1", "a/b@2", "c/d", "somewhere"]


def test_results_of_files_have_rows_of_their_own_by_operation(validation):
    rows = [
        validation.Held(one, {"model": 0.0}, {}, 1.0, 0.0, ())
        for one in validation.evidence.from_published(
            [RESULT, of("geforce-rtx-3090", workload="bert_base", unit="sequences/s")]
        )
    ]
    names = [name for name, _ in validation.groups(rows, {RESULT.family})]
    assert names[:4] == [
        "the files given",
        "the files given: cnn",
        "the files given: transformer",
        "all",
    ]
    assert validation.groups(rows, set())[0][0] == "all"


def test_a_source_is_never_seen_where_no_revision_of_it_is(validation, monkeypatch):
    """What one revision teaches of a repository's level would be known of the other."""
    cards = ("geforce-rtx-4090", "geforce-rtx-3090")
    both = [of(card, source=f"github.com/a/b@{rev}:x") for card in cards for rev in (1, 2)]
    observations = validation.evidence.from_published([*published()[:60], *both])
    seen = []
    fit = validation.efficiency.fit
    monkeypatch.setattr(
        validation.efficiency, "fit", lambda known: seen.append(known) or fit(known)
    )
    found = validation.strangers(observations)
    assert found["a/b"]["results"] == 4
    known = [{one.source for one in others if "a/b" in one.source} for others in seen]
    assert {len(revisions) for revisions in known} == {0, 2}
