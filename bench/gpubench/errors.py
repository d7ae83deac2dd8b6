"""Everything gpubench raises on purpose.

::

    GpubenchError
    ├── UsageError               what was asked for does not exist or makes no sense    (exit 2)
    ├── UnreadableResult         a result file that can't be read                       (exit 2)
    ├── CannotWrite              a result file or report that can't be written          (exit 2)
    ├── EnvironmentRefused       this machine or its software can't do what was asked   (exit 4)
    └── CaseOutcome              ends one case and becomes its row, never the run
        ├── Unsupported          the device or its software lacks what the case needs
        └── WrongResult          the result differs from the reference

Each message says what is wrong, with which evidence; ``remedy`` says what to do next.
"""

from collections.abc import Iterable, Mapping

EXIT_DONE = 0
EXIT_CONDITION_MET = 1
EXIT_USAGE = 2
EXIT_CASE_FAILED = 3
EXIT_ENVIRONMENT = 4
EXIT_INTERRUPTED = 130


# No package index has gpubench yet, so this is typed in the root of a checkout.
INSTALL = "pip install -e "


def install_line(*extras: str) -> str:
    """What to type to have gpubench with ``extras``."""
    return INSTALL + (f"'.[{','.join(extras)}]'" if extras else ".")


class GpubenchError(Exception):
    """Base of all errors that gpubench raises on purpose."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, remedy: str = "") -> None:
        """Keep what is wrong and, apart from it, what to do about it."""
        super().__init__(message)
        self.remedy = remedy


class UsageError(GpubenchError):
    """What was asked for does not exist or makes no sense."""


class UnreadableResult(GpubenchError):
    """A result file is missing, damaged, or of a schema this version does not know."""


class CannotWrite(GpubenchError):
    """A file can't be written: no space, no permission, no such folder."""


class EnvironmentRefused(GpubenchError):
    """The machine or its software can't do what was asked."""

    exit_code = EXIT_ENVIRONMENT


class CaseOutcome(GpubenchError):
    """Ends one case with a status other than ``ok``; the run goes on."""

    status = "failed"


class Unsupported(CaseOutcome):
    """The device or its software lacks what the case needs; not a failure."""

    status = "unsupported"


class WrongResult(CaseOutcome):
    """The computed result differs from the reference by more than the tolerance."""

    status = "wrong"


def unknown_name(
    kind: str, name: str, known: Iterable[str], also: Mapping[str, str] | None = None
) -> UsageError:
    """The error for a name that nothing has: with the nearest match, and where to see them all.

    ``also`` has other spellings, in small letters and without a folder, of some that are known.
    """
    from difflib import get_close_matches  # only mistakes need it

    names = list(known)
    said = name.rpartition("/")[2].casefold() if also else name
    spelled = {**(also or {}), **{one: one for one in names}}
    close = get_close_matches(said, spelled, n=1)
    hint = f"did you mean {spelled[close[0]]!r}? " if close else ""
    if len(names) <= 24:
        every = f"known: {', '.join(names)}"
    else:
        every = f"`gpubench list {kind}s` shows all {len(names)}"
    return UsageError(f"no {kind} is named {name!r}", hint + every)
