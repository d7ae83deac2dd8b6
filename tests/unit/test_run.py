"""A run: what goes wrong in a case costs that case, and nothing measured is lost."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import zip_longest
from types import SimpleNamespace

import pytest

from gpubench import console, modelled, store, worker
from gpubench.cards import GIB, get_card
from gpubench.device import open_device
from gpubench.errors import CannotWrite, EnvironmentRefused, UsageError
from gpubench.predict import Predictor
from gpubench.run import Execution, Finished, Pace, Request, Started, plan
from gpubench.suite import load_suite
from gpubench.workload import Work

SUITE = """
budget_s = 0.2
timeout_s = {timeout_s}
[[case]]
workload = "gemm"
shape = ["256x256x256", "512x512x512", "1024x1024x1024"]
precision = ["fp32", "bf16"]
"""
CARD = "virtual:geforce-rtx-3090"


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SUITE.format(timeout_s=60))
    return load_suite(str(path))


def execute(suite, tmp_path, device=CARD, resume=None, **request):
    execution = Execution(Request(suite, device, **request), str(tmp_path / "out"), resume)
    return execution, list(execution)


def by_shape(execution):
    return {record.params["shape"]: record for record in execution.records}


def test_every_case_becomes_a_row_that_is_on_disk_when_its_event_comes(suite, tmp_path):
    execution = Execution(Request(suite, CARD), str(tmp_path))
    finished = 0
    for event in execution:
        if isinstance(event, Finished):
            finished += 1
            assert len(store.read_records(str(execution.path))) == finished
    assert finished == len(suite.cases)
    assert not execution.failures


def test_progress_counts_up_and_the_time_left_down_to_the_last_case(suite, tmp_path):
    _, events = execute(suite, tmp_path)
    started = [event for event in events if isinstance(event, Started)]
    assert [event.position for event in started] == list(range(1, len(suite.cases) + 1))
    assert started[0].left_s > started[-1].left_s > 0


def test_after_the_last_case_nothing_is_left(suite, tmp_path):
    _, events = execute(suite, tmp_path)
    finished = [event for event in events if isinstance(event, Finished)]
    assert finished[0].left_s > finished[-1].left_s == pytest.approx(0.0, abs=1e-9)


def test_what_is_left_follows_how_long_cases_really_take(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gpubench.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace(ahead_s=30.0, began=100.0)
    assert pace.left_s == 30.0
    now[0] += 20.0
    pace.ended(10.0)  # twice as long as expected
    assert pace.left_s == 40.0


def test_no_more_is_left_than_of_the_budget(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("gpubench.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace(ahead_s=30.0, began=0.0, budget_s=10.0)
    assert pace.left_s == 10.0
    now[0] = 8.0
    assert pace.left_s == 2.0
    now[0] = 12.0
    assert pace.left_s == 0.0


def test_while_a_case_hangs_the_time_left_counts_down_and_then_it_is_said_to_be_late(suite):
    event = Started(suite.cases[0], 1, 3, 9, left_s=30.0, case_s=5.0)
    shown = [console.time_left(event, waited_s) for waited_s in (0, 2, 5, 9, 11, 60)]
    assert shown == [
        "about 30 s left",
        "about 28 s left",
        "about 25 s left",
        "about 25 s left",
        *["longer than planned, then about 25 s"] * 2,
    ]


def test_a_log_says_beside_each_case_what_was_left_after_it(suite, capsys, tmp_path):
    console.follow(Execution(Request(suite, CARD), str(tmp_path)))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert len(lines) == len(suite.cases)
    assert all(" left] " in line for line in lines)
    assert [line for line in lines if "nothing left" in line] == lines[-1:]


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        ("oom", "oom", "out of memory"),
        ("crash", "crashed", "SIGKILL"),
        ("wrong", "wrong", "script of the virtual device"),
    ],
)
def test_trouble_in_one_case_is_its_row_and_the_others_run(suite, tmp_path, trouble, status, words):
    device = f"{CARD},{trouble}=gemm*512x512x512*"
    execution, _ = execute(suite, tmp_path, device)
    rows = {record.case_id: record for record in store.read_records(str(execution.path))}
    assert len(rows) == len(suite.cases)
    for case_id, row in rows.items():
        if "512x512x512" in case_id:
            assert (row.status, row.samples_s) == (status, None)
            assert words in row.reason
        else:
            assert (row.status, row.reason) == ("ok", None)
    assert len(execution.failures) == 2


def test_a_case_that_hangs_is_ended_after_its_time_and_the_others_run(tmp_path):
    path = tmp_path / "impatient.toml"
    path.write_text(SUITE.format(timeout_s=1.5))
    suite = load_suite(str(path)).select(only=["*fp32*"])
    execution, _ = execute(suite, tmp_path, f"{CARD},hang=*512x512x512*")
    rows = by_shape(execution)
    assert rows["512x512x512"].status == "timeout"
    assert "1.5 s" in rows["512x512x512"].reason
    assert {rows["256x256x256"].status, rows["1024x1024x1024"].status} == {"ok"}


def test_what_a_card_lacks_is_unsupported_and_no_failure(suite, tmp_path):
    execution, _ = execute(suite, tmp_path, "virtual:geforce-gtx-1080-ti")
    for record in execution.records:
        expected = "unsupported" if record.params["precision"] == "bf16" else "ok"
        assert record.status == expected
        assert (record.reason is None) == (expected == "ok")
    assert not execution.failures


def test_a_case_too_large_or_too_slow_is_left_out_with_the_figures(tmp_path):
    path = tmp_path / "large.toml"
    path.write_text(
        "step_limit_s = 0.01\n[[case]]\nworkload = 'gemm'\nprecision = ['fp32']\n"
        "shape = ['256x256x256', '16384x16384x16384', '131072x131072x131072']\n"
    )
    execution, _ = execute(load_suite(str(path)), tmp_path)
    rows = by_shape(execution)
    assert rows["256x256x256"].status == "ok"
    assert "allows 0.01 s" in rows["16384x16384x16384"].reason
    assert "of the device's 24.0 GiB" in rows["131072x131072x131072"].reason
    assert {row.status for row in rows.values()} == {"ok", "unsupported"}


def test_each_trial_runs_every_case_in_an_order_and_a_process_of_its_own(suite, tmp_path):
    execution, _ = execute(suite, tmp_path, trials=3)
    orders = [
        [record.case_id for record in execution.records if record.trial == trial]
        for trial in (1, 2, 3)
    ]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert {len(order) for order in orders} == {len(suite.cases)}


def test_a_spent_budget_leaves_rows_that_say_so(suite, tmp_path):
    execution, _ = execute(suite, tmp_path, budget_s=1e-6)
    assert {record.status for record in execution.records} == {"timeout"}
    assert "budget" in execution.records[0].reason


def test_a_case_that_hangs_is_ended_soon_after_the_budget_long_before_the_suites_limit(
    suite, tmp_path, monkeypatch
):
    monkeypatch.setattr("gpubench.run.GRACE_S", 0.5)
    began = time.monotonic()
    execution, _ = execute(suite, tmp_path, f"{CARD},hang=*", budget_s=1.0)
    assert time.monotonic() - began < suite.timeout_s / 2
    assert {record.status for record in execution.records} == {"timeout"}
    ended, *others = [record.reason for record in execution.records]
    assert ended.startswith("ended after 1.5 s: the run's budget of 1 s was spent")
    assert all(reason.startswith("not started") for reason in others)


def test_within_a_budget_the_suites_limit_ends_a_case_all_the_same(tmp_path):
    path = tmp_path / "impatient.toml"
    path.write_text(SUITE.format(timeout_s=1))
    suite = load_suite(str(path)).select(only=["*512x512x512*fp32*"])
    execution, _ = execute(suite, tmp_path, f"{CARD},hang=*", budget_s=60.0)
    assert [record.reason for record in execution.records] == [
        "ended after 1 s, the suite's timeout_s"
    ]


def test_resuming_runs_what_is_missing_or_failed_and_keeps_the_rest(suite, tmp_path):
    first, _ = execute(suite, tmp_path, f"{CARD},oom=*512x512x512*")
    again, events = execute(suite, tmp_path, resume=str(first.path))
    assert again.path == first.path
    ran = [event.record for event in events if isinstance(event, Finished)]
    assert {record.params["shape"] for record in ran} == {"512x512x512"}
    assert {record.attempt for record in ran} == {2}
    assert {record.run_id for record in again.records} == {first.records[0].run_id}
    assert not again.failures
    assert len(store.read_records(str(first.path))) == len(suite.cases) + 2


def test_an_existing_file_is_never_overwritten(suite, tmp_path):
    target = tmp_path / "mine.parquet"
    target.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        list(Execution(Request(suite, CARD), str(target)))
    assert target.read_bytes() == b"precious"


def test_a_device_that_is_not_there_is_refused_by_the_worker_in_one_error(suite, tmp_path):
    with pytest.raises(UsageError, match="no card is named 'geforce-rtx-9999'"):
        execute(suite, tmp_path, "virtual:geforce-rtx-9999")
    assert not (tmp_path / "out").exists()


def test_a_worker_that_dies_at_the_start_is_one_error(suite, tmp_path, monkeypatch):
    folder = tmp_path / "extensions" / "backends"
    folder.mkdir(parents=True)
    (folder / "doomed.py").write_text(
        "import os\nPRIORITY = -9\ndef present(): return []\ndef open(selector): os._exit(7)\n"
    )
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path / "extensions"))
    with pytest.raises(EnvironmentRefused, match="exit status 7"):
        execute(suite, tmp_path, "doomed")


def test_the_plan_lists_every_case_and_its_time(suite):
    made = plan(Request(suite, CARD))
    assert len(made.forecasts) == len(suite.cases)
    assert made.seconds == pytest.approx(sum(made.case_s(one) for _, one in made.forecasts))
    assert made.seconds > 0


def test_a_worker_that_died_between_two_cases_costs_one_row_and_not_the_rest(suite, tmp_path):
    execution = Execution(Request(suite, CARD), str(tmp_path))
    finished = 0
    for event in execution:
        if isinstance(event, Finished):
            finished += 1
            if finished == 2:
                os.kill(execution._worker._process.pid, signal.SIGKILL)
                execution._worker._process.join()
    assert [record.status for record in execution.records].count("crashed") == 1
    assert finished == len(suite.cases)


@pytest.mark.parametrize("other", ["virtual:tesla-t4", "cpu"])
def test_a_file_is_not_completed_by_another_device(suite, tmp_path, other):
    first, _ = execute(suite, tmp_path, f"{CARD},oom=*512x512x512*")
    before = first.path.read_bytes()
    if other == "cpu":
        pytest.importorskip("torch", reason="the processor measures with torch")
    with pytest.raises(UsageError, match="was measured with"):
        execute(suite, tmp_path, other, resume=str(first.path))
    assert first.path.read_bytes() == before


def test_resuming_through_a_link_completes_the_file_and_keeps_the_link(suite, tmp_path):
    first, _ = execute(suite, tmp_path, f"{CARD},oom=*")
    link = tmp_path / "latest.parquet"
    link.symlink_to(first.path)
    execute(suite, tmp_path, resume=str(link))
    assert link.is_symlink()
    assert len(store.read_records(str(first.path))) == 2 * len(suite.cases)


def test_two_runs_cannot_write_one_file(suite, tmp_path):
    first, _ = execute(suite, tmp_path, f"{CARD},oom=*")
    with (
        store.exclusive(first.path),
        pytest.raises(CannotWrite, match="another run is writing"),
    ):
        execute(suite, tmp_path, resume=str(first.path))


def test_parts_of_a_run_that_begin_in_one_second_get_files_of_their_own(
    suite, tmp_path, monkeypatch
):
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    monkeypatch.setattr("gpubench.run.datetime", SimpleNamespace(now=lambda _: moment))
    parts = [Execution(Request(suite.shard(k, 2), CARD), str(tmp_path / "out")) for k in (1, 2)]
    for _ in zip_longest(*parts):
        pass
    assert len({part.path for part in parts}) == 2
    kept = [record.case_id for part in parts for record in store.read_records(str(part.path))]
    assert sorted(kept) == sorted(case.id for case in suite.cases)


WORKLOADS = """
import os
from gpubench.workload import Prepared, Work, workload

