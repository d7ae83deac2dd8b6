"""How a recommendation is said: a sentence, a table, who is left out, what would change it."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpubench import render, scaling
from gpubench.cards import GIB, catalogue
from gpubench.estimate import Estimate, geometric_mean
from gpubench.job import Job
from gpubench.profile import PARTS
from gpubench.recommend import JOB, OLDER, REFERENCE_HOURS, Answer, Option, Way
from gpubench.render import Column
from gpubench.score import Score
from gpubench.sensitivity import Change

DAY = 86400.0
#: a job that fills more than this of the usable memory has no room for the model's error
TIGHT = 0.9
NAMED = 3
TODAY = " (--prices FILE gives today's)"
SHARDING = "data parallel, each holds the whole job; sharding (FSDP, ZeRO-3) isn't modelled"
#: columns of prose where there is no terminal, and where one is narrower than can be read
WIDTH = 100
LEAST_WIDTH = 40
#: of an encoder, which has a choice
HEADS = {"classes": "a head of two classes", "lm": "a masked-language head"}
KINDS = {
    "memory": "too little memory",
    "precision": "a precision not in hardware",
    "price": "over the price limit, or without a known price",
    "case": "a case without a number",
}


# rows ------------------------------------------------------------------------------------------


def rows(answer: Answer, top: int | None = None) -> list[dict[str, Any]]:
    """A row for every card, the ranked ones first; units are in the keys.

    ``top`` keeps that many of the ranked ones and nobody else, for a table.
    """
    ranking = answer.ranking
    good = {one.name for one in ranking.as_good}
    ranked = [
        _row(answer, one, "winner" if one is ranking.scored[0] else "ranked")
        | {"as_good_as_winner": one.name in good}
        for one in ranking.scored[:top]
    ]
    if top is not None:
        return ranked
    apart = [_row(answer, one, "apart") for one in ranking.apart]
    barred = [
        _facts(answer, answer.options[candidate.name])
        | {
            "standing": "excluded",
            "reasons": [bar.reason for bar in bars],
            "reason_kinds": [bar.kind for bar in bars],
        }
        for candidate, bars in ranking.barred
    ]
    return [*ranked, *apart, *barred]


def _row(answer: Answer, one: Score, standing: str) -> dict[str, Any]:
    option = answer.options[one.name]
    total = _total(one)
    rank: dict[str, Any] = {"standing": standing, "score": total.value}
    rank |= {"score_low": total.low, "score_high": total.high}
    if standing != "apart":  # whose score is made of other parts
        ratio = total / _total(answer.ranking.scored[0])
        rank |= {
            "of_winner": ratio.value,
            "of_winner_low": ratio.low,
            "of_winner_high": ratio.high,
        }
    parts = {part: one.parts[part].value if part in one.parts else None for part in PARTS}
    return _facts(answer, option) | rank | parts | _costs(answer, option)


def _facts(answer: Answer, option: Option) -> dict[str, Any]:
    """What is known of a card, ranked or not, with every key that a ranked one fills."""
    card, price = option.card, option.price
    cases = len(answer.question.cases)
    return {
        "card_id": card.card_id,
        "card": label(card.card_id),
        "architecture": card.architecture,
        "count": answer.question.count,
        **dict.fromkeys(("standing", "score", "score_low", "score_high", "as_good_as_winner")),
        **dict.fromkeys(("of_winner", "of_winner_low", "of_winner_high", *PARTS)),
        "memory_needed_bytes": answer.needs.memory_bytes,
        "memory_usable_bytes": card.usable_bytes,
        "power_w": option.watts,
        "price_usd": price.usd if price else None,
        "price_date": price.date if price else None,
        "price_kind": price.kind if price else None,
        **dict.fromkeys(("tokens_per_day", "tokens_per_day_low", "tokens_per_day_high")),
        **dict.fromkeys(("steps_per_day", "job_hours", "job_hours_low", "job_hours_high")),
        **dict.fromkeys(("electricity_usd", "job_cost_usd", "largest_batch")),
        "pareto": [],
        "provenance": _provenance(option.measured, cases),
        "measured_cases": option.measured,
        "cases": cases,
        "notes": list(option.notes),
        "reasons": [],
        "reason_kinds": [],
    }


def _costs(answer: Answer, option: Option) -> dict[str, Any]:
    question, hours = answer.question, option.hours
    if hours is None:
        return {}
    found: dict[str, Any] = {
        "job_hours": hours.value,
        "job_hours_low": hours.low,
        "job_hours_high": hours.high,
        "electricity_usd": option.electricity_usd,
        "job_cost_usd": option.cost_usd,
        "pareto": [
            *(["price"] if option.card.card_id in answer.cheap else []),
            *(["power"] if option.card.card_id in answer.frugal else []),
        ],
    }
    if question.job:
        rate = option.candidate.rates[JOB]
        tokens = question.job.tokens * DAY
        found |= {
            "steps_per_day": rate.value * DAY / question.count,  # in each all cards take part
            "tokens_per_day": rate.value * tokens,
            "tokens_per_day_low": rate.low * tokens,
            "tokens_per_day_high": rate.high * tokens,
            "largest_batch": question.job.largest_batch(option.card.usable_bytes),
            "notes": [*option.notes, *_tight(answer, option)],
        }
    return found


def _tight(answer: Answer, option: Option) -> list[str]:
    left = option.card.usable_bytes - answer.needs.memory_bytes
    if answer.needs.memory_bytes <= TIGHT * option.card.usable_bytes:
        return []
    return [f"tight: {left / GIB:.1f} GiB left"]


def _provenance(measured: int, cases: int) -> str:
    """Where a card's numbers come from."""
    if not measured:
        return "modelled"
    return "measured" if measured == cases else f"{measured} of {cases} measured, else modelled"


