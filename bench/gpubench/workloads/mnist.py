"""The classic small CNN on 28×28 images: a step of many short kernels, where launches show.

Layers as in PyTorch's MNIST example (pytorch/examples, mnist/main.py), with SGD and momentum. The
images are made here, not downloaded: ten random class prototypes under noise, which the network
learns within thirty steps of 64.
"""

from typing import TYPE_CHECKING

from gpubench.errors import Unsupported
from gpubench.workload import Prepared, Work, workload
from gpubench.workloads import _training

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

PARAMETERS = (9 * 32 + 32) + (9 * 32 * 64 + 64) + (9216 * 128 + 128) + (128 * 10 + 10)
# Multiply-adds of one image, forward: both convolutions and both linear layers.
FIRST_LAYER = 32 * 26 * 26 * 9
OTHER_LAYERS = 64 * 24 * 24 * 9 * 32 + 9216 * 128 + 128 * 10
# One epoch's worth would only cost memory; this many keep a step from finding its own inputs.
BATCHES = 16
CHECKED_IMAGES = 64


def work(batch: int, precision: str) -> Work:
    """Declared work of one step.

    FLOPs of the products, as torch's FlopCounterMode counts them: a layer's gradients cost twice
    its forward pass, the first layer's half of that, since images need no gradient. ``bytes`` is
    the parameters' and images' traffic alone, a lower bound (see ``parameter_traffic``).
    """
    images = batch * 28 * 28 * 4
    return Work(
        flops=2 * batch * (2 * FIRST_LAYER + 3 * OTHER_LAYERS),
        bytes=_training.parameter_traffic(PARAMETERS, states=1) + images,
        items=batch,
        item="image",
        footprint=(BATCHES + 1) * images
        + _training.footprint(
            PARAMETERS,
            states=1,
            # Nearly all gradients are the first linear layer's, and there before the peak.
            activations=batch * _activations(precision) + 4 * PARAMETERS,
            temporaries=0,
        ),
    )


def _activations(precision: str) -> int:
    """Bytes per image at the peak, in the backward pass of max-pooling or of the ReLU before it.

    Pooling has the outputs of both ReLUs, its own 8-byte indices, and its gradients on both
    sides; the ReLU has them without indices, and its gradients on both sides.
    """
    width = 2 if precision in _training.AUTOCAST else 4
    first, second, pooled = 32 * 26 * 26, 64 * 24 * 24, 64 * 12 * 12
    pooling = width * (first + 2 * second + pooled) + 8 * pooled
    return max(pooling, width * (first + 3 * second))


@workload(
    version=1,
    work=work,
    cache="hot",
    sources=("_training.py",),
    batch=[64, 512, 4096],
    precision=["fp32", "tf32", "fp16", "bf16"],
)
def mnist(device: "Device", batch: int, precision: str) -> Prepared:
    """Training step of the classic MNIST network: convolutions, dropout, SGD with momentum.

    Raises:
        Unsupported: float16 on a CPU.
    """
    import torch
    from torch import nn

    if precision == "fp16" and device.info.backend == "cpu":
        raise Unsupported(
            "torch has no fast float16 convolutions on a CPU: "
            "this step takes about 90 times as long as in fp32"
        )
    torch.manual_seed(_training.SEED)  # of weights and dropout
    with torch.device(device.torch_device):
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(9216, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )
    *batches, held_out = _digits(device.torch_device, batch, BATCHES + 1)
    # Layers and loss round one after the other. The longest sum is that of the first linear
    # layer; in the backward pass it is that of the first kernel's gradient. Three ReLUs and the
    # pooling have kinks, and sums of at most 9·32 terms before them where it matters.
    images = min(batch, CHECKED_IMAGES)
    forward = _training.rounding_tolerance(precision, roundings=7, reduction=9216)
    backward = _training.rounding_tolerance(precision, roundings=14, reduction=images * 26 * 26)
    kinks = _training.kink_tolerance(precision, kinks=4, reduction=9 * 32)
    return _training.Training(
        device=device,
        precision=precision,
        model=model,
        batches=batches,
        loss=lambda model, images, labels: nn.functional.cross_entropy(model(images), labels),
        logits=lambda model, images: model(images),
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        probes=("0.weight", "2.weight", "7.weight", "10.bias"),
        checked_items=CHECKED_IMAGES,
        tolerance=forward,
        gradient_tolerance=backward + kinks,
        held_out=held_out,
    ).prepared()


def _digits(torch_device: str, batch: int, count: int) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Images (batch, 1, 28, 28) of mean 0 and variance 1, and their labels, ``count`` times."""
    import torch

    generator = torch.Generator(torch_device).manual_seed(_training.SEED)
    # Blocks of 4×4 equal pixels: pooling would lose a finer pattern.
    blocks = torch.randn(10, 1, 7, 7, generator=generator, device=torch_device)
    prototypes = blocks.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)

    def digits() -> "tuple[torch.Tensor, torch.Tensor]":
        labels = torch.randint(10, (batch,), generator=generator, device=torch_device)
        noise = torch.randn(batch, 1, 28, 28, generator=generator, device=torch_device)
        return (prototypes[labels] + 2 * noise) / 5**0.5, labels

    return [digits() for _ in range(count)]
