"""``gpubench recommend``: which card for this work, how surely, and what would change that."""

from __future__ import annotations

import argparse

from gpubench import errors
from gpubench.verbs._flags import add_format, add_profile, amount, dollars, positive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from gpubench.job import Job
    from gpubench.recommend import Question


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``recommend``."""
    sub.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="what was measured; without any it is modelled",
    )
    add_profile(sub)
    job = sub.add_argument_group("a job of your own, in place of the profile's cases")
    job.add_argument("--model", metavar="NAME|config.json", help="what is trained")
    job.add_argument("--method", choices=("full", "lora", "qlora"), help="default: full")
    job.add_argument("--seq", type=tokens, metavar="N", help="tokens a sequence; default: 512")
    job.add_argument(
        "--batch", type=positive, metavar="N", help="sequences a step on each card; default: 1"
    )
    job.add_argument("--precision", choices=("fp32", "tf32", "fp16", "bf16"), help="default: bf16")
    job.add_argument("--optimizer", choices=("adamw", "adamw8bit", "sgd"), help="default: adamw")
    job.add_argument("--checkpointing", action="store_true", help="compute activations again")
    job.add_argument("--rank", type=positive, metavar="N", help="of LoRA adapters; default: 16")
    job.add_argument(
        "--head",
        choices=("classes", "lm"),
        help="of an encoder, as BERT: two classes a sequence, or words for every token; "
        "default: classes; a decoder always makes words",
    )
    size = job.add_mutually_exclusive_group()
    size.add_argument("--tokens", type=amount, metavar="N", help="of the job; default: 1e8")
    size.add_argument("--steps", type=amount, metavar="N", help="of the job, in place of --tokens")
    gates = sub.add_argument_group("which cards")
    gates.add_argument("--cards", nargs="+", default=[], metavar="GLOB", help="default: all")
    gates.add_argument("--price-limit", type=dollars, metavar="USD", help="for all cards together")
    gates.add_argument("--min-memory", type=amount, metavar="GIB", help="of a card as it is sold")
    gates.add_argument(
        "--count",
        type=positive,
        default=1,
        metavar="N",
        help="cards of one kind, each with its own batch",
    )
    cost = sub.add_argument_group("costs")
    cost.add_argument(
        "--prices",
        metavar="FILE",
        help="of the cards in it, in place of launch prices: CSV with the columns card_id, "
        "price_usd and, if known, date, or TOML with [[price]] blocks of these keys",
    )
    cost.add_argument("--hours", type=amount, metavar="H", help="a card's life; default: 8760")
    cost.add_argument(
        "--electricity",
        type=electricity,
        metavar="USD",
        help="a kWh; 0 if it costs nothing more; default: 0.15",
    )
    sub.add_argument("--top", type=positive, default=8, metavar="N", help="rows; default: 8")
    add_format(sub)


def tokens(text: str) -> int:
    """A length that is for the model to refuse, which knows how many tokens it takes."""
    return positive(text, most=10**9)


def electricity(text: str) -> float:
    """As `dollars`, or nothing: it is in the rent, or comes off the roof."""
    try:
        free = float(text.removeprefix("$")) == 0
    except ValueError:
        free = False
    return 0.0 if free else dollars(text)


def call(arguments: argparse.Namespace) -> int:
    """Print the recommendation."""
    import shutil
    import sys

    from gpubench import advice
    from gpubench.recommend import recommend

    answer = recommend(question(arguments))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else advice.WIDTH
    print(advice.text(answer, arguments.format, arguments.top, width), end="")
    return errors.EXIT_DONE


def question(arguments: argparse.Namespace) -> Question:
    """What is asked, from the flags."""
    from gpubench.cards import GIB
    from gpubench.prices import load_prices
    from gpubench.profile import load_profile
    from gpubench.recommend import ELECTRICITY, HOURS, TOKENS, Question

    job = job_of(arguments)
    tokens = arguments.tokens or TOKENS
    if job and arguments.steps:
        tokens = arguments.steps * job.tokens * arguments.count
    rows: Sequence[Mapping[Any, Any]] = ()
    files = 0
    if arguments.results:
        from gpubench import store, table

        files = len(store.expand(arguments.results))
        rows = table.load(arguments.results).to_dict("records")
    return Question(
        profile=load_profile(arguments.profile),
        job=job,
        cards=tuple(arguments.cards),
        price_limit=arguments.price_limit,
        prices={} if arguments.prices is None else load_prices(arguments.prices),
        card_bytes=(arguments.min_memory or 0.0) * GIB,
        count=arguments.count,
        hours=arguments.hours or HOURS,
        electricity=ELECTRICITY if arguments.electricity is None else arguments.electricity,
        tokens=tokens,
        rows=rows,
        files=files,
    )


def job_of(arguments: argparse.Namespace) -> Job | None:
    """The job of the flags; None without ``--model``.

    Raises:
        UsageError: a flag of a job without ``--model``, or one that makes no sense.
    """
    names = {
        "method": "method",
        "seq": "sequence",
        "batch": "batch",
        "precision": "precision",
        "optimizer": "optimizer",
        "checkpointing": "checkpointing",
        "rank": "rank",
        "head": "head",
    }
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    sized = [name for name in ("tokens", "steps") if getattr(arguments, name)]
    if arguments.model is None:
        if given or sized:
            flag = next(iter([*given, *sized]))
            raise errors.UsageError(
                f"--{flag} says how a model is trained, and there is no --model",
                "name one: `gpubench list models` shows those known; or a config.json",
            )
        return None
    from gpubench.job import Job, get_model

    return Job(get_model(arguments.model), **{names[name]: value for name, value in given.items()})
