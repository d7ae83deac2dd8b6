"""What a transformer is: its sizes, read from a configuration as transformers writes it.

A model file in ``models/``, or in a folder of that name under ``GPUBENCH_PATH``, holds the keys of
the model's own ``config.json`` as TOML, and beside them ``source`` and ``published_parameters``::

    model_type = "mistral"
    hidden_size = 4096
    …

A user's ``config.json`` is read the same way: as data, never as code. Needs nothing but the
standard library.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpubench import plugins
from gpubench.errors import UsageError, unknown_name

#: no size of a model is larger; a file that says so is damaged, or no configuration
LARGEST = 10_000_000
LARGEST_FILE = 2**20


@dataclass(frozen=True)
class Family:
    """What the models of one ``model_type`` share, as transformers 5 builds them.

    Attributes:
        causal: predicts the next token; else masked ones, with a transformation before the head.
        rms_norm: RMSNorm and rotary positions; else LayerNorm and learned positions.
        norm_first: norms lie before attention and MLP, and one after the last layer.
        gated: the MLP multiplies two projections (SwiGLU).
        tied: whether the head shares the embedding's weights where the configuration is silent.
        bias: which linear layers have one where the configuration is silent: all, qkv or none.
        fused: query, key and value are one product, and so are the gated MLP's two.
        query_key_norm: an RMSNorm on each head of queries and keys.
        dropout: whether the residual stream has dropout.
        python_gelu: GELU's tanh form spelt out in tensor operations, each of which keeps its input.
    """

    causal: bool = True
    rms_norm: bool = True
    norm_first: bool = True
    gated: bool = True
    tied: bool = False
    bias: str = "none"
    fused: bool = False
    query_key_norm: bool = False
    dropout: bool = False
    python_gelu: bool = False


# Read from transformers 5.23's models/*/modeling_*.py and configuration_*.py.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "bert": Family(
            causal=False,
            rms_norm=False,
            norm_first=False,
            gated=False,
            tied=True,
            bias="all",
            dropout=True,
        ),
        "gpt2": Family(
            rms_norm=False,
            gated=False,
            tied=True,
            bias="all",
            fused=True,
            dropout=True,
            python_gelu=True,
        ),
        "llama": Family(),
        "mistral": Family(),
        "qwen2": Family(bias="qkv"),
        "qwen3": Family(query_key_norm=True),
        "phi3": Family(fused=True),
    }
)
# GPT-2 has names of its own for what all others call alike.
GPT2_KEYS = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}


@dataclass(frozen=True)
class Transformer:
    """Sizes of one model; all counts, no bytes.

    Attributes:
        layers: blocks of attention and MLP.
        hidden: width of the residual stream.
        heads, key_value_heads, head_dim: of attention; queries are ``heads · head_dim`` wide.
        intermediate: width inside the MLP.
        positions: longest sequence.
        segments: rows of BERT's second embedding.
        bias: which linear layers of the blocks have one: all, attention, qkv or none.
        published_parameters: the count that its makers give; None of a user's own.
        source: where the sizes were published.
    """

    name: str
    family: Family
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    positions: int
    tied: bool
    bias: str
    segments: int = 0
    published_parameters: float | None = None
    source: str = ""

    @property
    def causal(self) -> bool:
        """Whether each token sees only those before it."""
        return self.family.causal

    @property
    def gated(self) -> bool:
        """Whether the MLP is gated (SwiGLU)."""
        return self.family.gated

    @property
    def queries(self) -> int:
        """Width of the queries of one token, and of attention's result."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys of one token; values are as wide."""
        return self.key_value_heads * self.head_dim

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of each linear layer of one block, fused ones as one."""
        qkv: tuple[int, ...] = (self.queries, self.keys, self.keys)
        inner: tuple[int, ...] = (self.intermediate,) * (2 if self.gated else 1)
        if self.family.fused:
            qkv, inner = (sum(qkv),), (sum(inner),)
        return (
            *((self.hidden, width) for width in qkv),
            (self.queries, self.hidden),
            *((self.hidden, width) for width in inner),
            (self.intermediate, self.hidden),
        )

    @property
    def block_matrices(self) -> int:
        """Weights of the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_layers)

    @property
    def block_moved(self) -> int:
        """Elements that one block's kernels read and write for a token going forward.

        Each operation by itself, as eager PyTorch runs them, but for attention, which is one
        kernel. Weights are not in it.
        """
        linear = sum(inputs + outputs for inputs, outputs in self.linear_layers)
        attention = 2 * self.queries + 2 * self.keys
        activation = (3 if self.gated else 2) * self.intermediate
        around = (14 if self.family.dropout else 10) * self.hidden  # dropout, sum, norm, twice
        return linear + attention + activation + around

    @property
    def head_matrices(self) -> int:
        """Weights that make logits of the last layer's result; masked models transform it first."""
        return self.vocabulary * self.hidden + (0 if self.causal else self.hidden**2)

    @property
    def parameters(self) -> int:
        """All trainable values: matrices, embeddings, biases and norms, shared ones once."""
        head = self.head_matrices - (self.vocabulary * self.hidden if self.tied else 0)
        if not self.causal:  # biases of both, and the norm between
            head += self.hidden + self._norm + self.vocabulary
        return self.body_parameters + head

    @property
    def body_parameters(self) -> int:
        """All but the head's own."""
        positions = 0 if self.family.rms_norm else self.positions
        embeddings = (self.vocabulary + positions + self.segments) * self.hidden
        norms = (
            2 * self.layers + 1
        ) * self._norm  # the last one ends norm-first models, opens BERT
        if self.family.query_key_norm:
            norms += 2 * self.layers * self.head_dim
        return embeddings + self.block_matrices + self._biases() + norms

    @property
    def _norm(self) -> int:
        """Weights of one norm."""
        return self.hidden if self.family.rms_norm else 2 * self.hidden

    def _biases(self) -> int:
        qkv = self.queries + 2 * self.keys
        inner = self.intermediate * (2 if self.gated else 1)
        each = {
            "none": 0,
            "qkv": qkv,
            "attention": qkv + self.hidden,
            "all": qkv + inner + 2 * self.hidden,
        }
        return self.layers * each[self.bias]


