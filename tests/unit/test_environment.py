"""Where it ran, without saying whose machine it is."""

import getpass
import hashlib
import os
import platform
import re
import socket
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import environment
from gpubench.device import Device, DeviceInfo
from gpubench.environment import describe, without_identity
from gpubench.record import Record

HOST, USER, HOME = "gauss-ws17", "carlfriedrich", "/data/people/cfg1777"
UUID = "GPU-5d6ba0a2-1f4e-4f5b-9a35-0123456789ab"


class FakeDevice(Device):
    """A device that says everything that a device can say."""

    info = DeviceInfo(
        name="fake:0",
        backend="fake",
        card="Fake card",
        card_id="fake-card",
        architecture="Ada",
        memory_bytes=24 * 2**30,
        cache_bytes=72 * 2**20,
        compute_capability="8.9",
        uuid=UUID,
        driver="570.1",
        power_limit_w=450.0,
        ecc=False,
        pcie="4.0 x16",
    )

    def unsupported(self, precision):
        return None

    def flush(self):
        return None

    def expected_s(self, work, precision):
        return None


class Anonymous(FakeDevice):
    info = DeviceInfo("fake:1", "fake", "Fake card", "fake-card", "Ada")


@pytest.fixture(autouse=True)
def somebody(monkeypatch):
    """A machine, a user and a home whose names would be noticed."""
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    for variable, value in {"HOME": HOME, "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST}.items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def machine(monkeypatch):
    """A machine of known identity."""
    monkeypatch.setattr(environment, "_machine_identity", lambda: "the one and only")


def installation(monkeypatch, folder):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))


# what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("identify", [False, True])
def test_nothing_kept_names_the_machine_its_user_or_a_folder(identify):
    real = {os.uname().nodename, str(Path(__file__).parent), str(Path.cwd())}
    for column, value in describe(FakeDevice(), identify=identify).items():
        for secret in {HOST, USER, HOME, UUID, *real} - {""}:
            assert secret not in str(value), column
        assert not re.search(r"/\w+/", str(value)), column


def test_every_fact_is_a_column_of_the_record_with_its_type():
    facts = describe(FakeDevice())
    hints = get_type_hints(Record)
    assert set(facts) <= set(hints)
    for column, value in facts.items():
        assert isinstance(value, hints[column]), column
    assert Record(**facts).card_id == "fake-card"


def test_what_the_device_says_is_kept_but_for_its_name_and_cache():
    facts = describe(FakeDevice())
    assert facts["provenance"] == "measured"
    assert (facts["driver"], facts["pcie"], facts["ecc"]) == ("570.1", "4.0 x16", False)
    assert facts["memory_bytes"] == 24 * 2**30
    assert {"name", "cache_bytes", "uuid"}.isdisjoint(facts)


def test_what_the_device_leaves_open_stays_unknown():
    facts = describe(Anonymous())
    unknown = ("device_uuid_hash", "driver", "power_limit_w", "ecc", "memory_bytes")
    assert [facts[column] for column in unknown] == [None] * len(unknown)


# hashes -------------------------------------------------------------------------------------------


def hashes(**options):
    facts = describe(FakeDevice(), **options)
    return facts["host_hash"], facts["device_uuid_hash"]


def test_hashes_are_the_same_within_an_installation(machine):
    assert hashes() == hashes()
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in hashes())


def test_hashes_differ_between_installations(machine, monkeypatch, tmp_path):
    """So that a stranger can't look a machine up by hashing what he guesses."""
    found = set()
    for name in ("one", "two", "three"):
        installation(monkeypatch, tmp_path / name)
        found |= set(hashes())
    assert len(found) == 6


def test_hashes_tell_machines_and_cards_apart(monkeypatch):
    found = []
    for identity in ("this one", "that one"):
        monkeypatch.setattr(environment, "_machine_identity", lambda identity=identity: identity)
        found.append(hashes())
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]
    assert found[0][0] != found[0][1]


def test_identified_hashes_are_the_same_in_every_installation(machine, monkeypatch, tmp_path):
    installation(monkeypatch, tmp_path / "one")
    first, salted = hashes(identify=True), hashes()
    installation(monkeypatch, tmp_path / "two")
    assert hashes(identify=True) == first
    assert set(first).isdisjoint(salted)
    # BLAKE2b of the identity alone, so that other programs can make them, too.
    expected = hashlib.blake2b(b"the one and only", digest_size=8).hexdigest()
    assert first[0] == expected


