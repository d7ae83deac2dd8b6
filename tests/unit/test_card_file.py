"""A user's own card: few keys are enough, the rest follows, and a slip is named with its key."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubench import card_file, cli
from gpubench.cards import CATALOGUE, GIB, Card, _card, catalogue, find_card, get_card
from gpubench.errors import UsageError

ROOT = Path(__file__).parents[2]
with CATALOGUE.open(encoding="utf-8", newline="") as lines:
    ROWS = {row["card_id"]: row for row in csv.DictReader(lines)}
#: whose tensor peaks don't follow from their boost clock: tests/unit/test_catalogue.py says why
APART = {
    *("nvidia-h100-pcie", "nvidia-h100-sxm5", "nvidia-h200-sxm", "nvidia-b200-sxm"),
    *("nvidia-l40", "nvidia-a10g"),
}
LAPTOP = {
    "name": "NVIDIA GeForce RTX 4060 Laptop GPU",
    "compute_capability": "8.9",
    "cuda_cores": 3072,
    "boost_clock_mhz": 2370,
    "memory_gib": 8,
    "memory_bandwidth_gbs": 256,
    "tdp_w": 115,
}


def toml(content):
    def text(value):
        if isinstance(value, str):
            return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'
        return str(value).lower() if isinstance(value, bool) else repr(value)

    return "".join(f"{key} = {text(value)}\n" for key, value in content.items())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write card files into a folder of the user's and read the catalogue anew."""
    folder = tmp_path / "mine" / "cards"
    folder.mkdir(parents=True)
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path / "mine"))

    def write(stem="my-card", /, text=None, **different):
        content = {key: value for key, value in (LAPTOP | different).items() if value is not None}
        path = folder / f"{stem}.toml"
        path.write_text(toml(content) if text is None else text, encoding="utf-8")
        catalogue.cache_clear()
        return path

    yield write
    catalogue.cache_clear()


# what it is good for ------------------------------------------------------------------------------


def test_it_is_a_card_like_the_others(own):
    own()
    card = get_card("my-card")
    assert (card.name, card.architecture, card.sm_count) == (LAPTOP["name"], "Ada", 24)
    assert card.memory_bytes == 8 * GIB
    assert card.peak_flops("fp32") == pytest.approx(2 * 3072 * 2370e6)
    assert card.own
    assert not get_card("tesla-t4").own
    assert len(catalogue()) == len(ROWS) + 1


def test_it_is_found_by_what_its_driver_says(own):
    own(name_aliases=["Some Other Name"])
    for name in (LAPTOP["name"], "GeForce RTX 4060 Laptop GPU", "some other name"):
        assert find_card(name, int(7.75 * GIB)).card_id == "my-card"
    assert find_card(LAPTOP["name"], 16 * GIB) is None
    assert find_card(LAPTOP["name"], 8 * GIB, bandwidth=1.0).card_id == "my-card"


def test_where_it_is_a_card_of_the_catalogue_it_comes_first(own):
    t4 = {"name": "Tesla T4", "compute_capability": "7.5", "memory_gib": 16}
    own(**t4, cuda_cores=2560, boost_clock_mhz=1000, tdp_w=50)
    assert find_card("Tesla T4", 16 * GIB).card_id == "my-card"
    own("tesla-t4", **t4, cuda_cores=2560, boost_clock_mhz=900, tdp_w=50)
    assert get_card("tesla-t4").boost_clock_hz == 900e6


def test_a_card_of_a_shared_name_is_told_apart_by_its_memory(own):
    """The RTX 3060 with 8 GB is not in the catalogue: it has two thirds of the bandwidth."""
    smaller = {"name": "NVIDIA GeForce RTX 3060", "compute_capability": "8.6"}
    own(**smaller, cuda_cores=3584, boost_clock_mhz=1777, memory_bandwidth_gbs=240, tdp_w=170)
    assert find_card("NVIDIA GeForce RTX 3060", 8 * GIB).card_id == "my-card"
    assert find_card("NVIDIA GeForce RTX 3060", 12 * GIB).card_id == "geforce-rtx-3060-12gb"


def test_it_may_lie_in_the_settings_folder(tmp_path, monkeypatch):
    folder = tmp_path / "config" / "gpubench" / "cards"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(toml(LAPTOP))
    catalogue.cache_clear()
    try:
        assert "mine" in catalogue()
    finally:
        catalogue.cache_clear()


