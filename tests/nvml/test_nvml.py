"""NVIDIA's binding and our code over it, against a library in C that follows a script.

Each test runs in processes of its own, which load the stub where they would load the driver's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpubench import record, store, table
from rungs import compilers

pytestmark = pytest.mark.skipif(
    not compilers.C, reason=f"the stub of NVIDIA's library is C for Linux: {compilers.MISSING}"
)
SOURCE = Path(__file__).with_name("stub.c")
OPTIONS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden")

NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, MISMATCH = 3, 4, 9, 15, 18

# A backend whose steps only wait, with the sensors of the stub's card; and what to run on it.
BACKEND = """
from gpubench.backends import _nvml
from gpubench.device import Device

EXAMPLE, PRIORITY = "stub:0", -5


def present():
    return []


def open(selector):
    return Stub(selector)


class Stub(Device):
    timer, energy_source = "cuda_event", "nvml"

    def __init__(self, selector):
        self.info = _nvml.by_uuid(selector, f"stub:{selector}")
        self.sensors = _nvml.sensors(self.info.uuid)

    def unsupported(self, precision):
        return None

    def flush(self):
        return

    def expected_s(self, work, precision):
        return 1e-3

    def reading(self):
        return self.sensors.reading()
"""
WORKLOAD = """
import time

from gpubench.workload import Prepared, Work, workload


@workload(version=1, work=lambda n: Work(flops=1e6, bytes=1e3), cache="hot", n=[1])
def nap(device, n):
    return Prepared(step=lambda: time.sleep(2e-3))
"""
SUITE = """
half_width = 1e-9
budget_s = 1.5
warmup_s = 0.1
[[case]]
workload = "nap"
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """Folders with the library of a recent driver and of an old one."""
    made = {}
    for age, flags in {"recent": (), "old": ("-DOLD_DRIVER",)}.items():
        folder = tmp_path_factory.mktemp(age)
        target = folder / "libnvidia-ml.so.1"
        subprocess.run([*compilers.C, *OPTIONS, *flags, str(SOURCE), "-o", str(target)], check=True)
        made[age] = folder
    return made


@pytest.fixture
def stubbed(libraries, tmp_path):
    """Run Python where the stub is the driver's library, by a script."""

    def go(*arguments, script="", age="recent", **variables):
        lines = tmp_path / "script"
        lines.write_text(script)
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(libraries[age]),
            "NVML_SCRIPT": str(lines),
            "PYTHONPATH": os.pathsep.join(sys.path),
            **variables,
        }
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        environment |= variables
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            cwd=tmp_path,
        )

    return go


@pytest.fixture
def checks(stubbed):
    """What the checks of the cards find: (device, check) → finding."""

    def go(script="", name="", **different):
        code = (
            "import json\n"
            "from dataclasses import asdict\n"
            "from gpubench.backends import _health\n"
            "from gpubench.doctor import _safely\n"
            f"found = [asdict(_safely(check)) for check in _health.checks({name!r})]\n"
            "print(json.dumps(found))"
        )
        done = stubbed("-c", code, script=script, **different)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return {(one["device"], one["check"]): one for one in json.loads(done.stdout)}

    return go


def states(found):
    return {check: one["state"] for (_, check), one in found.items()}


def test_a_sound_card_that_says_it_is_not_real_is_unknown_and_has_no_problem(checks):
    found = checks()
    assert {device for device, _ in found} == {"cuda:0"}
    assert states(found).pop("catalogue") == "note"
    assert {state for check, state in states(found).items() if check != "catalogue"} == {"ok"}
    assert record.NOT_REAL in found["cuda:0", "catalogue"]["found"]
    assert found["cuda:0", "driver"]["found"] == "580.65.06, CUDA up to 13.0"


