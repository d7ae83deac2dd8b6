"""What `ab` sets against each other: environments, commits or workload files, made runnable.

A side is a Python and the variables under which its ``-m gpubench`` measures that side's code.
Whatever has to be made for that lies in a temporary folder: worktrees of commits, and copies of
workload files, so that an edit during the measurement does not change what is measured.
"""

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from gpubench import plugins
from gpubench.environment import outside_of_hooks
from gpubench.errors import EnvironmentRefused, UsageError, install_line
from gpubench.workload import Workload, all_workloads

WORKTREE = (".", "worktree")
NAMES = ("A", "B")
KINDS = {
    "env": "an environment (a folder with bin/python, or a python)",
    "commit": "a commit of this checkout",
    "file": "a workload file",
}
#: what the sides may differ in because it is what they compare; of environments, never the code
MAY_DIFFER: Mapping[str, tuple[str, ...]] = {
    "env": (),
    "commit": ("workload_hash", "workload_version"),
    "file": ("workload_hash", "workload_version"),
}


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: A or B.
        given: what the user typed.
        kind: env, commit or file.
        python: the interpreter that measures it.
        variables: its environment variables.
        numbers_trials: whether its `gpubench run` takes the number of the trial.
    """

    name: str
    given: str
    kind: str
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    numbers_trials: bool = False

    @property
    def label(self) -> str:
        """How results name it."""
        return f"{self.name}: {self.given}"

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run its interpreter to the end; an interruption ends it too."""
        # -P: a folder `gpubench` where the user happens to stand is not what is compared.
        return subprocess.run(
            [self.python, "-P", *words],
            env=outside_of_hooks(self.variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )


@contextmanager
def made_ready(texts: tuple[str, str], folder: Path) -> Iterator[tuple[Side, Side]]:
    """The two sides, runnable until the end of the context; ``folder`` is for what they need.

    Raises:
        UsageError: one is nothing that can be compared, or the two are of different kinds.
        EnvironmentRefused: there is no working gpubench in one, or git can't check it out.
    """
    kinds = [kind_of(text) for text in texts]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"{texts[0]!r} is {KINDS[kinds[0]]}, {texts[1]!r} is {KINDS[kinds[1]]}",
            "give two of one kind, so that one thing differs",
        )
    makers = {"env": _environment, "commit": _commit, "file": _file}
    with ExitStack() as stack:
        sides = []
        for name, text in zip(NAMES, texts, strict=True):
            place = folder / name.lower()
            sides.append(_probed(makers[kinds[0]](name, plain(text), place, stack)))
        yield sides[0], sides[1]


def kind_of(text: str) -> str:
    """``env``, ``commit`` or ``file``, by what there is, or as a prefix such as ``env:`` says.

    Raises:
        UsageError: it is none of them, or several.
    """
    name = plain(text)
    try:
        fits = {
            "env": python_of(name) is not None,
            "commit": commit_of(name) is not None,
            "file": name.endswith(".py") and Path(name).is_file(),
        }
    except OSError as error:  # a name too long for a path, a folder that is not ours to read
        raise UsageError(f"{name}: {error.strerror}", "check the path") from error
    asked = [text.partition(":")[0]] if name != text else list(KINDS)
    found = [kind for kind in asked if fits[kind]]
    if not found:
        what = [meaning for kind, meaning in KINDS.items() if kind in asked]
        raise UsageError(
            f"{name!r} is not {', nor '.join(what)}",
            "check the spelling; commits are looked for in the checkout you stand in",
        )
    if len(found) > 1:
        meanings = " and ".join(KINDS[kind] for kind in found)
        raise UsageError(
            f"{name!r} is both {meanings}",
            f"write {' or '.join(f'{kind}:{name}' for kind in found)}",
        )
    return found[0]


def plain(text: str) -> str:
    """Without the prefix that says of which kind it is."""
    kind, _, name = text.partition(":")
    return name if kind in KINDS and name else text


# environments ----------------------------------------------------------------------------------


def python_of(text: str) -> Path | None:
    """The interpreter of an environment; never resolved: a link's place tells which it is."""
    path = Path(text).absolute()
    if (path / "bin" / "python").is_file():
        return path / "bin" / "python"
    return path if path.is_file() and path.suffix != ".py" and os.access(path, os.X_OK) else None


