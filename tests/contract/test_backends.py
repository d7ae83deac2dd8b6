"""Every backend keeps the same contract; the folder says which there are."""

import threading
from dataclasses import fields

import pytest

from gpubench import plugins
from gpubench.device import Device, Reading, Samples, open_device, present
from gpubench.errors import Unsupported
from gpubench.telemetry import THROTTLE_REASONS
from gpubench.workload import Work

DEVICES = [
    pytest.param(module.EXAMPLE, marks=[pytest.mark.gpu] if "cuda" in module.EXAMPLE else [])
    for module in plugins.modules("backends")
]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param.startswith("cuda") and not any(i.backend == "cuda" for i in present()):
        pytest.skip("needs an NVIDIA GPU, and none is here")
    return open_device(request.param)


def a_step(device):
    """Something to time, on whatever device."""
    if device.info.backend == "virtual":
        return lambda: device._advance(1e-3)
    torch = pytest.importorskip("torch", reason="steps need torch")
    square = torch.rand(256, 256, device=device.torch_device)
    return lambda: square @ square


def test_every_backend_of_the_folder_is_under_contract():
    covered = {device.values[0].partition(":")[0] for device in DEVICES}
    assert covered == set(plugins.files("backends", ".py"))


def test_it_says_what_it_is(device):
    assert isinstance(device, Device)
    assert device.info.card
    assert device.info.card_id
    assert device.info.architecture
    assert device.provenance in {"measured", "virtual"}
    assert device.info.memory_bytes > 2**28


def test_samples_are_positive_and_as_many_as_asked_for(device):
    samples = device.sample(a_step(device), inner=2, count=7, cold=False)
    assert isinstance(samples, Samples)
    assert len(samples.device_s) == 7
    assert all(sample > 0 for sample in samples.device_s)
    assert len(samples.host_s) in {0, 7}


def test_the_cache_is_flushed_once_before_each_cold_sample_and_never_before_a_hot_one(device):
    events = []
    step, flush = a_step(device), device.flush
    device.flush = lambda: (events.append("flush"), flush())

    def recorded():
        events.append("step")
        step()

    device.sample(recorded, inner=1, count=3, cold=True)
    assert events == ["flush", "step"] * 3
    events.clear()
    device.sample(recorded, inner=1, count=3, cold=False)
    assert events == ["step"] * 3


def test_the_flush_is_not_in_the_sample(device):
    """Flushing takes longer than nothing does; a cold sample of nothing must not show it."""
    device.flush()
    begin = device.now()
    for _ in range(5):
        device.flush()
    device.synchronize()
    flush_s = (device.now() - begin) / 5
    empty = device.sample(lambda: None, inner=1, count=9, cold=True).device_s
    assert sorted(empty)[4] < flush_s / 2


def test_the_clock_only_moves_forward(device):
    step, times = a_step(device), [device.now()]
    for _ in range(20):
        step()
        device.synchronize()
        times.append(device.now())
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_steps_are_counted_per_sample(device):
    calls = []
    step = a_step(device)
    device.sample(lambda: (calls.append(1), step()), inner=5, count=4, cold=False)
    assert len(calls) == 20


def test_timing_nothing_costs_less_than_timing_a_step(device):
    step_s = device.sample(a_step(device), inner=1, count=9, cold=False).device_s
    assert 0 <= device.timer_cost_s() < sorted(step_s)[4]


def readings(device, count=5):
    """Readings with work between them, as telemetry takes them."""
    step, found = a_step(device), [device.reading()]
    for _ in range(count - 1):
        device.sample(step, inner=1, count=3, cold=False)
        found.append(device.reading())
    return found


