"""Progress and results of a run, for people at a terminal and for logs.

Progress goes to standard error: a live line on a terminal, one plain line per case elsewhere.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from gpubench import render, stats
from gpubench.record import Record
from gpubench.run import Execution, Finished, Plan, Request, Started

if TYPE_CHECKING:
    from gpubench.ab import Interleaved

# The display must not take time from what is measured beside it.
REFRESHES_PER_S = 2
# Forecasts are rough: a case is late when it has taken this many times what was expected of it.
LATE = 2.0
LEAST_WAIT_S = 1.0


def follow(execution: Execution, notice: str | None = None) -> None:
    """Run it, showing what runs now, the last result, and the time left.

    ``notice`` is said before the first case, unless there is none: a refusal stands alone.
    """
    print(f"opening {execution.device} …", file=sys.stderr, flush=True)
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        _follow_live(_announced(execution, notice), console)
    else:
        _follow_plainly(_announced(execution, notice))


def _announced(
    events: Iterable[Started | Finished], notice: str | None
) -> Iterator[Started | Finished]:
    for place, event in enumerate(events):
        if place == 0 and notice:
            print(notice, file=sys.stderr, flush=True)
        yield event


def _follow_plainly(events: Iterable[Started | Finished]) -> None:
    place, last = "", False
    for event in events:
        if isinstance(event, Started):
            place, last = f"{event.position}/{event.total}", event.position == event.total
        else:
            left = "nothing left" if last else f"about {render.duration(event.left_s)} left"
            print(f"[{place}, {left}] {describe(event.record)}", file=sys.stderr, flush=True)


def time_left(event: Started, waited_s: float) -> str:
    """What is left of a run whose case has been running for so long, in words."""
    rest_s = max(0.0, event.left_s - event.case_s)
    if waited_s > LATE * max(event.case_s, LEAST_WAIT_S):
        return f"longer than planned, then about {render.duration(rest_s)}"
    return f"about {render.duration(max(rest_s, event.left_s - waited_s))} left"


class TimeLeft(ProgressColumn):
    """Counts down while a case runs, and says when it takes longer than planned."""

    def __init__(self) -> None:
        """In one line, as rich's other columns of text."""
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The words for now."""
        event = task.fields["event"]
        return Text(time_left(event, time.monotonic() - task.fields["since"]) if event else "")


def _follow_live(events: Iterable[Started | Finished], console: Console) -> None:
    progress = Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeLeft(),
        TextColumn("{task.description}", markup=False),
        console=console,
        refresh_per_second=REFRESHES_PER_S,
        transient=True,
    )
    with progress:
        task = progress.add_task("starting", total=None, event=None, since=0.0)
        for event in events:
            if isinstance(event, Started):
                progress.update(
                    task,
                    description=event.case.id,
                    total=event.total,
                    completed=event.position - 1,
                    event=event,
                    since=time.monotonic(),
                )
            else:
                progress.console.print(describe(event.record), markup=False, soft_wrap=True)


def describe(record: Record) -> str:
    """One line for one row: ``gemm:…  1.23 ms ±0.4 %  unconverged``."""
    name = render.clean(record.case_id) + (f" trial {record.trial}" if record.trial > 1 else "")
    if not record.samples_s:
        return f"{name}  {record.status}: {render.clean(record.reason)}"
    interval = stats.sample_interval(record.samples_s)
    flags = "  " + " ".join(record.flags) if record.flags else ""
    spread = render.plus_minus(interval.half_width)
    return f"{name}  {render.seconds(interval.estimate)} {spread}{flags}"


def print_plan(request: Request, plan: Plan, form: str) -> None:
    """What ``--dry-run`` shows."""
    rows = [
        {
            "case_id": case.id,
            "cache": case.cache,
            "expected_step_s": forecast.step_s,
            "expected_s": plan.case_s(forecast) or None,
            "left_out": forecast.left_out,
        }
        for case, forecast in plan.forecasts
    ]
    columns = (
        render.Column("case_id", "case"),
        render.Column("cache", "cache"),
        render.Column("expected_s", "takes about", render.seconds, right=True),
        render.Column("left_out", "left out"),
    )
    print(render.rows(rows, columns, form, "plan"), end="")
    kept = sum(1 for row in rows if not row["left_out"])
    trials = f"{request.trials} trials of " if request.trials > 1 else ""
    whole = render.duration(plan.seconds * request.trials)
    print(
        f"{trials}{kept} cases on {plan.environment['card']}, about {whole}; "
        f"{len(rows) - kept} left out",
        file=sys.stderr,
    )
    if kept and plan.environment["provenance"] == "measured":  # a simulated card prepares nothing
        print(
            "some may turn out unsupported when they are prepared, and take no time then",
            file=sys.stderr,
        )


def print_result(execution: Execution, form: str) -> None:
    """The table of a finished or interrupted run, its failures, and where it is kept."""
    from gpubench import table

    rows = table.as_rows(table.summary(table.load([str(execution.path)])))
    print(table.text(rows, form, without=["unsupported"]), end="")
    for row in rows:
        if row["reason"] and row["status"] != "unsupported":
            print(f"{render.clean(row['case_id'])}: {render.clean(row['reason'])}", file=sys.stderr)
    unsupported = sum(row["status"] == "unsupported" for row in rows)
    if unsupported:
        print(f"{unsupported} cases not supported here; `gpubench show` says why", file=sys.stderr)
    for line in table.within_one_trial(rows) if form == "table" else []:
        print(line, file=sys.stderr)
    measured = [row for row in rows if row["status"] == "ok"]
    busy = sum("other_processes" in row["flags"] for row in measured)
    if 2 * busy > len(measured):
        print(
            f"this machine was busy with other things in {busy} of {len(measured)} cases: "
            "measure again when it is quiet",
            file=sys.stderr,
        )
    print(f"kept in {execution.path}", file=sys.stderr)


def follow_rounds(interleaved: "Interleaved") -> None:
    """Run it, saying what runs now: one live line on a terminal, plain lines elsewhere."""
    console = Console(stderr=True, highlight=False)
    with console.status("", refresh_per_second=REFRESHES_PER_S) as status:
        for event in interleaved:
            left = "" if event.left_s is None else f", about {render.duration(event.left_s)} left"
            pair = f"pair {event.pair} of {interleaved.request.pairs}{left}"
            line = f"[{pair}] {render.clean(event.side.label)}"
            if console.is_terminal:
                status.update(Text(line))
            else:
                print(line, file=sys.stderr, flush=True)


def print_pairs(
    interleaved: "Interleaved", min_effect: float | None, form: str
) -> list[dict[str, Any]]:
    """The verdicts of the pairs that are whole, what failed, and where all is kept."""
    from gpubench import ab, compare

    rows, floor = ab.verdicts(interleaved, min_effect)
    print(compare.text(rows, form), end="")
    usual = compare.next_step(rows)
    steps = [line for line in compare.conclusions(rows) if line != usual]
    done, wanted = interleaved.pairs_done, interleaved.request.pairs
    steps += [floor, *filter(None, [ab.next_step(interleaved, rows)])]
    steps += sorted({row["detail"] for row in rows if row["reason"] == "differs"})
    steps += ab.failed(interleaved)
    steps += [f"{done} of {wanted} pairs were measured"] if done < wanted else []
    for line in steps:
        print(render.clean(line), file=sys.stderr)
    print(f"kept in {' and '.join(map(str, interleaved.paths.values()))}", file=sys.stderr)
    return rows
