"""The microbenchmarks declare the work they do, and their checks let no wrong result pass."""

import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpubench import plugins
from gpubench.device import open_device
from gpubench.errors import Unsupported, UsageError, WrongResult
from gpubench.program import require_cupy
from gpubench.workload import PRECISION_BYTES, run_check
from gpubench.workloads import attention as attention_file
from gpubench.workloads import conv2d as conv2d_file
from gpubench.workloads import gemm as gemm_file
from gpubench.workloads import memory as memory_file

reduction_file = plugins.module("kernels", "reduction")
WORKLOADS = {
    "gemm": gemm_file.gemm,
    "conv2d": conv2d_file.conv2d,
    "attention": attention_file.attention,
    "memory": memory_file.memory,
    "reduction": reduction_file.reduction,
    "softmax": plugins.module("kernels", "softmax").softmax,
    "bias_gelu": plugins.module("kernels", "bias_gelu").bias_gelu,
}
SUM = {"operation": "sum", "implementation": "torch"}
ROWS = {"implementation": "torch", "rows": 300, "columns": 77}
CONV = {"layer": "conv5_3x3", "batch": 2, "layout": "channels_last", "precision": "fp32"}
ATTENTION = {"batch": 2, "heads": 2, "sequence": 96, "head_dim": 32, "precision": "fp32"}
BOTH = {**ATTENTION, "direction": "forward_backward"}

# Odd sizes, so that no tile or vector fits.
SMALL = [
    ("gemm", {"shape": "1x1x1"}),
    ("gemm", {"shape": "65x33x17"}),
    ("gemm", {"shape": "200x256x250"}),
    ("conv2d", {**CONV, "direction": "forward"}),
    ("conv2d", {**CONV, "direction": "forward_backward"}),
    ("conv2d", {**CONV, "layout": "contiguous", "direction": "forward_backward", "batch": 1}),
    ("conv2d", {**CONV, "layer": "conv3_shortcut", "direction": "forward_backward"}),
    ("attention", {**ATTENTION, "direction": "forward", "causal": False}),
    ("attention", {**ATTENTION, "direction": "forward", "causal": True, "sequence": 600}),
    ("attention", {**BOTH, "causal": False}),
    ("attention", {**BOTH, "causal": True, "sequence": 2}),
    ("attention", {**BOTH, "causal": True, "sequence": 100}),
    ("attention", {**BOTH, "causal": True, "sequence": 520}),
    ("memory", {"operation": "copy", "mib": 3}),
    ("memory", {"operation": "triad", "mib": 3}),
    ("reduction", {**SUM, "n": 0}),
    ("reduction", {**SUM, "n": 1}),
    ("reduction", {**SUM, "n": 100_003}),
    ("reduction", {**SUM, "operation": "max", "n": 100_003}),
    ("reduction", {**SUM, "operation": "argmax", "n": 100_003}),
    ("softmax", ROWS),
    ("bias_gelu", ROWS),
]


@pytest.fixture(scope="module")
def device():
    return open_device("cpu")


def prepare(device, name, params):
    return WORKLOADS[name].prepare(device, **params)


@pytest.mark.parametrize("shape", gemm_file.SQUARES + gemm_file.TRANSFORMER_LAYERS)
def test_gemm_declares_the_flops_that_torch_counts(device, counted_flops, shape):
    params = {"shape": shape, "precision": "fp32"}
    with FakeTensorMode():
        step = prepare(device, "gemm", params).step
        assert counted_flops(step) == gemm_file.gemm.work(params).flops


@pytest.mark.parametrize("direction", conv2d_file.DIRECTIONS)
@pytest.mark.parametrize("layer", conv2d_file.LAYERS)
def test_conv2d_declares_the_flops_that_torch_counts(device, counted_flops, layer, direction):
    params = {**CONV, "layer": layer, "direction": direction}
    with FakeTensorMode():
        step = prepare(device, "conv2d", params).step
        assert counted_flops(step) == conv2d_file.conv2d.work(params).flops


