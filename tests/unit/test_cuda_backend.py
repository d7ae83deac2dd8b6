"""The CUDA backend against a double of torch: the order of its calls, and its refusals.

What a double can't show is in the contract tests, which run on a real card where there is one.
"""

import os
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pynvml
import pytest

from gpubench.backends import _nvml, cuda
from gpubench.cards import get_card
from gpubench.device import DeviceInfo, Reading
from gpubench.errors import EnvironmentRefused, Unsupported, UsageError
from gpubench.workload import Work

# a torch without a card ---------------------------------------------------------------------------


class Graphs:
    """torch's streams and graphs: what is captured is kept and runs when it is replayed."""

    def __init__(self, log):
        self.log, self.current, self.sync_mode = log, "default", 0
        self.capturing = None

    def names(self):
        return {
            "Stream": lambda index: f"side of {index}",
            "stream": self.stream,
            "CUDAGraph": lambda: SimpleNamespace(steps=[], replay=lambda: None),
            "graph": self.graph,
            "get_sync_debug_mode": lambda: self.sync_mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "sync_mode", mode),
        }

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, *, stream):
        """As torch's: a capture that fails leaves the stream of the capture current."""
        self.capturing = graph
        self.current, before = stream, self.current
        try:
            yield
        except RuntimeError:
            self.capturing, self.current = None, stream
            # CUDA's own error, from ending a capture that is spoilt.
            raise RuntimeError("operation failed due to a previous error during capture") from None
        self.capturing, self.current = None, before
        graph.replay = lambda: [step() for step in graph.steps]

    def launch(self, name):
        """A step's kernel: recorded where a capture runs, else run."""
        if self.capturing is None:
            self.log.append(f"{name} on {self.current}")
        else:
            self.capturing.steps.append(lambda: self.log.append(f"{name} replayed"))

    def item(self):
        """A host read."""
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel …")
        if self.sync_mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")


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

        self.graphs = Graphs(stream)
        super().__init__(
            __version__="2.99.0",
            version=SimpleNamespace(cuda="13.0"),
            float32="float32",
            stream=stream,
            graphs=self.graphs,
            zeros=lambda size, dtype, device: SimpleNamespace(
                nbytes=4 * size if size else 4, zero_=lambda: stream.append(f"write {4 * size}")
            ),
            sum=lambda values, dim, out: stream.append(f"read {values.nbytes}"),
            backends=SimpleNamespace(
                cuda=SimpleNamespace(
                    matmul=SimpleNamespace(
                        allow_tf32=False,
                        fp32_precision="none",
                        allow_fp16_reduced_precision_reduction=True,
                        allow_bf16_reduced_precision_reduction=True,
                    )
                ),
                cudnn=SimpleNamespace(
                    benchmark=True,
                    allow_tf32=True,
                    conv=SimpleNamespace(fp32_precision="tf32"),
                    rnn=SimpleNamespace(fp32_precision="tf32"),
                ),
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
                max_memory_allocated=lambda index: 100 * 2**20,
                _sleep=lambda cycles: stream.append(("sleep", cycles)),
                **self.graphs.names(),
            ),
        )
        vars(self).update(different)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(_nvml, "devices", list)
    return cuda.CudaDevice(FakeTorch(), 0)


# timing -------------------------------------------------------------------------------------------


def test_a_card_without_management_library_is_known_by_what_cuda_tells(device):
    assert device.info.card_id == "geforce-rtx-3090"
    assert device.info.architecture == "Ampere"
    assert device.info.driver is None
    assert device.info.cache_bytes == 6 * 2**20


def test_a_batch_is_queued_whole_and_waited_for_once(device):
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    samples = device.sample(step, inner=2, count=3, cold=False)
    one = ["record", "step", "step", "record"]
    assert device.torch.stream[1:] == [*one, *one, *one, "synchronize"]
    assert samples.device_s == pytest.approx([2e-3] * 3)
    assert len(samples.host_s) == 3


def test_the_flush_is_queued_before_the_first_event_of_each_cold_sample(device):
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    device.sample(step, inner=1, count=2, cold=True)
    flush = f"read {5 * 6 * 2**20}"  # as much as copies that take turns have; read, so left clean
    one = [flush, "record", "step", "record"]
    assert device.torch.stream[1:] == one * 2 + ["synchronize"]


def test_a_flush_writes_where_the_timer_that_it_is_compared_with_does(device):
    device.flush_writes = True
    device.flush()
    assert device.torch.stream == [f"write {5 * 6 * 2**20}"]


@pytest.mark.parametrize(
    ("told", "joined"), [(SimpleNamespace(isC2cEnabled=1), True), (None, None)]
)
def test_a_link_that_is_faster_than_pcie_is_asked_for(device, told, joined):
    assert device.coherent_link() is None  # without a management library
    device._sensors = SimpleNamespace(ask={"C2cModeInfoV1": told}.get)
    assert device.coherent_link() is joined


def test_the_binding_has_the_call_that_tells_of_that_link():
    assert callable(pynvml.nvmlDeviceGetC2cModeInfoV1)
    assert hasattr(pynvml.c_nvmlC2cModeInfo_v1_t(), "isC2cEnabled")


