"""Steps that never change: timed beside others, they tell whether the machine itself did."""

from collections.abc import Callable

# A few milliseconds on a processor; on a card enough work to be more than a launch.
SIDE = 1024
COPIED_BYTES = 64 * 2**20


def steps(torch_device: str) -> dict[str, Callable[[], object]]:
    """A product that waits for arithmetic and a copy that waits for memory, both in float32."""
    import torch

    # Said, not left to torch's default, which is its user's to change.
    fixed = {"dtype": torch.float32, "device": torch_device}
    factor = torch.full((SIDE, SIDE), 1 / SIDE, **fixed)
    product = torch.empty_like(factor)
    source = torch.ones(COPIED_BYTES // 4, **fixed)
    target = torch.empty_like(source)
    return {
        "a matrix product": lambda: torch.mm(factor, factor, out=product),
        "a copy": lambda: target.copy_(source),
    }
