"""The schema: one record is one case measured once in one worker process.

This module is the result file's definition. `store` turns the annotations into Parquet columns,
docs/result-file.md is held against it by a test, and readers of older files fill what is missing
with null. Seconds, bytes, hertz and watts throughout; null is unknown, never zero.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

SCHEMA_VERSION = 1

Status = Literal["ok", "failed", "wrong", "oom", "timeout", "crashed", "unsupported"]
#: statuses of a case that should have worked and did not
FAILURES = ("failed", "wrong", "oom", "timeout", "crashed")
#: what two results have to share, beside case and cache, before they are of one thing: neither a
#: ratio of them nor a median over both means anything otherwise
IDENTITY = ("workload_version", "workload_hash", "timer", "cold_by", "provenance")
#: in the name of a card that tests put in a real one's place; what it gives is no measurement
NOT_REAL = "(not real)"


def _column(meaning: str, default: Any = None) -> Any:
    if isinstance(default, (list, dict)):
        return field(default_factory=type(default), metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Spread:
    """A condition over the time of the samples."""

    mean: float
    min: float
    max: float


@dataclass(kw_only=True)
class Record:
    """One row of a result file; see each column's meaning."""

    # identity
    schema_version: int = _column("version of this list of columns", SCHEMA_VERSION)
    run_id: str = _column("one call of `gpubench run`; shared by its rows", "")
    started_at: datetime | None = _column("when the case began, UTC")
    suite: str = _column("name of the suite", "")
    workload: str = _column("name of the workload", "")
    workload_version: int = _column("raised by its author when results stop being comparable", 0)
    workload_hash: str = _column("hash of the workload's source without comments", "")
    case_id: str = _column("workload and parameters, readable", "")
    params: dict[str, str] = _column("the parameters, by axis", {})
    trial: int = _column("which repetition of the suite, from 1; each has fresh processes", 1)
    attempt: int = _column("which try of this trial's case, from 1; resuming tries again", 1)

    # measured
    samples_s: list[float] | None = _column("every sample in order, seconds per step")
    host_samples_s: list[float] | None = _column(
        "seconds the host took to enqueue a step, with waiting for a full queue"
    )
    timer: str | None = _column("cuda_event, cuda_graph, host or virtual")
    cache: str | None = _column(
        "cold (a step finds nothing of the one before in the last-level cache) or hot"
    )
    cold_by: str | None = _column("how a cold cache was had: flush, or rotation of copies")
    inner: int | None = _column("steps per sample")
    first_step_s: float | None = _column("the first step, with compilation and autotuning")
    warmup_s: float | None = _column("seconds of warm-up after it")
    stop: str | None = _column("why sampling ended: precise, budget or count")
    peak_memory_bytes: int | None = _column("most device memory in use, with set-up")
    energy_j: float | None = _column("energy of one step in joules")
    energy_source: str | None = _column("where the energy was read")
    outcome: dict[str, float] = _column("what the training reached, such as loss", {})
    witness_s: dict[str, float] = _column(
        "steps that never change, timed right after this one (pytest plugin), seconds per step", {}
    )
    notes: dict[str, str] = _column("facts beside the numbers, such as the attention kernel", {})

    # work per step
    flops: float | None = _column("floating-point operations, a multiply-add is two")
    bytes: float | None = _column("bytes that must move between memory and chip at least")
    items: float | None = _column("what a training step consumes")
    item: str | None = _column("unit of items, singular")

    # outcome
    status: str = _column("ok, failed, wrong, oom, timeout, crashed or unsupported", "ok")
    reason: str | None = _column("why it is not ok")
    flags: list[str] = _column("what to know before believing the number", [])

    # conditions during the samples
    sm_clock_hz: Spread | None = _column("clock of the multiprocessors")
    memory_clock_hz: Spread | None = _column("clock of the memory")
    power_w: Spread | None = _column("power drawn by the card")
    temperature_c: Spread | None = _column("temperature of the chip, degrees Celsius")
    processor_clock_hz: Spread | None = _column("clock of the host's cores, their mean")
    foreign_load: float | None = _column("share of the processor that others used, 0 to 1")
    steal: float | None = _column("share that a hypervisor gave to other machines, 0 to 1")
    throttle_reasons: list[str] | None = _column(
        "why the driver held the clocks down: power, thermal, other"
    )

    # provenance
    provenance: str = _column("measured or virtual", "measured")
    backend: str | None = _column("cpu, cuda or virtual")
    card_id: str | None = _column("row of the card catalogue, or a name made from the device's")
    card: str | None = _column("name of the device as its driver reports it")
    architecture: str | None = _column("Pascal … Blackwell, or the processor's instruction set")
    compute_capability: str | None = _column("such as 8.9")
    device_uuid_hash: str | None = _column("salted hash of the card's unique identity")
    memory_bytes: int | None = _column("memory of the device")
    power_limit_w: float | None = _column("enforced power limit")
    ecc: bool | None = _column("error correction of the memory on")
    pcie: str | None = _column("fastest link of card and slot, such as 4.0 x16")
    driver: str | None = _column("version of the NVIDIA driver")
    cuda: str | None = _column("CUDA version torch was built for")
    cudnn: str | None = _column("version of cuDNN")
    torch: str | None = _column("version of torch, with its build")
    cupy: str | None = _column("version of CuPy")
    python: str | None = _column("version of Python")
    os: str | None = _column("operating system and the number of its release")
    cpu: str | None = _column("processor of the host")
    threads: int | None = _column("threads that torch uses on the processor")
    host_hash: str | None = _column("salted hash of the machine's identity")
    gpubench_version: str | None = _column("version of gpubench")
    commit: str | None = _column("commit of the checkout gpubench ran from")
    dirty: bool | None = _column("whether that checkout had uncommitted changes")

    @property
    def key(self) -> tuple[str, str | None, int]:
        """What a run holds one final row of: case, cache state, trial."""
        return (self.case_id, self.cache, self.trial)
