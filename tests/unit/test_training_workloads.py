"""mnist and bert: what they declare, that they train, and that their check finds faults."""

import math
import subprocess
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from gpubench import plugins
from gpubench.device import open_device
from gpubench.errors import Unsupported, UsageError, WrongResult
from gpubench.workload import run_check
from gpubench.workloads import _training, bert, mnist

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

# How FakeTensorMode is told what to build: tensors of the CPU, and of a machine without limits.
FAKE = SimpleNamespace(torch_device="cpu", info=SimpleNamespace(backend="fake"))
MNIST = {"batch": 16, "precision": "fp32"}
TINY = {"size": "tiny", "batch": 4, "sequence": 32, "precision": "fp32"}
BOTH = [pytest.param(mnist.mnist, MNIST, id="mnist"), pytest.param(bert.bert, TINY, id="bert")]
# Every size, and one of them long enough for attention to weigh.
SIZES = [("tiny", 8, 128), ("tiny", 2, 512), ("base", 8, 128), ("large", 2, 512)]


@pytest.fixture(autouse=True)
def one_thread():
    """Small products gain nothing from more, and lose much where other processes want them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ready(workload: Any, params: dict[str, Any], device: Any = None) -> tuple[Any, Any]:
    """The prepared case, and the training behind it."""
    prepared = workload.prepare(device or open_device("cpu"), **params)
    return prepared, prepared.step.__self__


def fake_training(workload: Any, **params: Any) -> Any:
    """A training that knows all shapes and computes nothing; call it under FakeTensorMode."""
    training = ready(workload, params, FAKE)[1]
    # AdamW reads its step counters, which lie on the host, and FakeTensorMode has no values.
    training.optimizer.step = lambda: None
    return training


def fake_mode() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


# --- declared work --------------------------------------------------------------------------


def counted_flops(training: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        training.step()
    return counter.get_total_flops()


@pytest.mark.parametrize("batch", mnist.mnist.axes["batch"])
def test_declared_flops_of_mnist_are_those_torch_counts(batch):
    with fake_mode():
        counted = counted_flops(fake_training(mnist.mnist, batch=batch, precision="bf16"))
    assert mnist.work(batch, "bf16").flops == counted


@pytest.mark.parametrize(("size", "batch", "sequence"), SIZES)
def test_declared_flops_of_bert_are_those_torch_counts(size, batch, sequence):
    """On the CPU dropout rules fused attention out, so nothing is recomputed and counted twice."""
    params = {"size": size, "batch": batch, "sequence": sequence, "precision": "bf16"}
    with fake_mode():
        counted = counted_flops(fake_training(bert.bert, **params))
    assert bert.work(**params).flops == counted


def test_fused_attention_counts_more_by_exactly_one_recomputed_product():
    """The relation that bert's docstring states, per layer, from torch's own formulas."""
    from torch.utils.flop_counter import FlopCounterMode

    batch, heads, sequence, width = 8, 12, 128, 64
    aten = torch.ops.aten
    query = torch.empty(batch, heads, sequence, width, device="meta", dtype=torch.float16)
    with FlopCounterMode(display=False) as counter:
        out, *saved = aten._scaled_dot_product_flash_attention(query, query, query, 0.1)
        log_sum, starts_q, starts_k, longest_q, longest_k, seed, offset, _ = saved
        aten._scaled_dot_product_flash_attention_backward(
            out, query, query, query, out, log_sum, starts_q, starts_k, longest_q, longest_k,
            0.1, False, seed, offset,
        )  # fmt: skip
    hidden = heads * width
    declared = 12 * batch * sequence**2 * hidden
    assert counter.get_total_flops() == declared + 2 * batch * sequence**2 * hidden


@pytest.mark.parametrize("size", bert.SIZES)
@pytest.mark.parametrize("sequence", [128, 1024])
def test_parameters_of_bert_are_counted_right(size, sequence):
    with fake_mode():
        model = bert._model("cpu", bert.SIZES[size], sequence)
        assert bert.parameter_count(size, sequence) == sum(p.numel() for p in model.parameters())


def test_published_sizes_of_bert_are_met():
    """110 and 340 million (Devlin et al. 2019, section 3), rounded as the authors did."""
    assert bert.parameter_count("base") == pytest.approx(110e6, rel=0.02)
    assert bert.parameter_count("large") == pytest.approx(340e6, rel=0.02)


@pytest.mark.parametrize(("workload", "params"), BOTH)
def test_declared_bytes_are_parameters_state_gradients_and_one_batch(workload, params):
    prepared, training = ready(workload, params)
    prepared.step()
    parameters = list(training.model.parameters())
    states = [
        value
        for state in training.optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    expected = 2 * size_of([*parameters, *states]) + size_of([p.grad for p in parameters])
    images_or_tokens, labels = training.batches[0]
    batch = size_of([images_or_tokens] if workload is mnist.mnist else [images_or_tokens, labels])
    assert workload.work(params).bytes == expected + batch


def size_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_work_counts_items_per_step():
    assert mnist.work(64, "fp32").items == 64
    assert bert.work("tiny", 8, 128, "fp32").items == 8 * 128


# --- declared memory ------------------------------------------------------------------------


class Memory(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of all storages alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def peak_memory(
    monkeypatch: Any, workload: Any, params: dict[str, Any], *, as_on_cuda: bool
) -> int:
    """Bytes at the peak of the second step, when the optimizer has its state."""
    from torch.optim import adam

    functional = torch.nn.functional
    attention = functional.scaled_dot_product_attention

    def one_byte_masks(values, p, training, _inplace):
        return torch.native_dropout(values, p, training)[0]

    def fused(query, key, value, **options):
        return attention(query, key, value, **{**options, "dropout_p": 0.0})

    if as_on_cuda:
        monkeypatch.setattr(functional, "dropout", one_byte_masks)
        monkeypatch.setattr(functional, "scaled_dot_product_attention", fused)
    # The optimizers' step counters have no value in FakeTensorMode.
    monkeypatch.setattr(adam, "_get_value", lambda _: 1.0)
    with fake_mode(), Memory() as memory:
        training = ready(workload, params, FAKE)[1]
        for group in training.optimizer.param_groups:
            group["foreach"] = True
        training.step()
        training.step()
    return memory.peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", mnist.mnist.axes["batch"])
def test_declared_footprint_of_mnist_is_what_its_tensors_take(monkeypatch, batch, precision):
    params = {"batch": batch, "precision": precision}
    peak = peak_memory(monkeypatch, mnist.mnist, params, as_on_cuda=True)
    assert mnist.work(**params).footprint == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("fused", [True, False], ids=["as on CUDA", "on a CPU"])
@pytest.mark.parametrize(
    ("size", "batch", "sequence", "precision"),
    [
        ("tiny", 8, 512, "fp32"),
        ("tiny", 32, 128, "bf16"),
        ("base", 2, 512, "bf16"),
    ],
)
def test_declared_footprint_of_bert_is_what_its_tensors_take(
    monkeypatch, size, batch, sequence, precision, fused
):
    params = {"size": size, "batch": batch, "sequence": sequence, "precision": precision}
    peak = peak_memory(monkeypatch, bert.bert, params, as_on_cuda=fused)
    assert bert.footprint(**params, fused=fused) == pytest.approx(peak, rel=0.1)


# --- training -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workload", "params", "precision"),
    [
        pytest.param(workload, params, precision, id=f"{workload.name}-{precision}")
        for workload, params, precisions in (
            (mnist.mnist, MNIST, ("fp32", "bf16")),
            (bert.bert, TINY, ("fp32", "bf16", "fp16")),
        )
        for precision in precisions
    ],
)
def test_every_precision_of_the_processor_steps_and_passes_its_check(workload, params, precision):
    device = open_device("cpu")
    if reason := device.unsupported(precision):
        pytest.skip(reason)
    prepared, training = ready(workload, {**params, "precision": precision}, device)
    prepared.step()
    run_check(prepared)
    prepared.step()
    assert training.model.training
    assert math.isfinite(prepared.outcome()["loss"])
    assert all(parameter.dtype == torch.float32 for parameter in training.model.parameters())


def test_mnist_learns_within_thirty_steps():
    prepared, training = ready(mnist.mnist, {"batch": 64, "precision": "fp32"})
    before = training.model[0].weight.detach().clone()
    prepared.step()
    first = prepared.outcome()["loss"]
    assert not torch.equal(training.model[0].weight, before)
    for _ in range(29):
        prepared.step()
    last = prepared.outcome()
    assert last["loss"] < 0.7 * first
    assert last["accuracy"] > 0.5


@pytest.mark.parametrize(("workload", "params"), BOTH)
def test_the_same_seed_gives_the_same_training(workload, params):
    def losses():
        prepared, training = ready(workload, params)
        found = []
        for _ in range(3):
            prepared.step()
            found.append(float(training.last_loss))
        return found

    first = losses()
    torch.rand(5)
    assert losses() == first
    assert len(set(first)) == 3


@pytest.mark.parametrize(("workload", "params"), BOTH)
def test_batches_are_distinct_and_taken_in_turn(workload, params):
    _, training = ready(workload, params)
    seen = []
    training.train_on = lambda inputs, _: seen.append(inputs)
    for _ in range(len(training.batches) + 1):
        training.step()
    assert seen[0] is seen[-1]
    assert not any(torch.equal(seen[0], other) for other in seen[1:-1])


def test_a_training_that_diverged_is_a_wrong_result():
    prepared, training = ready(mnist.mnist, MNIST)
    training.optimizer.param_groups[0]["lr"] = 1e30
    for _ in range(3):
        prepared.step()
    with pytest.raises(WrongResult, match="diverged"):
        prepared.outcome()


# --- no waiting -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("workload", "params"), BOTH)
def test_forward_and_backward_need_no_value_from_the_device(workload, params, precision):
    """A fake tensor raises where a value is asked for, as a synchronisation would."""
    with fake_mode():
        training = fake_training(workload, **{**params, "precision": precision})
        training.step()
        with pytest.raises(RuntimeError):
            training.last_loss.item()


class Reads(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the tensors whose value the host reads."""

    def __init__(self):
        super().__init__()
        self.tensors: list[Any] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.tensors.append(arguments[0])
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(("precision", "reads"), [("fp32", 0), ("bf16", 0), ("fp16", 1)])
def test_only_gradscaler_reads_back_and_only_once(precision, reads):
    """AdamW's step counters are the exception that is none: torch keeps them on the host.

    GradScaler has to know whether gradients overflowed before it lets the optimizer run, so
    fp16 has one read, and could not run under FakeTensorMode at all.
    """
    if reason := open_device("cpu").unsupported(precision):
        pytest.skip(reason)
    prepared, training = ready(bert.bert, {**TINY, "precision": precision})
    prepared.step()
    with Reads() as found:
        prepared.step()
    counters = {id(state["step"]) for state in training.optimizer.state.values()}
    assert len([tensor for tensor in found.tensors if id(tensor) not in counters]) == reads


