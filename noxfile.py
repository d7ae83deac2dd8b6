"""Every routine of the project: ``python3 noxfile.py -s NAME``, or ``-l`` for their list.

Run as a script, this file needs nothing but Python and its ``venv``: it makes ``.venv``, installs
nox there and runs itself through it. Whoever has nox already can call ``nox -s NAME``. Either way
all sessions share ``.venv``, since every further PyTorch would take a gigabyte or more, and they
install nothing as long as pyproject.toml and this file stay as they were.
"""

import sys

# First of all, and in words that an old Python understands.
if sys.version_info < (3, 11):
    sys.exit(
        "gpubench needs Python 3.11 or newer, and this is %d.%d: call a newer one by name, "
        "such as python3.12; if .venv was made by the old one, remove it" % sys.version_info[:2]
    )

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
MADE = ENVIRONMENT / "gpubench-made"
INSTALLED = ENVIRONMENT / "gpubench-installed.json"
CONSTRAINTS = ENVIRONMENT / "gpubench-constraints.txt"


def say(message: str) -> None:
    """Announce a step that takes more than a moment."""
    print(f"noxfile: {message}", file=sys.stderr, flush=True)


def variables() -> dict[str, str]:
    """What a child needs so that its own ``python`` and ``pip`` are those of ``.venv`` too."""
    return {
        "PATH": os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", os.defpath)]),
        "VIRTUAL_ENV": str(ENVIRONMENT),
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def call(*arguments: str, attempt: bool = False) -> str | None:
    """Run the Python of ``.venv`` and return what it printed.

    With ``attempt`` a failure is silent and gives None, for a caller who has another way to go
    on; otherwise the errors are shown and end the program.
    """
    done = subprocess.run(
        [PYTHON, *arguments],
        cwd=ROOT,
        env={**os.environ, **variables()},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if attempt else None,
        check=False,
    )
    if done.returncode and not attempt:
        sys.exit(f"noxfile: 'python {' '.join(arguments)}' failed; its own words stand above")
    return None if done.returncode else done.stdout


def pip(*arguments: str, attempt: bool = False) -> str | None:
    """Run a pip that prints errors but no warnings: an extra index can cause hundreds of them."""
    return call("-m", "pip", "--quiet", "--quiet", *arguments, attempt=attempt)


def make_environment() -> None:
    """Make ``.venv``, with nox in it, unless that is done."""
    if MADE.exists() and PYTHON.exists():
        return
    if os.name != "posix":
        sys.exit("noxfile: these routines need Linux, macOS or WSL")
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        sys.exit(
            "noxfile: this Python can't make virtual environments; "
            "install its venv module (Debian and Ubuntu: apt install python3-venv)"
        )
    say("making .venv and installing nox there ...")
    # A .venv whose interpreter is gone can't be mended, and one that works is not ours to clear.
    clear = [] if PYTHON.exists() else ["--clear"]
    made = subprocess.run([sys.executable, "-m", "venv", *clear, ENVIRONMENT], check=False)
    if made.returncode:
        sys.exit("noxfile: .venv could not be made; the reason stands above")
    # An older pip would download a whole wheel only to tell what it requires.
    pip("install", "pip>=23.3", "nox>=2024.10.9")
    MADE.touch()


if __name__ == "__main__":
    make_environment()
    os.chdir(ROOT)
    os.execve(  # noqa: S606 - replaces this process, and no shell is wanted
        PYTHON,
        [str(PYTHON), "-m", "nox", "--noxfile", __file__, *sys.argv[1:]],
        {**os.environ, **variables()},
    )

import nox

# The table of builds and its rules need nothing but Python, so they work before an installation.
sys.path.insert(0, str(ROOT / "bench"))
from gpubench import stack

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]


