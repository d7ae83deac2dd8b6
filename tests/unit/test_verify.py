"""`gpubench doctor --verify`: each planted fault is found, and a sound device has none."""

import getpass
import json
import math
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

from gpubench import errors, store, suite, timers, verify
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
    right = [one for one in found.values() if one.found.startswith("right; ")]
    assert len(right) == len(TINY.cases)
    assert {one.device for one in found.values()} == {CARD}
    assert found["energy against power"].state == "ok"
    assert "nothing of a card" in found["device"].found
    assert found["timer against the host's clock: gemm"].state == "ok"
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
    step = verify._prepared(device, *verify.COPY).step
    (clock,) = timers.others(device)
    assert verify.judge_timer(timers.agreement(device, step, clock)).state == state


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
    }
    return row | different


@pytest.mark.parametrize(
    ("different", "state", "words"),
    [
        ({}, "ok", "right; 800 GB/s, 85% of"),
        ({"share_of_peak": math.nan}, "ok", "right; 800 GB/s"),
        ({"share_of_peak": 0.4}, "note", "60% is usual"),
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


@pytest.mark.parametrize(
    ("rate", "link", "state"),
    [
        (25e9, "4.0 x16", "ok"),
        (40e9, "4.0 x16", "problem"),
        (6e9, "4.0 x16", "note"),
        (12e9, "3.0 x16", "ok"),
        (12e9, None, "ok"),
        (12e9, "7.0 x16", "ok"),  # a generation whose rate is not known here
    ],
)
def test_a_copy_is_judged_against_its_link(rate, link, state):
    assert verify.judge_copy(rate, link).state == state


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
    step = verify._prepared(device, *verify.COPY).step
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
    cold = {other.name: other.cold for other in timers.others(card)}
    assert cold == {
        "the host's clock": False,
        "torch.utils.benchmark": False,
        "triton's do_bench": True,
        "cuda-bench": True,
    }


def test_a_timer_that_is_not_installed_or_broken_is_not_asked(monkeypatch):
    def missing(name):
        raise OSError("libnvbench.so: undefined symbol")

    monkeypatch.setattr(timers, "import_module", missing)
    card = SimpleNamespace(provenance="measured", info=SimpleNamespace(backend="cuda"))
    names = [other.name for other in timers.others(card)]
    assert names == ["the host's clock", "torch.utils.benchmark"]


def test_nvbench_is_run_on_torchs_device_and_its_own_stream(monkeypatch):
    ran, streams = [], []
    document = {
        "benchmarks": [
            {
                "states": [
                    {
                        "summaries": [
                            {"tag": "nv/cold/sample_size", "data": []},
                            {
                                "tag": "nv/cold/time/gpu/mean",
                                "data": [{"name": "value", "type": "float64", "value": "0.0025"}],
                            },
                        ]
                    }
                ]
            }
        ]
    }
    launch = SimpleNamespace(get_stream=lambda: SimpleNamespace(addressof=lambda: 4711))
    state = SimpleNamespace(exec=lambda launcher, sync: launcher(launch))
    bench = ModuleType("cuda.bench")
    bench.register = ran.append

    def run_all(words):
        assert words[1:3] == ["--devices", "0"]
        ran[0](state)
        Path(words[words.index("--json") + 1]).write_text(json.dumps(document))

    bench.run_all_benchmarks = run_all

    class Stream:
        def __enter__(self):
            streams.append("in")

        def __exit__(self, *_):
            streams.append("out")

    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            ExternalStream=streams.append,
            stream=lambda stream: Stream(),
            current_device=lambda: 0,
        )
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(timers, "import_module", lambda name: bench)
    assert timers.by_cuda_bench(lambda: streams.append("step")) == 2.5e-3
    assert streams == [4711, "in", "step", "out"]


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
    assert bundle.name in err
    assert f"{'1 fault ' if script else 'no faults '}in" in err
    assert "[1/3] " in err


def test_a_bundle_that_cannot_be_written_is_said_in_two_lines(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(suite, "load_suite", lambda name: TINY)
    words = ["doctor", "--verify", "--device", CARD, "-o", str(tmp_path / "file")]
    assert main(words) == errors.EXIT_USAGE
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_tool_is_right_on_the_card_that_is_here(tmp_path):
    """Rung 7 as a test: what `gpubench doctor --verify` runs, on a real card."""
    from gpubench.device import present

    cards = [info.name for info in present() if info.backend == "cuda"]
    if not cards:
        pytest.skip("needs an NVIDIA GPU, and none is here")
    found, _ = verify.verify(cards[0], suite.load_suite("quick"), str(tmp_path))
    assert found.faults == []