def test_each_value_of_a_reading_is_a_number_of_its_unit_or_null(device):
    plausible = {
        "clock_hz": (1e7, 1e10),
        "memory_clock_hz": (1e7, 1e11),
        "power_w": (0, 2000),
        "temperature_c": (-20, 130),
        "energy_j": (0, float("inf")),
    }
    for reading in readings(device):
        assert isinstance(reading, Reading)
        for name, (least, most) in plausible.items():
            value = getattr(reading, name)
            assert value is None or (isinstance(value, float) and least <= value <= most), name
        others, reasons = reading.other_processes, reading.throttle
        assert others is None or (isinstance(others, int) and others >= 0)
        assert reasons is None or (isinstance(reasons, tuple) and {*reasons} <= {*THROTTLE_REASONS})
        assert {field.name for field in fields(Reading)} == {
            *plausible,
            "other_processes",
            "throttle",
        }


def test_energy_never_falls_and_says_where_it_was_read(device):
    counted = [reading.energy_j for reading in readings(device)]
    known = [joules for joules in counted if joules is not None]
    assert known == sorted(known)
    assert not known or device.energy_source


def test_a_reading_can_be_taken_beside_the_steps(device):
    found = []
    thread = threading.Thread(target=lambda: found.append(device.reading()))
    step = a_step(device)
    thread.start()
    device.sample(step, inner=1, count=20, cold=False)
    thread.join(30)
    assert isinstance(found[0], Reading)


def test_captured_steps_run_once_each_a_call_or_are_refused_with_the_reason(device):
    counts = counters(device)
    steps = [step for step, _ in counts]
    if type(device).capture is Device.capture:
        with pytest.raises(Unsupported, match="no graphs"):
            device.capture(steps)
        return
    replay = device.capture(steps)
    before = [value() for _, value in counts]
    replay()
    replay()
    device.synchronize()
    assert [value() for _, value in counts] == [start + 2 for start in before]
    assert len(device.sample(replay, inner=2, count=3, cold=False).device_s) == 3


def counters(device):
    """Steps that count on the device, each with what reads its count."""
    if device.info.backend == "virtual":
        counts = [[], []]
        return [(lambda c=c: c.append(device._advance(1e-3)), c.__len__) for c in counts]
    torch = pytest.importorskip("torch", reason="steps need torch")
    totals = [torch.zeros((), device=device.torch_device) for _ in range(2)]
    return [(lambda t=t: t.add_(1), lambda t=t: int(t)) for t in totals]


def test_a_step_that_cannot_be_captured_leaves_the_device_as_it_was(device):
    if device.info.backend == "virtual":
        pytest.skip("a virtual card captures whatever can be called")
    torch = pytest.importorskip("torch", reason="steps need torch")
    values = torch.ones(64, device=device.torch_device)
    with pytest.raises(Unsupported):
        device.capture([lambda: values.sum().item()])
    assert torch.rand(8, device=device.torch_device).sum().item() > 0
    assert len(device.sample(a_step(device), inner=1, count=3, cold=True).device_s) == 3


def test_it_knows_its_precisions(device):
    assert device.unsupported("fp32") is None
    for precision in ("fp64", "tf32", "fp16", "bf16", "fp8"):
        reason = device.unsupported(precision)
        assert reason is None or precision in reason or "processor" in reason


def test_expected_times_grow_with_the_work(device):
    small = device.expected_s(Work(flops=1e9, bytes=1e6), "fp32")
    large = device.expected_s(Work(flops=1e12, bytes=1e9), "fp32")
    assert 0 < small < large


def test_running_out_of_memory_is_recognised(device):
    assert device.out_of_memory(MemoryError("no more"))
    assert not device.out_of_memory(ValueError("something else"))


def test_the_mode_is_undone_afterwards(device):
    with device.mode("tf32"):
        pass
    with pytest.raises(RuntimeError, match="inside"), device.mode("fp32"):
        raise RuntimeError("inside")


def test_a_real_allocation_failure_counts_as_out_of_memory(device):
    if device.info.backend == "virtual":
        pytest.skip("a virtual card allocates nothing; its script is tested with the run")
    torch = pytest.importorskip("torch", reason="allocating needs torch")
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**50, dtype=torch.uint8, device=device.torch_device)
    assert device.out_of_memory(caught.value)
