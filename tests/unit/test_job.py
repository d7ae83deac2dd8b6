"""What a job is said to need is what torch itself takes for it, on fake tensors."""

import functools
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import evidence, plugins
from gpubench.errors import UsageError
from gpubench.job import HEADS, LARGEST_BATCH, METHODS, PRECISIONS, STATE_BYTES, Job, get_model
from gpubench.workloads import bert as bert_workload

GIB = 2**30
TOLERANCE = 0.15
# Small enough to fake in a moment, with every part of the family: grouped queries, a gated MLP.
SMALL = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": 1000,
        "max_position_embeddings": 1024,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 512,
        "n_layer": 3,
        "n_head": 8,
        "vocab_size": 1000,
        "n_positions": 1024,
    },
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 1408,
        "vocab_size": 1000,
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


@pytest.fixture(scope="module", params=["bert-base", "bert-large"])
def bert(request, fake):
    """Jobs at the corners of the gate, and the peak of a fake step of each."""
    jobs = [
        Job(
            get_model(request.param),
            precision=precision,
            batch=batch,
            sequence=sequence,
            checkpointing=checkpointing,
            head="lm",
        )
        for batch, sequence in ((8, 128), (64, 512))
        for precision in ("fp32", "bf16")
        for checkpointing in (False, True)
    ]
    return {
        job: measured.peak_bytes
        for job, measured in zip(jobs, fake.measure_all(shipped(request.param), jobs), strict=True)
    }


def test_the_peak_of_training_bert_is_that_of_a_fake_step(bert):
    """The gate is 15 %; what the model reaches is held, so that no part of it can go missing."""
    for job, peak in bert.items():
        assert job.memory().tensor_bytes == pytest.approx(peak, rel=0.01), job


@pytest.mark.parametrize(
    ("method", "precision"),
    [("full", "fp32"), ("full", "bf16"), ("lora", "fp32"), ("lora", "bf16"), ("qlora", "bf16")],
)
def test_the_peak_of_bert_with_classes_is_that_of_a_fake_step(fake, method, precision):
    """With logits of every token in their place, the largest would be a third off."""
    jobs = [
        Job(get_model("bert-base"), method, precision, "adamw", batch, sequence, checkpointing)
        for batch, sequence in ((8, 128), (64, 512))
        for checkpointing in (False, True)
    ]
    for job, measured in zip(jobs, fake.measure_all(shipped("bert-base"), jobs), strict=True):
        assert job.head == "classes"
        assert job.memory().tensor_bytes == pytest.approx(measured.peak_bytes, rel=0.04), job
        assert job.model_launches == pytest.approx(measured.kernels, rel=0.15)


def test_a_job_of_bert_needs_what_the_workload_bert_does():
    """Both fine-tune for two classes; the job's memory has context and reserve on top."""
    assert Job(get_model("bert-large")).parameters == bert_workload.parameter_count("large")
    for precision in ("fp32", "bf16"):
        job = Job(get_model("bert-large"), precision=precision, batch=32, sequence=512)
        case = bert_workload.work("large", 32, 512, precision)
        assert job.work().flops == case.flops
        assert job.memory().tensor_bytes == pytest.approx(case.footprint, rel=0.05)


@pytest.mark.parametrize("part", ["weights", "optimizer states", "activations", "logits and loss"])
def test_a_part_left_out_would_trip_the_gate(bert, part):
    """Of each part the job in which it weighs most."""
    job = max(bert, key=lambda job: job.memory().parts[part] / job.memory().tensor_bytes)
    memory = job.memory()
    assert memory.tensor_bytes - memory.parts[part] < (1 - TOLERANCE) * bert[job]


@pytest.mark.parametrize(
    ("method", "precision"),
    [("full", "fp32"), ("full", "bf16"), ("lora", "fp32"), ("lora", "bf16"), ("qlora", "bf16")],
)
@pytest.mark.parametrize("kind", SMALL)
def test_the_peak_of_other_models_and_methods_is_that_of_a_fake_step(
    fake, small, kind, method, precision
):
    jobs = [
        Job(small(kind), method, precision, "sgd", batch, 256, checkpointing)
        for batch in (2, 16)
        for checkpointing in (False, True)
    ]
    for job, measured in zip(jobs, fake.measure_all(SMALL[kind], jobs), strict=True):
        assert job.memory().tensor_bytes == pytest.approx(measured.peak_bytes, rel=0.05), job


def test_the_gradient_of_a_tied_embedding_is_there_three_times(fake):
    """With few tokens and no foreach list it is the peak: the head's, the embedding's, the sum."""
    job = Job(get_model("gpt2"), "full", "fp32", "sgd", 1, 16)
    assert job.memory().moment == "the embedding's gradient"
    peak = fake.measure(shipped("gpt2"), job).peak_bytes
    assert job.memory().tensor_bytes == pytest.approx(peak, rel=0.01)