# script → check, state, words of what is found, words of what to type
FAULTS = {
    "PersistenceMode = 0": ("persistence", "note", "off", "sudo nvidia-smi -i GPU-0 -pm 1"),
    "EnforcedPowerLimit = 200000": ("power limit", "note", "200 W where 300 W", "-pl 300"),
    "CurrentClocksEventReasons = 2": ("clocks", "note", "set by a user", "-rgc"),
    "CurrentClocksEventReasons = 32": ("clocks", "problem", "held down (thermal)", "cool"),
    "CurrentClocksEventReasons = 4": ("clocks", "problem", "held down (power)", "nvidia-smi -q"),
    "CurrPcieLinkWidth = 4": ("PCIe", "note", "4 lanes of 16", "seat"),
    "MaxPcieLinkGeneration = 3": ("PCIe", "note", "could do generation 4", "slot"),
    "ComputeRunningProcesses = 2": ("other processes", "problem", "2 on it", "nvidia-smi"),
    "TemperatureV = 85": ("temperature", "problem", "85 °C, and it slows down at 90", "cool"),
    "MemoryInfo = 9e9": ("memory", "note", "15.6 of 24.0 GiB free", "nvidia-smi"),
    "mig": ("MIG", "note", "CUDA sees slices", "-mig 0"),
    "MigMode = 16": ("MIG", "ok", "off", ""),  # a slice is there after a restart only
    "EccMode = 16": ("ECC", "note", "off, and on after a restart", ""),
    "EccMode = 1": ("ECC", "note", "on, and off after a restart", ""),
    "TemperatureV = 81": ("temperature", "problem", "81 °C, and it slows down at 90", "cool"),
    "TemperatureV = 79": ("temperature", "ok", "79 °C, slows down at 90 °C", ""),
    "BAR1MemoryInfo = 34359738368": ("resizable BAR", "ok", "on: a window of 32 GiB", ""),
}


@pytest.mark.parametrize("script", FAULTS)
def test_each_fault_of_a_card_is_found_alone_with_what_to_type(checks, script):
    check, state, words, remedy = FAULTS[script]
    found = checks(script)
    one = found["cuda:0", check]
    assert (one["state"], words in one["found"]) == (state, True), one
    assert remedy in one["remedy"]
    others = {name: found for name, found in states(found).items() if name != check}
    assert others.pop("catalogue") == "note"
    assert set(others.values()) == {"ok"}


FUNCTIONS = {
    "PersistenceMode": "persistence",
    "EnforcedPowerLimit": "power limit",
    "PowerManagementDefaultLimit": "power limit",
    "CurrPcieLinkWidth": "PCIe",
    "ComputeRunningProcesses": "other processes",
    "MemoryInfo": "memory",
    "BAR1MemoryInfo": "resizable BAR",
    "PowerInstant": "sensors",
    "TotalEnergyConsumption": "sensors",
    "DriverVersion": "driver",
}


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, 999, 4242])
def test_what_a_function_cannot_tell_is_a_note_and_no_more(checks, code):
    found = checks("\n".join(f"{name} ! {code}" for name in FUNCTIONS))
    for check in FUNCTIONS.values():
        assert found["cuda:0", check]["state"] == "note"
    assert "tell" in found["cuda:0", "persistence"]["found"]
    assert "power_w, energy_j" in found["cuda:0", "sensors"]["found"]
    assert set(states(found).values()) == {"ok", "note"}


