"""The measuring loop, on a clock whose every noise is known."""

import gc
import itertools
from dataclasses import replace

import pytest
import torch

from gpubench import measure as loop
from gpubench.backends.cuda import CudaDevice
from gpubench.backends.virtual import Script, VirtualDevice
from gpubench.cards import get_card
from gpubench.errors import Unsupported, WrongResult
from gpubench.measure import StopRule, measure
from gpubench.stats import median
from gpubench.worker import attempt
from gpubench.workload import Case, Work

CASE = Case("gemm", (("shape", "4096x4096x4096"), ("precision", "fp32")))
#: 3 MiB, which fit into the card's 6 MiB of L2
SMALL = Case("gemm", (("shape", "512x512x512"), ("precision", "fp32")))
GRAPH = StopRule(graph=True)
#: what this card lacks
LACKED = Case("gemm", (("shape", "512x512x512"), ("precision", "fp8")))
HOT = Case(SMALL.workload, SMALL.params, "hot")


def on_card(**script):
    return VirtualDevice(get_card("geforce-rtx-3090"), Script(**script))


def true_step_s(device):
    """What the clock takes for a warm, cold-cache step without noise."""
    flops, moved = 2 * 4096**3, 3 * 4 * 4096**2
    return device.card.nominal_s(flops, moved, "fp32")


def test_the_median_is_the_true_time_of_a_step():
    device = on_card(noise=0.01)
    measured = measure(device, CASE)
    assert median(measured.samples.device_s) == pytest.approx(true_step_s(device), rel=0.01)


def test_without_noise_the_median_is_exact():
    device = on_card(noise=0.0, warmup=0.0)
    measured = measure(device, CASE)
    assert median(measured.samples.device_s) == pytest.approx(true_step_s(device), rel=1e-6)
    assert measured.flags == ()


def test_a_cold_measurement_does_not_profit_from_the_cache():
    """Steps on the data of the step before would be 40 % faster on this clock."""
    cold, hot = (measure(on_card(noise=0.0, warmup=0.0, hot=0.6), case) for case in (SMALL, HOT))
    assert (cold.cold_by, hot.cold_by) == ("rotation", None)
    assert median(hot.samples.device_s) == pytest.approx(
        0.6 * median(cold.samples.device_s), rel=0.01
    )


def test_data_without_copies_is_flushed_out_of_the_cache():
    device = on_card(noise=0.0, warmup=0.0, hot=0.6)
    prepare = device.prepare
    device.prepare = lambda *arguments: replace(prepare(*arguments), another=None)
    flushed, rotated = measure(device, SMALL), measure(on_card(noise=0.0, warmup=0.0), SMALL)
    assert (flushed.cold_by, flushed.inner) == ("flush", 1)
    assert median(flushed.samples.device_s) == pytest.approx(
        median(rotated.samples.device_s), rel=0.01
    )


def test_copies_together_are_several_times_the_cache_and_a_large_case_needs_none():
    made = []
    device = on_card()
    prepare = device.prepare

    def counted(*arguments):
        prepared = prepare(*arguments)
        another = prepared.another
        return replace(prepared, another=lambda: made.append(1) or another())

    device.prepare = counted
    touched = 3 * 4 * 512**2
    assert measure(device, SMALL).cold_by == "rotation"
    assert (len(made) + 1) * touched >= 5 * device.info.cache_bytes > len(made) * touched
    made.clear()
    assert measure(device, CASE).cold_by == "rotation"
    assert made == []


def test_short_cold_steps_are_timed_several_together_once_copies_take_turns():
    """One alone would not last 50 times what the timer costs, and be flagged."""
    device = on_card(noise=0.0, warmup=0.0)
    device.timer_cost_s = lambda: 1e-5
    measured = measure(device, SMALL)
    assert measured.inner > 1
    assert "short" not in measured.flags


