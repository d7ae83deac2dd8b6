"""The loop on a card whose trouble is scripted: each flag when it should, intervals that hold."""

import gc
from dataclasses import asdict, replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench import stats, table
from gpubench.backends.virtual import Script, VirtualDevice
from gpubench.cards import get_card
from gpubench.measure import StopRule, measure, measure_step
from gpubench.record import Record, Spread
from gpubench.workload import Case, get_workload

CARD = get_card("geforce-rtx-3090")
CASE = Case("gemm", (("shape", "4096x4096x4096"), ("precision", "fp32")))
#: 3 MiB, which the card's L2 holds
SMALL = Case("gemm", (("shape", "512x512x512"), ("precision", "fp32")))
FLOPS = 2.0 * 4096**3
#: a warm step without noise, seconds
TRUE_S = CARD.nominal_s(FLOPS, 3 * 4 * 4096**2, "fp32")
#: samples for two seconds, which is some 300 of them, whatever the precision by then
TWO_SECONDS = StopRule(budget_s=2.0, sustain_s=2.0)

# Noise makes a flag fire by chance in some of a thousand series: the same examples each time.
scripts = settings(derandomize=True, max_examples=40)
seeds = st.integers(0, 10**6)
faint = st.floats(0, 0.01)


@pytest.fixture(scope="module", autouse=True)
def _light_collections():
    """`measure` collects garbage before each case; of all of pytest's modules that takes long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def measured(script, rule=None, case=CASE, **patches):
    device = VirtualDevice(CARD, script)
    for name, value in patches.items():
        setattr(device, name, value)
    return measure(device, case, rule)


def flags(script, rule=None, case=CASE, **patches):
    return set(measured(script, rule, case, **patches).flags)


# a card in good health ----------------------------------------------------------------------------


@scripts
@given(seeds, st.floats(0, 0.02), st.floats(0, 1), st.integers(1, 8))
def test_a_steady_card_gives_no_flag_whatever_its_noise_and_warm_up(
    seed, noise, warmup, warmup_steps
):
    script = Script(seed=seed, noise=noise, warmup=warmup, warmup_steps=warmup_steps)
    assert flags(script) == set()


@scripts
@given(seeds, faint, st.floats(0, 1), st.integers(1, 8))
def test_a_steady_card_gives_no_flag_over_a_longer_time_either(seed, noise, warmup, warmup_steps):
    script = Script(seed=seed, noise=noise, warmup=warmup, warmup_steps=warmup_steps)
    assert flags(script, TWO_SECONDS) == set()


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.03])
def test_the_interval_covers_the_true_median_in_95_of_100_runs_whenever_the_loop_stopped(noise):
    """Stopping when the interval is narrow favours intervals that are narrow by luck."""
    device = VirtualDevice(CARD, Script(seed=1, noise=noise, warmup=0.0))
    prepared = device.prepare(get_workload(CASE.workload), dict(CASE.params))
    rule, covered = StopRule(budget_s=1000.0), 0
    for trial in range(2000):
        device.begin_trial(trial)
        found = measure_step(device, prepared, cache="cold", rule=rule)
        assert found.stop == "precise"
        interval = stats.sample_interval(found.samples.device_s)
        covered += interval.low <= TRUE_S <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


# warm-up ------------------------------------------------------------------------------------------


@scripts
@given(seeds, st.floats(0, 0.005), st.floats(0.1, 1), st.integers(1, 8))
def test_what_warms_up_within_tens_of_steps_leaves_nothing_in_the_median(
    seed, noise, warmup, warmup_steps
):
    script = Script(seed=seed, noise=noise, warmup=warmup, warmup_steps=warmup_steps)
    found = stats.median(measured(script).samples.device_s)
    assert found == pytest.approx(TRUE_S, rel=0.015)


@scripts
@given(seeds, st.floats(0, 0.005), st.floats(0.5, 1), st.integers(50, 100))
def test_a_warm_up_too_slow_to_be_seen_between_two_windows_is_seen_as_drift(
    seed, noise, warmup, warmup_steps
):
    script = Script(seed=seed, noise=noise, warmup=warmup, warmup_steps=warmup_steps)
    assert "drift" in flags(script, StopRule(sustain_s=1.0))


@scripts
@given(seeds, st.floats(0, 0.002), st.one_of(st.floats(0, 0.2), st.floats(4, 60)))
def test_a_card_that_has_not_settled_by_the_end_of_warm_up_is_flagged(seed, noise, drift):
    """From one window to the next it may change by 2 %, which is 0.6 a second of these steps."""
    script = Script(seed=seed, noise=noise, warmup=0.0, drift=drift)
    assert ("unsettled" in flags(script)) == (drift > 1)


# precision ----------------------------------------------------------------------------------------


@scripts
@given(seeds, st.floats(0.2, 0.5))
def test_too_little_time_for_the_precision_is_flagged(seed, noise):
    script = Script(seed=seed, noise=noise)
    assert "unconverged" in flags(script, StopRule(half_width=0.005, budget_s=0.5))
    found = measured(replace(script, noise=noise / 20), StopRule(half_width=0.05))
    assert "unconverged" not in found.flags
    assert stats.sample_interval(found.samples.device_s).half_width <= 0.05


@scripts
@given(seeds, st.floats(1e-7, 1e-3), st.sampled_from(["cold", "hot"]))
def test_samples_are_made_long_enough_for_the_timer(seed, timer_s, cache):
    """Copies that take turns stay cold, and hot data hot, for any number of steps in a sample."""
    case = replace(SMALL, cache=cache)
    found = measured(Script(seed=seed), case=case, timer_cost_s=lambda: timer_s)
    assert "short" not in found.flags
    assert stats.median(found.samples.device_s) * (found.inner - 1) <= 1.2 * 50 * timer_s


@scripts
@given(seeds, st.floats(1e-7, 1e-4))
def test_a_flushed_cache_is_cold_for_one_step_and_a_sample_of_it_may_be_too_short(seed, timer_s):
    device = VirtualDevice(CARD, Script(seed=seed))
    prepare = device.prepare
    device.prepare = lambda *given: replace(prepare(*given), another=None)
    device.timer_cost_s = lambda: timer_s
    found = measure(device, SMALL)
    assert found.inner == 1
    assert ("short" in found.flags) == (stats.median(found.samples.device_s) < 50 * timer_s)


@scripts
@given(seeds, faint, st.one_of(st.floats(0.01, 0.75), st.floats(0.85, 4)))
def test_a_step_that_waits_for_its_launch_is_flagged(seed, noise, share):
    """From 0.8 of the device's time on."""
    script = Script(seed=seed, noise=noise, launch_s=share * TRUE_S)
    assert ("launch_bound" in flags(script)) == (share > 0.8)


