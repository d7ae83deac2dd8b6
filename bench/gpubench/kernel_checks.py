"""Every kernel of our own, launched on a card on what goes wrong first, and held against NumPy.

A suite measures a few of them. Here every kernel of every program gets arrays of odd sizes from odd
addresses, with NaN, infinities and denormal numbers, and a large one that its workload makes and
checks itself. Nothing is timed. A kernel that is wrong may end its process, or leave one behind in
which all that follows fails, so a worker launches them, and another takes its place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from gpubench import plugins
from gpubench.device import Device
from gpubench.doctor import Finding, note, ok, problem
from gpubench.errors import GpubenchError, Unsupported, WrongResult
from gpubench.program import require_cupy
from gpubench.worker import Outcome, Worker
from gpubench.workload import TORCH_TYPES, Prepared, run_check

if TYPE_CHECKING:
    import numpy as np
    import torch

#: of each array its name and what is wrong with the result; None if nothing is
Look = Callable[[Device], Iterator[tuple[str, str | None]]]

# The first launch of a program waits for it to be compiled, that of a worker for CuPy.
TIMEOUT_S = 180.0
# Elements, and how many of others lie ahead: around a warp, a block, its packs and several blocks.
SIZES = (
    *((1, 0), (31, 1), (33, 3), (256, 0), (257, 1), (1023, 3), (2049, 5), (8200, 0)),
    (100_003, 1),
)
SPECIAL_SIZE = 700
# Rows, columns, elements ahead: rows that begin at 16-byte addresses, and rows that don't.
SHAPES = ((3, 1, 0), (5, 40, 0), (5, 40, 3), (3, 601, 1), (2, 4104, 0), (2, 4104, 1))
# What workloads make: more than the blocks of any card take in one go, and odd.
LARGE = 2**24 + 1
LARGE_ROWS, LARGE_COLUMNS = 4099, 1001
# Half the distance between 1 and the next number, and the least number above zero.
ROUNDING = {"fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}
LEAST = {"fp64": 2**-1074, "fp32": 2**-149, "fp16": 2**-24, "bf16": 2**-133}


def looks() -> dict[str, dict[str, Look]]:
    """What there is to look at: by the program's name, by that of each kernel that is chosen."""
    reduction = plugins.module("kernels", "reduction")
    found: dict[str, dict[str, Look]] = {}
    for (operation, precision), program in reduction.PROGRAMS.items():
        case = (operation, precision)
        found[program.name] = {one: partial(_reduction, *case, one) for one in reduction.VARIANTS}
    for precision, program in plugins.module("kernels", "softmax").PROGRAMS.items():
        found[program.name] = {"softmax": partial(_softmax, precision)}
    for precision, program in plugins.module("kernels", "bias_gelu").PROGRAMS.items():
        found[program.name] = {"bias_gelu": partial(_bias_gelu, precision)}
    return found


def findings(device: Device, name: str, announce: Callable[[str], object]) -> Iterator[Finding]:
    """One for each program; nothing is claimed of a processor, which can't launch them.

    Args:
        device: where they are launched.
        name: of that device, for the process that launches.
        announce: called with what comes next.
    """
    if device.provenance != "measured":
        for program, kernels in looks().items():
            text = f"simulated, nothing was computed: {', '.join(kernels)}"
            yield replace(note(text), check=f"kernel {program}")
    elif device.info.backend == "cuda":
        try:
            require_cupy(device)
            yield from _launched(name, announce)
        except Unsupported as refusal:
            yield replace(note(f"none was launched: {refusal}", refusal.remedy), check="kernels")
        except GpubenchError as error:
            text = f"launched no further: {error}"
            yield replace(problem(text, error.remedy), check="kernels")


def _launched(name: str, announce: Callable[[str], object]) -> Iterator[Finding]:
    worker: Worker | None = None
    try:
        for program, kernels in looks().items():
            announce(f"kernel {program}")
            outcomes = {}
            for kernel in kernels:
                worker = worker or Worker(name, identify=False)
                outcomes[kernel] = worker.call(check, program, kernel, timeout_s=TIMEOUT_S)
                if outcomes[kernel].poisoned:
                    worker.stop()
                    worker = None
            yield replace(judge(outcomes), check=f"kernel {program}")
    finally:
        if worker:
            worker.stop()


