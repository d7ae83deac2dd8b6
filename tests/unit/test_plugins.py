"""One new file is an extension; a broken one is an error with its name and the way out."""

import os
import sys

import pytest

from gpubench import plugins
from gpubench.errors import EnvironmentRefused, UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make folders of the user's own extensions, in the order in which they are searched."""
    made = []

    def folder(name, **files):
        for path, text in files.items():
            kind, _, stem = path.partition("__")
            place = tmp_path / name / kind / stem.replace("_dot_", ".")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(str(tmp_path / name))
        monkeypatch.setenv("GPUBENCH_PATH", os.pathsep.join(made))
        return tmp_path / name

    return folder


# what is found ------------------------------------------------------------------------------------


def test_one_new_file_is_an_extension_beside_the_shipped_ones(folder):
    shipped = set(plugins.files("profiles", ".toml")), set(plugins.files("workloads", ".py"))
    folder("mine", profiles__mine_dot_toml="summary = 'mine'", workloads__mine_dot_py="VALUE = 7")
    assert set(plugins.files("profiles", ".toml")) == shipped[0] | {"mine"}
    assert set(plugins.files("workloads", ".py")) == shipped[1] | {"mine"}
    assert plugins.find("profiles", "mine", ".toml").parent.parent.name == "mine"
    assert plugins.module("workloads", "mine").VALUE == 7


def test_shipped_folders_come_first_and_then_the_users_in_their_order(folder):
    second = folder("b", suites__one_dot_toml="")
    third = folder("a", suites__two_dot_toml="")
    found = plugins.folders("suites")
    assert found == [plugins.PACKAGE / "suites", second / "suites", third / "suites"]


def test_extensions_are_listed_by_name_wherever_they_lie(folder):
    folder("b", figures__zebra_dot_py="", figures__ant_dot_py="")
    folder("a", figures__middle_dot_py="")
    names = list(plugins.files("figures", ".py"))
    assert names == sorted(names)
    assert {"ant", "middle", "zebra"} <= set(names)


def test_underscores_and_dots_hide_a_file_and_other_suffixes_are_none(folder):
    folder(
        "mine",
        profiles___shared_dot_toml="",
        profiles___dot_hidden_dot_toml="",
        profiles__notes_dot_txt="",
        profiles__seen_dot_toml="",
    )
    files = plugins.files("profiles", ".toml")
    assert "seen" in files
    assert {"_shared", ".hidden", "notes"}.isdisjoint(files)


def test_the_settings_folder_holds_extensions_too_before_those_of_the_path(folder, tmp_path):
    settings = tmp_path / "config" / "gpubench"
    (settings / "suites").mkdir(parents=True)
    (settings / "suites" / "own.toml").write_text("")
    mine = folder("mine", suites__other_dot_toml="")
    assert plugins.settings() == settings
    assert plugins.folders("suites")[1:] == [settings / "suites", mine / "suites"]
    assert {"own", "other"} <= set(plugins.files("suites", ".toml"))


def test_a_user_without_a_home_has_no_settings_and_the_other_extensions(monkeypatch):
    """As in a container under a bare user number."""

    def refuse():
        raise RuntimeError("Could not determine home directory.")

    shipped = plugins.folders("suites")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(plugins.Path, "home", refuse)
    with pytest.raises(EnvironmentRefused, match="no folder for settings") as caught:
        plugins.settings()
    assert "XDG_CONFIG_HOME" in caught.value.remedy
    assert plugins.folders("suites") == shipped


@pytest.mark.parametrize("path", ["", os.pathsep, os.pathsep.join(["", "nowhere", ""])])
def test_empty_entries_and_folders_that_are_not_there_are_passed_over(path, monkeypatch, tmp_path):
    """An empty entry must not stand for the working folder."""
    shipped = {kind: plugins.folders(kind) for kind in plugins.KINDS}
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUBENCH_PATH", path)
    assert {kind: plugins.folders(kind) for kind in plugins.KINDS} == shipped


def test_folders_of_names_that_no_file_system_takes_are_passed_over(monkeypatch):
    shipped = {kind: plugins.folders(kind) for kind in plugins.KINDS}
    monkeypatch.setenv("GPUBENCH_PATH", "n" * 5000)
    monkeypatch.setenv("XDG_CONFIG_HOME", "n" * 5000)
    assert {kind: plugins.folders(kind) for kind in plugins.KINDS} == shipped


def test_an_entry_that_is_listed_twice_counts_once(folder, monkeypatch):
    mine = folder("mine", profiles__mine_dot_toml="")
    monkeypatch.setenv("GPUBENCH_PATH", os.pathsep.join([str(mine), str(mine)]))
    assert "mine" in plugins.files("profiles", ".toml")


def test_every_kind_but_kernels_ships_inside_the_package():
    # No profile is shipped yet, and the package's cards are the rows of its catalogue.
    for kind in set(plugins.KINDS) - {"kernels", "profiles", "cards"}:
        assert plugins.folders(kind)[:1] == [plugins.PACKAGE / kind]


