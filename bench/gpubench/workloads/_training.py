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
AUTOCAST = {"fp16": "float16", "bf16": "bfloat16"}
# Largest relative error of rounding to nearest: 2^-p for a significand of p bits.
ROUNDING = {"fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
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
        checked_items: how many items of a batch the check recomputes in float64.
        tolerance: relative error that the check allows the loss, see ``rounding_tolerance``.
        gradient_tolerance: the same for gradients, which kinks in the model make less exact.
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
    checked_items: int
    tolerance: float
    gradient_tolerance: float
    held_out: "Batch | None" = None

    def __post_init__(self) -> None:
        import torch

        self.optimizer = self.make_optimizer(self.model.parameters())
        self.device_type = torch.device(self.device.torch_device).type
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.precision == "fp16")
        self.last_loss = torch.tensor(math.nan)
        self._upcoming = cycle(self.batches)

    def prepared(self, **notes: str) -> Prepared:
        """What the workload returns."""
        way = "foreach" if self.device_type == "cuda" else "one parameter at a time"
        notes["optimizer"] = f"{type(self.optimizer).__name__}, {way}"
        return Prepared(
            step=self.step,
            check=self.check,
            notes=notes,
            waits=self.scaler.is_enabled(),
            outcome=self.outcome,
        )

    def autocast(self) -> "torch.autocast":
        """Low precision where the axis asks for it; float32 and TF32 are the device's mode."""
        import torch

        name = AUTOCAST.get(self.precision)
        low = getattr(torch, name) if name else None
        return torch.autocast(self.device_type, dtype=low, enabled=low is not None)

    def step(self) -> None:
        """Train on the next batch."""
        self.train_on(*next(self._upcoming))

    def train_on(self, inputs: "torch.Tensor", labels: "torch.Tensor") -> None:
        """One optimizer step.

        Nothing here waits for the device but GradScaler: it reads back whether gradients
        overflowed, as it does for everybody whose optimizer isn't fused (pytorch issue 80167).
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

        Raises:
            AssertionError: the loss, or a probe's gradient or update, differs.
        """
        inputs, labels = (part[: self.checked_items] for part in self.batches[0])
        reference = _Reference(self, inputs, labels)
        self.model.eval()
        try:
            self._step_without_overflow(inputs, labels)
        finally:
            self.model.train()
        reference.compare_loss_and_gradients(self)
        reference.compare_update(self)

    def outcome(self) -> Mapping[str, float]:
        """Loss of the last step and, where a batch was held out, the accuracy on it.

        Raises:
            WrongResult: the training diverged, so what was timed is arithmetic on NaN.
        """
        import torch

        loss = float(self.last_loss)
        if not math.isfinite(loss):
            raise WrongResult(f"the training diverged: its loss is {loss} after the last step")
        if self.held_out is None:
            return {"loss": loss}
        inputs, labels = self.held_out
        self.model.eval()
        with torch.no_grad(), self.autocast():
            right = self.logits(self.model, inputs).argmax(1) == labels
        self.model.train()
        return {"loss": loss, "accuracy": float(right.double().mean())}

    def _step_without_overflow(self, inputs: "torch.Tensor", labels: "torch.Tensor") -> None:
        """Step until GradScaler has found a scale that it doesn't skip the update at."""
        for _ in range(MOST_HALVINGS):
            scale = self.scaler.get_scale()
            self.train_on(inputs, labels)
            if self.scaler.get_scale() >= scale:
                return
        raise AssertionError("the gradients overflow float16 at every loss scale")


