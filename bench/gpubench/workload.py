"""The central abstraction: what is timed, how much work it is, and how its result is checked.

A workload is one function. It builds its inputs on a device and returns the step to be timed;
the decorator names the axes it can be run over::

    def work(n, precision):
        return Work(flops=2 * n**3, bytes=3 * n * n * PRECISION_BYTES[precision])

    @workload(version=1, work=work, n=[1024, 4096], precision=["fp32", "bf16"])
    def square_product(device, n, precision):
        \"\"\"Square matrix product.\"\"\"
        import torch
        a, b = ...
        return Prepared(step=lambda: a @ b, check=lambda: torch.testing.assert_close(...))

Set-up and step are different objects, so set-up can't be timed by mistake. The work is declared
apart from the step and needs no torch, so that a case can be planned, priced and predicted on a
machine that can't run it; rates are derived when results are read.
"""

import hashlib
import io
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from gpubench import plugins
from gpubench.errors import UsageError, WrongResult, unknown_name

Value = str | int | float | bool
#: what is timed: one kernel launch sequence or one optimizer step; its result is not used
Step = Callable[[], Any]
Cache = Literal["cold", "hot"]

#: operations, bytes or items of a step: a card would take longer than there has been time
MOST_WORK = 1e30
IMPOSSIBLE = "give its axes other values; `gpubench list workloads` shows them"
# Precisions are named by what the hardware does, bytes by what lies in memory: TF32 reads FP32.
PRECISION_BYTES: Mapping[str, int] = MappingProxyType(
    {"fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
    | {"int64": 8, "int32": 4, "int8": 1}
)
# torch's names; TF32 is FP32 data with a device mode, see Device.mode. FP8 needs scaled products
# and has no plain tensor type to stand for it.
TORCH_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "fp64": "float64",
        "fp32": "float32",
        "tf32": "float32",
        "fp16": "float16",
        "bf16": "bfloat16",
        "int64": "int64",
        "int32": "int32",
        "int8": "int8",
    }
)


@dataclass(frozen=True)
class Work:
    """What one step does. Unknown is None, never a guess.

    Attributes:
        flops: floating-point operations (a multiply-add is two).
        bytes: bytes that must move between memory and the chip at least.
        items: what a training step consumes: images, sequences or tokens.
        item: the unit of ``items``, singular.
        footprint: bytes of device memory that the case needs, for planning.
    """

    flops: float | None = None
    bytes: float | None = None
    items: float | None = None
    item: str | None = None
    footprint: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A case made ready on a device.

    Attributes:
        step: one kernel launch sequence or one optimizer step; its result is not used.
        check: compares the result with a reference before anything is timed; raises
            AssertionError (as ``torch.testing.assert_close`` does) or WrongResult.
        another: makes a step like this one on fresh copies of its data, each byte of which it has
            written; copies take turns in a cold measurement. Without it the cache is flushed
            before each sample.
        work: the work of one step, where it is only known after preparing.
        notes: facts worth keeping beside the numbers, such as which attention kernel ran.
        waits: the step itself waits for the device (a GradScaler reads back), so the host's time
            says nothing about launching.
        outcome: called after the last sample; what the training reached, such as ``loss``.
    """

    step: Step
    check: Callable[[], None] | None = None
    another: Callable[[], Step] | None = None
    work: Work | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    waits: bool = False
    outcome: Callable[[], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Case:
    """One point of a workload's axes, with the cache state it is timed in."""

    workload: str
    params: tuple[tuple[str, Value], ...]
    cache: Cache = "cold"

    @property
    def id(self) -> str:
        """Readable identity, such as ``gemm:shape=1024x1024x1024,precision=fp32``."""
        inside = ",".join(f"{name}={format_value(value)}" for name, value in self.params)
        return f"{self.workload}:{inside}"

    @property
    def precision(self) -> str | None:
        """The precision axis, where the workload has one."""
        value = dict(self.params).get("precision")
        return value if isinstance(value, str) else None


def parse_case_id(case_id: str) -> tuple["Workload", dict[str, Value]]:
    """The workload and parameters of `Case.id`, each value of its axis' type.

    Raises:
        UsageError: there is no such workload, an axis is missing or unknown, or a value is of
            another type than the axis has, or not above zero though all of the axis' own are.
    """
    name, _, inside = case_id.partition(":")
    found = get_workload(name)
    texts = dict(part.split("=", 1) for part in inside.split(",") if "=" in part)
    for axis in texts.keys() - found.axes.keys():
        raise unknown_name(f"axis of {name}", axis, found.axes)
    params: dict[str, Value] = {}
    for axis, values in found.axes.items():
        if axis not in texts:
            raise UsageError(f"{case_id!r} lacks {axis}", f"{name} has {', '.join(found.axes)}")
        value = _parse_value(texts[axis], values[0], f"{case_id!r}: {axis}")
        if _are_sizes(values) and not _are_sizes([value]):
            raise UsageError(f"{case_id!r}: {axis} is not above zero", f"such as {values[0]}")
        params[axis] = value
    return found, params


def _parse_value(text: str, like: Value, where: str) -> Value:
    """The inverse of `format_value`, for a value of the same type as ``like``."""
    try:
        return {"true": True, "false": False}[text] if isinstance(like, bool) else type(like)(text)
    except (KeyError, ValueError) as error:
        kind = type(like).__name__
        raise UsageError(f"{where} = {text!r} is no {kind}", f"such as {like!r}") from error