def label(card_id: str) -> str:
    """A card as people call it, with its memory where that alone tells two apart."""
    card = catalogue()[card_id]
    name = render.clean(card.name).removeprefix("NVIDIA ")
    twins = [other for other in catalogue().values() if other.name == card.name]
    return f"{name} {card.memory_bytes / GIB:.0f} GB" if len(twins) > 1 else name


# table -----------------------------------------------------------------------------------------


def tables(answer: Answer, top: int, form: str) -> str:
    """Two tables of the best, narrow enough for a terminal: how good, and what it takes."""
    found = rows(answer, top)
    if not found:
        return ""
    shown = with_text(found, tied=_tied(answer))
    kinds = {
        "launch" if row["price_kind"] == "launch" else "given" for row in found if row["price_kind"]
    }
    price = f"{min(kinds)} price" if len(kinds) == 1 else "price"
    memory = "usable each" if answer.question.count > 1 else "usable"
    headings = {"price_text": price, "memory_text": memory}
    # 120 columns: tokens a day, or prices that each say their kind, leave no room for the ratio
    left_out = {"tokens_per_day"} if answer.question.job is None else {"ratio_text"}
    left_out |= {"ratio_text"} if len(kinds) > 1 else set()
    taken = [
        replace(column, heading=headings.get(column.key, column.heading))
        for column in TAKES
        if column.key not in left_out
    ]
    both = (render.rows(shown, columns, form, "") for columns in (SCORES, taken))
    return "\n".join(both)


def remarks(answer: Answer, top: int) -> list[str]:
    """What is to be said of single rows of the table, which has no room for it."""
    shown = rows(answer, top)
    said: dict[str, list[str]] = {}
    for row in shown:
        origin = [row["provenance"]] if row["provenance"] != shown[0]["provenance"] else []
        for note in (*row["notes"], *origin):
            said.setdefault(note, []).append(row["card"])
    lines = [f"{', '.join(cards)}: {note}." for note, cards in said.items()]
    lines.extend(_front(answer))
    if hidden := len(answer.ranking.scored) - len(shown):
        lines.append(f"{hidden} more with --top {len(answer.ranking.scored)}.")
    if any(_electricity_alone(row) for row in shown):
        lines.append("* electricity alone: the price is not known.")
    return lines


