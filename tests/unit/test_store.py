"""The result file: nothing measured is lost, and nothing in a file can do more than be data."""

import errno
import os
import signal
import subprocess
import sys
import threading
import types
import typing
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpubench import store
from gpubench.errors import CannotWrite, UnreadableResult
from gpubench.record import SCHEMA_VERSION, Record, Spread, Status

HINTS = typing.get_type_hints(Record)
#: one folder for all examples of a property: each overwrites the last one's files
IN_ONE_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def write(path, *records):
    store.Writer(path, records)
    return str(path)


def as_parquet(path, columns, version=SCHEMA_VERSION):
    """A file of any columns; ours by its metadata unless ``version`` is None."""
    table = pa.table(columns)
    if version is not None:
        table = table.replace_schema_metadata({store.VERSION_KEY: str(version).encode()})
    pq.write_table(table, path)
    return str(path)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if "partial" in path.name]


# records of every shape ---------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False)
VALUES = {
    str: text,
    int: st.integers(-(2**63), 2**63 - 1),
    float: numbers,
    bool: st.booleans(),
    datetime: st.datetimes(timezones=st.just(UTC)),
    Spread: st.builds(Spread, numbers, numbers, numbers),
}


def values_of(annotation):
    """Everything that a column of this annotation may hold."""
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if isinstance(annotation, types.UnionType):
        return st.one_of(st.none(), *(values_of(part) for part in arguments if part is not None))
    if annotation is types.NoneType:
        return st.none()
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=3)
    return VALUES[annotation]


any_record = st.builds(
    Record,
    **{name: values_of(hint) for name, hint in HINTS.items()}
    | {"status": st.sampled_from(typing.get_args(Status))},
)


@settings(IN_ONE_FOLDER, max_examples=40)
@given(records=st.lists(any_record, max_size=3))
@example(records=[Record()])
@example(records=[Record(samples_s=[], flags=[], params={"": ""}, reason="zwei\nZeilen \x00 🚀")])
def test_a_record_survives_the_file_in_every_field(records, tmp_path):
    path = write(tmp_path / "any.parquet", *records)
    assert store.read_records(path) == records


def test_text_that_utf8_cannot_hold_costs_its_strange_letters_not_the_row(tmp_path, make_record):
    """File names may hold bytes that were no text; quoted in a reason they arrive as surrogates."""
    strange = make_record(status="failed", reason="a\udcffb", samples_s=None, notes={"k": "\ud800"})
    path = write(tmp_path / "a.parquet", strange)
    (read,) = store.read_records(path)
    assert read.reason == "a?b"
    assert read.notes == {"k": "?"}


# the schema ---------------------------------------------------------------------------------------


def test_the_schema_has_every_field_of_the_record_in_its_order():
    assert store.schema().names == [field.name for field in fields(Record)]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("schema_version", pa.int64()),
        ("run_id", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("params", pa.map_(pa.string(), pa.string())),
        ("samples_s", pa.list_(pa.float64())),
        ("outcome", pa.map_(pa.string(), pa.float64())),
        ("flags", pa.list_(pa.string())),
        ("memory_bytes", pa.int64()),
        ("ecc", pa.bool_()),
        ("power_w", pa.struct([(name, pa.float64()) for name in ("mean", "min", "max")])),
    ],
)
def test_a_columns_type_follows_from_the_annotation(column, kind):
    assert store.schema().field(column).type == kind


def test_every_column_may_be_null_and_says_what_it_means():
    assert all(field.nullable for field in store.schema())
    assert all(field.metadata.get("meaning") for field in fields(Record))


def test_the_file_names_its_schema_version_and_is_compressed(tmp_path, make_record):
    metadata = pq.read_metadata(write(tmp_path / "a.parquet", make_record()))
    assert metadata.metadata[b"gpubench_schema_version"] == str(SCHEMA_VERSION).encode()
    assert metadata.row_group(0).column(0).compression == "ZSTD"


# other people's tools -----------------------------------------------------------------------------

STARTED = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


@pytest.fixture
def two_rows(tmp_path, make_record):
    """A file with a measured row and a failed one."""
    return write(
        tmp_path / "two rows.parquet",
        make_record(started_at=STARTED, samples_s=[0.25, 0.5], power_w=Spread(200.0, 190.0, 220.0)),
        make_record(started_at=STARTED, samples_s=None, status="oom", reason="out of memory"),
    )


