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
import sys

from gpubench import errors

TYPE_CHECKING = False  # not from typing: importing that takes as long as all the rest here
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from gpubench.ab import Interleaved
    from gpubench.run import Execution

FORMATS = ("table", "json", "csv", "markdown")
EXCHANGE = ("pytest-benchmark", "csv")
LISTS = ("workloads", "suites", "cards", "profiles", "figures")


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
        problem = printable(message.partition(" (choose")[0])
        self.exit(errors.EXIT_USAGE, f"gpubench: {problem}\n  → {remedy}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. No traceback for what a user can cause."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our signs gets others
            stream.reconfigure(errors="replace")
    arguments = parser(words).parse_args(words or ["--help"])
    try:
        status: int = arguments.verb(arguments)
        sys.stdout.flush()
    except (errors.GpubenchError, ModuleNotFoundError) as error:
        refusal = missing_module(error) if isinstance(error, ModuleNotFoundError) else error
        complain(refusal)
        return refusal.exit_code
    except KeyboardInterrupt:
        print("gpubench: interrupted", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_DONE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EBADF, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        complain(errors.CannotWrite(f"standard output can't be written: {error.strerror}"))
        return errors.EXIT_USAGE
    return status


def printable(text: str) -> str:
    """Without control characters: errors quote what strangers' files say."""
    return "".join(c if c.isprintable() else " " for c in text)


def complain(error: errors.GpubenchError) -> None:
    """Print an error's two lines."""
    print(f"gpubench: {printable(str(error))}", file=sys.stderr)
    if error.remedy:
        print(f"  → {printable(error.remedy)}", file=sys.stderr)


def missing_module(error: ModuleNotFoundError) -> errors.EnvironmentRefused:
    """A dependency that is not installed; anything else is a bug and raised again."""
    extras = {"torch": "run", "transformers": "run", "ray": "fleet", "pytest_benchmark": "pytest"}
    name = (error.name or "").partition(".")[0]
    if not name or name == "gpubench":
        raise error
    wanted = f"[{extras[name]}]" if name in extras else ""
    return errors.EnvironmentRefused(
        f"this needs {name}, which is not installed",
        f"pip install 'gpubench-suite{wanted}'",
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
    for name, (verb, add_arguments, text) in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name in words:
            add_arguments(sub)
        sub.set_defaults(verb=verb)
    return top


class PrintVersion(argparse.Action):
    """``--version``."""

    def __call__(self, *_: object) -> NoReturn:
        """Print it and leave."""
        from gpubench import __version__

        print(f"gpubench {__version__}")
        raise SystemExit(0)


def add_format(sub: argparse.ArgumentParser) -> None:
    """``--format``, the same for every verb that prints rows."""
    sub.add_argument("--format", choices=FORMATS, default="table", help="default: table")


def add_results(sub: argparse.ArgumentParser) -> None:
    """``RESULTS…``, the same for every verb that reads result files."""
    sub.add_argument(
        "results", nargs="+", metavar="RESULTS", help="result files, globs, folders or s3:// URLs"
    )


# devices ---------------------------------------------------------------------------------------


def add_devices(sub: argparse.ArgumentParser) -> None:
    """Flags of ``devices``."""
    add_format(sub)


def devices(arguments: argparse.Namespace) -> int:
    """Print what is here."""
    from dataclasses import asdict

    from gpubench import render
    from gpubench.cards import catalogue
    from gpubench.device import present

    found = [
        asdict(info) | {"in_catalogue": info.card_id in catalogue(), "uuid": None}
        for info in present()
    ]
    columns = (
        render.Column("name", "--device"),
        render.Column("card", "card"),
        render.Column("architecture", "architecture"),
        render.Column("memory_bytes", "memory", render.gibibytes, right=True),
        render.Column("cache_bytes", "last-level cache", render.gibibytes, right=True),
        render.Column("card_id", "card id"),
        render.Column("in_catalogue", "in catalogue", lambda known: "yes" if known else "no"),
    )
    print(render.rows(found, columns, arguments.format, "devices"), end="")
    return errors.EXIT_DONE


# list ------------------------------------------------------------------------------------------


def add_list(sub: argparse.ArgumentParser) -> None:
    """Flags of ``list``."""
    sub.add_argument("what", choices=LISTS, help="what to list")
    add_format(sub)


def list_(arguments: argparse.Namespace) -> int:
    """Print the extensions of a kind, or the card catalogue."""
    from gpubench import listing, render

    found, columns = listing.listing(arguments.what)
    if not found:
        print(f"there are no {arguments.what}", file=sys.stderr)
    print(render.rows(found, columns, arguments.format, arguments.what), end="")
    return errors.EXIT_DONE


# run -------------------------------------------------------------------------------------------


def add_run(sub: argparse.ArgumentParser) -> None:
    """Flags of ``run``."""
    sub.add_argument("--suite", metavar="NAME|FILE.toml", help="default: quick")
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda:0 or virtual:CARD"
    )
    sub.add_argument(
        "--trials", type=positive, metavar="N", help="repeat the suite in N fresh processes"
    )
    sub.add_argument(
        "--budget", type=time_span, metavar="TIME", help="whole run at most, as 90s or 10m"
    )
    sub.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="cases or workloads"
    )
    sub.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="cases or workloads"
    )
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR|FILE", help="default: results"
    )
    sub.add_argument("--resume", metavar="FILE", help="complete an earlier file in place")
    sub.add_argument("--dry-run", action="store_true", help="say what would run, and for how long")
    sub.add_argument("--graph", action="store_true", help="launch steps as CUDA graphs")
    sub.add_argument(
        "--shard", type=part, metavar="K/N", help="run the K-th of N parts of the suite"
    )
    sub.add_argument("--run-id", type=run_name, metavar="ID", help="shared by the parts of one run")
    sub.add_argument(
        "--first-trial", type=positive, default=1, metavar="K", help="number of the first trial"
    )
    sub.add_argument(
        "--identify", action="store_true", help="unsalted hashes of machine and card identities"
    )
    add_format(sub)


