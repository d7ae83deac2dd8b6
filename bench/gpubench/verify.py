"""Prove the tool on a device that is here: its results, its timer, its rates and its sensors.

What tests without a GPU can't show, the owner of a card shows with one command. Every case of the
quick suite is checked against its reference and measured as `gpubench run` does it, and every
kernel of our own is launched on what goes wrong first; then our timer is held against others, the
rates against the catalogue, the counter of energy against the integral of the power, and graphs,
peaks of memory and pinned copies against what they should give. All of it goes into one bundle that
can be sent: no name of a host or a user and no path is in it.
"""

import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpubench
from gpubench import (
    environment,
    kernel_checks,
    nvbench,
    placement,
    render,
    run,
    stats,
    table,
    timers,
)
from gpubench.cards import catalogue
from gpubench.device import Device, Reading, open_device, resolve
from gpubench.doctor import Finding, note, ok, problem
from gpubench.errors import CannotWrite, EnvironmentRefused, Unsupported
from gpubench.predict import Predictor
from gpubench.suite import Suite
from gpubench.telemetry import FOREIGN_LOAD_LIMIT, HostLoad
from gpubench.workload import Step, get_workload

if TYPE_CHECKING:
    import pandas as pd

#: a workload and its parameters
Asked = tuple[str, dict[str, Any]]

# A timer that is further off than this is wrong; how sure that is, its interval says.
TIMER_TOLERANCE = 0.03
# NVML's reference promises ±5 % of the power of Fermi and Kepler, and nothing of later cards;
# twice that, since both sides have an error.
ENERGY_TOLERANCE = 0.10
ENERGY_S = 6.0
READ_EACH_S = 0.1
# Times the slow end of the 80 % interval of what is expected, or a part of its fast end: no
# healthy card is so far off unless its row says why, so the timer or the declared work is.
FAR = 5.0
# With these flags a row's rate says nothing of the card; with LEFT_ALONE its own judgement stands.
DISTURBED = ("throttled_thermal", "other_processes", "stolen")
LEFT_ALONE = ("above_peak", "launch_bound")
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
COPY_MIB, COPY_ARRAYS = 256, 2
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
    device: str,
    suite: Suite,
    output: str,
    announce: Callable[[str], object] = str,
    show: Callable[["Verification"], object] = id,
) -> tuple[Verification, Path]:
    """Run everything that applies to a device, and write the bundle.

    Args:
        device: as for ``--device``.
        suite: whose cases are checked and measured.
        output: folder for the bundle.
        announce: called with what comes next.
        show: called with what was found, also where the bundle can't be written after all.

    Raises:
        EnvironmentRefused: the device can't be opened.
        CannotWrite: the bundle can't be written.
    """
    found = Verification(device)
    _try_folder(Path(output))
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
        found.records = Path(folder) / "results.parquet"
        for finding in _findings(found, suite, announce):
            found.findings.append(replace(finding, device=device))
        try:
            bundle = write_bundle(found, output)
        finally:
            show(found)
        return found, bundle


