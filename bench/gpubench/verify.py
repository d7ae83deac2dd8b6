"""Prove the tool on a device that is here: its results, its timer, its rates and its sensors.

What tests without a GPU can't show, the owner of a card shows with one command. Every case of the
quick suite is checked against its reference and measured as `gpubench run` does it; then our timer
is held against others, the rates against the catalogue, the counter of energy against the integral
of the power, and graphs, peaks of memory and pinned copies against what they should give. All of it
goes into one bundle that can be sent: no name of a host or a user and no path is in it.
"""

import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import gpubench
from gpubench import environment, render, run, stats, table, timers
from gpubench.device import Device, Reading, open_device, resolve
from gpubench.doctor import Finding, note, ok, problem
from gpubench.errors import CannotWrite, EnvironmentRefused, Unsupported
from gpubench.suite import Suite
from gpubench.workload import Prepared, Step, get_workload

# A timer that is further off than this is wrong; how sure that is, its interval says.
TIMER_TOLERANCE = 0.03
# NVML's reference promises ±5 % of the power of Fermi and Kepler, and nothing of later cards;
# twice that, since both sides have an error.
ENERGY_TOLERANCE = 0.10
ENERGY_S = 6.0
READ_EACH_S = 0.1
# Below these shares of the catalogue's peak a healthy card rarely stays.
USUAL_BANDWIDTH_SHARE = 0.6
USUAL_COMPUTE_SHARE = 0.35
# A lane's rate in bytes per second by generation, after its line code (PCI-SIG: 8b/10b up to
# generation 2, 128b/130b from 3 on, 242B/256B with PAM4 in 6).
LANE_RATE = {1: 2.5e8, 2: 5e8, 3: 9.85e8, 4: 1.97e9, 5: 3.94e9, 6: 7.56e9}
PINNED_BYTES = 256 * 2**20
# Steps that keep a card as well as a laptop busy for some milliseconds, the largest that is
# expected to take less than `LONGEST_S`.
STEPS = (
    ("gemm", {"shape": "4096x4096x4096", "precision": "fp32"}),
    ("gemm", {"shape": "1024x1024x1024", "precision": "fp32"}),
)
COPY = ("memory", {"operation": "copy", "mib": 256, "precision": "fp32"})
LONGEST_S = 0.1


@dataclass
class Verification:
    """What was found on a device, and the results that were measured meanwhile.

    Attributes:
        records: path of the result file, while the block that made this runs.
    """

    device: str
    findings: list[Finding] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    records: Path | None = None

    @property
    def faults(self) -> list[Finding]:
        """What must not be."""
        return [finding for finding in self.findings if finding.state == "problem"]


def chosen_device(name: str) -> str:
    """The device to verify: the one that is named, else the best card.

    Raises:
        EnvironmentRefused: none was named, and no card is here.
    """
    found = resolve(name)
    if name == "auto" and found == "cpu":
        raise EnvironmentRefused(
            "no GPU is here to prove the tool on",
            "`gpubench doctor` says what is missing; --device cpu proves what a processor can",
        )
    return found


def verify(
    device: str, suite: Suite, output: str, announce: Callable[[str], object] = str
) -> tuple[Verification, Path]:
    """Run everything that applies to a device, and write the bundle.

    Args:
        device: as for ``--device``.
        suite: whose cases are checked and measured.
        output: folder for the bundle.
        announce: called with what comes next.

    Raises:
        EnvironmentRefused: the device can't be opened.
        CannotWrite: the bundle can't be written.
    """
    found = Verification(device)
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
        found.records = Path(folder) / "results.parquet"
        for finding in _findings(found, suite, announce):
            found.findings.append(replace(finding, device=device))
        return found, write_bundle(found, output)


def _findings(
    found: Verification, suite: Suite, announce: Callable[[str], object]
) -> Iterator[Finding]:
    execution = run.Execution(run.Request(suite, found.device), str(found.records))
    for event in execution:
        if isinstance(event, run.Started):
            announce(f"[{event.position}/{event.total}] {event.case.id}")
    rows = table.load([str(found.records)]).to_dict("records")
    for row in sorted(rows, key=lambda row: str(row["case_id"])):
        yield replace(judge_case(row), check=str(row["case_id"]))
    opened = open_device(found.device)
    found.environment = environment.describe(opened)
    if opened.provenance != "measured":
        text = f"{opened.info.card}: this shows what the checks do, and nothing of a card"
        yield replace(note(text), check="device")
    for name, look in _looks(opened):
        announce(name)
        yield replace(_safely(look), check=name)


