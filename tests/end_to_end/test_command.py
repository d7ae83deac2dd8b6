"""The command as its users meet it: what it prints where, its exit status, its errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpubench import store
from gpubench.store import Writer

CARDS = ["geforce-gtx-1080-ti", "geforce-rtx-2080-ti", "geforce-rtx-3090", "geforce-rtx-4090"]


def gpubench(*arguments, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "gpubench", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


@pytest.fixture(scope="module")
def virtual(tmp_path_factory):
    """Result files of four simulated cards, by card."""
    folder = tmp_path_factory.mktemp("virtual")
    for card in CARDS:
        done = gpubench("run", "--device", f"virtual:{card}", "--only", "gemm", "-o", folder)
        assert done.returncode == 0, done.stderr
    return folder


def refused(done, status, *words):
    """An error of one to three lines, with the next step, and no traceback."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("  → ") or len(lines) == 1
    assert len([line for line in lines if not line.startswith(("opening", "reading"))]) <= 2
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], ["required: RESULTS"]),
        (["rnu"], ["did you mean 'run'"]),
        (["run", "--suite", "quik"], ["no suite is named 'quik'", "did you mean 'quick'"]),
        (["run", "--suite", "nowhere.toml"], ["nowhere.toml", "No such file"]),
        (["run", "--device", "gpu"], ["no device is named 'gpu'", "virtual:CARD"]),
        (["run", "--device", "virtual:rtx"], ["cards are named 'rtx'", "gpubench list cards"]),
        (["run", "--device", "virtual:tesla-t4,nois=1"], ["did you mean 'noise'"]),
        (["run", "--device", "cpu:3"], ["takes no number"]),
        (["run", "--only", "gem"], ["'gem' matches no case", "--dry-run"]),
        (["run", "--only", "gemm 1024*"], ["case ids (tables shorten them)"]),
        (["run", "--trials", "0"], ["not a whole number from 1"]),
        (["run", "--budget", "soon"], ["not a time span"]),
        (["run", "--resume", "nowhere.parquet"], ["nowhere.parquet", "no such file"]),
        (["list"], ["required: what", "what is one of workloads, suites, cards"]),
        (["list", "card"], ["did you mean 'cards'"]),
        (
            ["predict", "5090", "--model", "config.json"],
            ["arguments: --model config.json", "`gpubench recommend` takes --model"],
        ),
        (
            ["list", "cards", "--formt", "json"],
            ["arguments: --formt json", "`gpubench list --help`"],
        ),
        (["devices", "extra"], ["arguments: extra", "`gpubench devices --help`"]),
        (["show", "nowhere/*.parquet"], ["no result file there"]),
        (["compare", "nowhere"], ["no result file there"]),
        (["report", "nowhere"], ["no result file there"]),
        (["compare", "x", "--min-effect", "much"], ["not a percentage"]),
    ],
)
def test_wrong_usage_is_answered_with_the_next_step(arguments, words, tmp_path):
    refused(gpubench(*arguments, cwd=tmp_path), 2, *words)


def test_without_a_verb_it_shows_the_help():
    done = gpubench()
    assert done.returncode == 0
    assert "verbs:" in done.stdout


def test_text_of_strangers_never_reaches_the_terminal_as_commands(tmp_path, make_record):
    hostile = "x\x1b]0;owned\x07; touch /tmp/owned #"
    for name, run_id in (("a", "1"), ("b", "2")):
        fields = ("suite", "card", "case_id", "workload", "architecture")
        record = make_record(**dict.fromkeys(fields, hostile), run_id=run_id)
        failed = make_record(case_id=f"{hostile}2", status="failed", reason=hostile, samples_s=None)
        Writer(tmp_path / f"{name}.parquet", [record, failed])
    for words in (["show"], ["compare"], ["compare", "--baseline", "zz"], ["validate"]):
        done = gpubench(words[0], tmp_path, *words[1:])
        assert "\x1b" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "--suite x;" not in done.stderr
    resumed = gpubench("run", "--resume", tmp_path / "a.parquet", "--device", "virtual:tesla-t4")
    assert resumed.returncode == 2
    assert "\x1b" not in resumed.stderr


def damaged(tmp_path, make_record, kind):
    path = tmp_path / "bad.parquet"
    writer = Writer(path)
    writer.append(make_record())
    data = path.read_bytes()
    if kind == "newer":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({store.VERSION_KEY: b"99"}), path)
    else:
        path.write_bytes({"truncated": data[:-20], "empty": b"", "text": b"hello"}[kind])
    return path