@pytest.mark.parametrize("installed", [False, True])
def test_kernels_lie_in_the_package_once_installed_and_beside_it_in_a_checkout(
    installed, tmp_path, monkeypatch
):
    package = tmp_path / ("site-packages" if installed else "bench") / "gpubench"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(plugins, "PACKAGE", package)
    place = package / "kernels" if installed else tmp_path / "kernels"
    place.mkdir()
    assert plugins.checkout() == (None if installed else tmp_path)
    assert plugins.folders("kernels") == [place]


# modules ------------------------------------------------------------------------------------------


def test_a_module_is_imported_once(folder):
    folder("mine", figures__once_dot_py="MADE = object()")
    assert plugins.module("figures", "once") is plugins.module("figures", "once")
    assert plugins.module("figures", "once") in list(plugins.modules("figures"))


def test_a_users_module_shadows_nothing_that_others_import(folder):
    folder("mine", figures__json_dot_py="MINE = True")
    import json

    assert plugins.module("figures", "json").MINE
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of"),
        ("def (:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = '\x00'", "null bytes"),
    ],
)
def test_a_module_that_fails_on_import_is_named_with_its_error_and_the_way_out(text, says, folder):
    mine = folder("mine", figures__broken_dot_py=text)
    with pytest.raises(UsageError, match="failed on import") as caught:
        plugins.module("figures", "broken")
    assert str(mine / "figures" / "broken.py") in str(caught.value)
    assert says in str(caught.value)
    assert "GPUBENCH_PATH" in caught.value.remedy
    assert "gpubench_figures_broken" not in sys.modules


def test_a_mended_module_is_imported_on_the_next_try(folder):
    mine = folder("mine", figures__mended_dot_py="1 / 0")
    with pytest.raises(UsageError, match="mended"):
        plugins.module("figures", "mended")
    (mine / "figures" / "mended.py").write_text("VALUE = 1  # another length than before\n")
    assert plugins.module("figures", "mended").VALUE == 1


# names --------------------------------------------------------------------------------------------


def test_two_files_of_one_name_are_refused_with_both_paths(folder):
    first = folder("one", profiles__mine_dot_toml="")
    second = folder("two", profiles__mine_dot_toml="")
    with pytest.raises(UsageError, match="two profiles are named 'mine'") as caught:
        plugins.files("profiles", ".toml")
    for mine in (first, second):
        assert str(mine / "profiles" / "mine.toml") in str(caught.value)
    assert "rename" in caught.value.remedy


def test_a_shipped_extension_cannot_be_replaced_in_silence(folder):
    folder("mine", workloads__gemm_dot_py="")
    with pytest.raises(UsageError, match="two workloads are named 'gemm'"):
        plugins.files("workloads", ".py")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("balanecd", "did you mean 'balanced'? "),
        ("Balanced", "did you mean 'balanced'? "),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_there_are(
    name, hint, tmp_path, monkeypatch
):
    folder = tmp_path / "profiles"
    folder.mkdir()
    for known in ("balanced", "training"):
        (folder / f"{known}.toml").write_text("")
    monkeypatch.setattr(plugins, "folders", lambda kind: [folder])
    with pytest.raises(UsageError, match=f"no profile is named '{name}'") as caught:
        plugins.find("profiles", name, ".toml")
    assert caught.value.remedy == f"{hint}known: balanced, training"


def test_of_many_names_the_listing_is_named_instead(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / f"suite{number}.toml").write_text("")
    monkeypatch.setattr(plugins, "folders", lambda kind: [tmp_path])
    with pytest.raises(UsageError) as caught:
        plugins.find("suites", "nightly", ".toml")
    assert caught.value.remedy == "`gpubench list suites` shows all 30"


# TOML ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2", b"\xff\xfe", b"[section", b"\x00"])
def test_toml_that_is_none_is_refused_with_its_path(content, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not valid TOML") as caught:
        plugins.read_toml(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a=" + "[" * 60_000, "recursion"),
        ("a=" + "9" * 5000, "digits"),
        ("a=0x" + "f" * 4000, "beyond 64 bits"),
        ("a=[{b=-0x" + "f" * 17 + "}]", "is not valid TOML"),
        ("a=[{b=-9223372036854775809}]", "beyond 64 bits"),
        (".".join("a" * 30) + "=1", "deeper than 20 levels"),
        (" " * (2**16 + 1), "too large"),
    ],
    ids=range(7),
)
def test_toml_that_nothing_can_work_with_is_refused_with_its_path(content, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        plugins.read_toml(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.remedy
    path.write_text("a = [-9223372036854775808, 9223372036854775807, [[[[1]]]]]")
    assert plugins.read_toml(path)["a"][:2] == [-(2**63), 2**63 - 1]


def test_toml_that_is_not_there_is_refused_with_its_path(tmp_path):
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(UsageError) as caught:
            plugins.read_toml(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert caught.value.remedy == "check the path"