def test_pandas_reads_it_with_nothing_of_gpubench(two_rows):
    frame = pd.read_parquet(two_rows)
    assert list(frame["samples_s"][0]) == [0.25, 0.5]
    assert frame["samples_s"][1] is None
    assert frame["started_at"][0] == pd.Timestamp(STARTED)
    assert str(frame["started_at"].dtype.tz) == "UTC"
    assert dict(frame["params"][0])["precision"] == "fp32"
    assert frame["power_w"][0]["max"] == 220.0


def test_pyarrow_reads_it_with_nothing_of_gpubench(two_rows):
    ok, failed = pq.read_table(two_rows).to_pylist()
    assert ok["samples_s"] == [0.25, 0.5]
    assert ok["started_at"] == STARTED
    assert ok["power_w"] == asdict(Spread(200.0, 190.0, 220.0))
    assert failed["samples_s"] is None


def test_polars_reads_it_with_nothing_of_gpubench(two_rows):
    frame = pl.read_parquet(two_rows)
    assert frame["samples_s"].to_list() == [[0.25, 0.5], None]
    assert frame.schema["samples_s"] == pl.List(pl.Float64)
    assert frame["started_at"][0] == STARTED
    assert frame.schema["started_at"] == pl.Datetime("us", "UTC")
    assert frame.filter(pl.col("status") == "ok")["samples_s"].list.mean().to_list() == [0.375]


def test_duckdb_reads_it_with_nothing_but_sql(two_rows):
    # Epoch microseconds: DuckDB would ask for another library to hand out a zoned timestamp.
    columns = (
        "status, list_median(samples_s), epoch_us(started_at), params['precision'], power_w.max, "
        "typeof(started_at)"
    )
    query = f"SELECT {columns} FROM read_parquet(?) ORDER BY status"  # noqa: S608 - no input
    rows = duckdb.execute(query, [two_rows]).fetchall()
    micros = round(STARTED.timestamp() * 1e6)
    assert rows[0][:2] == ("ok", 0.375)
    assert rows[0][2] == micros
    assert rows[0][3] in ("fp32", ["fp32"])  # a map's entry was a list before DuckDB 1.3
    assert rows[0][4:] == (220.0, "TIMESTAMP WITH TIME ZONE")
    assert rows[1][:3] == ("oom", None, micros)


# older, newer, changed and foreign files ----------------------------------------------------------


def test_columns_that_an_older_file_lacks_are_null(tmp_path):
    path = as_parquet(
        tmp_path / "old.parquet", {"case_id": ["gemm"], "status": ["ok"], "samples_s": [[1.0]]}, 0
    )
    table = store.read(path)
    assert table.schema == store.schema()
    (row,) = table.to_pylist()
    assert row["case_id"] == "gemm"
    assert all(
        value is None
        for name, value in row.items()
        if name not in ("case_id", "status", "samples_s")
    )


def test_an_older_file_can_be_resumed(tmp_path):
    """What it leaves open takes the value of a fresh record; success is never made up."""
    path = as_parquet(tmp_path / "old.parquet", {"case_id": ["gemm", "conv"]}, 0)
    first, second = store.read_records(path)
    assert (first.attempt, first.trial, first.flags, first.params) == (1, 1, [], {})
    assert (first.status, second.status) == ("failed", "failed")


def test_columns_of_others_are_dropped(tmp_path, make_record):
    path = write(tmp_path / "a.parquet", make_record())
    table = pq.read_table(path)
    pq.write_table(table.append_column("mine", pa.array([{"x": 1}])), path)
    assert store.read(path).schema == store.schema()
    assert store.read_records(path) == [make_record()]


