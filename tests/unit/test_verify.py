"""`gpubench doctor --verify`: each planted fault is found, and a sound device has none."""

import errno
import getpass
import io
import json
import math
import os
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import (
    errors,
    kernel_checks,
    measure,
    nvbench,
    report,
    store,
    suite,
    timers,
    verify,
    worker,
)
from gpubench.cli import main
from gpubench.device import Device, DeviceInfo, Reading, open_device
from gpubench.errors import EnvironmentRefused, Unsupported
from gpubench.stats import Interval
from gpubench.workload import Case

CARD = "virtual:geforce-rtx-3090"
TINY = suite.Suite(
    "tiny",
    (
        Case("gemm", (("shape", "4096x4096x4096"), ("precision", "fp32"))),
        Case("memory", (("operation", "copy"), ("mib", 256), ("precision", "fp32"))),
        Case(
            "reduction",
            (
                ("operation", "sum"),
                ("implementation", "torch"),
                ("n", 2**20),
                ("precision", "fp32"),
            ),
        ),
    ),
    budget_s=0.2,
)


def verified(tmp_path, script=""):
    found, bundle = verify.verify(f"{CARD}{script}", TINY, str(tmp_path))
    return {finding.check.partition(":precision")[0]: finding for finding in found.findings}, bundle


def test_a_sound_device_has_no_fault_and_its_bundle_names_nobody(tmp_path):
    found, bundle = verified(tmp_path)
    assert not [one for one in found.values() if one.state == "problem"]
    shown = [one for one in found.values() if one.found.startswith("simulated, nothing was comp")]
    assert len(shown) == len(TINY.cases) + len(kernel_checks.looks())
    assert {one.device for one in found.values()} == {CARD}
    assert found["energy against power"].state == "ok"
    assert "nothing of a card" in found["device"].found
    assert found["timer against the host's clock: gemm"].state == "ok"
    for way in ("cold", "hot", "graph"):
        assert found[f"{way} samples of a run against the host's clock: memory"].state == "ok"
    with zipfile.ZipFile(bundle) as archive:
        assert sorted(archive.namelist()) == ["findings.json", "results.parquet"]
        text = archive.read("findings.json").decode()
        (tmp_path / "r.parquet").write_bytes(archive.read("results.parquet"))
    document = json.loads(text)
    assert document["kind"] == "verify"
    assert document["environment"]["provenance"] == "virtual"
    assert len(document["rows"]) == len(found)
    assert [record.status for record in store.read_records(str(tmp_path / "r.parquet"))] == [
        "ok"
    ] * len(TINY.cases)
    names = [name for name in (socket.gethostname(), getpass.getuser()) if len(name) > 4]
    for secret in (*names, f"{Path.home()}/", str(tmp_path)):
        assert secret not in text
        assert secret.encode() not in (tmp_path / "r.parquet").read_bytes()


def test_every_planted_fault_is_found_by_the_check_that_it_is_for(tmp_path):
    script = ",wrong=reduction*,slowdown=0.5,timer_error=1.05,energy_error=1.2"
    found, bundle = verified(tmp_path, script)
    faults = {check for check, one in found.items() if one.state == "problem"}
    copy = next(check for check in found if check.startswith("memory"))
    wrong = next(check for check in found if check.startswith("reduction"))
    assert "wrong: the script" in found[wrong].found
    assert "no card is faster than its peak" in found[copy].found
    assert "more than 3% apart" in found["timer against the host's clock: memory"].found
    assert "more than 10% apart" in found["energy against power"].found
    assert {wrong, copy, "energy against power"} < faults
    assert {
        "timer against the host's clock: gemm",
        "timer against the host's clock: memory",
        "cold samples of a run against the host's clock: memory",
        "hot samples of a run against the host's clock: memory",
        "graph samples of a run against the host's clock: memory",
    } < faults
    assert bundle.exists()  # the faults are what is to be sent


def test_what_a_finding_quotes_of_this_machine_stays_out_of_the_bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "somebodys-machine")
    quoted = f"no {tmp_path}/libcuda.so on somebodys-machine"
    found = verify.Verification("cpu", [verify.problem(quoted)])
    text = zipfile.ZipFile(verify.write_bundle(found, str(tmp_path))).read("findings.json").decode()
    assert "libcuda.so" in text
    assert str(tmp_path) not in text
    assert "somebodys-machine" not in text


