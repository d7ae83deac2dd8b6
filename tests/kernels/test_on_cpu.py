"""Rung 5: the very same kernels on this processor, in many orders of their threads."""

import numpy as np
import pytest

from rungs import numbers, on_cpu
from rungs.behaviour import (
    alignments,
    check_bias_gelu,
    check_conversions,
    check_far_index,
    check_many_blocks,
    check_reduction,
    check_softmax,
    reduce_on_cpu,
    rows_of,
    special_rows,
)
from rungs.on_cpu import BACKWARD, FORWARD, Schedule, random_schedules
from rungs.programs import PROGRAMS, changed, reduction, with_conversions

ALL = [FORWARD, BACKWARD, *random_schedules(20)]
FEW = [FORWARD, BACKWARD, *random_schedules(2)]
# Around nothing, a warp, a block, a block's packs, and a block's packs in four loads each.
SIZES = (0, 1, 2, 15, 31, 32, 33, 255, 256, 257, 1023, 2049, 8200)
REDUCTIONS = sorted(reduction.PROGRAMS)
ROWS = sorted(reduction.ELEMENTS.keys() - {"fp64", "int32"})


@pytest.mark.parametrize("variant", reduction.VARIANTS)
@pytest.mark.parametrize(("operation", "precision"), REDUCTIONS)
def test_a_reduction_is_right_at_every_size_offset_and_order(
    library, operation, precision, variant
):
    built = library(f"reduction {operation} {precision}")
    for size in SIZES:
        if size or operation == "sum":
            values = numbers.random_values(size, precision, seed=size)
            check_reduction(built, variant, operation, precision, values, ALL, offset=size % 9)


@pytest.mark.parametrize("variant", reduction.VARIANTS)
@pytest.mark.parametrize(("operation", "precision"), REDUCTIONS)
def test_a_reduction_is_right_whatever_the_grid_and_the_alignment(
    library, operation, precision, variant
):
    built = library(f"reduction {operation} {precision}")
    for blocks, offset in ((1, 0), (2, 1), (3, 3), (7, 5), (300, 7)):
        values = numbers.random_values(3001, precision, seed=blocks)
        schedules = FEW if blocks < 10 else [FORWARD]
        check_reduction(
            built, variant, operation, precision, values, schedules, blocks=blocks, offset=offset
        )


@pytest.mark.parametrize("variant", ["shared", "shuffle", "vectorized"])
def test_equal_input_that_is_aligned_alike_gives_equal_bits(library, variant):
    """Wide loads begin at the first multiple of 16 bytes; the others don't ask for any."""
    values = numbers.random_values(3001, "fp32", seed=1)
    sums = [
        reduce_on_cpu(
            library("reduction sum fp32"),
            *(variant, "sum", "fp32", values),
            schedule=FORWARD,
            blocks=2,
            offset=offset,
        )
        for offset in (0, 4, 1)
    ]
    assert sums[0] == sums[1]
    assert (sums[0] == sums[2]) == (variant != "vectorized")


@pytest.mark.parametrize("variant", reduction.VARIANTS)
@pytest.mark.parametrize(("operation", "precision"), REDUCTIONS)
def test_a_reduction_of_a_million_is_right(library, operation, precision, variant):
    built = library(f"reduction {operation} {precision}")
    values = numbers.random_values(1_000_003, precision, seed=1)
    schedules = [FORWARD, Schedule("random", 7)]
    check_reduction(built, variant, operation, precision, values, schedules, blocks=5, offset=3)


@pytest.mark.parametrize("variant", ["shared", "shuffle", "vectorized"])
@pytest.mark.parametrize(("operation", "precision"), REDUCTIONS)
def test_the_second_pass_takes_in_more_blocks_than_it_has_threads(
    library, operation, precision, variant
):
    check_many_blocks(library(f"reduction {operation} {precision}"), variant, operation, precision)


@pytest.mark.parametrize("variant", reduction.VARIANTS)
def test_an_index_may_be_beyond_32_bits(library, variant):
    check_far_index(library("reduction argmax bf16"), variant)


@pytest.mark.parametrize("variant", reduction.VARIANTS)
@pytest.mark.parametrize(("operation", "precision"), REDUCTIONS)
def test_a_reduction_treats_nan_infinity_ties_and_denormals_as_numpy_does(
    library, operation, precision, variant
):
    built = library(f"reduction {operation} {precision}")
    for values in numbers.adversarial_values(precision).values():
        for blocks in (1, 2):
            check_reduction(
                built, variant, operation, precision, values, FEW, blocks=blocks, offset=1
            )