# what moves while it is measured ------------------------------------------------------------------


@scripts
@given(seeds, faint, st.one_of(st.floats(0, 0.006), st.floats(0.035, 1)))
def test_a_drift_of_more_than_two_per_cent_is_flagged_and_no_smaller_one(seed, noise, drift):
    """Over two seconds; the median of a third lies 1.3 s from that of another."""
    script = Script(seed=seed, noise=noise, drift=drift, warmup=0.0)
    assert ("drift" in flags(script, TWO_SECONDS)) == (drift > 0.02)


@scripts
@given(seeds, faint, st.one_of(st.floats(0, 0.02), st.floats(0.035, 1)))
def test_a_clock_that_changes_by_more_than_five_per_cent_is_flagged(seed, noise, drift):
    script = Script(seed=seed, noise=noise, drift=drift, warmup=0.0)
    assert ("clocks_moving" in flags(script, TWO_SECONDS)) == (drift > 0.03)


@scripts
@given(
    seeds,
    faint,
    st.floats(0.3, 1.7),
    st.floats(1.1, 2),
    st.sampled_from(["power", "thermal", "other"]),
)
def test_throttling_while_sampling_is_flagged_by_its_reason(seed, noise, after, factor, reason):
    script = Script(
        seed=seed, noise=noise, throttle_after=after, throttle=factor, throttle_reason=reason
    )
    found = flags(script, TWO_SECONDS)
    assert "clocks_moving" in found
    named = {flag for flag in found if flag.startswith("throttled_")}
    assert named == {f"throttled_{reason}"} - {"throttled_other"}
    assert measured(script, TWO_SECONDS).conditions["throttle_reasons"] == [reason]


