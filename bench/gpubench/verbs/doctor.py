"""``gpubench doctor``: is this machine fit to measure, and does the tool work on it?"""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event, Thread, Timer

    from gpubench.doctor import Finding

# Whoever waits longer wants to know what for.
PATIENCE_S = 2.0


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``doctor``."""
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda:0 or virtual:CARD"
    )
    sub.add_argument(
        "--card", metavar="CARD", help="what a card of the catalogue needs, without having it"
    )
    sub.add_argument(
        "--verify", action="store_true", help="prove the tool on this device; takes some minutes"
    )
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR", help="where results go, and the bundle"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Examine this machine, or say what a card needs, or verify the tool on a device."""
    from gpubench import doctor, render

    if arguments.card:
        return _print_needs(arguments.card, arguments.format)
    if arguments.verify:
        return _verify(arguments)
    announce = _Impatient()
    found = list(doctor.examine(arguments.device, arguments.output, announce))
    announce.end()
    said = doctor.conclusion(found)
    beside = {"fit": not doctor.hindrances(found), "conclusion": said}
    _print(found, arguments.format, "doctor", beside)
    problems = sum(finding.state == "problem" for finding in found)
    if problems:
        print(f"{problems} problem{'s' * (problems > 1)}", file=sys.stderr)
    if arguments.format == "table":
        print(render.clean(said), file=sys.stderr)
    return errors.EXIT_ENVIRONMENT if problems else errors.EXIT_DONE


def _print_needs(card_id: str, form: str) -> int:
    from gpubench import doctor, render

    needs = doctor.for_card(card_id)
    if not needs:
        raise errors.UsageError(
            f"no build of torch that is known has code for {card_id}",
            "build torch for it, or take a card of a generation that `gpubench list cards` has",
        )
    columns = (
        render.Column("card", "card"),
        render.Column("compute_capability", "compute capability"),
        render.Column("driver", "driver"),
        render.Column("torch", "torch"),
        render.Column("cupy", "CuPy"),
        render.Column("install", "to type"),
    )
    if form != "table":
        print(render.rows(needs, columns, form, "installs"), end="")
        return errors.EXIT_DONE
    print("{card}, compute capability {compute_capability}".format(**needs[0]))
    print("\nto be typed in the root of a checkout of gpubench:")
    for build in needs:  # a line to be copied stands alone, and is not folded
        print("\ndriver {driver}: {torch} for CUDA {cuda}, {cupy}".format(**build))
        print(f"    {build['install']}")
    return errors.EXIT_DONE


def _verify(arguments: argparse.Namespace) -> int:
    from gpubench import verify
    from gpubench.suite import load_suite

    announce = _Step()

    def show(found: verify.Verification) -> None:
        announce.end()
        _print(found.findings, arguments.format, "verify")

    device = verify.chosen_device(arguments.device)
    try:
        found, bundle = verify.verify(device, load_suite("quick"), arguments.output, announce, show)
    finally:
        announce.end()
    faults = len(found.faults)
    measured = found.environment.get("provenance") == "measured"
    sending = "send it with your issue; it names neither you nor this machine"
    print(
        f"{bundle}: {sending if measured else 'of a simulated card, so there is nothing to send'}\n"
        f"{faults or 'no'} fault{'s' * (faults != 1)} in {len(found.findings)} checks",
        file=sys.stderr,
    )
    return errors.EXIT_CASE_FAILED if faults else errors.EXIT_DONE


def _print(
    found: Sequence[Finding], form: str, kind: str, beside: Mapping[str, object] | None = None
) -> None:
    from dataclasses import asdict

    from gpubench import render

    columns = [
        render.Column("state", ""),
        render.Column("device", "device", lambda name: name or "machine"),
        render.Column("check", "check"),
        render.Column("found", "found"),
        render.Column("remedy", "to type or do"),
    ]
    devices = {finding.device for finding in found}
    if form == "table" and len(devices) == 1:
        del columns[1]
        print(f"{render.clean(devices.pop()) or 'this machine'}\n")
    plain = [asdict(finding) for finding in found]
    print(render.rows(plain, columns, form, kind, beside), end="")


class _Impatient:
    """Called before each check; says on standard error which of them takes long."""

    _timer: Timer | None = None

    def __call__(self, name: str) -> None:
        from threading import Timer

        self.end()
        text = f"still checking: {name} …"
        self._timer = Timer(PATIENCE_S, lambda: print(text, file=sys.stderr, flush=True))
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Say nothing any more."""
        if self._timer:
            self._timer.cancel()


class _Step:
    """Called before each step; names it on standard error, with a dot for each while it takes."""

    _thread: Thread | None = None
    _over: Event

    def __call__(self, name: str) -> None:
        from threading import Event, Thread

        self.end()
        print(name, end="", file=sys.stderr, flush=True)
        self._over = Event()
        self._thread = Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while not self._over.wait(PATIENCE_S):
            print(" .", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The line is complete."""
        if self._thread:
            self._over.set()
            self._thread.join()
            self._thread = None
            print(file=sys.stderr, flush=True)
