"""The architecture of design and docs, held against the imports: data flows one way."""

import ast
import re
import resource
import subprocess
import sys
from keyword import iskeyword
from pathlib import Path

import pytest

import gpubench
from gpubench import cli, plugins

PACKAGE = Path(gpubench.__file__).parent

# Which modules of the package each module may import: the picture in CONTRIBUTING.md.
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "plugins": {"errors"},
    "stats": set(),
    "render": set(),
    "card_file": {"plugins", "errors"},
    "cards": {"card_file", "errors"},
    "published": {"cards", "errors"},
    "stack": {"errors"},
    "transformer": {"plugins", "errors"},
    "job": {"transformer", "cards", "workload", "errors"},
    "record": set(),
    "workload": {"plugins", "errors"},
    "device": {"plugins", "errors", "workload"},
    "program": {"device", "errors", "stack"},
    "suite": {"plugins", "errors", "workload"},
    "telemetry": {"device", "record"},
    "measure": {"device", "workload", "stats", "telemetry", "errors"},
    "environment": {"plugins", "device", "errors", "__init__"},
    "store": {"record", "errors"},
    "worker": {"cards", "device", "workload", "measure", "environment", "errors"},
    "run": {"suite", "device", "workload", "measure", "worker", "record", "store", "errors"},
    "names": {"render"},
    "table": {"record", "cards", "names", "render", "stats", "store"},
    "compare": {"table", "record", "names", "render", "stats", "errors"},
    "placement": {"evidence", "predict", "table", "cards", "render", "stats", "errors"},
    "beside": {"published", "render", "stats"},
    "calibration": {"plugins", "compare", "record", "render", "stats", "errors"},
    "history": {"series", "compare", "record", "table", "names", "render", "stats", "errors"},
    "estimate": set(),
    "profile": {"plugins", "cards", "errors"},
    "prices": {"plugins", "cards", "errors"},
    "scaling": {"cards", "estimate", "published"},
    "rates": {"cards", "estimate", "evidence", "stats"},
    "score": {"cards", "estimate", "profile", "rates", "render"},
    "scoreboard": {"score", "profile", "cards", "render"},
    "sensitivity": {"score", "profile"},
    "recommend": {
        *("prices", "scaling", "score", "sensitivity", "profile", "rates", "estimate", "cards"),
        *("job", "stack", "predict", "evidence", "workload", "errors"),
    },
    "advice": {"recommend", "score", "sensitivity", "scaling", "profile", "estimate"}
    | {"cards", "job", "render"},
    "series": {"table", "record", "names", "cards", "render"},
    "page": {"plugins", "render", "errors", "__init__"},
    "report": {
        "history",
        "plugins",
        "calibration",
        *("profile", "scoreboard"),
        "series",
        "names",
        "page",
        "table",
        "compare",
        "record",
        "render",
        "errors",
    },
    "efficiency": {"cards", "workload"},
    "evidence": {"cards", "efficiency", "errors", "published", "record", "render", "workload"},
    "predict": {"cards", "efficiency", "estimate", "evidence", "published", "workload", "errors"},
    "modelled": {"cards", "evidence", "predict", "names", "render", "suite", "workload"},
    "listing": {"plugins", "cards", "published", "render", "workload", "suite", "job", "errors"},
    "console": {"run", "record", "render", "stats", "table", "ab", "compare"},
    "doctor": {"plugins", "stack", "cards", "device", "environment", "telemetry", "errors"},
    "timers": {"stats", "device", "measure", "workload"},
    "nvbench": {"timers", "device", "workload"},
    "kernel_checks": {"plugins", "device", "doctor", "program", "worker", "workload", "errors"},
    "verify": {
        *(
            "kernel_checks",
            "doctor",
            "timers",
            "nvbench",
            "environment",
            "device",
            "workload",
            "suite",
            "run",
        ),
        *("table", "placement", "predict", "telemetry", "cards"),
        *("render", "stats", "errors", "__init__"),
    },
    "sides": {"plugins", "workload", "environment", "errors"},
    "ab": {"sides", "store", "table", "compare", "record", "errors"},
    "exchange": {"store", "record", "names", "render", "stats", "errors"},
    "regression": {"exchange", "compare", "record", "render", "stats"},
    "pytest_plugin": {
        *("device", "environment", "measure", "workload", "record"),
        *("exchange", "regression", "verbs", "errors"),
    },
    "cli": {"errors", "__init__"},
}
# Only for annotations: a device says what it expects of a workload's declared work.
FOR_TYPES_ONLY = {("device", "workload")}
# Every module and folder of the package, once; the headings of CONTRIBUTING.md's table.
GROUPS = {
    "foundation": {
        *("__init__", "errors", "plugins", "names", "stats", "render", "estimate"),
        *("workload", "device", "program", "suite", "record", "store"),
        *("cards", "card_file", "stack", "workloads", "suites", "data"),
    },
    "measuring": {
        *(
            "measure",
            "telemetry",
            "environment",
            "worker",
            "run",
            "timers",
            "nvbench",
            "doctor",
            "kernel_checks",
            "backends",
        ),
    },
    "reading": {
        *("table", "compare", "calibration", "history", "exchange", "regression"),
        *("series", "page"),
    },
    "prediction": {
        *("published", "beside", "efficiency", "evidence", "predict", "modelled", "placement"),
        *("scaling", "transformer", "job", "models"),
    },
    "selection": {
        *("profile", "prices", "rates", "score", "scoreboard", "sensitivity", "recommend"),
        *("advice", "profiles"),
    },
    "fronts": {
        *("__main__", "cli", "verbs", "console", "listing", "ab", "sides", "verify"),
        *("pytest_plugin", "report", "figures"),
    },
}
# Which groups a group may use beside itself. What measures and what reads meet in the result file.
MAY_USE = {
    "foundation": set(),
    "measuring": {"foundation"},
    "reading": {"foundation"},
    "prediction": {"foundation", "reading"},
    "selection": {"foundation", "reading", "prediction"},
    "fronts": set(GROUPS),
}
GROUP_OF = {module: group for group, modules in GROUPS.items() for module in modules}