@pytest.mark.parametrize("direction", attention_file.DIRECTIONS)
@pytest.mark.parametrize(("sequence", "head_dim"), [(512, 64), (1024, 128)])
def test_attention_declares_the_flops_that_torch_counts(
    device, counted_flops, sequence, head_dim, direction
):
    params = {
        **ATTENTION,
        "sequence": sequence,
        "head_dim": head_dim,
        "direction": direction,
        "causal": False,
    }
    with FakeTensorMode():
        step = prepare(device, "attention", params).step
        assert counted_flops(step) == attention_file.attention.work(params).flops


@pytest.mark.parametrize("direction", attention_file.DIRECTIONS)
def test_a_causal_mask_counts_half(direction):
    params = {**ATTENTION, "direction": direction}
    whole = attention_file.attention.work({**params, "causal": False})
    half = attention_file.attention.work({**params, "causal": True})
    assert half.flops == whole.flops / 2
    assert half.bytes == whole.bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_bytes_are_those_of_each_input_and_output_once(precision):
    size = PRECISION_BYTES[precision]

    def declared(name, params):
        return WORKLOADS[name].work({**params, "precision": precision}).bytes

    assert declared("gemm", {"shape": "3x5x7"}) == (3 * 7 + 7 * 5 + 3 * 5) * size
    image, weight, result = 2 * 3 * 224 * 224, 64 * 3 * 7 * 7, 2 * 64 * 112 * 112
    conv1 = {**CONV, "layer": "conv1"}
    forward = declared("conv2d", {**conv1, "direction": "forward"})
    assert forward == (image + weight + result) * size
    assert declared("conv2d", {**conv1, "direction": "forward_backward"}) == 2 * forward
    tensor = 2 * 2 * 96 * 32 * size
    assert declared("attention", {**ATTENTION, "direction": "forward", "causal": False}) == (
        4 * tensor
    )
    assert declared("attention", {**BOTH, "causal": False}) == 8 * tensor
    assert declared("memory", {"operation": "copy", "mib": 5}) == 2 * 5 * 2**20
    assert declared("memory", {"operation": "triad", "mib": 5}) == 3 * 5 * 2**20
    assert declared("reduction", {**SUM, "n": 77}) == 77 * size
    rows = {"implementation": "torch", "rows": 3, "columns": 5}
    assert declared("softmax", rows) == 2 * 3 * 5 * size
    assert declared("bias_gelu", rows) == (2 * 3 + 1) * 5 * size


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_default_case_declares_flops_bytes_and_enough_memory_for_its_bytes(name):
    for case in WORKLOADS[name].cases():
        work = WORKLOADS[name].work(dict(case.params))
        assert work.flops is not None
        assert work.bytes > 0
        assert work.bytes <= work.footprint


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "fp64"])
@pytest.mark.parametrize(("name", "params"), SMALL)
def test_right_results_pass_the_check(device, name, params, precision):
    if reason := device.unsupported(precision):
        pytest.skip(reason)
    try:
        prepared = prepare(device, name, {**params, "precision": precision})
    except Unsupported as reason:
        pytest.skip(str(reason))
    prepared.step()
    run_check(prepared)


@pytest.mark.parametrize(("name", "params"), SMALL)
def test_a_copy_does_the_same_on_data_of_its_own(device, name, params, monkeypatch):
    """Copies that shared data would find it in the cache, and a cold time would be a hot one."""
    prepared = prepare(device, name, {"precision": "fp32", **params})
    made, clone, empty = [], torch.Tensor.clone, torch.zeros_like
    monkeypatch.setattr(torch.Tensor, "clone", lambda *args: made.append(clone(*args)) or made[-1])
    monkeypatch.setattr(torch, "zeros_like", lambda *args: made.append(empty(*args)) or made[-1])
    step = prepared.another()
    monkeypatch.undo()
    expected, found = prepared.step(), step()
    torch.testing.assert_close(found, expected, equal_nan=True)
    # All that the case touches was copied: less would be counted as too few copies.
    touched = WORKLOADS[name].work({"precision": "fp32", **params}).bytes
    results = [found] if isinstance(found, torch.Tensor) else list(found)
    places = {part.data_ptr(): part.nbytes for part in [*made, *results]}
    assert sum(places.values()) >= touched