def run(arguments: argparse.Namespace) -> int:
    """Measure a suite."""
    from gpubench import console
    from gpubench.run import Execution, Request, plan, resumed
    from gpubench.suite import load_suite

    earlier = resumed(arguments.resume) if arguments.resume else None
    suite_name = arguments.suite or (earlier.suite if earlier else "quick")
    suite = load_suite(suite_name).select(arguments.only, arguments.skip)
    request = Request(
        suite=suite.shard(*arguments.shard) if arguments.shard else suite,
        device=arguments.device,
        trials=arguments.trials or (earlier.trials if earlier else 1),
        budget_s=arguments.budget,
        identify=arguments.identify,
        first_trial=arguments.first_trial,
        run_id=arguments.run_id,
        graph=arguments.graph,
    )
    if arguments.dry_run:
        console.print_plan(request, plan(request), arguments.format)
        return errors.EXIT_DONE
    execution = Execution(request, arguments.output, arguments.resume)
    try:
        console.follow(execution)
    except KeyboardInterrupt:
        said = "nothing was measured"
        if execution.path and execution.records:
            said = f"go on with `{resuming(arguments, execution)}`"
        print(f"gpubench: interrupted; {said}", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    finally:
        if execution.path and execution.records:
            console.print_result(execution, arguments.format)
    return errors.EXIT_CASE_FAILED if execution.failures else errors.EXIT_DONE


def resuming(arguments: argparse.Namespace, execution: Execution) -> str:
    """The command that completes an interrupted run."""
    from shlex import join

    command = ["gpubench", "run", "--resume", str(execution.path), "--device", execution.device]
    if arguments.suite:
        command += ["--suite", arguments.suite]
    for flag, patterns in (("--only", arguments.only), ("--skip", arguments.skip)):
        for pattern in patterns:
            command += [flag, pattern]
    if arguments.shard:
        command += ["--shard", "{}/{}".format(*arguments.shard)]
    if arguments.first_trial > 1:
        command += ["--first-trial", str(arguments.first_trial)]
    if arguments.graph:
        command.append("--graph")
    return join([*command, "--trials", str(execution.request.trials)])


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def part(text: str) -> tuple[int, int]:
    """``2/4`` → (2, 4)."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 2/4")
    return int(number), int(count)


def run_name(text: str) -> str:
    """A name that is safe in file names and tables."""
    if not (0 < len(text) <= 64 and text.replace("-", "").replace("_", "").isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of letters, digits, - and _")
    return text


def time_span(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1.5h``, in seconds."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:].lower())
    try:
        value = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time span such as 90s, 10m or 1.5h")
    return value


# show, compare, report, validate -----------------------------------------------------------------


def add_show(sub: argparse.ArgumentParser) -> None:
    """Flags of ``show``."""
    add_results(sub)
    add_format(sub)


def show(arguments: argparse.Namespace) -> int:
    """Print result files as one table."""
    from gpubench import render, table

    found = table.as_rows(table.summary(table.load(arguments.results)))
    software = [
        render.Column(name, name)
        for name in ("torch", "driver")
        if len({str(row[name]) for row in found}) > 1
    ]
    print(table.text(found, arguments.format, software), end="")
    for row in found:
        if row["reason"]:
            print(f"{render.clean(row['case_id'])}: {render.clean(row['reason'])}", file=sys.stderr)
    return errors.EXIT_DONE


def add_compare(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compare``."""
    add_results(sub)
    sub.add_argument(
        "--baseline", metavar="X", help="beginning of a side's label; default: the oldest"
    )
    sub.add_argument(
        "--by",
        choices=("card", "run", "torch", "driver"),
        help="what tells the sides apart; default: card where there are several, else run",
    )
    add_min_effect(sub)
    sub.add_argument("--fail-on", choices=("slower",), help="exit 1 if any verdict is this")
    add_format(sub)


def add_min_effect(sub: argparse.ArgumentParser) -> None:
    """``--min-effect``, the same for every verb that judges."""
    sub.add_argument(
        "--min-effect",
        type=share,
        metavar="PERCENT",
        help="default: what `gpubench calibrate` learnt of this machine, else 1%%",
    )


def compare(arguments: argparse.Namespace) -> int:
    """Print verdicts."""
    from gpubench import calibration, table
    from gpubench import compare as comparison

    frame = table.load(arguments.results)
    floor, said = calibration.floor_for(frame, arguments.min_effect)
    found = comparison.compare(frame, arguments.by, arguments.baseline, floor)
    print(comparison.text(found, arguments.format), end="")
    for line in (*comparison.conclusions(found), said):
        print(line, file=sys.stderr)
    if comparison.at_other_times(frame, arguments.by):
        print(comparison.WEAKER_DESIGN, file=sys.stderr)
    failed = any(row["verdict"] == arguments.fail_on for row in found)
    return errors.EXIT_CONDITION_MET if failed else errors.EXIT_DONE


def add_ab(sub: argparse.ArgumentParser) -> None:
    """Flags of ``ab``."""
    sub.add_argument("a", metavar="A", help="the baseline: an environment, a commit or a file")
    sub.add_argument("b", metavar="B", help="what is judged against it, of the same kind")
    sub.add_argument("--suite", metavar="NAME|FILE.toml", help="default: quick; a file's own cases")
    sub.add_argument("--device", default="auto", metavar="NAME", help="as of `gpubench run`")
    for flag in ("--only", "--skip"):
        sub.add_argument(
            flag, action="append", default=[], metavar="GLOB", help="cases or workloads"
        )
    sub.add_argument(
        "--trials", type=pairs, default=12, metavar="N", help="pairs of rounds; default: 12"
    )
    sub.add_argument("--budget", type=time_span, metavar="TIME", help="at most, as 90s or 10m")
    add_min_effect(sub)
    sub.add_argument("--fail-on", choices=("slower",), help="exit 1 if any verdict is this")
    sub.add_argument("-o", "--output", default="results", metavar="DIR", help="default: results")
    add_format(sub)


def ab(arguments: argparse.Namespace) -> int:
    """Measure two sides in turn and print the verdicts."""
    from gpubench.ab import Request, opened

    request = Request(
        given=(arguments.a, arguments.b),
        suite=arguments.suite,
        device=arguments.device,
        only=arguments.only,
        skip=arguments.skip,
        pairs=arguments.trials,
        budget_s=arguments.budget,
        output=arguments.output,
    )
    rows: list[dict[str, Any]] = []
    with opened(request) as interleaved:
        try:
            follow_rounds(interleaved)
        except KeyboardInterrupt:
            kept = "what is whole is kept" if interleaved.pairs_done else "nothing was measured"
            print(f"gpubench: interrupted; {kept}", file=sys.stderr)
            return errors.EXIT_INTERRUPTED
        finally:
            if interleaved.pairs_done:
                rows = print_pairs(interleaved, arguments.min_effect, arguments.format)
    if any(row["verdict"] == arguments.fail_on for row in rows):
        return errors.EXIT_CONDITION_MET
    return errors.EXIT_CASE_FAILED if interleaved.failures else errors.EXIT_DONE


def follow_rounds(interleaved: Interleaved) -> None:
    """Run it, saying what runs now: one live line on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.text import Text

    from gpubench import render

    console = Console(stderr=True, highlight=False)
    with console.status("", refresh_per_second=2) as status:
        for event in interleaved:
            left = "" if event.left_s is None else f", about {render.duration(event.left_s)} left"
            pair = f"pair {event.pair} of {interleaved.request.pairs}{left}"
            line = f"[{pair}] {render.clean(event.side.label)}"
            if console.is_terminal:
                status.update(Text(line))
            else:
                print(line, file=sys.stderr, flush=True)


def print_pairs(
    interleaved: Interleaved, min_effect: float | None, form: str
) -> list[dict[str, Any]]:
    """The verdicts of the pairs that are whole, what failed, and where all is kept."""
    from gpubench import ab as pairing
    from gpubench import compare as comparison
    from gpubench import render

    rows, floor = pairing.verdicts(interleaved, min_effect)
    print(comparison.text(rows, form), end="")
    usual = comparison.next_step(rows)
    steps = [line for line in comparison.conclusions(rows) if line != usual]
    done, wanted = interleaved.pairs_done, interleaved.request.pairs
    steps += [floor, *filter(None, [pairing.next_step(interleaved, rows)])]
    steps += sorted({row["detail"] for row in rows if row["reason"] == "differs"})
    steps += pairing.failed(interleaved)
    steps += [f"{done} of {wanted} pairs were measured"] if done < wanted else []
    for line in steps:
        print(render.clean(line), file=sys.stderr)
    print(f"kept in {' and '.join(map(str, interleaved.paths.values()))}", file=sys.stderr)
    return rows


def pairs(text: str) -> int:
    """A whole number from 3: fewer pairs say nothing about the spread between them."""
    if not text.isdigit() or int(text) < 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 3")
    return int(text)


def add_calibrate(sub: argparse.ArgumentParser) -> None:
    """Flags of ``calibrate``."""
    sub.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="runs of one build on this machine; without any, they are measured now",
    )
    sub.add_argument("--suite", default="quick", metavar="NAME|FILE.toml", help="default: quick")
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda:0 or virtual:CARD"
    )
    sub.add_argument(
        "--trials", type=positive, default=10, metavar="N", help="processes to measure; default: 10"
    )
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR|FILE", help="default: results"
    )
    add_format(sub)


def calibrate(arguments: argparse.Namespace) -> int:
    """Learn this machine's own noise, from given runs or from new ones."""
    from gpubench import calibration, console, table
    from gpubench.run import Execution, Request
    from gpubench.suite import load_suite

    results, failed = arguments.results, False
    if not results:
        if arguments.trials < calibration.LEAST_TRIALS:
            raise errors.UsageError(
                f"--trials {arguments.trials} is too few to learn from",
                f"give {calibration.LEAST_TRIALS} or more; 10 take twice as long as 5 and say more",
            )
        suite = load_suite(arguments.suite)
        request = Request(suite, arguments.device, arguments.trials)
        execution = Execution(request, arguments.output)
        console.follow(execution)
        results, failed = [str(execution.path)], bool(execution.failures)
    learnt = calibration.learn(table.load(results))
    print(calibration.text(learnt, arguments.format), end="")
    print(f"kept in {calibration.keep(learnt)}", file=sys.stderr)
    return errors.EXIT_CASE_FAILED if failed else errors.EXIT_DONE


def share(text: str) -> float:
    """``1%`` or ``1`` → 0.01."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage such as 1%")
    return value


def add_history(sub: argparse.ArgumentParser) -> None:
    """Flags of ``history``."""
    add_results(sub)
    sub.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="cases or workloads"
    )
    add_min_effect(sub)
    sub.add_argument("--html", metavar="FILE", help="write the page with the figure too")
    sub.add_argument(
        "--fail-on", choices=("slower",), help="exit 1 if the last change of any case is this"
    )
    add_format(sub)


def history(arguments: argparse.Namespace) -> int:
    """Print where the results of a machine changed."""
    from gpubench import calibration, table
    from gpubench import history as past

    frame = past.choose(table.load(arguments.results), arguments.only)
    floor, said = calibration.floor_for(frame, arguments.min_effect)
    found = past.histories(frame, floor)
    print(past.text(found, arguments.format), end="")
    for line in (*past.conclusions(found, frame), said):
        print(line, file=sys.stderr)
    if arguments.html:
        from gpubench.report import write_history

        print(f"page: {write_history(frame, found, arguments.html)}", file=sys.stderr)
    latest = [row["verdict"] for row in past.rows(found) if row["latest"]]
    failed = arguments.fail_on in latest
    return errors.EXIT_CONDITION_MET if failed else errors.EXIT_DONE


def add_report(sub: argparse.ArgumentParser) -> None:
    """Flags of ``report``."""
    add_results(sub)
    sub.add_argument(
        "-o",
        "--output",
        default="reports/index.html",
        metavar="FILE",
        help="default: reports/index.html",
    )


def report(arguments: argparse.Namespace) -> int:
    """Write the HTML report."""
    from gpubench.report import write_report
    from gpubench.table import load

    print(f"reading {len(arguments.results)} result argument(s) …", file=sys.stderr)
    path = write_report(load(arguments.results), arguments.output)
    print(path)
    return errors.EXIT_DONE


def add_validate(sub: argparse.ArgumentParser) -> None:
    """Flags of ``validate``."""
    add_results(sub)
    add_format(sub)


def validate(arguments: argparse.Namespace) -> int:
    """Check result files one by one; exit 2 if one is not readable."""
    from gpubench import render, store

    found = [store.examine(path) for path in store.expand(arguments.results)]
    columns = (
        render.Column("file", "file"),
        render.Column("valid", "valid", lambda valid: "yes" if valid else "NO"),
        render.Column("rows", "rows", right=True),
        render.Column("problem", "problem"),
    )
    print(render.rows(found, columns, arguments.format, "validation"), end="")
    return errors.EXIT_DONE if all(row["valid"] for row in found) else errors.EXIT_USAGE


# export, import -------------------------------------------------------------------------------


def add_export(sub: argparse.ArgumentParser) -> None:
    """Flags of ``export``."""
    add_results(sub)
    sub.add_argument("--to", required=True, choices=EXCHANGE, help="what to make of them")
    sub.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


def export(arguments: argparse.Namespace) -> int:
    """Print results in another tool's format, or write them to a file."""
    from pathlib import Path

    from gpubench import exchange

    text = exchange.export(arguments.results, arguments.to)
    if arguments.output is None:
        print(text, end="")
        return errors.EXIT_DONE
    try:
        Path(arguments.output).write_text(text, encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.CannotWrite(f"{arguments.output}: {reason}", "choose another -o") from error
    print(arguments.output)
    return errors.EXIT_DONE


def add_import(sub: argparse.ArgumentParser) -> None:
    """Flags of ``import``."""
    sub.add_argument("file", metavar="FILE.json", help="what pytest-benchmark or `export` wrote")
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR|FILE", help="default: results"
    )


def import_(arguments: argparse.Namespace) -> int:
    """Make a result file of a pytest-benchmark file."""
    from gpubench.exchange import import_file

    print(import_file(arguments.file, arguments.output))
    return errors.EXIT_DONE


VERBS: dict[
    str,
    tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str],
] = {
    "devices": (devices, add_devices, "what is here, and which card of the catalogue it is"),
    "list": (list_, add_list, "what there is: workloads, suites, cards, profiles or figures"),
    "run": (run, add_run, "measure a suite and keep the results"),
    "show": (show, add_show, "result files as one readable table"),
    "compare": (compare, add_compare, "which is faster, and is that real"),
    "ab": (ab, add_ab, "two environments, commits or files in turn: which is faster"),
    "calibrate": (calibrate, add_calibrate, "learn this machine's own noise, for its verdicts"),
    "history": (history, add_history, "where the results of a machine changed over its runs"),
    "report": (report, add_report, "one HTML page of results, offline"),
    "validate": (validate, add_validate, "check that result files are whole and well-formed"),
    "export": (export, add_export, "results for pytest-benchmark, or every sample as CSV"),
    "import": (import_, add_import, "a result file from pytest-benchmark's JSON"),
}
