"""Suites: what they hold, and what is said of a wrong one."""

import pytest

from gpubench import plugins
from gpubench.errors import UsageError
from gpubench.suite import load_suite
from gpubench.workload import all_workloads

FAMILIES = {"gemm", "conv2d", "attention", "memory", "reduction", "mnist", "bert"}
# Of one kernel each, and in the full suite only.
KERNELS = {"softmax", "bias_gelu"}


@pytest.mark.parametrize("name", plugins.files("suites", ".toml"))
def test_every_suite_has_a_summary_and_cases_whose_work_is_declared(name):
    suite = load_suite(name)
    assert suite.summary
    for case in suite.cases:
        work = all_workloads()[case.workload].work(dict(case.params))
        assert work is not None
        assert (work.flops or work.bytes) > 0
        assert work.footprint > 0


def test_quick_has_a_case_of_every_family():
    assert {case.workload for case in load_suite("quick").cases} == FAMILIES


def test_full_has_everything_that_quick_has_and_every_value_of_every_axis():
    full = load_suite("full")
    kept = {(case.workload, axis, value) for case in full.cases for axis, value in case.params}
    quick = {(case.id, case.cache) for case in load_suite("quick").cases}
    assert quick <= {(case.id, case.cache) for case in full.cases}
    every = {
        (workload.name, axis, value)
        for workload in all_workloads().values()
        if workload.name in FAMILIES | KERNELS
        for axis, values in workload.axes.items()
        for value in values
    }
    assert every <= kept


def write(path, text):
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no cases"),
        ("[[case]]\nworkload = 'gem'", "no workload is named 'gem'"),
        ("[[case]]\nworkload = 'gemm'\nsize = [1]", "no axis of gemm is named 'size'"),
        ("[[case]]\nworkload = 'gemm'\nprecision = 'fp32'", "not a list"),
        ("[[case]]\nworkload = 'gemm'\nprecision = []", "not a list"),
        ("[[case]]\nworkload = 'memory'\nmib = ['x']", "another type than the axis"),
        ("[[case]]\nworkload = 'memory'\nmib = [true]", "another type than the axis"),
        ("[[case]]\nshape = ['1x1x1']", "lacks its workload"),
        ("[[case]]\nworkload = 'gemm'\ncache = 'tepid'", "cache = 'tepid'"),
        ("budget = 3\n[[case]]\nworkload = 'gemm'", "unknown key 'budget'"),
        ("budget_s = -1\n[[case]]\nworkload = 'gemm'", "budget_s = -1"),
        ("budget_s = true\n[[case]]\nworkload = 'gemm'", "budget_s = True"),
        ("case = 3", "[[case]] blocks"),
        ("this is no toml", "not valid TOML"),
    ],
)
def test_a_wrong_suite_is_refused_with_the_file_and_the_reason(tmp_path, text, problem):
    path = write(tmp_path / "mine.toml", text)
    with pytest.raises(UsageError) as caught:
        load_suite(path)
    assert problem in str(caught.value)


def test_a_missing_file_and_an_unknown_name_are_told_apart():
    with pytest.raises(UsageError, match=r"nowhere\.toml: No such file"):
        load_suite("nowhere.toml")
    with pytest.raises(UsageError) as caught:
        load_suite("quik")
    assert "did you mean 'quick'?" in caught.value.remedy


def test_equal_cases_of_two_blocks_run_once(tmp_path):
    block = "[[case]]\nworkload = 'gemm'\nshape = ['64x64x64']\nprecision = ['fp32']\n"
    assert len(load_suite(write(tmp_path / "twice.toml", block * 2)).cases) == 1


def test_selection_takes_workload_names_globs_and_whole_ids():
    quick = load_suite("quick")
    first = quick.cases[0]
    assert {case.workload for case in quick.select(only=["mnist"]).cases} == {"mnist"}
    assert quick.select(only=[first.id]).cases == (first,)
    assert all("fp32" in case.id for case in quick.select(only=["*fp32*"]).cases)
    assert "gemm" not in {case.workload for case in quick.select(skip=["gemm"]).cases}


def test_a_selection_that_matches_nothing_is_refused():
    quick = load_suite("quick")
    with pytest.raises(UsageError, match="'gem' matches no case"):
        quick.select(only=["gem"])
    with pytest.raises(UsageError, match="leaves nothing"):
        quick.select(skip=["*"])