def test_a_graph_takes_the_launches_out_of_the_time():
    script = {"noise": 0.0, "warmup": 0.0, "launch_s": 1e-3}
    bound, graph = (
        measure(on_card(**script), SMALL, StopRule(graph=wanted)) for wanted in (False, True)
    )
    assert "launch_bound" in bound.flags
    assert "launch_bound" not in graph.flags
    assert graph.notes["graph"] == "used"
    assert median(graph.samples.device_s) < 0.2 * median(bound.samples.device_s)


def test_a_card_is_sustained_for_as_long_as_asked_however_short_its_steps():
    device = on_card(noise=0.001, warmup=0.0)
    measured = measure(device, SMALL, StopRule(sustain_s=20.0))
    assert sum(measured.samples.device_s) * measured.inner >= 19.0
    assert measured.stop == "precise"


def test_results_of_copies_that_take_turns_lie_apart():
    """Freed at once, the memory of one result would be the next one's, still in the cache."""
    steps = [lambda: torch.empty(2**16) for _ in range(3)]
    step = loop._in_turn(steps)
    for _ in range(3):
        step()
    kept = next(
        cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, list)
    )
    assert len({result.data_ptr() for result in kept}) == 3


def test_training_steps_go_at_the_pace_of_their_loop_and_kernels_and_graphs_do_not():
    """A device with a queue gives its host a head start else, and hides what the loop waits for."""
    for case, rule, paced in ((HOT, None, True), (SMALL, None, False), (HOT, GRAPH, False)):
        device, asked = on_card(), []
        sample = device.sample

        def recorded(*args, _sample=sample, _asked=asked, **kwargs):
            _asked.append(kwargs.get("paced", False))
            return _sample(*args, **kwargs)

        device.sample = recorded
        device.timer_cost_s = lambda: 0.0
        measure(device, case, rule)
        assert set(asked) == {paced}


def test_where_no_graph_can_be_captured_the_row_says_so_and_is_measured_all_the_same():
    device = on_card(noise=0.0)

    def refuse(steps):
        raise Unsupported("the step reads back")

    device.capture = refuse
    measured = measure(device, SMALL, StopRule(graph=True))
    assert measured.notes["graph"] == "not used: the step reads back"
    assert measured.samples.device_s


def test_no_graph_of_a_step_that_waits_for_the_device_is_even_tried():
    """A refused capture breaks off GradScaler in the middle, and its next step is not scaled."""
    device = on_card(noise=0.0)
    prepare, tried = device.prepare, []
    device.prepare = lambda *arguments: replace(prepare(*arguments), waits=True)
    device.capture = tried.append
    measured = measure(device, SMALL, StopRule(graph=True))
    assert measured.notes["graph"] == "not used: the step waits for the device"
    assert measured.samples.device_s
    assert not tried


@pytest.mark.parametrize("spoils", [False, True])
@pytest.mark.parametrize(("case", "status"), [(SMALL, "ok"), (LACKED, "unsupported")])
def test_a_process_that_a_capture_spoilt_ends_with_its_case_whatever_came_of_that(
    case, status, spoils
):
    device = on_card(noise=0.0)
    device.spoilt = spoils
    outcome = attempt(device, case, StopRule())
    assert (outcome.status, outcome.poisoned) == (status, spoils)


def test_warm_up_is_kept_out_of_the_samples():
    device = on_card(noise=0.0, warmup=1.0, warmup_steps=3)
    measured = measure(device, CASE)
    assert measured.first_step_s > 1.9 * true_step_s(device)
    assert max(measured.samples.device_s) < 1.03 * true_step_s(device)


def test_noisier_steps_take_more_samples_until_the_interval_is_narrow_enough():
    few, many = (
        len(measure(on_card(noise=noise), CASE).samples.device_s) for noise in (0.002, 0.03)
    )
    assert few < many


