"""Two sides in turn: what they may be, in which order they run, and what is kept of them."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import ab, cli, compare, console, plugins, sides, store
from gpubench.errors import EnvironmentRefused, UsageError

WORKLOAD = """
from gpubench.workload import Prepared, Work, workload

@workload(version=1, work=lambda n: Work(flops={flops} * n), n=[1], sources={sources})
def {name}(device, n):
    return Prepared(step=lambda: None)
"""


def write_workload(path, name="square", flops=1e12, sources=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WORKLOAD.format(name=name, flops=flops, sources=list(sources)))
    return path


def git(folder, *words):
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A user's project with two commits, to stand in."""
    root = tmp_path / "project"
    write_workload(root / "workloads" / "mine.py")
    (root / "old.txt").write_text("old")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=one")
    git(root, "tag", "v1")
    write_workload(root / "workloads" / "mine.py", flops=2e12)
    git(root, "commit", "--quiet", "--all", "--message=two")
    monkeypatch.chdir(root)
    return root


# what the sides are ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["v1", "main", "HEAD~1", ".", "worktree", "commit:v1"])
def test_whatever_names_a_commit_is_one(checkout, text):
    assert sides.kind_of(text) == "commit"


@pytest.mark.parametrize("text", [sys.prefix, sys.executable, f"env:{sys.executable}"])
def test_a_python_and_its_folder_are_an_environment(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert sides.kind_of(text) == "env"


def test_an_environment_runs_by_its_link_which_says_which_it_is(tmp_path):
    link = tmp_path / "venv" / "bin" / "python"
    link.parent.mkdir(parents=True)
    link.symlink_to(sys.executable)
    assert sides.python_of(str(tmp_path / "venv")) == link


def test_a_python_file_is_a_workload_file_even_if_it_can_be_run(checkout):
    (checkout / "mine.py").write_text("")
    (checkout / "mine.py").chmod(0o755)
    assert sides.kind_of("mine.py") == sides.kind_of("file:mine.py") == "file"


def test_what_is_two_things_is_refused_with_how_to_say_which(checkout):
    git(checkout, "branch", "mine.py")
    (checkout / "mine.py").write_text("")
    with pytest.raises(UsageError) as caught:
        sides.kind_of("mine.py")
    assert "commit:mine.py" in caught.value.remedy
    assert "file:mine.py" in caught.value.remedy
    assert sides.kind_of("commit:mine.py") == "commit"


@pytest.mark.parametrize("text", ["nothing", "nothing.py", "commit:nothing", "env:v1"])
def test_what_is_nothing_is_refused(checkout, text):
    with pytest.raises(UsageError, match=r"is not (an environment|a commit)"):
        sides.kind_of(text)


def test_a_name_too_long_for_the_system_is_refused(checkout):
    with pytest.raises(UsageError, match="too long"):
        sides.kind_of("x" * 300)


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert sides.commit_of("HEAD") is None


def test_two_kinds_are_not_compared(checkout, tmp_path):
    with (
        pytest.raises(UsageError, match=r"is a commit .* is a workload file"),
        sides.made_ready(("v1", "workloads/mine.py"), tmp_path / "temporary"),
    ):
        pass


def test_an_environment_sees_nothing_of_the_code_that_compares(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with sides.made_ready((sys.executable, sys.executable), tmp_path) as both:
        for side in both:
            assert "PYTHONPATH" not in side.variables
            assert side.variables["PATH"].startswith(str(Path(sys.executable).parent))


def test_an_environment_without_gpubench_is_refused_with_what_to_install(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    with (
        pytest.raises(EnvironmentRefused, match="No module named gpubench") as caught,
        sides.made_ready((str(python), sys.executable), tmp_path),
    ):
        pass
    assert "-m pip install -e '.[run]'" in caught.value.remedy


# commits ---------------------------------------------------------------------------------------


def worktrees(checkout):
    return git(checkout, "worktree", "list").splitlines()


def test_commits_are_checked_out_and_gone_at_the_end(checkout, tmp_path):
    with sides.made_ready(("v1", "main"), tmp_path / "temporary"):
        found = [tmp_path / "temporary" / name / "workloads" / "mine.py" for name in "ab"]
        assert found[0].read_text() != found[1].read_text()
        assert len(worktrees(checkout)) == 3
    assert len(worktrees(checkout)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_worktree_outlasts_an_error(checkout, tmp_path, error):
    with pytest.raises(error), sides.made_ready(("v1", "main"), tmp_path / "temporary"):
        raise error
    assert len(worktrees(checkout)) == 1
    assert git(checkout, "status", "--porcelain") == ""


def test_a_worktree_that_git_was_still_making_goes_too(checkout, tmp_path):
    with sides.made_ready(("v1", "main"), tmp_path / "temporary"):
        git(
            checkout, "worktree", "lock", "--reason=initializing", str(tmp_path / "temporary" / "a")
        )
    assert len(worktrees(checkout)) == 1


def test_the_first_worktree_goes_where_the_second_is_refused(checkout, tmp_path):
    (tmp_path / "temporary" / "b").mkdir(parents=True)
    (tmp_path / "temporary" / "b" / "in the way").touch()
    with (
        pytest.raises(EnvironmentRefused, match="already exists"),
        sides.made_ready(("v1", "main"), tmp_path / "temporary"),
    ):
        pass
    assert len(worktrees(checkout)) == 1


def test_the_worktree_is_taken_as_it_is_now_and_later_edits_do_not_reach_it(checkout, tmp_path):
    (checkout / "old.txt").unlink()
    write_workload(checkout / "workloads" / "mine.py", flops=3e12)
    git(checkout, "add", "workloads/mine.py")
    write_workload(checkout / "workloads" / "new ümlaut.py", name="new")
    (checkout / ".git" / "info" / "exclude").write_text("ignored\n")
    (checkout / "ignored").touch()
    place = tmp_path / "temporary" / "b"
    with sides.made_ready(("v1", "worktree"), tmp_path / "temporary"):
        write_workload(checkout / "workloads" / "mine.py", flops=4e12)
        assert "3000000000000" in (place / "workloads" / "mine.py").read_text()
        assert (place / "workloads" / "new ümlaut.py").exists()
        assert not (place / "old.txt").exists()
        assert not (place / "ignored").exists()


def test_a_link_that_became_a_folder_leads_no_copy_out_of_the_worktree(checkout, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shared.py").write_text("theirs")
    (checkout / "shared").symlink_to(outside)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=linked")
    (checkout / "shared").unlink()
    (checkout / "shared").mkdir()
    (checkout / "shared" / "shared.py").write_text("mine")
    with sides.made_ready(("v1", "."), tmp_path / "temporary"):
        assert (tmp_path / "temporary" / "b" / "shared" / "shared.py").read_text() == "mine"
    assert (outside / "shared.py").read_text() == "theirs"


def test_files_that_became_folders_and_folders_that_became_files_are_so_in_the_copy(
    checkout, tmp_path
):
    (checkout / "old.txt").unlink()
    (checkout / "old.txt").mkdir()
    (checkout / "old.txt" / "inside").write_text("now a folder")
    shutil.rmtree(checkout / "workloads")
    (checkout / "workloads").write_text("now a file")
    place = tmp_path / "temporary" / "b"
    with sides.made_ready(("v1", "."), tmp_path / "temporary"):
        assert (place / "old.txt" / "inside").read_text() == "now a folder"
        assert (place / "workloads").read_text() == "now a file"


def test_a_worktree_that_cannot_be_copied_is_refused_in_words(checkout, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    (checkout / "old.txt").write_text("changed")
    monkeypatch.setattr(sides.shutil, "copy2", full)
    with (
        pytest.raises(EnvironmentRefused, match="No space left"),
        sides.made_ready(("v1", "."), tmp_path / "temporary"),
    ):
        pass
    assert len(worktrees(checkout)) == 1


def test_hooks_of_the_project_do_not_run(checkout, tmp_path):
    hook = checkout / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)
    with sides.made_ready(("v1", "main"), tmp_path / "temporary"):
        pass
    assert not (tmp_path / "ran").exists()


def test_a_hook_that_compares_commits_keeps_what_is_staged(checkout, tmp_path, monkeypatch):
    (checkout / "staged.txt").write_text("to be committed")
    git(checkout, "add", "staged.txt")
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(checkout / ".git" / "index"))
    with sides.made_ready(("v1", "main"), tmp_path / "temporary") as (side, _):
        place = tmp_path / "temporary" / "a"
        words = (
            "import subprocess, sys; subprocess.run(['git', 'status', '--short'], cwd=sys.argv[1])"
        )
        assert side.call("-c", words, str(place)).stdout == ""
    assert git(checkout, "diff", "--cached", "--name-only") == "staged.txt"


def test_search_paths_into_the_checkout_lead_into_each_commit(checkout, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("GPUBENCH_PATH", f"more{os.pathsep}{elsewhere}")
    monkeypatch.setenv("PYTHONPATH", str(checkout / "source"))
    place = (tmp_path / "temporary" / "a").resolve()
    with sides.made_ready(("v1", "main"), tmp_path / "temporary") as (side, _):
        extensions = side.variables["GPUBENCH_PATH"].split(os.pathsep)
        assert [Path(entry).resolve() for entry in extensions] == [place, place / "more", elsewhere]
        assert str(place / "source") in side.variables["PYTHONPATH"].split(os.pathsep)


def flops_on(side):
    """What the side's own process takes the work of `square` to be."""
    code = (
        "from gpubench.workload import get_workload; print(get_workload('square').work({'n': 1}))"
    )
    return float(side.call("-c", code).stdout.partition("flops=")[2].partition(",")[0])


def test_each_commit_of_a_project_measures_its_own_workloads(checkout, tmp_path):
    write_workload(checkout / "workloads" / "mine.py", flops=3e12)
    with sides.made_ready(("v1", "HEAD"), tmp_path / "one") as both:
        assert [flops_on(side) for side in both] == [1e12, 2e12]
    with sides.made_ready(("HEAD", "."), tmp_path / "two") as both:
        assert [flops_on(side) for side in both] == [2e12, 3e12]


def test_commits_of_gpubench_measure_their_own_code_and_not_the_installed(tmp_path, monkeypatch):
    root = tmp_path / "clone"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(plugins.PACKAGE, root / "bench" / "gpubench", ignore=skipped)
    git(tmp_path, "init", "--quiet", str(root))
    for flops in (1e12, 2e12):
        write_workload(root / "bench" / "gpubench" / "workloads" / "square.py", flops=flops)
        git(root, "add", "--all")
        git(root, "commit", "--quiet", f"--message={flops}")
    monkeypatch.chdir(root / "bench")
    with sides.made_ready(("HEAD~1", "HEAD"), tmp_path / "temporary") as both:
        assert [flops_on(side) for side in both] == [1e12, 2e12]
    assert sides.is_of_gpubench()

    git(root, "rm", "--quiet", "bench/gpubench/__init__.py")  # so that the installed one is found
    with (
        pytest.raises(EnvironmentRefused, match="not from the commit"),
        sides.made_ready(("HEAD", "."), tmp_path / "other"),
    ):
        pass


def test_code_that_hides_the_commit_is_refused(tmp_path):
    side = sides.Side("A", "v1", "commit")
    with pytest.raises(EnvironmentRefused, match="not from the commit"):
        sides._refuse_other_code(side, tmp_path)


def test_another_projects_commits_need_a_suite(checkout):
    with (
        pytest.raises(UsageError, match="measures nothing of it"),
        ab.opened(ab.Request(("v1", "main"))),
    ):
        pass
    assert len(worktrees(checkout)) == 1


# workload files --------------------------------------------------------------------------------


def test_a_file_is_copied_with_its_sources_so_that_edits_do_not_reach_it(tmp_path):
    (tmp_path / "kernel.cu").write_text("before")
    files = [write_workload(tmp_path / f"{n}.py", sources=["kernel.cu"]) for n in "xy"]
    with sides.made_ready((str(files[0]), str(files[1])), tmp_path / "temporary"):
        (tmp_path / "kernel.cu").write_text("after")
        copy = tmp_path / "temporary" / "a" / "workloads"
        assert (copy / "kernel.cu").read_text() == "before"
        assert (copy / "ab_x.py").read_text() == files[0].read_text()


def test_sources_above_the_files_stay_apart_and_in_the_temporary_folder(tmp_path):
    for name in "xy":
        path = tmp_path / name / "in" / "side" / "same.py"
        write_workload(path, sources=["../../kernel.cu"])
        (tmp_path / name / "kernel.cu").write_text(name)
    given = tuple(str(tmp_path / name / "in" / "side" / "same.py") for name in "xy")
    with sides.made_ready(given, tmp_path / "temporary") as ready:
        for side, name in zip(ready, "xy", strict=True):
            home = Path(side.variables["GPUBENCH_PATH"].split(os.pathsep)[0])
            assert (home.parent / "kernel.cu").read_text() == name
    assert sorted(path.name for path in (tmp_path / "temporary").iterdir()) == ["a", "b"]


def test_what_a_file_prints_stays_out_of_the_verdicts(tmp_path, monkeypatch, capsys):
    path = write_workload(tmp_path / "extra" / "workloads" / "loud.py", name="loud")
    path.write_text("print('loud')\n" + path.read_text())
    assert sides.workloads_of(str(path))
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path / "extra"))
    assert "loud" in sides.all_workloads()
    assert capsys.readouterr().out == ""


def test_the_suite_of_two_files_is_what_both_define(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    write_workload(one)
    one.write_text(one.read_text() + WORKLOAD.format(name="alone", flops=1, sources=[]))
    write_workload(two)
    suite = sides.suite_of((str(one), f"file:{two}"), tmp_path)
    assert suite.read_text() == '[[case]]\nworkload = "square"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 / 0", "failed on import: ZeroDivisionError"),
        ("raise SystemExit", "failed on import: SystemExit"),
        ("from gpubench.workloads.gemm import gemm", "defines no workload"),
        (WORKLOAD.format(name="gemm", flops=1, sources=[]), "defines 'gemm', and so does"),
        (WORKLOAD.format(name="other", flops=1, sources=[]), "share no workload"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(tmp_path, content, words):
    good, bad = write_workload(tmp_path / "good.py"), tmp_path / "bad.py"
    bad.write_text(content)
    with pytest.raises(UsageError, match=words):
        sides.suite_of((str(good), str(bad)), tmp_path)


# order, rows, budget ---------------------------------------------------------------------------


@given(st.integers(1, 50), st.floats(-1, 1))
def test_a_steady_drift_cancels_over_every_two_pairs(twos, drift):
    order = [side for _, pair in ab.mirrored(("A", "B"), 2 * twos) for side in pair]
    times = {name: sum(i * drift for i, s in enumerate(order) if s == name) for name in "AB"}
    assert times["A"] == pytest.approx(times["B"])
    assert order[:4] == ["A", "B", "B", "A"]


class Scripted:
    """Sides whose rounds write made-up rows and take made-up time, in the order of their calls."""

    def __init__(self, monkeypatch, make_record, script=None):
        self.calls, self.now, self.round_s = [], 0.0, 1.0
        self.script = script or {}
        self.make_record = make_record
        monkeypatch.setattr(ab.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(sides.Side, "call", lambda side, *words: self.call(side, *words[2:]))

    def call(self, side, *words):
        self.calls.append((side.name, words))
        self.now += self.round_s
        if len(self.calls) in self.script:
            status, stderr = self.script[len(self.calls)]
            if status == "interrupted":
                raise KeyboardInterrupt
            return SimpleNamespace(returncode=status, stderr=stderr)
        scale = {"A": 1.0, "B": 1.1}[side.name] * (1 + 0.001 * (len(self.calls) % 3))
        row = self.make_record(samples_s=[0.01 * scale] * 12, workload_hash=side.name)
        store.Writer(Path(words[words.index("--output") + 1]), [row])
        return SimpleNamespace(returncode=0, stderr="")


def interleaved(tmp_path, *, kind="file", numbers_trials=False, **request):
    both = tuple(
        sides.Side(name, f"{name}.py", kind, numbers_trials=numbers_trials) for name in "AB"
    )
    made = ab.Request(("A.py", "B.py"), output=str(tmp_path / "kept"), **request)
    return ab.Interleaved(made, both, ("--suite", "quick"), tmp_path)


def kept(comparison):
    return [store.read_records(str(path)) for path in comparison.paths.values()]


def test_rounds_run_mirrored_and_a_pair_is_a_trial(tmp_path, monkeypatch, make_record):
    scripted = Scripted(monkeypatch, make_record)
    comparison = interleaved(tmp_path, pairs=4)
    list(comparison)
    assert "".join(name for name, _ in scripted.calls) == "ABBAABBA"
    for records in kept(comparison):
        assert [record.trial for record in records] == [1, 2, 3, 4]
        assert len({record.run_id for record in records}) == 1
    assert len({records[0].run_id for records in kept(comparison)}) == 2
    assert list(tmp_path.glob("*.parquet")) == []


def test_two_comparisons_that_begin_in_one_second_keep_files_of_their_own(
    tmp_path, monkeypatch, make_record
):
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    monkeypatch.setattr(ab, "datetime", SimpleNamespace(now=lambda _: moment))
    Scripted(monkeypatch, make_record)
    both = [interleaved(tmp_path, pairs=pairs) for pairs in (3, 4)]
    for _ in zip_longest(*both):
        pass
    assert [[len(records) for records in kept(one)] for one in both] == [[3, 3], [4, 4]]
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_every_round_has_a_number_of_its_own_where_the_side_takes_one(
    tmp_path, monkeypatch, make_record
):
    scripted = Scripted(monkeypatch, make_record)
    list(interleaved(tmp_path, pairs=3, numbers_trials=True))
    numbers = [words[words.index("--first-trial") + 1] for _, words in scripted.calls]
    assert numbers == ["1", "2", "3", "4", "5", "6"]
    list(interleaved(tmp_path / "old", pairs=3))
    assert not any("--first-trial" in words for _, words in scripted.calls[6:])


def test_open_questions_ask_for_more_pairs_and_for_no_other_run(
    tmp_path, monkeypatch, make_record, capsys
):
    scripted = Scripted(monkeypatch, make_record)
    scripted.make_record = lambda **row: make_record(
        **row | {"samples_s": [0.01 * 2 ** (len(scripted.calls) % 3)] * 12}
    )
    comparison = interleaved(tmp_path, pairs=3)
    list(comparison)
    console.print_pairs(comparison, None, "table")
    said = capsys.readouterr().err
    assert "the same again with `--trials 6`" in said
    assert "gpubench run" not in said


def test_what_makes_sides_incomparable_is_said(tmp_path, monkeypatch, make_record, capsys):
    Scripted(monkeypatch, make_record)
    comparison = interleaved(tmp_path, kind="env", pairs=3)
    list(comparison)
    console.print_pairs(comparison, None, "table")
    assert "workload_hash A against B" in capsys.readouterr().err


def test_b_is_judged_against_a_under_the_names_the_user_gave(tmp_path, monkeypatch, make_record):
    Scripted(monkeypatch, make_record)
    comparison = interleaved(tmp_path, pairs=4)
    list(comparison)
    (row,), floor = ab.verdicts(comparison, None)
    assert "1%" in floor
    assert (row["baseline"], row["side"]) == ("A: A.py", "B: B.py")
    assert row["verdict"] == "slower"
    assert ab.next_step(comparison, [row]) is None


def test_what_moves_both_rounds_of_a_pair_does_not_hide_the_difference(
    tmp_path, monkeypatch, make_record
):
    scripted = Scripted(monkeypatch, make_record)

    def moved(samples_s, **row):
        machine = 2.0 ** ((len(scripted.calls) + 1) // 2 % 3)
        return make_record(samples_s=[machine * sample for sample in samples_s], **row)

    scripted.make_record = moved
    comparison = interleaved(tmp_path, pairs=4)
    list(comparison)
    ((row,), _) = ab.verdicts(comparison, 0.01)
    assert (row["verdict"], row["speedup"]) == ("slower", pytest.approx(1 / 1.1, rel=0.01))


@pytest.mark.parametrize(
    ("kind", "verdict"), [("file", "slower"), ("commit", "slower"), ("env", "incomparable")]
)
def test_code_may_differ_where_it_is_compared_and_nowhere_else(
    tmp_path, monkeypatch, make_record, kind, verdict
):
    Scripted(monkeypatch, make_record)
    comparison = interleaved(tmp_path, kind=kind, pairs=3)
    list(comparison)
    assert ab.verdicts(comparison, 0.01)[0][0]["verdict"] == verdict


@pytest.mark.parametrize("fatal", range(1, 9))
def test_an_interruption_costs_one_pair_at_most(tmp_path, monkeypatch, make_record, fatal):
    Scripted(monkeypatch, make_record, {fatal: ("interrupted", "")})
    comparison = interleaved(tmp_path, pairs=4)
    with pytest.raises(KeyboardInterrupt):
        list(comparison)
    whole = (fatal - 1) // 2
    assert comparison.pairs_done == whole
    if whole:
        assert [len(records) for records in kept(comparison)] == [whole, whole]
    else:
        assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("status", "stderr", "error", "words"),
    [
        (2, "opening x\ngpubench: no suite\n  → try quick\n", UsageError, "A: A.py: no suite"),
        (4, "gpubench: no card\n  → try quick\n", EnvironmentRefused, "A: A.py: no card"),
        (1, "Traceback\nValueError: oh\n", EnvironmentRefused, "exit status 1 | Traceback | Val"),
        (0, "", EnvironmentRefused, "exit status 0"),  # and no file: a success that is none
    ],
)
def test_a_side_that_refuses_ends_it_with_its_own_words(
    tmp_path, monkeypatch, make_record, status, stderr, error, words
):
    Scripted(monkeypatch, make_record, {1: (status, stderr)})
    with pytest.raises(error) as caught:
        list(interleaved(tmp_path))
    assert words in str(caught.value)
    assert caught.value.remedy == ("try quick" if "→" in stderr else "")


def test_a_failed_case_is_a_row_and_the_rounds_go_on(tmp_path, monkeypatch, make_record):
    scripted = Scripted(monkeypatch, make_record)
    scripted.make_record = lambda **row: make_record(
        **row | {"samples_s": None, "status": "oom", "reason": "too large"}
    )
    comparison = interleaved(tmp_path, pairs=3)
    list(comparison)
    assert [len(records) for records in kept(comparison)] == [3, 3]
    lines = ab.failed(comparison)
    assert [line[:7] for line in lines] == ["A: A.py", "B: B.py"]
    assert all("in 3 of 3 pairs: oom: too large" in line for line in lines)


def test_no_pair_is_begun_that_would_not_fit_into_the_budget(tmp_path, monkeypatch, make_record):
    scripted = Scripted(monkeypatch, make_record)
    scripted.round_s = 10.0
    comparison = interleaved(tmp_path, pairs=10, budget_s=70.0)
    events = list(comparison)
    assert comparison.pairs_done == 3
    assert scripted.now <= 70
    assert [words[words.index("--budget") + 1] for _, words in scripted.calls] == ["3.5"] * 6
    assert events[0].left_s is None
    assert [event.left_s for event in events[1:]] == [60, 50, 40, 30, 20]


def test_the_time_left_is_that_of_the_rounds_to_come(tmp_path, monkeypatch, make_record):
    Scripted(monkeypatch, make_record)
    assert [event.left_s for event in interleaved(tmp_path, pairs=3)] == [None, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("text", ["2", "0", "-3", "3.5", "many"])
def test_fewer_than_three_pairs_are_refused(text, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["ab", "a", "b", "--trials", text])
    assert caught.value.code == 2
    assert "whole number from 3" in capsys.readouterr().err


def test_results_go_to_a_folder_since_there_are_two(tmp_path):
    with (
        pytest.raises(UsageError, match="not a folder"),
        ab.opened(ab.Request(("a", "b"), output="x.parquet")),
    ):
        pass


@pytest.mark.parametrize("reason", compare.MEANING)
def test_more_pairs_are_asked_for_where_they_may_settle_it(tmp_path, reason):
    comparison = replace(interleaved(tmp_path), pairs_done=7)
    said = ab.next_step(comparison, [{"reason": reason}])
    helps = reason in {"wide_interval", "few_trials", "many_cases"}
    assert (said or "").endswith("`--trials 14`") is helps
