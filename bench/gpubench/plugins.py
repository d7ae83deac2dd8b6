"""Folders to modules and TOML files: how one new file becomes an extension.

A *kind* is a folder name: ``workloads``, ``kernels``, ``backends``, ``figures``, ``suites``,
``profiles``, ``models`` or ``cards``. Every file in such a folder is an extension named after its
stem; a leading underscore hides a file (shared helpers). Folders are searched in the installed
package, in the checkout (``kernels/`` lies beside ``bench/`` there), in the settings folder, and
below each folder listed in the environment variable ``GPUBENCH_PATH``, so a user's own files need
no change to this package.
"""

import importlib
import importlib.util
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gpubench.errors import EnvironmentRefused, UsageError, unknown_name

PACKAGE = Path(__file__).parent
KINDS = ("workloads", "kernels", "backends", "figures", "suites", "profiles", "models", "cards")
#: of a TOML file, in bytes, for whose square it may take to read, and in levels
LARGEST_FILE = 2**16
DEEPEST = 20


def checkout() -> Path | None:
    """Root of the source checkout this package runs from; None when it is installed."""
    root = PACKAGE.parent.parent
    return root if (root / "pyproject.toml").exists() and PACKAGE.parent.name == "bench" else None


def settings() -> Path:
    """The folder of this user's settings: ``gpubench`` in XDG_CONFIG_HOME, else in ~/.config.

    It need not be there yet.

    Raises:
        EnvironmentRefused: this user has no home.
    """
    home = os.environ.get("XDG_CONFIG_HOME")
    try:
        return (Path(home) if home else Path.home() / ".config") / "gpubench"
    except RuntimeError as error:
        raise EnvironmentRefused(
            f"there is no folder for settings: {error}", "set XDG_CONFIG_HOME to one"
        ) from error


def folders(kind: str) -> list[Path]:
    """Folders that hold extensions of ``kind``, shipped ones first.

    The wheel carries ``kernels`` inside the package; in a checkout it lies beside ``bench/``.
    """
    root = checkout()
    shipped = [root / kind] if root and kind == "kernels" else [PACKAGE / kind]
    entries = os.environ.get("GPUBENCH_PATH", "").split(os.pathsep)
    users = [Path(entry) / kind for entry in dict.fromkeys(entries) if entry]
    with suppress(EnvironmentRefused):
        users.insert(0, settings() / kind)
    return [folder for folder in shipped + users if is_folder(folder)]


def is_folder(path: Path) -> bool:
    """Whether it is one, as far as can be told: a name of 5,000 letters is none, and no error."""
    try:
        return path.is_dir()
    except OSError:
        return False


def files(kind: str, suffix: str) -> dict[str, Path]:
    """Extension files of ``kind`` by stem, in alphabetical order.

    Raises:
        UsageError: two files of one kind share a name.
    """
    found: dict[str, Path] = {}
    for folder in folders(kind):
        for path in sorted(folder.glob(f"*{suffix}")):
            if path.name.startswith(("_", ".")):
                continue
            if path.stem in found:
                raise UsageError(
                    f"two {kind} are named {path.stem!r}: {found[path.stem]} and {path}",
                    "rename one of the files",
                )
            found[path.stem] = path
    return dict(sorted(found.items()))


def find(kind: str, name: str, suffix: str) -> Path:
    """The file of the extension ``name``.

    Raises:
        UsageError: there is none of that name.
    """
    known = files(kind, suffix)
    if name not in known:
        raise unknown_name(kind.removesuffix("s"), name, known)
    return known[name]


@cache
def _module(kind: str, path: Path) -> ModuleType:
    """Import one extension file, once."""
    if path.parent == PACKAGE / kind:
        return importlib.import_module(f"gpubench.{kind}.{path.stem}")
    name = f"gpubench_{kind}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} can't be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with redirect_stdout(sys.stderr):  # standard output is for our tables and JSON
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"{path} failed on import: {type(error).__name__}: {error}",
            "mend the file or take its folder out of GPUBENCH_PATH",
        ) from error
    return module


def modules(kind: str) -> Iterator[ModuleType]:
    """Import and yield every Python extension of ``kind``."""
    for path in files(kind, ".py").values():
        yield _module(kind, path)


def module(kind: str, name: str) -> ModuleType:
    """Import the extension ``name`` of ``kind``.

    Raises:
        UsageError: there is none of that name.
    """
    return _module(kind, find(kind, name, ".py"))


def stem(extension: ModuleType) -> str:
    """The name an extension goes by: its file's."""
    return Path(str(extension.__file__)).stem


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML file.

    Raises:
        UsageError: missing, unreadable, not TOML, or holding what no file of ours does.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise UsageError(f"{path} is too large for a file of ours", "name another file")
        content = tomllib.loads(text.decode())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "mend the line it names") from error
    _refuse_the_boundless(path, content)
    return content


def _refuse_the_boundless(path: Path, value: Any, depth: int = 0) -> None:
    """What TOML allows and nothing can work with: to print it, or to reckon with it, fails.

    Raises:
        UsageError: an integer beyond 64 bits, or lists and tables in each other without end.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UsageError(f"{path} holds an integer beyond 64 bits", "mend the file")
    if depth > DEEPEST:
        raise UsageError(f"{path} nests deeper than {DEEPEST} levels", "mend the file")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        _refuse_the_boundless(path, one, depth + 1)
