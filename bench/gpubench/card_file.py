"""A card of the user's own: a TOML file in a folder ``cards``, read as a row of the catalogue.

The file is named after the card's id and has the columns of ``data/cards.csv`` as keys. Few are
needed: what is left out follows from the compute capability, by the rules in `DESIGNS`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpubench import plugins
from gpubench.errors import UsageError


class Design(NamedTuple):
    """What all chips of one compute capability have in common.

    Attributes:
        cores: CUDA cores of a multiprocessor.
        fp64: rate of FP64 on them, as a share of FP32's.
        fp16: the same of FP16.
        tensor: dense FP16 operations of a multiprocessor's tensor cores in a clock cycle, added up
            in FP16; a multiply-add is two.
    """

    architecture: str
    cores: int
    fp64: float
    fp16: float
    tensor: int


#: CUDA C++ Programming Guide, table of arithmetic throughputs, and NVIDIA's white papers on GP100,
#: GV100, TU102, GA100, GA102, AD102, GH100 and GB202; B200's tensor rate is that of its datasheet
DESIGNS = {
    "6.0": Design("Pascal", 64, 1 / 2, 2, 0),
    "6.1": Design("Pascal", 128, 1 / 32, 1 / 64, 0),
    "7.0": Design("Volta", 64, 1 / 2, 2, 1024),
    "7.5": Design("Turing", 64, 1 / 32, 2, 1024),
    "8.0": Design("Ampere", 64, 1 / 2, 4, 2048),
    "8.6": Design("Ampere", 128, 1 / 64, 1, 1024),
    "8.9": Design("Ada", 128, 1 / 64, 1, 1024),
    "9.0": Design("Hopper", 128, 1 / 2, 2, 4096),
    "10.0": Design("Blackwell", 128, 1 / 2, 2, 8192),
    "12.0": Design("Blackwell", 128, 1 / 64, 1, 1024),
}
#: of a number: from where to where it makes sense, in the unit of its name
NUMBERS = {
    "memory_gib": (0.5, 4096.0),
    "memory_bandwidth_gbs": (10.0, 50_000.0),
    "tdp_w": (1.0, 5000.0),
    "cuda_cores": (16.0, 200_000.0),
    "boost_clock_mhz": (100.0, 10_000.0),
    "fp32_tflops": (0.01, 10_000.0),
    "sm_count": (1.0, 2000.0),
    "l2_mib": (0.01, 4096.0),
    "launch_price_usd": (1.0, 1e6),
    **dict.fromkeys(("tensor_cores", "memory_bus_bits", "nvlink_gbs"), (0.0, 1e6)),
    **dict.fromkeys(("base_clock_mhz", "pcie_gen"), (1.0, 10_000.0)),
    **dict.fromkeys(
        (
            *("fp64_tflops", "fp16_tflops_nontensor", "fp16_tensor_tflops_dense_fp16acc"),
            *("fp16_tensor_tflops_dense_fp32acc", "bf16_tensor_tflops_dense"),
            *("tf32_tensor_tflops_dense", "fp8_tensor_tflops_dense", "int8_tensor_tops_dense"),
        ),
        (0.001, 1e6),
    ),
}
WORDS = (
    *("name", "compute_capability", "architecture", "series", "chip", "memory_type"),
    *("launch_date", "source", "confidence", "tensor_basis", "crosscheck"),
)
NEEDED = ("name", "compute_capability", "memory_gib", "memory_bandwidth_gbs", "tdp_w")
#: two of these give the third: an operation is a half of a multiply-add of a core in a cycle
CLOCKED = ("cuda_cores", "boost_clock_mhz", "fp32_tflops")
#: what can't be derived for a compute capability that is not in DESIGNS
UNRULED = ("architecture", "sm_count", "fp64_tflops", "fp16_tensor_tflops_dense_fp32acc")
#: printed figures are rounded to three digits
ROUNDING = 0.02
PAGE = "docs/commands.md, `gpubench list`, has an example"


def rows() -> list[dict[str, str]]:
    """The cards of the user's files, in the columns of the catalogue and spelled as it spells them.

    Raises:
        UsageError: a file is no card; the message names it and the key.
    """
    return [row(path) for path in plugins.files("cards", ".toml").values()]


def row(path: Path) -> dict[str, str]:
    """One file.

    Raises:
        UsageError: see `rows`.
    """
    content = plugins.read_toml(path)
    aliases = content.pop("name_aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(name, str) for name in aliases):
        raise _wrong(path, "name_aliases", "has to be a list of names in quotes")
    for key, value in content.items():
        _check(path, key, value)
    for key in NEEDED:
        if key not in content:
            raise _wrong(path, key, "is needed")
    found = _clocked(path, content)
    found = _derived(path, found)
    found = {"source": f"{path.name}, the user's own", "confidence": "own"} | found
    texts = {
        key: value if isinstance(value, str) else _digits(value) for key, value in found.items()
    }
    blank = dict.fromkeys((*WORDS, *NUMBERS), "")
    return blank | texts | {"card_id": path.stem, "name_aliases": "|".join(aliases)}


def _check(path: Path, key: str, value: object) -> None:
    """Whether a key is one of ours and its value can be."""
    if key in WORDS:
        if not isinstance(value, str) or not value.strip():
            raise _wrong(path, key, "has to be text in quotes")
        if key == "launch_date" and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", value):
            raise _wrong(path, key, "has to be a year and a month, such as 2024-01")
        if key == "compute_capability" and not re.fullmatch(r"\d{1,2}\.\d", value):
            raise _wrong(path, key, 'has to be text such as "8.9"')
        return
    if key not in NUMBERS:
        from difflib import get_close_matches

        close = get_close_matches(key, (*WORDS, *NUMBERS, "name_aliases"), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"{path}: no column of the catalogue is named {key!r}", hint + PAGE)
    low, high = NUMBERS[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(path, key, f"has to be a number from {low:g} to {high:g}")
    if key in ("sm_count", "cuda_cores") and value != int(value):
        raise _wrong(path, key, "has to be a whole number")


def _clocked(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """With cores, clock and FP32 rate, of which one may be left out."""
    lacking = [key for key in CLOCKED if key not in content]
    if len(lacking) > 1:
        raise _wrong(path, lacking[0], f"is needed: two of {', '.join(CLOCKED)} give the third")
    cores, clock, rate = (content.get(key, 0.0) for key in CLOCKED)
    found = dict(content)
    if not cores:
        found["cuda_cores"] = round(rate * 1e6 / (2 * clock))
    elif not clock:
        found["boost_clock_mhz"] = rate * 1e6 / (2 * cores)
    elif not rate:
        found["fp32_tflops"] = 2 * cores * clock / 1e6
    elif not math.isclose(rate, 2 * cores * clock / 1e6, rel_tol=ROUNDING):
        problem = f"should be {2 * cores * clock / 1e6:.3g}: two operations a core and cycle"
        raise _wrong(path, "fp32_tflops", f"{problem}, unless cuda_cores or boost_clock_mhz is off")
    return found


def _derived(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """With whatever was left out and follows from the compute capability."""
    design = DESIGNS.get(content["compute_capability"])
    if design is None:
        for key in UNRULED:
            if key not in content:
                version = content["compute_capability"]
                raise _wrong(
                    path, key, f"is needed: nothing is known of compute capability {version}"
                )
        return {"l2_mib": 0} | content
    if content.get("architecture", design.architecture) != design.architecture:
        text = f"should be {design.architecture}, which compute capability"
        raise _wrong(path, "architecture", f"{text} {content['compute_capability']} is")
    sm_count = content.get("sm_count", max(1, round(content["cuda_cores"] / design.cores)))
    known = {
        "architecture": design.architecture,
        "sm_count": sm_count,
        "l2_mib": 0,
        "fp64_tflops": content["fp32_tflops"] * design.fp64,
        "fp16_tflops_nontensor": content["fp32_tflops"] * design.fp16,
    }
    clock = sm_count * content["boost_clock_mhz"] / 1e6
    rates = tensor_rates(content["compute_capability"], content["name"])
    return known | {key: rate * clock for key, rate in rates.items()} | content


def tensor_rates(compute_capability: str, name: str) -> dict[str, float]:
    """Dense operations of a multiprocessor's tensor cores in a cycle, by column of the catalogue.

    GeForce cards add up in FP32 at half the rate; GTX ones have no tensor cores.
    """
    full = DESIGNS[compute_capability].tensor
    if not full or "GTX" in name:
        return {}
    half = full / 2 if "GeForce" in name else full
    version = tuple(map(int, compute_capability.split(".")))
    rates = {
        "fp16_tensor_tflops_dense_fp16acc": ((7, 0), full),
        "fp16_tensor_tflops_dense_fp32acc": ((7, 0), half),
        "int8_tensor_tops_dense": ((7, 5), 2 * full),
        "bf16_tensor_tflops_dense": ((8, 0), half),
        "tf32_tensor_tflops_dense": ((8, 0), half / 2),
        "fp8_tensor_tflops_dense": ((8, 9), 2 * half),
    }
    return {column: float(rate) for column, (first, rate) in rates.items() if version >= first}


def _digits(value: float) -> str:
    """A number as the catalogue spells it: a whole one without a point."""
    return repr(int(value) if value == int(value) else value)


def _wrong(path: Path, key: str, problem: str) -> UsageError:
    return UsageError(f"{path}: {key} {problem}", PAGE)
