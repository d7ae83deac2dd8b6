"""The CUDA backend against a double of torch: the order of its calls, and its refusals.

What a double can't show is in the contract tests, which run on a real card where there is one.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gpubench.backends import _nvml, cuda
from gpubench.device import DeviceInfo
from gpubench.errors import EnvironmentRefused, UsageError


class FakeTorch(SimpleNamespace):
    """As much of torch as the backend calls, with a log of the stream."""

    def __init__(self, capability=(8, 6), arch_list=("sm_80", "sm_86", "sm_90"), **different):
        stream = []

        class Event:
            def __init__(self, *, enable_timing):
                assert enable_timing
                self.at = None

            def record(self):
                stream.append("record")
                self.at = 2.0 * stream.count("step")  # each step takes 2 ms on this stream

            def elapsed_time(self, end):
                return end.at - self.at

        buffer = SimpleNamespace(fill_=lambda value: stream.append("flush"), nbytes=345)
        super().__init__(
            __version__="2.99.0",
            version=SimpleNamespace(cuda="13.0"),
            uint8="uint8",
            stream=stream,
            empty=lambda size, dtype, device: buffer,
            backends=SimpleNamespace(
                cuda=SimpleNamespace(
                    matmul=SimpleNamespace(
                        fp32_precision="none",
                        allow_fp16_reduced_precision_reduction=True,
                        allow_bf16_reduced_precision_reduction=True,
                    )
                ),
                cudnn=SimpleNamespace(benchmark=True, conv=SimpleNamespace(fp32_precision="tf32")),
            ),
            cuda=SimpleNamespace(
                Event=Event,
                OutOfMemoryError=type("OutOfMemoryError", (RuntimeError,), {}),
                is_available=lambda: True,
                device_count=lambda: 1,
                set_device=lambda index: None,
                device=lambda index: nullcontext(stream.append(f"device {index}")),
                synchronize=lambda index: stream.append("synchronize"),
                empty_cache=lambda: stream.append("empty"),
                get_arch_list=lambda: list(arch_list),
                get_device_capability=lambda index=0: capability,
                get_device_name=lambda index: "NVIDIA GeForce RTX 3090",
                get_device_properties=lambda index: SimpleNamespace(
                    name="NVIDIA GeForce RTX 3090",
                    total_memory=24 * 2**30,
                    major=capability[0],
                    minor=capability[1],
                    L2_cache_size=6 * 2**20,
                ),
                reset_peak_memory_stats=lambda index: stream.append("reset"),
                max_memory_allocated=lambda index: 12345,
            ),
        )
        vars(self).update(different)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(_nvml, "devices", list)
    return cuda.CudaDevice(FakeTorch(), 0)


def test_a_card_without_management_library_is_known_by_what_cuda_tells(device):
    assert device.info.card_id == "geforce-rtx-3090"
    assert device.info.architecture == "Ampere"
    assert device.info.driver is None
    assert device.info.cache_bytes == 6 * 2**20


def test_a_batch_is_queued_whole_and_waited_for_once(device):
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    samples = device.sample(step, inner=2, count=3, cold=False)
    one = ["record", "step", "step", "record"]
    assert device.torch.stream == [*one, *one, *one, "synchronize"]
    assert samples.device_s == pytest.approx([2e-3] * 3)
    assert len(samples.host_s) == 3


def test_the_flush_is_queued_before_the_first_event_of_each_cold_sample(device):
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    device.sample(step, inner=1, count=2, cold=True)
    assert device.torch.stream == ["flush", "record", "step", "record"] * 2 + ["synchronize"]


@pytest.mark.parametrize("api", ["new", "old"])
def test_tf32_is_on_for_tf32_only_and_sums_stay_in_fp32(device, api):
    backends = device.torch.backends
    if api == "old":
        del backends.cuda.matmul.fp32_precision
        backends.cuda.matmul.allow_tf32 = False
        backends.cudnn = SimpleNamespace(allow_tf32=True, benchmark=True)

    def state():
        matmul = backends.cuda.matmul
        if api == "old":
            return matmul.allow_tf32, backends.cudnn.allow_tf32
        return matmul.fp32_precision, backends.cudnn.conv.fp32_precision

    before = state()
    with device.mode("tf32"):
        assert state() == ((True, True) if api == "old" else ("tf32", "tf32"))
    for precision in ("fp32", "fp16", "bf16", "fp64", None):
        with device.mode(precision):
            assert state() == ((False, False) if api == "old" else ("ieee", "ieee"))
            assert not backends.cuda.matmul.allow_fp16_reduced_precision_reduction
            assert not backends.cuda.matmul.allow_bf16_reduced_precision_reduction
            assert not backends.cudnn.benchmark
    assert state() == before
    assert backends.cudnn.benchmark
    assert backends.cuda.matmul.allow_fp16_reduced_precision_reduction


def test_memory_is_counted_from_the_reset_on(device):
    device.reset_peak_memory()
    assert device.torch.stream == ["reset"]
    assert device.peak_memory_bytes() == 12345


def test_the_buffer_that_clears_the_cache_is_not_the_workloads_memory(device):
    device.flush()
    assert device.peak_memory_bytes() == 12345 - 345


def test_a_case_runs_with_its_own_card_current_and_without_the_last_ones_memory(device):
    with device.mode("fp32"):
        assert device.torch.stream == ["empty", "device 0"]


def test_the_timers_own_cost_is_read_behind_work_on_the_stream(device):
    device.timer_cost_s()
    assert device.torch.stream[:3] == ["flush", "record", "record"]


def test_errors_of_torch_and_cupy_count_as_out_of_memory(device):
    cupy_error = type("OutOfMemoryError", (Exception,), {})
    assert device.out_of_memory(device.torch.cuda.OutOfMemoryError())
    assert device.out_of_memory(cupy_error())
    assert not device.out_of_memory(RuntimeError("CUDA error: illegal memory access"))


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),  # sm_80 code runs on 8.6
        ((8, 6), ["sm_89", "sm_90"], False),  # newer minor versions don't
        ((6, 1), ["sm_70", "sm_75", "sm_80"], False),
        ((6, 1), ["sm_60", "sm_70"], True),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),  # PTX is compiled for later cards
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_100", "sm_120"], True),
    ],
)
def test_a_torch_without_kernels_for_the_card_is_refused_with_the_install_line(
    capability, built, runs
):
    torch = FakeTorch(capability, built)
    if runs:
        cuda._refuse_missing_kernels(torch, 0)
        return
    with pytest.raises(EnvironmentRefused, match=f"sm_{capability[0]}{capability[1]}") as caught:
        cuda._refuse_missing_kernels(torch, 0)
    assert ("cu126" in caught.value.remedy) == (capability < (7, 5))
    assert "pip install" in caught.value.remedy


A_CARD = DeviceInfo("cuda:0", "cuda", "NVIDIA A10", "nvidia-a10", "Ampere", driver="535.1")


@pytest.mark.parametrize(
    ("different", "cards", "words", "remedy"),
    [
        ({"version": SimpleNamespace(cuda=None)}, [A_CARD], "without CUDA", "install"),
        ({"version": SimpleNamespace(cuda=None)}, [], "no NVIDIA driver", "--device cpu"),
        ({"available": False}, [A_CARD], "the driver is 535.1", "nvidia-smi"),
        ({"available": False}, [], "no driver answers", "--device cpu"),
        ({"count": 1, "index": 3}, [A_CARD], "no cuda:3", "gpubench devices"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(monkeypatch, different, cards, words, remedy):
    torch = FakeTorch()
    if "version" in different:
        torch.version = different["version"]
    torch.cuda.is_available = lambda: different.get("available", True)
    monkeypatch.setitem(__import__("sys").modules, "torch", torch)
    monkeypatch.setattr(_nvml, "devices", lambda: cards)
    with pytest.raises(EnvironmentRefused, match=words) as caught:
        cuda._torch_for(different.get("index", 0))
    assert remedy in caught.value.remedy


def test_a_selector_that_is_no_number_is_refused():
    with pytest.raises(UsageError, match="names no card"):
        cuda.open("first")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, ["a", "b", "c"]),
        ("", []),
        ("2,0", ["c", "a"]),
        ("GPU-bb", ["b"]),
        ("1,9,0", ["b"]),  # CUDA stops at the first entry that names nothing
        ("-1", []),
    ],
)
def test_cards_are_numbered_as_cuda_numbers_them(monkeypatch, setting, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    known = [("a", "GPU-aa11"), ("b", "GPU-bb22"), ("c", "GPU-cc33")]
    assert _nvml._visible(known) == expected


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        ((6, 1), "Pascal"),
        ((7, 0), "Volta"),
        ((7, 5), "Turing"),
        ((8, 0), "Ampere"),
        ((8, 6), "Ampere"),
        ((8, 9), "Ada"),
        ((9, 0), "Hopper"),
        ((12, 0), "Blackwell"),
        ((14, 0), "compute capability 14.0"),
        (None, "unknown"),
    ],
)
def test_an_unlisted_card_has_the_architecture_of_its_compute_capability(capability, name):
    assert _nvml.identify("cuda:0", "NVIDIA Unheard-of", 2**30, capability).architecture == name
