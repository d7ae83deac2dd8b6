"""Is this machine fit to measure, and if not, what has to be typed about it?

Each check is a function that looks at one thing and returns a `Finding`. Those of this machine and
its software are here; a backend may have a function ``checks(name)`` that gives those of its
devices. Nothing is changed, and whatever a check runs into is a finding: a doctor that falls ill is
no use.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import psutil

from gpubench import plugins, stack
from gpubench.cards import get_card
from gpubench.device import DeviceInfo, backend_of, present
from gpubench.environment import processor_name, without_identity
from gpubench.errors import UsageError
from gpubench.telemetry import CORES, FOREIGN_LOAD_LIMIT, HostLoad

State = Literal["ok", "note", "problem"]

# Long enough for the system's clock, which counts in hundredths of a second.
LOAD_S = 0.5
# BERT-base in the quick suite needs 3 GiB on a processor.
ENOUGH_MEMORY_BYTES = 4 * 2**30
# Result files take megabytes; on a disk as full as this, other things fail first.
ENOUGH_DISK_BYTES = 200 * 2**20
# With a note of these, if it says what to do, nothing should be measured now.
HINDER = ("load", "torch")
PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"  # vendor, and class of display controllers (also "3D")
KERNEL = 'extern "C" __global__ void nothing() {}'


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        state: ``ok``; ``note``: worth knowing, results are sound; ``problem``: `gpubench run`
            would be refused, or measure something else than it says.
        found: with its evidence.
        remedy: what to type or do.
        check: its name; whoever runs the check fills it in, and the device.
        device: such as ``cuda:0``; empty is the machine.
    """

    state: State
    found: str
    remedy: str = ""
    check: str = ""
    device: str = ""


def ok(found: str) -> Finding:
    """All is well."""
    return Finding("ok", found)


def note(found: str, remedy: str = "") -> Finding:
    """Worth knowing; results are sound."""
    return Finding("note", found, remedy)


def problem(found: str, remedy: str = "") -> Finding:
    """`gpubench run` would be refused, or measure something else than it says."""
    return Finding("problem", found, remedy)


@dataclass(frozen=True)
class Check:
    """One thing to look at: on which device, under which name, and how."""

    device: str
    name: str
    look: Callable[[], Finding]


@dataclass(frozen=True)
class Here:
    """What the checks look at.

    Attributes:
        cards: NVIDIA cards that the driver shows, of those asked for.
        output: the folder, or a file in it, where results would go.
    """

    cards: Sequence[DeviceInfo]
    output: str = "results"

    @cached_property
    def torch(self) -> Any:
        """torch, or what importing it raised."""
        return _imported("torch")

    def stack(self, card: DeviceInfo | None) -> stack.Stack:
        """What is installed, for a card or for none."""
        torch = None if isinstance(self.torch, Exception) else self.torch
        return stack.installed(
            card.card if card else "",
            stack.capability(card.compute_capability) if card else None,
            card.driver if card else None,
            torch,
            _architectures(torch),
        )


def examine(
    device: str = "auto", output: str = "results", announce: Callable[[str], object] = str
) -> Iterator[Finding]:
    """Run every check that applies.

    Args:
        device: which device to look at, as for ``--device``; ``auto`` is all there are.
        output: the folder, or a file in it, where results would go.
        announce: called with the name of each check before it runs.

    Raises:
        UsageError: no backend is named so, or the card is not here.
    """
    name = "" if device == "auto" else device
    backends = [backend_of(name)] if name else plugins.modules("backends")
    cards = [info for info in present() if info.backend == "cuda" and name in ("", info.name)]
    if name.startswith("cuda") and not cards:
        raise UsageError(f"there is no {name} here", "`gpubench devices` shows what is")
    for check in _all_checks(Here(cards, output), name, backends):
        announce(check.name)
        yield _safely(check)


def hindrances(found: Iterable[Finding]) -> list[Finding]:
    """What makes a machine unfit to measure now: every problem, a busy processor, no torch."""
    return [
        finding
        for finding in found
        if finding.state == "problem"
        or (finding.state == "note" and finding.check in HINDER and finding.remedy)
    ]