# --- work -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["bert-base", "bert-large"])
def test_flops_of_bert_are_exactly_those_torch_counts(fake, name, head):
    job = Job(get_model(name), precision="fp32", batch=8, sequence=128, head=head)
    assert job.work().flops == fake.measure(shipped(name), job, attention="math").flops


def test_flops_of_bert_are_those_of_the_textbook():
    """6·N·T + 12·L·B·S²·h with N the weights of the matrices: 6.84e11 at batch 8 × 128."""
    job = Job(get_model("bert-base"), batch=8, sequence=128, head="lm")
    matrices = 12 * 12 * 768**2 + 768**2 + 768 * 30522
    expected = 6 * matrices * 1024 + 12 * 12 * 8 * 128**2 * 768
    assert job.work().flops == expected == pytest.approx(6.84e11, rel=1e-3)


@pytest.mark.parametrize("kind", SMALL)
def test_flops_of_full_training_are_exactly_those_torch_counts(fake, small, kind):
    """Checkpointing included, which stops before the last product where nothing needs it."""
    job = Job(small(kind), "full", "fp32", "adamw", 2, 128)
    jobs = [job, replace(job, checkpointing=True)]
    for job, measured in zip(
        jobs, fake.measure_all(SMALL[kind], jobs, attention="math"), strict=True
    ):
        assert job.work().flops == measured.flops


@pytest.mark.parametrize("name", ["gpt2", "llama-1b"])
def test_flops_of_adapters_are_within_one_percent(fake, name):
    """The first block's inputs have no gradient unless it is checkpointed; that isn't modelled."""
    job = Job(get_model(name), "lora", "fp32", "adamw", 1, 128)
    jobs = [job, replace(job, checkpointing=True)]
    for job, measured in zip(
        jobs, fake.measure_all(shipped(name), jobs, attention="math"), strict=True
    ):
        assert job.work().flops == pytest.approx(measured.flops, rel=0.01)


@pytest.mark.parametrize(
    ("method", "precision"),
    [("full", "fp32"), ("full", "bf16"), ("lora", "fp32"), ("lora", "bf16")],
)
@pytest.mark.parametrize("kind", SMALL)
def test_launches_are_about_the_operations_that_torch_dispatches(
    fake, small, kind, method, precision
):
    job = Job(small(kind), method, precision, "adamw", 1, 64)
    jobs = [job, replace(job, checkpointing=True)]
    for job, measured in zip(jobs, fake.measure_all(SMALL[kind], jobs), strict=True):
        assert job.model_launches == pytest.approx(measured.kernels, rel=0.15)
        assert job.launches > job.model_launches


def test_launches_of_bert_are_about_the_operations_that_torch_dispatches(fake):
    job = Job(get_model("bert-base"), "full", "bf16", "adamw", 1, 64)
    kernels = fake.measure(shipped("bert-base"), job).kernels
    assert job.model_launches == pytest.approx(kernels, rel=0.15)


def test_work_names_tokens_and_the_memory_that_is_needed():
    job = Job(get_model("gpt2"), batch=4, sequence=256)
    work = job.work()
    assert (work.items, work.item) == (1024, "token")
    assert work.footprint == job.memory().total_bytes


def test_traffic_is_that_of_states_at_one_token_and_of_activations_at_many():
    """AdamW alone reads weights, gradients and two moments and writes all but the gradients."""
    model = get_model("gpt2")
    one = Job(model, precision="fp32", batch=1, sequence=1).work().bytes
    assert one == pytest.approx((2 * 4 + 28 + 4) * model.parameters, rel=0.05)
    per_token = Job(model, precision="fp32", batch=8, sequence=1024).work().bytes / 8192
    assert per_token < one / 100


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", ["base", "large"])
def test_a_job_is_the_work_that_the_case_of_its_model_is(size, precision):
    """So the two are predicted alike; the case names no optimizer, which a large step hides."""
    declared = bert_workload.work(size, 32, 384, precision)
    params = {"size": size, "batch": "32", "sequence": "384", "precision": precision}
    case, _, launches = evidence.step_of("bert", params, declared)
    job = Job(get_model(f"bert-{size}"), precision=precision, batch=32, sequence=384)
    assert job.work().flops == pytest.approx(case.flops, rel=1e-6)
    assert job.work().bytes == pytest.approx(case.bytes, rel=0.06)
    assert job.launches == pytest.approx(launches, rel=0.02)


# --- what must hold of any job --------------------------------------------------------------

