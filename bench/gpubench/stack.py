"""Which builds of torch and CuPy serve which card, and what is wrong with those installed here.

Pure: it is told what a machine has, and neither imports torch nor asks a driver. The builds are
data, ``data/builds.csv``. That ``torch.cuda.is_available()`` is True says little: it is on a card
that torch has no kernels for, whose first operation then fails.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gpubench.errors import EnvironmentRefused, install_line

BUILDS = Path(__file__).parent / "data" / "builds.csv"
# Oldest driver branch that runs a major version of CUDA: NVIDIA's CUDA Compatibility guide, table
# "CUDA Toolkit 11.x, 12.x, and 13.x Driver Version Ranges".
FIRST_DRIVER = {11: 450, 12: 525, 13: 580}
# "The release 580 series will be the last to support GPUs based on the Maxwell, Pascal, and Volta
# architectures": NVIDIA's Unix graphics feature deprecation schedule, 2025.
TURING = (7, 5)
LAST_DRIVER_BEFORE_TURING = 580
# Without a card one release for everybody, so that numbers of processors can be compared. From
# PyTorch's own index, since PyPI's build for Linux brings gigabytes of CUDA.
TORCH_CPU = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Distributions of CuPy; the one without a CUDA version is built on the machine, for what is there.
CUPY = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")

Capability = tuple[int, int]


@dataclass(frozen=True)
class Build:
    """A row of the table: one build of torch, and the CuPy that goes with it.

    Attributes:
        torch: what pip is asked for.
        cuda: major version of CUDA.
        index: of wheels; empty is PyPI.
        architectures: machine code in it, such as sm_86.
        first_driver: oldest driver branch that runs it.
        cupy: distribution of CuPy for that CUDA.
        extra: of this package, which installs it.
    """

    build: str
    torch: str
    cuda: int
    index: str
    architectures: tuple[str, ...]
    first_driver: int
    cupy: str
    extra: str
    source: str

    def install_line(self, *, replace: bool = False) -> str:
        """What to type.

        Args:
            replace: another build of torch is installed. pip would take it for good enough, since
                a requirement names a version and not a build.
        """
        ours = install_line(self.extra)
        if not self.index and not replace:
            return ours
        index = f" --index-url {self.index}" if self.index else ""
        return f"pip install --force-reinstall '{self.torch}'{index} && {ours}"

    def serves(self, capability: Capability | None, driver: int | None = None) -> bool:
        """Whether it runs on a card, under a driver of that branch; None is unknown, and fits."""
        new_enough = driver is None or driver >= self.first_driver
        return new_enough and (capability is None or runs_on(self.architectures, capability))


@dataclass(frozen=True)
class Stack:
    """What a machine has, for one card; None is not installed, unknown or not there.

    Attributes:
        card: its name for people.
        torch: version of torch.
        cuda: version of CUDA that torch was built for; None without CUDA.
        architectures: what ``torch.cuda.get_arch_list()`` tells; empty is unknown.
        driver: version of NVIDIA's driver, such as 550.54.15.
        cupy: version of each distribution of CuPy that is installed.
    """

    card: str
    capability: Capability | None
    driver: str | None = None
    torch: str | None = None
    cuda: str | None = None
    architectures: Sequence[str] = ()
    cupy: Mapping[str, str] = field(default_factory=dict)

    @property
    def driver_branch(self) -> int | None:
        """550.54.15 → 550."""
        return major(self.driver)

    @property
    def install_line(self) -> str:
        """What to type for this card under this driver."""
        build = build_for(self.capability, self.driver_branch)
        if build is None:
            return newer_driver(self.capability)
        return build.install_line(replace=self.torch is not None)


@cache
def builds() -> tuple[Build, ...]:
    """The table, in its order: the best first."""
    with BUILDS.open(encoding="utf-8", newline="") as lines:
        return tuple(_build(row) for row in csv.DictReader(lines))


def _build(row: dict[str, str]) -> Build:
    return Build(
        build=row["build"],
        torch=row["torch"],
        cuda=int(row["cuda"]),
        index=row["index"],
        architectures=tuple(row["architectures"].split()),
        first_driver=int(row["first_driver"]),
        cupy=row["cupy"],
        extra=row["extra"],
        source=row["source"],
    )


def install_line_for_cpu() -> str:
    """What to type to measure a processor, where no card is."""
    return f"pip install {TORCH_CPU} --index-url {TORCH_CPU_INDEX} && {install_line('run')}"


def builds_for(capability: Capability | None) -> list[Build]:
    """The builds that run on a card, the best first, each for older drivers than those before."""
    found: list[Build] = []
    for build in builds():
        if build.serves(capability) and all(build.first_driver < one.first_driver for one in found):
            found.append(build)
    return found


def build_for(capability: Capability | None, driver: int | None = None) -> Build | None:
    """The best build that runs on a card under a driver of that branch; None if none does."""
    return next((build for build in builds() if build.serves(capability, driver)), None)


def runs_on(targets: Iterable[str], capability: Capability) -> bool:
    """Whether code built for ``targets`` runs on a card.

    Machine code for sm_XY runs on later minor versions of the same major; PTX (compute_XY) is
    compiled by the driver for all later cards (CUDA C++ Programming Guide, "Binary Compatibility"
    and "PTX Compatibility"). What is built for sm_90a uses features of that chip alone.
    """
    return any(_runs_on(target, capability) for target in targets)


def _runs_on(target: str, capability: Capability) -> bool:
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", target)
    if found is None:
        return False
    kind, version, suffix = found[1], (int(found[2]), int(found[3])), found[4]
    if suffix == "a":
        return version == capability
    if kind == "compute" and not suffix:
        return version <= capability
    return version[0] == capability[0] and version <= capability


def drivers_for(capability: Capability | None) -> str:
    """The driver branches under which some build runs on a card, in words."""
    first = min(build.first_driver for build in builds_for(capability))
    if capability and capability < TURING:
        return f"{first} to {LAST_DRIVER_BEFORE_TURING}"
    return f"{first} or newer"


def newer_driver(capability: Capability | None) -> str:
    """What to do where no build runs under this driver, or none on this card."""
    if not builds_for(capability):
        return "build torch from source for this card (TORCH_CUDA_ARCH_LIST): no wheel has its code"
    return f"install a driver of branch {drivers_for(capability)}; `nvidia-smi` shows which is here"


def capability(text: str | None) -> Capability | None:
    """``8.9`` → (8, 9); None is unknown."""
    if text is None:
        return None
    whole, _, part = text.partition(".")
    return int(whole), int(part)


def major(version: str | None) -> int | None:
    """``13.0`` → 13, ``550.54.15`` → 550; None where there is no number."""
    digits = (version or "").partition(".")[0]
    return int(digits) if digits.isdecimal() else None


def installed(
    card: str,
    capability: Capability | None,
    driver: str | None,
    torch: Any | None,
    targets: Sequence[str] = (),
) -> Stack:
    """What is installed here for a card, with ``torch`` as imported by whoever asks, or None."""
    return Stack(
        card=card,
        capability=capability,
        driver=driver,
        torch=str(torch.__version__) if torch else None,
        cuda=torch.version.cuda if torch else None,
        architectures=tuple(targets),
        cupy=installed_cupy(),
    )


def installed_cupy() -> dict[str, str]:
    """Version of each distribution of CuPy that is installed."""
    found = {}
    for name in CUPY:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def torch_problem(stack: Stack) -> EnvironmentRefused | None:
    """What keeps torch from running on the card, with the line that mends it; None if nothing."""
    if stack.torch is None:
        return EnvironmentRefused(
            "measuring needs torch, which is not installed", stack.install_line
        )
    if stack.cuda is None:
        return EnvironmentRefused(
            f"this torch ({stack.torch}) was built without CUDA", stack.install_line
        )
    first = FIRST_DRIVER.get(major(stack.cuda) or 0, 0)
    if stack.driver_branch is not None and stack.driver_branch < first:
        return EnvironmentRefused(
            f"torch {stack.torch} was built for CUDA {stack.cuda}, which needs a driver of branch "
            f"{first} or newer; the driver is {stack.driver}",
            f"update the driver, or {stack.install_line}",
        )
    built, capability = stack.architectures, stack.capability
    if built and capability and not runs_on(built, capability):
        return EnvironmentRefused(
            f"torch {stack.torch} has no kernels for {stack.card} "
            f"(sm_{capability[0]}{capability[1]}); it was built for {', '.join(built)}",
            stack.install_line,
        )
    return None


def cuda_for(stack: Stack) -> int:
    """The major version of CUDA to have: torch's, or that of the build of torch to install.

    Under a driver that is too old for any, that of the best build for the card.
    """
    own = major(stack.cuda)
    if own is not None and torch_problem(stack) is None:
        return own
    build = build_for(stack.capability, stack.driver_branch)
    return (build or next(iter(builds_for(stack.capability)), builds()[0])).cuda


def cupy_for(stack: Stack) -> str:
    """The CuPy to have, by the same."""
    return f"cupy-cuda{cuda_for(stack)}x"


def cupy_line(stack: Stack) -> str:
    """What to type to have that one and no other."""
    line = f"pip install {cupy_for(stack)}"
    # They share their files, so what is there has to go first.
    return f"pip uninstall --yes {' '.join(sorted(stack.cupy))} && {line}" if stack.cupy else line


def cupy_problem(stack: Stack) -> EnvironmentRefused | None:
    """What is wrong with CuPy, which the kernels of our own need; None if nothing is.

    Two major versions of CUDA in one process load libraries under the same names, and which of
    them a kernel then gets hangs on the order of the imports.
    """
    wanted = cupy_for(stack)
    found = " and ".join(f"{name} {version}" for name, version in sorted(stack.cupy.items()))
    if not stack.cupy:
        return EnvironmentRefused(
            "CuPy is not installed, so the kernels in kernels/ can't be measured",
            cupy_line(stack),
        )
    if len(stack.cupy) > 1:
        return EnvironmentRefused(
            f"{found} are both installed: they overwrite each other's files", cupy_line(stack)
        )
    if {wanted, "cupy"} & set(stack.cupy):
        return None
    if torch_problem(stack):
        return EnvironmentRefused(
            f"{found} is of another CUDA than the torch to install, which brings "
            f"CUDA {cuda_for(stack)}",
            cupy_line(stack),
        )
    return EnvironmentRefused(
        f"two CUDA majors in one process: torch {stack.torch} brings CUDA {stack.cuda}, and "
        f"{found} another",
        cupy_line(stack),
    )
