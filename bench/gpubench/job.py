"""What a training job is, and what one step of it needs: arithmetic, traffic, launches, memory.

A job is a model trained with a method, precision and optimizer at a batch and sequence length, as
transformers, peft and bitsandbytes do it on one card: eager PyTorch, ``torch.autocast``, fused
attention. Every formula counts what those keep; docs/memory.md holds them against torch itself.
Needs nothing but the standard library, and no card.
"""

from dataclasses import dataclass, replace

from gpubench.cards import CONTEXT_BYTES
from gpubench.errors import UsageError, unknown_name
from gpubench.transformer import Transformer, all_models, get_model
from gpubench.workload import Work

__all__ = ["Job", "Memory", "Transformer", "all_models", "get_model"]

METHODS = ("full", "lora", "qlora")
HEADS = ("classes", "lm")
#: what a classification head tells apart, as the workload ``bert`` does and most such tasks
CLASSES = 2
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
# Bytes of optimizer state per trained parameter. AdamW keeps two moments; bitsandbytes' 8-bit one
# keeps them as bytes, with a float32 scale for each block of 256 (Dettmers et al. 2021,
# arXiv:2110.02861); SGD keeps its momentum.
STATE_BYTES = {"adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256), "sgd": 4.0}
# torch's AdamW on a GPU works on all parameters at once (foreach) and holds a list as long for the
# square roots meanwhile; the two others work in place.
OPTIMIZER_WORKSPACE = {"adamw": 4.0, "adamw8bit": 0.0, "sgd": 0.0}
# NF4 in blocks of 64, their scales in bytes, and those scaled once more in blocks of 256
# (Dettmers et al. 2023, arXiv:2305.14314, section 3).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
MASTER = 4  # bytes of a float32 weight, gradient or sum
# What the caching allocator rounds up and can't use: assumed.
RESERVE_SHARE = 0.05
LARGEST_BATCH = 2**20  # far beyond any use; bounds what a job may ask and the search


@dataclass(frozen=True)
class Memory:
    """What lies in a card's memory at the moment when most does; all in bytes.

    Attributes:
        moment: when that is.
        parts: by what it is.
    """

    moment: str
    parts: dict[str, float]

    @property
    def tensor_bytes(self) -> float:
        """What PyTorch's tensors take, as ``torch.cuda.max_memory_allocated`` counts."""
        return sum(self.parts.values()) - self.parts["CUDA context"] - self.parts["reserve"]

    @property
    def total_bytes(self) -> float:
        """What the card has to have free."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Job:
    """One training job on one card.

    Attributes:
        method: ``full`` trains every weight; ``lora`` adapters on all linear layers of the blocks
            (not the head), over a frozen base in the compute precision; ``qlora`` the same over
            a base whose linear layers are NF4 with double quantisation, the rest in 16 bit.
        precision: ``fp32``, ``tf32``, or autocast to ``fp16`` or ``bf16``; trained weights, their
            gradients and states are float32 always.
        optimizer: ``adamw`` (foreach, torch's default on a GPU), ``adamw8bit``, or ``sgd`` with
            momentum.
        batch: sequences of a step, all of the full length.
        sequence: tokens of each.
        checkpointing: keep only each block's input and compute the block again on the way back.
        rank: of the adapters.
        head: ``classes`` is a pooler and a classifier, once a sequence, as an encoder is mostly
            fine-tuned; ``lm`` makes logits of every token. Empty means ``classes`` of an encoder
            and ``lm`` of a decoder, which has no other here.
    """

    model: Transformer
    method: str = "full"
    precision: str = "bf16"
    optimizer: str = "adamw"
    batch: int = 1
    sequence: int = 512
    checkpointing: bool = False
    rank: int = 16
    head: str = ""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageError: an unknown name, a size that can't be, a decoder with a head of classes, or
                QLoRA in 32 bit.
        """
        object.__setattr__(self, "head", self.head or ("lm" if self.model.causal else "classes"))
        names = {
            "method": (self.method, METHODS),
            "training precision": (self.precision, PRECISIONS),
            "optimizer": (self.optimizer, tuple(STATE_BYTES)),
            "head": (self.head, HEADS[1:] if self.model.causal else HEADS),
        }
        for kind, (name, known) in names.items():
            if name not in known:
                raise unknown_name(kind, str(name), known)
        sizes = {
            "batch": (self.batch, LARGEST_BATCH),
            "sequence": (self.sequence, self.model.positions),
            "rank": (self.rank, self.model.hidden),
        }
        remedies = {
            "batch": "take a smaller batch",
            "sequence": f"{self.model.name} takes sequences of up to {self.model.positions} tokens",
            "rank": f"an adapter's rank is at most {self.model.name}'s width; 8 to 64 are usual",
        }
        for name, (value, most) in sizes.items():
            if type(value) is not int or not 1 <= value <= most:
                problem = f"{name} {value!r} is not a whole number from 1 to {most}"
                raise UsageError(problem, remedies[name])
        if self.method == "qlora" and not self.low:
            raise UsageError(
                f"qlora computes in 16 bit, not in {self.precision}", "take bf16, or fp16"
            )

    # --- sizes ------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.batch * self.sequence

    @property
    def low(self) -> bool:
        """Whether products are computed in 16 bit, under autocast."""
        return self.precision in ("fp16", "bf16")

    @property
    def frozen(self) -> bool:
        """Whether the model's own weights are."""
        return self.method != "full"

    @property
    def parameters(self) -> int:
        """All values of the model with this head."""
        classes = self._head_matrices + self.model.hidden + CLASSES  # and the biases of both
        return self.model.parameters if self.head == "lm" else self.model.body_parameters + classes

    @property
    def _head_matrices(self) -> int:
        hidden = self.model.hidden
        return self.model.head_matrices if self.head == "lm" else hidden * (hidden + CLASSES)

    @property
    def _head_rows(self) -> int:
        """For how many tokens the head computes: all, or the first of each sequence."""
        return self.tokens if self.head == "lm" else self.batch

    @property
    def _logits(self) -> int:
        """How many numbers come out of the head."""
        return self._head_rows * (self.model.vocabulary if self.head == "lm" else CLASSES)

    @property
    def _tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.model.tied and self.head == "lm"

    @property
    def trained(self) -> int:
        """Parameters that are trained; two thin matrices per linear layer with adapters."""
        return self._adapters if self.frozen else self.parameters

    @property
    def _adapters(self) -> int:
        width = sum(inputs + outputs for inputs, outputs in self.model.linear_layers)
        return self.model.layers * self.rank * width if self.frozen else 0

    @property
    def _compute_bytes(self) -> int:
        return 2 if self.low else 4

    @property
    def _stream_bytes(self) -> int:
        """Of the residual stream: 16 bit where weights are and no LayerNorm's result is added."""
        return 2 if self.low and self.frozen and self.model.family.norm_first else 4

    # --- work -------------------------------------------------------------------------------

    def work(self) -> Work:
        """FLOPs, bytes moved, tokens and memory of one step."""
        return Work(
            flops=self._flops(),
            bytes=self._traffic(),
            items=self.tokens,
            item="token",
            footprint=self.memory().total_bytes,
        )

    def _flops(self) -> float:
        """What torch's FlopCounterMode counts of the products, and papers give.

        The convention of Kaplan et al. 2020 (arXiv:2001.08361, section 2.1) and of PaLM (Chowdhery
        et al. 2022, arXiv:2204.02311, appendix B): a token takes 2 FLOPs per weight of a matrix on
        its way forward, 2 for the gradient of the input and 2 for that of the weight, which a
        frozen one hasn't; attention 4·S·h forward and twice that backward. Causal attention counts
        in full, though its kernels skip up to half; what fused attention computes again on the way
        back doesn't count.
        """
        model, family, tokens = self.model, self.model.family, self.tokens
        products = model.block_matrices * tokens + self._head_matrices * self._head_rows
        attention = 4 * model.layers * tokens * self.sequence * model.queries
        passes = 4 if self.frozen else 6
        flops = passes * products
        flops += 6 * self._adapters * tokens + 3 * attention
        if self.checkpointing:
            again = model.block_matrices + self._adapters
            if family.norm_first and not family.dropout and not self.frozen:
                # torch stops where nothing more is needed: before each block's last product
                again -= model.layers * model.intermediate * model.hidden
            flops += 2 * again * tokens + attention
        return float(flops)

    def _traffic(self) -> float:
        """What eager PyTorch's kernels read and write, attention being one kernel."""
        model = self.model
        passes = 3 if self.checkpointing else 2
        matrices = model.block_matrices + self._head_matrices
        if self.method == "qlora":
            # bitsandbytes' MatMul4Bit writes each matrix to memory in 16 bit, for the product
            expanded = NF4_BYTES + 2 * self._compute_bytes
            weights = passes * (model.block_matrices * expanded + 2 * self._head_matrices)
        else:
            weights = passes * matrices * self._compute_bytes
        casts = 6 * self.trained if self.low else 0  # read in 4 bytes, written in 2
        states = 2 * (MASTER + STATE_BYTES[self.optimizer]) * self.trained
        gradients = 2 * MASTER * self.trained
        # Going back reads and writes twice what going forward does; checkpoints go forward twice.
        blocks = (passes + 1) * model.layers * model.block_moved * self._compute_bytes
        logits = 3 * 3 * MASTER * self._logits  # made, and their loss: in 4 bytes
        return weights + casts + states + gradients + blocks * self.tokens + logits

    @property
    def launches(self) -> float:
        """Kernels launched in one step, as counted on fake steps: within about 15 %."""
        return self.model_launches + self._optimizer_launches()

    @property
    def model_launches(self) -> float:
        """Those of the forward and the backward pass.

        A trained linear layer takes three products and a bias's sum; autocast casts weight, bias
        and input, there and back; an adapter adds two layers.
        """
        model, family = self.model, self.model.family
        linear = 3 + (model.bias == "all") + (6 if self.low else 0)
        if self.frozen:
            linear += 12 if self.low else 8
        norms = 2 + (2 if family.query_key_norm else 0)
        block = (
            len(model.linear_layers) * linear
            + norms * (19 if family.rms_norm else 2)  # RMSNorm and its gradient, spelt out
            + 16  # attention, the activation function, residuals, dropout and sums of gradients
            + (28 if family.rms_norm else 0)  # rotary positions
            + (16 if family.python_gelu else 0)
        )
        return 12 + block * model.layers * (1.36 if self.checkpointing else 1.0)

    def _optimizer_launches(self) -> float:
        """The optimizer's step.

        torch's lists of tensors take a kernel for some 50 tensors or 320 chunks of 65,536 values
        (ATen/native/cuda/MultiTensorApply.cuh); bitsandbytes takes one for each tensor.
        """
        tensors = self.model.layers * 2 * (len(self.model.linear_layers) + 1)
        if self.optimizer == "adamw8bit":
            return float(tensors)
        lists = 8 if self.optimizer == "adamw" else 3
        return lists * max(tensors / 50, self.trained / (320 * 65_536), 1)

    # --- memory -----------------------------------------------------------------------------

    def memory(self) -> Memory:
        """The step's peak: the largest of the moments at which one can lie."""
        moments = {
            "the loss": self._at_loss(),
            "the logits' gradient": self._at_logits(),
            "the first block's way back": self._at_first_block(),
            "the last block's way back": self._at_last_block(),
            "the embedding's gradient": self._at_embedding(),
            "the optimizer's step": self._at_optimizer(),
        }
        moment = max(moments, key=lambda name: sum(moments[name].values()))
        states = STATE_BYTES[self.optimizer] * self.trained
        parts = {"weights": self._weights(), "optimizer states": states, **moments[moment]}
        parts["CUDA context"] = CONTEXT_BYTES
        parts["reserve"] = RESERVE_SHARE * (sum(parts.values()) - CONTEXT_BYTES)
        return Memory(moment, parts)

    def largest_batch(self, memory_bytes: float) -> int:
        """The most sequences a step can have in that much memory, up to ``LARGEST_BATCH``.

        0 where not even one fits.
        """

        def fits(batch: int) -> bool:
            return replace(self, batch=batch).memory().total_bytes <= memory_bytes

        low, high = 0, LARGEST_BATCH + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _weights(self) -> float:
        model = self.model
        if self.method == "full":
            return MASTER * model.parameters
        if self.method == "lora":
            return self._compute_bytes * self.parameters + MASTER * self._adapters
        rest = self.parameters - model.block_matrices
        return NF4_BYTES * model.block_matrices + 2 * rest + MASTER * self._adapters

    def _at_loss(self) -> dict[str, float]:
        """The end of the forward pass: all activations, logits and their logarithms.

        Autocast keeps its copies of all weights until the forward pass is over, and the loss takes
        a copy of the logits in float32.
        """
        logits = 2 * MASTER + (self._compute_bytes if self.low else 0)
        return {
            "gradients": 0.0,
            "activations": self._kept(),
            "logits and loss": float(logits * self._logits),
            "low-precision copies": self._casts(self.model.layers),
            "workspace": 0.0,
        }

    def _at_logits(self) -> dict[str, float]:
        """The start of the backward pass: still all activations, and gradients of the logits.

        Logarithms of probabilities, their gradient and that of the logits are float32.
        """
        return {
            "gradients": 0.0,
            "activations": self._kept(),
            "logits and loss": 3.0 * MASTER * self._logits,
            "low-precision copies": 0.0 if self.checkpointing else self._casts(self.model.layers),
            "workspace": 0.0,
        }

    def _at_first_block(self) -> dict[str, float]:
        """The last block's backward pass comes first: the head's gradient is there already."""
        again = self._block_activations() * self.tokens if self.checkpointing else 0.0
        return {
            "gradients": 0.0 if self.frozen else float(MASTER * self._head_matrices),
            "activations": self._kept() - self._closing_activations() * self._head_rows + again,
            "logits and loss": 0.0,
            "low-precision copies": self._casts(1 if self.checkpointing else self.model.layers),
            "workspace": self._block_workspace(),
        }

    def _at_last_block(self) -> dict[str, float]:
        """The backward pass of the block before which there is only the embedding.

        Its own gradients are still to come, and so is an embedding's that the head doesn't share.
        """
        model = self.model
        missing = self._adapters / model.layers
        if not self.frozen:
            missing = model.block_matrices / model.layers
            missing += 0 if self._tied else model.vocabulary * model.hidden
        return {
            "gradients": MASTER * (self.trained - missing),
            "activations": (self._block_activations() + self._opening_activations()) * self.tokens,
            "logits and loss": 0.0,
            "low-precision copies": self._casts(1),
            "workspace": self._block_workspace(),
        }

    def _at_embedding(self) -> dict[str, float]:
        """The backward pass's end: all gradients, of a tied embedding two parts and their sum."""
        tied = self._tied and not self.frozen
        embedding = MASTER * self.model.vocabulary * self.model.hidden
        return {
            "gradients": MASTER * self.trained,
            "activations": 0.0,
            "logits and loss": 0.0,
            "low-precision copies": 0.0,
            "workspace": 2 * embedding if tied else 0.0,
        }

    def _at_optimizer(self) -> dict[str, float]:
        return {
            "gradients": MASTER * self.trained,
            "activations": 0.0,
            "logits and loss": 0.0,
            "low-precision copies": 0.0,
            "workspace": OPTIMIZER_WORKSPACE[self.optimizer] * self.trained,
        }

    def _casts(self, layers: int) -> float:
        """Autocast's 16-bit copies of float32 weights, which live until their layer's way back."""
        if not self.low:
            return 0.0
        if self.frozen:
            return 2 * self._adapters * layers / self.model.layers
        blocks = self.model.block_matrices * layers / self.model.layers
        return 2 * (blocks + self._head_matrices)

    def _kept(self) -> float:
        """Bytes of activations at the end of the forward pass."""
        block = self._block_activations()
        if self.checkpointing:
            block = self._stream_bytes * self.model.hidden
        blocks = (self.model.layers * block + self._opening_activations()) * self.tokens
        return blocks + self._closing_activations() * self._head_rows

    def _block_activations(self) -> float:
        """Bytes per token that one block keeps for its way back.

        Counted tensor by tensor, as Korthikanti et al. 2022 (arXiv:2205.05198, section 4) do, but
        of what transformers 5 runs. Fused attention keeps queries, keys, values, its result and
        the logarithm of each row's sum: nothing as large as sequence².
        """
        model, family, low, compute = self.model, self.model.family, self.low, self._compute_bytes
        hidden, inner, queries, keys = model.hidden, model.intermediate, model.queries, model.keys
        # two norms' results, which autocast casts anew for each linear layer that reads one
        readers = len(model.linear_layers) - 2 if low else 2
        linear_inputs = readers * compute * hidden
        if self.frozen and low:
            linear_inputs += compute * queries  # peft casts an adapter's input to float32 and back
        attention = compute * 2 * (queries + keys) + MASTER * model.heads
        if family.fused and family.rms_norm:
            attention += compute * (queries + keys)  # unrotated, kept by values of the same product
        masks = 2 * hidden if family.dropout else 0
        return (
            2 * self._norm_activations(hidden)
            + linear_inputs
            + attention
            + self._head_norms()
            + self._activation_function() * inner
            + masks
        )

    def _norm_activations(self, width: int) -> float:
        """Its float32 input; RMSNorm, spelt out, also what its trained weight multiplies."""
        trained_rms = self.model.family.rms_norm and not self.frozen
        return MASTER * width * (2 if trained_rms else 1)

    def _head_norms(self) -> float:
        """Qwen3's norms of queries and keys, of which autocast keeps the product in 16 bit."""
        if not self.model.family.query_key_norm:
            return 0.0
        width = self.model.queries + self.model.keys
        return width * (MASTER if self.frozen else MASTER + self._compute_bytes)

    def _activation_function(self) -> float:
        """Bytes per unit of the MLP, the last linear layer's input included."""
        family, compute = self.model.family, self._compute_bytes
        if family.gated:  # both projections, the activation, the product
            return 4 * compute
        if family.python_gelu:  # x, tanh and 1 + tanh, in float32 since pow is; x / 2; the result
            return 3 * MASTER + 2 * compute
        return 2 * compute

    def _opening_activations(self) -> float:
        """Bytes per token before the first block: the embeddings' dropout, and BERT's norm."""
        if self.frozen:
            return 0.0
        norm = 0 if self.model.causal else MASTER * self.model.hidden
        return norm + (self.model.hidden if self.model.family.dropout else 0)

    def _closing_activations(self) -> float:
        """Bytes per token that the head sees, after the last block, the logits apart."""
        hidden, compute = self.model.hidden, self._compute_bytes
        head_input = 0 if self.frozen else compute * hidden
        if self.model.causal:
            return self._norm_activations(hidden) + head_input
        # the transformation's input, its GELU's input and its norm's, then the head's
        return 2 * head_input + compute * hidden + MASTER * hidden

    def _block_workspace(self) -> float:
        """What a block's way back takes for a moment, where it is widest: inside the MLP.

        Gradients on both sides of the activation function, less what is freed by then, and that
        of the residual stream. Under adapters also their inputs in float32 and the sums of results
        (counted on fake steps: 8 to 10 bytes a unit).
        """
        family, compute = self.model.family, self._compute_bytes
        if self.frozen:
            unit = 9 if self.low else 8
        elif family.python_gelu:
            unit = 2 * MASTER
        else:
            unit = compute * (2 if family.gated else 1)
        stream = self._stream_bytes * self.model.hidden
        workspace = float(self.tokens * (unit * self.model.intermediate + stream))
        if self.method == "qlora":  # a weight is expanded to 16 bit while it is used
            workspace += 2 * max(inputs * outputs for inputs, outputs in self.model.linear_layers)
        return workspace
