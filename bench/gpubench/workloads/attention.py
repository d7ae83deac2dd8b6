"""Scaled dot-product attention, through torch's own choice of kernel."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gpubench.errors import unknown_name
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Step, Work, workload

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

DIRECTIONS = ("forward", "forward_backward")
# Rows of the score matrix that the check holds at a time, and the tiles it judges.
BLOCK = 512
TILE = 64

# The operator that torch dispatched, and the name in torch.nn.attention.SDPBackend that it
# belongs to. The math path has no operator of its own; its softmax gives it away.
KERNELS = {
    "_scaled_dot_product_flash_attention": "flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu": "flash_attention",
    "_scaled_dot_product_efficient_attention": "efficient_attention",
    "_scaled_dot_product_cudnn_attention": "cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable": "overrideable",
    "_safe_softmax": "math",
    "_softmax": "math",
}


def work(
    batch: int,
    heads: int,
    sequence: int,
    head_dim: int,
    causal: bool,  # noqa: FBT001 - an axis like the others
    direction: str,
    precision: str,
) -> Work:
    """Operations as FlashAttention's benchmarks count them, whichever kernel runs.

    Forward: two products per head, Q·Kᵀ and P·V, make 4·batch·heads·sequence²·head_dim. Backward
    has five, since a fused kernel computes the scores again, 2.5 times forward; both together
    3.5. A causal mask counts half. The softmax is left out. (Dao 2023, arXiv:2307.08691,
    section 4.1; torch's FlopCounterMode agrees but does not halve for the mask.)
    """
    if direction not in DIRECTIONS:
        raise unknown_name("direction", direction, DIRECTIONS)
    backward = direction == "forward_backward"
    flops = 4 * batch * heads * sequence**2 * head_dim * (3.5 if backward else 1)
    # q, k, v and the result; backward as many gradients. Scores need not reach memory.
    moved = 4 * batch * heads * sequence * head_dim * PRECISION_BYTES[precision]
    moved *= 2 if backward else 1
    checked = 8 * sequence * (4 * min(sequence, BLOCK) + 10 * head_dim)
    return Work(flops=flops / (2 if causal else 1), bytes=moved, footprint=1.5 * moved + checked)


@workload(
    version=1,
    work=work,
    batch=[4],
    heads=[16],
    sequence=[512, 1024, 2048, 4096, 8192],
    head_dim=[64, 128],
    causal=[False, True],
    direction=DIRECTIONS,
    # No tf32: the kernels that take FP32 data ignore the mode.
    precision=["fp32", "fp16", "bf16"],
)
def attention(
    device: "Device",
    batch: int,
    heads: int,
    sequence: int,
    head_dim: int,
    causal: bool,  # noqa: FBT001 - an axis like the others
    direction: str,
    precision: str,
) -> Prepared:
    """Scaled dot-product attention, with the kernel that torch chooses for it."""
    import torch

    generator = torch.Generator(device.torch_device).manual_seed(0)
    backward = direction == "forward_backward"

    def make() -> torch.Tensor:
        return torch.randn(
            batch,
            heads,
            sequence,
            head_dim,
            generator=generator,
            dtype=getattr(torch, TORCH_TYPES[precision]),
            device=device.torch_device,
        )

    inputs = tuple(make().requires_grad_(backward) for _ in range(3))
    upstream = make()

    forward, step = _steps_on(inputs, upstream, causal=causal, backward=backward)
    notes: dict[str, str] = {}

    def check() -> None:
        """Hold the first and the last head against float64, and note the kernel."""
        # Not sooner: the first step, which pays for loading kernels, is timed by the caller.
        if kernel := _kernel_of(forward):
            notes["sdpa_kernel"] = kernel
            if kernel == "efficient_attention" and precision == "fp32":
                notes["arithmetic"] = _efficient_arithmetic(device)
        results = step() if backward else (step(),)
        for index in {(0, 0), (batch - 1, heads - 1)}:
            head = [tensor[index].detach().double() for tensor in (*inputs, upstream)]
            expected = _reference(*head, causal=causal)
            names = ("result", "query gradient", "key gradient", "value gradient")
            for name, whole, right in zip(names, results, expected, strict=False):
                _compare(name, whole[index].detach().double(), right, precision)

    def another() -> Step:
        copies = tuple(tensor.detach().clone().requires_grad_(backward) for tensor in inputs)
        return _steps_on(copies, upstream.clone(), causal=causal, backward=backward)[1]

    return Prepared(step=step, check=check, another=another, notes=notes)


def _steps_on(
    inputs: "tuple[torch.Tensor, ...]", upstream: "torch.Tensor", *, causal: bool, backward: bool
) -> tuple[Step, Step]:
    """The forward pass on these tensors, and what is timed: that, or forward and backward."""
    import torch

    def forward() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal)

    def forward_backward() -> tuple[torch.Tensor, ...]:
        result = forward()
        return result, *torch.autograd.grad(result, inputs, upstream)

    return forward, forward_backward if backward else forward


def _efficient_arithmetic(device: "Device") -> str:
    """What the efficient kernel computes FP32 products with.

    On tensor cores that know TF32 it adds up three TF32 products each (CUTLASS's
    OpMultiplyAddFastF32, in torch's mem_eff_attention/gemm_kernel_utils.h), whatever the mode.
    """
    major = int((device.info.compute_capability or "0").partition(".")[0])
    return "3xTF32" if major >= 8 else "FP32"


def _kernel_of(call: Callable[[], object]) -> str | None:
    """Which kernel ran, by the operators that torch dispatched; None if it can't be told."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Observer(TorchDispatchMode):
        def __torch_dispatch__(
            self,
            func: Any,
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Observer():
        call()
    found = {KERNELS[name] for name in seen if name in KERNELS}
    return found.pop() if len(found) == 1 else None


def _reference(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    upstream: "torch.Tensor",
    *,
    causal: bool,
) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]":
    """Attention of one head and its gradients, in the float64 of its arguments.

    All are sequence × head_dim. With P = softmax(Q·Kᵀ·scale) and O = P·V the gradients are
    dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ - rowsum(dO ∘ O)), dQ = dS·K·scale and dK = dSᵀ·Q·scale (Dao et
    al. 2022, arXiv:2205.14135, appendix B.2), taken over blocks of rows to save memory.
    """
    import torch

    scale = query.shape[1] ** -0.5
    results, query_gradients = [], []
    key_gradient, value_gradient = torch.zeros_like(key), torch.zeros_like(value)
    for start in range(0, len(query), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = query[rows] @ key.T * scale
        if causal:
            future = torch.ones_like(scores, dtype=torch.bool).triu(start + 1)
            scores.masked_fill_(future, float("-inf"))
        weights = scores.softmax(dim=1)
        result = weights @ value
        shift = (upstream[rows] * result).sum(dim=1, keepdim=True)
        slope = weights * (upstream[rows] @ value.T - shift)
        results.append(result)
        query_gradients.append(slope @ key * scale)
        key_gradient += slope.T @ query[rows] * scale
        value_gradient += weights.T @ upstream[rows]
    return torch.cat(results), torch.cat(query_gradients), key_gradient, value_gradient


def _compare(name: str, result: "torch.Tensor", expected: "torch.Tensor", precision: str) -> None:
    """Compare tile by tile, by the norm of the error relative to the norm of what is right.

    Rows differ a lot in size (under a causal mask the first are averages of few values), so one
    tolerance for all elements would be too wide for most. Relative to its tile an error is that
    of the formats: the weights, the scores' gradient and the result are rounded once each in FP16
    and BF16, by u = 2⁻¹¹ and 2⁻⁸; TF32 rounds what enters the products, by 2⁻¹¹. Eight roundings
    are allowed. In FP32 the approximate exponential dominates, at 2⁻²⁰.
    """
    import torch

    rounding = {"fp64": 2**-20, "fp32": 2**-20, "tf32": 2**-11, "fp16": 2**-11, "bf16": 2**-8}
    errors = [
        (tile - right).norm() / right.norm()
        for tile, right in zip(result.split(TILE), expected.split(TILE), strict=True)
    ]
    torch.testing.assert_close(
        torch.stack(errors),
        torch.zeros(len(errors), dtype=torch.float64, device=result.device),
        rtol=0.0,
        atol=8 * rounding[precision],
        msg=lambda text: f"{name}: relative error of tiles of {TILE} rows: {text}",
    )
