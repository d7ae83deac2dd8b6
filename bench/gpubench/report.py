"""One HTML page of results: offline, self-contained, the same bytes for the same input.

The tables say everything, also without JavaScript. The figures are the files in ``figures/``, each
of which defines ``TITLE``, ``ORDER``, ``CAPTION`` (how to read it, and what it does not say) and
``figure(frame)``, which returns a plotly figure or None where there is nothing to show. A figure
may tell the page more in its layout's ``meta``: see ``figures/_panels.py``.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from gpubench import calibration, compare, history, page, plugins, render, scoreboard, table
from gpubench.errors import CannotWrite, UsageError
from gpubench.history import History
from gpubench.names import case_labels, natural
from gpubench.page import Section, escape
from gpubench.profile import DEFAULT, PROFILE, Profile, load_profile
from gpubench.record import FAILURES
from gpubench.render import Column
from gpubench.series import Series, card_label, good, records, series_of

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "unconverged": "sampling ran out of time before the interval was as narrow as asked for",
        "unsettled": "the times still moved when the warm-up ended; early samples may be slow",
        "short": "a sample is so short that the timer's own cost counts",
        "launch_bound": "the host took nearly as long to enqueue the work as the device to do it",
        "drift": "the times moved from the first samples to the last",
        "bimodal": "the samples fall into two groups; the median may jump between them",
        "stolen": "a hypervisor gave part of the processor to other machines",
        "above_peak": "the rate is beyond what the card can do: the declared work, the clock or "
        "the catalogue is wrong",
        "throttled_power": "the driver held the clocks down at the power limit",
        "throttled_thermal": "the driver held the clocks down because the card was hot",
        "clocks_moving": "the clocks changed during the samples",
        "other_processes": "other processes used the device at the same time",
    }
)
ORIGINS: Mapping[str, str] = MappingProxyType(
    {
        "virtual": "made by a simulated card: they show what the tool does, never what a card does",
        "modelled": "computed by a model from other cards' results, not measured",
        "published": "taken from others' publications, whose software differs",
    }
)
# Facts of an environment: column, heading, and how it is shown.
ENVIRONMENT: tuple[Column, ...] = (
    Column("architecture", "architecture"),
    Column("compute_capability", "compute capability"),
    Column("memory_bytes", "memory", render.gibibytes),
    Column("power_limit_w", "power limit", lambda watts: f"{watts:g} W"),
    Column("driver", "driver"),
    Column("cuda", "CUDA"),
    Column("cudnn", "cuDNN"),
    Column("torch", "torch"),
    Column("cupy", "CuPy"),
    Column("python", "Python"),
    Column("os", "operating system"),
    Column("cpu", "processor"),
    Column("threads", "threads", lambda threads: f"{threads:g}"),
    Column("gpubench_version", "gpubench"),
    Column("commit", "commit", lambda commit: str(commit)[:10]),
    Column("dirty", "uncommitted changes", lambda dirty: "yes" if dirty else "no"),
)
ORIGIN = Column("provenance", "origin")
FAILED = (
    Column("card", "card"),
    Column("case_id", "case"),
    Column("status", "outcome"),
    Column("trials", "in trials"),
    Column("reason", "reason"),
    ORIGIN,
)


def write_report(frame: pd.DataFrame, output: str, profile: Profile | None = None) -> Path:
    """Write the page for the rows that `table.load` gave; an older one is replaced as a whole.

    ``profile`` is what its selection score weighs; by default the balanced one.

    Raises:
        CannotWrite: the folder or the file can't be written.
        UsageError: a figure of the user's breaks the contract or fails.
    """
    return _write(render_report(frame, profile), output)


def write_history(frame: pd.DataFrame, found: Sequence[History], output: str) -> Path:
    """Write the page of the histories that `history.histories` found in the frame.

    Raises:
        CannotWrite: the folder or the file can't be written.
    """
    return _write(render_history(frame, found), output)


def _write(text: str, output: str) -> Path:
    path = Path(output)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = True
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        if made:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        remedy = "free some space or choose another file with -o"
        if plugins.is_folder(path):
            remedy = f"name a file in that folder: {path / 'index.html'}"
        raise CannotWrite(f"{path} can't be written: {error.strerror or error}", remedy) from error
    return path


def render_report(frame: pd.DataFrame, profile: Profile | None = None) -> str:
    """The whole page as text."""
    scored = profile or load_profile(DEFAULT)
    frame.attrs[PROFILE] = scored  # for the figures, which are given the frame alone
    series = series_of(frame)
    figures = page.draw_figures(frame)
    sections = [
        Section("summary", "In short", _summary(series) + _not_drawn(figures)),
        Section("score", "Selection score", _score(frame, scored)),
        *(
            Section(f"figure-{figure.name}", figure.title, page.figure_body(figure))
            for figure in figures
        ),
        Section("comparison", "Comparison", _comparison(frame)),
        Section("problems", "What did not work", _problems(series)),
        Section("flags", "Flags", _flags(series)),
        Section("environments", "Cards and environments", _environments(frame)),
        Section("results", "All results", _results(series)),
    ]
    return page.assemble(
        sections if series else sections[:1],
        figures if series else [],
        title=escape(_title(series)),
        lead=escape(_lead(series)),
        facts=_facts(frame),
        banner=_banner(frame),
    )


def render_history(frame: pd.DataFrame, found: Sequence[History]) -> str:
    """The page of a history as text: where the level of a case changed, and what else did."""
    drawer = plugins.module("figures", "history")
    figure = page.place(drawer, drawer.draw(found))
    changes = history.with_text(found)
    lines = [f"<p>{page.code(line)}</p>" for line in history.conclusions(found, frame)]
    dropped = "architecture" if len({row["card"] for row in changes}) > 1 else "architecture card"
    columns = [column for column in history.columns(changes) if column.key not in dropped.split()]
    cards = dict.fromkeys(card_label(one.case["card"], one.case["provenance"]) for one in found)
    return page.assemble(
        [
            Section("summary", "In short", "\n".join(lines)),
            Section(f"figure-{figure.name}", figure.title, page.figure_body(figure)),
            Section("changes", "Changes", page.rows_table(changes, columns) if changes else ""),
            Section("environments", "Cards and environments", _environments(frame)),
        ],
        [figure],
        title=escape(f"History of {', '.join(cards) or 'no results'}"),
        lead="Where a case became faster or slower from one run to the next, and stayed so, and "
        "what else is known to have changed at that run.",
        facts=_facts(frame),
        banner=_banner(frame),
    )


# head ------------------------------------------------------------------------------------------


def _title(series: Sequence[Series]) -> str:
    """The cards by name, as far as a title can hold them."""
    cards = list(dict.fromkeys(one.card for one in series))
    more = f" and {len(cards) - 3} more" if len(cards) > 3 else ""
    return ", ".join(cards[:3]) + more if cards else "No results"


def _lead(series: Sequence[Series]) -> str:
    cases = len({(row["case_id"], row["cache"]) for one in series for row in one.rows})
    cards = len({one.card for one in series})
    return (
        f"What {render.count(cards, 'card')} did in {render.count(cases, 'case')}: how fast, how "
        "surely, and what did not work. Every number comes from the result files and is listed, "
        "with where and how it was measured, in the tables below."
    )


def _facts(frame: pd.DataFrame) -> str:
    files = list(dict.fromkeys(map(str, frame["file"])))
    counts = (render.count(frame["run_id"].nunique(), "run"), render.count(len(frame), "row"))
    facts = escape(" · ".join([*counts, f"as of {_as_of(frame)}"]))
    return f"{facts} · {page.folded(files, 'file')}"


def _as_of(frame: pd.DataFrame) -> str:
    """The newest row's time rather than the clock's, so that a page can be made again.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is set and no time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        return _moment(frame["started_at"].max() if len(frame) else None)
    try:
        return _moment(datetime.fromtimestamp(int(epoch), UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH={epoch!r} is no time", "give whole seconds since 1970, or unset it"
        ) from error


def _moment(time: Any) -> str:
    return render.UNKNOWN if pd.isna(time) else f"{time:%Y-%m-%d %H:%M} UTC"


def _banner(frame: pd.DataFrame) -> str:
    """A warning as soon as one row was not measured."""
    origins = Counter(
        "of unknown origin" if render.missing(x) else str(x) for x in frame["provenance"]
    )
    lines = [
        f"<strong>{number} of {render.count(len(frame), 'row')} {'is' if number == 1 else 'are'} "
        f"{escape(origin)}</strong>, {escape(ORIGINS.get(origin, 'and not measured'))}."
        for origin, number in sorted(origins.items())
        if origin != "measured"
    ]
    if not lines:
        return ""
    text = " ".join([*lines, "They are hatched or open in figures, and labelled in tables."])
    return f'<p class="banner" role="alert">{text}</p>'


# summary ---------------------------------------------------------------------------------------


def _summary(series: Sequence[Series]) -> str:
    if not series:
        return "<p>The files hold no rows: the run ended before its first case.</p>"
    return f'<div class="tiles">\n{"".join(map(_tile, series))}</div>'


def _not_drawn(figures: Sequence[page.Figure]) -> str:
    """Which figures are left out, so that nobody looks for them."""
    titles = [figure.title for figure in figures if figure.data is None]
    if not titles:
        return ""
    text = f"Not drawn, since no result here has what they show: {', '.join(titles)}."
    return f'\n<p class="note">{escape(text)}</p>'


def _tile(one: Series) -> str:
    """One series in plain words: what worked, how often, and its highest rates."""
    kinds = _kinds(one)
    parts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("ok", "failed", "unsupported"))
    flagged = sum(1 for row in one.rows if row["flags"])
    doubts = f" {render.count(flagged, 'result')} with flags." if flagged else ""
    best = "".join(
        f"<dt>{escape(table.show_throughput(row))}{'' if _bounded(row) else ' ±?'}</dt>"
        f"<dd>{escape(text)}</dd>"
        for text, row in _highlights(one)
    )
    return (
        f'<article class="tile{" simulated" if one.simulated else ""}" '
        f'style="--series: {one.color}">\n'
        f"<h3>{escape(one.label)}</h3>\n<p>{page.badge(one.provenance)}</p>\n"
        f"<p>{render.count(kinds.total(), 'case')}: {escape(parts)}.{doubts}</p>\n"
        f"<p>{escape(_trials(one))}</p>\n{f'<dl>{best}</dl>' if best else ''}\n</article>\n"
    )