def test_narrower_types_of_the_same_meaning_are_accepted(tmp_path):
    """As other writers make them: dictionary text, 32-bit numbers, naive timestamps."""
    columns = {
        "case_id": pa.array(["gemm"]).dictionary_encode(),
        "card": pa.array(["x"], pa.large_string()),
        "trial": pa.array([3], pa.int32()),
        "samples_s": pa.array([[0.5]], pa.list_(pa.float32())),
        "started_at": pa.array([STARTED.replace(tzinfo=None)], pa.timestamp("ns")),
    }
    (row,) = store.read(as_parquet(tmp_path / "a.parquet", columns)).to_pylist()
    assert (row["case_id"], row["card"], row["trial"]) == ("gemm", "x", 3)
    assert row["samples_s"] == [0.5]
    assert row["started_at"] == STARTED


WRONG_TYPES = {
    "text for samples": {"samples_s": ["fast"]},
    "lists of text for samples": {"samples_s": [["fast"]]},
    "a number for a list": {"flags": [1]},
    "a list for a number": {"trial": [[1]]},
    "half a trial": {"trial": [1.5]},
    "a mapping for text": {"case_id": [{"a": 1}]},
    "text for a time": {"started_at": ["soon"]},
    "bytes that are no text": {"card": pa.array([b"\xff"], pa.binary())},
    "text for a mapping": {"params": ["fp32"]},
    "a number for a spread": {"power_w": [200.0]},
}


