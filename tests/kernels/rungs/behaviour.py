"""What each kernel has to do, as launches on this processor held against NumPy."""

from collections.abc import Iterable

import numpy as np
from scipy.special import erfc

from gpubench.program import THREADS
from rungs.numbers import (
    LEAST,
    ROUNDING,
    STORED,
    expected_reduction,
    load,
    random_values,
    store,
    sum_bound,
)
from rungs.on_cpu import FORWARD, Library, Memory, Schedule
from rungs.programs import reduction

POISON = 0x7F
MANY_BLOCKS = 300  # more than the second pass has threads, so that one of these takes two states
FAR = 2**31 + 10_003  # elements, more than a 32-bit index can count


def result_type(operation: str, precision: str) -> type:
    if operation == "argmax" or (operation == "sum" and precision == "int32"):
        return np.int64
    return {"fp64": np.float64, "int32": np.int32}.get(precision, np.float32)


def reduce_on_cpu(
    library: Library,
    variant: str,
    operation: str,
    precision: str,
    values: np.ndarray,
    *,
    schedule: Schedule,
    blocks: int = 1,
    offset: int = 0,
) -> float | int:
    """Launch as ``reduction.reducer`` does."""
    dtype = result_type(operation, precision)
    array = Memory(values, offset)
    result = Memory(np.full(dtype().nbytes, POISON, np.uint8).view(dtype))
    if variant == "naive":
        lowest = -np.inf if dtype in (np.float32, np.float64) else np.iinfo(dtype).min
        result = Memory(np.array([lowest if operation == "max" else 0], dtype))
        arguments = (array.address, len(values), result.address)
        library.launch("naive", (blocks,), arguments, schedule)
        return result.read()[0].item()
    states = Memory(np.full(blocks * reduction.STATE_BYTES, POISON, np.uint8))
    library.launch(variant, (blocks,), (array.address, len(values), states.address), schedule)
    library.launch("finish", (1,), (states.address, blocks, result.address), schedule)
    return result.read()[0].item()