def _front(answer: Answer) -> Iterator[str]:
    """What the column of that name means, and who shapes it without a row of its own."""
    if not answer.ranking.scored:
        return
    apart = len(answer.ranking.apart)
    beside = (
        f"; the {render.count(apart, 'card')} set apart, without a price, count for power alone"
        if apart
        else ""
    )
    yield (
        "front: no other card that passes is as fast for less money (price), for fewer watts "
        f"(power), or for either (both){beside}."
    )


def _electricity_alone(row: Mapping[str, Any]) -> bool:
    return row["job_cost_usd"] is None and row["electricity_usd"] is not None


def with_text(found: Sequence[dict[str, Any]], *, tied: bool) -> list[dict[str, Any]]:
    """Rows with the cells that people read; the mark of a tie only where there is one."""
    mixed = len({row["price_kind"] == "launch" for row in found if row["price_kind"]}) > 1
    mark = "≈ " if tied else "  "
    return [
        row
        | {
            "card": (mark if row["as_good_as_winner"] else "  ")
            + (f"{row['count']} × " if row["count"] > 1 else "")
            + row["card"],
            "score_text": _interval(row, "score", 0),
            "ratio_text": _interval(row, "of_winner", 2),
            "takes_text": _hours(row),
            "memory_text": f"{row['memory_usable_bytes'] / GIB:.1f} GiB",
            "price_text": price_text(row, mixed=mixed),
            "cost_text": f"{render.dollars(row['electricity_usd'])} *"
            if _electricity_alone(row)
            else render.dollars(row["job_cost_usd"]),
            "pareto_text": "both" if len(row["pareto"]) == 2 else "".join(row["pareto"]),
        }
        for row in found
    ]


def _interval(row: Mapping[str, Any], key: str, decimals: int) -> str:
    return render.interval(row[key], row[f"{key}_low"], row[f"{key}_high"], decimals)


def _hours(row: Mapping[str, Any]) -> str:
    """``10.5 h [6.2, 17.7]``; minutes below an hour."""
    ends = [row["job_hours"], row["job_hours_low"], row["job_hours_high"]]
    unit, scale = ("h", 1.0) if ends[0] >= 1 else ("min", 60.0)
    decimals = 1 if ends[0] * scale < 100 else 0
    middle, low, high = (end * scale for end in ends)
    return render.interval(middle, low, high, decimals, unit)


def _many_tokens(value: float) -> str:
    """``134 M``."""
    return render.quantity("")(value).rstrip()


def price_text(row: Mapping[str, Any], *, mixed: bool = False) -> str | None:
    """``$1,499, 2020-09``; whose price says the heading, or the cell where they are mixed."""
    if row["price_usd"] is None:
        return None
    kind = "launch" if row["price_kind"] == "launch" else "given"
    when = f"{kind} {row['price_date'] or ''}".rstrip() if mixed else row["price_date"]
    return ", ".join(filter(None, (render.dollars(row["price_usd"]), when)))


SCORES = (
    Column("card", "card"),
    Column("score_text", "score [80 %]", right=True),
    *(Column(part, part, lambda value: f"{value:.0f}", right=True) for part in PARTS),
    Column("pareto_text", "front"),
)
TAKES = (
    Column("card", "card"),
    Column("ratio_text", "of the first", right=True, spare=1),
    Column("takes_text", "takes [80 %]", right=True),
    Column("tokens_per_day", "tokens/day", _many_tokens, right=True),
    Column("memory_text", "usable", right=True, spare=2),
    Column("price_text", "price", right=True),
    Column("cost_text", "job cost", right=True),
)


# words -----------------------------------------------------------------------------------------