def test_steps_of_a_training_loop_follow_each_other_with_no_help_for_the_host(device):
    """A head start would hide what the host takes, which whoever runs the loop has to wait for."""
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    samples = device.sample(step, inner=2, count=3, cold=False, paced=True)
    one = ["step", "step", "record"]
    assert device.torch.stream == ["step", "record", *one, *one, *one, "synchronize"]
    assert samples.device_s == pytest.approx([2e-3] * 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "0"),
        ("PYTORCH_TUNABLEOP_ENABLED", "1"),
        ("CUBLAS_EMULATE_SINGLE_PRECISION", "1"),
        ("CUBLAS_EMULATE_DOUBLE_PRECISION", "1"),
        ("CUBLAS_EMULATION_STRATEGY", "eager"),
        ("CUBLAS_FIXEDPOINT_EMULATION_MANTISSA_BIT_COUNT", "40"),
    ],
)
def test_a_variable_that_overrides_the_method_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(EnvironmentRefused, match=name) as refused:
        cuda.open("0")
    assert refused.value.remedy == f"unset {name}"


def sleeps(device):
    """Seconds that the device was kept busy, each time."""
    found = [entry[1] for entry in device.torch.stream if entry[0] == "sleep"]
    return [cycles / cuda.SLEEP_CLOCK_HZ for cycles in found]


OVERHEAD_S = cuda.SAMPLE_LAUNCHES * cuda.NOMINAL_LAUNCH_S


def test_the_host_gets_ahead_by_the_whole_batch_where_enqueueing_takes_longer_than_running(device):
    device._host_s, device._device_s = 3e-5, 1e-5
    device.sample(lambda: None, inner=2, count=10, cold=False)
    enqueueing = 10 * (2 * 3e-5 + OVERHEAD_S)
    assert device.torch.stream[0][0] == "sleep"
    assert sleeps(device) == [pytest.approx(cuda.HEAD_START_MARGIN * enqueueing, rel=1e-6)]
    assert cuda.HEAD_START_MARGIN > 1


def test_one_sample_ahead_is_enough_where_the_device_is_the_slower_one(device):
    device._host_s, device._device_s = 3e-5, 1e-2
    device.sample(lambda: None, inner=2, count=10, cold=False)
    assert sleeps(device) == [pytest.approx(cuda.HEAD_START_MARGIN * (6e-5 + OVERHEAD_S), rel=1e-6)]


def test_no_head_start_is_longer_than_filling_the_queue_takes(device):
    device._host_s = 0.3
    device.sample(lambda: None, inner=1, count=2, cold=False)
    assert sleeps(device) == [cuda.LONGEST_HEAD_START_S] * 2


def test_a_torch_that_cannot_keep_the_device_busy_measures_all_the_same(device):
    del device.torch.cuda._sleep
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    assert len(device.sample(step, inner=1, count=3, cold=False).device_s) == 3