def make_truncated(path, record):
    data = Path(write(path, record)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def make_newer(path, record):
    as_parquet(path, {"case_id": ["gemm"]}, SCHEMA_VERSION + 1)


UNREADABLE = {
    "missing": (lambda path, record: None, "no such file", "path"),
    "folder": (lambda path, record: path.mkdir(), "is a directory", "path"),
    "empty": (lambda path, record: path.write_bytes(b""), "is empty", "--resume"),
    "truncated": (make_truncated, "damaged, cut short or not a Parquet file", "--resume"),
    "text": (lambda path, record: path.write_text("a,b\n1,2\n"), "not a Parquet", "--resume"),
    "magic bytes alone": (lambda path, record: path.write_bytes(b"PAR1PAR1"), "damaged", "again"),
    "foreign Parquet": (
        lambda path, record: as_parquet(path, {"x": [1]}, None),
        "not a gpubench result file",
        "gpubench run",
    ),
    "no version number": (
        lambda path, record: as_parquet(path, {"x": [1]}, "one"),
        "not a gpubench result file",
        "gpubench_schema_version",
    ),
    "absurd version": (
        lambda path, record: as_parquet(path, {"x": [1]}, "9" * 6000),
        "not a gpubench result file",
        "gpubench_schema_version",
    ),
    "newer": (make_newer, rf"version {SCHEMA_VERSION + 1}.* up to {SCHEMA_VERSION}", "pip install"),
    "a column twice": (
        lambda path, record: as_parquet(
            path, pa.Table.from_arrays([pa.array([1])] * 2, names=["trial", "trial"])
        ),
        "damaged",
        "again",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_error_with_its_remedy(kind, tmp_path, make_record):
    make, message, remedy = UNREADABLE[kind]
    path = tmp_path / "bad.parquet"
    make(path, make_record())
    for read in (store.read, store.read_records):
        with pytest.raises(UnreadableResult, match=message) as caught:
            read(str(path))
        assert str(path) in str(caught.value)
        assert remedy in caught.value.remedy


@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_a_column_of_the_wrong_type_is_named(kind, tmp_path):
    (column,) = WRONG_TYPES[kind]
    path = as_parquet(tmp_path / "bad.parquet", WRONG_TYPES[kind])
    with pytest.raises(UnreadableResult, match=column) as caught:
        store.read(path)
    assert "not written by gpubench" in caught.value.remedy


def test_text_that_is_no_text_is_unreadable_not_a_crash(tmp_path):
    said = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    path = as_parquet(tmp_path / "bad.parquet", {"card": said})
    with pytest.raises(UnreadableResult, match="damaged"):
        store.read(path)


def test_a_column_name_that_is_no_text_is_unreadable_not_a_crash(tmp_path):
    path = tmp_path / "bad.parquet"
    as_parquet(path, {"trial": [1], "damage_here": [1]})
    path.write_bytes(path.read_bytes().replace(b"damage_here", b"damage\xff\xfeere", 1))
    with pytest.raises(UnreadableResult, match="damaged"):
        store.read(str(path))


def test_a_time_that_no_calendar_has_is_unreadable_not_a_crash(tmp_path):
    beyond = pa.array([2**62]).cast(pa.timestamp("us", tz="UTC"))
    path = as_parquet(tmp_path / "bad.parquet", {"started_at": beyond})
    with pytest.raises(UnreadableResult, match="out of range"):
        store.read_records(path)
    assert store.examine(path)["valid"] is False


def test_a_file_without_permission_says_so(tmp_path, make_record, monkeypatch):
    """Simulated: who runs tests as root may read everything."""
    path = write(tmp_path / "a.parquet", make_record())

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableResult, match="permission denied"):
        store.read(path)


# damage -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of a file with three rows, one of them failed, and its records."""
    records = [
        Record(
            run_id="r",
            started_at=STARTED,
            case_id=f"gemm:{trial}",
            params={"größe": "1024"},
            trial=trial,
            samples_s=[0.01 * trial, 0.011, 0.012] * 4,
            flags=["short"],
            power_w=Spread(1.0, 2.0, 3.0),
            outcome={"loss": 0.5},
        )
        for trial in (1, 2)
    ]
    records.append(Record(case_id="conv", status="oom", reason="out of memory"))
    path = tmp_path_factory.mktemp("whole") / "a.parquet"
    write(path, *records)
    return path.read_bytes(), records


def readable(path):
    """The records, or None where the file is refused; anything else is a failed test."""
    try:
        return store.read_records(str(path))
    except UnreadableResult:
        return None


@IN_ONE_FOLDER
@given(share=st.floats(0, 1))
@example(share=0.0)
def test_a_file_cut_off_anywhere_is_unreadable_and_never_half_read(share, whole, tmp_path):
    data, _ = whole
    path = tmp_path / "cut.parquet"
    path.write_bytes(data[: min(len(data) - 1, int(share * len(data)))])
    assert readable(path) is None
    assert store.examine(str(path))["valid"] is False


@IN_ONE_FOLDER
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_refused_or_harmless_and_never_a_crash(flips, whole, tmp_path):
    data, _ = whole
    damaged = bytearray(data)
    for place, mask in flips:
        damaged[min(len(data) - 1, int(place * len(data)))] ^= mask
    path = tmp_path / "flipped.parquet"
    path.write_bytes(damaged)
    readable(path)
    store.examine(str(path))


FLIPPING = """
import sys
from pathlib import Path
from gpubench import store
from gpubench.errors import UnreadableResult
path = Path(sys.argv[1])
data = path.read_bytes()
footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
for at in range(footer, footer + 1500, 5):
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    try:
        store.read(str(path))
    except UnreadableResult:
        pass
"""


def test_no_damage_to_the_footer_ends_the_process(whole, tmp_path):
    """Arrow aborts where it does not expect an exception, which no handler of Python's catches."""
    path = tmp_path / "footer.parquet"
    path.write_bytes(whole[0])
    done = subprocess.run([sys.executable, "-c", FLIPPING, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@IN_ONE_FOLDER
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_among_the_numbers_is_never_read_as_another_number(
    place, mask, whole, tmp_path
):
    """Pages carry checksums: what is read is what was measured, or nothing is."""
    data, records = whole
    path = tmp_path / "flipped.parquet"
    path.write_bytes(data)
    group = pq.read_metadata(path).row_group(0)
    (samples,) = (
        group.column(index)
        for index in range(group.num_columns)
        if group.column(index).path_in_schema.startswith("samples_s.")
    )
    start = samples.dictionary_page_offset or samples.data_page_offset
    damaged = bytearray(data)
    damaged[start + int(place * samples.total_compressed_size)] ^= mask
    path.write_bytes(damaged)
    read = readable(path)
    assert read is None or [row.samples_s for row in read] == [row.samples_s for row in records]


@IN_ONE_FOLDER
@given(data=st.binary(max_size=200), framed=st.booleans())
def test_bytes_of_no_format_are_unreadable(data, framed, tmp_path):
    path = tmp_path / "noise.parquet"
    path.write_bytes(b"PAR1" + data + b"PAR1" if framed else data)
    assert readable(path) is None


# nothing is lost ----------------------------------------------------------------------------------


def test_after_each_row_the_file_on_disk_is_complete(tmp_path, make_record):
    path = tmp_path / "new" / "folder" / "a.parquet"
    writer = store.Writer(path)
    assert store.read_records(str(path)) == []
    written = []
    for trial in range(1, 8):
        record = make_record(trial=trial, samples_s=[0.1 * trial] * trial)
        writer.append(record)
        written.append(record)
        assert store.read_records(str(path)) == written
        assert leftovers(path.parent) == []


def test_a_resumed_file_keeps_its_earlier_rows(tmp_path, make_record):
    path = tmp_path / "a.parquet"
    write(path, make_record(trial=1))
    store.Writer(path, store.read_records(str(path))).append(make_record(trial=2))
    assert [record.trial for record in store.read_records(str(path))] == [1, 2]


APPEND_FOREVER = """
import sys
from pathlib import Path
from gpubench.record import Record
from gpubench.store import Writer

writer = Writer(Path(sys.argv[1]))
for trial in range(1, 1_000_000):
    writer.append(Record(case_id="gemm", trial=trial, samples_s=[0.001 * trial] * 50))
    print(trial, flush=True)
"""


@pytest.mark.parametrize("rows", [1, 4, 17])
def test_a_writer_killed_in_the_middle_leaves_every_row_it_acknowledged(rows, tmp_path):
    path = tmp_path / "a.parquet"
    command = [sys.executable, "-c", APPEND_FOREVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(rows):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        # What it said before it died counts as well.
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    assert process.returncode == -signal.SIGKILL
    trials = [record.trial for record in store.read_records(str(path))]
    assert trials == list(range(1, len(trials) + 1))
    assert acknowledged <= len(trials) <= acknowledged + 1


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullStream:
    """A file on a disk that has room for 100 more bytes."""

    def __init__(self, stream):
        self._stream, self._room = stream, 100

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            disk_full()
        return self._stream.write(data)


def fail_fsync(monkeypatch):
    monkeypatch.setattr(store.os, "fsync", disk_full)


def fail_write(monkeypatch):
    plain = Path.open
    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: FullStream(plain(*args, **kwargs)))


def fail_rename(monkeypatch):
    monkeypatch.setattr(Path, "replace", disk_full)


@pytest.mark.parametrize("fail", [fail_fsync, fail_write, fail_rename])
def test_a_full_disk_keeps_the_earlier_rows_and_leaves_no_litter(
    fail, tmp_path, make_record, monkeypatch
):
    path = tmp_path / "a.parquet"
    writer = store.Writer(path)
    writer.append(make_record(trial=1))
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(CannotWrite, match="No space left") as caught:
            writer.append(make_record(trial=2))
    assert str(path) in str(caught.value)
    assert "earlier rows are kept" in caught.value.remedy
    assert [record.trial for record in store.read_records(str(path))] == [1]
    assert leftovers(tmp_path) == []

    # Once there is room again, the row that did not fit is written with the next one.
    writer.append(make_record(trial=3))
    assert [record.trial for record in store.read_records(str(path))] == [1, 2, 3]


def test_no_permission_to_write_is_an_error_with_a_remedy(tmp_path, make_record, monkeypatch):
    """Simulated: who runs tests as root may write everywhere."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(CannotWrite, match="Permission denied") as caught:
            store.Writer(tmp_path / "a.parquet")
    assert "-o" in caught.value.remedy
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(CannotWrite, match="Permission denied"):
            store.Writer(tmp_path / "new" / "a.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place",
    [
        Path("file", "a.parquet"),  # below a file
        Path("folder"),  # a folder of that name is there
        Path("n" * 250 + ".parquet"),  # longer than file systems take
    ],
)
def test_a_place_that_no_file_can_have_is_an_error_with_a_remedy(place, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite) as caught:
        store.Writer(tmp_path / place)
    assert "-o" in caught.value.remedy
    assert leftovers(tmp_path) == []


# which files are meant ----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, make_record, monkeypatch):
    """The working folder, with result files in it and below."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.parquet", "a.parquet", "deep/er/c.parquet", "deep/[d].parquet"):
        write(tmp_path / name, make_record())
    (tmp_path / "deep" / "notes.txt").write_text("not a result file")
    (tmp_path / "deep" / ".a.parquet.1.partial").write_text("of a run that is going on")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["a.parquet"], ["a.parquet"]),
        (["*.parquet"], ["a.parquet", "b.parquet"]),
        (["b.parquet", "a.parquet"], ["b.parquet", "a.parquet"]),
        (["deep"], ["deep/[d].parquet", "deep/er/c.parquet"]),
        (["deep/"], ["deep/[d].parquet", "deep/er/c.parquet"]),
        (["d*p"], ["deep/[d].parquet", "deep/er/c.parquet"]),
        (["**/c.parquet"], ["deep/er/c.parquet"]),
        (["deep/[d].parquet"], ["deep/[d].parquet"]),  # the file, not the glob
        (["a.parquet", "*.parquet", "a.parquet"], ["a.parquet", "b.parquet"]),
        (["./a.parquet", "a.parquet"], ["a.parquet"]),
        (["deep", "deep/er"], ["deep/[d].parquet", "deep/er/c.parquet"]),
    ],
)
def test_files_globs_and_folders_stand_for_each_result_file_once(patterns, found, tree):
    assert store.expand(patterns) == found