@pytest.mark.parametrize(
    ("code", "words", "remedy"),
    [
        (DRIVER_NOT_LOADED, "not loaded", "modprobe nvidia"),
        (MISMATCH, "updated and the old one still runs", "restart"),
        (NO_PERMISSION, "may not ask", "group"),
        (GPU_IS_LOST, "fallen off the bus", "restart"),
        (999, "its error 999", "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_open_says_what_is_wrong_and_what_to_do(checks, code, words, remedy):
    ((_, one),) = checks(f"Init ! {code}").items()
    assert (one["check"], one["state"]) == ("driver", "problem")
    assert words in one["found"]
    assert remedy in one["remedy"]


@pytest.mark.parametrize(("script", "ecc"), [("EccMode = 16", False), ("EccMode = 1", True)])
def test_a_card_is_described_as_it_is_now_and_by_its_memorys_clock(stubbed, script, ecc):
    code = (
        "from gpubench.backends import _nvml\n"
        "with _nvml.library() as nvml:\n"
        "    card = _nvml.by_index(nvml)[0]\n"
        "    print(_nvml.describe(nvml, card, 'cuda:0').ecc, _nvml._bandwidth(nvml, card) / 1e9)"
    )
    done = stubbed("-c", code, script=script)
    assert done.stdout.split() == [str(ecc), "936.096"], done.stderr


def test_without_the_library_the_cards_have_nothing_to_say(checks, tmp_path):
    assert checks(LD_LIBRARY_PATH=str(tmp_path)) == {}


def test_an_old_driver_is_asked_by_the_names_it_knows(checks):
    found = checks("Temperature = 61\nCurrentClocksThrottleReasons = 32", age="old")
    assert found["cuda:0", "temperature"]["found"].startswith("61 °C")
    assert found["cuda:0", "clocks"]["state"] == "problem"
    assert found["cuda:0", "other processes"]["state"] == "ok"
    assert found["cuda:0", "MIG"]["found"] == "none"


def test_of_two_cards_the_lost_one_is_named_and_the_other_examined(checks):
    found = checks("gpus 2\nHandleByIndex@0 ! 15")
    assert found["card 0", "driver"]["state"] == "problem"
    assert "restart" in found["card 0", "driver"]["remedy"]
    assert found["cuda:0", "temperature"]["state"] == "ok"
    assert ("cuda:1", "driver") not in found


def test_of_two_cards_the_named_one_is_examined(checks):
    found = checks("gpus 2\nTemperatureV@1 = 70", name="cuda:1")
    assert {device for device, _ in found} == {"cuda:1"}
    assert found["cuda:1", "temperature"]["found"].startswith("70 °C")


def test_a_card_that_is_lost_during_its_examination_gives_notes_to_its_end(checks):
    for after in (0, 3, 8, 14, 25, 35):
        found = checks(f"*@0 ! 15 {after}")
        assert not [one for one in found.values() if "can't be checked" in one["found"]]
        assert set(states(found)) >= {"driver"}


def test_a_slice_is_examined_as_one_and_not_as_its_card(checks):
    found = checks("mig", CUDA_VISIBLE_DEVICES="MIG-0")
    assert "a slice" in found["cuda:0", "MIG"]["found"]
    assert "MIG" in found["cuda:0", "catalogue"]["found"]
    assert found["cuda:0", "memory"]["found"].endswith("of 5.0 GiB free")


def test_a_library_that_counts_beyond_reason_or_names_in_rubbish_ends_nothing(checks):
    found = checks("Count = 4294967295")
    assert len([device for device, _ in found if device.startswith("card ")]) == 255
    found = checks("Name = 1")
    assert "unknown name" in found["cuda:0", "catalogue"]["found"]


def test_devices_answers_whatever_the_library_does(stubbed):
    gone = {"*@0 ! 15", "Count ! 15", "Init ! 9"}
    for script in ("", "Shutdown ! 15", "*@0 ! 15 3", "Name = 1", *gone):
        done = stubbed("-m", "gpubench", "devices", "--format", "json", script=script)
        assert done.returncode == 0
        assert done.stderr == ""
        names = [row["name"] for row in json.loads(done.stdout)["rows"]]
        cards = [name for name in names if name.startswith("cuda")]
        assert cards == ([] if script in gone else ["cuda:0"])


def test_the_command_says_what_is_wrong_and_exits_with_4(stubbed):
    done = stubbed("-m", "gpubench", "doctor", "--format", "json", script="TemperatureV = 89")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    rows = json.loads(done.stdout)["rows"]
    hot = [row for row in rows if row["check"] == "temperature"]
    assert [(row["device"], row["state"]) for row in hot] == [("cuda:0", "problem")]
    # The card of the stub answers, and no torch here has kernels for it.
    assert {row["state"] for row in rows if row["check"] == "torch"} == {"problem"}


@pytest.fixture
def measured(stubbed, tmp_path):
    """Run a suite in the command, on a device with the sensors of the stub's card."""

    def go(script="", device="stub:0", **different):
        for folder, name, text in (
            ("backends", "stub.py", BACKEND),
            ("workloads", "nap.py", WORKLOAD),
            ("suites", "nap.toml", SUITE),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        arguments = ("run", "--suite", "nap", "--device", device, "-o", "out.parquet")
        done = stubbed(
            *("-m", "gpubench", *arguments), script=script, GPUBENCH_PATH=str(tmp_path), **different
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        (found,) = store.read_records(str(tmp_path / "out.parquet"))
        assert found.status == "ok"
        return found

    return go


def test_a_trace_of_the_sensors_is_in_the_row_and_raises_its_flags(measured):
    found = measured(
        f"PowerInstant = {'100000 200000 300000 ' * 20}\n"
        f"CurrentClocksEventReasons = {'1 1 4 ' * 20}\n"
        f"Clock = {'1500 1500 1200 ' * 20}\n"
        "ComputeRunningProcesses = 2\n"
    )
    assert (found.power_w.min, found.power_w.max) == (100.0, 300.0)
    assert 150 <= found.power_w.mean <= 250
    assert (found.sm_clock_hz.min, found.sm_clock_hz.max) == (1.2e9, 1.5e9)
    assert found.throttle_reasons == ["power"]
    assert {"throttled_power", "clocks_moving", "other_processes"} <= set(found.flags)
    assert found.driver == "580.65.06"
    assert found.pcie == "4.0 x16"


def test_an_old_driver_measures_with_what_it_tells(measured):
    found = measured("Temperature = 61\nCurrentClocksThrottleReasons = 32", age="old")
    assert found.temperature_c.mean == 61
    assert found.power_w is None  # it tells the last second's mean only
    assert "throttled_thermal" in found.flags


def test_a_card_without_sensors_measures_with_nulls(measured):
    names = (
        "PowerInstant",
        "Clock",
        "MemoryClock",
        "TemperatureV",
        "Temperature",
        "TotalEnergyConsumption",
    )
    reasons = ("CurrentClocksEventReasons", "CurrentClocksThrottleReasons")
    found = measured("\n".join(f"{name} ! {NOT_SUPPORTED}" for name in (*names, *reasons)))
    for column in ("sm_clock_hz", "memory_clock_hz", "power_w", "temperature_c", "energy_j"):
        assert getattr(found, column) is None
    assert found.throttle_reasons is None
    assert not {"throttled_power", "throttled_thermal", "clocks_moving"} & set(found.flags)


def test_a_card_whose_sensors_are_lost_in_the_middle_is_measured_to_the_end(measured):
    found = measured("*@0 ! 15 80")
    assert len(found.samples_s) > 100
    assert found.power_w is not None  # of the time before
    assert found.energy_j is None


def test_what_a_card_measures_that_is_not_real_is_refused_when_it_is_read(
    measured, stubbed, tmp_path
):
    found = measured()
    assert record.NOT_REAL in found.card
    assert found.provenance == "measured"  # which is what a forger would write, too
    path = str(tmp_path / "out.parquet")
    done = stubbed("-m", "gpubench", "validate", path)
    assert done.returncode == 2
    assert "not real" in done.stdout
    frame = table.load([path])
    assert list(frame["status"]) == ["failed"]
    assert "not real" in frame["reason"].iloc[0]
    assert table.summary(frame)["median_s"].isna().all()
