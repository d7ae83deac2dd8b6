"""Reading and writing result files: the only module that opens one.

A file is Parquet with zstd, its schema version in the metadata. The writer replaces the whole
file after each row through a temporary one beside it, so that a crash, a kill or a full disk
leaves what was measured until then, readable. Files of others are data: types are checked, text
stays text, nothing in them is run.
"""

import glob
import os
import re
import stat
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from gpubench.errors import CannotWrite, UnreadableResult, install_line
from gpubench.record import NOT_REAL, SCHEMA_VERSION, Record, Status

VERSION_KEY = b"gpubench_schema_version"
# Of one column of a file: a full suite with every sample has some hundred thousand.
MOST_VALUES = 10_000_000
# Beyond these, in seconds, a sample is no time of a step: a picosecond, four months.
SHORTEST_S, LONGEST_S = 1e-12, 1e7
_SIMPLE = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def arrow_type(annotation: Any) -> pa.DataType:
    """The Parquet column for a type annotation of Record."""
    arguments = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType):
        return arrow_type(arguments[0])  # every union is "X | None", and any column may be null
    if typing.get_origin(annotation) is list:
        return pa.list_(arrow_type(arguments[0]))
    if typing.get_origin(annotation) is dict:
        return pa.map_(arrow_type(arguments[0]), arrow_type(arguments[1]))
    if is_dataclass(annotation):
        return pa.struct([(inner.name, arrow_type(inner.type)) for inner in fields(annotation)])
    return _SIMPLE[annotation]


def schema() -> pa.Schema:
    """The file's schema, from Record's annotations."""
    hints = typing.get_type_hints(Record)
    columns = [(name, arrow_type(annotation)) for name, annotation in hints.items()]
    return pa.schema(columns, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()})