def _environment(name: str, text: str, place: Path, stack: ExitStack) -> Side:  # noqa: ARG001 - nothing to make
    python = python_of(text) or Path(text)
    # What points an interpreter elsewhere would give both sides the same code.
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    return Side(name, text, "env", str(python), kept | {"PATH": path})


# commits ---------------------------------------------------------------------------------------


def commit_of(text: str) -> str | None:
    """The hash of a commit of the checkout in the working folder; of the worktree, its HEAD."""
    revision = "HEAD" if text in WORKTREE else text
    return _git(".", "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")


def _commit(name: str, text: str, place: Path, stack: ExitStack) -> Side:
    root = _git(".", "rev-parse", "--show-toplevel")
    if root is None:
        raise EnvironmentRefused(f"{text}: this repository has no files", "stand in a checkout")
    # First the removal, then what is to be removed: an interruption may come between.
    # Twice forced, since git locks a worktree as long as it is making it.
    stack.callback(_git, root, "worktree", "remove", "--force", "--force", str(place))
    _check_out(root, text, place)
    if text in WORKTREE:
        try:
            _copy_changes(Path(root), place)
        except OSError as error:
            raise EnvironmentRefused(
                f"{text} can't be copied into a temporary folder: {error}",
                "it takes space there, and files that can be read and stay where they are",
            ) from error
    own = (place / "bench" / "gpubench" / "__main__.py").is_file()
    python_path = [place / "bench"] if own else [place, *_this_code()]
    # A user's project is a folder of extensions; in ours they are found by themselves.
    extensions = [] if own else [place]
    variables = _with_path("PYTHONPATH", python_path, (root, place))
    variables |= _with_path("GPUBENCH_PATH", extensions, (root, place))
    side = Side(name, text, "commit", variables=os.environ | variables)
    if own:
        _refuse_other_code(side, place)
    return side