@pytest.mark.parametrize(
    ("error", "state"), [(0.95, "problem"), (0.99, "ok"), (1.0, "ok"), (1.05, "problem")]
)
def test_a_timer_that_is_off_by_five_percent_is_found(error, state):
    device = open_device(f"{CARD},timer_error={error}")
    step = timers.prepared(device, *verify._copy_step(device)).step
    (clock,) = timers.others(device)
    assert verify.judge_timer(timers.ratio(timers.turns(device, step, clock))).state == state


@pytest.mark.parametrize(
    ("ratio", "state"),
    [
        ((1.0, 0.99, 1.01), "ok"),
        ((1.02, 0.98, 1.06), "ok"),
        ((1.02, 0.9, 1.2), "note"),  # nor can it be told to agree
        ((1.04, 1.01, 1.07), "note"),  # noise can explain it
        ((1.05, 1.031, 1.07), "problem"),
        ((0.9, 0.85, 0.969), "problem"),
        ((1.2, -math.inf, math.inf), "note"),
    ],
)
def test_a_timer_is_judged_by_the_whole_interval(ratio, state):
    assert verify.judge_timer(Interval(*ratio)).state == state


def steady(power, factor=1.0, count=50):
    return [
        (0.1 * i, Reading(power_w=power, energy_j=factor * power * 0.1 * i)) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("factor", "state"), [(0.8, "problem"), (0.95, "ok"), (1.0, "ok"), (1.2, "problem")]
)
def test_a_counter_of_energy_that_is_off_by_a_fifth_is_found(factor, state):
    assert verify.judge_energy(steady(250.0, factor)).state == state


def test_energy_of_a_changing_power_is_integrated_and_not_averaged():
    # Readings that come unevenly: a mean of the powers would be 200 W.
    times, powers = (0.0, 1.0, 2.0, 10.0), (100.0, 100.0, 300.0, 300.0)
    joules = (0.0, 100.0, 300.0, 2700.0)
    readings = [
        (t, Reading(power_w=p, energy_j=j)) for t, p, j in zip(times, powers, joules, strict=True)
    ]
    found = verify.judge_energy(readings)
    assert found.state == "ok"
    assert "1.000" in found.found


@pytest.mark.parametrize(
    ("readings", "state"),
    [
        ([], "note"),
        (steady(250.0, count=2), "note"),
        ([(0.1 * i, Reading(power_w=250.0)) for i in range(9)], "note"),
        ([(0.1 * i, Reading(energy_j=1.0 * i)) for i in range(9)], "note"),
        (steady(0.0), "problem"),
    ],
)
def test_energy_that_cannot_be_compared_is_said(readings, state):
    assert verify.judge_energy(readings).state == state


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e3),
            st.builds(
                Reading,
                power_w=st.none() | st.floats(0, 1e4),
                energy_j=st.none() | st.floats(0, 1e9),
            ),
        ),
        max_size=9,
    )
)
def test_no_readings_end_the_judgement(readings):
    assert verify.judge_energy(readings).state in {"ok", "note", "problem"}


def a_row(**different):
    row = {
        "case_id": "memory:operation=copy",
        "workload": "memory",
        "status": "ok",
        "reason": None,
        "flags": [],
        "items": math.nan,
        "flops": 0.0,
        "bytes": 1e9,
        "flops_per_s": 0.0,
        "bytes_per_s": 8e11,
        "items_per_s": math.nan,
        "item": None,
        "share_of_peak": 0.85,
        "provenance": "measured",
    }
    return row | different


@pytest.mark.parametrize(
    ("different", "state", "words"),
    [
        ({}, "ok", "right; 800 GB/s, 85% of"),
        ({"provenance": "virtual"}, "ok", "simulated, nothing was computed; 800 GB/s"),
        ({"share_of_peak": math.nan}, "ok", "right; 800 GB/s"),
        ({"share_of_peak": 0.4}, "ok", "speed not judged"),  # its peak alone says too little
        ({"share_of_peak": 1.3, "flags": ["above_peak"]}, "problem", "no card is faster"),
        ({"status": "unsupported", "reason": "no bf16"}, "note", "no bf16"),
        ({"status": "wrong", "reason": "differs"}, "problem", "wrong: differs"),
        ({"status": "crashed", "reason": "SIGSEGV"}, "problem", "crashed: SIGSEGV"),
        ({"status": "oom", "reason": "full"}, "problem", "oom"),
    ],
)
def test_a_case_is_judged_by_its_result_and_its_rate(different, state, words):
    found = verify.judge_case(a_row(**different))
    assert (found.state, words in found.found) == (state, True), found


