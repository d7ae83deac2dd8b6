"""General matrix product: the compute roof of a device."""

from typing import TYPE_CHECKING, Any

from gpubench.errors import Unsupported, UsageError
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Step, Work, workload

if TYPE_CHECKING:
    from gpubench.device import Device

SQUARES = tuple(f"{n}x{n}x{n}" for n in (512, 1024, 2048, 4096, 8192, 16384))

# M is 4096 tokens, such as 8 sequences of 512; N and K are the widths of the layer's output and
# input. BERT: hidden 768 and 1024, feed-forward four times that (Devlin et al. 2019, section 3).
# Llama 3 8B: hidden 4096, feed-forward 14336, 8 key-value heads of 128 beside 32 query heads
# (Grattafiori et al. 2024, table 3); its fused query-key-value product is 6144 wide.
TRANSFORMER_LAYERS = (
    "4096x768x768",  # BERT-base, attention projection
    "4096x3072x768",  # BERT-base, feed-forward up
    "4096x768x3072",  # BERT-base, feed-forward down
    "4096x1024x1024",  # BERT-large, attention projection
    "4096x4096x1024",  # BERT-large, feed-forward up
    "4096x1024x4096",  # BERT-large, feed-forward down
    "4096x6144x4096",  # Llama 3 8B, query, key and value together
    "4096x14336x4096",  # Llama 3 8B, feed-forward gate or up
    "4096x4096x14336",  # Llama 3 8B, feed-forward down
)

# Rows and columns that the check looks at: at 16384 one in each tile of 64 × 64.
CHECKED = 256

# Where oneDNN knows no FP16, torch falls back to a plain loop. Seen with oneDNN switched off: 65
# times the time of FP32 at 256, 110 times at 512, and the ratio goes on growing. On the same
# processor, which has AVX512-FP16, oneDNN took 1.4 and 1.0 times that of FP32.
HALF_LIMIT = 256


def parse_shape(shape: str) -> tuple[int, int, int]:
    """``"MxNxK"`` → (M, N, K): an M × K matrix times a K × N one.

    Raises:
        UsageError: it is not three positive whole numbers.
    """
    sizes = str(shape).split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise UsageError(
            f"{shape!r} is no shape of a matrix product",
            "write MxNxK in positive whole numbers, such as 4096x3072x768 for a 4096 × 768 "
            "matrix times a 768 × 3072 one",
        )
    M, N, K = map(int, sizes)
    return M, N, K


def work(shape: str, precision: str) -> Work:
    """2·M·N·K operations: a multiplication and an addition for each term of each inner product."""
    M, N, K = parse_shape(shape)
    moved = (M * K + K * N + M * N) * PRECISION_BYTES[precision]
    checked = (min(M, CHECKED) + min(N, CHECKED)) * K * 8
    return Work(flops=2 * M * N * K, bytes=moved, footprint=moved + checked)


@workload(
    version=1,
    work=work,
    shape=SQUARES + TRANSFORMER_LAYERS,
    precision=["fp32", "tf32", "fp16", "bf16", "fp64"],
)
def gemm(device: "Device", shape: str, precision: str) -> Prepared:
    """General matrix product: the compute roof.

    Raises:
        UsageError: the shape is malformed.
        Unsupported: fp16 on a CPU for which torch has no fast product.
    """
    import torch

    M, N, K = parse_shape(shape)
    slow_half = device.info.backend == "cpu" and precision == "fp16" and not _has_fast_half()
    if slow_half and max(M, N, K) > HALF_LIMIT:
        raise Unsupported(
            "torch has no fast fp16 product for this processor: it takes some 65 times as long as "
            f"fp32 at {HALF_LIMIT}, 110 times at {2 * HALF_LIMIT} and longer still beyond"
        )
    generator = torch.Generator(device.torch_device).manual_seed(0)
    make: dict[str, Any] = {
        "dtype": getattr(torch, TORCH_TYPES[precision]),
        "device": device.torch_device,
    }
    left = torch.randn(M, K, generator=generator, **make)
    right = torch.randn(K, N, generator=generator, **make)
    product = torch.empty(M, N, **make)

    def on(*tensors: torch.Tensor) -> Step:
        a, b, out = tensors
        return lambda: torch.mm(a, b, out=out)

    step = on(left, right, product)

    def check() -> None:
        """Hold rows and columns spread over the whole result against float64."""
        product.fill_(float("nan"))
        step()
        rows = torch.linspace(0, M - 1, min(M, CHECKED), device=device.torch_device).long()
        columns = torch.linspace(0, N - 1, min(N, CHECKED), device=device.torch_device).long()
        reference = left[rows].double() @ right[:, columns].double()
        result = product[rows][:, columns].double()
        torch.testing.assert_close(result, reference, **tolerance(precision, K))

    def another() -> Step:
        return on(left.clone(), right.clone(), torch.zeros_like(product))

    return Prepared(step=step, check=check, another=another)


def tolerance(precision: str, length: int) -> dict[str, float]:
    """What rounding may do to an inner product of two standard normal vectors of this length.

    The terms add up to about √length, and each addition rounds by at most the unit roundoff u
    times the sum so far. FP32 and FP64 units round to nearest, so that the errors walk at random
    and reach u·length (Higham and Mary 2019, doi:10.1137/18M1226312); eight times that is beyond
    chance, and still below what TF32 does to FP32 data. Tensor cores cut off instead of rounding
    (Fasi et al. 2021, doi:10.7717/peerj-cs.330), so that errors add up to u·length·√length. TF32
    rounds its inputs first, by 2⁻¹¹ each; FP16 and BF16 round the result.
    """
    if precision in ("fp32", "fp64"):
        unit = {"fp32": 2**-24, "fp64": 2**-53}[precision]
        # The float64 reference errs as much as an FP64 result. Short sums may by chance be
        # several times √length, hence the + 8.
        return {"rtol": 0.0, "atol": 8 * (unit + 2**-53) * (length + 8)}
    atol = 2**-23 * length**1.5
    if precision == "tf32":
        return {"rtol": 0.0, "atol": atol + 8 * 2**-11 * (length**0.5 + 4)}
    return {"rtol": {"fp16": 2**-10, "bf16": 2**-7}[precision], "atol": atol}


def _has_fast_half() -> bool:
    """Whether oneDNN, which torch leaves FP16 products on a CPU to, knows FP16 on this one."""
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())  # noqa: SLF001 - no public name
    except AttributeError:  # a torch without oneDNN
        return False
