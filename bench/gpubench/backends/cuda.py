"""NVIDIA cards through torch.cuda: device events, one stream, one synchronisation per batch.

CuPy kernels run on torch's current stream, so the same events time them.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from gpubench import stack
from gpubench.backends import _nvml, _witness
from gpubench.cards import NOMINAL_LAUNCH_S, Card, catalogue, unsupported_precision
from gpubench.device import Device, DeviceInfo, Reading, Samples
from gpubench.errors import EnvironmentRefused, Unsupported, UsageError

if TYPE_CHECKING:
    from gpubench.doctor import Check
    from gpubench.workload import Work

EXAMPLE = "cuda:0"
PRIORITY = 10

# Variables that change what is measured whatever this package sets: the values that do not, and
# what the others do.
OVERRIDES = {
    "NVIDIA_TF32_OVERRIDE": (("",), "libraries use TF32 for FP32, or never use it"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": (("", "0"), "torch uses TF32 for FP32"),
    "CUDA_LAUNCH_BLOCKING": (("", "0"), "each launch waits for its end"),
    # torch 2.6 asks only whether it is there (pytorch issue 145661).
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ((), "each step asks the driver for memory"),
    "PYTORCH_TUNABLEOP_ENABLED": (
        ("", "0"),
        "torch picks an algorithm by timing",
    ),
    # By cuBLAS's documentation, "Floating Point Emulation"; from CUDA 12.9 on.
    "CUBLAS_EMULATE_SINGLE_PRECISION": (("", "0"), "cuBLAS makes FP32 products of BF16 ones"),
    "CUBLAS_EMULATE_DOUBLE_PRECISION": (("", "0"), "cuBLAS makes FP64 products of integer ones"),
    "CUBLAS_EMULATION_STRATEGY": (("",), "cuBLAS chooses otherwise which products to emulate"),
    "CUBLAS_FIXEDPOINT_EMULATION_MANTISSA_BIT_COUNT": (("",), "cuBLAS gives FP64 other digits"),
}
# No card of the catalogue has more; for cards that it lacks.
LARGEST_CACHE_BYTES = 128 * 2**20
# A card that the catalogue lacks is planned for as a slow one.
UNKNOWN_FLOPS = 5e12
UNKNOWN_BANDWIDTH = 1e11

# A stream takes about a thousand launches before it makes the host wait.
QUEUE_LAUNCHES = 1000
# What a sample launches beside its steps: two events, and at most two kernels of a flush.
SAMPLE_LAUNCHES = 4
# The head start is that much longer than the host is expected to need; and no longer than it takes
# torch to fill the queue, where the host has to wait for the device anyway.
HEAD_START_MARGIN = 1.5
LONGEST_HEAD_START_S = 0.01
# Recent cards clock between 1.2 and 3 GHz; the margin covers what this is off.
SLEEP_CLOCK_HZ = 2e9
# From this share of the device's time on, the host may be what a step waits for.
HOST_SHARE = 0.8


def present() -> list[DeviceInfo]:
    """The cards that the driver shows, whether or not torch is installed."""
    return _nvml.devices()


def checks(name: str) -> "Iterator[Check]":
    """What `gpubench doctor` looks at, of all cards or of one."""
    from gpubench.backends import _health

    return _health.checks(name)


def open(selector: str) -> "CudaDevice":  # noqa: A001 - the name of the backend contract
    """Open a card by its number, 0 by default.

    Raises:
        UsageError: the number is none.
        EnvironmentRefused: no driver, no such card, or a torch that can't drive it.
    """
    if selector and not selector.isdigit():
        raise UsageError(f"'cuda:{selector}' names no card", "give cuda:0, cuda:1, …")
    # Number the cards as nvidia-smi and `gpubench devices` do, not by speed.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    _refuse_overrides()
    index = int(selector or 0)
    return CudaDevice(_torch_for(index), index)


def _refuse_overrides() -> None:
    """Variables that change what is measured, whatever this package sets.

    Raises:
        EnvironmentRefused: one of them is set.
    """
    for name, (harmless, effect) in OVERRIDES.items():
        if name in os.environ and os.environ[name] not in harmless:
            raise EnvironmentRefused(f"{name} is set: {effect}", f"unset {name}")


def _torch_for(index: int) -> Any:
    """torch, once it is sure that it can drive the card.

    Raises:
        EnvironmentRefused: it can't; what to do about it comes from `gpubench.stack`.
    """
    cards = present()
    card = cards[index] if index < len(cards) else None
    torch = _imported_torch()
    if torch is not None and torch.version.cuda is None and not cards:
        raise EnvironmentRefused(
            f"this torch ({torch.__version__}) was built without CUDA, and no NVIDIA driver "
            "answers here",
            "give --device cpu",
        )
    # What the management library tells is known before CUDA is asked anything.
    told = stack.capability(card.compute_capability) if card else None
    _refuse(torch, card.card if card else "this card", told, card)
    if not torch.cuda.is_available():
        raise EnvironmentRefused(
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable card"
            + (f"; the driver is {cards[0].driver}" if cards else ", and no driver answers"),
            "`nvidia-smi` shows whether the driver works; after an update it takes a restart"
            if cards
            else "give --device cpu",
        )
    if index >= torch.cuda.device_count():
        raise EnvironmentRefused(
            f"there is no cuda:{index}: torch sees {torch.cuda.device_count()} card(s)",
            "`gpubench devices` shows them",
        )
    # A card without kernels of its own is "available", and dies at the first operation.
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    _refuse(torch, name, capability, card)
    return torch


def _imported_torch() -> Any:
    """torch, or None where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch


def _refuse(
    torch: Any | None, name: str, capability: tuple[int, int] | None, card: DeviceInfo | None
) -> None:
    """Raise what `gpubench.stack` finds wrong with this torch for this card."""
    targets = torch.cuda.get_arch_list() if torch else ()
    driver = card.driver if card else None
    if problem := stack.torch_problem(stack.installed(name, capability, driver, torch, targets)):
        raise problem


class CudaDevice(Device):
    """One card; everything runs on torch's current stream."""

    timer = "cuda_event"
    energy_source = "nvml"
    # Clocks ramp within tens of milliseconds, power limits bite within some hundred.
    settle_s = 0.3

    def __init__(self, torch: Any, index: int) -> None:
        self.torch = torch
        self.index = index
        self.torch_device = f"cuda:{index}"
        # Of a step in the last call of `sample`: what enqueueing it took, and the device.
        self._host_s = self._device_s = 0.0
        torch.cuda.set_device(index)
        self.info = self._describe(index)

    @cached_property
    def card(self) -> Card | None:
        """The card's row in the catalogue."""
        return catalogue().get(self.info.card_id)

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, as torch reports it."""
        major, minor = self.torch.cuda.get_device_capability(self.index)
        return major, minor

    def unsupported(self, precision: str) -> str | None:
        """By the card's compute capability."""
        return unsupported_precision(self.capability, precision)

    def _settings(self, precision: str | None) -> list[tuple[Any, str, object]]:
        """What torch is to be set to for a case: the owner of each setting, its name, its value."""
        cudnn, matmul = self.torch.backends.cudnn, self.torch.backends.cuda.matmul
        tf32 = precision == "tf32"
        settings: list[tuple[Any, str, object]]
        settings = [(matmul, "allow_tf32", tf32), (cudnn, "allow_tf32", tf32)]
        # Names since torch 2.9. Both have to say the same: else torch refuses to tell the old.
        if hasattr(matmul, "fp32_precision"):
            owners = (matmul, cudnn.conv, cudnn.rnn)
            settings += [(owner, "fp32_precision", "tf32" if tf32 else "ieee") for owner in owners]
        settings += [
            (matmul, "allow_fp16_reduced_precision_reduction", False),
            (matmul, "allow_bf16_reduced_precision_reduction", False),
            # Autotuning may choose another algorithm in each process.
            (cudnn, "benchmark", False),
        ]
        if hasattr(matmul, "allow_fp16_accumulation"):
            settings.append((matmul, "allow_fp16_accumulation", False))
        return settings

    @contextmanager
    def mode(self, precision: str | None) -> Iterator[None]:
        """TF32 for ``tf32`` and only for it; sums of FP16 and BF16 products stay in FP32."""
        settings = self._settings(precision)
        # Its choice of algorithm hangs on what it timed, or on a file that lies about.
        tunable: Any = getattr(self.torch.cuda, "tunable", None)
        was_tuned = tunable is not None and tunable.is_enabled()
        self.torch.cuda.empty_cache()  # the last case's tensors are gone by now
        self._host_s = self._device_s = 0.0
        before = [(owner, name, _setting(owner, name)) for owner, name, _ in settings]
        try:
            for owner, name, value in settings:
                setattr(owner, name, value)
            if was_tuned:
                tunable.enable(False)
            with self.torch.cuda.device(self.index):  # events and CuPy follow the current one
                yield
        finally:
            if was_tuned:
                tunable.enable(True)
            for owner, name, value in before:
                if value is not None:
                    setattr(owner, name, value)

    @cached_property
    def _eviction_buffer(self) -> Any:
        size = self.rotation_multiple * (self.info.cache_bytes or LARGEST_CACHE_BYTES)
        return self.torch.zeros(int(size) // 4, dtype=self.torch.float32, device=self.torch_device)

    @cached_property
    def _eviction_sum(self) -> Any:
        return self.torch.zeros((), dtype=self.torch.float32, device=self.torch_device)

    def flush(self) -> None:
        """Read several times the L2 cache, queued on the stream like any other kernel.

        As many times as copies that take turns have, for the same reason. Reading displaces the
        last step's data as writing would, and what it leaves in the cache is clean. Written lines
        would have to go to memory first, on the next step's time.
        """
        if self.flush_writes:
            self._eviction_buffer.zero_()
            return
        self.torch.sum(self._eviction_buffer, dim=0, out=self._eviction_sum)

    def synchronize(self) -> None:
        """Wait for the card."""
        self.torch.cuda.synchronize(self.index)

    def sample(
        self,
        step: Callable[[], object],
        *,
        inner: int,
        count: int,
        cold: bool,
        paced: bool = False,
    ) -> Samples:
        """Queue the samples between pairs of events, then wait once for each thousand launches.

        The device gets something to wait on first, so that its queue is full when it comes to the
        samples: a device that waits for the host does so between two events, on the sample's time.
        The host, in turn, never waits for a full queue, so its time is what enqueueing takes.
        """
        if paced:
            return self._in_a_loop(step, inner=inner, count=count)
        samples = Samples()
        launches = max(1, round(self._host_s / NOMINAL_LAUNCH_S))  # of a step, by what they cost
        most = max(1, QUEUE_LAUNCHES // (launches * inner + SAMPLE_LAUNCHES))
        while (left := count - len(samples.device_s)) > 0:
            self._head_start(inner, min(most, left))
            samples.extend(self._queue(step, inner=inner, count=min(most, left), cold=cold))
        if samples.device_s:
            # The least is free of interruptions; the next call is most likely of the same step.
            self._host_s = min(samples.host_s)
            self._device_s = median(samples.device_s)
        return samples

    def _head_start(self, inner: int, count: int) -> None:
        """Keep the device busy for as long as the host takes to get ahead of it.

        By the last call's times: where steps are shorter than their enqueueing, the host needs to
        have queued all of them; else it stays ahead once it has queued one.
        """
        ahead = count if self._host_s >= HOST_SHARE * self._device_s else 1
        one_s = inner * self._host_s + SAMPLE_LAUNCHES * NOMINAL_LAUNCH_S
        seconds = min(HEAD_START_MARGIN * ahead * one_s, LONGEST_HEAD_START_S)
        # Not a public function, but torch's own tests have relied on it for years.
        if sleep := getattr(self.torch.cuda, "_sleep", None):
            sleep(int(seconds * SLEEP_CLOCK_HZ))

    def _queue(self, step: Callable[[], object], *, inner: int, count: int, cold: bool) -> Samples:
        event = self.torch.cuda.Event
        pairs = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(count)]
        host_s = []
        for start, end in pairs:
            if cold:
                self.flush()
            start.record()
            begin = time.perf_counter()
            for _ in range(inner):
                step()
            host_s.append((time.perf_counter() - begin) / inner)
            end.record()
        self.synchronize()
        # elapsed_time is in milliseconds
        return Samples([start.elapsed_time(end) / 1e3 / inner for start, end in pairs], host_s)

    def _in_a_loop(self, step: Callable[[], object], *, inner: int, count: int) -> Samples:
        """Step after step as a training loop runs them, with one event between samples.

        One step goes ahead unmeasured, so that the first sample finds the device as busy as the
        others do; the host may fall behind or wait, as it would for its user.
        """
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        step()
        events[0].record()
        host_s = []
        for event in events[1:]:
            begin = time.perf_counter()
            for _ in range(inner):
                step()
            host_s.append((time.perf_counter() - begin) / inner)
            event.record()
        self.synchronize()
        times = [start.elapsed_time(end) / 1e3 / inner for start, end in pairwise(events)]
        return Samples(times, host_s)

    def timer_cost_s(self) -> float:
        """Two events behind a flush: on an idle stream their distance is the host's doing."""
        before = self._host_s, self._device_s  # of the step that was warmed up and comes next
        try:
            return min(self.sample(lambda: None, inner=1, count=25, cold=True).device_s)
        finally:
            self._host_s, self._device_s = before

    @cached_property
    def _sensors(self) -> "_nvml.Sensors | None":
        return _nvml.sensors(self.info.uuid)

    def reading(self) -> Reading:
        """What NVIDIA's management library tells; nothing where it is missing."""
        return self._sensors.reading() if self._sensors else Reading()

    def coherent_link(self) -> bool | None:
        """NVLink-C2C, as of Grace Hopper and Grace Blackwell."""
        mode = self._sensors.ask("C2cModeInfoV1") if self._sensors else None
        return None if mode is None else bool(mode.isC2cEnabled)

    def capture(self, steps: Sequence[Callable[[], object]]) -> Callable[[], object]:
        """A CUDA graph of all ``steps``.

        Raises:
            Unsupported: a step does what can't be captured: it reads a result back, it is an
                optimizer's that keeps its state on the host, or it allocates outside torch.
        """
        cuda = self.torch.cuda
        graph, side = cuda.CUDAGraph(), cuda.Stream(self.index)
        self.synchronize()  # the side stream doesn't wait for what is queued on the caller's
        try:
            # Whatever happens, this gives the caller's stream back; a spoilt capture doesn't.
            with cuda.stream(side):
                self._rehearse(steps)
                # On the stream of the rehearsal: libraries keep handles, work space and free
                # memory for each stream, and making those can't be captured.
                self._capture_into(graph, side, steps)
        except RuntimeError as error:
            if self.out_of_memory(error):
                raise
            self.synchronize()
            raise Unsupported(f"no CUDA graph of this step: {_first_line(error)}") from error
        self.synchronize()

        def replay(_alive: Sequence[Callable[[], object]] = tuple(steps)) -> None:
            graph.replay()  # on the steps' tensors, which is why they stay alive

        return replay

    def _rehearse(self, steps: Sequence[Callable[[], object]]) -> None:
        """Run all once where they will be captured, and refuse those that wait for the device.

        Waiting would spoil a capture half-way, which torch does not recover from in full: its
        random numbers on the device fail from then on (pytorch issue 171263).
        """
        cuda = self.torch.cuda
        before = cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it calls itself a prototype
            cuda.set_sync_debug_mode("error")
        try:
            # Kept as in the capture: CuPy's pool then has as many blocks as that will take. To
            # ask the driver for another one spoils a capture.
            kept = [step() for step in steps]
            del kept
        finally:
            cuda.set_sync_debug_mode(before)

    def _capture_into(self, graph: Any, side: Any, steps: Sequence[Callable[[], object]]) -> None:
        """Capture; a failure from here on leaves a process that should measure nothing else."""
        try:
            with self.torch.cuda.graph(graph, stream=side):
                # Kept until the end, so that no step writes its result over another's.
                kept = [step() for step in steps]
            del kept
        except BaseException:
            self.spoilt = True
            raise

    def expected_s(self, work: "Work", precision: str | None) -> float | None:
        """The catalogue's nominal time, or that of a slow card."""
        if self.card:
            return self.card.nominal_s(work.flops, work.bytes, precision)
        return (work.flops or 0) / UNKNOWN_FLOPS + (work.bytes or 0) / UNKNOWN_BANDWIDTH

    def witnesses(self) -> dict[str, Callable[[], object]]:
        """A product and a copy on this card."""
        return _witness.steps(self.torch_device)

    def reset_peak_memory(self) -> None:
        """Start a new peak of torch's allocator."""
        self.torch.cuda.reset_peak_memory_stats(self.index)

    def peak_memory_bytes(self) -> int | None:
        """Most memory that torch had allocated, less our own buffer; CuPy's pool is not in it."""
        ours = vars(self).get("_eviction_buffer")
        peak = int(self.torch.cuda.max_memory_allocated(self.index))
        return peak - (0 if ours is None else int(ours.nbytes))

    def out_of_memory(self, error: BaseException) -> bool:
        """Torch's own type, and CuPy's by its name."""
        is_torch = isinstance(error, self.torch.cuda.OutOfMemoryError)
        return (
            is_torch or type(error).__name__ == "OutOfMemoryError" or super().out_of_memory(error)
        )

    def _describe(self, index: int) -> DeviceInfo:
        """What the driver tells of the card, completed by what CUDA tells."""
        properties = self.torch.cuda.get_device_properties(index)
        name = f"cuda:{index}"
        uuid = getattr(properties, "uuid", None)
        info = _nvml.by_uuid(str(uuid), name) if uuid else None
        if info is None:
            numbered = [found for found in present() if found.name == name and found.uuid]
            info = numbered[0] if numbered else None
        if info is None or _is_part(properties, info):  # a container without the library, or WSL
            capability = (properties.major, properties.minor)
            slice_ = " MIG" if info and "MIG" not in properties.name else ""
            card = f"{properties.name}{slice_}"
            info = _nvml.identify(name, card, properties.total_memory, capability)
        cache_bytes = getattr(properties, "L2_cache_size", None)
        return replace(info, name=name, cache_bytes=info.cache_bytes or cache_bytes)


def _is_part(properties: Any, card: DeviceInfo) -> bool:
    """Whether CUDA computes on a slice, under the identity of the card that it is cut from.

    CUDA's documentation promises a slice's own identity of one of its three calls only. All of a
    card's memory but a few per cent is CUDA's, and a slice has half of it at most.
    """
    return card.memory_bytes is not None and properties.total_memory < 0.7 * card.memory_bytes


def _setting(owner: Any, name: str) -> object:
    """What torch is set to, as it takes it back; None where it refuses to tell."""
    try:
        value = getattr(owner, name)
    except RuntimeError:  # old and new names for TF32 say different things
        return None
    # Since torch 2.10 (pull request 164766) a pair, of which this name tells the first alone.
    split = getattr(owner, f"{name}_split_k", None)
    return value if split is None else (value, split)


def _first_line(error: BaseException) -> str:
    """What went wrong first: ending a spoilt capture raises once more, and says less."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