def text(answer: Answer, form: str, top: int, width: int = WIDTH) -> str:
    """The recommendation in one of `render.FORMATS`, its prose in lines of ``width`` columns."""
    if form == "json":
        beside: dict[str, Any] = {
            "answer": sentence(answer),
            "changes": [
                vars(change) | {"text": change_text(change, answer)} for change in answer.changes
            ],
            "ways": [way_text(way, answer) for way in answer.ways],
            "assumptions": [*_taught(answer), *assumptions(answer)],
        }
        if answer.question.job:
            beside["job"] = _of_job(answer.question.job)
        return render.rows(rows(answer), (), form, "recommendation", beside)
    if form == "csv":
        return render.rows(rows(answer), (), form, "recommendation")
    said = ["\n".join([sentence(answer), *_taught(answer)])]
    below = [
        remarks(answer, top),
        _apart(answer),
        _excluded(answer),
        _what_would_change(answer),
        assumptions(answer),
    ]
    said += ["\n".join(lines) for lines in below]
    # names of profiles, price files and cards of one's own are text from files
    plain = map(render.clean_lines, said)
    escaped = map(render.without_markup, plain) if form == "markdown" else plain
    first, *rest = (_wrapped(block, width) for block in escaped)
    blocks = [first, tables(answer, top, form), *rest]
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def _wrapped(text: str, width: int) -> str:
    """Each line in lines of that width; what goes on stands further in, as the line itself does."""
    return "\n".join(
        textwrap.fill(
            line,
            max(width, LEAST_WIDTH),
            subsequent_indent="    " if line.startswith(" ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def sentence(answer: Answer) -> str:
    """The answer, its tie, its reason, and where its numbers come from."""
    if not answer.ranking.scored:
        return " ".join(_nothing(answer))
    winner = answer.ranking.scored[0]
    option = answer.options[winner.name]
    total = _total(winner)
    several = f"{answer.question.count} × " if answer.question.count > 1 else ""
    score = f"score {render.interval(total.value, total.low, total.high)}"
    head = f"{several}{label(winner.name)} for {_subject(answer)}: {score}{_lead(answer)}."
    usable = option.card.usable_bytes / GIB
    each = " on each card" if answer.question.count > 1 else ""
    fits = (
        f"It needs {_need(answer)}; {usable:.1f} GiB are usable{each}."
        if answer.question.job
        else ""
    )
    origin = _provenance(option.measured, len(answer.question.cases))
    without = (
        f"No card that passes has a known price, so {' and '.join(winner.without)} does not count."
        if winner.without
        else ""
    )
    known = {price.kind for card in answer.options.values() if (price := card.price)}
    prices = "launch prices" if known <= {"launch"} else "those of --prices, else launch prices"
    basis = (
        f"The numbers are {origin}; prices are {prices}{TODAY if known <= {'launch'} else ''}; "
        f"a score of 100 is {_reference(answer)}."
    )
    parts = (head, _tie(answer), fits, without, basis, *_ways(answer))
    return " ".join(filter(None, parts))


def _reference(answer: Answer) -> str:
    """What is 100; its own price stays that of its launch whatever is given, so that 100 stays."""
    price = answer.question.profile.reference.launch_price_usd
    if not answer.question.prices or not price:
        return _whole_reference(answer)
    each = " each" if answer.question.count > 1 else ""
    return f"{_whole_reference(answer)} at its launch price of {render.dollars(price)}{each}"


def _whole_reference(answer: Answer) -> str:
    """As many of the reference's card as are asked about."""
    card = label(answer.question.profile.reference.card_id)
    return f"{answer.question.count} × {card}" if answer.question.count > 1 else f"the {card}"


def _taught(answer: Answer) -> list[str]:
    """What became of the result files that were given."""
    files = {row.get("file") for row in answer.question.rows}
    if not files and not answer.question.files:
        return []
    given = render.count(answer.question.files or len(files), "result file")
    if not answer.taught:
        why = (
            "processors and simulated cards don't count, nor do cards that the catalogue lacks, "
            "failed cases and rates above a card's peak"
        )
        return [f"{given}, no usable rows: {why}."]
    return [f"{given}: {answer.taught} of {render.count(len(answer.question.rows), 'row')} count."]


def _total(one: Score) -> Estimate:
    if one.total is None:
        raise ValueError(f"{one.name} has no score")
    return one.total


def _subject(answer: Answer) -> str:
    job = answer.question.job
    if job is None:
        return f"profile {render.clean(answer.question.profile.name)}"
    checkpointing = ", checkpointing" if job.checkpointing else ""
    head = "" if job.model.causal else f" with {HEADS[job.head]} (--head {job.head})"
    return (
        f"{job.method} training of {job.model.name}{head} in {job.precision}, "
        f"batch {job.batch} × {job.sequence} tokens{_step(answer)}{checkpointing}"
    )


def _step(answer: Answer) -> str:
    """That a batch is each card's, where there are several."""
    job, count = answer.question.job, answer.question.count
    return f" on each card, {job.batch * count} a step" if job and count > 1 else ""


def _lead(answer: Answer) -> str:
    """By which part the winner is ahead of the next one most."""
    if len(answer.ranking.scored) < 2:
        priced = " and has a known price" if answer.ranking.apart else ""
        return f", the only card that passes{priced}"
    first, second = answer.ranking.scored[:2]
    weights = answer.question.profile.weights
    gains = {
        part: weights[part] * (first.parts[part].log - second.parts[part].log)
        for part in PARTS
        if weights.get(part) and part in first.parts
    }
    part = max(gains, key=lambda name: gains[name])
    factor = math.exp(first.parts[part].log - second.parts[part].log)
    if factor <= 1:
        return ""
    return f", ahead of {label(second.name)} most by {part} ({100 * (factor - 1):+.0f} %)"


def _tied(answer: Answer) -> bool:
    """Whether any other card is as good as the first."""
    return len(answer.ranking.as_good) > 1


def _tie(answer: Answer) -> str:
    others = answer.ranking.as_good[1:]
    if not others:
        return "No other card is within the error." if len(answer.ranking.scored) > 1 else ""
    cheapest = min(
        (one for one in answer.ranking.as_good if one.candidate.price_usd),
        key=lambda one: one.candidate.price_usd or math.inf,
        default=None,
    )
    tail = ""
    if cheapest is not None and cheapest is not answer.ranking.scored[0]:
        tail = f"; the cheapest of them is {label(cheapest.name)} at {_price(answer, cheapest)}"
    return f"As good within the error: {_names([one.name for one in others])}{tail}."


def _price(answer: Answer, one: Score) -> str:
    price = answer.options[one.name].price
    return (
        render.dollars(price.usd) + f" ({price.kind} {price.date})".replace(" )", ")")
        if price
        else ""
    )


def _names(names: Sequence[str]) -> str:
    shown = [label(name) for name in names[:NAMED]]
    if len(names) > NAMED:
        return f"{', '.join(shown)} and {len(names) - NAMED} more"
    return ", ".join(shown[:-1]) + f" and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def _nothing(answer: Answer) -> Iterator[str]:
    """That no card passes, and the nearest way to one that does."""
    looked = len(answer.options)
    none = (
        "The one card looked at does not pass" if looked == 1 else f"None of {looked} cards passes"
    )
    yield f"{none} for {_subject(answer)}."
    if answer.question.job:
        yield f"It needs {_need(answer)}."
    if answer.unwished:
        yield (
            f"The wish for {answer.question.card_bytes / GIB:.4g} GiB (--min-memory) is the cause, "
            f"not the job: without it {render.count(answer.unwished, 'card')} would pass."
        )
        return
    only_memory = any({bar.kind for bar in bars} == {"memory"} for _, bars in answer.ranking.barred)
    if answer.question.job and only_memory and not answer.ways:
        yield "Nothing known here makes it fit a card that passes all else."
    yield from _ways(answer)
    if answer.question.job and only_memory:
        yield f"More cards don't help: {SHARDING}."


def _need(answer: Answer) -> str:
    """``157.4 GiB, of which float32 master weights are 29.9``."""
    said = f"{answer.needs.memory_bytes / GIB:.1f} GiB"
    job = answer.question.job
    if job is None or job.method != "full" or not job.low:
        return said
    return f"{said}, of which {job.memory().parts['weights'] / GIB:.1f} are float32 master weights"


def _ways(answer: Answer) -> Iterator[str]:
    """Cheaper jobs, where few cards pass."""
    if answer.ways:
        more = "More cards pass" if answer.ranking.scored else "Cards pass"
        yield f"{more} with {'; or '.join(way_text(way, answer) for way in answer.ways)}."


def way_text(way: Way, answer: Answer) -> str:
    """One way with what it needs, and the flags to type."""
    before, after = answer.question.job, way.question.job
    smaller = ""
    if before and after and after.batch < before.batch:
        smaller = f", {_batches(way, after.batch, before.batch * answer.question.count)}"
    return (
        f"{way.said}{smaller}: {way.need_bytes / GIB:.1f} GiB, {render.count(way.passing, 'card')}"
    )


def _batches(way: Way, batch: int, wanted: int) -> str:
    """A smaller batch, and with how many cards the step is as large as it was wanted."""
    count = way.question.count
    said = f"--batch {batch}"
    if count > 1:
        said += f" with --count {count} ({batch * count} a step)"
    if way.counts:
        each = math.ceil(wanted / way.counts)
        said += f", or --batch {each} with --count {way.counts} ({each * way.counts} a step)"
    return said


def _apart(answer: Answer) -> Iterator[str]:
    """Cards that lack a part, set against the winner on the parts that both have."""
    apart = answer.ranking.apart
    if not apart:
        return
    lacking = " and ".join(apart[0].without)
    yield (
        f"Set apart, not ranked with the others: {render.count(len(apart), 'card')} without a "
        f"known price, so without {lacking}. --prices gives one."
    )
    weights = answer.question.profile.weights
    kept = [part for part in PARTS if weights.get(part) and part not in apart[0].without]
    first = answer.ranking.scored[0]
    alike = geometric_mean((first.parts[part], weights[part]) for part in kept)
    ratio = _total(apart[0]) / alike
    yield (
        f"  By the other parts {label(apart[0].name)} is the best of them, {ratio.value:.2f} times "
        f"[{ratio.low:.2f}, {ratio.high:.2f}] {label(first.name)}."
    )


def _excluded(answer: Answer) -> Iterator[str]:
    """How many cards each gate stops, and those that came nearest, with their numbers."""
    groups: dict[str, list[tuple[str, str]]] = {}
    also: dict[str, Counter[str]] = {}
    for candidate, bars in answer.ranking.barred:
        kind = bars[0].kind
        groups.setdefault(kind, []).append((candidate.name, bars[0].reason))
        also.setdefault(kind, Counter()).update(sorted({bar.kind for bar in bars} - {kind}))
    if groups:
        total = sum(map(len, groups.values()))
        looked = render.count(len(answer.options), "card")
        yield f"Excluded: {total} of {looked} (all with --format json)."
    for kind, members in groups.items():
        nearest = sorted(members, key=lambda one: _distance(answer, kind, one[0]))[:NAMED]
        said = "; ".join(f"{label(name)}: {render.clean(reason)}" for name, reason in nearest)
        more = "".join(
            f", {number} of these also for {KINDS[other]}" for other, number in also[kind].items()
        )
        yield f"  {len(members)} for {KINDS[kind]}{more}: {said}"
    yield from _unpriced(answer)
    job = answer.question.job
    only = sum({bar.kind for bar in bars} == {"precision"} for _, bars in answer.ranking.barred)
    if only and job and job.precision in OLDER:
        yield f"  {only} of them would pass with --precision {OLDER[job.precision]}"


def _unpriced(answer: Answer) -> Iterator[str]:
    """Cards that a price limit stops for want of a price alone, which the user may know."""
    names = [
        candidate.name
        for candidate, bars in answer.ranking.barred
        if candidate.price_usd is None and {bar.kind for bar in bars} == {"price"}
    ]
    if names:
        nearest = sorted(names, key=lambda name: -answer.options[name].card.bandwidth)
        yield (
            f"  {len(names)} of them only for want of a known price ({_names(nearest)}): "
            "--prices FILE can give one"
        )


def _distance(answer: Answer, kind: str, name: str) -> tuple[float, str]:
    option = answer.options[name]
    if kind == "memory":
        return -option.card.usable_bytes, name
    if kind == "price":
        return (option.price.usd if option.price else math.inf), name
    return -option.card.bandwidth, name


def _what_would_change(answer: Answer) -> Iterator[str]:
    if answer.changes:
        yield "What would change the answer:"
    for change in answer.changes:
        yield f"  {change_text(change, answer)}"


def change_text(change: Change, answer: Answer) -> str:
    """One change in words, with its size."""
    winner = label(change.winner) if change.winner else "no card"
    percent = 100 * (change.after / change.before - 1) if change.before else math.inf
    if change.kind == "weight":
        return (
            f"with {change.what} weighing {100 * change.after:.0f} % instead of "
            f"{100 * change.before:.0f} %, {winner} would win"
        )
    if change.kind == "price":
        other = change.what != change.winner
        whose = f"{label(change.what)} cost" if other else "it cost"
        return (
            f"{winner} would win if {whose} {render.dollars(change.after)} instead of "
            f"{render.dollars(change.before)} ({percent:+.0f} %)"
        )
    if change.kind == "limit":
        return f"with a price limit of {render.dollars(change.after)}, {winner} would win"
    more = (change.after - change.before) / GIB
    what = "the job" if answer.question.job else "a case"
    by = f"more than {more:.1f} GiB more" if more > 0 else f"{-more:.1f} GiB less"
    then = f"{winner} would {'win' if change.winner else 'pass'}"
    return f"if {what} needed {by} ({change.after / GIB:.1f} in all), {then}"


def _of_job(job: Job) -> dict[str, Any]:
    """What was read of the model, and what a step holds in memory when it holds most."""
    memory = job.memory()
    return {
        "model": job.model.name,
        "parameters": job.parameters,
        "trained_parameters": job.trained,
        "layers": job.model.layers,
        "hidden": job.model.hidden,
        "vocabulary": job.model.vocabulary,
        "head": job.head,
        "memory_moment": memory.moment,
        **{
            f"{part.casefold().replace(' ', '_').replace('-', '_')}_bytes": size
            for part, size in memory.parts.items()
        },
    }


def _job_text(job: Job) -> str:
    """The same for people, so that a wrong configuration is noticed."""
    model, memory = job.model, job.memory()
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest if size >= GIB / 20)
    return (
        f"{model.name} has {_many(job.parameters)} parameters ({model.layers} layers, "
        f"{model.hidden:,} wide, vocabulary {model.vocabulary:,}), of which {_many(job.trained)} "
        f"are trained. Of its memory most is taken at {memory.moment}, in GiB: {parts}."
    )


def _many(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


def assumptions(answer: Answer) -> list[str]:
    """What the numbers rest on, the defaults included."""
    question = answer.question
    size = (
        f"{question.tokens:,.0f} tokens (--tokens)"
        if question.job
        else f"what keeps {_whole_reference(answer)} busy for {REFERENCE_HOURS:.0f} h"
    )
    mark = (
        " ≈ marks cards as good as the first within the error of the ratio, in which what all "
        "share cancels."
        if _tied(answer)
        else ""
    )
    cost = (
        f"electricity at ${question.electricity:g} per kWh (--electricity) at measured draw, else "
        f"board power, plus the price over {question.hours:,.0f} h of use (--hours); without the "
        "host."
    )
    basis = (
        f"Modelled from {answer.basis} (`gpubench list published`; docs/prediction.md has the "
        f"errors); intervals hold 80 %.{mark}"
    )
    lines = [basis, f"The job is {size}: {cost}"]
    if question.job:
        lines.append(_job_text(question.job))
    lines.append(_whose_prices(answer))
    if question.count > 1 and answer.ranking.scored:
        card = answer.options[answer.ranking.scored[0].name].card
        share, source = scaling.efficiency(card, question.count)
        high = min(share.high, 1.0)  # an interval knows no ends, a speed does
        lines.append(
            f"{question.count} cards, {SHARDING}: "
            f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * high:.0f}] of "
            f"{question.count} times one {label(card.card_id)}, from {source}."
        )
    return lines


def _whose_prices(answer: Answer) -> str:
    """Which cards have a price of the user's own; all others keep that of their launch."""
    at_launch = "those at launch, with their month: never today's"
    given = {
        name: option.price
        for name, option in answer.options.items()
        if option.price and option.price.kind != "launch"
    }
    if not given:
        return f"Prices are {at_launch} (--prices FILE gives others)."
    files = ", ".join(sorted({render.clean(price.source) for price in given.values()}))
    return (
        f"{render.count(len(given), 'card')} at the price in {files}; the others have {at_launch}."
    )