def _are_sizes(values: Iterable[Value]) -> bool:
    """Whether all are numbers above zero."""
    return all(not isinstance(one, bool | str) and one > 0 for one in values)


def format_value(value: Value) -> str:
    """An axis value as case ids and result files spell it; TOML's spelling for booleans."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Workload:
    """A workload as the decorator leaves it; call ``prepare`` to set it up on a device."""

    name: str
    version: int
    axes: Mapping[str, tuple[Value, ...]]
    prepare: Callable[..., Prepared]
    declared_work: Callable[..., Work] | None
    cache: Cache
    sources: tuple[Path, ...]

    @property
    def summary(self) -> str:
        """First line of the author's docstring."""
        return (self.prepare.__doc__ or "").strip().partition("\n")[0]

    @cached_property
    def source_hash(self) -> str:
        """Hash of the source files' code: comments and layout don't make it another workload."""
        digest = hashlib.sha256()
        for path in self.sources:
            digest.update(_code(path).encode())
        return digest.hexdigest()[:16]

    def work(self, params: Mapping[str, Value]) -> Work | None:
        """The declared work of one step; None where it is only known after preparing.

        Raises:
            UsageError: there is no such case: its work can't be computed, or is no amount.
        """
        if self.declared_work is None:
            return None
        case_id = Case(self.name, tuple(params.items())).id[:100]
        try:
            found = self.declared_work(**params)
            amounts = (found.flops, found.bytes, found.items, found.footprint)
            possible = all(amount is None or 0 <= amount <= MOST_WORK for amount in amounts)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"{case_id} has no work: {reason}", IMPOSSIBLE) from error
        if not possible:
            raise UsageError(f"{case_id} has work that no step can have", IMPOSSIBLE)
        return found

    def cases(
        self, selection: Mapping[str, Sequence[Value]] | None = None, cache: Cache | None = None
    ) -> Iterator[Case]:
        """Every combination of the axes, narrowed or extended by ``selection``.

        Raises:
            UsageError: ``selection`` names an axis that the workload does not have.
        """
        selection = selection or {}
        for axis in selection:
            if axis not in self.axes:
                raise unknown_name(f"axis of {self.name}", axis, self.axes)
        axes = {axis: tuple(selection.get(axis, values)) for axis, values in self.axes.items()}
        for values in product(*axes.values()):
            yield Case(self.name, tuple(zip(axes, values, strict=True)), cache or self.cache)


def workload(
    *,
    version: int,
    work: Callable[..., Work] | None = None,
    cache: Cache = "cold",
    sources: Sequence[str] = (),
    **axes: Sequence[Value],
) -> Callable[[Callable[..., Prepared]], Workload]:
    """Turn a set-up function ``f(device, **params) -> Prepared`` into a workload of its name.

    Args:
        version: raise it when results stop being comparable with earlier ones.
        work: ``f(**params) -> Work``, pure arithmetic without torch; may be left out, then
            ``Prepared.work`` is used and the case can't be planned for size or simulated.
        cache: ``cold``, a step finds nothing of the one before in the last-level cache
            (microbenchmarks), or ``hot``, it finds what that left there (training steps).
        sources: further files beside this one whose change makes it another workload.
        axes: the values that each parameter takes by default.
    """

    def decorate(prepare: Callable[..., Prepared]) -> Workload:
        path = Path(prepare.__code__.co_filename)
        return Workload(
            name=prepare.__name__,
            version=version,
            axes=MappingProxyType({axis: tuple(values) for axis, values in axes.items()}),
            prepare=prepare,
            declared_work=work,
            cache=cache,
            sources=(path, *(path.parent / source for source in sources)),
        )

    return decorate


def all_workloads() -> dict[str, Workload]:
    """Every workload in the ``workloads`` and ``kernels`` folders, by name.

    Raises:
        UsageError: two files define a workload of one name.
    """
    found: dict[str, Workload] = {}
    for kind in ("workloads", "kernels"):
        for module in plugins.modules(kind):
            for thing in vars(module).values():
                if not isinstance(thing, Workload):
                    continue
                if found.get(thing.name, thing) is not thing:
                    raise UsageError(
                        f"two workloads are named {thing.name!r}: "
                        f"{found[thing.name].sources[0]} and {thing.sources[0]}",
                        "rename one of the functions",
                    )
                found[thing.name] = thing
    return dict(sorted(found.items()))


def get_workload(name: str) -> Workload:
    """The workload ``name``.

    Raises:
        UsageError: there is none of that name.
    """
    known = all_workloads()
    if name not in known:
        raise unknown_name("workload", name, known)
    return known[name]


def run_check(prepared: Prepared) -> None:
    """Hold the result against the reference.

    Raises:
        WrongResult: it differs.
    """
    if prepared.check is None:
        return
    try:
        prepared.check()
    except AssertionError as error:
        first_lines = " ".join(str(error).split())[:400]
        raise WrongResult(first_lines or "the result differs from the reference") from error


def _code(path: Path) -> str:
    """Source text without comments and layout; other languages than Python are taken whole."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    tokens: Iterator[Any] = tokenize.generate_tokens(io.StringIO(text).readline)
    return "".join(token.string for token in tokens if token.type not in layout)
