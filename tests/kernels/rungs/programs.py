"""Every program of every kernel file, so that a new one is on all rungs by being there."""

from dataclasses import dataclass

from gpubench import plugins
from gpubench.program import Program

reduction = plugins.module("kernels", "reduction")
softmax = plugins.module("kernels", "softmax")
bias_gelu = plugins.module("kernels", "bias_gelu")


@dataclass(frozen=True)
class Changed(Program):
    """A program whose text is another."""

    text: str = ""

    def source(self) -> str:
        return self.text


def changed(name: str, old: str, new: str) -> Changed:
    """A program with one thing replaced; refuses to replace nothing, or more than one."""
    program = PROGRAMS[name]
    text = program.source()
    assert text.count(old) == 1, f"{text.count(old)} places in {name} to change {old!r}"
    return Changed(program.name, program.path, program.macros, text.replace(old, new))


# A float or a stored number is its bits, NaNs too.
CONVERSIONS = """
extern "C" __global__ void widen_bits(
    const ELEMENT* stored, unsigned int* wide, long long count) {
    for (long long i = threadIdx.x; i < count; i += THREADS) {
        wide[i] = __float_as_uint(widen(stored[i]));
    }
}
extern "C" __global__ void narrow_bits(
    const unsigned int* wide, ELEMENT* stored, long long count) {
    for (long long i = threadIdx.x; i < count; i += THREADS) {
        stored[i] = narrow<ELEMENT>(__uint_as_float(wide[i]));
    }
}
"""


def with_conversions(program: Program) -> Changed:
    """A program with two kernels more, of vector.cuh's conversions and nothing else."""
    text = program.source() + CONVERSIONS
    return Changed(program.name, program.path, program.macros, text)


PROGRAMS: dict[str, Program] = {
    program.name: program
    for module in plugins.modules("kernels")
    for program in getattr(module, "PROGRAMS", {}).values()
}
