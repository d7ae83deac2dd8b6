"""Every case of the full suite against torch's own count of its FLOPs, without running it.

Fake tensors have shapes and types and no values, so that a step of any size takes seconds. The
device is the processor; a backward pass on a fake card aborts the process.
"""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from gpubench.suite import load_suite  # noqa: E402
from gpubench.workload import get_workload  # noqa: E402
from gpubench.workloads import bert  # noqa: E402

# Tensors of the processor's, on a machine without limits to its memory or its formats.
FAKE = SimpleNamespace(torch_device="cpu", info=SimpleNamespace(backend="fake"))
TRAININGS = {"mnist", "bert"}
PRODUCTS = {"gemm", "conv2d", "attention"} | TRAININGS


def cases():
    """(workload, precision) → parameters of each case; each once, whatever its cache."""
    found = {}
    for case in load_suite("full").cases:
        params = dict(case.params)
        same = found.setdefault((case.workload, case.precision), [])
        if params not in same:
            same.append(params)
    return found


CASES = cases()
# Twelve layers take seconds, forward and backward: each of BERT's shapes is counted in one
# precision. What it declares in the others is the same, and a test says so.
BERT = {precision: params for (name, precision), params in CASES.items() if name == "bert"}
for number, precision in enumerate(BERT):
    CASES["bert", precision] = BERT[precision][number :: len(BERT)]


def fake_step(workload, params):
    step = get_workload(workload).prepare(FAKE, **params).step
    if workload in TRAININGS:
        training = step.__self__
        # AdamW's counters and the overflow of FP16 are values, which fake tensors don't have;
        # neither has products.
        training.optimizer.step = lambda: None
        training.scaler = torch.amp.GradScaler("cpu", enabled=False)
    return step


def test_the_suite_is_covered():
    assert {workload for workload, _ in CASES} > PRODUCTS
    precisions = {precision for workload, precision in CASES if workload in PRODUCTS}
    assert precisions == {"fp32", "tf32", "fp16", "bf16", "fp64"}


@pytest.mark.parametrize(("workload", "precision"), [key for key in CASES if key[0] in PRODUCTS])
def test_every_case_of_the_full_suite_declares_the_flops_that_torch_counts(
    workload, precision, counted_flops
):
    for params in CASES[workload, precision]:
        with FakeTensorMode():
            found = counted_flops(fake_step(workload, params))
        # A causal mask halves what is declared; torch counts the products as if there was none.
        masked = 2 if params.get("causal") else 1
        assert found == masked * get_workload(workload).work(params).flops, params


def test_bert_declares_the_same_flops_in_every_precision():
    work = get_workload("bert").work
    declared = {key: [work(params).flops for params in shapes] for key, shapes in BERT.items()}
    assert {len(flops) for flops in declared.values()} == {12}
    assert all(flops == declared["fp32"] for flops in declared.values())


@pytest.mark.parametrize("operation", ["copy", "triad"])
def test_of_what_has_no_products_torch_counts_none(operation, counted_flops):
    """torch counts products alone; an addition and a multiplication an element are declared."""
    for params in CASES["memory", "fp32"]:
        if params["operation"] == operation:
            with FakeTensorMode():
                assert counted_flops(fake_step("memory", params)) == 0
            elements = params["mib"] * 2**20 // 4
            expected = {"copy": 0, "triad": 2 * elements}[operation]
            assert get_workload("memory").work(params).flops == expected


@pytest.mark.parametrize("size", bert.SIZES)
@pytest.mark.parametrize(("batch", "sequence"), [(8, 128), (2, 512)])
def test_bert_takes_six_flops_a_weight_and_token_and_twelve_for_attention(size, batch, sequence):
    """6·N_mm·T + 12·L·B·S²·h, with the weights counted in transformers' model."""
    shape = bert.SIZES[size]
    with FakeTensorMode():
        model = bert._model("cpu", shape, sequence)
        linear = {
            name: module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
    per_token = sum(n for name, n in linear.items() if ".encoder." in name)
    per_sequence = sum(linear.values()) - per_token  # pooler and classifier
    tokens = batch * sequence
    expected = (
        6 * per_token * tokens
        + 12 * shape.layers * batch * sequence**2 * shape.hidden
        + 6 * per_sequence * batch
    )
    assert bert.work(size, batch, sequence, "fp32").flops == expected
