"""Writes docs/result-file.md from the schema: ``python docs/make_result_file_page.py``."""

import typing
from dataclasses import fields, is_dataclass
from pathlib import Path

from gpubench.record import SCHEMA_VERSION, Record, Spread

HEAD = f"""# The result file

One row is one case measured in one worker process. The file is Parquet with zstd compression; its
metadata holds `gpubench_schema_version`, now {SCHEMA_VERSION}. Any Parquet reader opens it:

```python
import pandas

frame = pandas.read_parquet("results/FILE.parquet")
```

Seconds, bytes, hertz and watts throughout; null is unknown, never zero. A case that failed is a row
with its `status` and `reason` and without samples. Host names, user names, paths and serial numbers
are not in the file; the two hashes are salted per installation. This page is made from
`gpubench.record` by `docs/make_result_file_page.py`, and a test compares the two.

| column | type | meaning |
| --- | --- | --- |
"""


def type_name(annotation: object) -> str:
    """``list[float] | None`` → ``list of float``."""
    arguments = typing.get_args(annotation)
    if arguments and type(None) in arguments:
        return type_name(arguments[0])
    if typing.get_origin(annotation) is list:
        return f"list of {type_name(arguments[0])}"
    if typing.get_origin(annotation) is dict:
        return f"map of {type_name(arguments[0])} to {type_name(arguments[1])}"
    if is_dataclass(annotation):
        return f"struct of {', '.join(field.name for field in fields(Spread))}"
    return getattr(annotation, "__name__", str(annotation))


def page() -> str:
    """The page's text."""
    hints = typing.get_type_hints(Record)
    rows = (
        f"| `{field.name}` | {type_name(hints[field.name])} | {field.metadata['meaning']} |\n"
        for field in fields(Record)
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    Path(__file__).with_name("result-file.md").write_text(page(), encoding="utf-8")