@pytest.mark.parametrize("precision", ROWS)
def test_a_softmax_is_right_at_every_width_and_alignment(library, precision):
    built = library(f"softmax {precision}")
    for columns in (1, 2, 7, 8, 31, 64, 255, 256, 1000, 4104):
        for offsets in alignments(2):
            for schedule in ALL if columns < 300 else FEW:
                values = rows_of(precision, 2, columns)
                check_softmax(built, precision, values, schedule, offsets)


@pytest.mark.parametrize("precision", ROWS)
def test_a_softmax_of_infinities_and_nans_is_torchs(library, precision):
    for schedule in FEW:
        check_softmax(library(f"softmax {precision}"), precision, special_rows(precision), schedule)


@pytest.mark.parametrize("precision", ROWS)
def test_bias_and_gelu_are_right_at_every_shape_grid_and_alignment(library, precision):
    built = library(f"bias_gelu {precision}")
    for rows, columns, grid in (
        (1, 1, (1, 1)),
        (5, 40, (1, 2)),
        (3, 4104, (2, 3)),
        (7, 600, (9, 1)),
    ):
        values, bias = rows_of(precision, rows, columns), rows_of(precision, 1, columns, seed=1)[0]
        for offsets in [*alignments(3), (3, 3, 3)]:
            for schedule in FEW:
                check_bias_gelu(
                    built, precision, values, bias, schedule, grid=grid, offsets=offsets
                )


@pytest.mark.parametrize("precision", ROWS)
def test_gelu_of_infinities_and_nans_is_torchs(library, precision):
    row = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 8.0, -8.0, 1e-3])
    values = numbers.store(row, precision).reshape(1, -1)
    bias = numbers.store(np.zeros(8), precision)
    check_bias_gelu(library(f"bias_gelu {precision}"), precision, values, bias, FORWARD)


def test_every_program_has_a_test_here():
    rows = {f"{kernel} {precision}" for kernel in ("softmax", "bias_gelu") for precision in ROWS}
    assert set(PROGRAMS) == rows | {f"reduction {o} {p}" for o, p in REDUCTIONS}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_number_of_16_bits_is_widened_and_narrowed_to_the_nearest_even(
    build_folder, precision
):
    """What the host's header does in place of two instructions is checked here, too."""
    program = with_conversions(PROGRAMS[f"softmax {precision}"])
    check_conversions(on_cpu.Library(on_cpu.build(program, build_folder)), precision)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(bits + 0x7fff + (bits >> 16) % 2) >> 16", "bits >> 16"),
        ("bits + 0x7fff + (bits >> 16) % 2", "bits + 0x8000"),
        ("value != value", "false"),
    ],
    ids=["cut off", "ties upwards", "NaN carried over"],
)
def test_a_bfloat_that_is_not_the_nearest_even_is_found(build_folder, old, new):
    wrong = with_conversions(changed("softmax bf16", old, new))
    built = on_cpu.Library(on_cpu.build(wrong, build_folder))
    with pytest.raises(AssertionError, match="narrow_bits bf16"):
        check_conversions(built, "bf16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_gelu_is_right_for_every_number_of_16_bits_up_to_1e30(library, precision):
    stored = np.arange(2**16, dtype=np.uint16).view(numbers.STORED[precision])
    values = stored[np.abs(numbers.load(stored, precision)) < 1e30]
    zeros = numbers.store(np.zeros(len(values)), precision)
    check_bias_gelu(
        library(f"bias_gelu {precision}"), precision, values.reshape(1, -1), zeros, FORWARD
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_numpys_numbers_of_16_bits_are_torchs(precision):
    """All 65536 of them: what the kernels are held against."""
    import torch

    every = np.arange(2**16, dtype=np.uint16)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    known = torch.from_numpy(every.view(np.int16)).view(dtype).double().numpy()
    stored = every.view(numbers.STORED[precision])
    np.testing.assert_array_equal(numbers.load(stored, precision), known)
    narrowed = torch.from_numpy(known).to(dtype).view(torch.int16).numpy().view(np.uint16)
    finite = ~np.isnan(known)
    np.testing.assert_array_equal(
        numbers.store(known, precision).view(np.uint16)[finite], narrowed[finite]
    )


def test_a_random_order_finds_a_missing_barrier_every_time(build_folder, library):
    """The reason for random orders, and for several of them: forward alone may show nothing."""
    program = changed(
        "reduction sum fp32",
        "        __syncthreads();\n        if (threadIdx.x < distance)",
        "        if (threadIdx.x < distance)",
    )
    without = on_cpu.Library(on_cpu.build(program, build_folder))
    values = numbers.random_values(500, "fp32", 0)
    for schedule in random_schedules(20):
        with pytest.raises(AssertionError, match="instead of"):
            check_reduction(without, "shared", "sum", "fp32", values, [schedule])
