"""The pytest plugin as its users meet it: real pytest runs on a device whose clock is scripted."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpubench import regression
from gpubench.backends import _witness
from gpubench.errors import UnreadableResult
from gpubench.pytest_plugin import Settings
from gpubench.record import Record

pytest.importorskip("pytest_benchmark", reason="the plugin hands its samples to pytest-benchmark")

# A backend of its own, as users may add one: time passes only when a kernel says so, a little
# faster or slower in each process.
BACKEND = """
import os
from pathlib import Path
from gpubench.device import Device, DeviceInfo

EXAMPLE, PRIORITY = "scripted", -1
COUNT = Path(__file__).with_name("processes.txt")
PROCESS = int(COUNT.read_text()) if COUNT.exists() else 0
COUNT.write_text(str(PROCESS + 1))
MOOD = 1 + 0.001 * (PROCESS * 2 % 5)
clock = 0.0

def spend(seconds):
    global clock
    clock += MOOD * float(os.environ.get("MACHINE", 1)) * seconds

def present():
    return []

def open(selector):
    return Scripted()

class Scripted(Device):
    info = DeviceInfo("scripted", "scripted", "Scripted", "scripted", "none")
    def now(self): return clock
    def unsupported(self, precision): return None
    def flush(self): pass
    def expected_s(self, work, precision): return None
    def witnesses(self): return {"a spell": lambda: spend((2 + 0.001 * (PROCESS % 3)) * 1e-3)}
"""

TEN_LINES = """
from gpubench import plugins

def kernel(repeats):
    for _ in range(repeats):
        plugins.module("backends", "scripted").spend(1e-3)
    return repeats

def test_kernel(gpu_benchmark):
    assert gpu_benchmark(kernel, 10) == 10
"""

BESIDE = """
from pathlib import Path

def test_beside():
    with Path("beside.txt").open("a") as log:
        log.write("ran ")
"""


def _without_xdist():
    """This process's environment; a worker of xdist must not make its child think it is one."""
    told = ("PYTEST_XDIST", "COLUMNS")
    return {key: value for key, value in os.environ.items() if not key.startswith(told)}


@dataclass
class Project:
    """A user's folder with tests."""

    folder: Path

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pytest(self, *arguments, benchmark=True, **environment):
        """Run pytest there in a process of its own, with pytest-benchmark or without."""
        own = {
            "GPUBENCH_PATH": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        plugins = ["-p", "gpubench.pytest_plugin"]
        plugins += ["-p", "pytest_benchmark.plugin"] if benchmark else []
        device = ["--gpubench-device", "scripted"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, *device, *arguments],
            cwd=self.folder,
            env=_without_xdist() | own | environment,
            capture_output=True,
            text=True,
        )

    @property
    def saved(self):
        return sorted(self.folder.glob(".benchmarks/*/*.json"))


@pytest.fixture(scope="module")
def make_project(tmp_path_factory):
    def make(test=TEN_LINES):
        project = Project(tmp_path_factory.mktemp("project"))
        project.write("backends/scripted.py", BACKEND)
        project.write("test_kernel.py", test)
        return project

    return make