def expected(times, placed="as expected", **different):
    """A row of `placement.expected`: expected in 1 ms, 0.8 to 1.25 usual, and ``times`` as long."""
    row = {"placement": placed, "placement_reason": None, "median_s": times * 1e-3}
    return (
        row | {"expected_s": 1e-3, "expected_low_s": 8e-4, "expected_high_s": 1.25e-3} | different
    )


@pytest.mark.parametrize(
    ("times", "placed", "state", "words"),
    [
        (1.0, "as expected", "ok", "as expected: 100% of the predicted rate, where 80% to 125%"),
        (0.7, "above", "ok", "faster than expected"),
        (1.6, "low", "note", "slower than expected: 62%"),
        (100.0, "low", "problem", "slower than expected: 1% of the predicted rate"),
        (0.1, "above", "problem", "faster than expected: 1000%"),
    ],
)
def test_a_rate_is_judged_by_what_is_expected_of_the_card(times, placed, state, words):
    found = verify.judge_case(a_row(), expected(times, placed))
    assert (found.state, words in found.found) == (state, True), found


def test_a_rate_of_which_nothing_is_expected_is_not_said_to_be_right():
    unknown = expected(1.0, None, placement_reason="no model of this workload")
    found = verify.judge_case(a_row(), unknown)
    assert found.state == "ok"
    assert found.found.endswith("speed not judged: no model of this workload")


@pytest.mark.parametrize("flag", report.FLAGS)
@pytest.mark.parametrize("times", [1.0, 100.0])
def test_no_flag_passes_unseen_and_none_but_a_rate_above_the_peak_is_a_fault(flag, times):
    judged = expected(times, "as expected" if times == 1.0 else "low")
    if flag == "launch_bound":  # nothing is expected then, and such a row is as good as any
        judged = expected(times, None, placement_reason="the host is the slower part")
    found = verify.judge_case(a_row(flags=[flag]), judged)
    state = {"above_peak": "problem", "launch_bound": "ok"}.get(flag, "note")
    assert found.state == state
    assert flag in found.found or flag == "above_peak"
    disturbed = flag in {"throttled_thermal", "other_processes", "stolen"}
    assert ("proves nothing of its speed" in found.found) == disturbed


@pytest.mark.parametrize("case", ["gemm", "memory", "reduction"])
def test_a_case_that_crawls_on_a_known_card_is_found_through_the_whole_way(tmp_path, case):
    """Rows as a run writes them, called measured: what `_findings` makes of them."""
    script = f"{CARD},slowdown=200"
    file = tmp_path / "r.parquet"
    list(verify.run.Execution(verify.run.Request(TINY, script), str(file)))
    frame = verify.table.load([str(file)]).assign(provenance="measured", backend="cuda")
    placed = verify._placed(frame)
    (row,) = [row for row in frame.to_dict("records") if row["workload"] == case]
    found = verify.judge_case({**row, "flags": []}, placed[row["case_id"]])
    assert found.state == "problem"
    assert "slower than expected" in found.found
    assert verify._placed(frame.assign(provenance="virtual")) == {}


@pytest.mark.parametrize(
    ("rate", "link", "only_pcie", "state"),
    [
        (25e9, "4.0 x16", True, "ok"),
        (40e9, "4.0 x16", True, "problem"),
        (400e9, "5.0 x16", False, "note"),  # NVLink-C2C
        (6e9, "4.0 x16", True, "note"),
        (12e9, "3.0 x16", True, "ok"),
        (12e9, None, True, "ok"),
        (12e9, "7.0 x16", True, "ok"),  # a generation whose rate is not known here
    ],
)
def test_a_copy_is_judged_against_its_link(rate, link, only_pcie, state):
    assert verify.judge_copy(rate, link, only_pcie=only_pcie).state == state


@pytest.mark.parametrize(
    ("card_id", "coherent", "state"),
    [
        ("nvidia-h200-sxm", None, "problem"),
        ("nvidia-h200-sxm", False, "problem"),
        ("nvidia-h200-sxm", True, "note"),
        ("unlisted-nvidia-gh200-480gb", None, "note"),
    ],
)
def test_a_copy_faster_than_pcie_is_a_fault_only_where_there_is_no_other_link(
    monkeypatch, card_id, coherent, state
):
    made = SimpleNamespace(copy_=lambda source, non_blocking: None)
    torch = SimpleNamespace(empty=lambda size, **options: made, uint8="uint8")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(timers, "by_us", lambda device, step: verify.PINNED_BYTES / 400e9)
    card = Card()
    card.info = replace(card.info, pcie="5.0 x16", card_id=card_id)
    card.coherent_link = lambda: coherent
    assert verify.pinned_copies(card).state == state


