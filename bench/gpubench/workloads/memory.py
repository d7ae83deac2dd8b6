"""Streaming through memory: the bandwidth roof of a device."""

from typing import TYPE_CHECKING, Any

from gpubench.errors import unknown_name
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Step, Work, workload

if TYPE_CHECKING:
    from gpubench.device import Device

MIB = 2**20
# Arrays that each operation touches: copy reads one and writes one, triad reads two.
ARRAYS = {"copy": 2, "triad": 3}
SCALAR = 3.0  # STREAM's
# Elements of a block of random numbers; every size in MiB is a multiple of it, or its part.
BLOCK = 2**17
# Elements that the check looks at, evenly spread.
CHECKED = 2**20


def work(operation: str, mib: int, precision: str) -> Work:
    """Bytes as STREAM counts them: each array once (McCalpin 1995).

    A processor that reads a line before it overwrites it (write-allocate) moves half as much
    again for a copy; that is not counted, so its rate shows what the program gets.
    """
    if operation not in ARRAYS:
        raise unknown_name("operation", operation, ARRAYS)
    moved = ARRAYS[operation] * mib * MIB
    elements = mib * MIB // PRECISION_BYTES[precision]
    return Work(
        flops=2 * elements if operation == "triad" else 0,
        bytes=moved,
        footprint=moved + 3 * 8 * min(elements, CHECKED),
    )


# Per array 256 MiB is twice the largest cache that a card has by 2025 (126 MiB, B200).
@workload(
    version=1,
    work=work,
    operation=["copy", "triad"],
    mib=[256, 1024],
    precision=["fp32"],
)
def memory(device: "Device", operation: str, mib: int, precision: str) -> Prepared:
    """Copy and STREAM triad: the memory-bandwidth roof. ``mib`` is the size of one array."""
    import torch

    arrays = ARRAYS[operation]
    make: dict[str, Any] = {
        "dtype": getattr(torch, TORCH_TYPES[precision]),
        "device": device.torch_device,
    }
    generator = torch.Generator(device.torch_device).manual_seed(0)
    elements = mib * MIB // PRECISION_BYTES[precision]
    target = torch.empty(elements, **make)
    # One block over and over: making random numbers takes longer than moving them for a second.
    block = torch.randn(min(elements, BLOCK), generator=generator, **make)
    sources = [block.repeat(elements // len(block)) for _ in range(arrays - 1)]

    def on(target: torch.Tensor, *sources: torch.Tensor) -> Step:
        if operation == "copy":
            return lambda: target.copy_(sources[0])
        # One pass: b + s * c would write s * c to memory and read it back.
        return lambda: torch.add(sources[0], sources[1], alpha=SCALAR, out=target)

    step = on(target, *sources)

    def check() -> None:
        """Hold elements spread over the whole array against float64."""
        target.fill_(float("nan"))
        step()
        spread = slice(None, None, max(1, elements // CHECKED))
        reference, *scaled = (source[spread].double() for source in sources)
        for source in scaled:
            reference += SCALAR * source
        # A copy is exact. A triad rounds the product and the sum, each by at most half of eps
        # times the larger of both, which stays below 32 for standard normal numbers.
        eps = torch.finfo(target.dtype).eps if operation == "triad" else 0.0
        torch.testing.assert_close(target[spread].double(), reference, rtol=0.0, atol=32 * eps)

    def another() -> Step:
        return on(torch.zeros_like(target), *(source.clone() for source in sources))

    return Prepared(step=step, check=check, another=another)