def get_model(name_or_path: str) -> Transformer:
    """A model by its name, or of a transformers ``config.json`` by the path of file or folder.

    Raises:
        UsageError: there is none, or its configuration is of a kind that isn't modelled.
    """
    path = Path(name_or_path)
    if plugins.is_folder(path):
        path /= "config.json"
    elif path.suffix != ".json":
        if name_or_path not in plugins.files("models", ".toml"):
            raise _unknown(name_or_path)
        return _shipped(name_or_path)
    name = path.parent.resolve().name if path.name == "config.json" else path.stem
    said = "".join(sign if sign.isprintable() else " " for sign in name)
    return _transformer(said, _read_json(path), str(path))


def all_models() -> dict[str, Transformer]:
    """Every model by its name: the shipped ones and those below ``GPUBENCH_PATH``."""
    return {name: _shipped(name) for name in plugins.files("models", ".toml")}


def _unknown(name: str) -> UsageError:
    """The error for a name that no model has; a Hugging Face repository is near that of a model."""
    models = all_models()
    repositories = {
        model.source.partition("huggingface.co/")[2].partition(" ")[0]: known
        for known, model in models.items()
    }
    tails = {one.rpartition("/")[2].casefold(): known for one, known in repositories.items()}
    tails.pop("", None)
    error = unknown_name("model", name, models, tails)
    return UsageError(str(error), f"{error.remedy}; or the path of a config.json")


