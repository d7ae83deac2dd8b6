"""Sum of an array by torch, by CuPy and by the kernel in reduction.cu: the same bytes, three ways.

Each gives its sum in the type that its users get: torch and CuPy in the array's (integers in
int64), the kernel in the type that it adds up in.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.errors import Unsupported, UsageError, unknown_name
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Work, workload

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

SOURCE = Path(__file__).with_name("reduction.cu")
# For NVRTC; CuPy adds the architecture of the card.
COMPILE_OPTIONS = ("--std=c++17",)
# THREADS and BLOCKS of reduction.cu.
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 4
# The type that the kernel adds up in.
ACCUMULATORS = {"fp64": "fp64", "fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "int8": "int64"}

# Elements that the check converts to float64 at a time.
CHUNK = 2**22
# No implementation adds more terms than this one after another: they cut an array into thousands
# of pieces or more, and add those up in a tree.
LONGEST_CHAIN = 4096


def work(implementation: str, n: int, precision: str) -> Work:
    """One addition less than elements, each of which is read once."""
    if implementation not in IMPLEMENTATIONS:
        raise unknown_name("implementation", implementation, IMPLEMENTATIONS)
    if n < 0:
        raise UsageError(f"an array can't have {n} elements", "give n as 0 or more")
    read = n * PRECISION_BYTES[precision]
    return Work(flops=max(0, n - 1), bytes=read, footprint=read + 16 * min(n, CHUNK))


def torch_sum(values: "torch.Tensor", precision: str) -> Callable[[], Any]:  # noqa: ARG001
    """What torch users write."""
    step: Callable[[], Any] = values.sum
    return step


def cupy_sum(values: "torch.Tensor", precision: str) -> Callable[[], Any]:
    """What CuPy users write."""
    import cupy

    if precision == "bf16":
        raise Unsupported("CuPy has bf16 from version 14 on, through ml_dtypes and in part only")
    return _on_torch_stream(cupy, cupy.from_dlpack(values).sum)


def kernel_sum(values: "torch.Tensor", precision: str) -> Callable[[], Any]:
    """The kernel in reduction.cu, launched twice: over the array, then over the blocks' sums."""
    import cupy
    import torch

    properties = torch.cuda.get_device_properties(values.device)
    # No more blocks than have work, no more than the card holds at once, and at least one.
    wanted = -(-values.nbytes // (16 * THREADS))
    blocks = max(1, min(wanted, BLOCKS_PER_MULTIPROCESSOR * properties.multi_processor_count))
    accumulator = ACCUMULATORS[precision]
    dtype = getattr(torch, TORCH_TYPES.get(accumulator, accumulator))
    partial_sums = torch.empty(blocks, dtype=dtype, device=values.device)
    total = torch.empty((), dtype=dtype, device=values.device)
    first, second = (compiled().get_function(f"sum_{name}") for name in (precision, accumulator))

    def launch() -> "torch.Tensor":
        # Pointers go as integers: it needs no DLPack, and so no bf16 in CuPy.
        first((blocks,), (THREADS,), (values.data_ptr(), len(values), partial_sums.data_ptr()))
        second((1,), (THREADS,), (partial_sums.data_ptr(), blocks, total.data_ptr()))
        return total

    return _on_torch_stream(cupy, launch)


IMPLEMENTATIONS = {"torch": torch_sum, "cupy": cupy_sum, "kernel": kernel_sum}


@workload(
    version=1,
    work=work,
    sources=("reduction.cu",),
    implementation=tuple(IMPLEMENTATIONS),
    n=[2**20, 2**24, 2**28],
    precision=["fp32", "fp16", "bf16", "fp64"],
)
def reduction(device: "Device", implementation: str, n: int, precision: str) -> Prepared:
    """Sum of an array: torch, CuPy and a hand-written kernel on the same data."""
    import torch

    work(implementation, n, precision)
    if implementation != "torch":
        require_cupy(device)  # before the array, which takes seconds to fill
    generator = torch.Generator(device.torch_device).manual_seed(0)
    dtype = getattr(torch, TORCH_TYPES[precision])
    values = torch.empty(n, dtype=dtype, device=device.torch_device)
    if dtype.is_floating_point:
        values.normal_(generator=generator)
    else:
        values.random_(-128, 128, generator=generator)
    step = IMPLEMENTATIONS[implementation](values, precision)

    def check() -> None:
        """Hold the sum against inner products in float64 (exact for integers, below 2⁵³)."""
        ones = torch.ones(min(n, CHUNK), dtype=torch.float64, device=device.torch_device)
        result = step()
        # CuPy would copy the result on a stream of its own.
        device.synchronize()
        expected = sum(float(chunk.double() @ ones[: len(chunk)]) for chunk in values.split(CHUNK))
        # CuPy's CUB adds FP16 in FP16; the others widen it.
        narrow = (implementation, precision) == ("cupy", "fp16")
        added_in = "fp16" if narrow else ACCUMULATORS[precision]
        torch.testing.assert_close(
            float(result), expected, **_tolerance(added_in, n, str(result.dtype))
        )

    def another() -> Callable[[], Any]:
        return IMPLEMENTATIONS[implementation](values.clone(), precision)

    return Prepared(step=step, check=check, another=another)


def _tolerance(added_in: str, n: int, result_type: str) -> dict[str, float]:
    """What rounding may do to the sum of n standard normal numbers, added up in ``added_in``.

    In a chain of L additions the sum so far is about √k after k of them, and each rounds it by u
    at most at random: u·L/√6 in all, and √(n/L) times that for n/L chains; the tree above adds
    little. Eight times that is beyond chance. At last the sum is rounded to the result's type.
    """
    unit = {"fp64": 2**-53, "fp32": 2**-24, "fp16": 2**-11, "int64": 0.0}[added_in]
    last = {"float16": 2**-11, "bfloat16": 2**-8}.get(result_type.rpartition(".")[2], unit)
    chain = min(n, LONGEST_CHAIN)
    return {"rtol": 2 * last, "atol": 8 * (unit + 2**-53) * ((n * chain / 6) ** 0.5 + 8)}


def require_cupy(device: "Device") -> None:
    """See that CuPy can work on this device.

    Raises:
        Unsupported: it is no NVIDIA card, or CuPy is missing or broken.
    """
    if device.info.backend != "cuda":
        raise Unsupported("CuPy runs on NVIDIA cards only; this device takes implementation=torch")
    try:
        import cupy  # noqa: F401 - asked for only to see whether it loads
    except ImportError as error:
        raise Unsupported(
            "this implementation needs CuPy: pip install 'gpubench-suite[cuda12]' or [cuda13], "
            f"by the driver's CUDA version ({error})"
        ) from error


@cache
def compiled() -> Any:
    """reduction.cu as a ``cupy.RawModule``, which compiles it once for each card."""
    import cupy

    return cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=COMPILE_OPTIONS)


def _on_torch_stream(cupy: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """Make CuPy queue ``call`` on the stream that is torch's current one at the time."""
    import torch

    streams: dict[int, Any] = {}

    def step() -> Any:
        handle = torch.cuda.current_stream().cuda_stream
        if handle not in streams:
            streams[handle] = cupy.cuda.ExternalStream(handle)
        with streams[handle]:
            return call()

    return step