def cards_here() -> list[tuple[stack.Capability | None, int | None]]:
    """Compute capability and driver branch of each card that nvidia-smi shows."""
    program = shutil.which("nvidia-smi")
    if program is None or sys.platform != "linux":
        return []
    query = [program, "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
    shown = subprocess.run(query, capture_output=True, text=True, check=False)
    if shown.returncode:
        say("nvidia-smi is here but shows no card; going on without a GPU")
        return []
    found = re.findall(r"^(?:(\d+\.\d+)|[^,]*), *(\d[\d.]*)", shown.stdout, re.MULTILINE)
    return [(stack.capability(one or None), stack.major(driver)) for one, driver in found]


def accelerator() -> stack.Build | None:
    """The best build of torch that serves every card here; None if there is no card to serve."""
    cards = cards_here()
    served = [card for card in cards if stack.build_for(*card)]
    if not served:
        if cards:
            say("no build of PyTorch runs on this card under its driver; going on without a GPU")
        return None
    for build in stack.builds():
        if all(build.serves(*card) for card in served):
            return build
    say("no build of PyTorch runs on all cards here; taking the first one's")
    return stack.build_for(*served[0])


def pypi_torch_is_cpu_only() -> bool:
    """Whether the file that pip would take for the CPU comes without CUDA libraries.

    So it does on macOS, on most ARM machines, and where such a wheel lies in a local folder.
    Only metadata is fetched.
    """
    from packaging.requirements import Requirement

    request = ("--dry-run", "--no-deps", "--ignore-installed", "--use-feature=fast-deps")
    report = pip("install", *request, "--report", "-", stack.TORCH_CPU, attempt=True)
    if report is None:
        return False
    metadata = json.loads(report)["install"][0]["metadata"]
    required = [Requirement(text) for text in metadata.get("requires_dist", [])]
    return not any(
        re.match(r"(nvidia|cuda|triton)\b", one.name)
        for one in required
        if one.marker is None or one.marker.evaluate({"extra": ""})
    )


def install_torch(build: stack.Build | None) -> None:
    """Install a build of PyTorch, None for the CPU's, and hold later installations to it."""
    pip("uninstall", "--yes", "torch")  # one of the wrong kind may satisfy the requirement
    if build:
        say(f"installing torch (CUDA {build.cuda}, about 6 GB on disk) ...")
        pip("install", build.torch, *(["--index-url", build.index] if build.index else []))
    elif pypi_torch_is_cpu_only():
        say("installing torch (CPU build, about 0.9 GB on disk) ...")
        pip("install", stack.TORCH_CPU)
    else:
        say("installing torch (CPU build from PyTorch's own index, about 0.9 GB on disk) ...")
        # That index mirrors little else, so the dependencies wait for the next installation.
        source = ("--no-deps", "--retries", "1", "--index-url", stack.TORCH_CPU_INDEX)
        if pip("install", *source, stack.TORCH_CPU + "+cpu", attempt=True) is None:
            say("that index can't be reached; installing PyPI's CUDA build, about 6 GB on disk ...")
            pip("install", stack.TORCH_CPU)
    version = call("-c", "import importlib.metadata as m; print(m.version('torch'))")
    CONSTRAINTS.write_text(f"torch=={version}", encoding="utf-8")


def ready(*extras: str) -> None:
    """Install gpubench, editable, with ``extras`` into ``.venv``, unless it is there already."""
    make_environment()
    # Scripts of an environment hold its path, and another driver needs another PyTorch.
    basis = [str(ROOT), str(shutil.which("nvidia-smi")), stack.TORCH_CPU]
    files = (ROOT / "pyproject.toml", ROOT / "noxfile.py", stack.BUILDS)
    basis += [path.read_text("utf-8") for path in files]
    key = hashlib.sha256("\0".join(basis).encode()).hexdigest()
    before = json.loads(INSTALLED.read_text("utf-8")) if INSTALLED.exists() else {}
    had = set(before["extras"]) if before.get("key") == key else set()
    if before.get("key") == key and had.issuperset(extras):
        return
    wanted, torch = had.union(extras), before.get("torch")
    INSTALLED.unlink(missing_ok=True)
    if "run" in wanted:
        build = accelerator()
        chosen = f"{build.build} {build.torch}" if build else stack.TORCH_CPU
        if torch != chosen:
            install_torch(build)
        torch = chosen
        wanted.update({build.extra} if build else set())
    target = f".[{','.join(sorted(wanted))}]"
    say(f"installing gpubench and what it requires, {target} ...")
    constraint = ["--constraint", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []
    pip("install", *constraint, "--editable", target)
    state = {"key": key, "extras": sorted(wanted), "torch": torch}
    INSTALLED.write_text(json.dumps(state), encoding="utf-8")


def needs_of_tests() -> tuple[str, ...]:
    """The extras that tests need: where gcc or g++ is missing, with a compiler from PyPI."""
    missing = [name for name in ("gcc", "g++") if shutil.which(name) is None]
    if sys.platform != "linux" or not missing:
        return ("run", "test")
    say(
        f"{' and '.join(missing)} missing: kernels and the stub of the driver's library are "
        "compiled by zig's clang, from PyPI; the sanitizers of rung 5 need g++ and are skipped "
        "(Debian and Ubuntu: apt install gcc g++)"
    )
    return ("run", "test", "compiler")


def python(session: nox.Session, *arguments: str) -> None:
    """Run the Python of ``.venv``, showing the command and its output."""
    session.run(str(PYTHON.relative_to(ROOT)), *arguments, env=variables(), external=True)


def gpubench(session: nox.Session, *arguments: str) -> None:
    """Run the command that all this is about."""
    python(session, "-m", "gpubench", *arguments)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this machine with the quick suite and make reports/index.html: about a minute."""
    ready("run")
    before = written()
    try:
        gpubench(session, "run", "--suite", "quick", "-o", "results/", *session.posargs)
    finally:  # a failed or unfinished case is part of the picture
        # Other files, such as the committed ones, would be pooled with this machine's own.
        new = sorted(path for path, when in written().items() if before.get(path) != when)
        if new:
            gpubench(session, "report", *new, "-o", "reports/index.html")
            say(f"next: `. .venv/bin/activate`, then `gpubench show {' '.join(new)}`")
            say("beside all other results: `gpubench report results/*.parquet -o reports/all.html`")


def written() -> dict[str, int]:
    """The result files below results/, each with the time it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in Path("results").glob("*.parquet")}


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, on two processors in 10 minutes; or, after ``--``, what pytest is to run."""
    ready(*needs_of_tests())
    if session.posargs:
        python(session, "-m", "pytest", *session.posargs)
        return
    # By file, since what a file's tests share is expensive: compiled kernels, measured runs. Four
    # at most, since each imports PyTorch. In the files' order, kernels before units: the longest
    # come first. A crash ends the run, since a worker in its place may wait for ever. Benchmarks
    # need the machine to themselves.
    spread = (
        *("-n", "logical", "--maxprocesses", "4", "--max-worker-restart", "0"),
        *("--dist", "loadfile", "--no-loadscope-reorder"),
    )
    python(session, "-m", "pytest", *spread, "--ignore", "tests/benchmarks")
    python(session, "-m", "pytest", "tests/benchmarks")


@nox.session
def coverage(session: nox.Session) -> None:
    """Fail unless tests execute every line and branch of the CUDA backend: about 1 minute."""
    ready(*needs_of_tests())
    files = ("tests/nvml", "tests/unit/test_doctor.py", "tests/unit/test_cuda_backend.py")
    with tempfile.TemporaryDirectory() as folder:
        data = f"--data-file={folder}/coverage"
        python(session, "-m", "coverage", "run", data, "-m", "pytest", *files)
        python(session, "-m", "coverage", "combine", "--quiet", data)
        python(session, "-m", "coverage", "report", data)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format; ``ruff check --fix`` and ``ruff format`` mend most of it."""
    ready("dev")
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, the kernels' workloads and this file."""
    ready("dev")
    python(session, "-m", "mypy", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Make the committed report, reports/example.html, again from the committed result files."""
    ready()
    listed = session.run("git", "ls-files", "results/*.parquet", silent=True, external=True)
    files = str(listed or "").split()
    if not files:
        session.error("git knows no result file below results/")
    gpubench(session, "report", *files, "-o", "reports/example.html")


@nox.session
def results(session: nox.Session) -> None:
    """Measure the committed result files again, on this machine: about 15 minutes."""
    ready("run")
    for suite, name in (("quick", "cpu-quick-1"), ("quick", "cpu-quick-2"), ("full", "cpu-full")):
        Path("results", f"{name}.parquet").unlink(missing_ok=True)  # runs overwrite nothing
        gpubench(session, "run", "--suite", suite, "-o", f"results/{name}.parquet")


@nox.session
def agreement(session: nox.Session) -> None:
    """Check that gpubench's timer and torch.utils.benchmark agree on the same steps: 2 minutes."""
    ready("run")
    python(session, "benchmarks/timer_agreement.py", *session.posargs)


@nox.session(name="telemetry-cost")
def telemetry_cost(session: nox.Session) -> None:
    """Check that what is read beside a measurement costs it less than 1 %: about 2 minutes."""
    ready("run")
    python(session, "benchmarks/telemetry_cost.py", *session.posargs)


@nox.session(name="validate-memory")
def validate_memory(session: nox.Session) -> None:
    """Hold modelled memory and FLOPs of training jobs against fake tensors: 10 to 20 minutes."""
    ready("run")
    python(session, "benchmarks/validate_memory.py", *session.posargs)


@nox.session(name="verdict-study")
def verdict_study(session: nox.Session) -> None:
    """Measure this machine's false alarms and power again, by 20 quick runs: about 25 minutes.

    They are split in all ways. The time is that of two CPU cores; leave the machine alone
    meanwhile. With ``-- evaluate`` the kept runs are only evaluated again.
    """
    ready("run", "dev")
    if session.posargs != ["evaluate"]:
        python(session, "benchmarks/verdict_study/measure.py", *session.posargs)
    python(session, "benchmarks/verdict_study/evaluate.py")


@nox.session(name="validate-prediction")
def validate_prediction(session: nox.Session) -> None:
    """Predict each published card from the others, and say how far off that is: about 3 minutes.

    Further results in the format of bench/gpubench/data/published.csv may follow ``--``; without
    any, docs/prediction.json and its figure are made again.
    """
    ready("dev")
    python(session, "benchmarks/validate_prediction.py", *session.posargs)


@nox.session(name="time-to-precision")
def time_to_precision(session: nox.Session) -> None:
    """Time gpubench and two other tools to a median within 1 %: some minutes."""
    ready("run", "test")
    python(session, "benchmarks/time_to_precision.py", *session.posargs)


@nox.session
def efficiency(session: nox.Session) -> None:
    """Show the share of the quick suite that is in timed steps, and the rest: about a minute."""
    ready("run")
    python(session, "benchmarks/efficiency.py", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Plant faults in the kernels; renew the table of docs/verification.md: about 4 minutes."""
    ready("run", "test")
    with tempfile.TemporaryDirectory() as folder:
        rungs(session, "mutations", folder)


@nox.session(name="verification-matrix")
def verification_matrix(session: nox.Session) -> None:
    """Compile the kernels for ten architectures; renew docs/verification.md: about a minute."""
    ready("run", "test")
    rungs(session, "matrix")


def rungs(session: nox.Session, *arguments: str) -> None:
    """Run a module of tests/kernels/rungs."""
    where = {**variables(), "PYTHONPATH": "tests/kernels"}
    name, *rest = arguments
    command = (str(PYTHON.relative_to(ROOT)), "-m", f"rungs.{name}", *rest)
    session.run(*command, env=where, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    ready("test")
    python(session, "-m", "hatchling", "build", "--directory", "dist")