def _check_out(root: str, text: str, place: Path) -> None:
    hooks = f"core.hooksPath={os.devnull}"  # a checkout made to be thrown away is nobody's concern
    command = ["git", "-C", root, "-c", hooks, "worktree", "add", "--detach", "--quiet"]
    done = subprocess.run(
        [*command, str(place), str(commit_of(text))],
        env=outside_of_hooks(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
        raise EnvironmentRefused(
            f"git can't check out {text} into a temporary folder: {reason}",
            "it takes space there, and the right to write to the repository's .git",
        )


def _refuse_other_code(side: Side, place: Path) -> None:
    """An installation that comes before the worktree would be compared with itself."""
    found = side.call("-c", "import gpubench; print(gpubench.__file__)").stdout.strip()
    if not Path(found).resolve().is_relative_to(place.resolve()):
        raise EnvironmentRefused(
            f"{side.label}: Python takes gpubench from {found or 'nowhere'}, not from the commit",
            "uninstall that one, or compare two environments",
        )


def is_of_gpubench() -> bool:
    """Whether the checkout in the working folder is gpubench's own."""
    root = _git(".", "rev-parse", "--show-toplevel")
    return root is not None and (Path(root) / "bench" / "gpubench" / "__main__.py").is_file()


def _copy_changes(root: Path, place: Path) -> None:
    """Bring a worktree of HEAD to the present state: what is changed, new and deleted."""
    changed = _git(root, "diff", "--name-only", "--no-renames", "-z", "HEAD") or ""
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z") or ""
    names = list(filter(None, (changed + "\0" + new).split("\0")))
    # What is gone goes first: a link of HEAD that is a folder now would lead the copies elsewhere.
    for target in (place / name for name in names):
        if target.is_symlink() or target.is_file():
            target.unlink()
    for name in names:
        source, target = root / name, place / name
        if source.is_symlink() or source.is_file():
            if target.is_dir():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _git(folder: str | Path, *words: str) -> str | None:
    """What git says; None where it fails or there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            env=outside_of_hooks(os.environ),
            capture_output=True,
            text=True,
            errors="surrogateescape",  # names of files need not be text
            check=True,
        )
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return done.stdout.rstrip("\n")


def _with_path(variable: str, first: list[Path], moved: tuple[str, Path]) -> dict[str, str]:
    """A search path: ``first``, then what it held, with folders of the checkout moved along."""
    root, place = Path(moved[0]).resolve(), moved[1]
    entries = [Path(entry).resolve() for entry in _entries(variable)]
    there = [
        place / entry.relative_to(root) if entry.is_relative_to(root) else entry
        for entry in entries
    ]
    return {variable: os.pathsep.join(dict.fromkeys(map(str, [*first, *there])))}


def _entries(variable: str) -> list[str]:
    return list(filter(None, os.environ.get(variable, "").split(os.pathsep)))


def _this_code() -> list[Path]:
    """Where this very code is found: in a checkout it may be by the working folder alone."""
    return [plugins.PACKAGE.parent] if plugins.checkout() else []


# workload files --------------------------------------------------------------------------------


def _file(name: str, text: str, place: Path, stack: ExitStack) -> Side:  # noqa: ARG001 - removed with its folder
    path = Path(text).absolute()
    sources = [source for workload in workloads_of(text) for source in workload.sources[1:]]
    beside = {source: os.path.relpath(source, path.parent) for source in sources}
    # As deep as sources lie above the file, so that none is copied out of this side's place.
    depth = max((Path(relative).parts.count("..") for relative in beside.values()), default=0)
    home = place.joinpath(*["above"] * depth)
    target = home / "workloads"
    target.mkdir(parents=True)
    # A prefix: the file may be hidden by an underscore, or be named as one of ours.
    shutil.copy2(path, target / f"ab_{path.name}")
    for source, relative in beside.items():
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / relative)
    extensions = [home, *(Path(entry).absolute() for entry in _entries("GPUBENCH_PATH"))]
    python_path = [*map(str, _this_code()), *_entries("PYTHONPATH")]
    return Side(
        name,
        text,
        "file",
        variables=os.environ
        | {
            "GPUBENCH_PATH": os.pathsep.join(map(str, extensions)),
            "PYTHONPATH": os.pathsep.join(python_path),
        },
    )


@cache
def workloads_of(text: str) -> list[Workload]:
    """The workloads that a file defines.

    Raises:
        UsageError: it can't be imported, defines none, or one whose name is taken.
    """
    path = Path(text).absolute()
    try:
        with redirect_stdout(sys.stderr):  # standard output is for the verdicts
            found = runpy.run_path(str(path)).values()
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{text} failed on import: {type(error).__name__}: {error}", "mend the file"
        ) from error
    own = {id(thing): thing for thing in found if isinstance(thing, Workload)}
    defined = [workload for workload in own.values() if workload.sources[0] == path]
    if not defined:
        raise UsageError(
            f"{text} defines no workload", "a function with @workload does; see CONTRIBUTING.md"
        )
    known = all_workloads()
    for workload in defined:
        if workload.name in known:
            raise UsageError(
                f"{text} defines {workload.name!r}, and so does {known[workload.name].sources[0]}",
                "rename the function in both files, or take that folder out of GPUBENCH_PATH",
            )
    return defined


def suite_of(texts: tuple[str, str], folder: Path) -> Path:
    """Write the suite of what both files define, with the axes that each gives it.

    Raises:
        UsageError: they have no workload in common.
    """
    names = [{workload.name for workload in workloads_of(plain(text))} for text in texts]
    shared = sorted(names[0] & names[1])
    if not shared:
        defined = [
            f"{text} has {', '.join(sorted(n))}" for text, n in zip(texts, names, strict=True)
        ]
        raise UsageError(
            f"the files share no workload: {'; '.join(defined)}",
            "give the functions to be compared the same name",
        )
    path = folder / "ab.toml"
    path.write_text("".join(f'[[case]]\nworkload = "{name}"\n' for name in shared))
    return path


def _probed(side: Side) -> Side:
    """The side, knowing what its `gpubench run` takes.

    Raises:
        EnvironmentRefused: it has no gpubench that works.
    """
    done = side.call("-m", "gpubench", "run", "--help")
    if done.returncode or "gpubench run" not in done.stdout:  # some answer anything with 0
        words = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        remedy = {"env": f"{side.python} -m {install_line('run')}"}
        raise EnvironmentRefused(
            f"{side.label} has no gpubench that works: {words}",
            remedy.get(side.kind, "`python -m gpubench run --help` has to work there"),
        )
    return replace(side, numbers_trials="--first-trial" in done.stdout)
