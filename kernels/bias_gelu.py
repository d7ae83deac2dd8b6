"""gelu(x + bias): torch's two operations, and the one kernel in bias_gelu.cu."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.errors import UsageError, unknown_name
from gpubench.program import (
    THREADS,
    Program,
    on_torch_stream,
    require_contiguous,
    require_cupy,
    require_rows,
)
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Work, workload

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

ELEMENTS = {"fp32": "float", "fp16": "Half", "bf16": "BFloat16"}
PROGRAMS = {
    precision: Program(
        name=f"bias_gelu {precision}",
        path=Path(__file__).with_name("bias_gelu.cu"),
        macros={"ELEMENT": element},
    )
    for precision, element in ELEMENTS.items()
}
IMPLEMENTATIONS = ("torch", "kernel")
ROUNDING = {"fp64": 2**-53, "fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}
CHECKED_ROWS = 256
FEWER_BLOCKS = 6  # that a multiprocessor has room for at most: bias_gelu.cu's


def work(implementation: str, rows: int, columns: int, precision: str) -> Work:
    """Each element is read once and written once, and the bias is read once.

    That is what must move; torch's sum, which goes to memory and back, is its own doing. Five
    operations an element, the error function counted as one.
    """
    if implementation not in IMPLEMENTATIONS:
        raise unknown_name("implementation", implementation, IMPLEMENTATIONS)
    if min(rows, columns) < 1:
        raise UsageError(f"no array of {rows} × {columns}", "give rows and columns of 1 or more")
    size = PRECISION_BYTES[precision]
    moved = (2 * rows + 1) * columns * size
    checked = min(rows, CHECKED_ROWS) * columns
    return Work(
        flops=5 * rows * columns,
        bytes=moved,
        footprint=moved + rows * columns * size + 3 * 8 * checked,
    )


def bias_gelu_kernel(values: "torch.Tensor", bias: "torch.Tensor") -> Callable[[], "torch.Tensor"]:
    """A call that writes gelu(values + bias), always into the same tensor.

    Args:
        values: rows × columns, contiguous, of any alignment, on an NVIDIA card; of no elements
            the result has none.
        bias: columns, of the same type, contiguous.

    Raises:
        UsageError: shapes, strides or types don't suit.
    """
    import torch

    precisions = {getattr(torch, TORCH_TYPES[name]): name for name in ELEMENTS}
    if values.dtype not in precisions or bias.dtype != values.dtype:
        raise UsageError(
            f"no kernel for {values.dtype} and {bias.dtype}",
            f"give both the same type of {', '.join(ELEMENTS)}",
        )
    require_contiguous(values)
    require_contiguous(bias)
    require_rows(values)
    rows, columns = values.shape
    if bias.shape != (columns,):
        raise UsageError(
            f"a bias of shape {tuple(bias.shape)} for {columns} columns", f"give it {columns}"
        )
    result = torch.zeros_like(values)
    if not values.numel():  # CUDA refuses a grid of no blocks
        return lambda: result
    kernel = PROGRAMS[precisions[values.dtype]].function("bias_gelu", values.device)
    grid = _grid(rows, columns, values.itemsize, values.device)

    def launch() -> "torch.Tensor":
        addresses = (values.data_ptr(), bias.data_ptr(), result.data_ptr())
        kernel(grid, (THREADS,), (*addresses, rows, columns))
        return result

    return on_torch_stream(launch)


def _grid(rows: int, columns: int, itemsize: int, device: "torch.device") -> tuple[int, int]:
    """Blocks for a row's packs along x; rows of blocks along y, as many as the card holds."""
    import torch

    card = torch.cuda.get_device_properties(device)
    room = min(card.max_threads_per_multi_processor // THREADS, FEWER_BLOCKS)
    resident = card.multi_processor_count * room
    across = -(-columns * itemsize // (16 * THREADS))
    return across, max(1, min(rows, resident // across))


def _step(values: "torch.Tensor", bias: "torch.Tensor", implementation: str) -> Callable[[], Any]:
    from torch.nn.functional import gelu

    if implementation == "kernel":
        return bias_gelu_kernel(values, bias)
    return lambda: gelu(values + bias)


@workload(
    version=1,
    work=work,
    sources=("bias_gelu.cu", "vector.cuh"),
    implementation=IMPLEMENTATIONS,
    rows=[16384],
    columns=[3072],
    precision=tuple(ELEMENTS),
)
def bias_gelu(
    device: "Device", implementation: str, rows: int, columns: int, precision: str
) -> Prepared:
    """Bias and GELU as in a transformer's first linear layer: torch's two steps, our one."""
    import torch

    work(implementation, rows, columns, precision)
    if implementation != "torch":
        require_cupy(device)
    generator = torch.Generator(device.torch_device).manual_seed(0)
    dtype = getattr(torch, TORCH_TYPES[precision])
    values = torch.empty(rows, columns, dtype=dtype, device=device.torch_device)
    values.normal_(generator=generator)
    bias = torch.empty(columns, dtype=dtype, device=device.torch_device)
    bias.normal_(generator=generator)
    step = _step(values, bias, implementation)

    def check() -> None:
        """Hold rows spread over the whole array against float64."""
        spread = slice(None, None, max(1, rows // CHECKED_ROWS))
        shifted = values[spread].double() + bias.double()
        expected = shifted / 2 * torch.special.erfc(-shifted / 2**0.5)
        # The sum, below 16, the error function and the result are rounded, by torch each to the
        # array's type.
        error = 32 * ROUNDING[precision]
        torch.testing.assert_close(step()[spread].double(), expected, rtol=0.0, atol=error)

    def another() -> Callable[[], Any]:
        return _step(values.clone(), bias.clone(), implementation)

    return Prepared(step=step, check=check, another=another)
