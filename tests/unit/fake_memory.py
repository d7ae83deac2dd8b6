"""One training step on fake tensors: what it takes of memory, FLOPs and kernels, without running.

Fake tensors know shapes, types and storages but hold no values, so a step of any size "runs" in
seconds on any machine, through the real transformers model, the real autograd and the real AdamW.
`Storages` watches every operation below autograd and adds up the storages that are alive.

A fake backward pass works as device ``cpu`` only, and what is modelled is a card. Where torch does
another thing there, `AsOnCuda` makes it do the card's: dropout keeps masks of one byte; attention's
own dropout, whose mask no fused kernel keeps, is off, since on a CPU it would rule them out; and
autocast computes norms, powers and losses in float32. What fused kernels allocate for themselves
remains unseen.
"""

import contextlib
import functools
import weakref
from dataclasses import dataclass
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from gpubench.job import NF4_BYTES

LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
# What torch.autocast computes in float32 on CUDA ("CUDA Ops that can autocast to float32" in its
# documentation), as far as these models use it.
IN_FLOAT32 = {
    functional.layer_norm,
    functional.cross_entropy,
    torch.pow,
    torch.Tensor.pow,
    torch.rsqrt,
    torch.Tensor.rsqrt,
}
#: modules after the last block, which get no adapters
HEAD = {"cls", "lm_head", "pooler", "classifier"}
ALLOCATES = ("empty", "new_empty", "detach", "alias", "_unsafe_view", "lift_fresh")


@dataclass(frozen=True)
class Measured:
    """What the fake step took: bytes at the peak, FLOPs, and operations that launch kernels."""

    peak_bytes: int
    flops: int
    kernels: int


class Storages(TorchDispatchMode):
    """Bytes of all storages alive, and their peak; also the operations that launch a kernel."""

    def __init__(self):
        super().__init__()
        self.alive = {}
        self.now = self.peak = self.kernels = 0

    def watch(self, tensor):
        """Count a tensor's storage until the last tensor that lies in it is gone."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key):
        self.now -= self.alive.pop(key)

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.watch(tensor)
        space, _, name = function._schema.name.partition("::")
        self.kernels += space == "aten" and not function.is_view and not name.startswith(ALLOCATES)
        return result


class AsOnCuda(TorchFunctionMode):
    """What a CPU does otherwise than a card, done as a card does it."""

    def __init__(self, low):
        super().__init__()
        self.low = low

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        if function is functional.dropout:
            values, share = arguments[0], keywords.get("p", arguments[1:2] or (0.5,))
            share = share[0] if isinstance(share, tuple) else share
            if not keywords.get("training", True) or share == 0:
                return values
            return torch.native_dropout(values, share, True)[0]
        if function is functional.scaled_dot_product_attention:
            keywords["dropout_p"] = 0.0
        if self.low and function in IN_FLOAT32:
            arguments, keywords = tree_map(_float32, (arguments, keywords))
        return function(*arguments, **keywords)


def _float32(value):
    is_low = isinstance(value, torch.Tensor) and value.dtype in LOW.values()
    return value.float() if is_low else value


class Adapted(nn.Module):
    """A frozen linear layer with a LoRA adapter of float32.

    With those of peft 0.21 the peak and the operations are the same, to the byte; peft itself can't
    be used, since it moves adapters in a way that fake tensors don't know.
    """

    def __init__(self, base, inputs, outputs, rank):
        super().__init__()
        self.base = base
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)

    def forward(self, values):
        result = self.base(values)
        added = self.up(self.down(values.to(self.down.weight.dtype)))
        return (result + added * 2.0).to(result.dtype)


class Quantised(nn.Module):
    """A linear layer as bitsandbytes' Linear4bit keeps and computes it."""

    def __init__(self, inputs, outputs, low):
        super().__init__()
        size = round(NF4_BYTES * inputs * outputs)
        self.register_buffer("packed", torch.empty(size, dtype=torch.uint8))
        self.shape, self.low = (outputs, inputs), low

    def forward(self, values):
        return _Expanded.apply(values.to(self.low), self.packed, self.shape)