@pytest.mark.parametrize("pattern", ["nowhere", "nowhere/*.parquet", "no?.parquet", "empty", ""])
def test_what_stands_for_no_file_is_an_error_that_quotes_it(pattern, tree):
    (tree / "empty").mkdir()
    with pytest.raises(UnreadableResult, match="no result file there") as caught:
        store.expand(["a.parquet", pattern])
    assert str(caught.value).startswith(pattern)
    assert "gpubench run" in caught.value.remedy


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_folder_is_passed_over_and_one_that_is_named_is_refused(tree):
    os.mkfifo(tree / "deep" / "z.parquet")
    assert store.expand(["deep"]) == ["deep/[d].parquet", "deep/er/c.parquet"]
    for pattern in ("deep/z.parquet", "deep/z*"):
        (path,) = store.expand([pattern])
        with pytest.raises(UnreadableResult, match="not a file"):
            store.read(path)


def test_links_that_lead_back_are_not_followed(tree):
    for number in range(9):  # two would do for 2⁴⁰ ways, none of which is longer than a path may be
        (tree / "deep" / f"loop{number}").symlink_to(tree)
    (tree / ".hidden").mkdir()
    (tree / ".hidden" / "c.parquet").write_bytes(b"")
    assert store.expand(["**/c.parquet"]) == ["deep/er/c.parquet"]
    assert store.expand([f"{tree}/**/c.parquet"]) == [f"{tree}/deep/er/c.parquet"]
    assert store.expand(["d*/**/[a-c]*.parquet"]) == ["deep/er/c.parquet"]