def test_pinned_copies_are_timed_without_waiting_for_the_host(monkeypatch):
    made, copied = [], []

    def empty(size, *, dtype, **options):
        made.append((size, options))
        return SimpleNamespace(copy_=lambda source, non_blocking: copied.append(non_blocking))

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(empty=empty, uint8="uint8"))
    monkeypatch.setattr(timers, "by_us", lambda device, step: step() or verify.PINNED_BYTES / 25e9)
    card = Card()
    card.info = replace(card.info, pcie="4.0 x16")
    found = verify.pinned_copies(card)
    assert found.state == "ok"
    assert found.found.startswith("25.0 GB/s, 79% of")
    assert made == [
        (verify.PINNED_BYTES, {"pin_memory": True}),
        (verify.PINNED_BYTES, {"device": "cpu"}),
    ]
    assert copied == [True]


def test_of_a_card_its_copies_are_looked_at_too():
    card = Card()
    assert "pinned copies" not in [name for name, _ in verify._looks(card)]
    card.info = replace(card.info, backend="cuda")
    assert "pinned copies" in [name for name, _ in verify._looks(card)]


class Card(Device):
    """A processor with what a card has, and what may be wrong with it."""

    timer = "cuda_event"

    def __init__(self, missing_steps=0, extra_bytes=0):
        self.info = DeviceInfo("card", "double", "A card", "a-card", "none")
        self.missing_steps, self.extra_bytes, self.asked = missing_steps, extra_bytes, 0

    def unsupported(self, precision):
        return None

    def flush(self):
        return

    def expected_s(self, work, precision):
        return 1e-3

    def capture(self, steps):
        kept = steps[: len(steps) - self.missing_steps]
        return lambda: [step() for step in kept]

    def peak_memory_bytes(self):
        self.asked += 1
        allocated = verify.PINNED_BYTES + self.extra_bytes if self.asked > 2 else 0
        return 1000 + allocated


@pytest.mark.parametrize(("missing", "state"), [(0, "ok"), (1, "problem")])
def test_a_graph_that_loses_a_step_is_found(missing, state):
    pytest.importorskip("torch", reason="steps need torch")
    assert verify.graphs(Card(missing_steps=missing)).state == state


def test_a_device_without_graphs_is_noted():
    pytest.importorskip("torch", reason="steps need torch")

    class Without(Card):
        def capture(self, steps):
            raise Unsupported("no graphs here")

    assert verify.graphs(Without()).state == "note"


@pytest.mark.parametrize(("extra", "state"), [(0, "ok"), (-1, "problem"), (2**22, "problem")])
def test_a_peak_of_memory_that_is_not_what_was_allocated_is_found(extra, state):
    pytest.importorskip("torch", reason="allocates")
    assert verify.peak_memory(Card(extra_bytes=extra)).state == state
    assert verify.peak_memory(open_device("cpu")).state == "note"


def test_a_check_that_fails_is_a_fault_without_the_names_of_this_machine(tmp_path):
    def fails():
        raise RuntimeError(f"no {tmp_path}/libcuda.so")

    found = verify._safely(fails)
    assert found.state == "problem"
    assert "RuntimeError" in found.found
    assert str(tmp_path) not in found.found


# --- other timers -------------------------------------------------------------------------------


def test_both_timers_have_every_round_and_take_turns_in_going_first(monkeypatch):
    order = []
    device = open_device(CARD)
    step = timers.prepared(device, *verify._copy_step(device)).step
    other = timers.OtherTimer("other", lambda step: order.append("theirs") or 1.0, cold=True)

    def ours(device, step, *, cold):
        order.append("ours" if cold else "ours, and not as cold as theirs")
        return 2.0

    monkeypatch.setattr(timers, "by_us", ours)
    assert timers.turns(device, step, other, rounds=4) == [(2.0, 1.0)] * 4
    assert order == ["ours", "theirs", "theirs", "ours"] * 2


def test_torchs_timer_and_ours_tell_the_seconds_of_the_same_step():
    pytest.importorskip("torch", reason="its own timer")

    def step():
        time.sleep(5e-3)

    # In a process of its own: it imports setuptools, which refuses where distutils is loaded.
    code = "import time, gpubench.timers as t; print(t.by_torch(lambda: time.sleep(5e-3)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    times = float(done.stdout), timers.by_us(Card(), step), timers.by_the_clock(Card(), step)
    assert all(5e-3 <= seconds < 1 for seconds in times)