@pytest.fixture(scope="module")
def saved(make_project):
    """A project with a saved run of three trials, beside a test that counts how often it runs."""
    project = make_project()
    project.write("test_beside.py", BESIDE)
    done = project.pytest(
        *("--benchmark-save=main", "--gpubench-trials", "3", "--junitxml=report.xml"),
        "--benchmark-json=all.json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def check(project, *arguments):
    return project.pytest("--gpubench-fail-on", "slower", "--gpubench-trials", "3", *arguments)


def test_an_unchanged_kernel_passes_and_one_slowed_by_a_fifth_fails_by_name(saved):
    done = check(saved, "--gpubench-baseline", "main")
    assert done.returncode == 0, done.stdout
    assert "1 same" in done.stdout
    saved.write("test_kernel.py", TEN_LINES.replace("range(repeats)", "range(repeats * 12 // 10)"))
    done = check(saved)
    saved.write("test_kernel.py", TEN_LINES)
    assert done.returncode == 1
    assert "SLOWER test_kernel.py::test_kernel takes 20 % longer" in done.stdout
    assert "1 slower" in done.stdout
    assert "3 + 3" in done.stdout


def test_a_slower_hour_of_the_machine_fails_no_test_and_the_summary_says_so(saved):
    done = saved.pytest("--gpubench-fail-on=slower", "--gpubench-trials=3", MACHINE="1.2")
    assert done.returncode == 0, done.stdout
    assert "1 inconclusive" in done.stdout
    assert "in units of a spell the ratio is 1.00" in done.stdout
    assert "save the old code anew" in done.stdout


def test_one_process_is_no_verdict_and_the_summary_says_what_to_type(saved):
    slowed = TEN_LINES.replace("range(repeats)", "range(2 * repeats)")
    saved.write("test_kernel.py", slowed)
    done = saved.pytest("--gpubench-fail-on=slower", "--gpubench-trials=1")
    saved.write("test_kernel.py", TEN_LINES)
    assert done.returncode == 0
    assert "1 inconclusive" in done.stdout
    assert "--gpubench-trials 5" in done.stdout


def test_further_trials_are_fresh_processes_that_leave_no_other_trace(saved):
    assert len(saved.saved) == 1
    assert 'tests="2"' in (saved.folder / "report.xml").read_text()
    trials = json.loads(saved.saved[0].read_text())["benchmarks"][0]["extra_info"]
    medians = trials["gpubench_trial_medians_s"]
    assert len(set(medians)) == 3  # each process has another mood
    assert [row["trial"] for row in trials["gpubench_trials"]] == [1, 2, 3]


def test_a_test_that_measures_nothing_runs_once_however_many_trials(make_project):
    project = make_project()
    project.write("test_beside.py", BESIDE)
    assert project.pytest("--gpubench-trials", "3").returncode == 0
    assert (project.folder / "beside.txt").read_text() == "ran "
    assert (project.folder / "backends" / "processes.txt").read_text() == "3"


def test_samples_of_all_trials_are_saved_where_pytest_benchmark_saves_its_own(saved):
    lean, full = (
        json.loads(path.read_text())["benchmarks"][0]
        for path in (saved.saved[0], saved.folder / "all.json")
    )
    assert "data" not in lean["stats"]
    assert not any("samples_s" in row for row in lean["extra_info"]["gpubench_trials"])
    rows = full["extra_info"]["gpubench_trials"]
    assert rows[0]["samples_s"] == full["stats"]["data"]
    assert all(row["samples_s"] for row in rows)
    assert full["stats"]["median"] == pytest.approx(0.01)
    assert rows[0]["card"] == "Scripted"
    assert rows[0]["timer"] == "host"


def test_pytest_benchmarks_own_comparison_and_table_work(saved):
    done = saved.pytest("--benchmark-compare", "--benchmark-compare-fail=median:1%")
    assert "(0001_main)" in done.stdout
    assert done.returncode == 0
    saved.write("test_kernel.py", TEN_LINES.replace("range(repeats)", "range(2 * repeats)"))
    done = saved.pytest("--benchmark-compare", "--benchmark-compare-fail=median:50%")
    saved.write("test_kernel.py", TEN_LINES)
    assert done.returncode != 0
    assert "Performance has regressed" in done.stdout + done.stderr


def test_only_skip_and_disable_mean_what_they_do_for_pytest_benchmark(saved):
    assert "1 passed, 1 skipped" in saved.pytest("--benchmark-only").stdout
    assert "1 passed, 1 skipped" in saved.pytest("--benchmark-skip").stdout
    done = saved.pytest("--benchmark-disable", "--gpubench-fail-on=slower")
    assert "2 passed" in done.stdout
    assert "nothing was measured" in done.stdout


def test_a_worker_of_xdist_runs_the_function_once_and_measures_nothing(saved):
    done = saved.pytest("test_kernel.py", PYTEST_XDIST_WORKER="gw0")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert "Rounds" not in done.stdout


def test_without_pytest_benchmark_other_tests_run_and_the_fixture_says_what_to_install(saved):
    done = saved.pytest(benchmark=False)
    assert "1 passed, 1 error" in done.stdout
    assert "gpu_benchmark needs pytest-benchmark: pip install" in done.stdout
    done = saved.pytest("--gpubench-fail-on=slower", benchmark=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR


def test_a_baseline_that_is_not_there_is_refused_before_anything_runs(saved):
    done = check(saved, "--gpubench-baseline", "nowhere")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no saved run of that name" in done.stderr
    assert "passed" not in done.stdout


def test_a_first_run_passes_and_says_how_to_save_one(make_project):
    done = make_project().pytest("--gpubench-fail-on=slower", "--gpubench-trials=1")
    assert done.returncode == 0
    assert "--benchmark-autosave --gpubench-trials 1" in done.stdout


def test_a_gate_whose_saved_runs_are_all_unreadable_is_closed(make_project):
    project = make_project()
    assert project.pytest("--benchmark-autosave", "--gpubench-trials=1").returncode == 0
    (saved,) = project.saved
    saved.write_text(saved.read_text()[:100])
    done = check(project)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "none of the saved runs in" in done.stderr
    assert "passed" not in done.stdout


def test_a_trial_that_dies_is_told_and_costs_no_more_than_itself(make_project):
    dying = "import os\n" + TEN_LINES.replace(
        "    assert gpu",
        "    if plugins.module('backends', 'scripted').PROCESS == 1: os._exit(7)\n    assert gpu",
    )
    done = make_project(dying).pytest("--gpubench-trials", "3", "--benchmark-save=main")
    assert done.returncode == 0
    assert "trial 2: exit status 7" in done.stdout


FAULTS = """
import pytest
from gpubench import plugins

def kernel():
    plugins.module("backends", "scripted").spend(1e-3)

def test_raises(gpu_benchmark):
    gpu_benchmark(lambda: 1 / 0)

def test_twice(gpu_benchmark):
    gpu_benchmark(kernel)
    gpu_benchmark(kernel)

@pytest.mark.gpubench(speed=1)
def test_unknown_keyword(gpu_benchmark): ...

@pytest.mark.gpubench(cache="lukewarm")
def test_bad_value(gpu_benchmark): ...

@pytest.mark.gpubench(device="abacus")
def test_no_such_device(gpu_benchmark):
    gpu_benchmark(kernel)
"""


def test_mistakes_fail_their_test_in_words_and_start_no_further_trials(make_project):
    project = make_project(FAULTS)
    done = project.pytest("--gpubench-trials", "3")
    assert "ZeroDivisionError" in done.stdout
    assert "time one function in a test" in done.stdout
    assert "unexpected keyword argument 'speed'" in done.stdout
    assert "cache is hot or cold, not 'lukewarm'" in done.stdout
    assert "no device is named 'abacus'" in done.stdout
    assert "trial 2" not in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr


def test_the_plugin_loads_without_anything_heavy():
    code = "import sys, gpubench.pytest_plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "pandas", "numpy", "scipy", "pyarrow", "pytest_benchmark", "rich"}
    assert not set(done.stdout.split()) & heavy


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"budget_s": -1.0}, {"half_width": 0.0}, {"min_effect": -0.1}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="above 0"):
        Settings(**wrong)