JOBS = st.builds(
    Job,
    model=st.sampled_from(["bert-base", "gpt2-medium", "llama-8b", "phi-3-mini"]).map(get_model),
    method=st.sampled_from(["full", "lora"]),
    precision=st.sampled_from(PRECISIONS),
    optimizer=st.sampled_from(sorted(STATE_BYTES)),
    batch=st.integers(1, 512),
    sequence=st.integers(1, 512),
    checkpointing=st.booleans(),
    rank=st.integers(1, 64),
)


@given(JOBS)
def test_no_part_is_negative_and_the_parts_are_the_total(job):
    memory = job.memory()
    assert min(memory.parts.values()) >= 0
    assert sum(memory.parts.values()) == memory.total_bytes > memory.tensor_bytes
    assert memory.tensor_bytes >= memory.parts["weights"] + memory.parts["optimizer states"]


@given(JOBS)
def test_a_larger_job_never_needs_less(job):
    for larger in (
        replace(job, batch=job.batch + 1),
        replace(job, sequence=min(512, job.sequence + 1)),
        replace(job, rank=job.rank + 1),
    ):
        assert larger.memory().total_bytes >= job.memory().total_bytes
        assert larger.work().flops >= job.work().flops


@given(JOBS)
def test_checkpointing_trades_flops_for_memory(job):
    kept, again = replace(job, checkpointing=False), replace(job, checkpointing=True)
    assert kept.work().flops < again.work().flops < 1.55 * kept.work().flops
    if job.batch * job.sequence > 2000:
        assert again.memory().total_bytes <= kept.memory().total_bytes


@given(JOBS, st.floats(0, 200))
def test_the_largest_batch_fits_and_one_more_does_not(job, gibibytes):
    largest = job.largest_batch(gibibytes * GIB)
    if largest:
        assert replace(job, batch=largest).memory().total_bytes <= gibibytes * GIB
    if largest < LARGEST_BATCH:
        assert replace(job, batch=largest + 1).memory().total_bytes > gibibytes * GIB


def test_no_memory_makes_a_batch_larger_than_a_job_may_have():
    shortest = Job(get_model("bert-base"), sequence=1, checkpointing=True)
    assert shortest.largest_batch(1e4 * GIB) == LARGEST_BATCH


def test_adapters_and_four_bits_each_save_memory():
    needs = {method: Job(get_model("llama-8b"), method).memory().total_bytes for method in METHODS}
    assert needs["full"] > 100e9
    assert 16e9 < needs["lora"] < 24e9
    assert needs["qlora"] < 12e9


def test_eight_bit_states_are_a_quarter_and_a_little():
    full, eight = (
        Job(get_model("gpt2"), optimizer=name).memory().parts["optimizer states"]
        for name in ("adamw", "adamw8bit")
    )
    assert full / 4 < eight < 1.02 * full / 4


def test_four_bit_weights_are_those_of_the_paper():
    """4.127 bits a weight (Dettmers et al. 2023, section 3); embeddings and head have 16."""
    model = get_model("llama-8b")
    weights = Job(model, "qlora", rank=1).memory().parts["weights"]
    rest = model.parameters - model.block_matrices
    adapters = 4 * Job(model, "qlora", rank=1).trained
    assert weights == pytest.approx(
        4.127 / 8 * model.block_matrices + 2 * rest + adapters, rel=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "dora"}, "no method is named 'dora'"),
        ({"precision": "fp8"}, "no training precision is named 'fp8'"),
        ({"optimizer": "adam"}, "no optimizer is named 'adam'"),
        ({"batch": 0}, "batch 0"),
        ({"batch": 2.5}, "batch 2.5"),
        ({"batch": True}, "batch True"),
        ({"sequence": 2000}, "sequence 2000 is not a whole number from 1 to 1024"),
        ({"rank": 0}, "rank 0"),
        ({"head": "pooler"}, "no head is named 'pooler'"),
        ({"head": "classes"}, "no head is named 'classes'"),  # of a decoder
        ({"method": "qlora", "precision": "fp32"}, "16 bit"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, words):
    with pytest.raises(UsageError, match=words) as caught:
        Job(get_model("gpt2"), **wrong)
    assert caught.value.remedy


def test_importing_it_needs_neither_torch_nor_numpy():
    code = "import sys, gpubench.job; print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_four_bit_weights_save_memory_and_move_more_bytes_than_sixteen_bit_ones():
    """Each is expanded to 16 bit in memory before its product: QLoRA is no faster than LoRA."""
    model = get_model("llama-8b")
    lora, qlora = (Job(model, method, batch=1, sequence=512) for method in ("lora", "qlora"))
    assert qlora.memory().total_bytes < lora.memory().total_bytes
    assert qlora.work().bytes > lora.work().bytes
    assert qlora.work().flops == lora.work().flops