@pytest.mark.parametrize(("launches", "inner", "count"), [(1, 1, 450), (10, 3, 100), (5000, 1, 3)])
def test_a_batch_is_waited_for_before_its_launches_fill_the_queue(device, launches, inner, count):
    device._host_s = launches * cuda.NOMINAL_LAUNCH_S
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    samples = device.sample(step, inner=inner, count=count, cold=False)
    assert len(samples.device_s) == len(samples.host_s) == count
    text = ",".join(str(entry) for entry in device.torch.stream)
    pieces = [piece.count("step") // inner for piece in text.split("synchronize")[:-1]]
    assert sum(pieces) == count
    for piece in pieces:
        assert piece == 1 or piece * (launches * inner + 2) <= cuda.QUEUE_LAUNCHES


def test_what_a_step_takes_is_learnt_from_the_last_call_and_not_from_the_timers_own(device):
    step = lambda: device.torch.stream.append("step")  # noqa: E731
    device.sample(step, inner=1, count=5, cold=False)
    learnt = device._host_s, device._device_s
    assert learnt[0] > 0
    assert learnt[1] == pytest.approx(2e-3)
    device.timer_cost_s()
    assert (device._host_s, device._device_s) == learnt
    with device.mode("fp32"):
        assert (device._host_s, device._device_s) == (0.0, 0.0)


# precision, memory and errors ---------------------------------------------------------------------


@pytest.mark.parametrize("api", ["new", "old"])
def test_tf32_is_on_for_tf32_only_and_sums_stay_in_fp32(device, api):
    backends = device.torch.backends
    if api == "old":
        del backends.cuda.matmul.fp32_precision, backends.cudnn.conv, backends.cudnn.rnn

    def state():
        matmul, cudnn = backends.cuda.matmul, backends.cudnn
        old = (matmul.allow_tf32, cudnn.allow_tf32)
        new = () if api == "old" else (matmul, cudnn.conv, cudnn.rnn)
        return old + tuple(owner.fp32_precision for owner in new)

    before = state()
    with device.mode("tf32"):
        assert set(state()) == ({True} if api == "old" else {True, "tf32"})
    for precision in ("fp32", "fp16", "bf16", "fp64", None):
        with device.mode(precision):
            assert set(state()) == ({False} if api == "old" else {False, "ieee"})
            assert not backends.cuda.matmul.allow_fp16_reduced_precision_reduction
            assert not backends.cuda.matmul.allow_bf16_reduced_precision_reduction
            assert not backends.cudnn.benchmark
    assert state() == before
    assert backends.cudnn.benchmark
    assert backends.cuda.matmul.allow_fp16_reduced_precision_reduction


@pytest.fixture
def torchs_own(device, monkeypatch):
    """The double with the settings of the installed torch, which also a build for CPUs has."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(device.torch, "backends", torch.backends)
    return device


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_torch_and_what_compiles_for_it_can_read_the_precision_under_each_name(
    torchs_own, precision
):
    torch = pytest.importorskip("torch")
    wanted = precision == "tf32"
    with torchs_own.mode(precision):
        assert torch.get_float32_matmul_precision() == ("high" if wanted else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 is wanted
        assert torch.backends.cudnn.rnn.fp32_precision == ("tf32" if wanted else "ieee")
        with torch.backends.cudnn.flags(enabled=False):  # reads and restores all of them
            pass
        assert torch.backends.cudnn.allow_tf32 is wanted


@pytest.mark.parametrize("pair", [(True, True), (False, True), (False, False)])
def test_a_users_own_settings_are_as_before(torchs_own, pair):
    """Torch takes a pair for sums of halves, and tells its parts under two names."""
    backends = torchs_own.torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn

    def state():
        halves = [f"allow_{kind}_reduced_precision_reduction" for kind in ("fp16", "bf16")]
        names = [name + part for name in halves for part in ("", "_split_k")]
        owners = [(matmul, name) for name in names]
        owners += [(owner, "fp32_precision") for owner in (matmul, cudnn.conv, cudnn.rnn)]
        return [getattr(owner, name) for owner, name in [*owners, (cudnn, "benchmark")]]

    usual = state()
    try:
        matmul.allow_fp16_reduced_precision_reduction = pair
        matmul.allow_bf16_reduced_precision_reduction = pair
        before = state()
        with torchs_own.mode("tf32"):
            assert not matmul.allow_fp16_reduced_precision_reduction
        assert state() == before
    finally:
        matmul.allow_fp16_reduced_precision_reduction = (usual[0], usual[1])
        matmul.allow_bf16_reduced_precision_reduction = (usual[2], usual[3])


def test_settings_that_torch_refuses_to_tell_are_left_to_their_new_names(torchs_own):
    """A user who mixes old and new names for TF32 gets the new ones back."""
    matmul = torchs_own.torch.backends.cuda.matmul
    usual = matmul.allow_tf32
    matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError):
        assert matmul.allow_tf32
    with torchs_own.mode("fp32"):
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == "tf32"
    matmul.allow_tf32 = usual


def test_memory_is_counted_from_the_reset_on(device):
    device.reset_peak_memory()
    assert device.torch.stream == ["reset"]
    assert device.peak_memory_bytes() == 100 * 2**20


def test_the_buffer_that_clears_the_cache_is_not_the_workloads_memory(device):
    device.flush()
    assert device.peak_memory_bytes() == (100 - 5 * 6) * 2**20


def test_a_case_runs_with_its_own_card_current_and_without_the_last_ones_memory(device):
    with device.mode("fp32"):
        assert device.torch.stream == ["empty", "device 0"]


def test_the_timers_own_cost_is_read_behind_work_on_the_stream(device):
    device.timer_cost_s()
    assert device.torch.stream[1].startswith("read")
    assert device.torch.stream[2:4] == ["record", "record"]


def test_errors_of_torch_and_cupy_count_as_out_of_memory(device):
    cupy_error = type("OutOfMemoryError", (Exception,), {})
    assert device.out_of_memory(device.torch.cuda.OutOfMemoryError())
    assert device.out_of_memory(cupy_error())
    assert not device.out_of_memory(RuntimeError("CUDA error: illegal memory access"))


# what is refused, and how cards are numbered ------------------------------------------------------


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
    monkeypatch, capability, built, runs
):
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(capability, built))
    monkeypatch.setattr(_nvml, "devices", list)  # as in a container without the library
    if runs:
        cuda._torch_for(0)
        return
    with pytest.raises(EnvironmentRefused, match=f"sm_{capability[0]}{capability[1]}") as caught:
        cuda._torch_for(0)
    assert ("cu126" in caught.value.remedy) == (capability < (7, 5))
    assert "pip install" in caught.value.remedy


A_CARD = DeviceInfo("cuda:0", "cuda", "NVIDIA A10", "nvidia-a10", "Ampere", driver="580.1")
OLD = replace(A_CARD, driver="535.1", compute_capability="8.6")


@pytest.mark.parametrize(
    ("different", "cards", "words", "remedy"),
    [
        ({"version": SimpleNamespace(cuda=None)}, [A_CARD], "without CUDA", "install"),
        ({"version": SimpleNamespace(cuda=None)}, [], "no NVIDIA driver", "--device cpu"),
        ({"available": False}, [A_CARD], "the driver is 580.1", "nvidia-smi"),
        ({"available": False}, [OLD], "the driver is 535.1", "cu126"),
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
        ("MIG-bb11", ["slice"]),
        ("0, MIG-bb11", ["a", "slice"]),
        ("MIG-unknown", [None]),  # a container's: it is there, whatever it is
    ],
)
def test_cards_are_numbered_as_cuda_numbers_them(monkeypatch, setting, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    known = [("a", "GPU-aa11"), ("b", "GPU-bb22"), ("c", "GPU-cc33")]
    assert _nvml._visible(known, {"MIG-bb11": "slice"}.get) == expected


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


# graphs -------------------------------------------------------------------------------------------


def test_a_graph_runs_every_step_once_a_call_and_is_rehearsed_on_the_stream_of_its_capture(device):
    torch = device.torch
    replay = device.capture([lambda: torch.graphs.launch("a"), lambda: torch.graphs.launch("b")])
    side = "side of 0"
    assert torch.stream == ["synchronize", f"a on {side}", f"b on {side}", "synchronize"]
    torch.stream.clear()
    replay()
    replay()
    assert torch.stream == ["a replayed", "b replayed"] * 2
    assert torch.graphs.current == "default"


def test_a_graph_keeps_the_tensors_alive_that_its_kernels_use(device):
    import gc
    import weakref

    class Tensor:
        pass

    def captured():
        tensor = Tensor()
        return device.capture([lambda: tensor]), weakref.ref(tensor)

    replay, tensor = captured()
    gc.collect()
    assert tensor() is not None
    del replay
    gc.collect()
    assert tensor() is None


def test_a_step_that_reads_a_result_back_is_refused_before_it_spoils_a_capture(device):
    graphs = device.torch.graphs
    with pytest.raises(Unsupported, match="called a synchronizing CUDA operation"):
        device.capture([graphs.item])
    assert graphs.capturing is None
    assert graphs.sync_mode == 0
    assert graphs.current == "default"


def test_a_capture_that_fails_says_its_first_reason_and_gives_the_stream_back(device):
    graphs = device.torch.graphs
    device.torch.cuda.set_sync_debug_mode = lambda mode: None  # it does not detect all
    with pytest.raises(Unsupported, match=r"not permitted when stream is capturing$") as caught:
        device.capture([lambda: graphs.launch("a"), graphs.item])
    assert "\n" not in str(caught.value)
    assert graphs.current == "default"
    assert device.torch.stream[-1] == "synchronize"


class Pool:
    """CuPy's memory: a block that is free is used again, another one is asked of the driver."""

    def __init__(self, graphs):
        self.graphs, self.free, self.asked = graphs, 0, 0

    def block(self):
        if self.free:
            self.free -= 1
        elif self.graphs.capturing is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted")
        else:
            self.asked += 1
        return Block(self)


class Block:
    def __init__(self, pool):
        self.pool = pool

    def __del__(self):
        self.pool.free += 1


def test_a_rehearsal_leaves_cupys_pool_as_many_blocks_as_the_capture_keeps(device):
    pool = Pool(device.torch.graphs)
    device.capture([pool.block] * 20)
    assert (pool.asked, pool.free) == (20, 20)
    assert not device.spoilt


def test_a_capture_that_broke_off_spoils_the_process_and_a_refusal_before_it_does_not(device):
    graphs = device.torch.graphs
    with pytest.raises(Unsupported):
        device.capture([graphs.item])
    assert not device.spoilt

    def step():
        if graphs.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(Unsupported):
        device.capture([step])
    assert device.spoilt
    device.capture([lambda: None])
    assert device.spoilt


def test_no_samples_are_none(device):
    assert device.sample(lambda: None, inner=1, count=0, cold=False).device_s == []
    assert device.torch.stream == []


def test_the_functions_that_the_double_stands_for_are_torchs(device):
    torch = pytest.importorskip("torch", reason="compares the double with torch")
    for name in device.torch.graphs.names():
        assert hasattr(torch.cuda, name)
    assert hasattr(torch.cuda, "_sleep")
    assert {"is_enabled", "enable"} <= set(vars(torch.cuda.tunable))
    total = torch.zeros((), dtype=torch.float32)
    torch.sum(torch.ones(8), dim=0, out=total)
    assert total == 8


def test_running_out_of_memory_in_a_capture_is_that_and_no_lack_of_graphs(device):
    error = device.torch.cuda.OutOfMemoryError

    def step():
        raise error("CUDA out of memory")

    with pytest.raises(error):
        device.capture([step])


# readings -----------------------------------------------------------------------------------------


class Library(SimpleNamespace):
    """A driver's management library: each call answers, fails, or is missing as in old drivers."""

    def __init__(self, missing=(), failing=(), error=pynvml.NVML_ERROR_NOT_SUPPORTED, **answers):
        self.inits = 0
        self.failing, self.error = set(failing), error
        known = {
            "ClockInfo": lambda handle, kind: {1: 1980, 2: 1593}[kind],
            "FieldValues": lambda handle, fields: [self.field(*fields)],
            "PowerUsage": lambda handle: 311_000,
            "CudaComputeCapability": lambda handle: [8, 0],
            "TemperatureV": lambda handle, sensor: 61,
            "Temperature": lambda handle, sensor: 60,
            "TotalEnergyConsumption": lambda handle: 7_000_500,
            "CurrentClocksEventReasons": lambda handle: 0x04,
            "CurrentClocksThrottleReasons": lambda handle: 0x40,
            "ComputeRunningProcesses_v3": lambda handle: [SimpleNamespace(pid=os.getpid())],
            "ComputeRunningProcesses_v2": lambda handle: [SimpleNamespace(pid=n) for n in (1, 2)],
            "HandleByUUID": lambda uuid: f"handle of {uuid}",
            "DeviceHandleFromMigDeviceHandle": self.card_of_slice,
        }
        super().__init__(
            NVML_CLOCK_SM=pynvml.NVML_CLOCK_SM,
            NVML_CLOCK_MEM=pynvml.NVML_CLOCK_MEM,
            NVML_TEMPERATURE_GPU=pynvml.NVML_TEMPERATURE_GPU,
            NVML_FI_DEV_POWER_INSTANT=pynvml.NVML_FI_DEV_POWER_INSTANT,
            NVML_SUCCESS=pynvml.NVML_SUCCESS,
            NVMLError=pynvml.NVMLError,
        )
        for name, answer in (known | answers).items():
            if name not in missing:
                setattr(self, f"nvmlDeviceGet{name}", self._call(name, answer))

    def _call(self, name, answer):
        def call(*arguments):
            if name in self.failing or "*" in self.failing:
                raise pynvml.NVMLError(self.error)
            return answer(*arguments)

        return call

    def field(self, number):
        """The only field that is asked for."""
        known = number == pynvml.NVML_FI_DEV_POWER_INSTANT and "Field" not in self.failing
        code = pynvml.NVML_SUCCESS if known else self.error
        return SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=312_500))

    def card_of_slice(self, handle):
        if "MIG" not in handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return "card of the slice"

    def nvmlInit(self):  # noqa: N802 - as the library calls it
        self.inits += 1


