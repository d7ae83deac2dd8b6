"""What all tests share: an installation of its own, and records without a device."""

from datetime import UTC, datetime

import pytest
from hypothesis import settings

from gpubench.record import Record
from rungs import compilers

# An example may take as long as a busy machine makes it take. The rest is hypothesis' own: where
# the variable CI is set, it draws the same examples for the same code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_sessionfinish(session):
    """A rung that has tested nothing, though its compiler is here, fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):  # a worker has a part only
        return
    by_outcome = {
        outcome: {report.nodeid for report in reporter.stats.get(outcome, [])}
        for outcome in ("passed", "failed", "error", "skipped")
    }
    skipped = by_outcome.pop("skipped")
    if idle := compilers.unproven(set().union(*by_outcome.values()), skipped):
        reporter.write_line(f"nothing was tested of {', '.join(idle)}, though a compiler is here")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def own_installation(tmp_path, monkeypatch):
    """No test reads or writes the user's configuration or extension folders.

    Nor does a table hang on the terminal's width, which a worker of xdist is told.
    """
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("GPUBENCH_PATH", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_record():
    """Records that look measured, with whatever is to be different."""

    def make(**different):
        return Record(
            **{
                "run_id": "run-1",
                "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
                "suite": "quick",
                "workload": "gemm",
                "workload_version": 1,
                "workload_hash": "abc",
                "case_id": "gemm:shape=1024x1024x1024,precision=fp32",
                "params": {"shape": "1024x1024x1024", "precision": "fp32"},
                "samples_s": [0.01, 0.011, 0.0105] * 4,
                "timer": "host",
                "cache": "cold",
                "inner": 1,
                "stop": "precise",
                "flops": 2.0 * 1024**3,
                "bytes": 3.0 * 4 * 1024**2,
                "backend": "cpu",
                "card_id": "cpu-test",
                "card": "Test processor",
                "architecture": "x86_64",
            }
            | different
        )

    return make


@pytest.fixture(scope="session")
def counted_flops():
    """torch's count of a step, with its formulas for fused attention applied to the processor's.

    Under FakeTensorMode nothing is computed, so that any size takes no time.
    """
    torch = pytest.importorskip("torch", reason="it counts")
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    aten = torch.ops.aten
    fused = {
        getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{end}"): flop_registry[
            getattr(aten, f"_scaled_dot_product_flash_attention{end}")
        ].__wrapped__
        for end in ("", "_backward")
    }

    def counted(step):
        with FlopCounterMode(display=False, custom_mapping=fused) as counter:
            step()
        return counter.get_total_flops()

    return counted