def conclusion(found: Sequence[Finding]) -> str:
    """``fit to measure``, or why not."""
    reasons = [
        f"{one.device} {one.check}".strip() + f" ({one.found.partition(';')[0]})"
        for one in hindrances(found)
    ]
    return f"not fit to measure now: {', '.join(reasons)}" if reasons else "fit to measure"


def _all_checks(here: Here, name: str, backends: Iterable[ModuleType]) -> Iterator[Check]:
    for what, of_machine in MACHINE.items():
        yield Check("", what, partial(of_machine, here))
    for what, of_card in SOFTWARE.items():
        if not here.cards:
            yield Check("", what, partial(of_card, here, None))
        for card in here.cards:
            yield Check(card.name, what, partial(of_card, here, card))
    for backend in backends:
        if hasattr(backend, "checks"):
            yield from backend.checks(name)


def _safely(check: Check) -> Finding:
    """What a check finds; that it failed is a finding as well."""
    try:
        found = check.look()
    except Exception as error:  # noqa: BLE001 - drivers and sensors fail in ways nobody has listed
        found = note(f"can't be checked here: {_one_line(error)}")
    return replace(found, check=check.name, device=check.device)


def _one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return without_identity(text)


def for_card(card_id: str) -> list[dict[str, Any]]:
    """The builds that serve a card of the catalogue, the best first, without looking at any.

    Raises:
        UsageError: the catalogue has no such card.
    """
    card = get_card(card_id)
    newer = f" to {stack.LAST_DRIVER_BEFORE_TURING}" if card.capability < stack.TURING else ""
    return [
        {
            "card_id": card.card_id,
            "card": card.name,
            "compute_capability": card.compute_capability,
            "driver": f"{build.first_driver}{newer or ' or newer'}",
            "torch": build.torch,
            "cuda": build.cuda,
            "cupy": build.cupy,
            "install": build.install_line(),
        }
        for build in stack.builds_for(card.capability)
    ]


# --- the machine --------------------------------------------------------------------------------


def card(here: Here) -> Finding:
    """Whether there is an NVIDIA card, and if not, what can be done here all the same."""
    if here.cards:
        return ok(f"{len(here.cards)} with a driver that answers")
    if _on_the_bus():
        return problem(
            "an NVIDIA card is on the bus, and no driver answers for it",
            "install NVIDIA's driver, or load it: `sudo modprobe nvidia`; `nvidia-smi` must answer",
        )
    return note(
        f"none; this machine can measure its processor ({processor_name()}), simulate a card, and "
        "show, compare, report and predict",
        "`gpubench run --device cpu`, or `gpubench doctor --card CARD` for what a card needs",
    )