def _shipped(name: str) -> Transformer:
    path = plugins.find("models", name, ".toml")
    return _transformer(name, plugins.read_toml(path), str(path))


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "check the path") from error
    if len(text) > LARGEST_FILE:
        raise UsageError(f"{path} is too large for a configuration", "name a config.json")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}", "mend it, or get it anew") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no configuration", "name a model's config.json")
    return content


def _transformer(name: str, config: Mapping[str, Any], where: str) -> Transformer:
    """The model that transformers would build of ``config``.

    Raises:
        UsageError: a family or a feature that isn't modelled, or a size that can't be.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UsageError(f"{where}: model_type {kind!r} isn't modelled", f"known: {known}")
    family = FAMILIES[kind]
    _refuse_what_is_not_modelled(config, family, where)
    keys = GPT2_KEYS if kind == "gpt2" else {}

    def size(key: str, default: int | None = None) -> int:
        key = keys.get(key, key)
        value = config.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise UsageError(f"{where} lacks {key}", f"a {kind} model can't be sized without it")
        if type(value) is not int or not 0 < value <= LARGEST:
            raise UsageError(f"{where}: {key} = {value!r} is no size", "check the file")
        return value

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    key_value_heads = size("num_key_value_heads", heads)
    if heads % key_value_heads or (hidden % heads and config.get("head_dim") is None):
        raise UsageError(
            f"{where}: {hidden} units, {heads} heads and {key_value_heads} key-value heads "
            "don't divide",
            "check the file",
        )
    tied = _flag(config, "tie_word_embeddings", where)
    return Transformer(
        name=name,
        family=family,
        layers=size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        key_value_heads=key_value_heads,
        head_dim=size("head_dim", hidden // heads),
        intermediate=size("intermediate_size", 4 * hidden if kind == "gpt2" else None),
        vocabulary=size("vocab_size"),
        positions=size("max_position_embeddings"),
        tied=family.tied if tied is None else tied,
        bias=_bias(config, family, where),
        segments=size("type_vocab_size", 2) if kind == "bert" else 0,
        published_parameters=config.get("published_parameters"),
        source=str(config.get("source", "")),
    )


def _flag(config: Mapping[str, Any], key: str, where: str) -> bool | None:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{where}: {key} = {value!r} is not true or false", "check the file")
    return value


def _bias(config: Mapping[str, Any], family: Family, where: str) -> str:
    """Llama's and Qwen3's attention_bias adds one to query, key, value and output."""
    if family.bias == "none" and _flag(config, "attention_bias", where):
        return "attention"
    return family.bias


def _refuse_what_is_not_modelled(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Features of known families that change what a step costs.

    Raises:
        UsageError: the configuration has one.
    """
    if quantised := config.get("quantization_config"):
        raise UsageError(
            f"{where}: quantised weights ({_quantisation(quantised)}) aren't modelled",
            "name the unquantised model; --method qlora trains it from 4-bit weights",
        )
    experts = next((key for key in config if "experts" in key and config[key]), None)
    if experts:
        raise UsageError(
            f"{where}: {experts} says mixture of experts, which isn't modelled",
            "name a dense model",
        )
    activation = config.get("hidden_act") or config.get("activation_function")
    usual = "gelu_new" if family.python_gelu else "silu" if family.gated else "gelu"
    if activation not in (None, usual):
        raise UsageError(
            f"{where}: activation {activation!r} isn't modelled here", f"known: {usual!r}"
        )
    for key in ("add_cross_attention", "is_decoder", "mlp_bias"):
        if config.get(key):
            raise UsageError(f"{where}: {key} isn't modelled", "name a model without it")


def _quantisation(config: Any) -> str:
    """``'gptq', 4 bit``, as far as the configuration says it."""
    known = config if isinstance(config, dict) else {}
    method, bits = known.get("quant_method", "of an unknown kind"), known.get("bits")
    return f"{method!r:.40}" + (f", {bits} bit" if bits in range(1, 33) else "")