def _kinds(one: Series) -> Counter[str]:
    """How many cases worked, failed or are unsupported; of one that has several rows, the worst.

    A case that never worked is one, however many versions of its workload did not.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for row in one.rows:
        kind = "failed" if row["status"] in FAILURES else str(row["status"])
        found.setdefault((row["case_id"], row["cache"]), set()).add(kind)
    worst_first = ("failed", "ok", "unsupported")
    return Counter(min(kinds, key=worst_first.index) for kinds in found.values())


def _trials(one: Series) -> str:
    trials = sorted(row["trials"] for row in one.rows if row["trials"])
    if not trials:
        return "No case gave a result."
    if trials[-1] == 1:
        return "One trial: how much a repetition would differ is unknown."
    span = trials[0] if trials[0] == trials[-1] else f"{trials[0]} to {trials[-1]}"
    return f"{span} trials a case, each in a process of its own."


def _highlights(one: Series) -> list[tuple[str, dict[str, Any]]]:
    """The highest rate in each unit, of those whose interval is known if there is one."""
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for row in filter(good, one.rows):
        by_unit.setdefault(row["throughput_unit"], []).append(row)
    labels = case_labels(one.rows)
    found = []
    for rows in by_unit.values():
        row = max(rows, key=lambda row: (_bounded(row), row["throughput"]))
        share = row["share_of_peak"]
        of_peak = "" if share is None else f", {render.percent(share)} of the catalogue's peak"
        found.append((f"{labels[row['case_id'], row['cache']]}{of_peak}", row))
    return found


def _bounded(row: Mapping[str, Any]) -> bool:
    return row["high"] is not None


# score -----------------------------------------------------------------------------------------


def _score(frame: pd.DataFrame, profile: Profile) -> str:
    """The scores of two cards or more; nothing where there is nothing to choose from."""
    results = scoreboard.read(records(frame), profile)
    if results is None:
        return ""
    intro = (
        f"By profile {profile.name}: {profile.summary}. Each part is relative to the reference, "
        "which has 100; the score is their weighted geometric mean. A card that lacks a case of "
        "the profile has no score."
    )
    return "\n".join(
        [
            f'<p class="caption">{escape(intro)}</p>',
            *(f"<p>{page.code(line)}</p>" for line in scoreboard.conclusions(results)),
            page.rows_table(scoreboard.rows_of(results), scoreboard.COLUMNS),
        ]
    )


# comparison ------------------------------------------------------------------------------------


def _comparison(frame: pd.DataFrame) -> str:
    """Verdicts, where there are two sides, and what to type next."""
    by = "card" if len(frame["card"].unique()) > 1 else "run"
    floor, said = calibration.floor_for(frame, None)
    try:
        rows = compare.compare(frame, by, min_effect=floor)
    except UsageError as error:
        return f"<p>No verdicts: {escape(error)}.</p>"
    if not rows:
        return "<p>No verdicts: no case was run on two sides.</p>"
    # The card is the side, and each reason is spelled out.
    dropped = ("architecture", "card", "reason")
    columns = [column for column in compare.COLUMNS if column.key not in dropped]
    intro = (
        "Above 1 a side is faster than the baseline. A verdict needs the whole 95 % interval "
        "beyond a minimum effect, from several trials of both sides, and holds for these cases in "
        f"these environments. {said[0].upper()}{said[1:]}."
    )
    return "\n".join(
        [
            f'<p class="caption">{escape(intro)}</p>',
            *(f"<p>{page.code(line)}</p>" for line in compare.conclusions(rows)),
            page.rows_table(
                compare.with_text(rows),
                [*columns, Column("detail", "what it rests on"), ORIGIN],
            ),
        ]
    )


# problems --------------------------------------------------------------------------------------


def _problems(series: Sequence[Series]) -> str:
    """Failures case by case, unsupported cases by reason."""
    failed: dict[tuple[str, ...], list[int]] = {}
    lacking: dict[tuple[str, str], list[str]] = {}
    for one in series:
        labels = case_labels(one.rows)
        for row in records(one.frame):
            reason = "no reason given" if render.missing(row["reason"]) else str(row["reason"])
            if row["status"] in FAILURES:
                status = str(row["status"])
                key = (one.label, str(row["case_id"]), status, reason, one.provenance)
                failed.setdefault(key, []).append(row["trial"])
            elif row["status"] != "ok":
                label = labels[row["case_id"], row["cache"]]
                lacking.setdefault((one.label, reason), []).append(label)
    parts = []
    if failed:
        keys = ("card", "case_id", "status", "reason", "provenance")
        rows = [
            dict(zip(keys, key, strict=True)) | {"trials": ", ".join(map(str, sorted(set(trials))))}
            for key, trials in sorted(failed.items(), key=lambda item: natural(item[0][1]))
        ]
        parts += ["<h3>Failed</h3>", page.rows_table(rows, FAILED)]
    if lacking:
        lines = [
            (escape(label), escape(reason), page.folded(list(dict.fromkeys(cases)), "case"))
            for (label, reason), cases in lacking.items()
        ]
        parts += [
            "<h3>Unsupported</h3>",
            '<p class="caption">Left out: the card or its software lacks what these need.</p>',
            page.plain_table(("card", "reason", "cases"), lines),
        ]
    return "\n".join(parts) or "<p>Every case gave a result.</p>"


def _flags(series: Sequence[Series]) -> str:
    """Each flag that was raised, what it means and where."""
    raised: dict[str, list[str]] = {}
    for one in series:
        labels = case_labels(one.rows)
        for row in one.rows:
            for flag in row["flags"]:
                label = labels[row["case_id"], row["cache"]]
                raised.setdefault(flag, []).append(f"{one.label}: {label}")
    unknown = "this version of gpubench has no description of it"
    lines = [
        (escape(flag), escape(FLAGS.get(flag, unknown)), page.folded(cases, "case"))
        for flag, cases in sorted(raised.items())
    ]
    if not lines:
        return "<p>No result carries a flag.</p>"
    return page.plain_table(("flag", "what it means", "raised by"), lines)


# environments and results ----------------------------------------------------------------------


def _environments(frame: pd.DataFrame) -> str:
    """A column per environment and a line per fact: there are more facts than environments."""
    keys = ["card", "provenance", *(column.key for column in ENVIRONMENT)]
    facts = list(
        frame[keys].map(lambda x: "" if render.missing(x) else str(x)).itertuples(index=False)
    )
    parts = [frame[[own == wanted for own in facts]] for wanted in dict.fromkeys(facts)]
    firsts = [records(part.head(1))[0] for part in parts]

    def line(heading: str, show: Callable[[pd.DataFrame], str]) -> tuple[str, ...]:
        return (heading, *(escape(show(part)) for part in parts))

    lines: list[tuple[str, ...]] = [
        ("origin", *(page.badge(str(first["provenance"])) for first in firsts)),
        *(
            (column.heading, *(escape(render.text_of(column, first)) for first in firsts))
            for column in ENVIRONMENT
        ),
        line("runs", lambda part: str(part["run_id"].nunique())),
        line("rows", lambda part: str(len(part))),
        line("first case", lambda part: _moment(part["started_at"].min())),
        line("last case", lambda part: _moment(part["started_at"].max())),
    ]
    cards = [render.text_of(Column("card", "card"), first) for first in firsts]
    return page.plain_table(("", *cards), lines)


def _results(series: Sequence[Series]) -> str:
    """Every case of every series."""
    rows = [row | {"conditions": one.conditions} for one in series for row in one.rows]
    columns = list(table.COLUMNS)
    if any(one.conditions for one in series):
        columns.insert(2, Column("conditions", "with"))
    intro = (
        "Medians over the trials of a case. The 95 % interval is between trials where there are "
        "several, else within the one; ±? where there are too few samples to say. "
        f"{render.UNKNOWN} is unknown."
    )
    rows_table = page.rows_table(table.with_text(rows), [*columns, ORIGIN])
    return f'<p class="caption">{intro}</p>\n{rows_table}'
