"""The catalogue: what each NVIDIA card is, as data. Needs nothing but the standard library.

``data/cards.csv`` holds reference clocks and *dense* peaks with their source, confidence and
cross-checks per row. A device is matched by the name its driver reports and, where two cards
share a name (RTX 3080 10 and 12 GB), by its memory; a card that a person names, by its id or by
words of its name. Cards of the user's own (`card_file`) are in the catalogue like the others, and
before them where they are the same.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpubench import card_file
from gpubench.errors import UsageError

CATALOGUE = Path(__file__).parent / "data" / "cards.csv"
GIB = 2**30

# First compute capability with the format in hardware: NVIDIA's CUDA C++ Programming Guide,
# table of arithmetic throughputs. BF16 before Ampere is emulated, at a tenth of FP16's rate.
FIRST_CAPABILITY = {"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9), "int8": (6, 1), "fp16": (5, 3)}
_FIRST_NAME = {"tf32": "Ampere", "bf16": "Ampere", "fp8": "Ada", "int8": "Pascal", "fp16": "Pascal"}

# First CUDA with code for a compute capability, from Ampere on (release notes of CUDA 11.0, 11.1,
# 11.8 and 12.8); those before it came with CUDA 10 at the latest.
FIRST_CUDA = {
    "8.0": (11, 0),
    "8.6": (11, 1),
    "8.9": (11, 8),
    "9.0": (11, 8),
    "10.0": (12, 8),
    "12.0": (12, 8),
}

#: below so many operations per byte every device waits for memory
MEMORY_BOUND_INTENSITY = 4.0
#: a rate above the peak by more than this can't be: clocks boost above the reference by less
ABOVE_PEAK = 1.15

# Shares of the peak that large kernels commonly reach, for planning and for the virtual clock
# only: a nominal figure, no result. Launching a kernel from Python takes about 5 µs.
NOMINAL_COMPUTE_SHARE = 0.6
NOMINAL_BANDWIDTH_SHARE = 0.8
NOMINAL_LAUNCH_S = 5e-6

# What is left of a card's memory once the driver has its part, by the totals that torch prints in
# out-of-memory reports: 7.8 of 8 GiB (RTX 3070), 23.7 of 24 (RTX 3090), 39.4 of 40 (A100). Error
# correction takes a sixteenth more of GDDR, where it is on as delivered: 14.6 of 16 (T4), 22.0 of
# 24 (L4), 44.3 of 48 (A40).
USABLE_SHARE = 0.975
USABLE_SHARE_INLINE_ECC = 0.91
# The driver's context with PyTorch's kernels loaded as needed: "around 400MB" since CUDA 11.7,
# pytorch/pytorch issue 109888 (published).
CONTEXT_BYTES = 400e6

# Ids that a message lists where a name is that of several cards.
MOST_NAMED = 8

# Drivers keep up to 8 % of the memory back, most of it for error correction (T4: 14.7 of 16 GiB).
MEMORY_TOLERANCE = 0.15
# Boards run their memory a few per cent faster or slower than the row; another kind of it is
# further off (GTX 1650: 128 or 192 GB/s, RTX 3060 Ti: 448 or 608).
BANDWIDTH_TOLERANCE = 0.10


@dataclass(frozen=True)
class Card:
    """One row of the catalogue, in base units; None is unknown or not applicable.

    ``cache_bytes`` of 0 is unknown; ``own`` says that the row is a file of the user's.
    """

    card_id: str
    name: str
    architecture: str
    compute_capability: str
    sm_count: int
    boost_clock_hz: float
    memory_bytes: int
    bandwidth: float
    cache_bytes: int
    peaks: dict[str, float]
    power_w: float
    launch_date: str
    launch_price_usd: float | None
    source: str
    confidence: str
    driver_names: tuple[str, ...]
    pcie_generation: float | None = None
    nvlink: float = 0.0
    inline_ecc: bool = False
    own: bool = False

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability as numbers, (8, 9)."""
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    @property
    def usable_bytes(self) -> float:
        """Memory that programs can have: the card's, less what the driver keeps back."""
        return self.memory_bytes * (USABLE_SHARE_INLINE_ECC if self.inline_ecc else USABLE_SHARE)

    def fits(self, footprint_bytes: float) -> bool:
        """Whether a program's data of that size has room beside CUDA's context."""
        return footprint_bytes + CONTEXT_BYTES <= self.usable_bytes

    def peak_flops(self, precision: str) -> float | None:
        """Dense peak in FLOP/s of products in ``precision``; None where the card lacks it."""
        if unsupported_precision(self.capability, precision):
            return None
        return self.peaks.get(precision)

    def nominal_s(
        self, flops: float | None, moved_bytes: float | None, precision: str | None
    ) -> float:
        """Roughly the time of a step: compute plus memory plus one launch, at nominal shares."""
        seconds = NOMINAL_LAUNCH_S
        peak = self.peak_flops(precision or "fp32") or self.peaks["fp32"]
        seconds += (flops or 0.0) / (peak * NOMINAL_COMPUTE_SHARE)
        return seconds + (moved_bytes or 0.0) / (self.bandwidth * NOMINAL_BANDWIDTH_SHARE)


