"""The wheel, the source distribution and an editable install each carry the whole program."""

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("pip", reason="distributions are installed with pip")
pytest.importorskip("hatchling", reason="distributions are built with hatchling")

ROOT = Path(__file__).resolve().parents[2]
NEVER_SHIPPED = shutil.ignore_patterns(".*", "__pycache__", "dist", "build", "*.egg-info")
LOOK_AROUND = """
import importlib.metadata, json
import gpubench
from gpubench import plugins
print(json.dumps({
    "package": plugins.__file__,
    "version": [gpubench.__version__, importlib.metadata.version("gpubench-suite")],
    "kernels": [str(folder) for folder in plugins.folders("kernels")],
    "kernel_files": sorted(plugins.files("kernels", ".py")),
}))
"""


@dataclass(frozen=True)
class Installation:
    """One environment in which nothing but gpubench is installed."""

    prefix: Path  # of the environment
    origin: Path  # what must hold the package: the environment, or the tree if editable
    elsewhere: Path  # an empty folder to work in

    def run(self, program, *arguments):
        """What the program of the environment prints."""
        done = call([self.prefix / "bin" / program, *arguments], self.elsewhere)
        assert done.stderr == ""
        return done.stdout

    def look_around(self):
        """What a Python of the environment sees of the package."""
        return json.loads(self.run("python", "-c", LOOK_AROUND))


def call(command, folder):
    """Run a command in a folder, without what the surroundings add to Python's path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean.pop("GPUBENCH_PATH", None)
    done = subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def files_below(folder):
    """Paths of all files of a folder, seen from it, without what Python compiles."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def tracked_or_new():
    """Files git tracks or would: None outside a checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return listed.stdout.split("\0")[:-1] if listed.returncode == 0 else None


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources, so that no build writes to the checkout."""
    copy = tmp_path_factory.mktemp("tree") / "gpubench"
    names = tracked_or_new()
    if names is None:
        shutil.copytree(ROOT, copy, ignore=NEVER_SHIPPED)
        return copy
    for name in names:
        if (ROOT / name).is_file():  # a file may be deleted and not yet committed so
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def build(kind, tree, folder):
    """What pip is asked to install: the one file that hatchling made, or the tree itself."""
    if kind == "editable":
        return ["--editable", tree]
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", folder]
    call(command, tree)
    return list(folder.iterdir())


@pytest.fixture(scope="module", params=["wheel", "sdist", "editable"])
def installation(request, tree, tmp_path_factory):
    """gpubench alone in a new environment, which borrows its dependencies from this one."""
    prefix, dist, elsewhere = (tmp_path_factory.mktemp(name) for name in ("env", "dist", "empty"))
    venv.create(prefix, with_pip=False)
    # Python reads the .pth files of an environment's own site-packages only. So the borrowed
    # folder lends its packages, but not the editable gpubench that a .pth file of its own names.
    borrowed = "\n".join(path for path in sys.path if path.endswith("-packages"))
    (own,) = prefix.glob("lib/python*/site-packages")
    (own / "zz_borrowed.pth").write_text(borrowed)
    pip = [sys.executable, "-m", "pip", "--python", prefix / "bin" / "python"]
    # Of a gpubench that lies in the borrowed folder pip must neither think that it will do ...
    options = ["--ignore-installed", "--no-build-isolation", "--no-deps", "--no-index"]
    call([*pip, "install", *options, *build(request.param, tree, dist)], tree)
    return Installation(prefix, tree if request.param == "editable" else prefix, elsewhere)


def test_the_installed_package_is_the_one_imported(installation):
    """No other gpubench, this environment's own least of all, stands in for the installed one."""
    seen = installation.look_around()
    assert Path(seen["package"]).is_relative_to(installation.origin)
    assert len(set(seen["version"])) == 1


def test_kernels_and_their_workloads_arrive(installation, tree):
    """The only folder of kernels found is the installation's, and no file of it is missing."""
    seen = installation.look_around()
    assert len(seen["kernels"]) == 1
    folder = Path(seen["kernels"][0])
    assert folder.is_relative_to(installation.origin)
    assert files_below(folder) == files_below(tree / "kernels")
    assert seen["kernel_files"]


def test_data_files_arrive(installation, tree):
    """Catalogues, suites and profiles, which no import would miss, are installed too."""
    package = Path(installation.look_around()["package"]).parent
    assert files_below(package) >= files_below(tree / "bench" / "gpubench")


def test_nothing_leaks_out_of_the_package(installation):
    """``kernels`` is no top-level package: other people's software has one of that name."""
    own = next(installation.prefix.glob("lib/python*/site-packages"))
    metadata = {path.name for path in own.glob("gpubench_suite-*.dist-info")}
    assert len(metadata) == 1
    allowed = metadata | {"gpubench", "_gpubench_suite.pth", "zz_borrowed.pth"}
    assert {path.name for path in own.iterdir()} <= allowed


def test_the_command_lists_workloads_from_anywhere(installation):
    """The installed command works in an empty folder and knows the kernels' workloads."""
    assert installation.run("gpubench", "list", "workloads").strip()