@pytest.mark.parametrize("verb", ["show", "compare", "report", "validate"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "damaged"),
        ("empty", "is empty"),
        ("text", "not a Parquet file"),
        ("newer", "schema version 99"),
    ],
)
def test_an_unreadable_file_is_one_clear_error(tmp_path, make_record, verb, kind, words):
    done = gpubench(verb, damaged(tmp_path, make_record, kind), cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert words in " ".join((done.stderr + done.stdout).split())  # a narrow table folds


def test_cuda_without_a_card_is_refused_with_what_to_do(tmp_path):
    from gpubench.device import present

    if any(info.backend == "cuda" for info in present()):
        pytest.skip("there is an NVIDIA GPU here")
    done = gpubench("run", "--device", "cuda", cwd=tmp_path)
    refused(done, 4, "torch", "--device cpu")


def without(tmp_path, *modules):
    """An environment in which some modules can't be imported."""
    folder = tmp_path / "blocked"
    for module in modules:
        (folder / module).mkdir(parents=True, exist_ok=True)
        (folder / module / "__init__.py").write_text(
            f'raise ModuleNotFoundError("No module named {module}", name="{module}")'
        )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


def test_measuring_without_torch_names_the_extra_to_install(tmp_path):
    done = gpubench("run", "--device", "cpu", cwd=tmp_path, env=without(tmp_path, "torch"))
    refused(done, 4, "needs torch", "whl/cpu && pip install -e '.[run]'")


def test_the_reading_verbs_need_no_torch(virtual, tmp_path):
    env = without(tmp_path, "torch", "transformers", "cupy")
    for verb in ("show", "compare", "validate"):
        assert gpubench(verb, virtual, env=env).returncode == 0
    report = tmp_path / "report.html"
    assert gpubench("report", virtual, "-o", report, env=env).returncode == 0
    assert report.stat().st_size > 10_000


def test_a_virtual_run_works_without_torch(tmp_path):
    env = without(tmp_path, "torch", "transformers", "cupy")
    done = gpubench("run", "--device", "virtual:tesla-t4", "--only", "gemm", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr


def test_four_architectures_are_rows_plainly_marked_virtual(virtual):
    shown = gpubench("show", virtual, "--format", "json")
    rows = json.loads(shown.stdout)["rows"]
    architectures = {row["architecture"] for row in rows}
    assert architectures == {"Pascal", "Turing", "Ampere", "Ada"}
    assert {row["provenance"] for row in rows} == {"virtual"}
    for form in ("table", "markdown"):
        lines = gpubench("show", virtual, "--format", form).stdout.splitlines()
        assert all("(virtual)" in line for line in lines if "gemm:" in line)
    compared = gpubench("compare", virtual).stdout
    assert all("(virtual)" in line for line in compared.splitlines() if "gemm:" in line)


def test_tables_go_to_standard_output_and_progress_to_standard_error(tmp_path):
    device = "virtual:geforce-rtx-3090"
    done = gpubench("run", "--device", device, "--only", "gemm", "--format", "json", "-o", tmp_path)
    assert json.loads(done.stdout)["kind"] == "results"
    assert "about" in done.stderr
    assert "kept in" in done.stderr


@pytest.mark.parametrize("form", ["json", "csv", "markdown", "table"])
@pytest.mark.parametrize(
    "words",
    [
        ["devices"],
        *(["list", what] for what in ("workloads", "suites", "cards", "published", "figures")),
    ],
)
def test_every_listing_has_every_format(words, form):
    done = gpubench(*words, "--format", form)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if form == "json":
        assert json.loads(done.stdout)["version"] == 1


def test_a_failed_case_makes_exit_3_and_its_row_says_why(tmp_path):
    device = "virtual:geforce-rtx-3090,oom=gemm*1024*"
    done = gpubench("run", "--device", device, "--only", "gemm", "-o", tmp_path)
    assert done.returncode == 3
    assert "out of memory" in done.stderr
    assert "oom" in done.stdout


def test_a_dry_run_measures_nothing_and_says_how_long_it_would_take(tmp_path):
    done = gpubench("run", "--device", "virtual:tesla-t4", "--dry-run", "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "gemm:" in done.stdout
    assert "about" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("device", "said"), [("cpu", True), ("virtual:tesla-t4", False)], ids=["cpu", "virtual"]
)
def test_a_dry_run_of_a_real_device_says_that_cases_may_turn_out_unsupported(
    device, said, tmp_path
):
    if device == "cpu":
        pytest.importorskip("torch", reason="the processor measures with torch")
    done = gpubench("run", "--device", device, "--dry-run", "--only", "mnist", cwd=tmp_path)
    assert done.returncode == 0
    assert ("some may turn out unsupported" in done.stderr) == said


def test_one_trial_a_side_is_inconclusive_and_says_what_to_type(virtual, tmp_path):
    card = "virtual:geforce-rtx-3090"
    for _ in range(2):
        time.sleep(1.1)  # file names have whole seconds
        assert gpubench("run", "--device", card, "--only", "gemm", "-o", tmp_path).returncode == 0
    done = gpubench("compare", tmp_path)
    assert done.returncode == 0
    assert "inconclusive" in done.stdout
    assert "few_trials" in done.stdout
    assert f"gpubench run --suite quick --device {card} --trials 5" in done.stderr


def test_fail_on_slower_exits_1_for_a_slower_build_and_0_for_the_same(tmp_path):
    for name, slowdown in (("a", 1.0), ("b", 1.2)):
        device = f"virtual:geforce-rtx-3090,slowdown={slowdown}"
        target = tmp_path / f"{name}.parquet"
        done = gpubench(
            "run", "--device", device, "--only", "gemm*1024*", "--trials", 3, "-o", target
        )
        assert done.returncode == 0, done.stderr
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    slower = gpubench("compare", *files, "--baseline", "a", "--fail-on", "slower")
    assert slower.returncode == 1
    assert "slower" in slower.stdout
    faster = gpubench("compare", *files, "--baseline", "b", "--fail-on", "slower")
    assert faster.returncode == 0
    assert "faster" in faster.stdout


def test_ctrl_c_leaves_a_readable_file_and_exit_130(tmp_path):
    target = tmp_path / "stopped.parquet"
    device = "virtual:geforce-rtx-3090,hang=gemm*8192*"
    run = subprocess.Popen(
        # The order follows from the name: with this one three cases come before one that hangs.
        [
            *(sys.executable, "-m", "gpubench", "run", "--run-id", "steady"),
            *("--device", device, "-o", str(target)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if target.exists() and store.read_records(str(target)):
            break
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: the whole group is told
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert "Traceback" not in errors
    assert store.read_records(str(target))
    assert "--resume" in errors


def test_a_reader_that_closes_the_pipe_early_is_no_error():
    done = subprocess.run(  # noqa: S602 - the pipe is the point
        f"{sys.executable} -m gpubench list cards | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_change_nothing_of_a_run(tmp_path, closed):
    command = f"{sys.executable} -m gpubench run --only memory --device virtual:tesla-t4 {closed}"
    done = subprocess.run(
        ["sh", "-c", f"{command} --format json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results").iterdir())) == 1
    if ">&-" not in closed.split():
        assert json.loads(done.stdout)["kind"] == "results"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
@pytest.mark.parametrize(
    "words", ["compare {} --fail-on slower", "show nowhere", "list cards >/dev/full"]
)
def test_a_standard_error_that_is_full_is_no_met_condition(virtual, words):
    command = f"{sys.executable} -m gpubench {words.format(virtual)} 2>/dev/full"
    assert subprocess.run(["sh", "-c", command], capture_output=True).returncode == 2


def test_colour_is_not_forced_on_a_pipe(virtual):
    assert "\x1b" not in gpubench("show", virtual).stdout


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    for verb in (
        ["run", "--device", "virtual:tesla-t4", "--only", "gemm", "-o", blocker / "results"],
        ["run", "--device", "virtual:tesla-t4", "--only", "gemm", "-o", tmp_path / ("file" * 99)],
    ):
        done = gpubench(*verb)
        refused(done, 2, "file")


@pytest.mark.parametrize("verb", ["export --to csv -o", "report -o", "history --html"])
def test_no_verb_writes_text_over_a_result_file(tmp_path, make_record, verb):
    path = tmp_path / "precious.parquet"
    Writer(path, [make_record()])
    before = path.read_bytes()
    name, *flags = verb.split()
    refused(gpubench(name, path, *flags, path), 2, "the name of a result file")
    assert path.read_bytes() == before


@pytest.mark.parametrize("flag", ["--trials", "--first-trial"])
@pytest.mark.parametrize("number", ["9" * 12, "9" * 5000, "²", "100001"])
def test_a_number_of_trials_beyond_reason_is_refused(tmp_path, flag, number):
    refused(gpubench("run", flag, number, cwd=tmp_path), 2, "whole number")


def test_a_run_from_a_folder_that_is_gone_is_one_clear_error(tmp_path):
    (tmp_path / "gone").mkdir()
    command = f"rmdir ../gone; exec {sys.executable} -m gpubench run --device virtual:tesla-t4"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path / "gone", capture_output=True, text=True
    )
    refused(done, 4, "no measuring process can be started")
