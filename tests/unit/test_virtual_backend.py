"""The simulated card: what its script says is what shows, in times, in launches and in readings."""

import pytest

from gpubench.backends.virtual import Script, VirtualDevice, parse_script
from gpubench.cards import get_card
from gpubench.device import Reading
from gpubench.workload import get_workload

CARD = get_card("tesla-t4")
CALM = {"noise": 0.0, "warmup": 0.0}


def card(**script):
    return VirtualDevice(CARD, Script(**{**CALM, **script}))


def a_small_step(device):
    params = {"shape": "512x512x512", "precision": "fp32"}
    return device.prepare(get_workload("gemm"), params)


def test_a_healthy_card_runs_at_its_boost_clock_and_rated_power():
    device = card()
    device._advance(10.0)
    found = device.reading()
    assert found.clock_hz == CARD.boost_clock_hz
    assert found.power_w == CARD.power_w
    assert found.energy_j == pytest.approx(CARD.power_w * device.now())
    assert (found.throttle, found.other_processes) == ((), 0)
    assert device.energy_source == "virtual"


@pytest.mark.parametrize("reason", ["thermal", "power", "other"])
def test_a_card_that_throttles_says_why_and_is_slower_by_as_much_as_its_clock(reason):
    device = card(throttle_after=1.0, throttle=1.6, throttle_reason=reason)
    calm = device.reading()
    before_s = device.sample(lambda: device._advance(1.0), inner=1, count=1, cold=False)
    slow = device.reading()
    after_s = device.sample(lambda: device._advance(1.0), inner=1, count=1, cold=True)
    assert (calm.throttle, slow.throttle) == ((), (reason,))
    assert calm.clock_hz / slow.clock_hz == pytest.approx(1.6)
    assert after_s.device_s[0] / before_s.device_s[0] == pytest.approx(1.6)


def test_a_card_that_drifts_has_a_clock_that_falls_and_a_temperature_that_rises():
    device = card(drift=0.01)
    found = []
    for _ in range(5):
        device._advance(5.0)
        found.append(device.reading())
    clocks = [reading.clock_hz for reading in found]
    warmth = [reading.temperature_c for reading in found]
    assert clocks == sorted(clocks, reverse=True)
    assert clocks[0] > clocks[-1]
    assert warmth == sorted(warmth)
    assert warmth[-1] > warmth[0]


@pytest.mark.parametrize(
    ("pattern", "hidden"),
    [
        ("", set()),
        ("*", set(vars(Reading()))),
        ("energy_j", {"energy_j"}),
        ("*clock_hz", {"clock_hz", "memory_clock_hz"}),
    ],
)
def test_what_the_script_hides_cannot_be_read(pattern, hidden):
    whole = vars(card().reading())
    found = vars(card(unreadable=pattern).reading())
    assert found == {name: None if name in hidden else whole[name] for name in whole}


def test_a_step_that_is_shorter_than_its_launch_waits_for_the_host():
    device = card(launch_s=0.5)
    samples = device.sample(lambda: device._advance(0.1), inner=4, count=3, cold=False)
    assert samples.device_s == pytest.approx([0.5] * 3)
    assert samples.host_s == pytest.approx([0.5] * 3)
    samples = device.sample(lambda: device._advance(2.0), inner=1, count=1, cold=True)
    assert samples.device_s == pytest.approx([2.0])
    assert samples.host_s == pytest.approx([0.5])


def test_captured_steps_cost_the_host_nothing_and_take_the_devices_time():
    device = card(launch_s=0.5, hot=1.0)
    replay = device.capture([lambda: device._advance(0.1)] * 3)
    samples = device.sample(replay, inner=1, count=2, cold=False)
    assert samples.device_s == pytest.approx([0.3] * 2)
    assert samples.host_s == [0.0, 0.0]
    assert device.sample(lambda: device._advance(0.1), inner=1, count=1, cold=False).host_s == [0.5]


def test_without_a_cost_of_launching_there_is_no_time_of_the_host():
    device = card()
    assert device.sample(lambda: device._advance(0.1), inner=1, count=3, cold=False).host_s == []


def test_copies_that_take_turns_are_cold_and_one_alone_is_hot():
    device = card(hot=0.5)
    prepared = a_small_step(device)

    def seconds(step):
        return device.sample(step, inner=1, count=1, cold=False).device_s[0]

    device.flush()
    cold_s = seconds(prepared.step)
    other = prepared.another()
    assert seconds(prepared.step) == pytest.approx(cold_s / 2, rel=1e-3)  # the clock ticks
    for step in (other, prepared.step, other):
        assert seconds(step) == pytest.approx(cold_s, rel=1e-3)


def test_data_larger_than_the_cache_is_never_hot():
    device = card(hot=0.5)
    params = {"shape": "8192x8192x8192", "precision": "fp32"}
    prepared = device.prepare(get_workload("gemm"), params)
    times = device.sample(prepared.step, inner=1, count=3, cold=False).device_s
    assert times == pytest.approx([times[0]] * 3)


def test_the_script_is_read_by_the_types_of_its_keys():
    settings = ["other_processes=2", "launch_s=1e-5", "throttle_reason=power", "unreadable=*"]
    script = parse_script(settings)
    assert (script.other_processes, script.launch_s) == (2, 1e-5)
    assert VirtualDevice(CARD, script).reading() == Reading()