# --- faults that the check must find --------------------------------------------------------


def shifted_labels(training):
    loss = training.loss
    classes = 10 if training.held_out else 2
    training.loss = lambda model, inputs, labels: loss(model, inputs, (labels + 1) % classes)


def summed_loss(training):
    loss = training.loss
    training.loss = lambda model, inputs, labels: loss(model, inputs, labels) * len(labels)


def zeroed_gradient(training):
    training.model.get_parameter(training.probes[1]).register_hook(torch.zeros_like)


def missing_gradient(training):
    training.model.get_parameter(training.probes[1]).requires_grad_(False)


def kept_gradients(training):
    training.optimizer.zero_grad = lambda set_to_none: None


def no_update(training):
    training.optimizer.step = lambda: None


def update_without_effect(training):
    training.optimizer.param_groups[0]["lr"] = 0.0


def doubled_update(training):
    training.optimizer.param_groups[0]["lr"] *= 2


def no_learning_rate(training):
    make = training.make_optimizer

    def still(parameters):
        optimizer = make(parameters)
        optimizer.param_groups[0].update(lr=0.0)
        return optimizer

    training.make_optimizer = still
    training.optimizer.param_groups[0]["lr"] = 0.0


def forgotten_optimizer_state(training):
    step = training.optimizer.step

    def forgetful():
        training.optimizer.state.clear()
        step()

    training.optimizer.step = forgetful