def judge(outcomes: Mapping[str, Outcome]) -> Finding:
    """What came of each kernel of a program, by its name, as one finding.

    CuPy is there by then, so a program that can't be compiled is a fault like others.
    """
    right = [kernel for kernel, outcome in outcomes.items() if outcome.status == "ok"]
    parts = [f"right: {', '.join(right)}"] if right else []
    parts += [
        f"{kernel}: {outcome.status}: {outcome.reason}"
        for kernel, outcome in outcomes.items()
        if outcome.status != "ok"
    ]
    text = "; ".join(parts)
    return ok(text) if len(right) == len(outcomes) else problem(text, "send the bundle")


def check(device: Device, program: str, kernel: str) -> None:
    """Launch one kernel of one program on every array.

    Raises:
        WrongResult: of some array it isn't what NumPy gives.
        Unsupported: CuPy's compiler makes no code for this device.
    """
    with device.mode("fp32"):
        found = list(looks()[program][kernel](device))
    wrong = [f"{array}: {complaint}" for array, complaint in found if complaint]
    if wrong:
        raise WrongResult(f"of {len(wrong)} of {len(found)} arrays, first {wrong[0]}")


def _own_check(prepared: Prepared) -> tuple[str, str | None]:
    """The workload's own array and check."""
    try:
        run_check(prepared)
    except WrongResult as error:
        return "its workload's own", str(error)
    return "its workload's own", None


def _stored(values: "np.ndarray", precision: str) -> "torch.Tensor":
    """Numbers in a format, on the host."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_TYPES[precision])
    return torch.from_numpy(values).to(dtype)


def _placed(device: Device, values: "torch.Tensor", ahead: int) -> "torch.Tensor":
    """On the device, contiguous, with ``ahead`` elements before it and some behind.

    Those would be seen in any result: they are NaN, or the greatest integer.
    """
    import torch

    is_float = values.dtype.is_floating_point
    guard: Any = float("nan") if is_float else torch.iinfo(values.dtype).max
    size = ahead + values.numel() + 16
    room = torch.full((size,), guard, dtype=values.dtype, device=device.torch_device)
    inside = room[ahead : ahead + values.numel()].view(values.shape)
    inside.copy_(values)
    return inside


def _complaint(found: "np.ndarray", expected: "np.ndarray", bound: Any = 0.0) -> str | None:
    """The first number that is off by more than the bound; a NaN is right for a NaN."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        close = (found == expected) | (np.abs(found - expected) <= bound)
    close |= np.isnan(found) & np.isnan(expected)
    if close.all():
        return None
    at = int(np.argmin(close))
    return f"{found.flat[at]} instead of {expected.flat[at]} at {at}"


# --- reductions ---------------------------------------------------------------------------------


def _reduction(
    operation: str, precision: str, variant: str, device: Device
) -> Iterator[tuple[str, str | None]]:
    import numpy as np

    module = plugins.module("kernels", "reduction")
    for name, values, ahead in _reduction_arrays(precision):
        in_fp32 = module.ACCUMULATORS[precision] == "fp32" and precision != "fp16"
        if name == "denormals" and in_fp32 and (operation, variant) == ("sum", "naive"):
            continue  # "atom.add.f32 on global memory flushes subnormal inputs" (PTX ISA)
        stored = _stored(values, precision)
        result = module.reducer(_placed(device, stored, ahead), operation, variant)()
        found = np.array([result.item()], np.float64)
        expected = np.array([_reduced(operation, stored.double().numpy())])
        yield name, _complaint(found, expected)
    yield _own_check(module.reduction.prepare(device, operation, variant, LARGE, precision))


def _reduced(operation: str, values: "np.ndarray") -> float:
    import numpy as np

    with np.errstate(invalid="ignore"):
        return float(getattr(np, operation)(values))  # NumPy's names are ours