def one_element_wrong(original):
    """The same function, with something else in the last place of its result."""

    def faulty(*args, **kwargs):
        result = original(*args, **kwargs)
        with torch.no_grad():
            result[(-1,) * result.dim()] += 0.3
        return result

    return faulty


def tf32_products(left, right, *, out):
    """What a library does that uses TF32 although nobody allowed it: 10 bits of mantissa."""

    def cut(values):
        return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    return torch.matmul(cut(left), cut(right), out=out)


def without(argument, original):
    """The same function, ignoring one argument."""

    def faulty(*args, **kwargs):
        return original(*args, **{key: kwargs[key] for key in kwargs if key != argument})

    return faulty


def gradient_times(factor, index):
    """autograd.grad with one of its gradients wrong."""
    original = torch.autograd.grad

    def faulty(*args, **kwargs):
        return tuple(
            gradient * (factor if position == index else 1)
            for position, gradient in enumerate(original(*args, **kwargs))
        )

    return faulty


def last_tile_lost(original):
    """Attention whose last rows were never written."""

    def faulty(*args, **kwargs):
        result = original(*args, **kwargs).clone()
        result[..., -16:, :] = 0
        return result

    return faulty


def half_done(target, source):
    """A copy that stops in the middle."""
    middle = len(target) // 2
    target[:middle] = source[:middle]
    return target


functional = torch.nn.functional


FAULTS = {
    "gemm: one element": (
        ("gemm", {"shape": "100x90x80", "precision": "fp32"}),
        (torch, "mm", one_element_wrong(torch.mm)),
    ),
    "gemm: nothing written": (
        ("gemm", {"shape": "100x90x80", "precision": "fp32"}),
        (torch, "mm", lambda left, right, *, out: out),
    ),
    "gemm: silent TF32, short": (
        ("gemm", {"shape": "100x90x64", "precision": "fp32"}),
        (torch, "mm", tf32_products),
    ),
    "gemm: silent TF32, long": (
        ("gemm", {"shape": "64x64x16384", "precision": "fp32"}),
        (torch, "mm", tf32_products),
    ),
    "conv2d: one element": (
        ("conv2d", {**CONV, "direction": "forward"}),
        (functional, "conv2d", one_element_wrong(functional.conv2d)),
    ),
    "conv2d: stride forgotten": (
        ("conv2d", {**CONV, "layer": "conv3_shortcut", "direction": "forward"}),
        (functional, "conv2d", without("stride", functional.conv2d)),
    ),
    "conv2d: input gradient": (
        ("conv2d", {**CONV, "direction": "forward_backward"}),
        (torch.autograd, "grad", gradient_times(1.01, 0)),
    ),
    "conv2d: weight gradient": (
        ("conv2d", {**CONV, "direction": "forward_backward"}),
        (torch.autograd, "grad", gradient_times(1.01, 1)),
    ),
    "attention: mask forgotten": (
        ("attention", {**ATTENTION, "direction": "forward", "causal": True}),
        (
            functional,
            "scaled_dot_product_attention",
            without("is_causal", functional.scaled_dot_product_attention),
        ),
    ),
    "attention: last rows lost": (
        ("attention", {**ATTENTION, "direction": "forward", "causal": True, "precision": "bf16"}),
        (
            functional,
            "scaled_dot_product_attention",
            last_tile_lost(functional.scaled_dot_product_attention),
        ),
    ),
    **{
        f"attention: {name} gradient": (
            ("attention", {**BOTH, "causal": True, "precision": "bf16"}),
            (torch.autograd, "grad", gradient_times(1.1, index)),
        )
        for index, name in enumerate(("query", "key", "value"))
    },
    "memory: half a copy": (
        ("memory", {"operation": "copy", "mib": 1, "precision": "fp32"}),
        (torch.Tensor, "copy_", half_done),
    ),
    "memory: scalar forgotten": (
        ("memory", {"operation": "triad", "mib": 1, "precision": "fp32"}),
        (torch, "add", without("alpha", torch.add)),
    ),
    **{
        f"reduction: one element left out, {precision}": (
            ("reduction", {**SUM, "n": 10_007, "precision": precision}),
            (torch.Tensor, "sum", lambda values: values[:-1].double() @ values[:-1].double() ** 0),
        )
        for precision in ("fp32", "fp64", "int32")
    },
    **{
        f"reduction: {operation} {fault}": (
            ("reduction", {**SUM, "operation": operation, "n": 10_007, "precision": "fp16"}),
            (torch.Tensor, operation, wrong),
        )
        for operation, fault, wrong in (
            ("max", "of all but the greatest", lambda values: values.sort().values[-2]),
            ("max", "not there", lambda values: values.sort().values[-1] * 2),
            ("argmax", "elsewhere", lambda values: torch.tensor(17)),
        )
    },
    "softmax: over columns": (
        ("softmax", {**ROWS, "precision": "bf16"}),
        (torch, "softmax", lambda values, dim: values.float().softmax(0).to(values.dtype)),
    ),
    "bias_gelu: another formula": (
        ("bias_gelu", {**ROWS, "precision": "fp32"}),
        (torch.nn.functional, "gelu", lambda values: torch.sigmoid(1.702 * values) * values),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32])