def imports(path):
    """(module of the package, whether only for annotations) for each import in a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "gpubench":
                names = [f"gpubench.{alias.name}" for alias in node.names]
            else:
                names = [node.module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "gpubench":
                target = rest.partition(".")[0] or "__init__"
                if not (PACKAGE / f"{target}.py").exists() and not (PACKAGE / target).is_dir():
                    target = "__init__"
                yield target, id(node) in typing_only


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def test_every_module_has_its_place_in_the_picture():
    assert set(MODULES) == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_the_picture_allows(module):
    """And all of that: a permission that nothing uses says what isn't so."""
    found = set(imports(PACKAGE / f"{module}.py"))
    assert {target for target, _ in found} == MAY_IMPORT[module]
    for target, for_types in found:
        if (module, target) in FOR_TYPES_ONLY:
            assert for_types, f"{module} may name {target} in annotations only"


VERBS = sorted(path.stem for path in (PACKAGE / "verbs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_only_flags_and_errors_before_it_is_called(verb):
    """What else it needs is imported by its call, so that help and typing errors come at once."""
    tree = ast.parse((PACKAGE / "verbs" / f"{verb}.py").read_text())
    found = {
        f"{node.module}.{name.name}" if isinstance(node, ast.ImportFrom) else name.name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    own = {name for name in found if name.startswith("gpubench")}
    assert all(name == "gpubench.errors" or "._flags." in name for name in own)
    assert {name.partition(".")[0] for name in found - own} <= {
        "__future__",
        "argparse",
        "sys",
        "typing",
    }


def test_each_verb_is_a_file_and_each_file_a_verb():
    assert sorted(verb + "_" * iskeyword(verb) for verb in cli.VERBS) == [
        name for name in VERBS if not name.startswith("_")
    ]


def contents():
    """Modules and folders of the package."""
    return {path.stem for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")}


def test_every_module_and_folder_is_in_exactly_one_group():
    assert contents() == set(GROUP_OF)
    assert sum(map(len, GROUPS.values())) == len(GROUP_OF)


def forbidden(module, paths):
    """What these files of a module or folder import beyond the groups that its own may use."""
    group = GROUP_OF[module]
    allowed = {group, *MAY_USE[group]}
    targets = {target for path in paths for target, _ in imports(path)}
    return {target for target in targets if GROUP_OF[target] not in allowed}


@pytest.mark.parametrize("module", sorted(GROUP_OF))
def test_a_group_uses_only_the_groups_below_it(module):
    folder = PACKAGE / module
    assert not forbidden(
        module, folder.glob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]
    )


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("run", "from gpubench.predict import Predictor"),
        ("worker", "from gpubench import table"),
        ("evidence", "from gpubench.measure import measure"),
        ("predict", "import gpubench.recommend"),
        ("compare", "from gpubench.predict import Predictor"),
        ("store", "from gpubench import table"),
        ("backends", "from gpubench.score import score"),
    ],
)
def test_an_import_against_the_arrows_is_found(module, text, tmp_path):
    (tmp_path / "planted.py").write_text(text)
    assert forbidden(module, [tmp_path / "planted.py"])


def test_the_contributing_page_has_each_module_under_its_group():
    page = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text().split("## Adding something")[0]
    sections = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    listed = {
        section.split("\n", 1)[0].casefold(): set(
            re.findall(r"^\| `(\w+)/?` ", section, re.MULTILINE)
        )
        for section in sections
    }
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"verbs"}
    assert listed == {
        group: {module for module in modules if not module.startswith("__")} - folders
        for group, modules in GROUPS.items()
    }


