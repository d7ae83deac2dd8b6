"""BERT with a classification head: the step that fine-tuning consists of.

transformers' BertForSequenceClassification with random weights, AdamW and dropout as in training.
Nothing is downloaded: sizes stand here, weights and tokens come from a seed.
"""

import importlib.metadata
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpubench.errors import Unsupported, unknown_name
from gpubench.workload import Prepared, Work, workload
from gpubench.workloads import _training

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

VOCABULARY = 30_522
POSITIONS = 512
DROPOUT = 0.1
BATCHES = 16
# What the check recomputes in float64 on the processor: it has to stay short for large models.
CHECKED_TOKENS = 256
# From the start, where all of the backward pass has gone before, to the end.
PROBES = (
    "bert.embeddings.position_embeddings.weight",
    "bert.encoder.layer.0.attention.self.value.weight",
    "bert.encoder.layer.1.intermediate.dense.weight",
    "classifier.weight",
)


@dataclass(frozen=True)
class Size:
    """Shape of the encoder; the inner width is four times the hidden one."""

    layers: int
    hidden: int
    heads: int


# Base and large: Devlin et al. 2019, arXiv:1810.04805. Tiny: Turc et al. 2019, arXiv:1908.08962.
SIZES = {"tiny": Size(2, 128, 2), "base": Size(12, 768, 12), "large": Size(24, 1024, 16)}


def work(size: str, batch: int, sequence: int, precision: str) -> Work:
    """Declared work of one step.

    FLOPs are the model's, without what fused attention recomputes in its backward pass: 6 per
    matrix weight and token, 12·layers·batch·sequence²·hidden for attention, and pooler and
    classifier once a sequence. torch's FlopCounterMode counts 2·layers·batch·sequence²·hidden
    more where a fused attention kernel runs. ``bytes`` is the parameters' and tokens' traffic
    alone, a lower bound (see ``parameter_traffic``). ``footprint`` is that of a CUDA device.
    """
    shape = _shape(size)
    hidden, tokens = shape.hidden, batch * sequence
    matrices = shape.layers * 12 * hidden**2
    attention = 12 * shape.layers * batch * sequence**2 * hidden
    head = 6 * batch * (hidden**2 + 2 * hidden)
    parameters = parameter_count(size, sequence)
    return Work(
        flops=6 * matrices * tokens + attention + head,
        bytes=_training.parameter_traffic(parameters, states=2) + _input_bytes(batch, sequence),
        items=tokens,
        item="token",
        footprint=footprint(size, batch, sequence, precision, fused=True),
    )


def parameter_count(size: str, sequence: int = POSITIONS) -> int:
    """Weights and biases of the classifier model."""
    shape = _shape(size)
    hidden = shape.hidden
    embeddings = (VOCABULARY + max(POSITIONS, sequence) + 2 + 2) * hidden
    layer = 12 * hidden**2 + 13 * hidden
    return embeddings + shape.layers * layer + (hidden + 1) * (hidden + 2)


def footprint(size: str, batch: int, sequence: int, precision: str, *, fused: bool) -> int:
    """Bytes of memory at the peak, with fused attention and dropout (CUDA) or without (CPU).

    Activations are counted as in Korthikanti et al. 2022 (arXiv:2205.05198, section 4), in bytes
    per token and hidden unit of a layer. Float32: input 4, query, key and value 12, attention's
    output 4, inputs of both norms 8, the first norm's output 4, GELU's input and output 32, two
    dropout masks 2. Autocast halves all but the norms' inputs and casts the layer's input three
    times. The gradients at the last GELU come on top. torch's CPU has no fused attention with
    dropout, and keeps three tensors of float32 scores, and masks of 4 bytes instead of 1.
    """
    shape, tokens = _shape(size), batch * sequence
    low = precision in _training.AUTOCAST
    layer, at_gelu = (42, 16) if low else (66, 32)
    casts = 2 * shape.layers * 12 * shape.hidden**2 if low else 0
    activations = tokens * shape.hidden * (shape.layers * layer + at_gelu) + casts
    if not fused:
        activations += shape.layers * tokens * (6 * shape.hidden + 12 * shape.heads * sequence)
    return BATCHES * _input_bytes(batch, sequence) + _training.footprint(
        parameter_count(size, sequence),
        states=2,
        activations=activations,
        temporaries=1,  # the square root of the second moment, in torch's foreach AdamW
    )


def _input_bytes(batch: int, sequence: int) -> int:
    """Token ids and labels of one batch."""
    return 8 * batch * (sequence + 1)