def _looks(device: Device) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """What is looked at in this process, by its name."""
    for other in timers.others(device):
        for workload, params in (_compute_step(device), COPY):

            def agree(
                other: timers.OtherTimer = other,
                workload: str = workload,
                params: Mapping[str, Any] = params,
            ) -> Finding:
                with device.mode("fp32"):
                    step = _prepared(device, workload, params).step
                    return judge_timer(timers.agreement(device, step, other))

            yield f"timer against {other.name}: {workload}", agree
    yield "energy against power", lambda: energy(device)
    yield "graphs", lambda: graphs(device)
    yield "peak memory", lambda: peak_memory(device)
    if device.info.backend == "cuda":
        yield "pinned copies", lambda: pinned_copies(device)


def _safely(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - what fails on the first card of its kind is the finding
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return problem(environment.without_identity(text))


def _prepared(device: Device, workload: str, params: Mapping[str, Any]) -> Prepared:
    prepared = device.prepare(get_workload(workload), params)
    for _ in range(3):
        prepared.step()
    device.synchronize()
    return prepared


def _compute_step(device: Device) -> tuple[str, dict[str, Any]]:
    for workload, params in STEPS:
        work = get_workload(workload).work(params)
        expected_s = device.expected_s(work, "fp32") if work else None
        if expected_s is None or expected_s < LONGEST_S:
            break
    return workload, dict(params)


# --- judging ------------------------------------------------------------------------------------


def judge_case(row: Mapping[Any, Any]) -> Finding:
    """One row of `table.load`: is the result right, and is its rate one that the card can have?"""
    if row["status"] == "unsupported":
        return note(f"not supported: {row['reason']}")
    if row["status"] != "ok":
        return problem(
            f"{row['status']}: {row['reason']}",
            "measure it alone: gpubench run --only '" + str(row["case_id"]) + "'",
        )
    rate, unit = table.throughput(row)
    text = f"right; {render.quantity(unit)(rate)}"
    share = row["share_of_peak"]
    if not math.isfinite(share):
        return ok(text)
    text = f"{text}, {share:.0%} of the catalogue's peak"
    if "above_peak" in row["flags"]:
        return problem(
            f"{text}: no card is faster than its peak",
            "its row of the catalogue, the declared work, or the timer is wrong",
        )
    usual = {"gemm": USUAL_COMPUTE_SHARE, "memory": USUAL_BANDWIDTH_SHARE}.get(row["workload"], 0.0)
    if share < usual:
        return note(
            f"{text}, where {usual:.0%} is usual", "`gpubench doctor` may know what is slow"
        )
    return ok(text)


def judge_timer(ratio: stats.Interval) -> Finding:
    """Our time over another timer's: a fault, or none, only where the noise can't explain it."""
    text = f"ours / theirs {render.ratio(ratio.estimate, ratio.low, ratio.high)}"
    least, most = 1 - TIMER_TOLERANCE, 1 + TIMER_TOLERANCE
    if ratio.high < least or ratio.low > most:
        return problem(f"{text}: more than {TIMER_TOLERANCE:.0%} apart", "send the bundle")
    narrow = ratio.high - ratio.low <= 2 * (most - least)
    if narrow and least <= ratio.estimate <= most:
        return ok(text)
    return note(f"{text}: too noisy to tell", "leave the machine alone meanwhile")


def energy(device: Device) -> Finding:
    """The counter of energy against the integral of the power, under a steady load."""
    now = device.reading()
    if now.power_w is None or now.energy_j is None:
        return note("the device doesn't tell both")
    workload, params = _compute_step(device)
    with device.mode("fp32"):
        step = _prepared(device, workload, params).step
        return judge_energy(readings_under_load(device, step))


def readings_under_load(device: Device, step: Step) -> list[tuple[float, Reading]]:
    """Readings with their seconds, of a load that began before the first of them."""
    step_s = max(timers.by_us(device, step), 1e-6)
    count = max(1, round(READ_EACH_S / step_s))
    found: list[tuple[float, Reading]] = []
    begin = device.now()
    while not found or device.now() - found[0][0] < ENERGY_S:
        device.sample(step, inner=1, count=count, cold=False)
        # From Ampere on a reading of power is the mean of the last second.
        if device.now() - begin >= 1.5:
            found.append((device.now(), device.reading()))
    return found


def judge_energy(readings: Sequence[tuple[float, Reading]]) -> Finding:
    """Joules counted over joules integrated, by the trapezoidal rule."""
    told = [
        (seconds, reading.power_w, reading.energy_j)
        for seconds, reading in readings
        if reading.power_w is not None and reading.energy_j is not None
    ]
    if len(told) < max(3, len(readings)):
        return note("the device doesn't tell both all the time")
    integral = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(told))
    window_s, counted = told[-1][0] - told[0][0], told[-1][2] - told[0][2]
    if integral <= 0:
        return problem("the power read under load is zero")
    ratio = counted / integral
    text = f"counted / integrated {ratio:.3f} over {window_s:.1f} s"
    if abs(ratio - 1) > ENERGY_TOLERANCE:
        return problem(f"{text}: more than {ENERGY_TOLERANCE:.0%} apart", "send the bundle")
    return ok(text)