@workload(version=1, kind=["plain", "fork", "text", "huge"])
def odd(device, kind):
    if kind == "fork" and os.fork() == 0:
        return Prepared(step=lambda: None, notes={"really": "the copy"})
    return Prepared(
        step=lambda: None,
        work=Work(flops=10**400 if kind == "huge" else 1),
        notes={"really": kind, "number": 3},
        outcome=lambda: {"loss": "much" if kind == "text" else 1},
    )

def raising(kind):
    raise ZeroDivisionError("in the declared work")

@workload(version=1, work=raising, kind=["any"])
def odd_work(device, kind):
    return Prepared(step=lambda: None)
"""


def test_odd_workloads_spoil_their_own_row_only(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the processor measures with torch")
    (tmp_path / "mine" / "workloads").mkdir(parents=True)
    (tmp_path / "mine" / "workloads" / "odd.py").write_text(WORKLOADS)
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path / "mine"))
    path = tmp_path / "odd.toml"
    blocks = "[[case]]\nworkload = 'odd'\n[[case]]\nworkload = 'odd_work'\n"
    path.write_text(f"budget_s = 0.1\nwarmup_s = 0.1\n{blocks}")
    execution, _ = execute(load_suite(str(path)), tmp_path, "cpu")
    rows = {(record.workload, record.params["kind"]): record for record in execution.records}
    assert rows["odd", "plain"].status == rows["odd", "fork"].status == "ok"
    assert rows["odd", "fork"].notes == {"really": "fork", "number": "3"}
    assert rows["odd", "plain"].notes["really"] == "plain"
    for key in (("odd", "text"), ("odd", "huge"), ("odd_work", "any")):
        assert rows[key].status == "failed"
    assert "ZeroDivisionError" in rows["odd_work", "any"].reason


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie that its new parent has not reaped is as good as gone
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


LEAKY = """
import subprocess, time
from pathlib import Path
from gpubench.workload import Prepared, workload