def _reduction_arrays(precision: str) -> Iterator[tuple[str, "np.ndarray", int]]:
    """Name, values, elements ahead. Their sums are exact, in whatever order they are added up.

    So they are whole numbers, small enough for BF16 and for their sums in float32; or, of integers,
    all there are.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    lowest, highest = (-(2**31), 2**31 - 1) if precision == "int32" else (-100, 100)
    for size, ahead in SIZES:
        values = generator.integers(lowest, highest, size, endpoint=True).astype(np.float64)
        yield f"{size} numbers, {ahead} others ahead", values, ahead
    mixed = generator.integers(-100, 100, SPECIAL_SIZE).astype(np.float64)
    tie = mixed.copy()
    tie[[100, 350, 699]] = 100.0
    yield "three that are the greatest", tie, 1
    if precision == "int32":
        yield "the lowest alone", np.full(SPECIAL_SIZE, float(lowest)), 1
        return
    for name, placed in {
        "a NaN": {699: np.nan},
        "NaNs between infinities": {3: np.inf, 64: np.nan, 600: np.nan, 601: np.inf},
        "infinities of both signs": {1: -np.inf, 300: np.inf},
    }.items():
        values = mixed.copy()
        values[list(placed)] = list(placed.values())
        yield name, values, 1
    yield "negative infinities alone", np.full(SPECIAL_SIZE, -np.inf), 1
    least = np.zeros(SPECIAL_SIZE)
    least[257:600] = LEAST[precision]
    yield "denormals", least, 1
    if precision == "fp16":
        yield "a sum beyond FP16", np.full(SPECIAL_SIZE, 60000.0), 1


# --- rows ---------------------------------------------------------------------------------------


def _rows(precision: str) -> Iterator[tuple[str, "torch.Tensor", int]]:
    """Name, rows of ordinary and of special numbers, elements ahead."""
    import numpy as np

    generator = np.random.default_rng(0)
    for rows, columns, ahead in SHAPES:
        values = 4 * generator.standard_normal((rows, columns))
        name = f"{rows} × {columns} numbers, {ahead} others ahead"
        yield name, _stored(values, precision), ahead
    special = generator.standard_normal((9, 40))
    special[1, 7] = np.nan
    special[2, 39] = np.inf
    special[3, :] = -np.inf
    special[4, ::2] = -np.inf
    special[5, :] = 0.0
    special[6, 11] = 80.0
    special[7] = np.linspace(-100.0, 0.0, 40)  # a softmax with denormals
    special[8, ::3] = LEAST[precision]
    for ahead in (0, 1):
        name = f"NaN, infinities and denormals, {ahead} others ahead"
        yield name, _stored(special, precision), ahead


def _softmax(precision: str, device: Device) -> Iterator[tuple[str, str | None]]:
    import numpy as np

    module = plugins.module("kernels", "softmax")
    for name, stored, ahead in _rows(precision):
        result = module.softmax_kernel(_placed(device, stored, ahead))()
        wide = stored.double().numpy()
        with np.errstate(invalid="ignore"):
            powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        expected = powers / powers.sum(axis=1, keepdims=True)
        largest = np.abs(wide[np.isfinite(wide)]).max(initial=1.0)
        # Rounding of exp's argument and of each addition, exp's own (2 ulp by the CUDA C++
        # Programming Guide) and the result's.
        relative = ROUNDING[precision] + 2**-24 * (4 * largest + wide.shape[1] + 32)
        bound = 2 * relative * expected + 8 * LEAST[precision]
        yield name, _complaint(result.cpu().double().numpy(), expected, bound)
    axes = ("kernel", LARGE_ROWS, LARGE_COLUMNS, precision)
    yield _own_check(module.softmax.prepare(device, *axes))


def _bias_gelu(precision: str, device: Device) -> Iterator[tuple[str, str | None]]:
    import numpy as np
    from scipy.special import erfc

    module = plugins.module("kernels", "bias_gelu")
    for name, stored, ahead in _rows(precision):
        bias = _stored(np.linspace(-2.0, 2.0, stored.shape[1]), precision)
        placed = (_placed(device, values, ahead) for values in (stored, bias))
        result = module.bias_gelu_kernel(*placed)()
        shifted = stored.double().numpy() + bias.double().numpy()
        with np.errstate(invalid="ignore"):
            expected = shifted / 2 * erfc(-shifted / np.sqrt(2.0))
        expected = np.where(np.isneginf(shifted), np.nan, expected)  # −∞ · 0, in torch as well
        # 1 + erf loses what erf has beyond 2⁻²⁴, which matters where the two nearly cancel.
        size = np.abs(np.nan_to_num(shifted, posinf=0.0, neginf=0.0))
        bound = 2**-22 * (1 + size) + 2 * ROUNDING[precision] * np.abs(expected)
        yield name, _complaint(result.cpu().double().numpy(), expected, bound)
    axes = ("kernel", LARGE_ROWS, LARGE_COLUMNS, precision)
    yield _own_check(module.bias_gelu.prepare(device, *axes))