def unsupported_precision(capability: tuple[int, int], precision: str) -> str | None:
    """Why a card of this compute capability can't do ``precision`` in hardware; None if it can."""
    first = FIRST_CAPABILITY.get(precision)
    if first is None or capability >= first:
        return None
    major, minor = capability
    return (
        f"{precision} begins with {_FIRST_NAME[precision]} "
        f"(compute capability {first[0]}.{first[1]}); this card has {major}.{minor}"
    )


@cache
def catalogue() -> dict[str, Card]:
    """Every card by its id: by series, then size, then those of the user's own.

    Raises:
        UsageError: a file of the user's is no card.
    """
    with CATALOGUE.open(encoding="utf-8", newline="") as lines:
        shipped = {row["card_id"]: _card(row) for row in csv.DictReader(lines)}
    return shipped | {row["card_id"]: _card(row, own=True) for row in card_file.rows()}


def get_card(name: str) -> Card:
    """The one card that ``name`` means: an id of the catalogue, or words of a card's name.

    Raises:
        UsageError: no card has that name, or several do.
    """
    cards = named(name)
    if len(cards) > 1:
        ids = [card.card_id for card in cards]
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        raise UsageError(
            f"{len(ids)} cards are named {name!r}: {', '.join(ids[:MOST_NAMED])}{more}",
            "give one of these ids; `gpubench list cards` shows what they are",
        )
    return cards[0]


def named(name: str) -> list[Card]:
    """The cards that ``name`` may mean: one, where it is an id or says all that tells it apart.

    The words that are given have to be among those of a card's id and names, in any case and order;
    NVIDIA and GeForce are no matter. Where they are the whole of a name, but for RTX or GTX, cards
    that have further words are not meant: "4080" is neither the SUPER nor any Ti.

    Raises:
        UsageError: no card has that name.
    """
    if name in catalogue():
        return [catalogue()[name]]
    wanted = _words(name)
    cards = [card for card in catalogue().values() if wanted and wanted <= _all_words(card)]
    if not cards:
        raise _unknown(name)
    return [card for card in cards if _whole(name) in map(_whole, _spellings(card))] or cards


def _spellings(card: Card) -> tuple[str, ...]:
    return card.card_id, *card.driver_names


def _words(name: str) -> frozenset[str]:
    """Its words, less the maker's; "rtx4070ti 16 GB" has the words of "RTX 4070 Ti 16GB"."""
    apart = re.sub(r"(?<=tx)(?=\d)|(?<=\d)(?=(ti|super)\b)", " ", name.casefold())
    joined = re.sub(r"(?<=\d)\s*gi?b\b", "gb", apart)
    return frozenset(re.findall(r"\w+", joined.replace("_", " "))) - {"nvidia", "geforce"}


def _all_words(card: Card) -> frozenset[str]:
    return frozenset().union(*map(_words, _spellings(card)))


def _whole(name: str) -> frozenset[str]:
    """What is left without the RTX or GTX of a numbered card; "TITAN RTX" has no other name."""
    words = _words(name)
    return words - {"rtx", "gtx"} if any(word.isdecimal() for word in words) else words


def _unknown(name: str) -> UsageError:
    """The error for a name that no card has: with the nearest id and a search."""
    from difflib import get_close_matches  # only mistakes need it

    spelled = {
        " ".join(sorted(_words(one), key=one.casefold().find)): card.card_id
        for card in catalogue().values()
        for one in _spellings(card)
    }
    said = " ".join(sorted(_words(name), key=name.casefold().find))
    close = get_close_matches(said, spelled, n=1)
    hint = f"did you mean {spelled[close[0]]!r}? " if close else ""
    what = "shows what there is, NVIDIA cards only"
    return UsageError(f"no card is named {name!r}", f"{hint}{_search(name)} {what}")


