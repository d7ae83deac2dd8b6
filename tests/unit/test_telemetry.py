"""What goes on beside a measurement, with a scripted operating system and scripted devices."""

import math
import threading
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import telemetry
from gpubench.backends import cpu
from gpubench.device import Device, DeviceInfo, Reading, open_device
from gpubench.record import Spread
from gpubench.telemetry import FOREIGN_LOAD_LIMIT, HostLoad, Telemetry, processor_clock_hz

Times = namedtuple("Times", "user system idle iowait steal guest")  # noqa: PYI024 - as psutil's


def _own(user, children=0.0):
    return SimpleNamespace(user=user, system=0.0, children_user=children, children_system=0.0)


@pytest.fixture
def system(monkeypatch):
    """Set seconds of the whole system and of this process, before and after the block."""

    def script(before, after, own, children=0.0):
        readings = iter([before, after])
        mine = iter([_own(0.0), _own(own, children)])
        fake = SimpleNamespace(cpu_times=lambda: next(readings))
        monkeypatch.setattr(telemetry, "psutil", fake)
        monkeypatch.setattr(telemetry.os, "times", lambda: next(mine))

    return script


class ScriptedDevice(Device):
    """A device whose clock advances one second a reading, and whose readings are given."""

    def __init__(self, readings, timer="cuda_event", provenance="virtual"):
        self.timer, self.provenance = timer, provenance
        self.info = DeviceInfo("scripted", "scripted", "A card", "a-card", "none")
        self.readings = iter(readings)
        self.threads = []
        self.at_s = 0.0

    def unsupported(self, precision):
        return None

    def flush(self):
        return

    def expected_s(self, work, precision):
        return None

    def now(self):
        return self.at_s

    def reading(self):
        self.threads.append(threading.current_thread().name)
        self.at_s += 1.0
        found = next(self.readings)
        if isinstance(found, Exception):
            raise found
        return found


def watched(*readings, **different):
    """Telemetry of a block with two readings, or of one with some inside, taken by hand."""
    device = ScriptedDevice(readings, **different)
    found = Telemetry(device)
    with found:
        for _ in range(len(readings) - 2):
            found._moments.append(found._read())
    return found


def test_what_others_used_is_what_is_neither_idle_nor_ours(system):
    system(Times(10, 5, 100, 1, 0, 0), Times(15, 6, 102, 3, 0, 0), own=4.0)
    with HostLoad() as load:
        pass
    assert load.foreign == pytest.approx(2 / 10)  # 10 s passed: 4 idle or waiting, 4 ours
    assert load.steal == 0.0


def test_what_a_process_used_that_we_started_is_not_foreign(system):
    system(Times(10, 0, 10, 0, 0, 0), Times(15, 0, 15, 0, 0, 0), own=1.0, children=4.0)
    with HostLoad() as load:
        pass
    assert load.foreign == 0.0


def test_time_stolen_by_the_hypervisor_is_apart_and_guest_time_is_not_counted_twice(system):
    system(Times(10, 0, 0, 0, 0, 0), Times(15, 0, 2, 0, 3, 5), own=4.0)
    with HostLoad() as load:
        pass
    assert load.steal == pytest.approx(0.3)
    assert load.foreign == pytest.approx(0.1)


def test_a_quiet_machine_has_no_foreign_load_even_if_clocks_disagree(system):
    system(Times(10, 0, 10, 0, 0, 0), Times(11, 0, 11, 0, 0, 0), own=1.1)
    with HostLoad() as load:
        pass
    assert load.foreign == 0.0


def test_too_short_a_block_says_nothing(system):
    system(Times(10, 0, 10, 0, 0, 0), Times(10.04, 0, 10.01, 0, 0, 0), own=0.0)
    with HostLoad() as load:
        pass
    assert load.foreign is None
    assert load.steal is None


def test_a_system_that_counts_no_stolen_time_has_none(system):
    mac = namedtuple("mac", "user system idle nice")  # noqa: PYI024 - as psutil's
    system(mac(1, 1, 1, 0), mac(6, 1, 6, 0), own=5.0)
    with HostLoad() as load:
        pass
    assert (load.foreign, load.steal) == (0.0, 0.0)


def test_a_spread_is_of_the_readings_inside_the_block():
    idle = Reading(clock_hz=1e8, power_w=20.0, temperature_c=30.0, memory_clock_hz=4e8)
    busy = [Reading(clock_hz=c, power_w=p, temperature_c=70.0) for c, p in ((2e9, 300), (1e9, 400))]
    found = watched(idle, *busy, idle)
    assert found.sm_clock_hz == Spread(1.5e9, 1e9, 2e9)
    assert found.power_w == Spread(350, 300, 400)
    assert found.temperature_c == Spread(70, 70, 70)
    assert found.memory_clock_hz is None  # unreadable inside
    assert found.processor_clock_hz is None