def _try_folder(folder: Path) -> None:
    """Make the bundle's folder, and a file in it: checks take minutes, and this no time.

    Raises:
        CannotWrite: there is no such folder, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    reason = error.strerror or str(error)
    return CannotWrite(f"{path} can't be written: {reason}", "give another -o")


def _findings(
    found: Verification, suite: Suite, announce: Callable[[str], object]
) -> Iterator[Finding]:
    announce(f"opening {found.device}")
    execution = run.Execution(run.Request(suite, found.device), str(found.records))
    for event in execution:
        if isinstance(event, run.Started):
            announce(f"[{event.position}/{event.total}] {event.case.id}")
    frame = table.load([str(found.records)])
    placed = _placed(frame)
    for row in sorted(frame.to_dict("records"), key=lambda row: str(row["case_id"])):
        case_id = str(row["case_id"])
        yield replace(judge_case(row, placed.get(case_id)), check=case_id)
    opened = open_device(found.device)
    found.environment = environment.describe(opened)
    if opened.provenance != "measured":
        text = f"{opened.info.card}: this shows what the checks do, and nothing of a card"
        yield replace(note(text), check="device")
    yield from kernel_checks.findings(opened, found.device, announce)
    for name, look in _looks(opened):
        announce(name)
        yield replace(_safely(look), check=name)


def _placed(frame: "pd.DataFrame") -> dict[str, Mapping[str, Any]]:
    """What is expected of each case, by its id; nothing of a simulated card."""
    if not (frame["provenance"] == "measured").any():
        return {}
    rows = placement.expected(frame, Predictor.shipped())
    return {str(row["case_id"]): row for row in rows}


def _looks(device: Device) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """What is looked at in this process, by its name."""
    for name, pairs in _comparisons(device):
        yield name, partial(compare, device, pairs)
    yield "energy against power", lambda: energy(device)
    yield "graphs", lambda: graphs(device)
    yield "peak memory", lambda: peak_memory(device)
    if device.info.backend == "cuda":
        yield "pinned copies", lambda: pinned_copies(device)


def _comparisons(device: Device) -> Iterator[tuple[str, Callable[[], timers.Pairs]]]:
    """Our timer against others on the same steps, and the ways of `gpubench run` to use it."""
    copy = _copy_step(device)
    for case in (_compute_step(device), copy):
        for other in timers.others(device):
            yield f"timer against {other.name}: {case[0]}", partial(_turns, device, case, other)
        if device.info.backend == "cuda" and timers.installed(nvbench.MODULE):
            yield (
                f"timer against NVBench: {case[0]}",
                partial(nvbench.turns, device.info.name, *case),
            )
    for way in timers.RUN_WAYS:
        name = f"{way} samples of a run against the host's clock: {copy[0]}"
        yield name, partial(_run_turns, device, copy, way)


def _turns(device: Device, case: Asked, other: timers.OtherTimer) -> timers.Pairs:
    with device.mode("fp32"):
        return timers.turns(device, timers.prepared(device, *case).step, other)


def _run_turns(device: Device, case: Asked, way: str) -> timers.Pairs:
    with device.mode("fp32"):
        prepared = timers.prepared(device, *case)
        work = get_workload(case[0]).work(case[1])
        return timers.run_turns(device, replace(prepared, work=work), way)


def _safely(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - what fails on the first card of its kind is the finding
        return problem(_one_line(f"{type(error).__name__}: {error}"))


def _one_line(text: str) -> str:
    return environment.without_identity(" ".join(text.split())[:300])


def _compute_step(device: Device) -> Asked:
    for workload, params in STEPS:
        work = get_workload(workload).work(params)
        expected_s = device.expected_s(work, "fp32") if work else None
        if expected_s is None or expected_s < LONGEST_S:
            break
    return workload, dict(params)


def _copy_step(device: Device) -> Asked:
    """A copy that leaves nothing of itself in the cache, so that cold and hot are the same step."""
    least = device.rotation_multiple * (device.info.cache_bytes or 0) / COPY_ARRAYS
    mib = max(COPY_MIB, math.ceil(least / 2**20))
    return "memory", {"operation": "copy", "mib": mib, "precision": "fp32"}


# --- judging ------------------------------------------------------------------------------------


def judge_case(row: Mapping[Any, Any], expected: Mapping[str, Any] | None = None) -> Finding:
    """One row of `table.load`: is the result right, and is its rate one that the card can have?

    ``expected`` is the same of `placement.expected`, if something is.
    """
    if row["status"] == "unsupported":
        return note(f"not supported: {row['reason']}")
    if row["status"] != "ok":
        return problem(
            f"{row['status']}: {row['reason']}",
            "measure it alone: gpubench run --only '" + str(row["case_id"]) + "'",
        )
    rate, unit = table.throughput(row)
    right = "right" if row["provenance"] == "measured" else "simulated, nothing was computed"
    text = f"{right}; {render.quantity(unit)(rate)}"
    if math.isfinite(row["share_of_peak"]):
        text += f", {row['share_of_peak']:.0%} of the catalogue's peak"
    if "above_peak" in row["flags"]:
        return problem(
            f"{text}: no card is faster than its peak",
            "its row of the catalogue, the declared work, or the timer is wrong",
        )
    speed = judge_speed(expected)
    return _with_flags(replace(speed, found=f"{text}; {speed.found}"), row["flags"])


def judge_speed(expected: Mapping[str, Any] | None) -> Finding:
    """A row of `placement.expected`; without an expectation nothing is judged, and it says so."""
    if expected is None or expected["placement"] is None:
        reason = expected["placement_reason"] if expected else "it is not a measurement"
        return ok(f"speed not judged: {reason}")
    time, usual = expected["median_s"], expected["expected_s"]
    slow, fast = expected["expected_high_s"], expected["expected_low_s"]
    text = (
        f"{placement.PLACEMENTS[expected['placement']]}: {usual / time:.0%} of the predicted "
        f"rate, where {usual / slow:.0%} to {usual / fast:.0%} is usual"
    )
    if time > FAR * slow or time < fast / FAR:
        return problem(text, "the timer or the declared work may be wrong: send the bundle")
    if expected["placement"] == "low":
        return note(text, "`gpubench doctor` may know what is slow")
    return ok(text)


def _with_flags(judged: Finding, flags: Sequence[str]) -> Finding:
    """What a row warns of itself is no pass, and no fault: results that say so are sound."""
    text = "; ".join([judged.found, *(["flags: " + ", ".join(flags)] if len(flags) else [])])
    if any(flag in DISTURBED for flag in flags):
        return note(
            f"{text}: this run proves nothing of its speed",
            "try again when the machine is quiet and cool",
        )
    if all(flag in LEFT_ALONE for flag in flags):
        return replace(judged, found=text)
    return note(text, judged.remedy if judged.state == "note" else "")


def compare(device: Device, pairs: Callable[[], timers.Pairs]) -> Finding:
    """Our times against another timer's; on a busy machine a difference proves no fault."""
    crowd = device.reading().other_processes or 0
    with HostLoad() as load:
        try:
            found = judge_timer(timers.ratio(pairs()))
        except timers.CannotCompare as error:
            return note(f"could not be compared: {_one_line(str(error))}")
    crowd += device.reading().other_processes or 0
    # A simulated card takes no time of this machine, so whoever else uses it is no matter.
    taken = max(load.foreign or 0.0, load.steal or 0.0) if device.provenance == "measured" else 0.0
    busy = {
        "others used the device": crowd > 0,
        f"others took {taken:.0%} of the processor": taken > FOREIGN_LOAD_LIMIT,
    }
    why = " and ".join(text for text, holds in busy.items() if holds)
    if found.state == "problem" and why:
        return note(f"{found.found}; machine busy: {why}", "try again when it is quiet")
    return found


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
        step = timers.prepared(device, workload, params).step
        return judge_energy(readings_under_load(device, step))