@pytest.fixture
def library(monkeypatch):
    """Put a scripted library where the backend imports NVIDIA's."""

    def install(**different):
        fake = Library(**different)
        monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
        return fake

    return install


WHOLE = Reading(1.98e9, 1.593e9, 312.5, 61.0, 7000.5, ("power",), 0)


def test_a_reading_is_in_base_units(library):
    library()
    assert _nvml.sensors("GPU-1").reading() == WHOLE


@pytest.mark.parametrize(
    ("call", "column"),
    [
        ("ClockInfo", "clock_hz"),
        ("ClockInfo", "memory_clock_hz"),
        ("TotalEnergyConsumption", "energy_j"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "failing"])
@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
def test_each_value_that_cannot_be_read_is_null_alone(library, call, column, how, error):
    library(error=error, **{how: (call,)})
    found = _nvml.sensors("GPU-1").reading()
    assert getattr(found, column) is None
    lost = {"clock_hz", "memory_clock_hz"} if call == "ClockInfo" else {column}
    for name, value in vars(WHOLE).items():
        if name not in lost:
            assert getattr(found, name) == value


@pytest.mark.parametrize("how", ["missing", "failing"])
@pytest.mark.parametrize(
    ("new", "old", "column", "expected"),
    [
        ("TemperatureV", "Temperature", "temperature_c", 60.0),
        ("CurrentClocksEventReasons", "CurrentClocksThrottleReasons", "throttle", ("thermal",)),
        ("ComputeRunningProcesses_v3", "ComputeRunningProcesses_v2", "other_processes", 1),
    ],
)
def test_an_older_driver_is_asked_by_the_names_it_knows(library, how, new, old, column, expected):
    error = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    library(error=error, **{how: (new,)})
    assert getattr(_nvml.sensors("GPU-1").reading(), column) == expected
    library(error=error, **{how: (new, old)})
    assert getattr(_nvml.sensors("GPU-1").reading(), column) is None


@pytest.mark.parametrize("how", [{"missing": ("FieldValues",)}, {"failing": ("Field",)}])
@pytest.mark.parametrize(
    ("capability", "power_w"), [((7, 5), 311.0), ((8, 0), 311.0), ((8, 6), None), ((9, 0), None)]
)
def test_power_is_as_of_now_or_null(library, how, capability, power_w):
    """By the plain call, GA100 and older cards tell it as of now, others the last second's mean."""
    for which, expected in ((how, power_w), ({}, 312.5)):
        library(CudaComputeCapability=lambda handle: list(capability), **which)
        assert _nvml.sensors("GPU-1").reading().power_w == expected


def test_power_that_no_call_tells_is_null_alone(library):
    library(failing=("FieldValues", "PowerUsage"))
    assert _nvml.sensors("GPU-1").reading() == replace(WHOLE, power_w=None)


def test_a_card_that_is_lost_on_the_way_gives_readings_of_nulls(library):
    fake = library()
    sensors = _nvml.sensors("GPU-1")
    assert sensors.reading() == WHOLE
    fake.failing, fake.error = {"*"}, pynvml.NVML_ERROR_GPU_IS_LOST
    assert sensors.reading() == Reading()
    fake.failing = set()
    assert sensors.reading() == WHOLE


def test_a_zero_is_a_reading(library):
    zero = lambda *arguments: 0  # noqa: E731
    library(
        missing=("FieldValues",),
        **dict.fromkeys(("PowerUsage", "TemperatureV", "CurrentClocksEventReasons"), zero),
    )
    found = _nvml.sensors("GPU-1").reading()
    assert (found.power_w, found.temperature_c, found.throttle) == (0.0, 0.0, ())


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x0, ()),
        (0x1, ()),  # idle
        (0x2, ()),  # clocks that somebody set
        (0x4, ("power",)),
        (0x80 | 0x8, ("power",)),
        (0x20, ("thermal",)),
        (0x40 | 0x8, ("thermal",)),
        (0x4 | 0x20, ("power", "thermal")),
        (0x8, ("other",)),  # hardware slowdown of no known cause
        (0x10, ("other",)),
        (0x100 | 0x4, ("power", "other")),
        (0x8000, ()),  # a bit that has no meaning yet
    ],
)
def test_the_drivers_reasons_become_the_names_that_backends_share(bits, names):
    assert _nvml.throttle_names(bits) == names