def test_a_name_longer_than_any_file_has_is_an_error(tree):
    with pytest.raises(UnreadableResult, match="too long"):
        store.expand(["n" * 5000])


def test_file_addresses_work_like_paths(tree, make_record):
    base = tree.as_uri()
    assert store.expand([f"{base}/a.parquet"]) == [f"{base}/a.parquet"]
    assert store.read_records(f"{base}/a.parquet") == [make_record()]
    inside = store.expand([f"{base}/deep"])
    assert len(inside) == 2
    assert [store.read(url).num_rows for url in inside] == [1, 1]


def test_addresses_of_names_with_spaces_and_signs_lead_to_their_files(tmp_path, make_record):
    folder = tmp_path / "with space #1"
    write(folder / "50% größer.parquet", make_record())
    (url,) = store.expand([folder.as_uri()])
    assert store.read_records(url) == [make_record()]


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://bucket/a.parquet",
        "file://other-host/a.parquet",
        "file:///with space",
        "://",
        "http://[",
    ],
)
def test_an_address_that_nothing_understands_is_unreadable_not_a_traceback(url):
    with pytest.raises(UnreadableResult) as caught:
        store.read(store.expand([url])[0])
    assert url in str(caught.value)
    assert caught.value.remedy


def test_an_address_without_a_file_is_unreadable(tmp_path):
    url = (tmp_path / "nowhere.parquet").as_uri()
    with pytest.raises(UnreadableResult, match="no such file"):
        store.read(store.expand([url])[0])


