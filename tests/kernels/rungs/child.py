"""Rung 5 in a process of its own: plain, or with a sanitizer, and what was wrong.

A sanitizer's runtime has to be in a process from its start, and a fault may end the process; so
kernels run in a child, as ``python -m rungs.child MODE LIBRARY=PROGRAM…``. Modes:

- ``plain``: results alone, in several orders of the threads;
- ``thread``: fibers are threads to the sanitizer: it sees a race whatever the order they ran in;
- ``blocks``: the same with nothing ordering blocks, so that it sees races between those;
- ``address``: memory that isn't the array's, and what C++ leaves undefined.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from rungs import compilers, numbers
from rungs.behaviour import (
    alignments,
    check_bias_gelu,
    check_far_index,
    check_many_blocks,
    check_reduction,
    check_softmax,
    rows_of,
    special_rows,
)
from rungs.on_cpu import BACKWARD, FORWARD, Library, Schedule, random_schedules
from rungs.programs import reduction

# Mode: how libraries for it are built, and the runtime it needs.
MODES = {
    "plain": ("none", None),
    "thread": ("thread", "libtsan.so"),
    "blocks": ("thread", "libtsan.so"),
    "address": ("address", "libasan.so"),
}
SETTINGS = {
    "TSAN_OPTIONS": "halt_on_error=1",
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",
    "OPENBLAS_NUM_THREADS": "1",
}
# (size, offset, blocks): an end in the middle of a pack, none at all, and more blocks than work.
REDUCED = ((0, 0, 1), (1, 3, 1), (257, 0, 1), (2053, 1, 2), (9001, 7, 3), (40, 5, 4))
MANY = (FORWARD, BACKWARD, *random_schedules(6))


def complaint(mode: str, libraries: dict[Path, str]) -> str | None:
    """What is wrong with the programs in ``libraries``, by path; None if nothing is."""
    runtime = MODES[mode][1]
    command = []
    if runtime:
        asked = [*compilers.CPP, f"-print-file-name={runtime}"]
        path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        # Its shadow memory needs addresses where they usually are. The runtime is for Python alone.
        command = ["setarch", "--addr-no-randomize", "env", f"LD_PRELOAD={path}"]
    jobs = [f"{path}={name}" for path, name in libraries.items()]
    done = subprocess.run(
        [*command, sys.executable, "-m", "rungs.child", mode, *jobs],
        env={**os.environ, **SETTINGS, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    return None if done.returncode == 0 else f"exit {done.returncode}\n{done.stderr}{done.stdout}"


def exercise(library: Library, name: str, schedules: tuple[Schedule, ...]) -> None:
    """Run every kernel of a program over the shapes that its ends are at, and over hard values."""
    kernel, *rest = name.split()
    if kernel == "reduction":
        _exercise_reduction(library, *rest, schedules)
        return
    (precision,) = rest
    if kernel == "softmax":
        check_softmax(library, precision, special_rows(precision), FORWARD)
    offsets_of = alignments(2 if kernel == "softmax" else 3)
    shapes = [(1, offsets_of[0]), (1031, offsets_of[0]), *((264, one) for one in offsets_of)]
    for columns, offsets in shapes:
        values = rows_of(precision, 3, columns)
        bias = rows_of(precision, 1, columns, seed=1)[0]
        for schedule in schedules:
            if kernel == "softmax":
                check_softmax(library, precision, values, schedule, offsets)
            else:
                check_bias_gelu(
                    library, precision, values, bias, schedule, grid=(2, 2), offsets=offsets
                )


def _exercise_reduction(
    library: Library, operation: str, precision: str, schedules: tuple[Schedule, ...]
) -> None:
    for variant in reduction.VARIANTS:
        for size, offset, blocks in REDUCED:
            if size or operation == "sum":
                values = numbers.random_values(size, precision, seed=size)
                arguments = (library, variant, operation, precision, values, schedules)
                check_reduction(*arguments, blocks=blocks, offset=offset)
        if schedules == MANY:
            _check_results(library, variant, operation, precision)


def _check_results(library: Library, variant: str, operation: str, precision: str) -> None:
    """What only a wrong result tells of."""
    for values in numbers.adversarial_values(precision).values():
        check_reduction(library, variant, operation, precision, values, [FORWARD], blocks=2)
    if variant == "shared":
        check_many_blocks(library, variant, operation, precision)
    if (operation, precision) == ("argmax", "bf16"):
        check_far_index(library, variant)


def main(mode: str, *jobs: str) -> None:
    for job in jobs:
        path, _, name = job.partition("=")
        library = Library(Path(path))
        library.binary.order_blocks(mode != "blocks")
        # Hard values and other orders are for results: a sanitizer needs neither.
        with np.errstate(all="ignore"):
            exercise(library, name, MANY if mode == "plain" else (FORWARD,))


if __name__ == "__main__":
    main(*sys.argv[1:])