def test_a_budget_that_is_too_short_is_flagged_and_keeps_its_samples():
    measured = measure(on_card(noise=0.3), CASE, StopRule(half_width=0.001, budget_s=0.5))
    assert measured.stop == "budget"
    assert "unconverged" in measured.flags
    assert len(measured.samples.device_s) >= 10


def test_one_step_longer_than_the_budget_still_gives_a_sample():
    measured = measure(on_card(), CASE, StopRule(budget_s=1e-4, warmup_s=1e-4))
    assert len(measured.samples.device_s) >= 1
    assert measured.stop == "budget"


def test_a_device_that_keeps_slowing_down_is_flagged_as_unsettled():
    measured = measure(on_card(noise=0.0, drift=40.0), CASE, StopRule(warmup_s=0.05))
    assert "unsettled" in measured.flags


def test_short_steps_are_timed_in_batches_when_hot_and_flagged_when_cold(monkeypatch):
    tiny = (("shape", "64x64x64"), ("precision", "fp32"))
    for cache in ("hot", "cold"):
        device = on_card(noise=0.0)
        monkeypatch.setattr(device, "timer_cost_s", lambda: 1e-6)
        measured = measure(device, Case("gemm", tiny, cache))
        if cache == "hot":
            assert measured.inner > 1
            assert "short" not in measured.flags
        else:
            assert measured.inner == 1
            assert "short" in measured.flags


def test_a_host_that_enqueues_as_slowly_as_the_device_runs_is_flagged():
    device = on_card(noise=0.0)
    plain = device.sample

    def with_host(*args, **kwargs):
        samples = plain(*args, **kwargs)
        samples.host_s = [0.9 * sample for sample in samples.device_s]
        return samples

    device.sample = with_host
    assert "launch_bound" in measure(device, CASE).flags


def test_a_full_queue_is_not_taken_for_a_slow_host(monkeypatch):
    """A host that waits for the device in most samples launches faster than that in some."""
    device = on_card(noise=0.0)
    plain = device.sample

    def with_host(*args, **kwargs):
        samples = plain(*args, **kwargs)
        samples.host_s = [0.1 * samples.device_s[0], *samples.device_s[1:]]
        return samples

    device.sample = with_host
    assert "launch_bound" not in measure(device, CASE).flags


def test_a_step_that_waits_for_the_device_has_no_host_time(monkeypatch):
    device = on_card(noise=0.0)
    plain, prepare = device.sample, device.prepare

    def with_host(*args, **kwargs):
        samples = plain(*args, **kwargs)
        samples.host_s = list(samples.device_s)
        return samples

    device.sample = with_host
    device.prepare = lambda *arguments: replace(prepare(*arguments), waits=True)
    measured = measure(device, CASE)
    assert "launch_bound" not in measured.flags
    assert measured.samples.host_s == []


def test_clocks_that_rise_during_many_short_steps_are_waited_for(monkeypatch):
    """All steps of the first 250 ms agree with each other, and none with what follows."""
    script = {"noise": 0.0, "warmup": 0.0, "throttle_after": 0.25, "throttle": 0.2}
    device = on_card(**script)
    monkeypatch.setattr(type(device), "settle_s", 0.3)
    true = 0.2 * true_step_s(device)
    assert median(measure(device, CASE).samples.device_s) == pytest.approx(true, rel=0.02)
    monkeypatch.setattr(type(device), "settle_s", 0.0)
    hasty = on_card(**script)
    assert median(measure(hasty, CASE).samples.device_s) > 2 * true


def test_a_clock_that_still_rises_is_waited_for_though_times_agree():
    """Work that waits for memory or for its launches does not show what the clock does."""
    device, reading = on_card(noise=0.0, warmup=0.0), on_card().reading
    boost = device.card.boost_clock_hz
    rising = iter([0.5, 0.7, 0.9])
    device.reading = lambda: replace(reading(), clock_hz=next(rising, 1.0) * boost)
    device.settle_s = 0.0
    measured = measure(device, HOT, StopRule(warmup_s=10.0))
    assert not {"unsettled", "clocks_moving"} & set(measured.flags)
    device.reading = lambda: replace(reading(), clock_hz=next(swinging) * boost)
    swinging = itertools.cycle([0.5, 1.0])
    assert "unsettled" in measure(device, HOT, StopRule(warmup_s=0.5)).flags