def test_a_store_that_does_not_answer_is_unreadable(monkeypatch):
    class Unreachable:
        def get_file_info(self, _):
            raise OSError("no credentials for bucket")

    monkeypatch.setattr(store, "_file_system", lambda url: (Unreachable(), "bucket/a"))
    with pytest.raises(UnreadableResult, match="no credentials"):
        store.expand(["s3://bucket/a"])


# what a file says ---------------------------------------------------------------------------------

CONTRADICTIONS = {
    "ok without samples": ({"samples_s": None}, "ok without samples"),
    "ok with no samples": ({"samples_s": []}, "ok without samples"),
    "failed with samples": ({"status": "oom", "reason": "out of memory"}, "oom with samples"),
    "failed in silence": ({"status": "failed", "samples_s": None}, "without a reason"),
    "unsupported in silence": ({"status": "unsupported", "samples_s": None}, "without a reason"),
    "zero seconds": ({"samples_s": [0.1, 0.0]}, "no positive times"),
    "negative seconds": ({"samples_s": [-0.1]}, "no positive times"),
    "not a number": ({"samples_s": [float("nan")]}, "no positive times"),
    "endless": ({"samples_s": [float("inf")]}, "no positive times"),
    "unknown seconds": ({"samples_s": [0.1, None]}, "no positive times"),
    "unknown status": ({"status": "great"}, "status 'great', which there is not"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_each_contradiction_is_found_and_names_its_case(kind, tmp_path, make_record):
    different, problem = CONTRADICTIONS[kind]
    path = write(tmp_path / "a.parquet", make_record(), make_record(case_id="bad", **different))
    found = store.examine(path)
    assert found["valid"] is False
    assert found["rows"] == 2
    assert found["problem"].startswith("bad ")
    assert problem in found["problem"]


def test_rows_that_make_sense_are_valid_and_counted(tmp_path, make_record):
    path = write(
        tmp_path / "a.parquet",
        make_record(),
        make_record(status="unsupported", reason="bf16 begins with Ampere", samples_s=None),
        make_record(status="crashed", reason="SIGKILL", samples_s=None),
    )
    assert store.examine(path) == {"file": path, "valid": True, "rows": 3, "problem": None}


HOSTILE = {
    "ANSI escapes": "\x1b[2J\x1b]0;owned\x07",
    "markup": "<script>alert(1)</script>",
    "rich markup": "[red]not red[/red]",
    "very long": "x" * 10_000,
    "SQL": "'; DROP TABLE results; --",
    "format": "{0.__class__} %s",
    "right to left": "\u202eexe.parquet",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_text_of_a_stranger_is_data_and_comes_back_as_it_was(kind, tmp_path, make_record):
    said = HOSTILE[kind]
    record = make_record(
        status="failed", reason=said, card=said, case_id=said, samples_s=None, params={said: said}
    )
    path = write(tmp_path / "a.parquet", record)
    assert store.read_records(path) == [record]
    assert store.examine(path)["valid"] is True


def test_every_annotation_of_the_record_has_a_column_type():
    """A new field with an annotation that no column can hold fails here, not on a user's disk."""
    for name, hint in HINTS.items():
        assert isinstance(store.arrow_type(hint), pa.DataType), name


def test_a_file_that_a_run_goes_on_replacing_is_read_whole(tmp_path, make_record):
    """Reading opens the file once; two openings would see two files."""
    path = tmp_path / "growing.parquet"
    writer = store.Writer(path)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            writer.append(make_record(samples_s=[0.1] * 50))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = [len(store.read_records(str(path))) for _ in range(60)]
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)


READ_AND_END = """
import sys
from gpubench import errors, store
try:
    store.read(sys.argv[1])
except errors.UnreadableResult as error:
    print(error)
"""


def test_a_process_that_read_a_file_ends_cleanly_at_once(tmp_path):
    """A thread of Arrow's that still held a Python stream aborted every second such process."""
    path = as_parquet(tmp_path / "a.parquet", store.schema().empty_table(), version=99)
    command = [sys.executable, "-c", READ_AND_END, str(path)]
    ends = [subprocess.run(command, capture_output=True, text=True) for _ in range(10)]
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 10
    assert all("schema version 99" in end.stdout for end in ends)
