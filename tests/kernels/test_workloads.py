"""The workloads' own launches, with the very same kernels on this processor in a card's place."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from gpubench import plugins, program
from gpubench.device import open_device
from gpubench.errors import Unsupported, UsageError, WrongResult
from gpubench.workload import run_check
from rungs.on_cpu import Schedule
from rungs.programs import bias_gelu, reduction, softmax

MULTIPROCESSORS = 2


@pytest.fixture
def launches(library, monkeypatch):
    """A card of two multiprocessors, as far as the workloads can tell; what was launched."""
    log = []

    def function(self, kernel, device):
        def call(grid, block, arguments):
            assert block == (program.THREADS,)
            log.append((kernel, grid))
            library(self.name).launch(kernel, grid, arguments, Schedule("random", len(log)))

        return call

    monkeypatch.setattr(program.Program, "function", function)
    has_room_for(monkeypatch, 1024)
    for module in (reduction, softmax, bias_gelu):
        monkeypatch.setattr(module, "require_cupy", lambda device: None)
        monkeypatch.setattr(module, "on_torch_stream", lambda call: call)
    return log


def has_room_for(monkeypatch, threads):
    """Each multiprocessor, as far as the workloads can tell."""
    card = SimpleNamespace(
        multi_processor_count=MULTIPROCESSORS, max_threads_per_multi_processor=threads
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)


@pytest.fixture(scope="module")
def device():
    return open_device("cpu")


@pytest.mark.parametrize("n", [1, 1000, 50_000])
@pytest.mark.parametrize("variant", reduction.VARIANTS)
@pytest.mark.parametrize(("operation", "precision"), sorted(reduction.PROGRAMS))
def test_a_reduction_passes_its_own_check(launches, device, operation, precision, variant, n):
    run_check(reduction.reduction.prepare(device, operation, variant, n, precision))


@pytest.mark.parametrize(
    ("n", "blocks"), [(0, 1), (1, 1), (4096, 1), (4097, 2), (32768, 8), (10**6, 8)]
)
def test_there_are_no_more_blocks_than_have_work_or_find_room(launches, n, blocks):
    assert float(reduction.reducer(torch.ones(n))()) == n
    assert launches == [("vectorized", (blocks,)), ("finish", (1,))]


@pytest.mark.parametrize(
    ("operation", "threads", "blocks"),
    [
        ("max", 1024, 4),
        ("argmax", 1024, 4),
        ("max", 1536, 6),
        ("max", 2048, 8),
        ("argmax", 2048, 6),
    ],
)
def test_an_index_which_takes_more_registers_has_fewer_blocks_where_threads_allow_for_more(
    launches, monkeypatch, operation, threads, blocks
):
    has_room_for(monkeypatch, threads)
    reduction.reducer(torch.ones(10**6), operation)()
    assert launches[0] == ("vectorized", (MULTIPROCESSORS * blocks,))


@pytest.mark.parametrize(("threads", "blocks"), [(1024, 4), (1536, 6), (2048, 6)])
def test_rows_of_blocks_for_bias_and_gelu_are_as_many_as_the_card_has_room_for(
    launches, monkeypatch, threads, blocks
):
    has_room_for(monkeypatch, threads)
    bias_gelu.bias_gelu_kernel(torch.ones(100, 1000), torch.ones(1000))()
    assert launches == [("bias_gelu", (1, MULTIPROCESSORS * blocks))]


@pytest.mark.parametrize("variant", reduction.VARIANTS)
def test_the_greatest_of_negative_integers_is_one_of_them(launches, variant):
    values = torch.arange(-700, -6, dtype=torch.int32)
    assert int(reduction.reducer(values, "max", variant)()) == -7


def test_the_fastest_variant_and_the_sum_are_the_default(launches):
    values = torch.arange(10, dtype=torch.int32)
    result = reduction.reducer(values)()
    assert (int(result), result.dtype, result.shape) == (45, torch.int64, ())
    assert launches[0][0] == reduction.DEFAULT_VARIANT == reduction.VARIANTS[-1]


def test_a_call_sees_what_the_array_holds_at_the_time(launches):
    values = torch.zeros(100)
    for variant in reduction.VARIANTS:
        values.fill_(1.0)
        reduce = reduction.reducer(values, "max", variant)
        assert float(reduce()) == 1.0
        values.fill_(-3.0)
        assert float(reduce()) == -3.0  # nothing is left of the first


@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize("variant", reduction.VARIANTS)
def test_a_view_that_begins_anywhere_is_reduced_where_it_lies(launches, variant, offset):
    values = torch.arange(1000, dtype=torch.float64).to(torch.float16)[offset:700].view(-1)
    assert float(reduction.reducer(values, "max", variant)()) == 699
    rows = torch.ones(7, 5)[2:]  # contiguous, of two dimensions
    assert float(reduction.reducer(rows, "sum", variant)()) == 25


@pytest.mark.parametrize(
    ("arguments", "problem", "offer"),
    [
        ((torch.ones(6)[::2],), "contiguous", "contiguous()"),
        ((torch.ones(4, 4).T,), "contiguous", "contiguous()"),
        ((torch.ones(4, dtype=torch.int64),), "torch.int64", "int32"),
        ((torch.ones(4), "min"), "min", "max"),
        ((torch.ones(4), "sum", "fast"), "fast", "vectorized"),
        ((torch.ones(0), "max"), "undefined", "1 or more"),
        ((torch.ones(0), "argmax"), "undefined", "1 or more"),
    ],
)
def test_what_the_kernels_cannot_reduce_is_refused_with_what_they_can(
    launches, arguments, problem, offer
):
    with pytest.raises(UsageError) as refusal:
        reduction.reducer(*arguments)
    assert problem in str(refusal.value)
    assert offer in refusal.value.remedy
    assert launches == []


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_rows_of_no_elements_are_no_launch(launches, shape):
    """CUDA refuses a grid of no blocks."""
    values = torch.ones(shape)
    assert softmax.softmax_kernel(values)().shape == shape
    assert bias_gelu.bias_gelu_kernel(values, torch.ones(shape[1]))().shape == shape
    assert launches == []


@pytest.mark.parametrize("precision", softmax.ELEMENTS)
def test_a_softmax_passes_its_own_check(launches, device, precision):
    run_check(softmax.softmax.prepare(device, "kernel", 7, 300, precision))
    assert launches == [("softmax", (7,))]


@pytest.mark.parametrize("precision", bias_gelu.ELEMENTS)
def test_bias_and_gelu_pass_their_own_check(launches, device, precision):
    run_check(bias_gelu.bias_gelu.prepare(device, "kernel", 7, 3000, precision))
    ((_, (across, down)),) = launches
    assert across * down <= MULTIPROCESSORS * 4 or down == 1


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: softmax.softmax_kernel(torch.ones(3, 4).T), "contiguous"),
        (lambda: softmax.softmax_kernel(torch.ones(3, 4).double()), "float64"),
        (lambda: softmax.softmax_kernel(torch.ones(5)), r"rows × columns.*\(5,\)"),
        (lambda: softmax.softmax_kernel(torch.ones(2, 3, 4)), r"rows × columns.*\(2, 3, 4\)"),
        (lambda: bias_gelu.bias_gelu_kernel(torch.ones(4), torch.ones(4)), r"columns.*\(4,\)"),
        (lambda: bias_gelu.bias_gelu_kernel(torch.ones(1, 1, 4), torch.ones(4)), r"\(1, 1, 4\)"),
        (lambda: bias_gelu.bias_gelu_kernel(torch.ones(3, 4).T, torch.ones(3)), "contiguous"),
        (lambda: bias_gelu.bias_gelu_kernel(torch.ones(3, 4), torch.ones(8)[::2]), "contiguous"),
        (lambda: bias_gelu.bias_gelu_kernel(torch.ones(3, 4), torch.ones(3)), "4 columns"),
        (lambda: bias_gelu.bias_gelu_kernel(torch.ones(3, 4), torch.ones(4).half()), "float16"),
    ],
)
def test_rows_that_the_kernels_cannot_take_are_refused(launches, call, problem):
    with pytest.raises(UsageError, match=problem):
        call()


@pytest.mark.parametrize("name", ["reduction", "softmax", "bias_gelu"])
def test_another_step_keeps_its_own_data(launches, device, name):
    """Copies take turns; each must live as long as its step, and none may share."""
    workload = getattr(plugins.module("kernels", name), name)
    axes = {"reduction": ("max", "vectorized", 500, "fp32")}.get(name, ("kernel", 3, 500, "fp32"))
    prepared = workload.prepare(device, *axes)
    steps = [prepared.step, *(prepared.another() for _ in range(3))]
    results = [step().clone() for step in steps]
    addresses = {step().data_ptr() for step in steps}
    assert len(addresses) == len(steps)
    assert all(torch.equal(results[0], result) for result in results)


@pytest.mark.parametrize(
    ("workload", "axes", "place"),
    [
        (reduction.reduction, ("sum", "vectorized", 50_000, "fp32"), 1),  # elements
        (reduction.reduction, ("max", "shared", 1, "fp32"), 1),
        (softmax.softmax, ("kernel", 7, 300, "fp32"), 2),  # columns
        (bias_gelu.bias_gelu, ("kernel", 7, 300, "fp32"), 3),  # rows
    ],
)
def test_a_launch_that_leaves_out_the_last_one_fails_the_check(
    launches, device, monkeypatch, workload, axes, place
):
    right = program.Program.function

    def one_less(self, kernel, device):
        call = right(self, kernel, device)

        def less(grid, block, arguments):
            changed = list(arguments)
            changed[place] -= kernel != "finish"
            call(grid, block, tuple(changed))

        return less

    monkeypatch.setattr(program.Program, "function", one_less)
    with pytest.raises(WrongResult):
        run_check(workload.prepare(device, *axes))


@pytest.mark.parametrize(
    ("name", "axes", "spoil"),
    [
        # Twice to five times what rounding may do to them.
        ("reduction", ("sum", "vectorized", 50_000, "fp32"), lambda total: total.add_(6e-3)),
        ("reduction", ("sum", "vectorized", 50_000, "int32"), lambda total: total.add_(1)),
        ("softmax", ("kernel", 7, 300, "fp32"), lambda rows: rows[-1, -1].mul_(1 + 3e-5)),
        ("bias_gelu", ("kernel", 7, 300, "fp32"), lambda rows: rows[-1, -1].add_(1e-5)),
    ],
)
def test_a_check_finds_one_number_off_by_little_more_than_rounding_in_the_last_row_too(
    launches, device, monkeypatch, name, axes, spoil
):
    module = plugins.module("kernels", name)
    right = module._step

    def wrong(*arguments):
        step = right(*arguments)
        return lambda: spoiled(step(), spoil)

    monkeypatch.setattr(module, "_step", wrong)
    with pytest.raises(WrongResult):
        run_check(getattr(module, name).prepare(device, *axes))


def spoiled(result, spoil):
    spoil(result)
    return result


class FakeCupy:
    """As much of CuPy as sums need: arrays from torch's memory, and the accelerators' switch."""

    def __init__(self):
        self.log, self.routine, self.reduction = [], [1], [1]
        self.cuda = SimpleNamespace(ExternalStream=lambda handle: nullcontext())
        self._core = SimpleNamespace(
            get_routine_accelerators=lambda: self.routine,
            get_reduction_accelerators=lambda: self.reduction,
            set_routine_accelerators=lambda names: setattr(self, "routine", names),
            set_reduction_accelerators=lambda names: setattr(self, "reduction", names),
        )

    def from_dlpack(self, values):
        def reduce(name):
            self.log.append((name, self.routine, self.reduction))
            return getattr(torch.from_dlpack(values), name)()

        self.address = torch.from_dlpack(values).data_ptr()
        return SimpleNamespace(**{name: lambda n=name: reduce(n) for name in reduction.OPERATIONS})


@pytest.mark.parametrize("operation", reduction.OPERATIONS)
@pytest.mark.parametrize(("implementation", "accelerators"), [("cupy", []), ("cub", ["cub"])])
def test_cupys_own_kernels_and_cubs_are_told_apart_and_share_torchs_memory(
    monkeypatch, device, operation, implementation, accelerators
):
    fake = FakeCupy()
    monkeypatch.setitem(__import__("sys").modules, "cupy", fake)
    monkeypatch.setattr(reduction, "require_cupy", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=42))
    prepared = reduction.reduction.prepare(device, operation, implementation, 1000, "fp32")
    run_check(prepared)
    assert fake.log == [(operation, accelerators, accelerators)]
    assert (fake.routine, fake.reduction) == ([1], [1])  # as it was before
    values = torch.ones(5)
    reduction.cupy_reducer(values, "sum", implementation)
    assert fake.address == values.data_ptr()


def test_cupy_and_bf16_are_unsupported_with_the_reason(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", FakeCupy())
    with pytest.raises(Unsupported, match="bf16"):
        reduction.cupy_reducer(torch.ones(5).bfloat16(), "sum", "cub")


def test_launches_go_to_torchs_current_stream(monkeypatch):
    entered = []

    def stream(handle):
        return nullcontext(entered.append(handle))

    fake = SimpleNamespace(cuda=SimpleNamespace(ExternalStream=stream))
    monkeypatch.setitem(__import__("sys").modules, "cupy", fake)
    current = iter([42, 43, 42])
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=next(current))
    )
    step = program.on_torch_stream(lambda: "launched")
    assert [step() for _ in range(3)] == ["launched"] * 3
    assert entered == [42, 43]  # one for each stream, kept