def _shape(size: str) -> Size:
    if size not in SIZES:
        raise unknown_name("size of bert", size, SIZES)
    return SIZES[size]


@workload(
    version=1,
    work=work,
    cache="hot",
    sources=("_training.py",),
    size=["tiny", "base", "large"],
    batch=[8, 32],
    sequence=[128, 512],
    precision=["fp32", "tf32", "fp16", "bf16"],
)
def bert(device: "Device", size: str, batch: int, sequence: int, precision: str) -> Prepared:
    """Fine-tuning step of BERT with two classes and AdamW.

    Every sequence is full, and no attention mask is given: tokens per second are then tokens
    that teach something, the FLOPs need no guess at lengths, and the fastest attention kernels
    apply, which take no mask. Given a mask of ones, transformers reads it back from the device
    in every step to find that out; 4.50 makes one itself and does so, 5.23 doesn't.

    float16 runs on processors that have its instructions (others are refused by the device): it
    takes 0.9 to 1.1 times as long as fp32 there.

    Raises:
        Unsupported: transformers is not installed, or a CPU has too little memory.
    """
    import torch

    if device.info.backend == "cpu":
        needed = footprint(size, batch, sequence, precision, fused=False)
        if needed > (device.info.memory_bytes or math.inf):
            raise Unsupported(
                f"this step needs about {needed / 2**30:.0f} GiB without fused attention, "
                "which torch lacks for training with dropout on a CPU: more than there is"
            )
    torch.manual_seed(_training.SEED)  # of weights and dropout
    model = _model(device.torch_device, _shape(size), sequence)
    checked = max(1, min(batch, CHECKED_TOKENS // sequence))
    # A layer's operations, there and back. Layers don't add to that: along the residual stream
    # each contributes its error in proportion to its share.
    tolerance = _training.rounding_tolerance(
        precision, roundings=2 * 12, reduction=max(checked * sequence, 4 * SIZES[size].hidden)
    )
    return _training.Training(
        device=device,
        precision=precision,
        model=model,
        batches=_sequences(device.torch_device, batch, sequence),
        loss=lambda model, tokens, labels: model(input_ids=tokens, labels=labels).loss,
        logits=lambda model, tokens: model(input_ids=tokens).logits,
        make_optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-5),
        probes=PROBES,
        checked_items=checked,
        tolerance=tolerance,
        gradient_tolerance=tolerance,
    ).prepared(
        attention=_attention_kernel(device.torch_device, size, batch, sequence, precision),
        transformers=importlib.metadata.version("transformers"),
    )


def _model(torch_device: str, shape: Size, sequence: int) -> "torch.nn.Module":
    """The model with random weights, in training mode."""
    import torch

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when transformers is imported
    try:
        from transformers import BertConfig, BertForSequenceClassification, logging
    except ImportError as error:
        raise Unsupported(
            f"bert needs transformers ({error})", "pip install 'gpubench-suite[run]'"
        ) from error
    logging.set_verbosity_error()
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=max(POSITIONS, sequence),
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        num_labels=2,
        attn_implementation="sdpa",
    )
    with torch.device(torch_device):
        return BertForSequenceClassification(config).train()


def _sequences(
    torch_device: str, batch: int, sequence: int
) -> "list[tuple[torch.Tensor, torch.Tensor]]":
    """Batches of token ids (batch, sequence) and labels; a label doubles its half of the words."""
    import torch

    generator = torch.Generator(torch_device).manual_seed(_training.SEED)

    def draw(high: int, *shape: int) -> "torch.Tensor":
        return torch.randint(high, shape, generator=generator, device=torch_device)

    def sequences() -> "tuple[torch.Tensor, torch.Tensor]":
        labels = draw(2, batch)
        words = draw(VOCABULARY // 2, batch, sequence)
        own_half = draw(3, batch, sequence) > 0
        return words + VOCABULARY // 2 * (own_half == labels[:, None].bool()), labels

    return [sequences() for _ in range(BATCHES)]


def _attention_kernel(
    torch_device: str, size: str, batch: int, sequence: int, precision: str
) -> str:
    """Which kernel torch chooses for the encoder's attention, in torch's own words."""
    import torch
    from torch.nn.attention import SDPBackend

    shape = _shape(size)
    query = torch.empty(
        (batch, shape.heads, sequence, shape.hidden // shape.heads),
        dtype=getattr(torch, _training.AUTOCAST.get(precision, "float32")),
        device=torch_device,
        requires_grad=True,
    )
    # Private, but the only way to ask without running anything.
    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None:
        return "unknown"
    name: str = SDPBackend(choose(query, query, query, dropout_p=DROPOUT)).name
    return name.lower()