# verdicts --------------------------------------------------------------------------------------

MACHINE = {"node": "here", "system": "Linux", "machine": "x86", "cpu": {"brand_raw": "A"}}
NAME = "test_kernel.py::test_kernel"


def a_saved_run(medians, machine=MACHINE, **row):
    columns = {"card_id": "a", "timer": "host", "cache": "hot"} | row
    extra = {"gpubench_trial_medians_s": medians, "gpubench_trials": [columns for _ in medians]}
    benchmark = {"fullname": NAME, "stats": {}, "extra_info": extra if medians else {}}
    return {"machine_info": machine, "benchmarks": [benchmark]}


def judged(saved_runs, now, lost=(), **row):
    columns = {"card_id": "a", "timer": "host", "cache": "hot"} | row
    trials = [Record(samples_s=[median], **columns) for median in now]
    baseline = regression.read([("saved", run) for run in saved_runs], MACHINE)
    (row,) = regression.verdicts([regression.Test(NAME, trials, lost)], baseline)
    return row


STEADY = [1.0, 1.001, 0.999, 1.0005]


def test_the_times_beside_a_ratio_have_that_ratio():
    row = judged([a_saved_run([1.0, 1.01, 3.0])], [1.0, 1.3, 1.2])
    assert row["median_s"] / row["baseline_s"] == pytest.approx(row["ratio"])


def test_saved_runs_of_one_process_each_are_pooled_to_a_baseline():
    row = judged([a_saved_run([median]) for median in STEADY], [1.2, 1.201, 1.199])
    assert row["verdict"] == "slower"
    assert row["baseline_trials"] == 4
    assert row["ratio"] == pytest.approx(1.2, abs=0.01)


def test_a_change_below_the_minimum_effect_is_the_same():
    assert judged([a_saved_run(STEADY)], [1.01, 1.011, 1.009])["verdict"] == "same"


def test_a_saved_run_of_another_machine_never_counts():
    other = MACHINE | {"node": "there"}
    row = judged([a_saved_run(STEADY, other)], [2.0, 2.01, 2.02])
    assert row["verdict"] == "incomparable"
    assert "node there against here" in row["detail"]
    mixed = judged([a_saved_run([9.0, 9.1, 9.2], other), a_saved_run(STEADY)], STEADY)
    assert mixed["verdict"] == "same"


@pytest.mark.parametrize("column", ["card_id", "timer", "cache", "cold_by", "provenance"])
def test_sides_that_were_measured_differently_are_incomparable(column):
    row = judged([a_saved_run(STEADY, **{column: "other"})], STEADY)
    assert row["verdict"] == "incomparable"
    assert column in row["detail"]


def test_a_test_without_or_with_a_foreign_saved_run_is_incomparable():
    assert judged([], STEADY)["reason"] == "one_side_only"
    row = judged([a_saved_run([])], STEADY)
    assert row["verdict"] == "incomparable"
    assert "not `gpu_benchmark`" in row["detail"]


def test_one_slower_test_among_many_alike_may_be_chance_and_is_not_called_slower():
    before, after = [1.0, 1.004, 0.996], [1.05, 1.056, 1.046]
    assert judged([a_saved_run(before)], after)["verdict"] == "slower"
    runs = [a_saved_run(before) for _ in range(200)]
    for number, run in enumerate(runs):
        run["benchmarks"][0]["fullname"] = str(number)
    baseline = regression.read([("saved", run) for run in runs], MACHINE)
    tests = [
        regression.Test(
            str(number),
            [
                Record(samples_s=[median], card_id="a", timer="host", cache="hot")
                for median in (after if number == 7 else before[::-1])
            ],
        )
        for number in range(200)
    ]
    row = regression.verdicts(tests, baseline)[7]
    assert (row["verdict"], row["reason"]) == ("inconclusive", "many_cases")


SLOWER = [1.2, 1.201, 1.199]
WITNESS = {"a matrix product": 1.0, "a copy": 1.0}


def test_a_machine_that_slowed_down_as_a_whole_is_no_slower_test():
    saved = a_saved_run(STEADY, witness_s=WITNESS)
    row = judged([saved], SLOWER, witness_s=dict.fromkeys(WITNESS, 1.2))
    assert (row["verdict"], row["reason"]) == ("inconclusive", "machine_changed")
    assert "in units of a copy the ratio is 1.0" in row["detail"]
    faster = judged([saved], [0.8, 0.801, 0.799], witness_s=dict.fromkeys(WITNESS, 0.8))
    assert faster["reason"] == "machine_changed"


@pytest.mark.parametrize("name", WITNESS)
def test_one_witness_that_says_otherwise_is_enough(name):
    row = judged([a_saved_run(STEADY, witness_s=WITNESS)], SLOWER, witness_s=WITNESS | {name: 1.2})
    assert row["reason"] == "machine_changed"
    assert name in row["detail"]


def test_a_slower_test_beside_steady_witnesses_stays_slower():
    saved = a_saved_run(STEADY, witness_s=WITNESS)
    assert judged([saved], SLOWER, witness_s=WITNESS)["verdict"] == "slower"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"witness_s": {"a copy": 1.2}}),
        ({"witness_s": WITNESS}, {}),
        ({"witness_s": {"a copy": 0.0}}, {"witness_s": {"a copy": 1.2}}),
        ({"witness_s": {"a copy": float("inf")}}, {"witness_s": {"a copy": 1.2}}),
        ({"witness_s": WITNESS, "torch": "2.0"}, {"witness_s": {"a copy": 1.2}, "torch": "2.1"}),
        (
            {"witness_s": WITNESS, "threads": 2},
            {"witness_s": dict.fromkeys(WITNESS, 1.2), "threads": 1},
        ),
    ],
    ids=["none before", "none now", "zero", "infinite", "another torch", "other threads"],
)
def test_where_witnesses_say_nothing_the_times_alone_are_judged(before, after):
    """A step that another torch runs is another step, and dividing by it would hide the change."""
    assert judged([a_saved_run(STEADY, **before)], SLOWER, **after)["verdict"] == "slower"