def test_the_page_shows_one_that_works(own):
    page = (ROOT / "docs/commands.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (example,) = [text for text in examples if "compute_capability" in text]
    own(text=example)
    assert get_card("my-card").own


# what follows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("card_id", sorted(set(ROWS) - APART))
def test_of_every_card_of_the_catalogue_the_peaks_follow_from_what_is_needed(card_id, own):
    """The rules against 72 rows that were collected without them."""
    row = ROWS[card_id]
    numbers = ("cuda_cores", "boost_clock_mhz", "memory_gib", "memory_bandwidth_gbs", "tdp_w")
    path = own(
        name=row["name"],
        compute_capability=row["compute_capability"],
        **{key: float(row[key]) for key in numbers},
    )
    found, known = _card(card_file.row(path)), catalogue()[card_id]
    assert (found.architecture, found.sm_count) == (known.architecture, known.sm_count)
    # INT8 of chips without tensor cores (DP4A) is in neither.
    assert set(found.peaks) == set(known.peaks)
    for precision, peak in known.peaks.items():
        assert found.peaks[precision] == pytest.approx(peak, rel=0.02), precision


@pytest.mark.parametrize("left_out", card_file.CLOCKED)
def test_of_cores_clock_and_rate_two_give_the_third(left_out, own):
    path = own(**{"fp32_tflops": 14.56} | {left_out: None})
    card = _card(card_file.row(path))
    assert card.peaks["fp32"] == pytest.approx(14.56e12, rel=0.001)
    assert card.boost_clock_hz == pytest.approx(2370e6, rel=0.001)
    assert card.sm_count == 24


def test_what_is_said_is_not_derived(own):
    card = _card(card_file.row(own(fp16_tensor_tflops_dense_fp32acc=40.0, l2_mib=32, sm_count=24)))
    assert card.peaks["fp16"] == 40e12
    assert card.cache_bytes == 32 * 2**20
    assert card.peaks["bf16"] == pytest.approx(24 * 512 * 2370e6)


def test_a_chip_that_nobody_knows_yet_has_to_say_more(own):
    path = own(compute_capability="13.0")
    for key in card_file.UNRULED:
        with pytest.raises(UsageError, match=rf"my-card.toml: {key} is needed"):
            card_file.row(path)
        known = {"architecture": "Rubin", "sm_count": 24, "fp64_tflops": 0.3}
        known["fp16_tensor_tflops_dense_fp32acc"] = 99.0
        so_far = card_file.UNRULED[: card_file.UNRULED.index(key) + 1]
        path = own(compute_capability="13.0", **{name: known[name] for name in so_far})
    assert _card(card_file.row(path)).peak_flops("fp16") == 99e12


# what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", card_file.NEEDED)
def test_what_is_needed_is_named(key, own):
    with pytest.raises(UsageError, match=rf"my-card.toml: {key} is needed") as caught:
        card_file.row(own(**{key: None}))
    assert "docs/commands.md" in caught.value.remedy


@pytest.mark.parametrize(
    ("different", "key", "problem"),
    [
        ({"memory_gib": "8"}, "memory_gib", "a number from 0.5 to"),
        ({"memory_gib": 8192}, "memory_gib", "a number from 0.5 to"),  # MiB
        ({"memory_gib": True}, "memory_gib", "a number"),
        ({"memory_gib": -8}, "memory_gib", "a number"),
        ({"tdp_w": float("nan")}, "tdp_w", "a number"),
        ({"tdp_w": float("inf")}, "tdp_w", "a number"),
        ({"boost_clock_mhz": 2.37}, "boost_clock_mhz", "from 100"),  # GHz
        ({"memory_bandwidth_gbs": [256]}, "memory_bandwidth_gbs", "a number"),
        ({"cuda_cores": 3072.5}, "cuda_cores", "a whole number"),
        ({"cuda_cores": None}, "cuda_cores", "two of"),
        ({"fp32_tflops": 30.0}, "fp32_tflops", "should be 14.6"),
        ({"name": ""}, "name", "text in quotes"),
        ({"name": 4060}, "name", "text in quotes"),
        ({"compute_capability": 8.9}, "compute_capability", "text in quotes"),
        ({"compute_capability": "sm_89"}, "compute_capability", 'such as "8.9"'),
        ({"architecture": "Ampere"}, "architecture", "should be Ada"),
        ({"launch_date": "2023"}, "launch_date", "a year and a month"),
        ({"name_aliases": "one"}, "name_aliases", "a list of names"),
        ({"name_aliases": [1]}, "name_aliases", "a list of names"),
    ],
)
def test_a_slip_is_named_with_its_file_and_key(different, key, problem, own):
    with pytest.raises(UsageError, match=rf"my-card\.toml: {key} ") as caught:
        card_file.row(own(**different))
    assert problem in str(caught.value)


def test_a_key_that_no_column_has_is_answered_with_the_nearest(own):
    with pytest.raises(UsageError, match="no column of the catalogue is named 'memory_gb'") as it:
        card_file.row(own(memory_gb=8))
    assert "did you mean memory_gib?" in it.value.remedy


@pytest.mark.parametrize("words", [["list", "cards"], ["devices"], ["list", "published"]])
def test_no_command_has_a_traceback_for_a_file_that_is_not_toml(words, own, capsys):
    own(text="name = NVIDIA\n")
    status = cli.main(words)
    out = capsys.readouterr().err
    # Others' results need no card.
    assert status == (0 if "published" in words else 2)
    assert ("my-card.toml is not valid TOML" in out) is (status == 2)


keys = st.sampled_from([*card_file.NUMBERS, *card_file.WORDS, "name_aliases"]) | st.text(max_size=9)
values = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats()
    | st.text(max_size=12)
    | st.lists(st.text(max_size=5), max_size=3)
)


def made(path):
    try:
        return card_file.row(path)
    except UsageError as error:
        return error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(different=st.dictionaries(keys, values, max_size=4))
def test_whatever_a_file_says_it_is_a_card_or_a_usage_error(different, monkeypatch):
    content = {key: value for key, value in (LAPTOP | different).items() if value is not None}
    monkeypatch.setattr(card_file.plugins, "read_toml", lambda _: dict(content))
    found = made(Path("any.toml"))
    if isinstance(found, UsageError):
        assert "any.toml" in str(found)
        return
    card = _card(found)
    assert isinstance(card, Card)
    assert all(0 < peak < float("inf") for peak in card.peaks.values())
    assert card.nominal_s(1e12, 1e9, "fp16") > 0