class _Expanded(torch.autograd.Function):
    """The weight exists in 16 bit only while a product uses it, on either way."""

    @staticmethod
    def forward(context, values, packed, shape):
        context.packed, context.shape = packed, shape
        return values @ torch.empty(shape, dtype=values.dtype).t()

    @staticmethod
    def backward(context, gradient):
        return gradient @ torch.empty(context.shape, dtype=gradient.dtype), None, None


def build(config, job):
    """The transformers model of a configuration, made ready for the job; under FakeTensorMode."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
    )
    from transformers.initialization import no_init_weights

    sizes = AutoConfig.for_model(**config, attn_implementation="sdpa", use_cache=False)
    auto = AutoModelForMaskedLM if job.head == "lm" else AutoModelForSequenceClassification
    auto = AutoModelForCausalLM if job.model.causal else auto
    dtype = LOW[job.precision] if job.frozen and job.low else torch.float32
    with no_init_weights():  # which takes longest, and there are no values
        model = auto.from_config(sizes, dtype=dtype).train()
    model.tie_weights()
    if job.frozen:
        model.requires_grad_(requires_grad=False)
        _add_adapters(model, job)
        if job.checkpointing:  # as peft does
            model.enable_input_require_grads()
    return model


def _contexts(low):
    return contextlib.nullcontext(), AsOnCuda(low)


def _add_adapters(model, job):
    from transformers.pytorch_utils import Conv1D

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, (nn.Linear, Conv1D)) or HEAD & set(name.split(".")):
            continue
        outputs, inputs = layer.weight.shape
        if isinstance(layer, Conv1D):
            outputs, inputs = inputs, outputs
        four_bit = job.method == "qlora"
        base = Quantised(inputs, outputs, LOW[job.precision]) if four_bit else layer
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Adapted(base, inputs, outputs, job.rank))


def measure(config, job, *, attention="fused"):
    """What one fake step of the job's model takes; see `measure_all`."""
    return next(measure_all(config, [job], attention=attention))


def measure_all(config, jobs, *, attention="fused"):
    """Yield what a fake step of each job takes; the model is built but once.

    The jobs may differ in batch, sequence, checkpointing and, in full training, precision.
    ``attention`` is ``fused``, as on a card, or ``math``, whose FLOPs torch can count on a CPU; of
    a fused step they are zero.
    """
    backend = SDPBackend.MATH if attention == "math" else SDPBackend.FLASH_ATTENTION
    with contextlib.ExitStack() as stack:
        # AdamW computes with its step counters, which have no value here
        stack.enter_context(mock.patch("torch.optim.adam._get_value", return_value=1.0))
        # nor have positions, in which transformers would find that no mask is needed
        name = "transformers.masking_utils.find_packed_sequence_indices"
        stack.enter_context(mock.patch(name, return_value=None))
        stack.enter_context(FakeTensorMode())
        storages = stack.enter_context(Storages())
        stack.enter_context(sdpa_kernel([backend]))
        model = build(config, jobs[0])
        optimizer = _optimizer(model, jobs[0])
        for job in jobs:
            with FlopCounterMode(display=False) if attention == "math" else Uncounted() as flops:
                yield _step(model, optimizer, job, storages, flops)


class Uncounted(contextlib.nullcontext):
    """Stands for FlopCounterMode, which knows no fused attention of CPUs and takes its time."""

    def __enter__(self):
        return self

    def get_total_flops(self):
        return 0


def _step(model, optimizer, job, storages, flops):
    low = LOW.get(job.precision)
    autocast = torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None)
    model.gradient_checkpointing_disable()
    if job.checkpointing:
        # function modes are off on the way back, where blocks run again
        contexts = functools.partial(_contexts, low)
        model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
    tokens = torch.zeros(job.batch, job.sequence, dtype=torch.long)
    storages.peak, storages.kernels = storages.now, 0
    with AsOnCuda(low), autocast:
        labels = tokens if job.head == "lm" else tokens[:, 0]
        loss = model(input_ids=tokens, labels=labels).loss
    loss.backward()
    kernels = storages.kernels
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Measured(storages.peak, flops.get_total_flops(), kernels)


def _optimizer(model, job):
    """The optimizer with its states, as after a first step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    make = functools.partial(torch.optim.AdamW, lr=1e-4)
    if job.optimizer == "sgd":
        make = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
    optimizer = make(trained, foreach=True)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer
