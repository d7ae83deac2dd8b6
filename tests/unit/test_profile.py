"""Profiles of work: each can be measured, finds a card, and a bad one is refused."""

import math

import pytest

from gpubench import advice
from gpubench.errors import UsageError
from gpubench.profile import load_profile
from gpubench.recommend import Question, recommend
from gpubench.suite import load_suite
from gpubench.workload import parse_case_id

PROFILES = ("balanced", "training", "finetune", "budget", "efficiency", "inference")
BALANCED = load_profile("balanced")


def ask(job=None, **known):
    return recommend(Question(**({"profile": BALANCED, "job": job} | known)))


@pytest.mark.parametrize("name", PROFILES)
def test_every_case_of_a_profile_is_measured_by_the_full_suite(name):
    """Else no measurement of a card could ever be complete."""
    measured = {case.id for case in load_suite("full").cases}
    profile = load_profile(name)
    assert set(profile.cases) <= measured
    assert math.isclose(sum(profile.weights.values()), 1)
    assert profile.summary


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_finds_a_card_and_says_why(name):
    answer = ask(profile=load_profile(name))
    assert answer.ranking.scored
    assert advice.sentence(answer).startswith(advice.label(answer.ranking.scored[0].name))


GOOD = """
reference = "geforce-rtx-3090"
[weights]
performance = 1
value = 1
[cases]
"gemm:shape=4096x4096x4096,precision=bf16" = 1
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("performance", "speed"), "weights.speed"),
        (("performance = 1", "performance = -1"), "weights.performance = -1"),
        (("performance = 1", "performance = inf"), "weights.performance = inf"),
        (("performance = 1", "performance = true"), "weights.performance = True"),
        (("performance = 1\nvalue = 1", "value = 0"), "weights has no weight above zero"),
        (("geforce-rtx-3090", "geforce-rtx-309"), "reference: no card"),
        (("geforce-rtx-3090", "nvidia-a10"), "nvidia-a10 has no launch price"),
        (('"geforce-rtx-3090"', "3"), "reference = 3"),
        (("[cases]", "[case]"), "case"),
        (('"gemm:', '":'), "cases"),
        (("[cases]", '[gates]\nprecision = "fp17"\n[cases]'), "gates.precision"),
        (("[cases]", "[gates]\nmemory = 3\n[cases]"), "gates.memory"),
        (("[weights]\nperformance = 1\nvalue = 1", "weights = 3"), "weights = 3"),
        (("reference", "referenz"), "referenz"),
        (("[cases]", "[cases"), "not valid TOML"),
    ],
)
def test_a_bad_profile_is_refused_with_the_key(tmp_path, change, words):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_profile(str(path)).weights["value"] == 0.5
    path.write_text(GOOD.replace(*change))
    with pytest.raises(UsageError) as error:
        load_profile(str(path))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("case_id", "words"),
    [
        ("gem:shape=1x1x1,precision=bf16", "gem"),
        ("gemm:shape=1x1x1", "lacks precision"),
        ("gemm:shape=1x1x1,precision=bf16,size=3", "size"),
        ("memory:operation=copy,mib=much,precision=fp32", "is no int"),
        (
            "attention:batch=1,heads=1,sequence=1,head_dim=1,causal=maybe,direction=f,precision=x",
            "bool",
        ),
        ("memory:operation=copy,mib=-5,precision=fp32", "mib is not above zero"),
        ("memory:operation=copy,mib=0,precision=fp32", "mib is not above zero"),
        (
            "bert:size=base,batch=-32,sequence=-128,precision=bf16",
            "batch is not above zero",
        ),
        ("memory:operation=copy,mib=5,precision=zz", "has no work: KeyError: 'zz'"),
        (f"memory:operation=copy,mib={'9' * 400},precision=fp32", "work that no step can have"),
        (f"gemm:shape={'9' * 5000}x1x1,precision=fp32", "has no work: ValueError"),
    ],
)
def test_a_case_that_is_none_is_refused_with_its_fault(tmp_path, case_id, words):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("gemm:shape=4096x4096x4096,precision=bf16", case_id))
    with pytest.raises(UsageError) as error:
        ask(profile=load_profile(str(path)))
    assert words in f"{error.value} {error.value.remedy}"


def test_a_case_id_is_read_back_as_it_was_written():
    for case in load_suite("full").cases:
        workload, params = parse_case_id(case.id)
        assert workload.name == case.workload
        assert params == dict(case.params)


def test_a_profile_whose_reference_cannot_do_a_case_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("geforce-rtx-3090", "geforce-gtx-1080-ti"))
    with pytest.raises(UsageError, match="bf16 begins with Ampere"):
        ask(profile=load_profile(str(path)))