@scripts
@given(seeds, faint, st.floats(10, 1000), st.sampled_from(["power", "thermal"]))
def test_throttling_after_the_samples_is_nobodys_concern(seed, noise, after, reason):
    script = Script(
        seed=seed, noise=noise, throttle_after=after, throttle=2.0, throttle_reason=reason
    )
    assert flags(script, TWO_SECONDS) == set()


@scripts
@given(seeds, faint, st.sampled_from(["power", "thermal"]))
def test_a_card_that_is_throttled_all_the_time_is_flagged_though_its_clock_is_steady(
    seed, noise, reason
):
    script = Script(
        seed=seed, noise=noise, throttle_after=0.0, throttle=1.5, throttle_reason=reason
    )
    assert flags(script) == {f"throttled_{reason}"}


# modes and others ---------------------------------------------------------------------------------


@scripts
@given(seeds, faint, st.floats(0.2, 0.8), st.floats(1.15, 1.5))
def test_two_modes_are_flagged(seed, noise, share, factor):
    script = Script(seed=seed, noise=noise, second_mode=share, second_mode_factor=factor)
    assert "bimodal" in flags(script, TWO_SECONDS)


@scripts
@given(seeds, faint, st.floats(0, 0.03), st.floats(1.15, 1.5))
def test_a_few_slow_steps_are_no_second_mode(seed, noise, share, factor):
    script = Script(seed=seed, noise=noise, second_mode=share, second_mode_factor=factor)
    assert "bimodal" not in flags(script, TWO_SECONDS)


@scripts
@given(seeds, st.floats(0.2, 0.8), st.floats(1, 1.015))
def test_two_modes_so_close_that_they_change_nothing_are_none(seed, share, factor):
    script = Script(seed=seed, noise=0.0002, second_mode=share, second_mode_factor=factor)
    assert "bimodal" not in flags(script, TWO_SECONDS)


@scripts
@given(seeds, st.floats(0, 0.02), st.integers(0, 5))
def test_others_on_the_card_are_flagged(seed, noise, others):
    found = flags(Script(seed=seed, noise=noise, other_processes=others))
    assert found == ({"other_processes"} if others else set())


# too good to be true ------------------------------------------------------------------------------


def derived_flags(script):
    """As a reader of the result file sees them."""
    found = measured(script)
    record = Record(
        case_id="product",
        samples_s=found.samples.device_s,
        inner=found.inner,
        flops=found.work.flops,
        bytes=found.work.bytes,
        items=0.0,
        params={"precision": "fp32"},
        card_id=CARD.card_id,
        provenance="virtual",
        flags=list(found.flags),
        **{
            key: asdict(value) if isinstance(value, Spread) else value
            for key, value in found.conditions.items()
        },
    )
    return set(table.derive(pd.DataFrame([asdict(record)]))["flags"].iloc[0])


@scripts
@given(seeds, faint, st.one_of(st.floats(0.3, 0.98), st.floats(1.06, 4)), st.floats(1, 3))
def test_a_rate_above_the_peak_at_the_clock_that_was_seen_is_flagged(seed, noise, share, slower):
    """``share`` is of the peak at that clock, which is ``slower`` than the card's best."""
    at_peak_s = FLOPS / CARD.peaks["fp32"]
    script = Script(
        seed=seed,
        noise=noise,
        slowdown=at_peak_s / TRUE_S / share,
        throttle_after=0.0,
        throttle=slower,
        throttle_reason="other",
    )
    assert ("above_peak" in derived_flags(script)) == (share > 1)
