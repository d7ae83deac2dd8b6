"""Faults planted in the kernels, each of which one rung at least has to catch.

``python -m rungs.mutations FOLDER`` plants each, climbs all rungs, prints which caught it, and
writes the table of docs/verification.md.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpubench.errors import Unsupported
from gpubench.program import Program
from rungs import budgets, child, compilers, compiling, machine_code, on_cpu, page
from rungs.programs import changed


@dataclass(frozen=True)
class Mutation:
    """One replacement in a program's text.

    Attributes:
        caught_by: the rung that is there for faults of this kind.
    """

    name: str
    program: str
    old: str
    new: str
    caught_by: str

    def planted(self) -> Program:
        """The program with the fault."""
        return changed(self.program, self.old, self.new)


MUTATIONS = (
    Mutation(
        name="barrier dropped from the tree",
        program="reduction sum fp32",
        old="        __syncthreads();\n        if (threadIdx.x < distance)",
        new="        if (threadIdx.x < distance)",
        caught_by="race",
    ),
    Mutation(
        name="barrier between warps dropped",
        program="reduction max fp16",
        old="    }\n    __syncthreads();\n    if (warp == 0)",
        new="    }\n    if (warp == 0)",
        caught_by="race",
    ),
    Mutation(
        name="barrier after the row's sum dropped",
        program="softmax fp32",
        old="    __syncthreads();\n    const float maximum = of_row.maximum;",
        new="    const float maximum = of_row.maximum;",
        caught_by="race",
    ),
    Mutation(
        name="barrier that half of the block reaches",
        program="reduction sum fp64",
        old="        __syncthreads();\n        if (threadIdx.x < distance) {",
        new="        if (threadIdx.x < distance) {\n            __syncthreads();",
        caught_by="run",
    ),
    Mutation(
        name="mask without the upper half of the warp",
        program="reduction sum fp32",
        old="ALL_LANES = 0xffffffff",
        new="ALL_LANES = 0x0000ffff",
        caught_by="run",
    ),
    Mutation(
        name="one halving of the warp too few",
        program="reduction argmax int32",
        old="for (int distance = WARP / 2;",
        new="for (int distance = WARP / 4;",
        caught_by="run",
    ),
    Mutation(
        name="lanes beyond the last warp read",
        program="reduction sum fp32",
        old="lane < WARPS ? of_warp[lane] : Operation::start()",
        new="of_warp[lane]",
        caught_by="memory",
    ),
    Mutation(
        name="alignment of the pack dropped",
        program="reduction sum fp16",
        old="struct alignas(COUNT * sizeof(Element)) Pack",
        new="struct Pack",
        caught_by="static",
    ),
    Mutation(
        name="the part before an aligned address forgotten",
        program="reduction sum fp32",
        old="(16 - reinterpret_cast<size_t>(values) % 16) % 16 / sizeof(ELEMENT)",
        new="0",
        caught_by="memory",
    ),
    Mutation(
        name="alignment of the rows not asked for",
        program="softmax fp16",
        old="columns % Whole::SIZE == 0 && is_aligned(input) && is_aligned(output)",
        new="columns % Whole::SIZE == 0",
        caught_by="memory",
    ),
    Mutation(
        name="alignment of the bias not asked for",
        program="bias_gelu bf16",
        old=" && is_aligned(bias)",
        new="",
        caught_by="memory",
    ),
    Mutation(
        name="one element too many",
        program="reduction max fp64",
        old="i < count; i += stride()) {\n        state",
        new="i <= count; i += stride()) {\n        state",
        caught_by="memory",
    ),
    Mutation(
        name="last pack left out",
        program="reduction sum bf16",
        old="for (; next < end; next += THREADS)",
        new="for (; next + 1 < end; next += THREADS)",
        caught_by="run",
    ),
    Mutation(
        name="the second pass's second round left out",
        program="reduction max fp32",
        old="for (long long i = threadIdx.x; i < count; i += THREADS) {\n        state = Operation",
        new="for (long long i = threadIdx.x; i < count; i += count) {\n        state = Operation",
        caught_by="run",
    ),
    Mutation(
        name="an index of 32 bits",
        program="reduction argmax bf16",
        old="__device__ __forceinline__ long long first_index()",
        new="__device__ __forceinline__ int first_index()",
        caught_by="run",
    ),
    Mutation(
        name="all blocks' states in one place",
        program="reduction sum int32",
        old="combine_block<Operation>(take_elements(values, count));\n"
        "    if (threadIdx.x == 0) {\n        states[blockIdx.x] = state;",
        new="combine_block<Operation>(take_elements(values, count));\n"
        "    if (threadIdx.x == 0) {\n        states[0] = state;",
        caught_by="blocks",
    ),
    Mutation(
        name="atomic addition made an ordinary one",
        program="reduction sum fp32",
        old="{ atomicAdd(sum, value); }\n__device__ __forceinline__ void add_atomically(double",
        new="{ *sum += value; }\n__device__ __forceinline__ void add_atomically(double",
        caught_by="race",
    ),
    Mutation(
        name="a failed exchange not tried again",
        program="reduction max fp32",
        old="        seen = before;\n",
        new="        return;\n",
        caught_by="run",
    ),
    Mutation(
        name="accumulated in half",
        program="reduction sum fp16",
        old="        return state + to_accumulator(widen(element));",
        new="        return widen(narrow<Half>(state + to_accumulator(widen(element))));",
        caught_by="run",
    ),
    Mutation(
        name="integers added up in 32 bits",
        program="reduction sum int32",
        old="return state + to_accumulator(widen(element));",
        new="return static_cast<int>(state + to_accumulator(widen(element)));",
        caught_by="run",
    ),
    Mutation(
        name="NaN forgotten",
        program="reduction max fp32",
        old="right > left || is_nan(right) ? right : left",
        new="right > left ? right : left",
        caught_by="run",
    ),
    Mutation(
        name="the last of equal ones taken",
        program="reduction argmax fp16",
        old="left.value == right.value && is_first",
        new="left.value == right.value && !is_first",
        caught_by="run",
    ),
    Mutation(
        name="loads waited for one by one",
        program="reduction sum bf16",
        old="constexpr int LOADS = 4;",
        new="constexpr int LOADS = 1;",
        caught_by="static",
    ),
    Mutation(
        name="more registers than leave room for all threads",
        program="reduction max fp16",
        old="__launch_bounds__(THREADS, Operation::ROOM)",
        new="__launch_bounds__(THREADS, 1)",
        caught_by="static",
    ),
    Mutation(
        name="a local array indexed at run time",
        program="reduction sum fp64",
        old="int load = 0; load < LOADS; ++load) {\n            state = take_pack(",
        new="int load = count % LOADS; load < LOADS; ++load) {\n            state = take_pack(",
        caught_by="static",
    ),
    Mutation(
        name="halves rounded towards zero in a softmax",
        program="softmax fp16",
        old="cvt.rn.f16.f32",
        new="cvt.rz.f16.f32",
        caught_by="static",
    ),
    Mutation(
        name="halves rounded towards zero in a GELU",
        program="bias_gelu fp16",
        old="cvt.rn.f16.f32",
        new="cvt.rz.f16.f32",
        caught_by="static",
    ),
    Mutation(
        name="denormal halves read as zero",
        program="reduction sum fp16",
        old="cvt.f32.f16",
        new="cvt.ftz.f32.f16",
        caught_by="static",
    ),
    Mutation(
        name="a word that isn't C++",
        program="bias_gelu fp32",
        old="return 0.5f * value",
        new="retrun 0.5f * value",
        caught_by="compile",
    ),
)


WIDTH = max(len(mutation.name) for mutation in MUTATIONS)


def compile_complaint(program: Program, folder: Path) -> str | None:
    """Rung 3, for one architecture."""
    try:
        compiling.compile_one(program, "90")
    except Unsupported as refusal:
        return str(refusal)
    return None


def static_complaint(program: Program, folder: Path) -> str | None:
    """Rung 4, for one architecture."""
    try:
        compiled = compiling.compile_one(program, "90")
    except Unsupported:
        return None
    return "\n".join(budgets.exceeded(compiled, machine_code.figures(compiled))) or None


def run_complaint(mode: str) -> Callable[[Program, Path], str | None]:
    """Rung 5: results in several orders of the threads, or what a sanitizer says."""

    def complaint(program: Program, folder: Path) -> str | None:
        try:
            library = on_cpu.build(program, folder, child.MODES[mode][0])
        except on_cpu.DoesNotCompile:
            return None
        return child.complaint(mode, {library: program.name})

    return complaint


# Each rung, and words of the complaint that is its own: a wrong result is for the plain run to
# find, even if a sanitizer's process ends with it, too.
RUNGS: dict[str, tuple[Callable[[Program, Path], str | None], str]] = {
    "compile": (compile_complaint, "can't be compiled"),
    "static": (static_complaint, "at most|at least|spilled|rounds"),
    "run": (run_complaint("plain"), "AssertionError|exit -11"),
    "race": (run_complaint("thread"), "data race"),
    "blocks": (run_complaint("blocks"), "data race"),
    "memory": (run_complaint("address"), "AddressSanitizer|runtime error"),
}


def catches(rung: str, mutation: Mutation, folder: Path) -> str | None:
    """A rung's own complaint about a planted fault, or None."""
    climb, words = RUNGS[rung]
    found = climb(mutation.planted(), folder)
    return found if found and re.search(words, found) else None


def heading() -> str:
    return f"{'planted fault':{WIDTH}}  {'  '.join(f'{rung:7}' for rung in RUNGS)}".rstrip()


def line(mutation: Mutation, folder: Path) -> str:
    """Which rungs catch a fault; a star is at the one that has to."""
    cells = []
    for rung in RUNGS:
        star = "*" * (rung == mutation.caught_by)
        cells.append(f"{('caught' if catches(rung, mutation, folder) else '–') + star:7}")
    return f"{mutation.name:{WIDTH}}  {'  '.join(cells)}".rstrip()


def main(folder: str) -> None:
    if not compilers.IS_GNU:
        sys.exit(compilers.NO_RUNTIME)
    lines = [heading()]
    print(lines[0])
    for mutation in MUTATIONS:
        lines.append(line(mutation, Path(folder)))
        print(lines[-1], flush=True)
    text = "\n".join(["```", *lines, "* the rung that is there for it", "```", ""])
    page.write_table("mutations", text)


if __name__ == "__main__":
    main(sys.argv[1])