def test_the_picture_has_no_cycle():
    arrows = {
        module: {target for target in targets if (module, target) not in FOR_TYPES_ONLY}
        for module, targets in MAY_IMPORT.items()
        if module != "__init__"
    }
    order = []
    while len(order) < len(arrows):
        free = [
            module
            for module, targets in arrows.items()
            if module not in order and targets & set(arrows) <= set(order)
        ]
        assert free, f"a cycle among {set(arrows) - set(order)}"
        order += free


def test_only_store_opens_result_files():
    for module in MODULES:
        text = (PACKAGE / f"{module}.py").read_text()
        if module != "store":
            assert "pyarrow.parquet" not in text
            assert "read_parquet" not in text


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_extensions_import_nothing_heavy_before_they_are_used(kind):
    heavy = {"torch", "cupy", "transformers", "plotly", "numpy", "pandas"}
    if kind == "figures":
        heavy -= {"plotly", "numpy", "pandas"}  # a report always needs them
    for path in plugins.files(kind, ".py").values():
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert not {name.partition(".")[0] for name in names} & heavy, path


LIGHT = {
    "--help": [],
    "--version": [],
    "list cards": ["rich"],
    "list suites": ["rich"],
    "list workloads": ["rich"],
    "devices --help": [],
    "doctor --card tesla-t4": ["rich"],
    "run --help": [],
    "recommend --help": [],
}


@pytest.mark.parametrize("words", LIGHT)
def test_the_command_answers_without_heavy_imports(words):
    code = (
        "import sys\nfrom gpubench.cli import main\n"
        f"try: main({words.split()!r})\nexcept SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    heavy = {"torch", "pandas", "plotly", "pyarrow", "scipy", "transformers", "cupy", "numpy"}
    assert not loaded & heavy
    if "rich" not in LIGHT[words]:
        assert "rich" not in loaded


def test_help_takes_at_most_five_times_a_bare_interpreter():
    """In processor time, of which other processes take none; interleaved, and summed up."""

    def once(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    pairs = [(once("-c", "pass"), once("-m", "gpubench", "--help")) for _ in range(12)]
    bare, helped = map(sum, zip(*pairs, strict=True))
    assert helped <= 5 * bare


def test_importing_the_package_imports_nothing_of_it():
    code = "import gpubench, sys; print(*[n for n in sys.modules if n.startswith('gpubench.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert gpubench.__all__ == ["__version__"]


def test_no_module_is_a_drawer_for_odds_and_ends():
    for path in PACKAGE.rglob("*.py"):
        assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


def test_no_function_is_longer_than_a_screen():
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent.parent / "kernels").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{path.name}: {node.name} has {lines} lines"
