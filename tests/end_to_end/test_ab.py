"""`gpubench ab` as its users meet it: verdicts, exit statuses, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gpubench import store

DEVICE = "virtual:geforce-rtx-4090,noise=0.002,seed=3"
WORKLOAD = """
from gpubench.workload import Prepared, Work, workload

@workload(version=1, work=lambda n: Work(flops={flops} * n), n=[1])
def square(device, n):
    return Prepared(step=lambda: None)
"""


def ab(*arguments, cwd, device=DEVICE, **options):
    command = [sys.executable, "-m", "gpubench", "ab", *map(str, arguments), "--device", device]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, **options)


@pytest.fixture
def files(tmp_path):
    """Two workload files, the second with 3 % more work."""
    (tmp_path / "a.py").write_text(WORKLOAD.format(flops=1e12))
    (tmp_path / "b.py").write_text(WORKLOAD.format(flops=1.03e12))
    return tmp_path


def test_three_percent_more_work_is_slower_and_both_sides_are_kept(files):
    done = ab("a.py", "b.py", "--trials", 3, "--fail-on", "slower", cwd=files)
    assert done.returncode == 1, done.stderr
    assert "slower" in done.stdout
    assert "B: b.py\n  against A: a.py" in done.stdout
    assert "[pair 3 of 3, about" in done.stderr
    kept = sorted((files / "results").glob("ab-*-[ab].parquet"))
    for path in kept:
        records = store.read_records(str(path))
        assert [record.trial for record in records] == [1, 2, 3]
        # Rounds are processes of their own: no two have the same simulated noise.
        assert len({tuple(record.samples_s) for record in records}) == 3
    assert len(kept) == 2


def test_one_environment_against_itself_with_a_failing_case_keeps_its_reason(tmp_path):
    done = ab(
        *(sys.executable, sys.prefix, "--only", "reduction", "--trials", 3, "--format", "json"),
        cwd=tmp_path,
        device=f"{DEVICE},oom=reduction*",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    rows = json.loads(done.stdout)["rows"]
    assert {row["reason"] for row in rows} == {"not_measured"}
    assert done.returncode == 3
    assert done.stderr.count("in 3 of 3 pairs: oom: ") == 2 * len(rows)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("a.py", "nothing"), 2, "'nothing' is not an environment"),
        (("a.py", "b.py", "--suite", "nowhere"), 2, "no suite is named 'nowhere'"),
        (("a.py", "b.py", "--only", "nothing"), 2, "A: a.py: --only 'nothing' matches no case"),
        (("/bin/true", "/bin/true"), 4, "-m pip install -e '.[run]'"),
    ],
)
def test_what_can_not_run_is_refused_as_its_own_process_says(files, arguments, status, words):
    done = ab(*arguments, cwd=files)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (files / "results").exists()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_keeps_whole_pairs_and_prints_their_verdict(files, kind):
    command = [sys.executable, "-m", "gpubench", "ab", "a.py", "b.py", "--trials", "50"]
    running = subprocess.Popen(
        [*command, "--device", DEVICE],
        cwd=files,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(files)},
    )
    for line in running.stderr:
        if line.startswith("[pair 2 of 50"):
            break
    time.sleep(0.2)
    running.send_signal(kind)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "square" in stdout
    assert "1 of 50 pairs were measured" in stderr
    assert len(list((files / "results").glob("*.parquet"))) == 2
    assert not list(files.glob("gpubench-ab-*"))
