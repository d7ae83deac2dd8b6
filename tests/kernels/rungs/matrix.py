"""The table of docs/verification.md: registers of each kernel, type and architecture.

``python -m rungs.matrix`` writes it anew.
"""

from concurrent.futures import ThreadPoolExecutor

from rungs import compiling, machine_code, page
from rungs.machine_code import Figures
from rungs.programs import PROGRAMS


def table(figures: dict[tuple[str, str], dict[str, Figures]]) -> str:
    """A row for each kernel, operation and type, a column for each architecture."""
    architectures = compiling.ARCHITECTURES
    rows = [
        "| kernel | " + " | ".join(f"sm_{name}" for name in architectures) + " |",
        "| --- |" + " ---: |" * len(architectures),
    ]
    for name, program in PROGRAMS.items():
        kernels = program.kernels()
        cells = [
            _cell(one, [figures[name, one][kernel] for kernel in kernels]) for one in architectures
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(architecture: str, found: list[Figures]) -> str:
    """Registers of the thirstiest kernel, and the least occupancy where it is not 100 %."""
    share = min(one.threads for one in found) / machine_code.resident_threads(architecture)
    spilled = sum(one.spilled_bytes for one in found)
    registers = str(max(one.registers for one in found))
    return registers + f" ({share:.0%})" * (share < 1) + f", {spilled} B spilled" * (spilled > 0)


def main() -> None:
    compiled = compiling.compile_all(list(PROGRAMS.values()))
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(machine_code.figures, compiled.values())
        figures = dict(zip(compiled, found, strict=True))
    page.write_table("matrix", table(figures))


if __name__ == "__main__":
    main()