def test_a_block_too_short_for_a_reading_inside_has_those_of_its_ends():
    found = watched(Reading(clock_hz=1e9), Reading(clock_hz=3e9))
    assert found.sm_clock_hz == Spread(2e9, 1e9, 3e9)


def test_what_cannot_be_read_is_null_and_raises_no_flag():
    found = watched(Reading(), Reading(), Reading())
    told = {name: value for name, value in vars(found).items() if not name.startswith("_")}
    assert told.pop("window_s") == 2.0
    assert set(told.values()) <= {None}
    assert found.flags("cuda_event") == found.flags("host") == ()


@given(
    st.lists(
        st.one_of(
            st.just(RuntimeError("the driver is gone")),
            st.builds(
                Reading,
                clock_hz=st.none() | st.floats(1e6, 4e9),
                power_w=st.none() | st.floats(0, 1000),
                energy_j=st.none() | st.floats(0, 1e9),
                throttle=st.none() | st.lists(st.sampled_from(["power", "thermal", "other"])),
                other_processes=st.none() | st.integers(0, 9),
            ),
        ),
        min_size=2,
        max_size=8,
    )
)
def test_no_trace_of_readings_ends_a_measurement_or_gives_a_spread_beside_its_bounds(readings):
    found = watched(*readings)
    for spread in (found.sm_clock_hz, found.power_w):
        if spread is not None:
            close = 1 + 1e-12
            assert spread.min <= spread.mean * close
            assert spread.mean <= spread.max * close
    assert found.energy_j is None or found.energy_j >= 0
    assert set(found.flags("cuda_event")) <= {
        *("throttled_power", "throttled_thermal", "clocks_moving", "other_processes")
    }


def test_energy_is_what_the_counter_rose_by_from_the_first_reading_to_the_last():
    joules = (1000.0, 1100.0, 1200.0, 1300.0, 1400.0, 1450.0)
    found = watched(*(Reading(energy_j=value) for value in joules))
    assert found.window_s == 5.0
    assert found.energy_j == 450.0


@pytest.mark.parametrize(
    "counter",
    [
        [0.0, 500.0],  # one second
        [0.0, 100.0, 200.0, 300.0, 400.0, None],  # lost on the way
        [None, 200.0, 300.0, 400.0, 500.0, 600.0],
        [900.0, 950.0, 960.0, 970.0, 980.0, 10.0],  # the driver was loaded anew
    ],
)
def test_energy_of_a_short_window_or_a_broken_counter_is_null(counter):
    assert watched(*[Reading(energy_j=joules) for joules in counter]).energy_j is None


def test_throttling_at_any_time_is_kept_and_flagged_by_its_reason():
    trace = [(), ("thermal",), None, ("power", "other"), ()]
    found = watched(*[Reading(throttle=reasons) for reasons in trace])
    assert found.throttle_reasons == ["power", "thermal", "other"]
    assert found.flags("cuda_event") == ("throttled_power", "throttled_thermal")
    never = watched(Reading(throttle=()), Reading(throttle=()))
    assert never.throttle_reasons == []
    assert never.flags("cuda_event") == ()
    unknown = watched(Reading(throttle=("other",)), Reading())
    assert unknown.flags("cuda_event") == ()


@pytest.mark.parametrize(("low", "moves"), [(0.94, True), (0.96, False)])
def test_clocks_that_differ_by_more_than_a_twentieth_are_moving(low, moves):
    readings = [Reading(clock_hz=hertz) for hertz in (2e9, 2e9, low * 2e9, 2e9)]
    assert ("clocks_moving" in watched(*readings).flags("cuda_event")) == moves
    assert ("clocks_moving" in watched(*readings, timer="host").flags("host")) == moves


@pytest.mark.parametrize("others", [[1, 0], [0, 2], [0, 1, 0]])
def test_another_process_on_the_device_is_flagged_whenever_it_was_there(others):
    found = watched(*[Reading(other_processes=count) for count in others])
    assert found.flags("cuda_event") == ("other_processes",)
    alone = watched(*[Reading(other_processes=0) for _ in others])
    assert alone.flags("cuda_event") == ()


