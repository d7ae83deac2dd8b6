"""What a job is said to need is what torch itself takes for it, on fake tensors."""

import functools
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import job as job_module
from gpubench import plugins
from gpubench.errors import UsageError
from gpubench.job import METHODS, PRECISIONS, STATE_BYTES, Job, get_model

GIB = 2**30
TOLERANCE = 0.15
# Small enough to fake in a moment, with every part of the family: grouped queries, a gated MLP.
SMALL = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": 8000,
        "max_position_embeddings": 1024,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 512,
        "n_layer": 4,
        "n_head": 8,
        "vocab_size": 8000,
        "n_positions": 1024,
    },
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 1408,
        "vocab_size": 8000,
        "max_position_embeddings": 1024,
    },
}


@pytest.fixture(scope="module")
def fake():
    """The measuring helper beside this file, which needs torch and transformers."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    path = Path(__file__).with_name("fake_memory.py")
    spec = importlib.util.spec_from_file_location("fake_memory", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@functools.cache
def shipped(name):
    ours = ("summary", "source", "published_parameters")
    content = plugins.read_toml(plugins.find("models", name, ".toml"))
    return {key: value for key, value in content.items() if key not in ours}


@pytest.fixture
def small(tmp_path):
    """The model of a configuration in SMALL."""

    def make(kind):
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(SMALL[kind]))
        return get_model(str(path))

    return make


# --- memory ---------------------------------------------------------------------------------

CORNERS = [(8, 128), (64, 128), (8, 512), (64, 512)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch", "sequence"), CORNERS)
@pytest.mark.parametrize("name", ["bert-base", "bert-large"])
def test_the_peak_of_training_bert_is_that_of_a_fake_step(
    fake, name, batch, sequence, precision, checkpointing
):
    job = Job(
        get_model(name),
        precision=precision,
        batch=batch,
        sequence=sequence,
        checkpointing=checkpointing,
    )
    measured = fake.measure(shipped(name), job)
    assert job.memory().tensor_bytes == pytest.approx(measured.peak_bytes, rel=TOLERANCE)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("batch", [2, 32])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(
    ("method", "precision"),
    [("full", "fp32"), ("full", "bf16"), ("lora", "fp32"), ("lora", "bf16"), ("qlora", "bf16")],
)
@pytest.mark.parametrize("kind", SMALL)
def test_the_peak_of_other_models_and_methods_is_that_of_a_fake_step(
    fake, small, kind, method, precision, checkpointing, batch, optimizer
):
    job = Job(small(kind), method, precision, optimizer, batch, 256, checkpointing)
    measured = fake.measure(SMALL[kind], job)
    assert job.memory().tensor_bytes == pytest.approx(measured.peak_bytes, rel=TOLERANCE)