def test_the_index_of_the_last_of_equal_ones_is_caught(dtype):
    values = torch.tensor([1, 3, 2, 3, 0], dtype=dtype)
    reduction_file._check_maximum(values, 1, "argmax")
    with pytest.raises(AssertionError, match="not first"):
        reduction_file._check_maximum(values, 3, "argmax")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_result_is_caught(device, monkeypatch, fault):
    (name, params), patch = FAULTS[fault]
    run_check(prepare(device, name, params))
    monkeypatch.setattr(*patch)
    with pytest.raises(WrongResult):
        run_check(prepare(device, name, params))


@pytest.mark.parametrize(
    "shape", ["512", "512x512", "4x4x4x4", "4x-4x4", "0x4x4", "axbxc", "4×4×4"]
)
def test_a_malformed_shape_is_refused_with_the_right_spelling(device, shape):
    params = {"shape": shape, "precision": "fp32"}
    for refuse in (lambda: gemm_file.gemm.work(params), lambda: prepare(device, "gemm", params)):
        with pytest.raises(UsageError) as refusal:
            refuse()
        assert shape in str(refusal.value)
        assert "MxNxK" in refusal.value.remedy


@pytest.mark.parametrize(
    ("name", "params", "offer"),
    [
        ("conv2d", {**CONV, "direction": "forward", "layer": "conv9"}, "conv2_3x3"),
        ("conv2d", {**CONV, "direction": "backwards"}, "forward_backward"),
        ("conv2d", {**CONV, "direction": "forward", "layout": "NHWC"}, "channels_last"),
        ("attention", {**ATTENTION, "causal": False, "direction": "back"}, "forward_backward"),
        ("memory", {"operation": "scale", "mib": 1, "precision": "fp32"}, "triad"),
        ("reduction", {**SUM, "implementation": "numpy", "n": 1, "precision": "fp32"}, "cupy"),
        ("reduction", {**SUM, "operation": "min", "n": 1, "precision": "fp32"}, "argmax"),
        ("reduction", {**SUM, "n": -1, "precision": "fp32"}, "0 or more"),
        ("reduction", {**SUM, "operation": "max", "n": 0, "precision": "fp32"}, "1 or more"),
        ("softmax", {**ROWS, "columns": 0, "precision": "fp32"}, "1 or more"),
        ("softmax", {**ROWS, "implementation": "cupy", "precision": "fp32"}, "kernel"),
        ("bias_gelu", {**ROWS, "rows": 0, "precision": "fp32"}, "1 or more"),
        ("bias_gelu", {**ROWS, "implementation": "cupy", "precision": "fp32"}, "kernel"),
    ],
)
def test_an_unknown_value_is_refused_with_what_there_is(name, params, offer):
    with pytest.raises(UsageError) as refusal:
        WORKLOADS[name].work(params)
    assert offer in refusal.value.remedy


