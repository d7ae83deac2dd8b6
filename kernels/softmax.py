"""Softmax of each row, by torch and by the kernel in softmax.cu."""

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
        name=f"softmax {precision}",
        path=Path(__file__).with_name("softmax.cu"),
        macros={"ELEMENT": element},
    )
    for precision, element in ELEMENTS.items()
}
IMPLEMENTATIONS = ("torch", "kernel")
# Rounding of the result, and of an exponential, a product and a sum in float32.
ROUNDING = {"fp64": 2**-53, "fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}
CHECKED_ROWS = 256


def work(implementation: str, rows: int, columns: int, precision: str) -> Work:
    """Each element is read once and written once; five operations each, an exponential for one."""
    if implementation not in IMPLEMENTATIONS:
        raise unknown_name("implementation", implementation, IMPLEMENTATIONS)
    if min(rows, columns) < 1:
        raise UsageError(f"no softmax of {rows} × {columns}", "give rows and columns of 1 or more")
    moved = 2 * rows * columns * PRECISION_BYTES[precision]
    checked = min(rows, CHECKED_ROWS) * columns
    return Work(flops=5 * rows * columns, bytes=moved, footprint=moved + 4 * 8 * checked)


def softmax_kernel(values: "torch.Tensor") -> Callable[[], "torch.Tensor"]:
    """A call that writes the softmax of each row of ``values``, always into the same tensor.

    Args:
        values: rows × columns, contiguous, of any alignment, on an NVIDIA card; of no elements
            the result has none.

    Raises:
        UsageError: shape, strides or type don't suit.
    """
    import torch

    precisions = {getattr(torch, TORCH_TYPES[name]): name for name in ELEMENTS}
    if values.dtype not in precisions:
        raise UsageError(f"no kernel for {values.dtype}", f"there is {', '.join(ELEMENTS)}")
    require_contiguous(values)
    require_rows(values)
    rows, columns = values.shape
    result = torch.zeros_like(values)
    if not values.numel():  # CUDA refuses a grid of no blocks
        return lambda: result
    kernel = PROGRAMS[precisions[values.dtype]].function("softmax", values.device)

    def launch() -> "torch.Tensor":
        kernel((rows,), (THREADS,), (values.data_ptr(), result.data_ptr(), columns))
        return result

    return on_torch_stream(launch)


def _step(values: "torch.Tensor", implementation: str) -> Callable[[], Any]:
    import torch

    if implementation == "kernel":
        return softmax_kernel(values)
    return lambda: torch.softmax(values, dim=-1)


@workload(
    version=1,
    work=work,
    sources=("softmax.cu", "vector.cuh"),
    implementation=IMPLEMENTATIONS,
    rows=[16384],
    columns=[1024, 4096],
    precision=tuple(ELEMENTS),
)
def softmax(
    device: "Device", implementation: str, rows: int, columns: int, precision: str
) -> Prepared:
    """Softmax of each row: torch's and a kernel of our own."""
    import torch

    work(implementation, rows, columns, precision)
    if implementation != "torch":
        require_cupy(device)
    generator = torch.Generator(device.torch_device).manual_seed(0)
    dtype = getattr(torch, TORCH_TYPES[precision])
    values = torch.empty(rows, columns, dtype=dtype, device=device.torch_device)
    values.normal_(std=4.0, generator=generator)
    step = _step(values, implementation)

    def check() -> None:
        """Hold rows spread over the whole array against float64."""
        spread = slice(None, None, max(1, rows // CHECKED_ROWS))
        powers = (values[spread].double() - values[spread].double().amax(-1, keepdim=True)).exp()
        expected = powers / powers.sum(-1, keepdim=True)
        # Arguments of exp reach 40 here, and their rounding is a relative error of the result;
        # a row's sum is rounded at each of its additions, at random.
        relative = ROUNDING[precision] + 2**-24 * (40 + 2 * columns**0.5)
        least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the first denormal
        torch.testing.assert_close(step()[spread].double(), expected, rtol=2 * relative, atol=least)

    def another() -> Callable[[], Any]:
        return _step(values.clone(), implementation)

    return Prepared(step=step, check=check, another=another)
