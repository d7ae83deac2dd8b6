"""Suites: which cases to measure, and how long to spend on them.

A suite is one TOML file in ``suites/`` or anywhere::

    summary = "what it is for"
    half_width = 0.01        # stop when the median's 95 % interval is this narrow …
    budget_s = 2.0           # … or after this much sampling per case
    warmup_s = 1.0           # warm-up at most, per case
    timeout_s = 60           # a case that takes longer is ended
    step_limit_s = 0.5       # leave out cases whose single step is expected to take longer
    sustain_s = 20.0         # sample at least this long, to see a card once it is hot; default 0

    [[case]]                 # every combination of the lists
    workload = "gemm"
    shape = ["1024x1024x1024"]
    precision = ["fp32", "bf16"]
    cache = "hot"            # optional; else as the workload has it
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gpubench import plugins
from gpubench.errors import UsageError
from gpubench.workload import Case, Value, get_workload

LONGEST_S = 1e6


@dataclass(frozen=True)
class Suite:
    """A named list of cases and the time they are given, in seconds; see the module."""

    name: str
    cases: tuple[Case, ...]
    summary: str = ""
    half_width: float = 0.01
    budget_s: float = 2.0
    warmup_s: float = 1.0
    timeout_s: float = 120.0
    step_limit_s: float = 1.0
    sustain_s: float = 0.0

    def select(self, only: Sequence[str] = (), skip: Sequence[str] = ()) -> "Suite":
        """Keep the cases that match a pattern of ``only`` (all if none) and none of ``skip``.

        Patterns are globs over case ids or workload names: ``gemm``, ``bert*fp16``.

        Raises:
            UsageError: nothing is left, or a pattern of ``only`` matches no case.
        """
        for pattern in only:
            if not any(_matches(case, pattern) for case in self.cases):
                raise UsageError(
                    f"--only {pattern!r} matches no case of suite {self.name}",
                    f"it has {_names(self.cases)}; `gpubench run --dry-run` lists its case ids "
                    "(tables shorten them)",
                )
        kept = [
            case
            for case in self.cases
            if (not only or any(_matches(case, pattern) for pattern in only))
            and not any(_matches(case, pattern) for pattern in skip)
        ]
        if not kept:
            raise UsageError(f"--skip leaves nothing of suite {self.name}", "skip less")
        return replace(self, cases=tuple(kept))

    def shard(self, number: int, count: int) -> "Suite":
        """Every ``count``-th case from the ``number``-th (from 1): a part for one of many machines.

        Raises:
            UsageError: there are fewer cases than parts.
        """
        kept = self.cases[number - 1 :: count]
        if not kept:
            known = f"there are only {len(self.cases)} cases"
            raise UsageError(f"part {number} of {count} is empty", known)
        return replace(self, cases=kept)


def load_suite(name: str) -> Suite:
    """A shipped suite by name, or a TOML file by path.

    Raises:
        UsageError: no such suite, or something in it is not what a suite may hold.
    """
    is_path = name.endswith(".toml")
    path = Path(name) if is_path else plugins.find("suites", name, ".toml")
    content = plugins.read_toml(path)
    blocks = content.pop("case", [])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise UsageError(f"{path}: cases are written as [[case]] blocks")
    kinds = {field.name: type(field.default) for field in fields(Suite)[2:]}
    for key, value in content.items():
        if key not in kinds:
            raise UsageError(f"{path}: unknown key {key!r}", f"known: {', '.join(kinds)}, [[case]]")
        if not _fits(value, kinds[key]):
            raise UsageError(f"{path}: {key} = {value!r} is not a {kinds[key].__name__} above zero")
    cases = tuple(dict.fromkeys(case for block in blocks for case in _block_cases(path, block)))
    if not cases:
        raise UsageError(f"{path} has no cases", "add a [[case]] block")
    return Suite(name=path.stem, cases=cases, **content)


def _fits(value: object, kind: type) -> bool:
    if kind is float:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and 0 < value <= LONGEST_S
        )
    return isinstance(value, kind)


def _block_cases(path: Path, block: dict[str, Any]) -> Iterator[Case]:
    axes = dict(block)
    name, cache = axes.pop("workload", None), axes.pop("cache", None)
    if not isinstance(name, str):
        raise UsageError(f"{path}: a [[case]] block lacks its workload", 'add workload = "gemm"')
    if cache not in (None, "cold", "hot"):
        raise UsageError(f"{path}: cache = {cache!r}", 'it is "cold" or "hot"')
    workload = get_workload(name)
    for axis, values in axes.items():
        allowed = isinstance(values, list) and values
        if not allowed or not all(isinstance(value, str | int | float | bool) for value in values):
            raise UsageError(f"{path}: {axis} = {values!r} of {name} is not a list of values")
        known = workload.axes.get(axis, ())  # without any, `cases` refuses the axis
        for value in values:
            if known and not any(_alike(value, one) for one in known):
                raise UsageError(
                    f"{path}: {axis} = {value!r} of {name} is of another type than the axis",
                    f"such as {known[0]!r}",
                )
    yield from workload.cases(axes, cache)


def _alike(value: Value, known: Value) -> bool:
    """Of one type; a whole number may stand for any number, and true and false for none."""
    if type(known) is float:
        return type(value) in (int, float)
    return type(value) is type(known)


def _matches(case: Case, pattern: str) -> bool:
    return (
        pattern == case.id or fnmatchcase(case.workload, pattern) or fnmatchcase(case.id, pattern)
    )


def _names(cases: Sequence[Case]) -> str:
    return ", ".join(dict.fromkeys(case.workload for case in cases))