def governor(_: Here) -> Finding:
    """How Linux chooses the processor's clocks."""
    files = sorted(CORES.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = sorted({path.read_text().strip() for path in files})
    if not found:
        return ok("this system doesn't tell, as most virtual machines don't")
    if found == ["performance"]:
        return ok("performance")
    return note(
        f"{', '.join(found)}: clocks follow the load, and host times with them",
        "sudo cpupower frequency-set -g performance",
    )


def load(_: Here) -> Finding:
    """What others take of the processor just now."""
    with HostLoad() as found:
        time.sleep(LOAD_S)
    if found.foreign is None:
        return ok("this system doesn't tell")
    foreign, steal = found.foreign, found.steal or 0.0
    text = f"other processes take {foreign:.0%} of the processor"
    text += f", a hypervisor {steal:.0%}" if steal > FOREIGN_LOAD_LIMIT else ""
    if max(foreign, steal) > FOREIGN_LOAD_LIMIT:
        limit = f"from {FOREIGN_LOAD_LIMIT:.0%} on, what the host times is flagged"
        return note(f"{text}; {limit}", "`top` shows what runs; wait or end it")
    return ok(text)


def memory(_: Here) -> Finding:
    """Free memory of the machine."""
    free = psutil.virtual_memory().available
    text = f"{free / 2**30:.1f} GiB free"
    if free < ENOUGH_MEMORY_BYTES:
        return note(f"{text}: cases that need more are left out or fail", "`free -h`")
    return ok(text)


def disk(here: Here) -> Finding:
    """Free space where results would go."""
    free = psutil.disk_usage(str(_folder(here.output))).free
    text = f"{free / 2**30:.1f} GiB free where results go"
    if free < ENOUGH_DISK_BYTES:
        return problem(text, "free some, or give another folder with -o")
    return ok(text)


def results(here: Here) -> Finding:
    """Whether a result file can be written."""
    folder = _folder(here.output)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return problem(
            f"no file can be made in {folder.name or folder}: {error.strerror}",
            "give another folder with -o",
        )
    return ok("can be written")


MACHINE: dict[str, Callable[[Here], Finding]] = {
    "card": card,
    "governor": governor,
    "load": load,
    "memory": memory,
    "disk": disk,
    "results": results,
}


def _on_the_bus() -> bool:
    """Whether Linux lists a display controller of NVIDIA's."""
    for folder in PCI.glob("*"):
        vendor, kind = (folder / name for name in ("vendor", "class"))
        is_ours = vendor.exists() and vendor.read_text().strip() == NVIDIA
        if is_ours and kind.exists() and kind.read_text().startswith(DISPLAY):
            return True
    return False


def _folder(output: str) -> Path:
    """The nearest folder of ``output`` that exists."""
    path = Path(output).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


# --- the software -------------------------------------------------------------------------------


def torch_build(here: Here, card: DeviceInfo | None) -> Finding:
    """Whether torch has code for the card, and a driver that runs it."""
    torch = here.torch
    if isinstance(torch, ModuleNotFoundError) and card is None:
        return note(
            "not installed: this machine can read results and not measure",
            stack.install_line_for_cpu(),
        )
    if isinstance(torch, Exception) and not isinstance(torch, ModuleNotFoundError):
        line = here.stack(card).install_line
        return problem(f"installed, and can't be loaded: {_one_line(torch)}", line)
    if card is None:
        return ok(f"torch {torch.__version__} with {torch.get_num_threads()} threads")
    installed = here.stack(card)
    if refusal := stack.torch_problem(installed):
        return problem(str(refusal), refusal.remedy)
    built = ", ".join(installed.architectures) or "cards that it doesn't tell"
    return ok(f"torch {installed.torch} for CUDA {installed.cuda}: {built}")


def cupy(here: Here, card: DeviceInfo | None) -> Finding:
    """Whether CuPy is there, for the CUDA that torch brings."""
    installed = here.stack(card)
    if card is None and not installed.cupy:
        return ok("not installed, and not needed without a card")
    if card and (refusal := stack.cupy_problem(installed)):
        kind = problem if installed.cupy else note
        return kind(str(refusal), refusal.remedy)
    return ok(", ".join(f"{name} {version}" for name, version in installed.cupy.items()))


def compiler(here: Here, card: DeviceInfo | None) -> Finding:
    """Whether NVRTC, with which CuPy compiles our kernels, makes code for the card."""
    installed = here.stack(card)
    if not installed.cupy:
        return ok("not needed without CuPy")
    nvrtc = _imported("cupy.cuda.nvrtc")
    if isinstance(nvrtc, Exception):
        # The extra brings NVRTC and CUDA's headers.
        line = f"pip install '{next(iter(installed.cupy))}[ctk]'"
        return problem(f"CuPy can't load NVRTC: {_one_line(nvrtc)}", line)
    major, minor = installed.capability or (9, 0)
    try:
        program = nvrtc.createProgram(KERNEL, "nothing.cu", (), ())
        nvrtc.compileProgram(program, (f"-arch=sm_{major}{minor}",))
    except nvrtc.NVRTCError as error:
        text = f"NVRTC makes no code for sm_{major}{minor}: {_one_line(error)}"
        return problem(text, stack.cupy_line(installed))
    version = ".".join(map(str, nvrtc.getVersion()))
    return ok(f"NVRTC {version} makes code for sm_{major}{minor}")


SOFTWARE: dict[str, Callable[[Here, DeviceInfo | None], Finding]] = {
    "torch": torch_build,
    "CuPy": cupy,
    "compiler": compiler,
}


def _imported(name: str) -> Any:
    """A module, or what importing it raised; broken libraries raise OSError and worse."""
    try:
        return import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return error


def _architectures(torch: Any) -> Sequence[str]:
    """What torch was built for; nothing where it doesn't tell, as without a driver."""
    return torch.cuda.get_arch_list() if torch is not None else ()