def test_the_bits_are_those_of_nvidias_own_binding():
    bits = {name: _nvml.THROTTLE_BITS[name] for name in _nvml.THROTTLE_BITS}
    ours = {
        "power": ("SwPowerCap", "HwPowerBrakeSlowdown"),
        "thermal": ("SwThermalSlowdown", "HwThermalSlowdown"),
        "other": ("SyncBoost", "DisplayClockSetting"),
    }
    for name, theirs in ours.items():
        for one in theirs:
            bit = getattr(pynvml, f"nvmlClocksThrottleReason{one}")
            assert [found for found in bits if bits[found] & bit] == [name]
    assert pynvml.nvmlClocksThrottleReasonHwSlowdown == _nvml.HW_SLOWDOWN


@pytest.mark.parametrize(
    ("pids", "others"),
    [
        ([], 0),  # a container that hides all
        ([os.getpid()], 0),
        ([os.getpid(), os.getpid()], 0),  # listed once for each of its contexts
        ([os.getpid(), 1], 1),
        ([4711], 0),  # this process, by its number outside of the container
        ([4711, 4712, 4713], 2),
    ],
)
def test_other_processes_are_those_on_the_card_beside_this_one(library, pids, others):
    listed = [SimpleNamespace(pid=pid) for pid in pids]
    library(ComputeRunningProcesses_v3=lambda handle: listed)
    assert _nvml.sensors("GPU-1").reading().other_processes == others


