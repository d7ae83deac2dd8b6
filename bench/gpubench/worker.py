"""The process that measures: opens the device, answers one request after another.

A worker is disposable. Whatever a case does to it — a crash, a hang, a poisoned CUDA context —
ends the worker and not the run; its parent starts another. Everything it prints goes into a file
whose last lines explain a death.
"""

import gc
import math
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpubench import environment
from gpubench.cards import CONTEXT_BYTES, GIB, catalogue
from gpubench.device import Device, open_device
from gpubench.errors import CaseOutcome, EnvironmentRefused, GpubenchError
from gpubench.measure import Measurement, StopRule, measure
from gpubench.workload import Case, Work, get_workload

# Of a device that the catalogue lacks: allocators, contexts and the system need their share.
USABLE_MEMORY_SHARE = 0.8
STARTUP_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Hello:
    """A worker's first message: where it runs."""

    environment: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A worker's first message when it can't open the device."""

    error: GpubenchError


@dataclass(frozen=True)
class Forecast:
    """What is expected of a case before it runs; ``left_out`` says why it won't."""

    step_s: float | None
    left_out: str | None
    work: Work | None = None


@dataclass(frozen=True)
class Outcome:
    """How a case ended; ``measurement`` only where it is ok.

    ``poisoned``: the process that it ran in should measure nothing else.
    """

    status: str
    reason: str | None = None
    measurement: Measurement | None = None
    poisoned: bool = False


