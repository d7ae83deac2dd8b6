"""One training step as users write it, and its check against float64; mnist.py and bert.py use it.

Mixed precision follows PyTorch's recipe: weights, gradients and optimizer in float32, the forward
pass under ``torch.autocast``, and for float16 alone a GradScaler, since bfloat16 has float32's
range. Optimizers run as torch chooses by itself: ``foreach`` on CUDA, one parameter after the other
on a CPU.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from gpubench.errors import WrongResult
from gpubench.workload import Prepared

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

    Batch = tuple[torch.Tensor, torch.Tensor]

SEED = 20_240_607
# Largest relative error of rounding to nearest: 2^-p for a significand of p bits.
ROUNDING = {"fp64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
AUTOCAST = {"fp16": "float16", "bf16": "bfloat16"}
# GradScaler starts at 2^16 and halves while gradients overflow; below 1 it is no remedy any more.
MOST_HALVINGS = 17


@dataclass
class Training:
    """A model in training; ``step`` is what is timed.

    Attributes:
        model: float32 weights on the device, in training mode.
        batches: (inputs, labels) pairs on the device; steps take them in turn.
        loss: the scalar to minimise, as the model's users compute it.
        logits: the model's output, (items, classes), from which the check computes its own loss.
        make_optimizer: the optimizer of the parameters given; the check makes a second one.
        probes: names of the parameters whose gradient and update are checked.
        reference_items: how many items of a batch the check recomputes in float64.
        roundings: how many rounded operations follow one another in forward and backward.
        reduction: longest sum in a product, forward or backward, over ``reference_items``.
        held_out: a batch that is never trained on, for ``accuracy``.
    """

    device: "Device"
    precision: str
    model: "torch.nn.Module"
    batches: "Sequence[Batch]"
    loss: "Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]"
    logits: "Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]"
    make_optimizer: "Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]"
    probes: Sequence[str]
    reference_items: int
    roundings: int
    reduction: int
    held_out: "Batch | None" = None

    def __post_init__(self) -> None:
        import torch

        self.optimizer = self.make_optimizer(self.model.parameters())
        self.device_type = torch.device(self.device.torch_device).type
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.precision == "fp16")
        self.last_loss = torch.tensor(math.nan)
        self._upcoming = cycle(self.batches)

    def prepared(self, notes: Mapping[str, str]) -> Prepared:
        """What the workload returns."""
        return Prepared(step=self.step, check=self.check, notes=notes, outcome=self.outcome)

    def autocast(self) -> "torch.autocast":
        """Low precision where the axis asks for it; float32 and TF32 are the device's mode."""
        import torch

        name = AUTOCAST.get(self.precision)
        return torch.autocast(
            self.device_type, dtype=getattr(torch, name) if name else None, enabled=bool(name)
        )

    def step(self) -> None:
        """Train on the next batch."""
        self.train_on(*next(self._upcoming))

    def train_on(self, inputs: "torch.Tensor", labels: "torch.Tensor") -> None:
        """One optimizer step.

        Nothing here waits for the device, but for GradScaler: with any optimizer that is not
        fused it reads back whether gradients overflowed, as it does for everybody.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.loss(self.model, inputs, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.last_loss = loss.detach()

    def check(self) -> None:
        """One step with dropout off on a few items, held against float64 on the processor.

        Loss and gradients are recomputed from the same weights; the update is recomputed from the
        device's own gradients, so that it is held to float32 whatever the products' precision.
        The processor keeps the second model out of the device's peak memory.

        Raises:
            AssertionError: the loss, or a probe's gradient or update, differs.
        """
        import torch

        inputs, labels = (part[: self.reference_items] for part in self.batches[0])
        before = _float64_twin(self.model)
        parameters = {name: self.model.get_parameter(name) for name in self.probes}
        expected = {name: before.get_parameter(name) for name in self.probes}
        loss = negative_log_likelihood(self.logits(before, inputs.cpu()), labels.cpu())
        gradients = torch.autograd.grad(loss, list(expected.values()), allow_unused=True)
        optimizer = self._twin_optimizer(parameters, expected)

        self.model.eval()
        try:
            self._step_without_overflow(inputs, labels)
        finally:
            self.model.train()

        tolerance = gradient_tolerance(self.precision, self.roundings, self.reduction)
        _assert_near("loss", self.last_loss, loss.detach(), tolerance * max(1.0, float(loss)))
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            if parameter.grad is None or gradient is None:
                raise AssertionError(f"{name} has no gradient")
            scale = float(gradient.abs().max())
            _assert_near(f"gradient of {name}", parameter.grad, gradient, tolerance * scale)
        old = {name: parameter.detach().clone() for name, parameter in expected.items()}
        for name, parameter in parameters.items():
            expected[name].grad = parameter.grad.to("cpu", torch.float64)
        optimizer.step()
        for name, parameter in parameters.items():
            moved = float((expected[name] - old[name]).abs().max())
            if moved == 0:
                raise AssertionError(f"the optimizer should move {name}, and does not")
            # The weight itself is rounded to float32 after its change was added.
            rounding = ROUNDING["fp32"] * float(old[name].abs().max())
            bound = 2 * rounding + 1e-3 * moved
            _assert_near(f"update of {name}", parameter, expected[name].detach(), bound)
