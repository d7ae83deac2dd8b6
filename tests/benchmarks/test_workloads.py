"""Some of the project's own workloads under its pytest plugin: small, and without a stopwatch.

`pytest tests/benchmarks --benchmark-autosave --gpubench-trials 5` keeps a run to compare with.
"""

import math
import re
from pathlib import Path

import pytest

from gpubench.device import open_device
from gpubench.errors import Unsupported
from gpubench.workload import get_workload, run_check

torch = pytest.importorskip("torch", reason="the workloads compute with torch")
pytest.importorskip("pytest_benchmark", reason="gpu_benchmark hands its samples to it")

METHOD = Path(__file__).parents[2] / "docs" / "method.md"
CASES = {
    "gemm": {"shape": "128x128x128", "precision": "fp32"},
    "gemm-bf16": {"shape": "64x128x32", "precision": "bf16"},
    "memory": {"operation": "triad", "mib": 1, "precision": "fp32"},
    "mnist": {"batch": 16, "precision": "fp32"},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Small products gain nothing from more, and lose much where other processes want them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.gpubench(budget_s=0.05, half_width=0.05)
@pytest.mark.parametrize("case", CASES)
def test_result_and_samples_make_sense(case, gpu_benchmark, request):
    workload, params = get_workload(case.partition("-")[0]), CASES[case]
    device = open_device(request.config.option.gpubench_device)
    if reason := device.unsupported(params.get("precision", "fp32")):
        pytest.skip(reason)
    try:
        prepared = device.prepare(workload, params)
    except Unsupported as error:
        pytest.skip(str(error))
    run_check(prepared)
    result = gpu_benchmark(prepared.step)
    if isinstance(result, torch.Tensor):
        assert torch.isfinite(result).all()
    if gpu_benchmark.measurement is None:
        pytest.skip("benchmarks are disabled: the step has run, and nothing was measured")
    measured = gpu_benchmark.measurement
    samples = measured.samples.device_s
    assert samples
    assert all(0 < sample < math.inf for sample in samples)
    assert measured.timer == device.timer
    explained = re.findall(r"^\| `(\w+)`", METHOD.read_text(), flags=re.MULTILINE)
    assert set(measured.flags) <= set(explained)