def test_tritons_timer_tells_milliseconds_of_a_cold_step(monkeypatch):
    testing = ModuleType("triton.testing")
    asked = {}
    testing.do_bench = lambda step, **options: asked.update(options) or 2.5
    monkeypatch.setattr(timers, "import_module", lambda name: testing)
    assert timers.by_triton(lambda: None) == 2.5e-3
    assert asked["return_mode"] == "median"
    card = SimpleNamespace(provenance="measured", info=SimpleNamespace(backend="cuda"))
    monkeypatch.setattr(timers, "find_spec", lambda name: "found")
    card = SimpleNamespace(provenance="measured", info=SimpleNamespace(backend="cuda"))
    cold = {other.name: other.cold for other in timers.others(card)}
    assert cold == {
        "the host's clock": False,
        "torch.utils.benchmark": False,
        "triton's do_bench": True,
    }


@pytest.mark.parametrize(
    ("raised", "there"),
    [
        (None, True),
        (ModuleNotFoundError("No module named 'cuda'", name="cuda"), False),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), True),
        (OSError("libnvbench.so: undefined symbol"), True),
    ],
)
def test_a_timer_that_is_not_installed_is_not_asked_and_a_broken_one_is(monkeypatch, raised, there):
    def find(name):
        if raised:
            raise raised
        return "found"

    monkeypatch.setattr(timers, "find_spec", find)
    assert timers.installed("cuda.bench") == there
    monkeypatch.setattr(timers, "find_spec", lambda name: None)
    assert not timers.installed("cuda.bench")


def fails(step):
    raise ImportError("cuda-bindings is required for runtime CUDA version detection")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (fails, "could not be compared: ImportError: cuda-bindings is required"),
        (lambda step: 0.0, "could not be compared: it says that a step takes 0.0 s"),
        (lambda step: math.nan, "could not be compared: it says that a step takes nan s"),
    ],
)
def test_another_timer_that_is_broken_is_no_fault_of_ours(seconds, words):
    device = open_device(CARD)
    other = timers.OtherTimer("other", seconds)
    case = verify._copy_step(device)
    found = verify.compare(device, lambda: verify._turns(device, case, other))
    assert (found.state, words in found.found) == ("note", True), found


def test_our_own_timer_that_fails_is_a_fault(monkeypatch):
    def broken(device, step, *, cold):
        raise RuntimeError("events are broken")

    monkeypatch.setattr(timers, "by_us", broken)
    device = open_device(CARD)
    other = timers.OtherTimer("other", lambda step: 1.0)
    case = verify._copy_step(device)
    look = lambda: verify.compare(device, lambda: verify._turns(device, case, other))  # noqa: E731
    assert verify._safely(look).state == "problem"


def test_where_the_other_timer_clears_the_cache_by_writing_ours_does_so_too():
    class Flushed(Card):
        def flush(self):
            asked.append(self.flush_writes)

    for cold, wanted in ((True, {True}), (False, set())):
        asked: list[bool] = []
        card = Flushed()
        timers.by_us(card, lambda: time.sleep(1e-3), cold=cold)
        assert set(asked) == wanted
        assert not card.flush_writes  # what `gpubench run` does is as before


@pytest.mark.parametrize("card", ["geforce-gtx-1060-6gb", "geforce-rtx-4090", "nvidia-b200-sxm"])
def test_the_copy_that_runs_are_compared_on_never_finds_itself_in_the_cache(card):
    device = open_device(f"virtual:{card}")
    workload, params = verify._copy_step(device)
    moved = verify.get_workload(workload).work(params).bytes
    assert moved >= device.rotation_multiple * device.info.cache_bytes
    prepared = replace(timers.prepared(device, workload, params), another=None)
    assert measure.measure_step(device, prepared, cache="cold").cold_by == "rotation"


@pytest.mark.parametrize(
    ("way", "reason"), [("graph", "graph not used"), ("cold", "flushed between steps")]
)
def test_a_way_of_measuring_that_is_not_had_here_is_not_compared(way, reason):
    device = open_device(CARD)
    case = timers.prepared(device, *verify._copy_step(device))
    if way == "graph":
        device.capture = lambda steps: Device.capture(device, steps)
    else:  # how much to rotate through is not known
        device.info = replace(device.info, cache_bytes=None)
    with pytest.raises(timers.CannotCompare, match=reason):
        timers.run_turns(device, case, way)


OFF = Interval(1.2, 1.19, 1.21)


