"""The command: parse, one call, print.

Nothing heavy is imported before a verb runs, and only what that verb needs: `--help` has to
answer at once, and reading verbs work where torch is not installed. Tables and JSON go to
standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword

from gpubench import errors

TYPE_CHECKING = False  # not from typing: importing that takes as long as all the rest here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

# Each is a module of `verbs`, with an underscore behind it where Python keeps the name.
VERBS = {
    "devices": "what is here, and which card of the catalogue it is",
    "doctor": "is this machine fit to measure, and what to type if not",
    "list": "what there is: workloads, suites, cards, others' results, models, profiles or figures",
    "run": "measure a suite and keep the results",
    "show": "result files as one readable table",
    "compare": "which is faster, and is that real",
    "ab": "two environments, commits or files in turn: which is faster",
    "calibrate": "learn this machine's own noise, for its verdicts",
    "history": "where the results of a machine changed over its runs",
    "report": "one HTML page of results, offline",
    "recommend": "which card for this work, how surely, and what would change that",
    "validate": "check that result files are whole and well-formed",
    "export": "results for pytest-benchmark, or every sample as CSV",
    "predict": "a suite on cards that are not at hand, modelled",
    "import": "a result file from pytest-benchmark's JSON",
}


class Parser(argparse.ArgumentParser):
    """argparse with errors of two lines: what is wrong, and the next step."""

    def __init__(self, **options: Any) -> None:
        # Abbreviations would make a typo run something.
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the problem without the usage text, which would bury it."""
        from difflib import get_close_matches

        remedy = f"`{self.prog} --help` shows what it takes"
        word = next((word for word in message.split("'")[1::2]), "")
        choices = message.partition("choose from ")[2].rstrip(")").replace("'", "").split(", ")
        if close := get_close_matches(word, filter(None, choices), n=1):
            remedy = f"did you mean {close[0]!r}? {remedy}"
        elif word and choices[0] and len(choices) < 8:
            remedy = f"it is one of {', '.join(choices)}"
        for action in self._actions:
            if action.choices and message.endswith(f" required: {action.dest}"):
                remedy = f"{action.dest} is one of {', '.join(action.choices)}"
        problem = printable(message.partition(" (choose")[0])
        self.exit(errors.EXIT_USAGE, f"gpubench: {problem}\n  → {remedy}\n")

    def takes(self, flag: str) -> bool:
        """Whether it has this flag."""
        return flag in self._option_string_actions


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. No traceback for what a user can cause."""
    words = sys.argv[1:] if argv is None else argv
    open_what_is_closed()
    if argv is None:
        end_as_by_interruption()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our signs gets others
            stream.reconfigure(errors="replace")
    arguments, unknown = parser(words).parse_known_args(words or ["--help"])
    if unknown:  # argparse would say so in the name of the whole command
        arguments.refuse(f"unrecognized arguments: {' '.join(unknown)}{elsewhere(unknown[0])}")
    try:
        status: int = arguments.verb(arguments)
        sys.stdout.flush()
    except (errors.GpubenchError, ModuleNotFoundError) as error:
        refusal = missing_module(error) if isinstance(error, ModuleNotFoundError) else error
        complain(refusal)
        return refusal.exit_code
    except KeyboardInterrupt:
        say("gpubench: interrupted")
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EBADF, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        complain(errors.CannotWrite(f"the output can't be written: {error.strerror}"))
        return errors.EXIT_USAGE
    return status


def open_what_is_closed() -> None:
    """Standard streams for a caller that closed them: else a file or pipe takes their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the closed one
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def end_as_by_interruption() -> None:
    """A scheduler's end and a closed terminal are as Ctrl-C: kept is kept, nothing is left over."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)


def printable(text: str) -> str:
    """Without control characters: errors quote what strangers' files say."""
    return "".join(c if c.isprintable() else " " for c in text)


def complain(error: errors.GpubenchError) -> None:
    """Print an error's two lines."""
    say(f"gpubench: {printable(str(error))}")
    if error.remedy:
        say(f"  → {printable(error.remedy)}")


def say(text: str) -> None:
    """A line on standard error, if it takes any: a traceback's exit status would be another one."""
    with suppress(OSError):
        print(text, file=sys.stderr)


def missing_module(error: ModuleNotFoundError) -> errors.EnvironmentRefused:
    """A dependency that is not installed; anything else is a bug and raised again."""
    extras = {"torch": "run", "transformers": "run", "pytest_benchmark": "pytest"}
    name = (error.name or "").partition(".")[0]
    if not name or name == "gpubench":
        raise error
    wanted = [extras[name]] if name in extras else []
    return errors.EnvironmentRefused(
        f"this needs {name}, which is not installed",
        errors.install_line(*wanted),
    )


def parser(words: Sequence[str]) -> Parser:
    """All verbs, and the flags of those among ``words``: building them all takes its time."""
    top = Parser(
        prog="gpubench",
        description="Measure a GPU or CPU for training, keep the results, compare them honestly.",
        epilog="exit status: 0 done, 1 --fail-on was met, 2 wrong usage or unreadable input, "
        "3 a case failed, 4 this environment was refused, 130 interrupted",
    )
    top.add_argument("--version", action=PrintVersion, nargs=0, help="print the version")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name in words:
            add_verb(sub, name)
    return top


def add_verb(sub: Parser, name: str) -> None:
    """The flags of a verb, and what it calls."""
    module = import_module(f"gpubench.verbs.{name}{'_' * iskeyword(name)}")
    module.add_arguments(sub)
    sub.set_defaults(verb=module.call, refuse=sub.error)


def elsewhere(flag: str) -> str:
    """Where a flag that a verb doesn't take belongs, if one other verb alone takes it."""
    takers = []
    for name in VERBS:
        sub = Parser()
        add_verb(sub, name)
        takers += [name] if sub.takes(flag.partition("=")[0]) else []
    return f"; `gpubench {takers[0]}` takes {flag.partition('=')[0]}" if len(takers) == 1 else ""


class PrintVersion(argparse.Action):
    """``--version``."""

    def __call__(self, *_: object) -> NoReturn:
        """Print it and leave."""
        from gpubench import __version__

        print(f"gpubench {__version__}")
        raise SystemExit(0)
