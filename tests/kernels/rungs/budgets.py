"""Rung 4: what exceeds the budgets that were agreed on, budgets.toml, or rounds another way."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from gpubench.program import Program
from rungs.compiling import Compiled
from rungs.machine_code import EXACT_CONVERSIONS, Figures, conversions, resident_threads

PATH = Path(__file__).parent.parent / "budgets.toml"


@cache
def budgets() -> dict[str, Any]:
    return tomllib.loads(PATH.read_text(encoding="utf-8"))


def budget_of(program: Program, kernel: str) -> tuple[str, dict[str, Any]]:
    """A kernel's budget and its name; an operation may have one of its own."""
    group = budgets()[program.path.stem]
    own = f"{program.name.split()[1]} {kernel}"
    name = own if own in group else kernel
    return name, group[name]


def exceeded(compiled: Compiled, figures: dict[str, Figures]) -> list[str]:
    """What is over budget, or under it where more is better."""
    where = f"{compiled.program.name} sm_{compiled.architecture}"
    problems = [
        f"{where}: {name} rounds otherwise than to the nearest, or drops denormal numbers"
        for name in sorted(conversions(compiled) - EXACT_CONVERSIONS)
    ]
    for kernel, found in figures.items():
        _, budget = budget_of(compiled.program, kernel)
        threads = min(budget["threads"], resident_threads(compiled.architecture))
        in_flight = found.loads_in_flight
        rules = {
            f"{found.spilled_bytes} bytes spilled": found.spilled_bytes > 0,
            f"{found.shared_bytes} bytes shared, at most {budget['shared_bytes']}": (
                found.shared_bytes > budget["shared_bytes"]
            ),
            f"{found.wide_loads} loads of 16 bytes, at least {budget['wide_loads']}": (
                found.wide_loads < budget["wide_loads"]
            ),
            f"{in_flight} loads in flight, at least {budget['loads_in_flight']}": (
                in_flight is not None and in_flight < budget["loads_in_flight"]
            ),
            f"{found.threads} threads with {found.registers} registers, at least {threads}": (
                found.threads < threads
            ),
        }
        problems += [
            f"{compiled.program.name} {kernel} sm_{compiled.architecture}: {said}"
            for said, broken in rules.items()
            if broken
        ]
    return problems