def test_the_salt_lies_in_the_home_where_no_folder_is_named(machine, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = hashes()
    assert (tmp_path / "home" / ".config" / "gpubench" / "salt").stat().st_size == 16
    assert hashes() == first


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 100])
def test_half_a_salt_is_replaced_and_never_taken_for_none(content, machine, monkeypatch, tmp_path):
    """As a full disk or a dying machine leaves it; without salt the hash would be the open one."""
    installation(monkeypatch, tmp_path)
    path = tmp_path / "gpubench" / "salt"
    path.parent.mkdir()
    path.write_bytes(content)
    found = hashes()
    assert found == hashes()
    assert set(found).isdisjoint(hashes(identify=True))
    assert [entry.name for entry in path.parent.iterdir()] == ["salt"]


def test_a_folder_that_cannot_be_written_costs_recognition_and_nothing_else(
    machine, monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    installation(monkeypatch, tmp_path / "file")
    first, second = hashes(), hashes()
    assert set(first).isdisjoint(second)
    assert set(first).isdisjoint(hashes(identify=True))


def test_a_user_without_a_home_can_measure(machine, monkeypatch):
    """As in a container under a bare user number."""

    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", refuse)
    assert len(hashes()[0]) == 16


# facts about the machine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("model name\t: Fast 9000\ncache size\t: 1 KB\n\nmodel name\t: Slow\n", "Fast 9000"),
        ("CPU implementer\t: 0x41\n", None),
        ("", None),
    ],
)
def test_the_processor_is_the_first_cores(content, facts, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: content)
    assert environment.processor_facts().get("model name") == facts
    assert environment.processor_name().endswith(f"({environment.core_count()} cores)")
    if facts:
        assert environment.processor_name().startswith(facts)


def test_an_installed_package_has_no_commit(monkeypatch):
    monkeypatch.setattr(environment.plugins, "checkout", lambda: None)
    assert {"commit", "dirty"}.isdisjoint(describe(FakeDevice()))


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "commit" not in describe(FakeDevice())


# other people's error messages --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("out of memory", "out of memory"),
        ("tried 2.5 GiB / 24 GiB at 1.2 GB/s", "tried 2.5 GiB / 24 GiB at 1.2 GB/s"),
        (f"can't open {HOME}/models/bert.bin: no", "can't open …/bert.bin: no"),
        (f"can't open {HOME}: no", "can't open /home: no"),
        (f"in {HOME}/my project/run.py", "in …/run.py"),
        (f"/scratch/{USER}/x.so: undefined symbol", "…/x.so: undefined symbol"),
        (f"user {USER} on {HOST} may not", "user USER on HOST may not"),
        (f"{HOST.upper()}: refused", "HOST: refused"),
        (f"{HOST}.example.org: refused", "HOST.example.org: refused"),
        (r"C:\Users\carlfriedrich\x.dll is missing", "…/x.dll is missing"),
        ('File "/usr/lib/python3.12/site-packages/torch/nn.py", line 3', 'File "…/nn.py", line 3'),
    ],
)
def test_names_and_folders_are_taken_out_and_the_rest_stays(text, clean):
    assert without_identity(text) == clean


def test_of_a_long_host_name_the_short_form_is_taken_out_too(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.cluster.example.org")
    assert without_identity("node17: cannot reach node17.cluster.example.org") == (
        "HOST: cannot reach HOST"
    )


def test_a_machine_without_user_or_host_name_changes_nothing(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    monkeypatch.setenv("HOME", "/")
    assert without_identity("a / b: at 3/4 of it") == "a / b: at 3/4 of it"


names = st.text("abcXYZ019äß_-.+=~, ()#", min_size=1, max_size=12)


@given(before=st.text(max_size=20), folders=st.lists(names, max_size=4), after=st.text(max_size=20))
def test_no_text_keeps_the_home_the_user_or_the_host(before, folders, after):
    path = "/".join([HOME, *folders])
    text = without_identity(f"{before} {path} {USER} {HOST} {after}")
    for secret in (HOME, "cfg1777", USER, HOST):
        assert secret not in text