def test_the_library_is_opened_once_for_all_readings_of_a_device(library, monkeypatch):
    fake = library()
    monkeypatch.setattr(_nvml, "devices", list)
    device = cuda.CudaDevice(FakeTorch(), 0)
    device.info = cuda.replace(device.info, uuid="GPU-1")
    assert [device.reading() for _ in range(5)] == [WHOLE] * 5
    assert fake.inits == 1
    assert device.energy_source == "nvml"


def test_a_device_without_the_library_or_unknown_to_it_reads_nothing(device, library):
    def refused():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    assert device.reading() == Reading()
    fake = library(failing=("HandleByUUID",))
    assert _nvml.sensors("GPU-1") is None
    fake.nvmlInit = refused
    assert _nvml.sensors("GPU-1") is None


# slices of a card ---------------------------------------------------------------------------------


def test_a_slice_has_its_cards_clocks_and_neither_its_power_nor_its_neighbours(library):
    asked = []
    library(
        ClockInfo=lambda handle, kind: asked.append(handle) or 1000,
        ComputeRunningProcesses_v3=lambda handle: asked.append(handle) or [],
    )
    found = _nvml.sensors("MIG-1").reading()
    assert (found.power_w, found.energy_j) == (None, None)
    assert found.clock_hz == 1e9
    assert asked == ["card of the slice", "card of the slice", "handle of MIG-1"]