def test_a_card_settles_before_its_first_sample_however_short_its_steps_are():
    assert CudaDevice.settle_s >= 0.25  # clocks take a tenth of a second or two to rise


# energy -------------------------------------------------------------------------------------------

LONG = StopRule(half_width=1e-9, sustain_s=6.0, budget_s=6.0)


@pytest.mark.parametrize("case", [CASE, SMALL, HOT])
def test_energy_is_what_the_card_draws_for_the_time_of_a_step(case):
    device = on_card(noise=0.0, warmup=0.0)
    measured = measure(device, case, LONG)
    expected = device.card.power_w * median(measured.samples.device_s)
    assert measured.conditions["energy_j"] == pytest.approx(expected, rel=0.05)
    assert measured.conditions["energy_source"] == device.energy_source


def test_energy_that_other_things_took_too_is_that_of_no_step():
    """Of a window too short for the counter, of flushes, and of a card that waits for its host."""
    device = on_card(noise=0.0, warmup=0.0)
    short = replace(LONG, sustain_s=2.0, budget_s=2.0)
    assert measure(device, CASE, short).conditions["energy_j"] is None
    prepare, sample = device.prepare, device.sample
    bytes_unknown = Work(flops=2 * 4096**3)
    device.prepare = lambda *arguments: replace(prepare(*arguments), work=bytes_unknown)
    flushed = measure(device, CASE, LONG)
    assert flushed.cold_by == "flush"
    assert flushed.conditions["energy_j"] is flushed.conditions["energy_source"] is None
    device.prepare = prepare

    def with_pauses(*arguments, **different):
        found = sample(*arguments, **different)
        device._advance(0.1 * sum(found.device_s) * different["inner"])
        return found

    device.sample = with_pauses
    assert measure(device, CASE, LONG).conditions["energy_j"] is None


def test_a_wrong_result_is_never_timed():
    device = on_card(wrong="gemm*")
    with pytest.raises(WrongResult, match="script"):
        measure(device, CASE)


def test_the_check_comes_before_the_first_sample(monkeypatch):
    order = []
    device = on_card()
    monkeypatch.setattr(loop, "run_check", lambda prepared: order.append("check"))
    sample = device.sample

    def recorded(*args, **kwargs):
        order.append("sample")
        return sample(*args, **kwargs)

    device.sample = recorded
    measure(device, CASE)
    assert order[0] == "check"
    assert "sample" in order


def test_a_precision_the_card_lacks_is_refused_before_anything_runs(monkeypatch):
    device = VirtualDevice(get_card("geforce-gtx-1080-ti"))
    monkeypatch.setattr(device, "prepare", lambda *_: pytest.fail("was prepared"))
    with pytest.raises(Unsupported, match=r"bf16 begins with Ampere .* has 6\.1"):
        measure(device, Case("gemm", (("shape", "64x64x64"), ("precision", "bf16"))))


def test_the_collector_is_off_while_timing_and_on_again_after_a_failure():
    device = on_card()
    states = []
    sample = device.sample

    def recorded(*args, **kwargs):
        states.append(gc.isenabled())
        if len(states) > 2:
            raise RuntimeError("in the middle")
        return sample(*args, **kwargs)

    device.sample = recorded
    with pytest.raises(RuntimeError, match="in the middle"):
        measure(device, CASE)
    assert not any(states)
    assert gc.isenabled()


def test_the_same_script_gives_the_same_samples():
    first, second = (measure(on_card(seed=7, noise=0.05), CASE).samples.device_s for _ in range(2))
    assert first == second