# --- the device's abilities ---------------------------------------------------------------------


def graphs(device: Device) -> Finding:
    """Whether steps captured in a graph run once each whenever it is replayed."""
    if device.provenance != "measured":
        return ok("a simulated card captures whatever can be called")
    import torch

    totals = [torch.zeros((), device=device.torch_device) for _ in range(2)]
    try:
        replay = device.capture([lambda t=total: t.add_(1) for total in totals])  # type: ignore[misc]
    except Unsupported as error:
        return note(str(error))
    before = [int(total) for total in totals]
    for _ in range(3):
        replay()
    device.synchronize()
    ran = [int(total) - start for total, start in zip(totals, before, strict=True)]
    if ran != [3, 3]:
        return problem(f"two captured steps ran {ran[0]} and {ran[1]} times in three replays")
    return ok("two captured steps ran three times in three replays")


def peak_memory(device: Device) -> Finding:
    """Whether the peak rises by what is allocated, and by no more than allocators round up."""
    if device.peak_memory_bytes() is None or device.provenance != "measured":
        return note("not counted on this device")
    import torch

    device.reset_peak_memory()
    before = device.peak_memory_bytes() or 0
    block = torch.empty(PINNED_BYTES, dtype=torch.uint8, device=device.torch_device)
    rise = (device.peak_memory_bytes() or 0) - before
    del block
    text = f"rose by {rise / 2**20:.1f} MiB with {PINNED_BYTES / 2**20:.0f} MiB allocated"
    return ok(text) if 0 <= rise - PINNED_BYTES <= 2**21 else problem(text, "send the bundle")


def pinned_copies(device: Device) -> Finding:
    """The rate of copies from pinned memory of the host, against the link's."""
    import torch

    source = torch.empty(PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(PINNED_BYTES, dtype=torch.uint8, device=device.torch_device)
    seconds = timers.by_us(device, lambda: target.copy_(source, non_blocking=True))
    return judge_copy(PINNED_BYTES / seconds, device.info.pcie)


def judge_copy(rate: float, link: str | None) -> Finding:
    """A rate in bytes per second against a link such as ``4.0 x16``."""
    text = render.quantity("B/s")(rate)
    generation, _, lanes = (link or "").partition(" x")
    most = LANE_RATE.get(int(float(generation or 0)), 0.0) * int(lanes or 0)
    if not most:
        return ok(text)
    text = f"{text}, {rate / most:.0%} of the link's {render.quantity('B/s')(most)}"
    if rate > 1.02 * most:
        return problem(f"{text}: no copy is faster than its link", "the timer is wrong")
    if rate < 0.5 * most:
        return note(f"{text}, where 80 % is usual", "`gpubench doctor` tells the link's width")
    return ok(text)


# --- the bundle ---------------------------------------------------------------------------------


def write_bundle(found: Verification, output: str) -> Path:
    """Findings, environment and results in one archive, which says nothing of whose machine it is.

    Raises:
        CannotWrite: the folder can't be written.
    """
    now = datetime.now(UTC)
    card = found.environment.get("card_id") or "unknown"
    path = Path(output) / f"gpubench-verify-{card}-{now:%Y%m%dT%H%M%SZ}.zip"
    document = {
        "kind": "verify",
        "version": render.JSON_VERSION,
        "gpubench": gpubench.__version__,
        "device": found.device,
        "environment": found.environment,
        "rows": [
            asdict(replace(finding, found=environment.without_identity(finding.found)))
            for finding in found.findings
        ],
    }
    text = json.dumps(document, indent=1, default=str, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("findings.json", text)
            if found.records and found.records.exists():
                bundle.write(found.records, "results.parquet")
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotWrite(f"{path} can't be written: {reason}", "give another -o") from error
    return path
