"""NVIDIA cards through torch.cuda: device events, one stream, one synchronisation per batch.

CuPy kernels run on torch's current stream, so the same events time them.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpubench.backends import _nvml
from gpubench.cards import Card, catalogue, unsupported_precision
from gpubench.device import Device, DeviceInfo, Samples
from gpubench.errors import EnvironmentRefused, UsageError

if TYPE_CHECKING:
    from gpubench.workload import Work

EXAMPLE = "cuda:0"
PRIORITY = 10

# No card of the catalogue has more; for cards that it lacks.
LARGEST_CACHE_BYTES = 128 * 2**20
# A card that the catalogue lacks is planned for as a slow one.
UNKNOWN_FLOPS = 5e12
UNKNOWN_BANDWIDTH = 1e11


def present() -> list[DeviceInfo]:
    """The cards that the driver shows, whether or not torch is installed."""
    return _nvml.devices()


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
    index = int(selector or 0)
    return CudaDevice(_torch_for(index), index)


def _torch_for(index: int) -> Any:
    """torch, once it is sure that it can drive the card."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise EnvironmentRefused(
            "measuring needs torch, which is not installed",
            "pip install 'gpubench-suite[cuda12]' or [cuda13], by your driver's CUDA version",
        ) from error
    cards = present()
    if torch.version.cuda is None:
        raise EnvironmentRefused(
            f"this torch ({torch.__version__}) was built without CUDA"
            + ("" if cards else ", and no NVIDIA driver answers here"),
            "pip install --force-reinstall torch" if cards else "give --device cpu",
        )
    if not torch.cuda.is_available():
        raise EnvironmentRefused(
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable card"
            + (f"; the driver is {cards[0].driver}" if cards else ", and no driver answers"),
            "update the driver or take a torch built for its CUDA version; `nvidia-smi` shows it"
            if cards
            else "give --device cpu",
        )
    if index >= torch.cuda.device_count():
        raise EnvironmentRefused(
            f"there is no cuda:{index}: torch sees {torch.cuda.device_count()} card(s)",
            "`gpubench devices` shows them",
        )
    _refuse_missing_kernels(torch, index)
    return torch


def _refuse_missing_kernels(torch: Any, index: int) -> None:
    """A torch without kernels for the card says it is available, then dies at the first operation.

    Code for sm_XY runs on later minor versions of the same major; PTX (compute_XY) on all later.
    """
    major, minor = torch.cuda.get_device_capability(index)
    built = torch.cuda.get_arch_list()
    for target in built:
        kind, _, digits = target.partition("_")
        version = int("".join(c for c in digits if c.isdigit()))
        newest = (version // 10, version % 10)
        same_major = newest[0] == major and newest[1] <= minor
        if (kind == "sm" and same_major) or (kind == "compute" and newest <= (major, minor)):
            return
    old = (major, minor) < (7, 5)
    raise EnvironmentRefused(
        f"torch {torch.__version__} has no kernels for {torch.cuda.get_device_name(index)} "
        f"(sm_{major}{minor}); it was built for {', '.join(built)}",
        "pip install torch --index-url https://download.pytorch.org/whl/cu126"
        if old
        else "pip install --upgrade torch",
    )


class CudaDevice(Device):
    """One card; everything runs on torch's current stream."""

    timer = "cuda_event"
    # Clocks ramp within tens of milliseconds, power limits bite within some hundred.
    settle_s = 0.3

    def __init__(self, torch: Any, index: int) -> None:
        self.torch = torch
        self.index = index
        self.torch_device = f"cuda:{index}"
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

    @contextmanager
    def mode(self, precision: str | None) -> Iterator[None]:
        """TF32 for ``tf32`` and only for it; sums of FP16 and BF16 products stay in FP32."""
        backends = self.torch.backends
        matmul = backends.cuda.matmul
        tf32 = precision == "tf32"
        # torch 2.9 replaced allow_tf32, and refuses a mixture of the old names and the new.
        settings: list[tuple[Any, str, object]]
        if hasattr(matmul, "fp32_precision"):
            settings = [
                (matmul, "fp32_precision", "tf32" if tf32 else "ieee"),
                (backends.cudnn.conv, "fp32_precision", "tf32" if tf32 else "ieee"),
            ]
        else:
            settings = [(matmul, "allow_tf32", tf32), (backends.cudnn, "allow_tf32", tf32)]
        settings += [
            (matmul, "allow_fp16_reduced_precision_reduction", False),
            (matmul, "allow_bf16_reduced_precision_reduction", False),
            # Autotuning may choose another algorithm in each process.
            (backends.cudnn, "benchmark", False),
        ]
        if hasattr(matmul, "allow_fp16_accumulation"):
            settings.append((matmul, "allow_fp16_accumulation", False))
        self.torch.cuda.empty_cache()  # the last case's tensors are gone by now
        before = [getattr(owner, name) for owner, name, _ in settings]
        try:
            for owner, name, value in settings:
                setattr(owner, name, value)
            with self.torch.cuda.device(self.index):  # events and CuPy follow the current one
                yield
        finally:
            for (owner, name, _), value in zip(settings, before, strict=True):
                setattr(owner, name, value)

    @cached_property
    def _eviction_buffer(self) -> Any:
        size = 2 * (self.info.cache_bytes or LARGEST_CACHE_BYTES)
        return self.torch.empty(size, dtype=self.torch.uint8, device=self.torch_device)

    def flush(self) -> None:
        """Write twice the L2 cache, queued on the stream like any other kernel."""
        self._eviction_buffer.fill_(1)

    def synchronize(self) -> None:
        """Wait for the card."""
        self.torch.cuda.synchronize(self.index)

    def sample(self, step: Callable[[], object], *, inner: int, count: int, cold: bool) -> Samples:
        """Queue all samples between pairs of events, then wait once."""
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

    def timer_cost_s(self) -> float:
        """Two events behind a flush: on an idle stream their distance is the host's doing."""
        return min(self.sample(lambda: None, inner=1, count=25, cold=True).device_s)

    def expected_s(self, work: "Work", precision: str | None) -> float | None:
        """The catalogue's nominal time, or that of a slow card."""
        if self.card:
            return self.card.nominal_s(work.flops, work.bytes, precision)
        return (work.flops or 0) / UNKNOWN_FLOPS + (work.bytes or 0) / UNKNOWN_BANDWIDTH

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
        info = _nvml.by_uuid(f"GPU-{uuid}", name) if uuid else None
        if info is None:
            numbered = [found for found in present() if found.name == name]
            info = numbered[0] if numbered else None
        if info is None:  # a container without the management library, or WSL
            capability = (properties.major, properties.minor)
            info = _nvml.identify(name, properties.name, properties.total_memory, capability)
        cache_bytes = getattr(properties, "L2_cache_size", None)
        return replace(info, name=name, cache_bytes=info.cache_bytes or cache_bytes)
