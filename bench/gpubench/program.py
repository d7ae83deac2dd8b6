"""CUDA C++ beside a workload: one way to compile it, for a card and for the proof that needs none.

A kernel file is compiled by NVRTC, for one card and one set of macro definitions, and loaded as a
``cupy.RawModule``. CuPy's own way from text to kernel is passed by for two reasons: it adds
``-ftz=true``, so denormal numbers would count as zero, which they don't in torch; and what the
tests compile for every architecture has to be what a card gets.
"""

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gpubench import stack
from gpubench.errors import EnvironmentRefused, Unsupported, UsageError, install_line

if TYPE_CHECKING:
    import torch

    from gpubench.device import Device

THREADS = 256  # in a block of every kernel: vector.cuh's THREADS
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
_KERNEL = re.compile(
    r'^extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(', re.MULTILINE
)


@dataclass(frozen=True)
class Program:
    """A kernel file with the macros that it is compiled with.

    Attributes:
        name: what tests and messages call it, such as ``reduction sum fp16``.
        path: the ``.cu`` file.
        macros: name and value of each definition.
    """

    name: str
    path: Path
    macros: Mapping[str, str] = field(default_factory=dict, hash=False)

    def source(self) -> str:
        """The file with what it includes in place, so that no compiler has to find a file."""
        text = self.path.read_text(encoding="utf-8")

        def included(match: re.Match[str]) -> str:
            inner = self.path.with_name(match[1]).read_text(encoding="utf-8")
            after = text.count("\n", 0, match.end()) + 2
            return f'#line 1 "{match[1]}"\n{inner}#line {after} "{self.path.name}"'

        return f'#line 1 "{self.path.name}"\n' + _INCLUDE.sub(included, text)

    def kernels(self) -> tuple[str, ...]:
        """The names that can be launched, in the file's order."""
        return tuple(_KERNEL.findall(self.source()))

    def options(self, architecture: str) -> tuple[str, ...]:
        """What NVRTC is given for compute capability ``architecture``, such as ``90``."""
        definitions = (f"--define-macro={name}={value}" for name, value in self.macros.items())
        return ("--std=c++17", f"--gpu-architecture=sm_{architecture}", *definitions)

    def compile(self, nvrtc: Any, architecture: str) -> bytes:
        """Machine code for one architecture.

        Args:
            nvrtc: ``cupy.cuda.nvrtc``, or whatever else has its functions.
            architecture: compute capability without the point: ``60`` to ``120``.

        Raises:
            Unsupported: this NVRTC doesn't know the architecture, or the text doesn't compile.
        """
        handle = nvrtc.createProgram(self.source(), self.path.name, (), ())
        try:
            nvrtc.compileProgram(handle, self.options(architecture))
            machine_code = _whole(nvrtc.getCUBIN(handle))
        except Exception as error:
            log = nvrtc.getProgramLog(handle).strip() or str(error)
            raise Unsupported(
                f"{self.name} can't be compiled for sm_{architecture} by NVRTC "
                f"{'.'.join(map(str, nvrtc.getVersion()))}: {log} (CUDA 12's covers sm_60 to "
                "sm_90, from 12.8 on sm_120; CUDA 13's begins at sm_75)"
            ) from error
        finally:
            nvrtc.destroyProgram(handle)
        return machine_code

    def function(self, kernel: str, device: "torch.device") -> "Callable[..., None]":
        """A kernel as a call ``(grid, block, arguments)``, compiled once for each card.

        Arguments are 64 bits wide: addresses and sizes, as Python's integers.
        """
        loaded: Callable[..., None] = _loaded(self, device).get_function(kernel)
        return loaded


def _whole(machine_code: bytes) -> bytes:
    """An ELF file to its end: CuPy's binding (14.2) takes it for text and leaves out the last byte.

    It is zero, and part of the program headers, which are last and say themselves where they end.
    """
    (offset,) = struct.unpack_from("<Q", machine_code, 32)
    entry_bytes, entries = struct.unpack_from("<HH", machine_code, 54)
    return machine_code.ljust(offset + entry_bytes * entries, b"\0")


@cache
def _loaded(program: Program, device: "torch.device") -> Any:
    """The program on one card, in the context that torch has made there, which CuPy uses too."""
    import cupy
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    machine_code = program.compile(cupy.cuda.nvrtc, f"{major}{minor}")
    with TemporaryDirectory() as folder, torch.cuda.device(device):
        path = Path(folder, "kernels.cubin")
        path.write_bytes(machine_code)
        module = cupy.RawModule(path=str(path))
        module.compile()  # reads the file now, while it is there
    return module


def require_cupy(device: "Device") -> None:
    """See that CuPy can work on this device.

    Raises:
        Unsupported: it is no NVIDIA card, or CuPy is missing, broken or of another CUDA.
    """
    if device.info.backend != "cuda":
        raise Unsupported("CuPy runs on NVIDIA cards only; this device takes implementation=torch")
    if stack.installed_cupy() and (problem := _cupy_problem(device)):
        raise Unsupported(f"{problem}: {problem.remedy}")
    try:
        import cupy  # noqa: F401 - asked for only to see whether it loads
    except ImportError as error:
        raise Unsupported(
            f"this implementation needs CuPy: {install_line('cuda12')} or [cuda13], "
            f"by the driver's CUDA version ({error})"
        ) from error


def _cupy_problem(device: "Device") -> EnvironmentRefused | None:
    """What is wrong with the CuPy that is installed, beside this torch."""
    import torch

    info = device.info
    capability = stack.capability(info.compute_capability)
    return stack.cupy_problem(stack.installed(info.card, capability, info.driver, torch))


def require_contiguous(values: "torch.Tensor") -> None:
    """See that the elements lie one behind the other, from wherever the first one lies.

    Raises:
        UsageError: they don't. Copying them silently would double what is read and written.
    """
    if not values.is_contiguous():
        raise UsageError(
            f"these kernels read contiguous arrays; this one of shape {tuple(values.shape)} has "
            f"strides {values.stride()}",
            "call .contiguous() first: that is a copy, which is why it isn't made for you",
        )


def require_rows(values: "torch.Tensor") -> None:
    """See that the array is rows × columns.

    Raises:
        UsageError: it has fewer or more dimensions.
    """
    if values.ndim != 2:
        raise UsageError(
            f"this kernel takes rows × columns; the array has shape {tuple(values.shape)}",
            "call .view(-1, columns) first: that copies nothing",
        )


def on_torch_stream(call: Callable[[], Any]) -> Callable[[], Any]:
    """Make CuPy queue ``call`` on the stream that is torch's current one at the time."""
    import cupy
    import torch

    streams: dict[int, Any] = {}

    def step() -> Any:
        handle = torch.cuda.current_stream().cuda_stream
        if handle not in streams:
            streams[handle] = cupy.cuda.ExternalStream(handle)
        with streams[handle]:
            return call()

    return step