def readings_under_load(device: Device, step: Step) -> list[tuple[float, Reading]]:
    """Readings with their seconds, of a load that began before the first of them."""
    step_s = max(timers.by_us(device, step), 1e-6)
    count = max(1, round(READ_EACH_S / step_s))
    found: list[tuple[float, Reading]] = []
    begin = device.now()
    while not found or device.now() - found[0][0] < ENERGY_S:
        device.sample(step, inner=1, count=count, cold=False)
        # A reading of power is the mean of the last second from Ampere on, but for GA100 (A100,
        # A30), which tells that of the moment: with what went before over, both can be integrated.
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
    # Cards that share memory with their processor (GH200, GB200) are not in the catalogue.
    only_pcie = device.info.card_id in catalogue() and not device.coherent_link()
    return judge_copy(PINNED_BYTES / seconds, device.info.pcie, only_pcie=only_pcie)


def judge_copy(rate: float, link: str | None, *, only_pcie: bool) -> Finding:
    """A rate in bytes per second against a link such as ``4.0 x16``.

    ``only_pcie``: there is no other way from the host to the card, such as NVLink-C2C.
    """
    text = render.quantity("B/s")(rate)
    generation, _, lanes = (link or "").partition(" x")
    most = LANE_RATE.get(int(float(generation or 0)), 0.0) * int(lanes or 0)
    if not most:
        return ok(text)
    text = f"{text}, {rate / most:.0%} of the link's {render.quantity('B/s')(most)}"
    if rate > 1.02 * most and not only_pcie:
        return note(f"{text}: a faster link than PCIe may join host and card, such as NVLink-C2C")
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
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("findings.json", text)
            if found.records and found.records.exists():
                bundle.write(found.records, "results.parquet")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error
    return path