def test_fp16_products_that_fall_off_a_cliff_are_unsupported(device, monkeypatch):
    beyond = {"shape": "257x8x8", "precision": "fp16"}
    monkeypatch.setattr(gemm_file, "_has_fast_half", lambda: False)
    with pytest.raises(Unsupported, match="110 times"):
        prepare(device, "gemm", beyond)
    prepare(device, "gemm", {**beyond, "shape": "256x256x256"})
    prepare(device, "gemm", {**beyond, "precision": "bf16"})
    monkeypatch.setattr(gemm_file, "_has_fast_half", lambda: True)
    prepare(device, "gemm", beyond)


def test_fp16_gradients_of_convolutions_are_unsupported_on_a_cpu(device):
    half = {**CONV, "precision": "fp16"}
    with pytest.raises(Unsupported, match="120 times"):
        prepare(device, "conv2d", {**half, "direction": "forward_backward"})
    prepare(device, "conv2d", {**half, "direction": "forward"})


@pytest.mark.parametrize(("backend", "name"), [(None, "flash_attention"), ("MATH", "math")])
def test_the_kernel_that_ran_is_noted(device, backend, name):
    prepared = prepare(device, "attention", {**ATTENTION, "direction": "forward", "causal": False})
    with sdpa_kernel(getattr(SDPBackend, backend)) if backend else nullcontext():
        run_check(prepared)
    assert prepared.notes == {"sdpa_kernel": name}
    assert name.upper() in SDPBackend.__members__


def test_a_kernel_that_is_not_known_is_not_noted(device, monkeypatch):
    monkeypatch.setattr(attention_file, "KERNELS", {})
    prepared = prepare(device, "attention", {**ATTENTION, "direction": "forward", "causal": False})
    run_check(prepared)
    assert "sdpa_kernel" not in prepared.notes


def test_every_kernel_name_is_one_of_torchs():
    assert {name.upper() for name in attention_file.KERNELS.values()} <= set(SDPBackend.__members__)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *(
            ("reduction", {**SUM, "implementation": implementation, "n": 10})
            for implementation in reduction_file.IMPLEMENTATIONS[1:]
        ),
        ("softmax", {**ROWS, "implementation": "kernel"}),
        ("bias_gelu", {**ROWS, "implementation": "kernel"}),
    ],
)
def test_cupy_is_unsupported_off_nvidia_cards(device, name, params):
    with pytest.raises(Unsupported, match="NVIDIA"):
        prepare(device, name, {**params, "precision": "fp32"})


def test_missing_cupy_is_unsupported_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    card = SimpleNamespace(info=SimpleNamespace(backend="cuda"))
    with pytest.raises(Unsupported, match=r"'\.\[cuda12\]'.*\[cuda13\]"):
        require_cupy(card)


def test_importing_the_workloads_loads_no_heavy_library():
    program = """
import sys
from gpubench import plugins
for name in ("gemm", "conv2d", "attention", "memory"):
    plugins.module("workloads", name)
for name in ("reduction", "softmax", "bias_gelu"):
    plugins.module("kernels", name)
print(*sorted({"torch", "cupy", "numpy", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