@workload(version=1, n=[1])
def leaky(device, n):
    child = subprocess.Popen(["sleep", "600"])
    Path(__file__).with_name("child.txt").write_text(f"{child.pid} ")
    return Prepared(step=lambda: time.sleep(600))
"""


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads process states from /proc")  # noqa: PTH110
@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads process states from /proc")  # noqa: PTH110
def test_a_killed_run_leaves_nothing_that_a_workload_started(tmp_path, monkeypatch):
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "leaky.py").write_text(LEAKY)
    (tmp_path / "leaky.toml").write_text('[[case]]\nworkload = "leaky"\n')
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path))
    command = [sys.executable, "-m", "gpubench", "run", "--suite", "leaky.toml", "--device", "cpu"]
    run = subprocess.Popen(command, cwd=tmp_path)
    child, deadline = tmp_path / "workloads" / "child.txt", time.monotonic() + 60
    while time.monotonic() < deadline and not (child.exists() and child.read_text()[-1:] == " "):
        time.sleep(0.1)
    run.kill()
    run.wait()
    started = int(child.read_text())
    while time.monotonic() < deadline and alive(started):
        time.sleep(0.1)
    assert not alive(started)


def test_clearing_the_temporary_folder_costs_a_run_nothing(suite, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    execution = Execution(Request(suite, CARD), str(tmp_path / "out"))
    for _ in execution:
        for log in tmp_path.glob("gpubench-worker-*"):
            log.unlink()
    assert len(execution.records) == len(suite.cases)


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads process states from /proc")  # noqa: PTH110
def test_a_killed_run_leaves_no_process_behind_and_a_readable_file(tmp_path):
    """SIGKILL gives the parent no time to clean up: the worker has to notice by itself."""
    path = tmp_path / "hangs.toml"
    path.write_text(SUITE.format(timeout_s=600))
    device = f"{CARD},hang=*1024x1024x1024*"
    command = [sys.executable, "-m", "gpubench", "run", "--suite", str(path), "--device", device]
    command += ["--run-id", "steady"]  # the order follows from it: two cases before one that hangs
    run = subprocess.Popen(
        [*command, "-o", str(tmp_path / "killed.parquet")], stderr=subprocess.PIPE, text=True
    )
    children = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not children:
        rows = tmp_path / "killed.parquet"
        if rows.exists() and store.read_records(str(rows)):
            listing = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True, text=True
            )
            children = [int(pid) for pid in listing.stdout.split()]
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert children
    while time.monotonic() < deadline and any(map(alive, children)):
        time.sleep(0.1)
    assert not any(map(alive, children))
    assert store.read_records(str(tmp_path / "killed.parquet"))


def test_between_cases_garbage_goes_and_what_stays_is_not_looked_through_again():
    code = (
        "import gc, weakref\nfrom gpubench.worker import set_aside_what_stays\n"
        "class Model: pass\n"
        "gc.disable()\n"
        "model = Model()\nmodel.itself = model\nlast = weakref.ref(model)\ndel model\n"
        "set_aside_what_stays()\n"
        "print(last() is None, gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]


# memory -------------------------------------------------------------------------------------------


BERT = "bert:size=base,batch=32,sequence=512,precision=fp32"


@pytest.mark.parametrize("card_id", ["geforce-rtx-4070", "geforce-gtx-1080-ti"])
def test_what_predict_says_fits_is_run_and_what_does_not_is_left_out(card_id):
    """That step needs 10.9 GiB: a 4070 has 11.7 usable, and a 1080 Ti 10.7."""
    suite = load_suite("full")
    device = open_device(f"virtual:{card_id}")
    found = {}
    for row, case in zip(
        modelled.rows([get_card(card_id)], suite, Predictor.shipped()), suite.cases, strict=True
    ):
        answer = worker.forecast(device, case, float("inf"))
        if row["fits_memory"] is not None and not device.unsupported(row["precision"]):
            found[case.id] = (row["fits_memory"], answer.left_out)
    assert all(fits == (reason is None) for fits, reason in found.values()), found
    assert found[BERT][0] == (card_id == "geforce-rtx-4070")
    assert len({fits for fits, _ in found.values()}) == 2


def test_what_does_not_fit_is_said_with_the_two_numbers_that_were_compared():
    """The context with it: 14.37 of 14.56 GiB would look as if it fitted."""
    card, case = get_card("tesla-t4"), load_suite("quick").cases[0]
    work = Work(flops=1e9, footprint=card.usable_bytes - 0.2 * GIB)
    row = modelled._row(card, case, work, Predictor.shipped())
    assert row["status"] == "oom"
    assert row["reason"] == "needs about 14.73 GiB of 14.56 GiB usable"


def test_of_an_unknown_device_four_fifths_of_the_memory_are_for_a_case():
    def too_large(footprint, memory_bytes):
        info = SimpleNamespace(card_id="not in the catalogue", memory_bytes=memory_bytes)
        return worker._too_large(SimpleNamespace(info=info), footprint)

    assert too_large(8 * 2**30, 10 * 2**30) is None
    assert "of the device's 10.0 GiB there are 8.0 for it" in too_large(8.1 * 2**30, 10 * 2**30)
    assert too_large(1e15, None) is None
