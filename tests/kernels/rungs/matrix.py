"""The table of docs/verification.md: registers of each kernel, type and architecture.

``python -m rungs.matrix`` writes it anew.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rungs import compiling, machine_code
from rungs.machine_code import Figures
from rungs.programs import PROGRAMS

PAGE = Path(__file__).parents[3] / "docs" / "verification.md"
BEGIN, END = "<!-- begin matrix -->\n", "<!-- end matrix -->\n"


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


def with_table(page: str, figures: dict[tuple[str, str], dict[str, Figures]]) -> str:
    """The page with its table replaced."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table(figures) + END + rest.partition(END)[2]


def main() -> None:
    compiled = compiling.compile_all(list(PROGRAMS.values()))
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(machine_code.figures, compiled.values())
        figures = dict(zip(compiled, found, strict=True))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
