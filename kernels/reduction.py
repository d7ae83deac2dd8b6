"""Sum, maximum and its index of an array: torch, CuPy, CUB, and four kernels of our own.

The kernels are the classic ladder, each variant a case, and the last one is the default:
``naive`` (atomics), ``shared`` (a tree in shared memory), ``shuffle`` (warp shuffles) and
``vectorized`` (16-byte loads, several in flight, a second pass in a fixed order).

16-bit floats are widened to float32 as they are read and computed with in that; integers are added
up in int64. Sums and maxima come in the type they were computed in, indices as int64. A NaN makes
a sum or maximum NaN; the maximum's index is that of the first NaN, else of the first of equal ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.errors import Unsupported, UsageError, unknown_name
from gpubench.program import (
    THREADS,
    Program,
    on_torch_stream,
    require_contiguous,
    require_cupy,
)
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Work, workload

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

# The types of reduction.cu and the type that each is added up in.
ELEMENTS = {
    "fp32": "float",
    "fp16": "Half",
    "bf16": "BFloat16",
    "fp64": "double",
    "int32": "int",
}
ACCUMULATORS = {"fp64": "fp64", "fp32": "fp32", "fp16": "fp32", "bf16": "fp32", "int32": "int64"}
OPERATIONS = {"sum": "Sum", "max": "Max", "argmax": "ArgMax"}
VARIANTS = ("naive", "shared", "shuffle", "vectorized")
DEFAULT_VARIANT = "vectorized"
PROGRAMS = {
    (operation, precision): Program(
        name=f"reduction {operation} {precision}",
        path=Path(__file__).with_name("reduction.cu"),
        macros={"OPERATION": OPERATIONS[operation], "ELEMENT": ELEMENTS[precision]},
    )
    for operation in OPERATIONS
    for precision in ELEMENTS
}
TILE_BYTES = 4 * 16 * THREADS  # LOADS packs for each thread of a block
# Blocks that a multiprocessor has room for, where they are fewer than its threads allow.
FEWER_BLOCKS = {"argmax": 6}
STATE_BYTES = 16  # of a block at most: a value and its index
CUPY_ACCELERATORS: dict[str, list[str]] = {"cupy": [], "cub": ["cub"]}
IMPLEMENTATIONS = ("torch", "cupy", "cub", *VARIANTS)

# Elements that the check converts to float64 at a time.
CHUNK = 2**22
# No implementation but the naive one adds more terms than this one after another: they cut an
# array into thousands of pieces or more, and add those up in a tree.
LONGEST_CHAIN = 4096


def work(operation: str, implementation: str, n: int, precision: str) -> Work:
    """One addition or comparison less than elements, each of which is read once.

    What a block leaves for the second pass comes to 0.2 %: 32 bytes, written and read, for 16 KiB
    or more of the array.
    """
    if operation not in OPERATIONS:
        raise unknown_name("operation", operation, OPERATIONS)
    if implementation not in IMPLEMENTATIONS:
        raise unknown_name("implementation", implementation, IMPLEMENTATIONS)
    least = 0 if operation == "sum" else 1
    if n < least:
        raise UsageError(
            f"the {operation} of {n} elements is undefined", f"give n as {least} or more"
        )
    read = n * PRECISION_BYTES[precision]
    return Work(flops=max(0, n - 1), bytes=read, footprint=read + 16 * min(n, CHUNK))


def reducer(
    values: "torch.Tensor", operation: str = "sum", variant: str = DEFAULT_VARIANT
) -> Callable[[], "torch.Tensor"]:
    """A call that reduces ``values`` anew each time, into one and the same 0-dimensional tensor.

    Args:
        values: a contiguous array on an NVIDIA card, of any shape and alignment, whose elements
            are taken in order. A CuPy array comes in by ``torch.from_dlpack``, without a copy.
        operation: ``sum``, ``max`` or ``argmax``.
        variant: one of ``VARIANTS``.

    Raises:
        UsageError: strides, type, operation or variant don't suit, or it is the maximum of nothing.
    """
    import torch

    precisions = {getattr(torch, TORCH_TYPES[name]): name for name in ELEMENTS}
    if values.dtype not in precisions:
        raise UsageError(f"no kernel reduces {values.dtype}", f"there is {', '.join(ELEMENTS)}")
    require_contiguous(values)
    count, precision = values.numel(), precisions[values.dtype]
    if variant not in VARIANTS:
        raise unknown_name("variant", variant, VARIANTS)
    work(operation, variant, count, precision)  # refuses what is undefined
    result = torch.empty((), dtype=result_type(operation, precision), device=values.device)
    program, blocks = PROGRAMS[operation, precision], _blocks(values, operation)
    kernel = program.function(variant, values.device)

    def launch(target: "torch.Tensor") -> None:
        # Addresses go as integers: it needs no DLPack, and so no bf16 in CuPy.
        kernel((blocks,), (THREADS,), (values.data_ptr(), count, target.data_ptr()))

    if variant == "naive":
        start = _start(operation, result.dtype)

        def naive() -> "torch.Tensor":
            result.fill_(start)
            launch(result)
            return result

        return on_torch_stream(naive)
    finish = program.function("finish", values.device)
    states = torch.empty(blocks * STATE_BYTES, dtype=torch.uint8, device=values.device)

    def two_passes() -> "torch.Tensor":
        launch(states)
        finish((1,), (THREADS,), (states.data_ptr(), blocks, result.data_ptr()))
        return result

    return on_torch_stream(two_passes)


def result_type(operation: str, precision: str) -> "torch.dtype":
    """What the kernels leave: the type that they compute in, and int64 for an index."""
    import torch

    if operation == "argmax":
        return torch.int64
    name = ACCUMULATORS[precision] if operation == "sum" or precision != "int32" else "int32"
    dtype: torch.dtype = getattr(torch, TORCH_TYPES[name])
    return dtype


def _start(operation: str, dtype: "torch.dtype") -> float:
    """What a result is before its first element: nothing, the lowest value, the first index."""
    import torch

    if operation != "max":
        return 0
    return float("-inf") if dtype.is_floating_point else int(torch.iinfo(dtype).min)


def _blocks(values: "torch.Tensor", operation: str) -> int:
    """No more blocks than there are tiles for, no more than the card holds at once."""
    import torch

    card = torch.cuda.get_device_properties(values.device)
    room = min(card.max_threads_per_multi_processor // THREADS, FEWER_BLOCKS.get(operation, 32))
    tiles = -(-int(values.nbytes) // TILE_BYTES)
    return max(1, min(tiles, int(card.multi_processor_count * room)))


def torch_reducer(values: "torch.Tensor", operation: str) -> Callable[[], Any]:
    """What torch users write."""
    step: Callable[[], Any] = getattr(values, operation)
    return step


def cupy_reducer(values: "torch.Tensor", operation: str, implementation: str) -> Callable[[], Any]:
    """What CuPy users write, by CuPy's own kernels or by CUB's, on the same memory."""
    import cupy
    import torch

    if values.dtype == torch.bfloat16:
        raise Unsupported("CuPy has bf16 from version 14 on, through ml_dtypes and in part only")
    reduce = getattr(cupy.from_dlpack(values), operation)
    accelerators = CUPY_ACCELERATORS[implementation]

    def call() -> Any:
        with _accelerators(cupy, accelerators):
            return reduce()

    return on_torch_stream(call)


@contextmanager
def _accelerators(cupy: Any, names: list[str]) -> Iterator[None]:
    """Which libraries CuPy hands reductions to: it keeps that for the whole process."""
    core = cupy._core  # noqa: SLF001 - where CuPy's documentation has these functions
    before = core.get_routine_accelerators(), core.get_reduction_accelerators()
    core.set_routine_accelerators(names)
    core.set_reduction_accelerators(names)
    try:
        yield
    finally:
        core.set_routine_accelerators(before[0])
        core.set_reduction_accelerators(before[1])


def _step(values: "torch.Tensor", operation: str, implementation: str) -> Callable[[], Any]:
    if implementation == "torch":
        return torch_reducer(values, operation)
    if implementation in CUPY_ACCELERATORS:
        return cupy_reducer(values, operation, implementation)
    return reducer(values, operation, implementation)


@workload(
    version=2,
    work=work,
    sources=("reduction.cu", "vector.cuh"),
    operation=tuple(OPERATIONS),
    implementation=IMPLEMENTATIONS,
    n=[2**20, 2**24, 2**28],
    precision=tuple(ELEMENTS),
)
def reduction(
    device: "Device", operation: str, implementation: str, n: int, precision: str
) -> Prepared:
    """Sum, maximum or its index: torch, CuPy, CUB and four kernels of our own on the same data."""
    import torch

    work(operation, implementation, n, precision)
    if implementation != "torch":
        require_cupy(device)  # before the array, which takes seconds to fill
    generator = torch.Generator(device.torch_device).manual_seed(0)
    dtype = getattr(torch, TORCH_TYPES[precision])
    values = torch.empty(n, dtype=dtype, device=device.torch_device)
    if dtype.is_floating_point:
        values.normal_(generator=generator)
    else:
        values.random_(-(2**31), 2**31, generator=generator)
    step = _step(values, operation, implementation)

    def check() -> None:
        result = step()
        device.synchronize()  # CuPy would copy the result on a stream of its own
        if operation == "sum":
            # CuPy's CUB adds FP16 in FP16; the others widen it.
            narrow = implementation in CUPY_ACCELERATORS and precision == "fp16"
            added_in = "fp16" if narrow else ACCUMULATORS[precision]
            chain = n if implementation == "naive" else min(n, LONGEST_CHAIN)
            tolerance = _tolerance(added_in, n, chain, str(result.dtype))
            torch.testing.assert_close(float(result), _exact_sum(values), **tolerance)
        else:
            _check_maximum(values, result, operation)

    def another() -> Callable[[], Any]:
        return _step(values.clone(), operation, implementation)

    return Prepared(step=step, check=check, another=another)


def _exact_sum(values: "torch.Tensor") -> float:
    """By inner products in float64; exact for integers, below 2⁵³."""
    import torch

    ones = torch.ones(min(len(values), CHUNK), dtype=torch.float64, device=values.device)
    return sum(float(chunk.double() @ ones[: len(chunk)]) for chunk in values.split(CHUNK))


def _check_maximum(values: "torch.Tensor", result: Any, operation: str) -> None:
    """Nothing is greater, and it is there: as the first of equal ones, if its index is asked for.

    By comparisons element by element: no other maximum has to be right for that.
    """
    maximum = float(values[int(result)]) if operation == "argmax" else float(result)
    end = int(result) if operation == "argmax" else len(values)
    for chunk in values.split(CHUNK):
        assert not bool((chunk.double() > maximum).any()), f"{maximum} is not the greatest"  # noqa: S101
    found = [bool((chunk.double() == maximum).any()) for chunk in values[:end].split(CHUNK)]
    assert any(found) == (operation == "max"), f"{maximum} is not there, or not first"  # noqa: S101


def _tolerance(added_in: str, n: int, chain: int, result_type: str) -> dict[str, float]:
    """What rounding may do to the sum of n standard normal numbers, added up in ``added_in``.

    In a chain of L additions the sum so far is about √k after k of them, and each rounds it by u
    at most at random: u·L/√6 in all, and √(n/L) times that for n/L chains; the tree above adds
    little. Eight times that is beyond chance. At last the sum is rounded to the result's type.
    """
    unit = {"fp64": 2**-53, "fp32": 2**-24, "fp16": 2**-11, "int64": 0.0}[added_in]
    last = {"float16": 2**-11, "bfloat16": 2**-8}.get(result_type.rpartition(".")[2], unit)
    return {"rtol": 2 * last, "atol": 8 * (unit + 2**-53) * ((n * chain / 6) ** 0.5 + 8)}