def _search(name: str) -> str:
    """The command that lists the cards with the longest part of a number in ``name``."""
    digits = max(re.findall(r"\d+", name), key=len, default="")
    for length in range(len(digits), 1, -1):
        if any(digits[:length] in card_id for card_id in catalogue()):
            return f"`gpubench list cards --only '*{digits[:length]}*'`"
    return "`gpubench list cards`"


def find_card(
    driver_name: str, memory_bytes: int | None, bandwidth: float | None = None
) -> Card | None:
    """The card that a driver reports under ``driver_name``; None if the catalogue lacks it.

    Where several share the name, the one whose memory is nearest, the user's own first. A card of
    that name with more or faster memory (RTX 3060 8 GB, GTX 1650 with GDDR6) is another card, with
    other peaks.

    Args:
        driver_name: of the card, with the maker's prefix or without.
        memory_bytes: that the driver tells of; None is unknown.
        bandwidth: of the memory in bytes/s, by its clock and width; None is unknown.
    """
    wanted = _plain(driver_name)
    matches = [card for card in catalogue().values() if wanted in map(_plain, card.driver_names)]
    matches.sort(key=lambda card: not card.own)
    matches = [card for card in matches if _has_bandwidth(card, bandwidth)]
    if memory_bytes is None:
        return matches[0] if len(matches) == 1 else None
    nearest = min(matches, key=lambda card: abs(card.memory_bytes - memory_bytes), default=None)
    if nearest is None or abs(memory_bytes / nearest.memory_bytes - 1) > MEMORY_TOLERANCE:
        return None
    return nearest


def _has_bandwidth(card: Card, bandwidth: float | None) -> bool:
    """Whether a reading doesn't speak against it; what users say of their own cards counts."""
    if bandwidth is None or card.own:
        return True
    return abs(bandwidth / card.bandwidth - 1) <= BANDWIDTH_TOLERANCE


def _plain(name: str) -> str:
    """Drivers differ in the maker's prefix and in spacing."""
    return " ".join(name.replace("NVIDIA", "").split()).casefold()


def _card(row: dict[str, str], *, own: bool = False) -> Card:
    """One row of the file, with its units made SI."""

    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    columns = {
        "fp64": "fp64_tflops",
        "fp32": "fp32_tflops",
        "tf32": "tf32_tensor_tflops_dense",
        "fp16": "fp16_tensor_tflops_dense_fp32acc",
        "bf16": "bf16_tensor_tflops_dense",
        "fp8": "fp8_tensor_tflops_dense",
        "int8": "int8_tensor_tops_dense",
    }
    rates = {precision: number(column) or 0.0 for precision, column in columns.items()}
    # The file has the CUDA cores' FP64; these chips' tensor cores do twice that, and cuBLAS uses
    # them (NVIDIA's A100 and H100 datasheets: 19.5 and 67 TFLOPS).
    if row["compute_capability"] in ("8.0", "9.0"):
        rates["fp64"] *= 2
    # Without tensor cores an FP16 product runs on the CUDA cores: at FP32's rate on Pascal, where
    # libraries widen to FP32, and at twice that on GTX 16, which has FP16 units instead.
    rates["fp16"] = rates["fp16"] or max(rates["fp32"], number("fp16_tflops_nontensor") or 0.0)
    return Card(
        card_id=row["card_id"],
        name=row["name"],
        architecture=row["architecture"],
        compute_capability=row["compute_capability"],
        sm_count=int(row["sm_count"]),
        boost_clock_hz=float(row["boost_clock_mhz"]) * 1e6,
        memory_bytes=int(float(row["memory_gib"]) * GIB),
        bandwidth=float(row["memory_bandwidth_gbs"]) * 1e9,
        cache_bytes=int(float(row["l2_mib"]) * 2**20),
        peaks={precision: rate * 1e12 for precision, rate in rates.items() if rate},
        power_w=float(row["tdp_w"]),
        launch_date=row["launch_date"],
        launch_price_usd=number("launch_price_usd"),
        source=row["source"],
        confidence=row["confidence"],
        driver_names=(row["name"], *(name for name in row["name_aliases"].split("|") if name)),
        pcie_generation=number("pcie_gen"),
        nvlink=(number("nvlink_gbs") or 0.0) * 1e9,
        inline_ecc=row["series"] == "dc" and row["memory_type"].startswith("GDDR"),
        own=own,
    )