@pytest.mark.parametrize("timer", ["host", "cuda_event"])
def test_load_on_the_processor_is_kept_always_and_flagged_where_the_host_keeps_time(
    monkeypatch, timer
):
    over, under = 1.01 * FOREIGN_LOAD_LIMIT, 0.99 * FOREIGN_LOAD_LIMIT

    def shares(foreign, steal):
        class Scripted(HostLoad):
            def __exit__(self, *_):
                self.foreign, self.steal = foreign, steal

        monkeypatch.setattr(telemetry, "HostLoad", Scripted)
        device = ScriptedDevice([Reading()] * 2, timer=timer, provenance="measured")
        with Telemetry(device) as found:
            pass
        assert (found.foreign, found.steal) == (foreign, steal)
        return found.flags(timer)

    assert shares(over, over) == (("other_processes", "stolen") if timer == "host" else ())
    assert shares(under, over) == (("stolen",) if timer == "host" else ())
    assert shares(under, under) == shares(None, None) == ()


def test_on_a_virtual_clock_the_machine_has_no_part_and_no_thread_adds_readings():
    device = open_device("virtual:tesla-t4")
    before = threading.active_count()
    with Telemetry(device) as found:
        assert threading.active_count() == before
        device._advance(4.0)
    assert found.window_s >= 4.0
    assert found.energy_j == pytest.approx(device.card.power_w * found.window_s)
    assert found.sm_clock_hz == Spread(*[device.card.boost_clock_hz] * 3)
    assert found.foreign is found.steal is found.processor_clock_hz is None


def test_the_script_of_a_virtual_card_shows_in_its_telemetry():
    script = "throttle_after=1,throttle=1.25,throttle_reason=power,other_processes=1"
    device = open_device(f"virtual:tesla-t4,{script},unreadable=e*")
    with Telemetry(device) as found:
        device._advance(3.0)
    boost = device.card.boost_clock_hz
    assert (found.sm_clock_hz.max, found.sm_clock_hz.min) == (boost, boost / 1.25)
    assert found.temperature_c.max > found.temperature_c.min
    assert found.energy_j is None
    assert found.flags("virtual") == ("throttled_power", "clocks_moving", "other_processes")


def test_a_thread_reads_beside_the_block_and_is_gone_after_it(monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL_S", 0.001)
    device = ScriptedDevice(iter(lambda: Reading(clock_hz=1e9), None), provenance="measured")
    with Telemetry(device) as found:
        end = time.monotonic() + 30
        while len(device.threads) < 4 and time.monotonic() < end:
            time.sleep(0.001)
    assert device.threads[0] == device.threads[-1] == threading.current_thread().name
    assert "telemetry" in device.threads
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())
    assert found.sm_clock_hz.mean == 1e9


def test_the_thread_ends_with_a_block_that_fails():
    device = ScriptedDevice([Reading()] * 2, provenance="measured")
    with pytest.raises(KeyError), Telemetry(device):
        raise KeyError
    assert not any(thread.name == "telemetry" for thread in threading.enumerate())