FAULTS = [
    shifted_labels,
    summed_loss,
    zeroed_gradient,
    missing_gradient,
    kept_gradients,
    no_update,
    update_without_effect,
    doubled_update,
    no_learning_rate,
    forgotten_optimizer_state,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize(("workload", "params"), BOTH)
def test_the_check_finds(workload, params, plant):
    """With bf16's tolerance, the widest."""
    prepared, training = ready(workload, {**params, "precision": "bf16"})
    prepared.step()
    plant(training)
    with pytest.raises(WrongResult):
        run_check(prepared)
    assert training.model.training


class SilentTf32(torch.overrides.TorchFunctionMode):
    """Layers whose operands lose the 13 bits that TF32 drops."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function in (torch.nn.functional.linear, torch.nn.functional.conv2d):
            values, weight, *rest = arguments
            arguments = (rounded(values), rounded(weight), *rest)
        return function(*arguments, **(keywords or {}))


def rounded(values):
    with torch.no_grad():
        low = ((values.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)
    return values + (low - values).detach()


@pytest.mark.parametrize(
    "mode", [SilentTf32, lambda: torch.autocast("cpu", dtype=torch.bfloat16)], ids=["tf32", "bf16"]
)
@pytest.mark.parametrize(("workload", "params"), BOTH)
def test_the_check_finds_low_precision_where_fp32_was_asked_for(workload, params, mode):
    prepared, training = ready(workload, params)
    training.autocast = mode
    prepared.step()
    with pytest.raises(WrongResult):
        run_check(prepared)


def test_the_check_waits_for_a_loss_scale_that_does_not_overflow():
    device = open_device("cpu")
    if reason := device.unsupported("fp16"):
        pytest.skip(reason)
    prepared, training = ready(bert.bert, {**TINY, "precision": "fp16"}, device)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    weight = training.model.classifier.weight
    before = weight.detach().clone()
    prepared.step()
    assert torch.equal(weight, before), "the first step should overflow and be skipped"
    run_check(prepared)
    assert training.scaler.get_scale() < 2.0**24
    training.loss = lambda model, inputs, labels: model(inputs).logits.sum() * math.inf
    with pytest.raises(WrongResult, match="every loss scale"):
        run_check(prepared)


def test_the_float64_twin_shares_nothing_with_the_model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    twin = _training._float64_twin(model)
    pairs = list(zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert all(ours.data_ptr() != theirs.data_ptr() for ours, theirs in pairs)
    torch.testing.assert_close(
        [ours for ours, _ in pairs], [theirs for _, theirs in pairs], check_dtype=False
    )
    assert {t.dtype for t in twin.parameters()} == {torch.float64}


# --- refusals and surroundings --------------------------------------------------------------


def test_float16_convolutions_are_refused_on_a_processor():
    with pytest.raises(Unsupported, match="float16 convolutions"):
        ready(mnist.mnist, {**MNIST, "precision": "fp16"})


def test_a_step_larger_than_the_processors_memory_is_refused():
    small = SimpleNamespace(
        torch_device="cpu", info=SimpleNamespace(backend="cpu", memory_bytes=2**20)
    )
    with pytest.raises(Unsupported, match="GiB"):
        ready(bert.bert, TINY, small)


def test_missing_transformers_is_unsupported_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Unsupported, match="transformers") as caught:
        ready(bert.bert, TINY)
    assert "pip install" in caught.value.remedy


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(UsageError, match="bse") as caught:
        bert.work("bse", 8, 128, "fp32")
    assert "base" in caught.value.remedy


def test_the_attention_kernel_is_noted():
    """With dropout torch has no fused attention on a CPU."""
    prepared, _ = ready(bert.bert, TINY)
    assert prepared.notes["attention"] == "math"
    assert prepared.notes["optimizer"].startswith("AdamW")


def test_the_helper_is_no_workload():
    assert "_training" not in plugins.files("workloads", ".py")


def test_importing_and_planning_needs_no_torch():
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, numpy=None)\n"
        "from gpubench.workloads import bert, mnist\n"
        "assert [w.work(dict(c.params)).flops for w in (bert.bert, mnist.mnist)"
        " for c in w.cases()]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bert_neither_talks_to_the_network_nor_prints():
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from gpubench.device import open_device\n"
        "from gpubench.workloads.bert import bert\n"
        f"bert.prepare(open_device('cpu'), **{TINY}).step()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.stderr == ""