class Worker:
    """A measuring process and the pipe to it."""

    def __init__(self, device: str, *, identify: bool, trial: int = 1) -> None:
        """Start it and wait for its first message.

        Raises:
            EnvironmentRefused, UsageError: the device can't be opened, as the worker says.
        """
        try:
            self._start(device, identify=identify, trial=trial)
        except OSError as error:
            raise EnvironmentRefused(
                f"no measuring process can be started: {error}",
                "stand in a folder that exists, and let TMPDIR name one that can be written",
            ) from error
        hello = self._receive(STARTUP_TIMEOUT_S)
        if isinstance(hello, Refusal):
            self.stop()
            raise hello.error
        if not isinstance(hello, Hello):
            reason = (
                self._last_words() if hello is None else f"no answer in {STARTUP_TIMEOUT_S:g} s"
            )
            self.stop()
            raise EnvironmentRefused(
                f"the measuring process for {device} did not start: {reason}",
                "`gpubench devices` shows what is here",
            )
        self.environment: dict[str, Any] = hello.environment

    def _start(self, device: str, *, identify: bool, trial: int) -> None:
        # spawn: a forked child of a process that has touched CUDA can't use it.
        context = multiprocessing.get_context("spawn")
        self._log = tempfile.NamedTemporaryFile(prefix="gpubench-worker-", suffix=".log")  # noqa: SIM115
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(theirs, device, self._log.name),
            kwargs={"identify": identify, "trial": trial},
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def forecast(self, cases: list[Case], step_limit_s: float) -> list[Forecast]:
        """Ask what is expected of the cases."""
        self._pipe.send(("forecast", cases, step_limit_s))
        answer = self._receive(STARTUP_TIMEOUT_S)
        if not isinstance(answer, list):
            raise EnvironmentRefused(f"the measuring process died: {self._last_words()}")
        return answer

    def measure(self, case: Case, rule: StopRule, timeout_s: float) -> Outcome:
        """Have a case measured; a death or a time-out is an outcome, too."""
        return self._outcome(("measure", case, rule), timeout_s, ", the suite's timeout_s")

    def call(self, function: Callable[..., None], *arguments: object, timeout_s: float) -> Outcome:
        """Have a module's ``function(device, *arguments)`` called; that it returns is ok."""
        return self._outcome(("call", function, arguments), timeout_s)

    def _outcome(
        self, request: tuple[object, ...], timeout_s: float, whose_limit: str = ""
    ) -> Outcome:
        try:
            self._pipe.send(request)
        except OSError:  # it died since the last case
            return Outcome("crashed", self._last_words(), poisoned=True)
        answer = self._receive(timeout_s)
        if isinstance(answer, Outcome):
            return answer
        if answer is None:
            return Outcome("crashed", self._last_words(), poisoned=True)
        reason = f"ended after {timeout_s:g} s{whose_limit}"
        return Outcome("timeout", reason, poisoned=True)

    def stop(self) -> None:
        """End the process and what it started; it keeps nothing that a kill could lose."""
        self._pipe.close()
        with suppress(ProcessLookupError, PermissionError, AttributeError, TypeError):
            os.killpg(self._process.pid, signal.SIGKILL)  # type: ignore[arg-type]  # started above
        self._process.kill()
        self._process.join()
        with suppress(FileNotFoundError):  # somebody has cleared the temporary folder
            self._log.close()

    def _receive(self, timeout_s: float) -> object:
        """The next message; None when the process died, TimeoutError (returned) when it is late."""
        try:
            # Its death counts even while a child of its own holds the pipe open.
            ready = connection.wait([self._pipe, self._process.sentinel], timeout_s)
            if not ready:
                return TimeoutError()
            return self._pipe.recv() if self._pipe in ready or self._pipe.poll() else None
        except (EOFError, ConnectionError):
            return None

    def _last_words(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        how = f"exit status {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += ", most often the system running out of memory"
        lines: list[str] = []
        with suppress(FileNotFoundError):
            lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()[-3:]
        words = f": {' | '.join(lines)}" if lines else ""
        return environment.without_identity(f"the process died ({how}){words}")[:500]


def serve(pipe: Connection, device_name: str, log_path: str, *, identify: bool, trial: int) -> None:
    """Answer requests until the parent hangs up.

    A request is ``("forecast", cases, step_limit_s)``, ``("measure", case, rule)`` or
    ``("call", function, arguments)``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with suppress(OSError, AttributeError):
        os.setsid()  # so that what a workload starts ends with the worker
    myself = os.getpid()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    threading.Thread(target=_die_with_parent, args=(log_path,), daemon=True).start()
    try:
        device = open_device(device_name)
        device.begin_trial(trial)
        pipe.send(Hello(environment.describe(device, identify=identify)))
    except GpubenchError as error:
        pipe.send(Refusal(error))
        return
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request[0] == "forecast":
            pipe.send([forecast(device, case, request[2]) for case in request[1]])
        else:
            set_aside_what_stays()
            outcome = (attempt if request[0] == "measure" else called)(device, *request[1:])
            if os.getpid() != myself:  # a workload forked, and this is the copy
                os._exit(1)
            pipe.send(outcome)


def forecast(device: Device, case: Case, step_limit_s: float) -> Forecast:
    """Whether a case fits the device's memory and the suite's patience, by its declared work."""
    if case.precision and (reason := device.unsupported(case.precision)):
        return Forecast(None, reason)
    try:
        work = get_workload(case.workload).work(dict(case.params))
        return _forecast(device, case, work, step_limit_s) if work else Forecast(None, None)
    except Exception:  # noqa: BLE001 - a fault in one workload's arithmetic is its row's, not the run's
        return Forecast(None, None)


def _forecast(device: Device, case: Case, work: Work, step_limit_s: float) -> Forecast:
    if reason := _too_large(device, work.footprint or 0.0):
        return Forecast(None, reason, work)
    step_s = device.expected_s(work, case.precision)
    if step_s is not None and step_s > step_limit_s:
        return Forecast(
            step_s,
            f"left out: a step would take about {step_s:.2g} s here and the suite allows "
            f"{step_limit_s:g} s",
            work,
        )
    return Forecast(step_s, None, work)


def _too_large(device: Device, footprint: float) -> str | None:
    """Why a case can't fit, by the limit that `predict` has where the card is known.

    What is out of memory all the same costs a worker, and is a row that says so.
    """
    memory = device.info.memory_bytes
    card = catalogue().get(device.info.card_id)
    if card is None:
        room = USABLE_MEMORY_SHARE * memory if memory else math.inf
    else:
        room = min(card.usable_bytes, memory or math.inf) - CONTEXT_BYTES
    if footprint <= room:
        return None
    return (
        f"left out: it needs about {footprint / GIB:.1f} GiB, and of the device's "
        f"{(memory or room) / GIB:.1f} GiB there are {room / GIB:.1f} for it"
    )


def attempt(device: Device, case: Case, rule: StopRule) -> Outcome:
    """Measure a case and turn whatever comes of it into an outcome."""
    return _outcome(device, lambda: storable(measure(device, case, rule)))


def called(device: Device, function: Callable[..., None], arguments: tuple[object, ...]) -> Outcome:
    """Call a function and turn whatever comes of it into an outcome."""
    return _outcome(device, lambda: function(device, *arguments))


def _outcome(device: Device, call: Callable[[], Measurement | None]) -> Outcome:
    try:
        measurement = call()
        return Outcome("ok", measurement=measurement, poisoned=device.spoilt)
    except CaseOutcome as error:
        reason = environment.without_identity(str(error))
        return Outcome(error.status, reason, poisoned=device.spoilt)
    except Exception as error:  # noqa: BLE001 - whatever a workload raises is its row's reason, not the run's end
        status = "oom" if device.out_of_memory(error) else "failed"
        text = " ".join(f"{type(error).__name__}: {error}".split())
        # After an unexpected error a CUDA context may be unusable: don't measure with it again.
        return Outcome(status, environment.without_identity(text)[:500], poisoned=True)


def set_aside_what_stays() -> None:
    """Free what the last case left, and have the collector pass over all the rest from now on.

    Between two cases only what the libraries keep for good is alive; looking through that each
    time took 9 % of a quick suite.
    """
    gc.collect()
    gc.freeze()


def storable(measurement: Measurement) -> Measurement:
    """A measurement whose every value has the type of its column.

    Raises:
        TypeError, ValueError: a workload gave something else; its case has failed then.
    """
    work = measurement.work

    def number(value: float | None) -> float | None:
        return None if value is None else float(value)

    return replace(
        measurement,
        work=Work(
            flops=number(work.flops),
            bytes=number(work.bytes),
            items=number(work.items),
            item=None if work.item is None else str(work.item),
            footprint=number(work.footprint),
        ),
        notes={str(name): str(value) for name, value in measurement.notes.items()},
        outcome={str(name): float(value) for name, value in measurement.outcome.items()},
    )


def _die_with_parent(log_path: str) -> None:
    """A killed parent can't stop its worker; the worker notices by itself, in a sleeping thread."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        with suppress(OSError):
            Path(log_path).unlink()
        with suppress(OSError, AttributeError):
            if os.getpgrp() == os.getpid():  # as `stop`: what a workload started ends, too
                os.killpg(0, signal.SIGKILL)
        os._exit(1)