def described(library, monkeypatch, setting, **different):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    names = {"card of the slice": "NVIDIA A100-SXM4-40GB", "card 0": "NVIDIA A100-SXM4-40GB"}
    memory = {"card 0": 40 * 2**30}
    answers = {
        "Count": lambda: 1,
        "HandleByIndex": lambda index: f"card {index}",
        "UUID": lambda handle: handle.removeprefix("handle of ").replace("card 0", "GPU-aa"),
        "Name": lambda handle: names.get(handle, "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
        "MemoryInfo": lambda handle: SimpleNamespace(total=memory.get(handle, 5 * 2**30)),
        "CudaComputeCapability": lambda handle: (8, 0),
        "EnforcedPowerLimit": lambda handle: 400_000,
        "EccMode": lambda handle: [1, 1],
        "MaxPcieLinkGeneration": lambda handle: 4,
        "MaxPcieLinkWidth": lambda handle: 16,
        "MaxClockInfo": lambda handle, kind: {pynvml.NVML_CLOCK_MEM: 1215}[kind],
        "MemoryBusWidth": lambda handle: 5120,
    }
    fake = library(**(answers | different))
    fake.nvmlSystemGetDriverVersion = lambda: "580.1"
    fake.nvmlShutdown = lambda: None
    return _nvml.devices()


def test_a_slice_of_a_card_is_seen_and_not_taken_for_the_card(library, monkeypatch):
    (card,) = described(library, monkeypatch, "0")
    assert card.card_id == "nvidia-a100-sxm4-40gb"
    assert card.power_limit_w == 400.0
    (found,) = described(library, monkeypatch, "MIG-1")
    assert (found.name, found.backend, found.uuid) == ("cuda:0", "cuda", "MIG-1")
    assert found.card == "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    assert found.card_id.startswith("unlisted-")
    assert found.architecture == "Ampere"
    assert found.memory_bytes == 5 * 2**30
    assert found.power_limit_w is None


def test_a_slice_whose_name_is_its_cards_is_told_apart_all_the_same(library, monkeypatch):
    alike = {
        "Name": lambda handle: "NVIDIA A100-SXM4-40GB",
        "MemoryInfo": lambda handle: SimpleNamespace(total=40 * 2**30),
    }
    (found,) = described(library, monkeypatch, "MIG-1", **alike)
    assert found.card == "NVIDIA A100-SXM4-40GB MIG"
    assert found.card_id.startswith("unlisted-")


def test_a_slice_that_the_library_does_not_find_is_there_as_far_as_it_is_known(
    library, monkeypatch
):
    (found,) = described(library, monkeypatch, "MIG-1", failing=("HandleByUUID",))
    assert (found.name, found.backend, found.driver) == ("cuda:0", "cuda", "580.1")
    assert found.memory_bytes is None
    assert found.uuid is None


@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_torchs_identity_finds_a_card_and_a_slice(library, monkeypatch, kind):
    def by_uuid(uuid):
        if not uuid.startswith(kind):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"handle of {uuid}"

    described(library, monkeypatch, "0", HandleByUUID=by_uuid)
    assert _nvml.by_uuid("1234", "cuda:0").uuid == f"{kind}-1234"


# a device from its name to its planning -----------------------------------------------------------


def opened(monkeypatch, selector="", torch=None, cards=()):
    monkeypatch.setitem(sys.modules, "torch", torch or FakeTorch())
    monkeypatch.setattr(_nvml, "devices", lambda: list(cards))
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    for name in cuda.OVERRIDES:
        monkeypatch.delenv(name, raising=False)
    return cuda.open(selector)


def test_a_card_is_opened_by_its_number_on_the_bus(monkeypatch):
    torch = FakeTorch()
    current = []
    torch.cuda.device_count = lambda: 2
    torch.cuda.set_device = current.append
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")  # so that it is put back
    found = opened(monkeypatch, "1", torch)
    assert (found.info.name, found.torch_device, current) == ("cuda:1", "cuda:1", [1])
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert opened(monkeypatch).info.name == "cuda:0"


def test_variables_that_change_nothing_are_no_reason_to_refuse(monkeypatch):
    for name, (harmless, _) in cuda.OVERRIDES.items():
        for value in harmless:
            monkeypatch.setenv(name, value)
            cuda._refuse_overrides()


def test_without_torch_the_line_to_install_it_is_that_of_the_card(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(_nvml, "devices", lambda: [replace(A_CARD, compute_capability="6.1")])
    with pytest.raises(EnvironmentRefused, match="not installed") as refused:
        cuda._torch_for(0)
    assert "cu126" in refused.value.remedy
    monkeypatch.setattr(_nvml, "devices", list)
    with pytest.raises(EnvironmentRefused, match="not installed") as refused:
        cuda._torch_for(0)
    assert refused.value.remedy == "pip install -e '.[cuda13]'"


def test_a_card_of_the_catalogue_is_planned_by_it_and_another_as_a_slow_one(monkeypatch, device):
    work = Work(flops=1e12, bytes=1e9)
    listed = device.expected_s(work, "fp32")
    assert listed == device.card.nominal_s(1e12, 1e9, "fp32")
    torch = FakeTorch()
    properties = vars(torch.cuda.get_device_properties(0)) | {"name": "NVIDIA Unheard-of"}
    torch.cuda.get_device_properties = lambda index: SimpleNamespace(**properties)
    other = opened(monkeypatch, torch=torch)
    assert other.card is None
    assert other.expected_s(work, "fp32") > listed
    assert other.expected_s(Work(), None) == 0


@pytest.mark.parametrize(
    ("capability", "lacks"),
    [((6, 1), {"tf32", "bf16", "fp8"}), ((8, 6), {"fp8"}), ((9, 0), set())],
)
def test_a_format_that_the_card_lacks_is_said_with_its_capability(monkeypatch, capability, lacks):
    found = opened(monkeypatch, torch=FakeTorch(capability, [f"sm_{capability[0]}{capability[1]}"]))
    refused = {name for name in ("fp32", "tf32", "bf16", "fp16", "fp8") if found.unsupported(name)}
    assert refused == lacks


def test_products_of_fp16_are_never_added_in_fp16(device):
    matmul = device.torch.backends.cuda.matmul
    matmul.allow_fp16_accumulation = True
    with device.mode("fp16"):
        assert not matmul.allow_fp16_accumulation
    assert matmul.allow_fp16_accumulation


@pytest.mark.parametrize("before", [True, False])
def test_no_product_runs_by_an_algorithm_that_torch_has_tuned(device, before):
    state = [before]
    device.torch.cuda.tunable = SimpleNamespace(is_enabled=lambda: state[-1], enable=state.append)
    with device.mode("fp32"):
        assert state[-1] is False
    assert state[-1] is before


def with_uuid(torch, uuid):
    properties = vars(torch.cuda.get_device_properties(0)) | {"uuid": uuid}
    torch.cuda.get_device_properties = lambda index: SimpleNamespace(**properties)
    return torch


def test_a_card_is_described_by_its_identity_else_by_its_number_else_by_cuda(monkeypatch):
    told = replace(A_CARD, uuid="GPU-1234", cache_bytes=None)
    monkeypatch.setattr(_nvml, "by_uuid", lambda uuid, name: told if uuid == "1234" else None)
    by_identity = opened(monkeypatch, torch=with_uuid(FakeTorch(), "1234"))
    assert by_identity.info == replace(told, cache_bytes=6 * 2**20)  # which CUDA tells
    by_number = opened(monkeypatch, torch=with_uuid(FakeTorch(), "other"), cards=[told])
    assert by_number.info.uuid == "GPU-1234"
    by_cuda = opened(monkeypatch, torch=with_uuid(FakeTorch(), "other"))
    assert by_cuda.info.card == "NVIDIA GeForce RTX 3090"


def test_a_slice_that_cuda_gives_its_cards_identity_is_not_taken_for_the_card(monkeypatch):
    whole = replace(A_CARD, uuid="GPU-1234", memory_bytes=40 * 2**30)
    monkeypatch.setattr(_nvml, "by_uuid", lambda uuid, name: whole)
    torch = with_uuid(FakeTorch(), "1234")
    assert opened(monkeypatch, torch=torch).info.card == "NVIDIA GeForce RTX 3090 MIG"
    assert opened(monkeypatch, torch=torch).info.card_id.startswith("unlisted-")
    whole = replace(whole, memory_bytes=24 * 2**30)
    assert opened(monkeypatch, torch=torch).info.uuid == "GPU-1234"


def test_a_card_with_other_memory_than_its_name_promises_is_another(library, monkeypatch):
    alike = {
        "Name": lambda handle: "NVIDIA GeForce GTX 1650",
        "MemoryInfo": lambda handle: SimpleNamespace(total=4 * 2**30),
        "MemoryBusWidth": lambda handle: 128,
    }
    for clock, card_id in ((4001, "geforce-gtx-1650"), (6001, "unlisted-nvidia-geforce-gtx-1650")):
        told = {"MaxClockInfo": lambda handle, kind, clock=clock: clock}
        (found,) = described(library, monkeypatch, "0", **alike, **told)
        assert found.card_id == card_id


@pytest.mark.parametrize(
    ("card_id", "mhz", "bits"),
    [
        ("tesla-p100-pcie-16gb", 715, 4096),
        ("geforce-gtx-1080-ti", 5505, 352),
        ("tesla-v100-sxm2-16gb", 877, 4096),
        ("tesla-t4", 5001, 256),
        ("geforce-rtx-2080-ti", 7000, 352),
        ("nvidia-a100-sxm4-40gb", 1215, 5120),
        ("geforce-rtx-3090", 9751, 384),
        ("geforce-rtx-4090", 10501, 384),
        ("nvidia-l4", 6251, 192),
        ("nvidia-h100-sxm5", 2619, 5120),
    ],
)
def test_the_memory_clock_that_nvidia_smi_shows_is_half_of_a_pins_rate(library, card_id, mhz, bits):
    """Clocks as `nvidia-smi -q -d CLOCK` prints them, of each kind of memory."""
    fake = library(MaxClockInfo=lambda *_: mhz, MemoryBusWidth=lambda _: bits)
    assert _nvml._bandwidth(fake, "card") == pytest.approx(get_card(card_id).bandwidth, rel=0.02)


@pytest.mark.parametrize("lacking", ["MaxClockInfo", "MemoryBusWidth"])
def test_a_card_that_tells_no_memory_clock_is_known_by_its_name(library, monkeypatch, lacking):
    (found,) = described(library, monkeypatch, "0", failing=(lacking,))
    assert found.card_id == "nvidia-a100-sxm4-40gb"


def test_the_steps_that_never_change_run_on_the_card(device):
    torch = pytest.importorskip("torch", reason="the steps compute")
    device.torch_device = "cpu"
    witnesses = device.witnesses()
    assert set(witnesses) == {"a matrix product", "a copy"}
    side = witnesses["a matrix product"]().shape[0]
    assert torch.allclose(witnesses["a matrix product"](), torch.full((side, side), 1 / side))
    assert witnesses["a copy"]().sum() == witnesses["a copy"]().numel()


def test_an_identity_that_the_library_does_not_know_is_none(library, monkeypatch):
    fake = library(failing=("HandleByUUID",))
    fake.nvmlShutdown = lambda: None
    assert _nvml.by_uuid("1234", "cuda:0") is None

    def refused():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    fake.nvmlInit = refused
    assert _nvml.by_uuid("1234", "cuda:0") is None
    assert _nvml.devices() == []


def test_a_library_that_does_not_close_costs_nothing(library):
    def refused():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    fake = library(Count=lambda: 0)
    fake.nvmlShutdown = refused
    assert _nvml.devices() == []
