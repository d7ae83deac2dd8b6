"""A step that is slower by a known share: the same small product, 100, 103 or 110 times."""

from typing import TYPE_CHECKING

from gpubench.workload import Prepared, Work, workload

if TYPE_CHECKING:
    from gpubench.device import Device

SIZE = 256


def work(repeats: int) -> Work:
    """Each product has 2·n³ operations; all of them read the same two matrices."""
    moved = 3 * 4 * SIZE**2
    return Work(flops=2 * SIZE**3 * repeats, bytes=moved, footprint=moved)


@workload(version=1, work=work, cache="hot", repeats=[100, 103, 110])
def repeated_product(device: "Device", repeats: int) -> Prepared:
    """The same product over and over, for a slow-down that is exactly known."""
    import torch

    generator = torch.Generator(device.torch_device).manual_seed(0)
    make = {"generator": generator, "device": device.torch_device}
    left, right = torch.randn(SIZE, SIZE, **make), torch.randn(SIZE, SIZE, **make)
    product = torch.empty_like(left)

    def step() -> torch.Tensor:
        for _ in range(repeats):
            torch.mm(left, right, out=product)
        return product

    def check() -> None:
        torch.testing.assert_close(
            step().double(), left.double() @ right.double(), atol=1e-3, rtol=0
        )

    return Prepared(step=step, check=check)
