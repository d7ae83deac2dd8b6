"""The page docs/verification.md, whose tables are written by what they tell of."""

from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "verification.md"


def read() -> str:
    return PAGE.read_text(encoding="utf-8")


def with_table(page: str, name: str, table: str) -> str:
    """The page with what stands between a table's marks replaced."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    assert begin in page, f"{PAGE} has no table of {name}"
    before, _, rest = page.partition(begin)
    return before + begin + table + end + rest.partition(end)[2]


def write_table(name: str, table: str) -> None:
    PAGE.write_text(with_table(read(), name, table), encoding="utf-8")
