"""Adding something is one new file: one of each kind in a folder of one's own, and it works."""

import json
import os
import subprocess
import sys

import pytest

from gpubench.cards import CATALOGUE

EXTENSIONS = {
    "workloads/doubling.py": '''
from gpubench.workload import Prepared, Work, workload

def work(n):
    return Work(flops=n, bytes=8 * n, footprint=8 * n)

@workload(version=1, work=work, n=[1000])
def doubling(device, n):
    """Doubles numbers."""
    values = list(range(n))
    return Prepared(step=lambda: [2 * value for value in values])
''',
    "kernels/halving.py": '''
from gpubench.workload import Prepared, Work, workload

@workload(version=1, work=lambda n: Work(flops=n, bytes=8 * n), n=[1000])
def halving(device, n):
    """Halves numbers."""
    return Prepared(step=lambda: n / 2)
''',
    "suites/mine.toml": """
summary = "my own"
budget_s = 0.1
warmup_s = 0.1
[[case]]
workload = "doubling"
[[case]]
workload = "halving"
""",
    "profiles/mine.toml": """
summary = "my own weights"
reference = "tesla-t4"
[weights]
performance = 1
memory = 3
[cases]
"doubling:n=1000" = 1
""",
    "figures/mine.py": """
import plotly.graph_objects as go

TITLE = "My own figure"
ORDER = 999
CAPTION = "One bar per row."

def figure(frame):
    return go.Figure(go.Bar(y=list(range(len(frame)))))
""",
    "cards/my-card.toml": """
name = "NVIDIA GeForce RTX 4060 Laptop GPU"
compute_capability = "8.9"
cuda_cores = 3072
boost_clock_mhz = 2370
memory_gib = 8
memory_bandwidth_gbs = 256
tdp_w = 115
""",
    "backends/slow.py": """
import time
from gpubench.device import Device, DeviceInfo

PRIORITY = -5

def present():
    return []

def open(selector):
    return Slow()

class Slow(Device):
    info = DeviceInfo("slow", "slow", "A slow machine", "slow-machine", "none")
    def unsupported(self, precision):
        return None
    def flush(self):
        pass
    def expected_s(self, work, precision):
        return 1e-4
""",
}


@pytest.fixture
def extended(tmp_path):
    """Environment variables and folder of a user with one extension of each kind."""
    for name, text in EXTENSIONS.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path, {**os.environ, "GPUBENCH_PATH": str(tmp_path / "mine")}


def gpubench(extended, *arguments):
    folder, env = extended
    command = [sys.executable, "-m", "gpubench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(extended, kind):
    rows = json.loads(gpubench(extended, "list", kind, "--format", "json"))["rows"]
    return {row["name"] for row in rows}


def test_each_extension_is_listed(extended):
    assert {"doubling", "halving"} <= names(extended, "workloads")
    assert "mine" in names(extended, "suites")
    assert "mine" in names(extended, "profiles")
    assert "mine" in names(extended, "figures")


def test_a_suite_of_ones_own_runs_workloads_of_ones_own_on_a_backend_of_ones_own(extended):
    out = gpubench(
        extended,
        *("run", "--suite", "mine", "--device", "slow", "-o", "out.parquet", "--format", "json"),
    )
    rows = json.loads(out)["rows"]
    assert {row["workload"]: row["status"] for row in rows} == {"doubling": "ok", "halving": "ok"}
    assert {row["card"] for row in rows} == {"A slow machine"}
    gpubench(extended, "report", "out.parquet", "-o", "report.html")
    assert "My own figure" in (extended[0] / "report.html").read_text()


def test_a_virtual_card_prices_a_workload_of_ones_own(extended):
    out = gpubench(
        extended,
        *("run", "--suite", "mine", "--device", "virtual:tesla-t4", "-o", "virtual.parquet"),
    )
    assert "(virtual)" in out
    assert "halving" in out


def test_a_profile_of_ones_own_recommends_by_cases_of_ones_own(extended):
    out = gpubench(extended, "recommend", "--profile", "mine", "--cards", "*t4", "*l4")
    assert out.startswith("L4 for profile mine: ")


def test_a_card_of_ones_own_is_listed_as_such_simulated_and_has_a_share_of_peak(extended):
    assert "yours" in gpubench(extended, "list", "cards", "--only", "my-card")
    assert "yours" not in gpubench(extended, "list", "cards", "--only", "tesla-t4")
    gpubench(
        extended,
        *("run", "--suite", "quick", "--only", "gemm*8192*fp16", "--device", "virtual:my-card"),
        *("-o", "own.parquet"),
    )
    rows = json.loads(gpubench(extended, "show", "own.parquet", "--format", "json"))["rows"]
    assert {row["card"] for row in rows} == {"NVIDIA GeForce RTX 4060 Laptop GPU (virtual)"}
    assert all(0.4 < row["share_of_peak"] < 0.7 for row in rows if row["status"] == "ok")


# The command with another file for the catalogue.
WITH_CATALOGUE = """
import sys
from pathlib import Path
from gpubench import cards, cli
cards.CATALOGUE = Path(sys.argv.pop(1))
cli.main()
"""


@pytest.fixture
def with_a_row_more(tmp_path):
    """The command's output with a row appended to a copy of cards.csv."""
    lines = CATALOGUE.read_text(encoding="utf-8").splitlines()
    columns = lines[0].split(",")
    (near,) = (line for line in lines if line.startswith("geforce-rtx-5070,"))
    row = dict(zip(columns, near.split(","), strict=True)) | {
        "card_id": "geforce-rtx-5055-16gb",
        "name": "NVIDIA GeForce RTX 5055",
        "chip": "GB206",
        "sm_count": "24",
        "cuda_cores": "3072",
        "memory_gib": "16",
        "memory_bandwidth_gbs": "448",
        "tdp_w": "130",
        "launch_price_usd": "349",
    }
    copy = tmp_path / "cards.csv"
    copy.write_text("\n".join([*lines, ",".join(row[name] for name in columns), ""]))

    def gpubench(*arguments):
        command = [sys.executable, "-c", WITH_CATALOGUE, str(copy), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return gpubench


def test_a_card_is_one_row_of_the_catalogue(with_a_row_more):
    listed = json.loads(with_a_row_more("list", "cards", "--format", "json"))["rows"]
    assert "geforce-rtx-5055-16gb" in {row["card_id"] for row in listed}
    words = ("predict", "5055", "--only", "gemm*8192*", "--format", "json")
    (new, *_) = json.loads(with_a_row_more(*words))["rows"]
    assert "RTX 5055" in new["card"]
    assert "RTX 5055" in with_a_row_more("recommend", "--cards", "*5055*", "*5070")
