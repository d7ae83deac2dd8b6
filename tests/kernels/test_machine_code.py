"""Rung 4: what was compiled keeps its budget of registers, memory and loads."""

import pytest

from gpubench.program import THREADS
from rungs import budgets, machine_code, matrix, page
from rungs.compiling import ARCHITECTURES
from rungs.programs import PROGRAMS, reduction


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_keeps_its_budget(compiled, figures, name, architecture):
    key = name, architecture
    assert budgets.exceeded(compiled[key], figures[key]) == []


def test_no_budget_is_wider_than_something_needs(figures):
    """A budget that nothing comes near would let the next mistake through."""
    reached = {}
    for (name, architecture), kernels in figures.items():
        for kernel, found in kernels.items():
            program = PROGRAMS[name]
            key = program.path.stem, budgets.budget_of(program, kernel)[0]
            reached.setdefault(key, []).append((architecture, found))
    for (stem, kernel), seen in reached.items():
        budget = budgets.budgets()[stem][kernel]
        figures_seen = [found for _, found in seen]
        in_flight = [found.loads_in_flight for found in figures_seen]
        large = [
            found.threads for name, found in seen if machine_code.resident_threads(name) == 2048
        ]
        assert budget == {
            "shared_bytes": max(found.shared_bytes for found in figures_seen),
            "wide_loads": min(found.wide_loads for found in figures_seen),
            "loads_in_flight": min(count for count in in_flight if count is not None),
            "threads": min(large),
        }, (stem, kernel)


def test_a_budget_is_kept_for_every_kernel_and_for_no_other():
    used = {
        (program.path.stem, budgets.budget_of(program, kernel)[0])
        for program in PROGRAMS.values()
        for kernel in program.kernels()
    }
    assert used == {(stem, name) for stem, group in budgets.budgets().items() for name in group}


@pytest.mark.parametrize("operation", reduction.OPERATIONS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_unrolled_as_far_as_float(figures, operation, precision):
    for architecture in ARCHITECTURES:
        half = figures[f"reduction {operation} {precision}", architecture]["vectorized"]
        full = figures[f"reduction {operation} fp32", architecture]["vectorized"]
        assert half.wide_loads == full.wide_loads
        assert (half.loads_in_flight or 0) >= min(full.loads_in_flight or 0, 4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_halves_are_converted_by_the_two_exact_instructions_and_bfloats_by_their_bits(
    compiled, name, architecture
):
    """Rung 5 can't see these: on a processor they are C++."""
    expected = set()
    if name.endswith("fp16"):
        expected = {"cvt.f32.f16"}  # a reduction leaves what it computes in
        if not name.startswith("reduction"):
            expected.add("cvt.rn.f16.f32")
    assert machine_code.conversions(compiled[name, architecture]) == expected


@pytest.mark.parametrize(
    ("architecture", "registers", "shared_bytes", "threads"),
    [
        ("90", 32, 0, 2048),
        ("90", 33, 0, 1536),  # handed out as 40
        ("90", 64, 0, 1024),
        ("75", 64, 0, 1024),
        ("75", 65, 0, 768),
        ("86", 40, 0, 1536),
        ("86", 41, 0, 1280),
        ("80", 32, 40 * 1024, 1024),  # 4 blocks of 41 KiB in 164
        ("60", 32, 9 * 1024, 7 * 256),
    ],
)
def test_room_is_counted_as_nvidias_calculator_does(architecture, registers, shared_bytes, threads):
    assert machine_code.threads_with_room(architecture, registers, shared_bytes) == threads


def test_loads_are_counted_until_one_is_waited_for():
    code = [
        "LDG.E.128.CONSTANT R4, [R2.64]",
        "LDG.E.128.CONSTANT R8, [R2.64+0x1000]",
        "IADD3 R2, R2, 0x10, RZ",
        "FADD R20, R5, R20",
        "@P0 LDG.E.128 R12, [R2.64]",
        "LDG.E R30, [R2.64]",
    ]
    assert machine_code._count_loads(code) == (3, 2)
    waiting = [code[0], "FADD R20, R4, R20", code[1], "FADD R20, R8, R20"]
    assert machine_code._count_loads(waiting) == (2, 1)


def test_threads_are_those_of_the_source():
    source = PROGRAMS["softmax fp32"].source()
    assert f"constexpr int THREADS = {THREADS};" in source


def test_the_matrix_in_the_docs_is_what_was_compiled(figures):
    written = page.with_table(page.read(), "matrix", matrix.table(figures))
    assert written == page.read(), "write it anew: nox -s verification-matrix"
