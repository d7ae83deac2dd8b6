"""The study of the verdict judges by the rules that ship, only many splits at a time."""

import importlib.util
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from gpubench import compare, stats

PATH = Path(__file__).parents[2] / "benchmarks/verdict_study/evaluate.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("verdict_study_evaluate", PATH)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def cases(study):
    rng = np.random.default_rng(4)
    spreads = (0.003, 0.02, 0.1)
    return [
        study.Samples([rng.normal(np.exp(rng.normal(0, spread)), 0.01, 12) for _ in range(8)])
        for spread in spreads
    ]


def test_every_ordered_pair_of_sides_without_a_common_run_is_looked_at_once(study, cases):
    sides = study.Sides.of(cases, 3)
    chosen = list(combinations(range(8), 3))
    seen = {
        (chosen[i], chosen[j])
        for batch in study.pairs(sides, 1)
        for i, j in zip(*batch, strict=False)
    }
    expected = {(a, b) for a in chosen for b in chosen if not set(a) & set(b)}
    assert seen == expected
    assert sum(len(i) for i, _ in study.pairs(sides, 1)) == len(expected)


def test_the_chance_of_a_split_is_that_of_the_rule_that_ships(study, cases):
    sides = study.Sides.of(cases, 3)
    chosen = list(combinations(range(8), 3))
    (i, j) = next(iter(study.pairs(sides, 1)))
    chances = study.gpubench_chance(sides, sides, i, j)
    called = study.called(chances)
    for place in range(0, len(i), 3):
        for row, case in enumerate(cases):
            before, after = (case.median[list(chosen[k[place]])] for k in (i, j))
            judged = compare.judge(list(before), list(after))
            verdict = {"slower": 1, "faster": -1}.get(judged.verdict, 0)
            assert called[row, place] == verdict
            if judged.chance < 0.05:
                assert abs(chances[row, place]) == pytest.approx(judged.chance, rel=1e-6)


def test_the_correction_for_many_cases_is_the_one_that_ships(study):
    rng = np.random.default_rng(5)
    chances = rng.choice([-1, 1], (20, 300)) * rng.beta(0.3, 3, (20, 300))
    called = study.called_together(chances)
    for column in range(300):
        adjusted = stats.false_discovery(list(np.abs(chances[:, column])))
        expected = [
            np.sign(chance) if share < compare.FALSE_DISCOVERIES else 0
            for chance, share in zip(chances[:, column], adjusted, strict=True)
        ]
        assert list(called[:, column]) == expected


def test_turns_take_the_sides_from_neighbouring_runs_and_never_from_one(study):
    """Run k of the base holds k, run k of the other 100 + k: which were paired shows in ratios."""
    base = study.Samples([np.array([2.0**k]) for k in range(6)])
    other = study.Samples([np.array([2.0 ** (10 + k)]) for k in range(6)])
    seen = []
    study.compare.judge_pairs, kept = (
        lambda before, after: seen.append((list(before), list(after))) or kept(before, after),
        study.compare.judge_pairs,
    )
    try:
        study.in_turns(base, other, 3)
    finally:
        study.compare.judge_pairs = kept
    places = [
        (int(np.log2(a)), int(np.log2(b)) - 10)
        for before, after in seen
        for a, b in zip(before, after, strict=False)
    ]
    assert places == [(0, 1), (3, 2), (4, 5)]