@pytest.mark.parametrize("medians", [[0.0], [-1.0], ["1"], [float("inf")], "1"])
def test_a_baseline_with_times_that_can_not_be_is_refused(medians):
    run = a_saved_run([1.0])
    run["benchmarks"][0]["extra_info"]["gpubench_trial_medians_s"] = medians
    with pytest.raises(UnreadableResult):
        regression.read([("saved", run)], MACHINE)


def test_lost_trials_excuse_nothing_slow_and_prove_nothing_fast():
    lost = ["trial 4: it died"]
    assert judged([a_saved_run(STEADY)], [1.2, 1.201, 1.199], lost)["verdict"] == "slower"
    for now in (STEADY, [0.8, 0.801, 0.799]):
        row = judged([a_saved_run(STEADY)], now, lost)
        assert (row["verdict"], row["reason"]) == ("inconclusive", "failed_trials")


def test_a_baseline_that_cannot_be_read_leaves_no_gate_open(make_project):
    """What nothing was judged by must not look like a pass."""
    project = make_project()
    assert project.pytest("--benchmark-save=main", "--gpubench-trials", "3").returncode == 0
    (saved,) = project.saved
    newer = saved.read_text().replace('"schema_version": 1', '"schema_version": 99')
    assert newer != saved.read_text()
    saved.write_text(newer)
    done = check(project, "--gpubench-baseline", "main")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr


# trials under trouble --------------------------------------------------------------------------

LOGGING = """
import logging

def test_beside():
    logging.warning("of the first process")
"""
HALF_A_FILE = """
import atexit, os
from pathlib import Path

if path := os.environ.get("GPUBENCH_PYTEST_TRIAL"):
    atexit.register(lambda: Path(path).write_text(Path(path).read_text()[:40]))
"""
LEFT_BEHIND = """
import subprocess
from pathlib import Path
from gpubench import plugins

def test_beside(gpu_benchmark):
    gpu_benchmark(plugins.module("backends", "scripted").spend, 1e-3)
    # What the first process leaves lets go of the output: that is read by who started it.
    output = None if Path("first").exists() else subprocess.DEVNULL
    Path("first").touch()
    left = subprocess.Popen(["sleep", "100"], stdout=output, stderr=output)
    with Path("left").open("a") as log:
        log.write(f"{left.pid} ")
"""


def test_a_trial_whose_file_is_cut_short_is_lost_and_the_run_is_saved(make_project):
    project = make_project()
    project.write("conftest.py", HALF_A_FILE)
    done = project.pytest("--benchmark-save=main", "--gpubench-trials", "2")
    assert done.returncode == 0, done.stdout
    assert "trial 2: exit status 0" in done.stdout
    assert len(project.saved) == 1


@pytest.mark.parametrize("how", [["--log-file=my.log"], ["-o", "log_file=my.log"]])
def test_a_trial_leaves_the_log_of_the_first_process_alone(make_project, how):
    project = make_project()
    project.write("test_beside.py", LOGGING)
    assert project.pytest(*how, "--gpubench-trials", "2").returncode == 0
    assert "of the first process" in (project.folder / "my.log").read_text()


def test_a_trial_runs_without_pytests_cache(make_project):
    project = make_project()
    done = project.pytest("-p", "no:cacheprovider", "--strict-config", "--gpubench-trials", "2")
    assert "exit status" not in done.stdout


def test_a_process_that_a_test_leaves_behind_holds_no_trial_up(make_project):
    project = make_project(LEFT_BEHIND)
    begin = time.monotonic()
    done = project.pytest("-s", "--gpubench-trials", "2")
    assert done.returncode == 0
    took = time.monotonic() - begin
    for process in (project.folder / "left").read_text().split():
        os.kill(int(process), signal.SIGKILL)
    assert took < 60


def test_witnesses_that_fail_cost_the_test_nothing(make_project):
    project = make_project()
    project.write("backends/scripted.py", BACKEND.replace("lambda: spend", "lambda: 1 / 0 + spend"))
    assert project.pytest().returncode == 0


def test_witnesses_are_the_same_steps_whatever_torchs_default_type():
    torch = pytest.importorskip("torch", reason="the steps are torch's")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        results = [step() for step in _witness.steps("cpu").values()]
    finally:
        torch.set_default_dtype(before)
    assert {result.dtype for result in results} == {torch.float32}