class Writer:
    """Keeps a result file complete on disk after every row."""

    def __init__(self, path: Path, records: Iterable[Record] = ()) -> None:
        """Start a file, with the rows of an earlier attempt where a run is resumed.

        Raises:
            CannotWrite: the folder can't be made or written to.
        """
        self.path = path
        self._table = _table(records)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotWrite(f"{path.parent}: {error.strerror}", "choose another -o") from error
        self._replace()

    def append(self, record: Record) -> None:
        """Add a row; when this returns, it is on disk.

        Raises:
            CannotWrite: no space or no permission; the file still holds the rows before.
        """
        # Only the new row is converted; in one chunk, since many small ones are slow to write.
        self._table = pa.concat_tables([self._table, _table([record])]).combine_chunks()
        self._replace()

    def _replace(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.partial")
        try:
            with temporary.open("wb") as stream:
                # With checksums a flipped bit is a damaged file, never a different number.
                pq.write_table(self._table, stream, compression="zstd", write_page_checksum=True)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise CannotWrite(
                f"{self.path} can't be written: {error.strerror or error}",
                "free some space or choose another folder with -o; earlier rows are kept",
            ) from error


class Busy(CannotWrite):
    """Another run is writing the file."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other runs from writing ``path``, where the system has advisory locks.

    Raises:
        CannotWrite: another run is writing it, or the folder can't be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise Busy(
            f"another run is writing {path}", "wait for its end, or choose another file with -o"
        ) from error
    except OSError as error:
        raise CannotWrite(
            f"{lock.parent}: {error.strerror}", "choose another folder with -o"
        ) from error


@contextmanager
def exclusive_new(path: Path) -> Iterator[Path]:
    """As `exclusive`, for a file that there is not yet: ``path``, or with a number where it is.

    Jobs that share a run begin in one second, and their files then have one name.
    """
    for number in count(1):
        chosen = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with ExitStack() as held:
            try:
                held.enter_context(exclusive(chosen))
            except Busy:
                continue
            if not chosen.exists():
                yield chosen
                return


def _sync_folder(folder: Path) -> None:
    """Make a renaming outlast a power failure, where folders can be opened for that."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _table(records: Iterable[Record]) -> pa.Table:
    return pa.Table.from_pylist([_storable(asdict(record)) for record in records], schema=schema())


def _storable(value: Any) -> Any:
    """Text that UTF-8 can hold: quoted file names may carry bytes that were no text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(inner) for name, inner in value.items()}
    return value


def expand(patterns: Sequence[str]) -> list[str]:
    """Files, globs, folders and object-store URLs → the result files they stand for, sorted.

    Raises:
        UnreadableResult: one of them stands for nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        matches = _expand_url(pattern) if "://" in pattern else _expand_path(pattern)
        if not matches:
            raise UnreadableResult(
                f"{pattern}: no result file there",
                "give a .parquet file, a folder or a glob; `gpubench run` makes one",
            )
        found += matches
    return list(dict.fromkeys(found))


def _expand_path(pattern: str) -> list[str]:
    try:
        # A file may be named like a glob; what is there counts first.
        named = [pattern]
        if not (pattern and Path(pattern).exists()):  # Path("") is the working folder
            named = sorted(_glob(pattern))
        matches: list[str] = []
        for path in map(Path, named):
            matches += _inside(path) if path.is_dir() else [str(path)]
    except OSError as error:
        raise UnreadableResult(f"{pattern}: {error.strerror}", "check the path") from error
    return matches


def _glob(pattern: str) -> list[str]:
    """What a pattern stands for; its ``**`` goes into folders and not through links to folders.

    Links may lead back, and `glob` follows them on and on.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return glob.glob(pattern)  # noqa: PTH207 - may be absolute
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    wanted = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts[first:]]
    found = Path(*parts[:first]).glob("/".join(wanted))
    return [str(path) for path in found if not _hidden(path.parts[first:], wanted)]


def _hidden(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a name begins with a dot that the pattern doesn't ask for, as shells have it."""
    asked = any(part.startswith(".") for part in wanted)
    return not asked and any(part.startswith(".") for part in parts)


def _inside(folder: Path) -> list[str]:
    """The result files below a folder; opening a pipe there would wait for whoever writes it."""
    return [str(path) for path in sorted(folder.rglob("*.parquet")) if path.is_file()]


def _expand_url(url: str) -> list[str]:
    filesystem, path = _file_system(url)
    try:
        info = filesystem.get_file_info(path)
        if info.type != pyarrow.fs.FileType.Directory:
            return [url]
        inside = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise UnreadableResult(
            f"{url}: {error}", "check the address and its credentials"
        ) from error
    scheme = url.split("://", maxsplit=1)[0]
    paths = sorted(entry.path for entry in inside if entry.extension == "parquet")
    return [f"{scheme}://{quote(path)}" for path in paths]


def _file_system(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Pyarrow's own file system for the URL, or fsspec's where that is installed."""
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(url)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason: Exception = error
    else:
        return filesystem, path
    try:
        import fsspec

        handler, path = fsspec.core.url_to_fs(url)
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(handler)), path
    except (ImportError, OSError, ValueError) as error:
        raise UnreadableResult(
            f"{url}: {reason}",
            "check the address and its credentials; other stores need fsspec and its plug-in",
        ) from error


def read(path: str) -> pa.Table:
    """Read one result file as a table of the present schema.

    Columns that an older version lacked are null, unknown ones are dropped.

    Raises:
        UnreadableResult: missing, empty, truncated, not Parquet, not ours, or of a newer schema.
    """
    table = _open(path)
    version = (table.schema.metadata or {}).get(VERSION_KEY)
    if version is None or not version.isdigit() or len(version) > 9:
        raise UnreadableResult(
            f"{path} is Parquet, but not a gpubench result file",
            "its metadata lacks gpubench_schema_version; `gpubench run` writes such files",
        )
    if int(version) > SCHEMA_VERSION:
        raise UnreadableResult(
            f"{path} has schema version {int(version)}; this gpubench reads up to {SCHEMA_VERSION}",
            f"git pull && {install_line()}",
        )
    return _conform(path, table)


def _refuse_endless(path: str, table: pa.Table) -> None:
    """A few kilobytes can hold millions of equal values, which take minutes as plain Python.

    Counted once decoded: pyarrow ends the process when it is asked for the columns of a damaged
    footer.
    """
    values = max(map(_values, table.columns), default=0)
    if values > MOST_VALUES:
        raise UnreadableResult(
            f"{path} holds {values:,} values in one column; {MOST_VALUES:,} are read at most",
            "the file was not written by gpubench, or holds many runs: give those one by one",
        )


def _values(column: pa.ChunkedArray) -> int:
    """How many a column has, those inside of lists one by one."""
    if not pa.types.is_list(column.type):
        return len(column)
    return sum(len(chunk.flatten()) for chunk in column.chunks)


def _open(path: str) -> pa.Table:
    if "://" not in path:
        _check_file(path)
    try:
        # One opening: a run that goes on replaces the file between two. Into memory first, and
        # without threads: one of Arrow's that still holds a Python stream aborts the exit.
        with _stream(path) as stream:
            content = pa.BufferReader(stream.read_buffer())
        table = pq.read_table(content, use_threads=False, page_checksum_verification=True)
        table.validate(full=True)
        _ = table.column_names  # decoded only now; a damaged one is no text
    except FileNotFoundError as error:
        raise UnreadableResult(f"{path}: no such file", "check the path") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableResult(
            f"{path} is damaged, cut short or not a Parquet file",
            "measure again, or `gpubench run --resume` from an earlier copy",
        ) from error
    _refuse_endless(path, table)
    return table


def _stream(path: str) -> pa.NativeFile:
    """A local file, or an object of a store, open for reading at any place."""
    if "://" not in path:
        return pa.OSFile(path)
    filesystem, inner = _file_system(path)
    return filesystem.open_input_file(inner)


def _check_file(path: str) -> None:
    """What the operating system has to say about a local file, before Parquet's opinion."""
    if _is_stream(path):
        raise UnreadableResult(f"{path}: not a file", "give a .parquet file, a folder or a glob")
    try:
        with Path(path).open("rb") as stream:
            empty = not stream.read(1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnreadableResult(f"{path}: {reason}", "check the path") from error
    if empty:
        raise UnreadableResult(
            f"{path} is empty", "measure again, or `gpubench run --resume` from an earlier copy"
        )


def _is_stream(path: str) -> bool:
    """A pipe, a socket or a device: opening or reading it may wait for ever."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _conform(path: str, table: pa.Table) -> pa.Table:
    wanted = schema()
    columns = []
    for column in wanted:
        if column.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, column.type))
            continue
        try:
            columns.append(table.column(column.name).cast(column.type))
        except (pa.ArrowException, ValueError) as error:
            raise UnreadableResult(
                f"{path}: column {column.name} holds {table.schema.field(column.name).type}, "
                f"not {column.type}",
                "the file was not written by gpubench, or was changed since",
            ) from error
    return pa.table(columns, schema=wanted)


def read_records(path: str) -> list[Record]:
    """Read one file as records, for resuming a run."""
    hints = typing.get_type_hints(Record)
    maps = {name for name, hint in hints.items() if typing.get_origin(hint) is dict}
    spreads = {
        name: typing.get_args(hint)[0]
        for name, hint in hints.items()
        if typing.get_args(hint) and is_dataclass(typing.get_args(hint)[0])
    }
    records = []
    for row in _rows(path):
        for name in maps:
            row[name] = dict(row[name] or ())
        for name, kind in spreads.items():
            row[name] = kind(**row[name]) if row[name] else None
        # What the file leaves open is as if never said: an absent list is an empty one. Only
        # success has to be said.
        row["status"] = row["status"] or "failed"
        records.append(Record(**{name: value for name, value in row.items() if value is not None}))
    return records


def _rows(path: str) -> list[dict[str, Any]]:
    """The file's rows as plain Python, in which a date can't lie beyond the year 9999."""
    try:
        rows: list[dict[str, Any]] = read(path).to_pylist()
    except (ValueError, OverflowError) as error:
        raise UnreadableResult(
            f"{path} holds a value that is out of range: {error}",
            "the file was not written by gpubench, or was changed since",
        ) from error
    return rows


def examine(path: str) -> dict[str, Any]:
    """Whether a file is readable and its rows make sense, for ``gpubench validate``."""
    try:
        rows = _rows(path)
    except UnreadableResult as error:
        return {"file": path, "valid": False, "rows": None, "problem": str(error)}
    problem = next((text for row in rows if (text := contradiction(row))), None)
    return {"file": path, "valid": problem is None, "rows": len(rows), "problem": problem}


def contradiction(row: Mapping[Any, Any]) -> str | None:
    """What contradicts the schema's meaning in one row."""
    samples, status = row["samples_s"], row["status"]
    is_real = row["provenance"] != "measured" or NOT_REAL not in str(row["card"])
    times = samples or []
    found = {
        f"has the status {status!r}, which there is not": status not in typing.get_args(Status),
        "is ok without samples": status == "ok" and not samples,
        f"is {status} with samples": status != "ok" and bool(samples),
        f"is {status} without a reason": status != "ok" and not row["reason"],
        "has samples that are no positive times": not all(
            sample is not None and 0 < sample < float("inf") for sample in times
        ),
        "calls itself measured, on a card that calls itself not real": not is_real,
        "has no name": not row["case_id"],
        "has samples that no step takes": not all(
            SHORTEST_S <= sample <= LONGEST_S for sample in times if sample is not None
        ),
        "has work that is no amount": any(
            amount is not None and (amount < 0 or amount == float("inf"))
            for amount in (row["flops"], row["bytes"], row["items"])
        ),
    }
    text = next((text for text, holds in found.items() if holds), None)
    return f"{row['case_id']} {text}" if text else None
