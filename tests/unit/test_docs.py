"""The documentation is held against the code: no verb, flag or column without its words."""

import argparse
import ast
import dataclasses
import re
import runpy
import tomllib
from pathlib import Path

import pytest

from gpubench import cli, compare, exchange, job, listing, measure, render, report, table, telemetry
from gpubench.backends.virtual import Script
from gpubench.errors import install_line
from gpubench.pytest_plugin import Settings
from gpubench.record import Record
from gpubench.stack import builds, install_line_for_cpu
from gpubench.suite import load_suite

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name):
    return (ROOT / name).read_text()


def verbs():
    top = cli.parser(list(cli.VERBS))
    action = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_and_flag_is_documented_and_no_other(verb):
    sections = re.split(r"^## gpubench ", read("docs/commands.md"), flags=re.MULTILINE)[1:]
    section = {text.split("\n", 1)[0].strip(): text for text in sections}[verb]
    flags = {
        option
        for action in verbs()[verb]._actions
        for option in action.option_strings
        if option not in {"-h", "--help"}
    }
    documented = set(re.findall(r"`(--?[a-z][a-z-]*)", section))
    assert flags <= documented
    assert {flag for flag in documented if flag.startswith("--")} - flags <= {"--resume"}


@pytest.mark.parametrize(
    ("verb", "flag", "known"),
    [
        ("recommend", "--method", job.METHODS),
        ("recommend", "--precision", job.PRECISIONS),
        ("recommend", "--optimizer", job.STATE_BYTES),
        ("list", "--sort", listing.SORTS),
        ("list", "--format", render.FORMATS),
        ("compare", "--by", compare.AXES),
        ("export", "--to", exchange.FORMATS),
    ],
)
def test_a_flag_offers_all_that_there_is(verb, flag, known):
    """Verbs repeat these, so that help comes without importing what they are about."""
    (action,) = (one for one in verbs()[verb]._actions if flag in one.option_strings)
    assert tuple(action.choices) == tuple(known)


def test_every_option_and_marker_keyword_of_the_pytest_plugin_is_documented():
    page = read("docs/pytest.md")
    source = read("bench/gpubench/pytest_plugin.py")
    options = set(re.findall(r'"(--gpubench-[a-z-]+)"', source))
    listed = set(re.findall(r"^- `(--gpubench-[a-z-]+)", page, flags=re.MULTILINE))
    assert options
    assert listed == options
    for field in dataclasses.fields(Settings):
        assert f"{field.name}=" in page


def test_every_setting_of_a_virtual_device_is_documented():
    page = read("docs/commands.md")
    for field in dataclasses.fields(Script):
        assert f"`{field.name}`" in page


def test_every_flag_of_a_row_is_explained_and_every_explained_flag_exists():
    section = read("docs/method.md").split("## Flags")[1].split("## ")[0]
    explained = set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE))
    raised = flags_in(measure, "_flags") | flags_in(telemetry, "flags")
    assert len(raised) > 10
    assert '["above_peak"]' in Path(table.__file__).read_text()
    assert explained == raised | {"above_peak"} == set(report.FLAGS)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_no_page_has_a_gap_left_to_fill(path):
    assert not re.search(r"\b(TODO|STUDY|TELEMETRY|TBD)\b", path.read_text())


def flags_in(module, function):
    """The keys of the mapping from which a function makes flags."""
    tree = ast.parse(Path(module.__file__).read_text())
    found = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    mapping = next(node for node in ast.walk(found) if isinstance(node, ast.Dict))
    return {key.value for key in mapping.keys}


def test_every_verdict_and_reason_is_explained():
    page = read("docs/method.md").split("## Verdicts")[1]
    for verdict in compare.Verdict.__args__:
        assert f"`{verdict}`" in page
    for code in compare.MEANING:
        assert f"`{code}`" in page


def test_every_column_of_the_result_file_is_documented_with_its_meaning():
    page = read("docs/result-file.md")
    for field in dataclasses.fields(Record):
        assert f"| `{field.name}` |" in page
        assert field.metadata["meaning"] in page


def test_every_module_is_in_the_picture():
    page = read("CONTRIBUTING.md")
    for path in (ROOT / "bench/gpubench").glob("*.py"):
        if not path.stem.startswith("__"):
            assert f"| `{path.stem}` |" in page


def test_each_kind_of_extension_is_explained_once():
    page = read("CONTRIBUTING.md").split("## Adding something")[1].split("## House rules")[0]
    kinds = re.findall(r"\*\*(?:A|or) (\w+)\*\*|\*\*(profile)\*\*", page)
    named = [kind or profile for kind, profile in kinds]
    assert sorted(named) == sorted(set(named))
    assert {"workload", "suite", "profile", "model", "figure", "backend", "card"} == set(named)


def test_the_workload_of_the_contributing_page_works_as_it_stands(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the page's example computes with torch")
    from gpubench.device import open_device
    from gpubench.measure import StopRule
    from gpubench.measure import measure as measure_case
    from gpubench.workload import Case

    code = read("CONTRIBUTING.md").split("```python\n")[1].split("```")[0]
    folder = tmp_path / "workloads"
    folder.mkdir()
    (folder / "square.py").write_text(code)
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path))
    case = Case("square", (("n", 2**16), ("precision", "fp16")))
    measured = measure_case(open_device("cpu"), case, StopRule(budget_s=0.1, warmup_s=0.1))
    assert measured.work.bytes == 2 * 2 * 2**16


def test_local_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_shows_the_two_commands_and_ci_runs_the_second():
    readme = read("README.md")
    assert "python3 noxfile.py -s bench" in readme
    assert "python3 noxfile.py -s tests" in readme
    assert "\npython3 noxfile.py -s tests" in read(".ci/run")


def test_the_readme_says_how_much_more_the_full_suite_is():
    full, quick = (len(load_suite(name).cases) for name in ("full", "quick"))
    assert f"{full} cases instead of {quick}" in read("README.md").replace("\n", " ")


def test_every_line_that_installs_gpubench_is_one_that_works_today():
    """No package index has it, so a line that names it would fail, or install another's."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    # What transformers lacks is said where no one sees the remedy, and words there are its code.
    sources = [path for path in (ROOT / "bench").rglob("*.py") if path.name != "bert.py"]
    for path in [*pages, *sources]:
        text = path.read_text(encoding="utf-8")
        assert PROJECT["name"] not in text, path
        if path.suffix == ".md":
            for line, extras in re.findall(r"(pip install -e (?:'\.\[(.*?)\]'|\S+?))[`\s]", text):
                wanted = extras.split(",") if extras else []
                assert line == install_line(*wanted), path
                assert PROJECT["optional-dependencies"].keys() >= set(wanted), path
    assert f"\n{install_line_for_cpu()}\n" in read("README.md")
    assert f"\n{install_line('cuda13')} " in read("docs/verification.md")
    assert builds()[0].install_line() == install_line("cuda13")


def test_the_column_page_is_the_generated_one():
    made = runpy.run_path(str(ROOT / "docs/make_result_file_page.py"))["page"]()
    assert made == read("docs/result-file.md")