def check_reduction(
    library: Library,
    variant: str,
    operation: str,
    precision: str,
    values: np.ndarray,
    schedules: Iterable[Schedule],
    *,
    blocks: int = 1,
    offset: int = 0,
) -> None:
    """Hold the result against NumPy's; in a fixed order of additions also against itself.

    Raises:
        AssertionError: it differs by more than rounding explains, or with the schedule.
    """
    dtype = result_type(operation, precision)
    with np.errstate(over="ignore"):
        expected = dtype(expected_reduction(operation, values, precision)).item()
    share = -(-len(values) // (blocks * THREADS))
    chain = len(values) if variant == "naive" else share + 16 + THREADS // 32 + blocks
    found = [
        reduce_on_cpu(
            library,
            variant,
            operation,
            precision,
            values,
            schedule=schedule,
            blocks=blocks,
            offset=offset,
        )
        for schedule in schedules
    ]
    bound = sum_bound(values, precision, chain) if operation == "sum" else 0.0
    said = f"{variant} {operation} of {len(values)} {precision}, {blocks} blocks, offset {offset}"
    for result in found:
        close = abs(result - expected) <= bound if np.isfinite(expected) else result == expected
        assert close or (np.isnan(result) and np.isnan(expected)), (
            f"{said}: {result} instead of {expected}"
        )
    if variant != "naive":
        bits = {np.array(result, dtype).tobytes() for result in found if not np.isnan(result)}
        assert len(bits) <= 1, f"{said}: bits differ with the schedule"


def check_many_blocks(library: Library, variant: str, operation: str, precision: str) -> None:
    """Every block has data, and the greatest is the last one's."""
    itemsize = np.dtype(STORED[precision]).itemsize
    taken = reduction.TILE_BYTES // itemsize if variant == "vectorized" else THREADS
    values = random_values(MANY_BLOCKS * taken, precision, seed=0)
    greatest = 2**31 - 1 if precision == "int32" else 9.0
    values[-1:] = store(np.array([greatest]), precision)
    arguments = (library, variant, operation, precision, values, [FORWARD])
    check_reduction(*arguments, blocks=MANY_BLOCKS)


def check_far_index(library: Library, variant: str) -> None:
    """The index of the greatest of more elements than 32 bits can count, found by its block alone.

    All others are zeros that nobody touches, so they take address space and no memory. BF16, of
    which 2³¹ elements are 4 GiB.
    """
    values = np.zeros(FAR, STORED["bf16"])
    taken = reduction.TILE_BYTES // values.itemsize if variant == "vectorized" else THREADS
    last = (FAR - 1) // taken
    places = [(FAR - 1, last)]
    if variant == "vectorized":
        # A whole tile, the one that the end cuts short, and what is behind the last whole pack.
        places = [(2**31 + 4, last - 1), (FAR - 100, last), (FAR - 1, 0)]
    for place, block in places:
        values[place] = store(np.array(2.0), "bf16")
        found = np.zeros(1 if variant == "naive" else 2 * (last + 1), np.int64)
        addresses = values.ctypes.data, found.ctypes.data
        library.launch(variant, (last + 1,), (addresses[0], FAR, addresses[1]), FORWARD, only=block)
        index = found[0] if variant == "naive" else found[2 * block + 1]  # behind the value
        assert index == place, f"{variant} argmax: {index} instead of {place}"
        values[place] = 0


def check_conversions(library: Library, precision: str) -> None:
    """Every 16-bit float widened, and three million floats narrowed, bit by bit as NumPy does it.

    Of a float's upper half there is every value, with lower halves at and beside all ties of
    either format, so that each denormal, overflow, infinity and NaN is among them.
    """
    stored = np.arange(2**16, dtype=np.uint16)
    ties = np.arange(0, 2**16, 2**12, dtype=np.uint32)
    lower = np.r_[ties, ties + 1, (ties - 1) % 2**16].astype(np.uint32)
    wide = ((stored.astype(np.uint32) << 16)[:, None] | lower).reshape(-1)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        widened = load(stored.view(STORED[precision]), precision).astype(np.float32)
        narrowed = store(wide.view(np.float32), precision)
    for kernel, given, expected in (
        ("widen_bits", stored, widened),
        ("narrow_bits", wide, narrowed),
    ):
        array, result = Memory(given), Memory(np.full_like(expected, POISON))
        library.launch(kernel, (1,), (array.address, result.address, len(given)), FORWARD)
        found = result.read()
        same = found.view(f"u{found.itemsize}") == expected.view(f"u{found.itemsize}")
        wrong = given[~same & ~(is_nan(found, precision) & is_nan(expected, precision))]
        assert not len(wrong), f"{kernel} {precision}: {len(wrong)} wrong, as {wrong[0]:#x}"


def is_nan(values: np.ndarray, precision: str) -> np.ndarray:
    """Of floats, or of stored numbers."""
    return np.isnan(values if values.dtype == np.float32 else load(values, precision))


def alignments(arrays: int) -> list[tuple[int, ...]]:
    """Elements that each array begins behind an aligned address: none, and one for each in turn."""
    return [(0,) * arrays, *(tuple(row) for row in np.eye(arrays, dtype=int).tolist())]


def check_softmax(
    library: Library,
    precision: str,
    values: np.ndarray,
    schedule: Schedule,
    offsets: tuple[int, ...] = (0, 0),
) -> None:
    """``values`` has rows; each becomes its softmax, as torch defines it at NaN and infinity."""
    rows, columns = values.shape
    array = Memory(values, offsets[0])
    result = Memory(np.full(values.nbytes, POISON, np.uint8).view(values.dtype), offsets[1])
    library.launch("softmax", (rows,), (array.address, result.address, columns), schedule)
    wide = load(values, precision)
    with np.errstate(invalid="ignore"):
        powers = np.exp(wide - wide.max(axis=1, keepdims=True))
        expected = powers / powers.sum(axis=1, keepdims=True)
    found = load(result.read(), precision).reshape(values.shape)
    largest = np.abs(wide[np.isfinite(wide)]).max(initial=1.0)
    relative = ROUNDING[precision] + 2**-24 * (4 * largest + columns)
    np.testing.assert_allclose(found, expected, rtol=2 * relative, atol=LEAST[precision])


def check_bias_gelu(
    library: Library,
    precision: str,
    values: np.ndarray,
    bias: np.ndarray,
    schedule: Schedule,
    *,
    grid: tuple[int, int] = (1, 1),
    offsets: tuple[int, ...] = (0, 0, 0),
) -> None:
    """gelu(values + bias), whatever the grid; computed in float32 and rounded once."""
    rows, columns = values.shape
    arrays = Memory(values, offsets[0]), Memory(bias, offsets[1])
    result = Memory(np.full(values.nbytes, POISON, np.uint8).view(values.dtype), offsets[2])
    addresses = (*(array.address for array in arrays), result.address)
    library.launch("bias_gelu", grid, (*addresses, rows, columns), schedule)
    shifted = load(values, precision) + load(bias, precision)
    with np.errstate(invalid="ignore"):
        expected = shifted / 2 * erfc(-shifted / np.sqrt(2.0))
    expected = np.where(np.isneginf(shifted), np.nan, expected)  # −∞ · 0, in torch as well
    found = load(result.read(), precision).reshape(values.shape)
    # 1 + erf loses what erf has beyond 2⁻²⁴, which matters where the two nearly cancel.
    absolute = 2**-24 * 4 * (1 + np.abs(np.nan_to_num(shifted, posinf=0.0, neginf=0.0)))
    close = np.abs(found - expected) <= absolute + 2 * ROUNDING[precision] * np.abs(expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    assert (close | same).all(), f"bias_gelu {precision} {values.shape}: off at {np.argmin(close)}"


def rows_of(precision: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return random_values(rows * columns, precision, seed).reshape(rows, columns)


def special_rows(precision: str) -> np.ndarray:
    """Rows that a softmax is undefined for, or nearly, between ordinary ones."""
    values = np.random.default_rng(1).standard_normal((9, 40))
    values[1, 7] = np.nan
    values[2, 39] = np.inf
    values[3, :] = -np.inf
    values[4, ::2] = -np.inf
    values[5, :] = 0.0
    values[6, 11] = 80.0
    values[7, 0] = -300.0
    return store(values, precision)