@pytest.mark.parametrize(
    ("others", "foreign", "provenance", "state", "words"),
    [
        (0, 0.0, "measured", "problem", "apart"),
        (1, 0.0, "measured", "note", "machine busy: others used the device"),
        (0, 0.3, "measured", "note", "machine busy: others took 30% of the processor"),
        (0, 0.3, "virtual", "problem", "apart"),  # its clock is not this machine's
    ],
)
def test_a_difference_on_a_busy_machine_proves_no_fault(
    monkeypatch, others, foreign, provenance, state, words
):
    class Load:
        steal = None

        def __enter__(self):
            self.foreign = foreign
            return self

        def __exit__(self, *_):
            return

    monkeypatch.setattr(verify, "HostLoad", Load)
    monkeypatch.setattr(timers, "ratio", lambda pairs: OFF)
    device = SimpleNamespace(provenance=provenance, reading=lambda: Reading(other_processes=others))
    found = verify.compare(device, list)
    assert (found.state, words in found.found) == (state, True), found
    if state == "note":
        assert found.remedy == "try again when it is quiet"
    monkeypatch.setattr(timers, "ratio", lambda pairs: Interval(1.0, 0.99, 1.01))
    assert verify.compare(device, list).state == "ok"  # agreement is none the worse for it


# As the package has it: what is registered runs once in a process, and it prints as it goes.
NVBENCH = """
import json
registered, ran = [], []
class Stream:
    def addressof(self): return 4711
class Launch:
    def get_stream(self): return Stream()
class State:
    def exec(self, launcher, *, batched):
        assert not batched
        launcher(Launch())
class Benchmark:
    def add_int64_axis(self, name, values): self.values = values
def register(function):
    if ran: raise RuntimeError("Can not register more benchmarks after benchmark was run")
    registered.append((function, Benchmark()))
    return registered[-1][1]
def run_all_benchmarks(words):
    print("# Benchmark Results")
    assert words[1:3] == ["--devices", "0"]
    assert len(registered) == 1 and not ran
    ran.append(words)
    function, benchmark = registered[0]
    for _ in benchmark.values: function(State())
    value = {"name": "value", "type": "float64", "value": "0.0025"}
    summaries = [{"tag": "nv/cold/sample_size", "data": []}]
    summaries += [{"tag": "nv/cold/time/gpu/mean", "data": [value]}]
    states = [{"summaries": summaries} for _ in benchmark.values]
    with open(words[words.index("--json") + 1], "w") as written:
        json.dump({"benchmarks": [{"states": states}]}, written)
"""
TORCH = """
from contextlib import contextmanager
class cuda:
    streams = []
    ExternalStream = streams.append
    @staticmethod
    def current_device(): return 0
    @staticmethod
    @contextmanager
    def stream(stream):
        cuda.streams.append("in")
        yield
        cuda.streams.append("out")
"""


def double(source):
    module = ModuleType("double")
    exec(source, vars(module))  # noqa: S102 - processes import the same source from a file
    return module