def test_a_driver_that_hangs_is_left_behind(monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL_S", 0.001)
    released, inside = threading.Event(), threading.Event()

    class Hanging(ScriptedDevice):
        def reading(self):
            if threading.current_thread().name == "telemetry":
                inside.set()
                released.wait(30)
            return Reading(clock_hz=1e9)

    device = Hanging([], provenance="measured")
    with Telemetry(device) as found:
        assert inside.wait(30)
    assert found.sm_clock_hz == Spread(1e9, 1e9, 1e9)
    released.set()


def test_slow_readings_get_rarer_so_that_their_share_stays_small():
    found = Telemetry(ScriptedDevice([]))
    waits = []

    def ended(seconds):
        waits.append(seconds)
        return True

    found._ended = SimpleNamespace(wait=ended)
    for cost in (0.0, 1e-5, 0.004):
        found._cost_s = cost
        found._watch()
    assert waits == [telemetry.INTERVAL_S, telemetry.INTERVAL_S, 0.004 / telemetry.MOST_SHARE]
    assert telemetry.MOST_SHARE <= 0.01


def test_the_cost_of_a_reading_is_the_processors_time_and_no_waiting():
    class Waiting(ScriptedDevice):
        def reading(self):
            time.sleep(0.05)
            return Reading()

    found, begin = Telemetry(Waiting([])), time.perf_counter()
    found._read()
    assert found._cost_s < (time.perf_counter() - begin) / 2


def cores(folder, clocks, monkeypatch):
    for core, kilohertz in clocks.items():
        (folder / f"cpu{core}/cpufreq").mkdir(parents=True)
        (folder / f"cpu{core}/cpufreq/scaling_cur_freq").write_text(f"{kilohertz}\n")
    monkeypatch.setattr(telemetry, "CORES", folder)
    monkeypatch.setattr(telemetry.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)


def test_a_processors_clock_is_the_mean_of_the_cores_this_process_may_use(tmp_path, monkeypatch):
    cores(tmp_path, {0: 2_000_000, 1: 3_000_000, 7: 800_000}, monkeypatch)
    assert processor_clock_hz() == 2.5e9


@pytest.mark.parametrize("text", ["", "<unknown>", None])
def test_a_clock_that_linux_does_not_tell_is_null(tmp_path, monkeypatch, text):
    cores(tmp_path, {0: text} if text is not None else {}, monkeypatch)
    assert processor_clock_hz() is None


def test_the_clock_of_the_processor_is_not_taken_for_a_cards(monkeypatch):
    monkeypatch.setattr(telemetry, "processor_clock_hz", lambda: 4e9)
    readings = [Reading(clock_hz=1e9)] * 2
    card = watched(*readings, provenance="measured")
    assert (card.sm_clock_hz.mean, card.processor_clock_hz.mean) == (1e9, 4e9)
    processor = watched(*readings, timer="host", provenance="measured")
    assert (processor.sm_clock_hz, processor.processor_clock_hz.mean) == (None, 1e9)


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Write a domain's counter; a value of None makes it unreadable."""

    def write(domain, name, value, largest=1000):
        folder = tmp_path / domain
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{largest}\n")
        (folder / "energy_uj").unlink(missing_ok=True)
        if value is not None:
            (folder / "energy_uj").write_text(f"{value}\n")

    monkeypatch.setattr(cpu, "POWERCAP", tmp_path)
    return write


def test_energy_of_a_processor_is_that_of_its_packages_alone(rapl):
    domains = [("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")]
    rest = [("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl", "control")]
    for domain, name in domains + rest:
        rapl(domain, name, 100, largest=10**9)
    counter = cpu.EnergyCounter()
    assert counter.read_j() == 0.0
    for domain, name in domains + rest:
        rapl(domain, name, 3_000_100, largest=10**9)
    assert counter.read_j() == 6.0


@given(rises=st.lists(st.integers(0, 999), max_size=20), start=st.integers(0, 999))
def test_energy_never_falls_where_its_counter_starts_anew(tmp_path_factory, rises, start):
    folder = tmp_path_factory.mktemp("powercap") / "intel-rapl:0"
    folder.mkdir()
    (folder / "name").write_text("package-0")
    (folder / "max_energy_range_uj").write_text("1000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "POWERCAP", folder.parent)
        counter = cpu.EnergyCounter()
    taken = start
    for rise in [0, *rises]:
        taken += rise
        (folder / "energy_uj").write_text(str(taken % 1000))
        found = counter.read_j()
    assert found == (taken - start) / 1e6


def test_energy_that_only_root_may_read_is_null_and_goes_on_where_it_can_be_read_again(rapl):
    rapl("intel-rapl:0", "package-0", None)
    rapl("intel-rapl:1", "package-1", 5)
    counter = cpu.EnergyCounter()
    assert counter.read_j() is None
    rapl("intel-rapl:0", "package-0", 10)
    assert counter.read_j() == 0.0
    rapl("intel-rapl:0", "package-0", None)
    assert counter.read_j() is None
    rapl("intel-rapl:0", "package-0", 20)
    rapl("intel-rapl:1", "package-1", 6)
    assert counter.read_j() == pytest.approx(11e-6)


def test_a_processor_without_counters_has_no_energy(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "POWERCAP", tmp_path / "missing")
    assert cpu.ProcessorDevice().reading().energy_j is None


def test_telemetry_of_this_processor_is_whole():
    device = cpu.ProcessorDevice()
    with Telemetry(device) as found:
        math.factorial(20_000)
    assert found.window_s > 0
    assert found.sm_clock_hz is None
    assert found.throttle_reasons is None
    assert found.processor_clock_hz is None or found.processor_clock_hz.min > 1e6


def test_the_cache_of_a_processor_is_that_of_all_its_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for core, die in enumerate(("0-1", "0-1", "2-3", "2-3", "4-5")):
        for level, shared, size in ((2, str(core), "1024K"), (3, die, "32M")):
            folder = tmp_path / f"cpu{core}" / "cache" / f"index{level}"
            folder.mkdir(parents=True)
            (folder / "level").write_text(f"{level}\n")
            (folder / "shared_cpu_list").write_text(f"{shared}\n")
            (folder / "size").write_text(f"{size}\n")
    assert cpu.last_level_cache_bytes(tmp_path) == 2 * 32 * 2**20
    assert cpu.last_level_cache_bytes(tmp_path / "nowhere") is None
