"""Convolutions of ResNet-50, one layer at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpubench.errors import Unsupported, UsageError, unknown_name
from gpubench.workload import PRECISION_BYTES, TORCH_TYPES, Prepared, Step, Work, workload

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device


@dataclass(frozen=True)
class Layer:
    """A convolution without bias, padded so that stride 1 keeps the size.

    Attributes:
        inputs: input channels.
        outputs: output channels.
        size: height and width of the input, in pixels.
        kernel: height and width of the kernel.
        stride: step between two outputs.
    """

    inputs: int
    outputs: int
    size: int
    kernel: int
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.kernel // 2

    @property
    def output_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1


# He et al. 2016 (arXiv:1512.03385), table 1, for images of 224 × 224. Every block of a stage has
# these three shapes but the first, which takes a narrower input and, from stage 3 on, halves it.
LAYERS = {
    "conv1": Layer(3, 64, 224, 7, 2),
    "conv2_reduce": Layer(256, 64, 56, 1),
    "conv2_3x3": Layer(64, 64, 56, 3),
    "conv2_expand": Layer(64, 256, 56, 1),
    "conv3_shortcut": Layer(256, 512, 56, 1, 2),
    "conv3_reduce": Layer(512, 128, 28, 1),
    "conv3_3x3": Layer(128, 128, 28, 3),
    "conv3_expand": Layer(128, 512, 28, 1),
    "conv4_reduce": Layer(1024, 256, 14, 1),
    "conv4_3x3": Layer(256, 256, 14, 3),
    "conv4_expand": Layer(256, 1024, 14, 1),
    "conv5_reduce": Layer(2048, 512, 7, 1),
    "conv5_3x3": Layer(512, 512, 7, 3),
    "conv5_expand": Layer(512, 2048, 7, 1),
}
LAYOUTS = ("contiguous", "channels_last")
DIRECTIONS = ("forward", "forward_backward")
# Output channels whose weight gradient the check computes.
CHECKED = 8


def find_layer(layer: str) -> Layer:
    """The layer of that name.

    Raises:
        UsageError: the table has none.
    """
    if layer not in LAYERS:
        raise UsageError(f"ResNet-50 has no layer {layer!r}", f"known: {', '.join(LAYERS)}")
    return LAYERS[layer]


def work(layer: str, batch: int, direction: str, layout: str, precision: str) -> Work:
    """2·batch·outputs·height·width·inputs·kernel² operations, as for the product it unrolls to.

    The gradients of input and weight are convolutions of the same cost, so a backward pass is two
    forward ones. Input gradients count for conv1 too, which a network would not need: here a
    layer stands for any in the midst of one. Terms that meet padding count, as in torch's
    FlopCounterMode; an algorithm that needs fewer operations (Winograd, FFT) seems faster.
    """
    for kind, name, known in (("direction", direction, DIRECTIONS), ("layout", layout, LAYOUTS)):
        if name not in known:
            raise unknown_name(kind, name, known)
    shape = find_layer(layer)
    passes, copies = (1, 1) if direction == "forward" else (3, 2)
    pixels = batch * shape.output_size**2
    weights = shape.outputs * shape.inputs * shape.kernel**2
    values = batch * shape.inputs * shape.size**2 + weights + pixels * shape.outputs
    # Backward reads a gradient the size of the output and writes those of input and weight.
    moved = copies * values * PRECISION_BYTES[precision]
    unrolled = shape.inputs * shape.kernel**2 * shape.output_size**2 * 8
    return Work(
        flops=passes * 2 * pixels * weights,
        bytes=moved,
        footprint=moved + 2 * unrolled,
    )


@workload(
    version=1,
    work=work,
    layer=tuple(LAYERS),
    batch=[32],
    direction=DIRECTIONS,
    layout=LAYOUTS,
    precision=["fp32", "tf32", "fp16", "bf16"],
)
def conv2d(
    device: "Device", layer: str, batch: int, direction: str, layout: str, precision: str
) -> Prepared:
    """Convolution layers of ResNet-50, forward or with both gradients.

    Raises:
        Unsupported: fp16 gradients on a CPU.
    """
    import torch

    shape = find_layer(layer)
    if device.info.backend == "cpu" and precision == "fp16" and direction == "forward_backward":
        # oneDNN has none for want of AMX-FP16, and torch falls back to a plain loop. Seen on a
        # processor with AVX512-FP16, whose forward convolutions are as fast as in FP32.
        raise Unsupported(
            "torch has no fast fp16 gradients of convolutions on a CPU: a layer takes 20 to 120 "
            "times as long as in fp32"
        )
    generator = torch.Generator(device.torch_device).manual_seed(0)
    backward = direction == "forward_backward"
    memory_format = {
        "contiguous": torch.contiguous_format,
        "channels_last": torch.channels_last,
    }[layout]

    def make(*sizes: int) -> torch.Tensor:
        values = torch.randn(
            sizes,
            generator=generator,
            dtype=getattr(torch, TORCH_TYPES[precision]),
            device=device.torch_device,
        )
        return values.contiguous(memory_format=memory_format)

    images = make(batch, shape.inputs, shape.size, shape.size).requires_grad_(backward)
    weight = make(shape.outputs, shape.inputs, shape.kernel, shape.kernel).requires_grad_(backward)
    upstream = make(batch, shape.outputs, shape.output_size, shape.output_size)

    step = _step_on(shape, images, weight, upstream, backward=backward)

    def check() -> None:
        result, *gradients = step() if backward else (step(),)
        _check_images(shape, images, weight, upstream, (result, *gradients[:1]), precision)
        if backward:
            _check_weight(shape, images, upstream, gradients[1], precision)

    def another() -> Step:
        inputs, filters = (
            tensor.detach().clone().requires_grad_(backward) for tensor in (images, weight)
        )
        return _step_on(shape, inputs, filters, upstream.clone(), backward=backward)

    # Which needs fewer operations than are declared, and may be beyond the peak by those.
    notes = {"algorithm": "may be Winograd"} if shape.kernel == 3 else {}
    return Prepared(step=step, check=check, another=another, notes=notes)


def _step_on(
    shape: Layer,
    images: "torch.Tensor",
    weight: "torch.Tensor",
    upstream: "torch.Tensor",
    *,
    backward: bool,
) -> Step:
    """The forward pass on these tensors, or forward and backward."""
    import torch

    def forward() -> torch.Tensor:
        return torch.nn.functional.conv2d(
            images, weight, stride=shape.stride, padding=shape.padding
        )

    def forward_backward() -> tuple[torch.Tensor, ...]:
        result = forward()
        return result, *torch.autograd.grad(result, (images, weight), upstream)

    return forward_backward if backward else forward


def _check_images(
    shape: Layer,
    images: "torch.Tensor",
    weight: "torch.Tensor",
    upstream: "torch.Tensor",
    results: tuple["torch.Tensor", ...],
    precision: str,
) -> None:
    """Hold output and input gradient of the first and last image against float64.

    The reference unrolls each image to a matrix, one column for what each output sees, so it
    shares no convolution code with the step.
    """
    import torch

    matrix = weight.detach().double().flatten(1)
    for index in {0, len(images) - 1}:
        columns = _unroll(shape, images[index : index + 1])[0]
        pixels = (shape.outputs, shape.output_size, shape.output_size)
        expected = (matrix @ columns).view(pixels)
        _compare(results[0][index], expected, precision, shape.inputs * shape.kernel**2)
        for gradient in results[1:]:
            spread = matrix.T @ upstream[index].double().flatten(1)
            folded = torch.nn.functional.fold(
                spread,
                (shape.size, shape.size),
                shape.kernel,
                padding=shape.padding,
                stride=shape.stride,
            )
            _compare(gradient[index], folded, precision, shape.outputs * shape.kernel**2)


def _check_weight(
    shape: Layer,
    images: "torch.Tensor",
    upstream: "torch.Tensor",
    gradient: "torch.Tensor",
    precision: str,
) -> None:
    """Hold the weight gradient of some output channels, a sum over all images, against float64."""
    import torch

    channels = torch.linspace(0, shape.outputs - 1, CHECKED, device=images.device).long()
    expected = torch.zeros_like(gradient[channels], dtype=torch.float64).flatten(1)
    for index in range(len(images)):
        columns = _unroll(shape, images[index : index + 1])[0]
        expected += upstream[index, channels].double().flatten(1) @ columns.T
    length = len(images) * shape.output_size**2
    _compare(gradient[channels], expected.view_as(gradient[channels]), precision, length)


def _unroll(shape: Layer, images: "torch.Tensor") -> "torch.Tensor":
    """Images as float64 matrices of (inputs · kernel²) × (output pixels)."""
    import torch

    return torch.nn.functional.unfold(
        images.detach().double(), shape.kernel, padding=shape.padding, stride=shape.stride
    )


def _compare(result: "torch.Tensor", expected: "torch.Tensor", precision: str, length: int) -> None:
    """Compare sums of ``length`` products of standard normal numbers, about √length in size.

    An FP32 sum errs by about u·length in a random walk of roundings (Higham and Mary 2019); the
    Winograd transforms of a 3 × 3 kernel lose a digit on top of that (Lavin and Gray 2016,
    arXiv:1509.09308), so twenty times as much is allowed, and 2⁻²⁰·√length for short sums. Tensor
    cores cut off, which adds up to u·length·√length. TF32 rounds its inputs by 2⁻¹¹. FP16 and
    BF16 round the result, and parts of it where the sum is split, by u·√length eight times over.
    """
    import torch

    typical = length**0.5
    if precision in ("fp32", "fp64"):
        unit = {"fp32": 2**-24, "fp64": 2**-53}[precision]
        atol = unit * (20 * 8 * length + 16 * typical)
    else:
        rounding = {"tf32": 2**-11, "fp16": 2**-11, "bf16": 2**-8}[precision]
        atol = 8 * rounding * typical + 2**-23 * length * typical
    torch.testing.assert_close(result.detach().double(), expected, rtol=0.0, atol=atol)