def test_nvbench_takes_turns_with_ours_on_its_own_stream(monkeypatch):
    torch, order = double(TORCH), []
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(nvbench, "import_module", lambda name: double(NVBENCH))

    def ours(device, step, *, cold):
        order.append("ours" if cold else "ours, and not as cold as theirs")
        return 2.0

    monkeypatch.setattr(timers, "by_us", ours)
    assert nvbench.run(None, lambda: order.append("theirs"), 4) == [(2.0, 2.5e-3)] * 4
    assert order == ["ours", "theirs", "theirs", "ours"] * 2
    assert torch.cuda.streams == [4711, "in", "out"] * 4


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Doubles of torch and cuda-bench for processes that this one starts."""
    (tmp_path / "cuda" / "bench").mkdir(parents=True)
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "cuda" / "bench" / "__init__.py").write_text(NVBENCH)
    code = Path(verify.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{code}")
    return tmp_path


def test_each_run_of_nvbench_has_a_process_of_its_own_which_prints_nothing_here(packages, capfd):
    """Two in one process would end with: Can not register more benchmarks."""
    device = open_device(CARD)
    for case in (verify._compute_step(device), verify._copy_step(device)):
        pairs = nvbench.turns(CARD, *case, rounds=6)
        assert [theirs for _, theirs in pairs] == [2.5e-3] * 6
        assert all(1e-5 < ours < 1 for ours, _ in pairs)
    assert capfd.readouterr() == ("", "")


def test_a_cuda_bench_that_ends_its_process_or_lacks_a_package_is_said(packages):
    path = packages / "cuda" / "bench" / "__init__.py"
    device = open_device(CARD)
    case = verify._copy_step(device)
    for broken, words in (
        ("raise SystemExit(5)", "its process ended with 5"),
        ("raise ImportError('cuda-bindings is required')", "ImportError: cuda-bindings"),
    ):
        path.write_text(f"{NVBENCH}def run_all_benchmarks(words): {broken}")
        found = verify.compare(device, lambda: nvbench.turns(CARD, *case, rounds=6))
        assert (found.state, words in found.found) == ("note", True), found


def test_a_cuda_bench_that_never_returns_is_given_up(monkeypatch):
    monkeypatch.setattr(nvbench, "TIMEOUT_S", 0.2)
    with pytest.raises(timers.CannotCompare, match="TimeoutExpired"):
        nvbench._call([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.mark.parametrize("there", [True, False])
def test_on_a_card_nvbench_is_asked_where_it_is_installed(monkeypatch, there):
    monkeypatch.setattr(timers, "installed", lambda module: there)
    card = Card()
    card.info = replace(card.info, backend="cuda")
    names = [name for name, _ in verify._comparisons(card)]
    asked = {"timer against NVBench: gemm", "timer against NVBench: memory"}
    assert asked & set(names) == (asked if there else set())


# --- kernels ------------------------------------------------------------------------------------

# A card whose kernels are right, wrong, out of bounds or deadly; a worker opens it by its name.
BACKEND = """
import os, signal

from gpubench import kernel_checks
from gpubench.device import Device, DeviceInfo

EXAMPLE, PRIORITY = "card:0", -5


def present():
    return []


def right(device):
    yield "an array", None


def wrong(device):
    yield "an array", None
    yield "a NaN", "1.0 instead of nan at 0"


def out_of_bounds(device):
    raise RuntimeError("an illegal memory access was encountered")
    yield


def deadly(device):
    os.kill(os.getpid(), signal.SIGKILL)
    yield


LOOKS = {
    "first": {"one": right, "two": wrong, "three": right},
    "second": {"one": out_of_bounds, "two": right},
    "third": {"one": deadly, "two": right},
    "last": {"one": right},
}


class Card(Device):
    timer = "cuda_event"
    info = DeviceInfo("card:0", "cuda", "A card", "a-card", "none")

    def unsupported(self, precision):
        return None

    def flush(self):
        return

    def expected_s(self, work, precision):
        return 1e-3


def open(selector):
    kernel_checks.looks = lambda: LOOKS
    return Card()
