"""What goes on beside a measurement, with a scripted operating system."""

from collections import namedtuple
from types import SimpleNamespace

import pytest

from gpubench import measure as loop
from gpubench import telemetry
from gpubench.device import open_device
from gpubench.measure import StopRule, measure
from gpubench.telemetry import HostLoad
from gpubench.workload import Case

Times = namedtuple("Times", "user system idle iowait steal guest")  # noqa: PYI024 - as psutil's


@pytest.fixture
def system(monkeypatch):
    """Set seconds of the whole system and of this process, before and after the block."""

    def script(before, after, own):
        readings = iter([before, after])
        mine = iter([SimpleNamespace(user=0.0, system=0.0), SimpleNamespace(user=own, system=0.0)])
        fake = SimpleNamespace(cpu_times=lambda: next(readings))
        monkeypatch.setattr(telemetry, "psutil", fake)
        monkeypatch.setattr(telemetry, "os", SimpleNamespace(times=lambda: next(mine)))

    return script


def test_what_others_used_is_what_is_neither_idle_nor_ours(system):
    system(Times(10, 5, 100, 1, 0, 0), Times(15, 6, 102, 3, 0, 0), own=4.0)
    with HostLoad() as load:
        pass
    assert load.foreign == pytest.approx(2 / 10)  # 10 s passed: 4 idle or waiting, 4 ours


def test_time_stolen_by_the_hypervisor_counts_and_guest_time_is_not_counted_twice(system):
    system(Times(10, 0, 0, 0, 0, 0), Times(16, 0, 2, 0, 2, 6), own=6.0)
    with HostLoad() as load:
        pass
    assert load.foreign == pytest.approx(0.2)


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


@pytest.mark.parametrize(("share", "flagged"), [(0.5, True), (0.079, False), (None, False)])
def test_load_by_others_is_kept_and_flagged_above_its_limit(monkeypatch, share, flagged):
    pytest.importorskip("torch", reason="times a product on the processor")

    class Scripted(HostLoad):
        def __exit__(self, *_):
            self.foreign = share

    monkeypatch.setattr(loop, "HostLoad", Scripted)
    case = Case("gemm", (("shape", "64x64x64"), ("precision", "fp32")))
    measured = measure(open_device("cpu"), case, StopRule(budget_s=0.05, warmup_s=0.05))
    assert measured.foreign_load == share
    assert ("other_processes" in measured.flags) == flagged
    virtual = measure(open_device("virtual:tesla-t4"), case)
    assert virtual.foreign_load is None
    assert "other_processes" not in virtual.flags