class _Reference:
    """A twin of the model and its optimizer in float64, made before the step that is checked.

    It lives on the processor: other kernels than the device's, and none of the device's memory,
    whose peak belongs to the step. Its gradients are of the probes alone.
    """

    def __init__(self, training: Training, inputs: "torch.Tensor", labels: "torch.Tensor") -> None:
        import torch

        model = _float64_twin(training.model).eval()
        self.weights = [model.get_parameter(name) for name in training.probes]
        self.old = [weight.detach().clone() for weight in self.weights]
        loss = negative_log_likelihood(training.logits(model, _to_float64(inputs)), labels.cpu())
        self.gradients = torch.autograd.grad(loss, self.weights)
        self.loss = loss.detach()
        self.optimizer = training.make_optimizer(self.weights)
        for name, weight in zip(training.probes, self.weights, strict=True):
            state = training.optimizer.state.get(training.model.get_parameter(name), {})
            self.optimizer.state[weight] = {key: _to_float64(value) for key, value in state.items()}

    def compare_loss_and_gradients(self, training: Training) -> None:
        """Against the step just done; a gradient's error is its distance, relative to its norm.

        Norms, since one element may be all noise: at an activation near a kink of ReLU or
        max-pooling a rounding sends the gradient elsewhere.
        """
        allowed = training.tolerance * max(1.0, float(self.loss))
        _assert_near("loss", training.last_loss, self.loss, allowed)
        for name, expected in zip(training.probes, self.gradients, strict=True):
            gradient = training.model.get_parameter(name).grad
            if gradient is None:
                raise AssertionError(f"{name} has no gradient")
            error = (_to_float64(gradient) - expected).norm() / expected.norm()
            what = f"relative error of the gradient of {name}"
            _assert_near(what, error, error.new_zeros(()), training.gradient_tolerance)

    def compare_update(self, training: Training) -> None:
        """The probes' new weights, from the gradients that the device had.

        Taking those makes the update comparable at float32's precision whatever the products'
        is: AdamW's first steps are little more than the sign of a gradient, which may be noise.
        """
        parameters = [training.model.get_parameter(name) for name in training.probes]
        for weight, parameter in zip(self.weights, parameters, strict=True):
            weight.grad = _to_float64(parameter.grad)
        self.optimizer.step()
        for name, parameter, weight, old in zip(
            training.probes, parameters, self.weights, self.old, strict=True
        ):
            change = float((weight.detach() - old).abs().max())
            if change == 0:
                raise AssertionError(f"{name} is not trained: its update is zero")
            # The new weight is rounded to float32; the change itself is short of a thousandth.
            bound = 1e-3 * change + 2 * ROUNDING["fp32"] * float(old.abs().max())
            _assert_near(f"updated {name}", parameter, weight, bound)


def negative_log_likelihood(logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Mean cross-entropy of ``logits`` (items, classes), sharing no code with torch's losses."""
    return (logits.logsumexp(1) - logits.gather(1, labels[:, None]).squeeze(1)).mean()


def rounding_tolerance(precision: str, roundings: int, reduction: int) -> float:
    """Relative error to allow after ``roundings`` operations and sums of ``reduction`` terms.

    Results rounded to ``precision`` one after the other: a random walk, times 8 for the largest
    of many elements and for cancellation. Sums in float32: the bound that holds in any order
    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 2.8 and 4.2).
    """
    return 8 * ROUNDING[precision] * math.sqrt(roundings) + ROUNDING["fp32"] * reduction


def kink_tolerance(precision: str, kinks: int, reduction: int) -> float:
    """Relative error to allow a gradient behind ``kinks`` layers of ReLU or max-pooling.

    A share of activations, of the order of their own error, lies so near a kink that the error
    decides on the side, and each of them sends its gradient a wrong way: independent faults, so
    the gradient's norm is off by the root of the share. Twice that is allowed. Activations are
    rounded to ``precision`` after a float32 sum of ``reduction`` terms, again a random walk.
    """
    error = ROUNDING[precision] + ROUNDING["fp32"] * math.sqrt(reduction)
    return 2 * math.sqrt(kinks * error)


def parameter_traffic(parameters: int, states: int) -> int:
    """Bytes that an optimizer step must move for its parameters alone.

    Float32 weights and ``states`` tensors of the optimizer are read and written, the gradients
    written. Activations move more in many models, but how much hangs on the kernels' fusion, so
    this is a lower bound and no estimate; and where all of it fits the last-level cache, not even
    this much reaches the memory.
    """
    return 4 * parameters * (2 * (1 + states) + 1)


def footprint(parameters: int, states: int, activations: int, temporaries: int) -> int:
    """Bytes of device memory at a step's peak, without CUDA's context and libraries' workspaces.

    Weights and optimizer state are always there. Gradients arrive as activations go, so the peak
    is either the start of the backward pass or the optimizer, with ``temporaries`` tensors of
    each parameter's size.
    """
    return 4 * parameters * (1 + states) + max(activations, 4 * parameters * (1 + temporaries))


def _float64_twin(model: "torch.nn.Module") -> "torch.nn.Module":
    """A copy in float64 on the processor that never exists on the device.

    ``deepcopy`` takes what its memo holds for copied already: here every tensor of the model.
    """
    import torch

    memo: dict[int, object] = {id(buffer): _to_float64(buffer) for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = torch.nn.Parameter(_to_float64(parameter))
    return copy.deepcopy(model, memo)


def _to_float64(tensor: "torch.Tensor") -> "torch.Tensor":
    """A copy on the processor; integers stay what they are."""
    import torch

    kind = torch.float64 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind, copy=True)


def _assert_near(
    what: str, actual: "torch.Tensor", expected: "torch.Tensor", tolerance: float
) -> None:
    """Every element within ``tolerance``, on the processor in float64."""
    import torch

    torch.testing.assert_close(
        _to_float64(actual),
        expected.detach(),
        rtol=0.0,
        atol=tolerance,
        msg=lambda text: f"{what}: {text}",
    )