"""


def test_a_kernel_that_is_wrong_or_ends_its_process_is_found_and_stops_no_other(
    monkeypatch, tmp_path
):
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "card.py").write_text(BACKEND)
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path))
    monkeypatch.setattr(kernel_checks, "looks", None)  # put back, when the backend's is gone
    monkeypatch.setattr(kernel_checks, "require_cupy", lambda device: None)
    announced = []
    device = open_device("card:0")
    found = list(kernel_checks.findings(device, "card:0", announced.append))
    assert announced == [one.check for one in found]
    assert announced == ["kernel first", "kernel second", "kernel third", "kernel last"]
    assert [one.state for one in found] == ["problem", "problem", "problem", "ok"]
    first, second, third, last = (one.found for one in found)
    assert first == (
        "right: one, three; two: wrong: of 1 of 2 arrays, first a NaN: 1.0 instead of nan at 0"
    )
    assert second.startswith("right: two; one: failed: RuntimeError: an illegal memory access")
    assert third.startswith("right: two; one: crashed: the process died (killed by SIGKILL")
    assert last == "right: one"


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (["ok", "ok"], "ok"),
        (["ok", "unsupported"], "problem"),  # it doesn't compile here
        (["unsupported", "wrong"], "problem"),
        (["timeout"], "problem"),
        (["oom", "ok"], "problem"),
    ],
)
def test_a_program_is_judged_by_its_worst_kernel(outcomes, state):
    outcomes = {f"k{i}": worker.Outcome(status, "why") for i, status in enumerate(outcomes)}
    assert kernel_checks.judge(outcomes).state == state


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (Unsupported("this implementation needs CuPy"), "note", "none was launched: this impl"),
        (EnvironmentRefused("no process can be started", "do"), "problem", "no process can be"),
    ],
)
def test_without_cupy_or_a_process_there_is_one_finding_and_the_rest_goes_on(
    monkeypatch, error, state, words
):
    def refused(*_, **__):
        raise error

    monkeypatch.setattr(kernel_checks, "require_cupy", lambda device: None)
    where = "require_cupy" if isinstance(error, Unsupported) else "Worker"
    monkeypatch.setattr(kernel_checks, where, refused)
    card = Card()
    card.info = replace(card.info, backend="cuda")
    (found,) = kernel_checks.findings(card, "cuda:0", str)
    assert (found.check, found.state, words in found.found) == ("kernels", state, True), found


def test_of_kernels_nothing_is_claimed_on_a_processor_and_nothing_computed_on_a_simulated_card():
    assert list(kernel_checks.findings(open_device("cpu"), "cpu", str)) == []
    found = list(kernel_checks.findings(open_device(CARD), CARD, str))
    assert {one.check for one in found} == {f"kernel {name}" for name in kernel_checks.looks()}
    assert {one.found.partition(":")[0] for one in found} == {"simulated, nothing was computed"}
    assert {one.state for one in found} == {"note"}


# --- the command --------------------------------------------------------------------------------


def test_without_a_card_it_is_refused_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(verify, "resolve", lambda name: "cpu" if name == "auto" else name)
    assert main(["doctor", "--verify"]) == errors.EXIT_ENVIRONMENT
    assert "no GPU is here" in capsys.readouterr().err
    assert verify.chosen_device("cpu") == "cpu"
    with pytest.raises(EnvironmentRefused):
        verify.chosen_device("auto")


@pytest.mark.parametrize(("script", "status"), [("", 0), (",wrong=memory*", 3)])
def test_a_fault_is_exit_status_3_and_the_bundle_is_named(
    monkeypatch, capsys, tmp_path, script, status
):
    monkeypatch.setattr(suite, "load_suite", lambda name: TINY)
    words = ["doctor", "--verify", "--device", f"{CARD}{script}", "-o", str(tmp_path)]
    assert main([*words, "--format", "json"]) == status
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "verify"
    (bundle,) = tmp_path.glob("*.zip")
    assert f"{bundle.name}: of a simulated card, so there is nothing to send" in err
    assert f"{'1 fault ' if script else 'no faults '}in" in err
    assert "[1/3] " in err


def test_what_takes_long_shows_that_it_goes_on(monkeypatch, capsys, tmp_path):
    from gpubench.verbs import doctor as verb

    said = io.StringIO()

    def steps(found, suite, announce):
        announce("a quick step")
        announce("a slow one")
        while said.getvalue().count(" .") < 3:
            time.sleep(0.01)
        yield verify.note("done")
        raise EnvironmentRefused("the device is gone")

    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(verb, "PATIENCE_S", 0.05)
    monkeypatch.setattr(verify, "_findings", steps)
    words = ["doctor", "--verify", "--device", CARD, "-o", str(tmp_path)]
    assert main(words) == errors.EXIT_ENVIRONMENT
    first, second, last = said.getvalue().splitlines()
    assert first.startswith("a quick step")
    assert second.startswith("a slow one . . .")
    assert last == "gpubench: the device is gone"


def test_a_bundle_that_cannot_be_written_is_said_in_two_lines(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(suite, "load_suite", lambda name: TINY)
    monkeypatch.setattr(verify, "_findings", lambda *_: pytest.fail("minutes of work came first"))
    words = ["doctor", "--verify", "--device", CARD, "-o", str(tmp_path / "file")]
    assert main(words) == errors.EXIT_USAGE
    assert "can't be written" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_the_bundle_and_not_the_findings(monkeypatch, capsys, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(suite, "load_suite", lambda name: TINY)
    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    words = [
        "doctor",
        "--verify",
        "--device",
        CARD,
        "-o",
        str(tmp_path / "new"),
        "--format",
        "json",
    ]
    assert main(words) == errors.EXIT_USAGE
    out, err = capsys.readouterr()
    assert "No space left" in err
    assert len(json.loads(out)["rows"]) > len(TINY.cases)
    assert not list((tmp_path / "new").iterdir())  # half a bundle is none


@pytest.mark.gpu
def test_the_tool_is_right_on_the_card_that_is_here(tmp_path):
    """Rung 7 as a test: what `gpubench doctor --verify` runs, on a real card."""
    from gpubench.device import present

    cards = [info.name for info in present() if info.backend == "cuda"]
    if not cards:
        pytest.skip("needs an NVIDIA GPU, and none is here")
    found, _ = verify.verify(cards[0], suite.load_suite("quick"), str(tmp_path))
    assert found.faults == []
