"""Formats as NumPy stores them, what they stand for, and what a kernel's result should be."""

import math

import numpy as np

# BF16 is unknown to NumPy: its bits.
STORED = {
    "fp32": np.float32,
    "fp64": np.float64,
    "fp16": np.float16,
    "bf16": np.uint16,
    "int32": np.int32,
}
# Half the distance between 1 and the next number.
ROUNDING = {"fp64": 2**-53, "fp32": 2**-24, "fp16": 2**-11, "bf16": 2**-8}
LEAST = {"fp64": 2**-1074, "fp32": 2**-149, "fp16": 2**-24, "bf16": 2**-133}


def store(values: np.ndarray, precision: str) -> np.ndarray:
    """Numbers in a format, to the nearest, ties to even."""
    with np.errstate(over="ignore"):
        if precision != "bf16":
            return np.asarray(values).astype(STORED[precision])
        bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16) % 2) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def load(stored: np.ndarray, precision: str) -> np.ndarray:
    """What stored numbers stand for: float64, or int64 for integers."""
    if precision == "bf16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return stored.astype(np.int64 if precision == "int32" else np.float64)


def random_values(count: int, precision: str, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if precision == "int32":
        return generator.integers(-(2**31), 2**31, count, dtype=np.int32)
    return store(generator.standard_normal(count), precision)


def adversarial_values(precision: str) -> dict[str, np.ndarray]:
    """What goes wrong first, each 700 long: three packs of a thread at most, and two warps."""
    count = 700
    if precision == "int32":
        lowest = np.full(count, -(2**31), np.int32)
        tie = np.zeros(count, np.int32)
        tie[[100, 350, 699]] = 9
        return {"lowest": lowest, "highest": ~lowest, "tie": tie}
    mixed = np.random.default_rng(0).standard_normal(count)
    # So great that 700 of them can be added up in any order, and no greater.
    great = {"fp16": 60000.0, "bf16": 4e35, "fp32": 4e35, "fp64": 2e305}[precision]
    least = np.full(count, LEAST[precision])

    def with_values(**placed: float) -> np.ndarray:
        changed = mixed.copy()
        for place, value in placed.items():
            changed[int(place[1:])] = value
        return changed

    values = {
        "a NaN first": with_values(_0=np.nan),
        "a NaN last": with_values(_699=np.nan),
        "NaNs between infinities": with_values(_3=np.inf, _64=np.nan, _65=np.nan, _600=np.inf),
        "an infinity": with_values(_257=np.inf),
        "infinities of both signs": with_values(_1=np.inf, _300=-np.inf),
        "lowest alone": np.full(count, -np.inf),
        "all but one lowest": np.r_[np.full(count - 1, -np.inf), -7.0],
        "all equal": np.full(count, -2.5),
        "a tie": with_values(_100=9.0, _350=9.0, _699=9.0),
        "zeros of both signs": np.r_[np.full(350, -0.0), np.zeros(350)],
        "denormals": least,
        "a denormal above zeros": np.r_[np.zeros(count - 1), LEAST[precision]],
        "a denormal below zeros": np.r_[-least[:1], np.zeros(1), -least[2:]],
        # 700 · 60000 is far beyond FP16 and well within what it is added up in.
        "greatest of alternating signs": great * (-1.0) ** np.arange(count),
    }
    if precision == "fp16":
        values["greatest"] = np.full(count, great)
    return {name: store(array, precision) for name, array in values.items()}


def expected_reduction(operation: str, values: np.ndarray, precision: str) -> float | int:
    """By NumPy, in a wider type; sums of float64 without any rounding but the last."""
    wide = load(values, precision)
    if operation == "argmax":
        return int(np.argmax(wide))
    if operation == "max":
        return wide.max().item()
    if precision == "int32":
        return int(wide.sum())
    with np.errstate(invalid="ignore"):
        return math.fsum(wide) if np.isfinite(wide).all() else float(wide.sum())


def sum_bound(values: np.ndarray, precision: str, chain: int) -> float:
    """Error of a sum whose every term goes through at most ``chain`` additions (Higham 2002, 4.2).

    In the type that it is added up in: float64 for itself, else float32.
    """
    wide = load(values, precision)
    unit = ROUNDING["fp64" if precision == "fp64" else "fp32"]
    return 0.0 if precision == "int32" else 1.01 * chain * unit * float(np.abs(wide).sum())
