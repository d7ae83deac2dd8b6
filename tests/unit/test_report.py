"""The page: whole without a network, honest about what is missing, deaf to hostile strings."""

import base64
import gzip
import hashlib
import itertools
import json
import math
import re
import shutil
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib import import_module

import numpy as np
import pytest

from gpubench import page, plugins, report, store, table
from gpubench.errors import CannotWrite, UsageError
from gpubench.figures import _panels, samples
from gpubench.names import case_labels, natural
from gpubench.report import render_report, write_report
from gpubench.series import COLORS, series_of

# Without those that need many runs, certain cards or all cases of a profile: test_history.py,
# test_beside.py and test_scoreboard.py hold them to the contract.
FIGURES = [
    import_module(f"gpubench.figures.{name}")
    for name in plugins.files("figures", ".py")
    if name not in ("history", "published", "pareto")
]
CARDS = {
    "4090": {
        "run_id": "run-4090",
        "card_id": "geforce-rtx-4090",
        "card": "NVIDIA GeForce RTX 4090",
        "architecture": "Ada",
    },
    "1080": {
        "run_id": "run-1080",
        "card_id": "geforce-gtx-1080-ti",
        "card": "NVIDIA GeForce GTX 1080 Ti",
        "architecture": "Pascal",
    },
}
VIRTUAL = {"provenance": "virtual", "backend": "virtual", "timer": "virtual"}
OUT_OF_MEMORY = {"status": "oom", "reason": "12 GiB were not there", "samples_s": None}
LACKING = {"status": "unsupported", "reason": "bf16 begins with Ampere", "samples_s": None}
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '<a href="javascript:alert(4)">click</a>',
    '" onmouseover="alert(5)',
    "</title></style></details><iframe src='https://example.invalid'></iframe>",
    "$title ${payload} %{customdata} &lt;b&gt;",
    "tab\tnull\x00bell\x07right-to-left\u202eline\u2028separator",
]


def gemm(size=1024, precision="fp32", seconds=0.01, **different):
    shape = size if isinstance(size, str) else f"{size}x{size}x{size}"
    M, N, K = map(int, shape.split("x"))
    jitter = itertools.cycle([1.0, 1.01, 0.99, 1.005])
    return {
        "case_id": f"gemm:shape={shape},precision={precision}",
        "params": {"shape": shape, "precision": precision},
        "samples_s": [seconds * next(jitter) for _ in range(12)],
        "flops": 2.0 * M * N * K,
        "bytes": 4.0 * (M * N + N * K + M * K),
    } | different


def mnist(batch=64, seconds=0.001, **different):
    return {
        "workload": "mnist",
        "case_id": f"mnist:batch={batch},precision=fp32",
        "params": {"batch": str(batch), "precision": "fp32"},
        "samples_s": [seconds, 1.02 * seconds, 0.99 * seconds] * 4,
        "cache": "hot",
        "flops": 1e6 * batch,
        "bytes": 1e5 * batch,
        "items": float(batch),
        "item": "image",
    } | different


def memory(seconds=0.02, **different):
    return {
        "workload": "memory",
        "case_id": "memory:operation=copy,precision=fp32",
        "params": {"operation": "copy", "precision": "fp32"},
        "samples_s": [seconds, 1.01 * seconds, 0.98 * seconds] * 4,
        "flops": 0.0,
        "bytes": 2.0**29,
    } | different


@pytest.fixture
def load(tmp_path, make_record):
    """The frame of rows with these differences, through files of these names."""

    def load(*rows, **files):
        for name, records in (files or {"results": rows}).items():
            made = [make_record(**different) for different in records]
            store.Writer(tmp_path / f"{name}.parquet", made)
        return table.load([str(tmp_path / f"{name}.parquet") for name in files or ["results"]])

    return load


def usual_rows():
    """A bit of everything: two cards, precisions, sizes, a failure, a case not supported."""
    for card in CARDS.values():
        for size, precision, trial in itertools.product((512, 1024), ("fp32", "fp16"), (1, 2)):
            seconds = 1e-12 * size**3 / (1 + (precision == "fp16"))
            yield card | gemm(size, precision, seconds, trial=trial)
        yield card | gemm("4096x3072x768", flags=["unsettled"])
        yield card | mnist()
    yield CARDS["4090"] | memory()
    yield CARDS["1080"] | memory() | OUT_OF_MEMORY
    yield CARDS["4090"] | gemm(1024, "bf16")
    yield CARDS["1080"] | gemm(1024, "bf16") | LACKING


# What many tests look at and none changes, made once.
MADE = {}


@pytest.fixture
def usual(load):
    if "usual" not in MADE:
        MADE["usual"] = load(*usual_rows())
    return MADE["usual"]


@pytest.fixture
def usual_page(usual):
    if "usual page" not in MADE:
        MADE["usual page"] = render_report(usual)
    return MADE["usual page"]


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text, and each script's content."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.scripts = []
        self.text = ""
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append([dict(attributes), ""])

    def handle_endtag(self, tag):
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self._open[-1:]:
            self.scripts[-1][1] += data
        elif "style" not in self._open[-1:]:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def with_class(self, name):
        return [e for e in self.elements if name in (e[1].get("class") or "").split()]

    def data(self, identity):
        return next(text for attributes, text in self.scripts if attributes.get("id") == identity)


def section(text, name):
    return re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)[0]


def strings(value):
    """Every string in a figure's JSON."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def values(array):
    return [] if array is None else [float(x) for x in np.asarray(array, dtype=float)]


# self-contained -----------------------------------------------------------------------------------


def test_nothing_is_loaded_from_anywhere(usual_page):
    found = Page(usual_page)
    loading = {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
        "source",
    }
    assert not {tag for tag, _ in found.elements} & loading
    for _, attributes in found.elements:
        assert "src" not in attributes
        assert not attributes.get("href", "#").strip() or attributes.get("href", "#")[0] == "#"
    style = re.search(r"<style>(.*?)</style>", usual_page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_only_the_pages_own_scripts_run(usual_page):
    found = Page(usual_page)
    policy = next(m["content"] for m in found.all("meta") if "http-equiv" in m)
    directives = dict(part.split(maxsplit=1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    library = gzip.decompress(base64.b64decode(found.data("plotly-js")))
    own = [text for attributes, text in found.scripts if "type" not in attributes]
    assert len(own) == 1
    digests = [
        base64.b64encode(hashlib.sha256(text).digest()).decode()
        for text in (own[0].encode(), library)
    ]
    assert directives["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_plotly_is_inside_once_and_packed(usual_page):
    from plotly.offline import get_plotlyjs

    packed = Page(usual_page).data("plotly-js")
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert usual_page.count(packed[:200]) == 1
    assert len(usual_page) < 2_500_000


def test_no_button_sends_a_figure_to_plotlys_makers(usual_page):
    """plotly.js 4 shows such a button unless it is told not to."""
    own = next(text for attributes, text in Page(usual_page).scripts if not attributes)
    assert "showSendToCloud: false" in own
    assert 'plotlyServerURL: ""' in own


def test_the_same_input_gives_the_same_bytes(load, tmp_path, monkeypatch):
    first = write_report(load(*usual_rows()), str(tmp_path / "a" / "index.html")).read_bytes()
    monkeypatch.setattr(page, "_library", page._library.__wrapped__)
    again = table.load([str(tmp_path / "results.parquet")])
    assert write_report(again, str(tmp_path / "b.html")).read_bytes() == first


def test_the_page_is_dated_by_its_newest_row(load, monkeypatch):
    frame = load(gemm(), gemm(512, started_at=datetime(2026, 5, 6, 7, 8, tzinfo=UTC)))
    assert "as of 2026-05-06 07:08 UTC" in render_report(frame)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert "as of 1970-01-02 00:00 UTC" in render_report(frame)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "tomorrow")
    with pytest.raises(UsageError, match="tomorrow"):
        render_report(frame)


# the figures' contract ----------------------------------------------------------------------------

FRAMES = {
    "empty": (),
    "only failed": (gemm() | OUT_OF_MEMORY, mnist() | OUT_OF_MEMORY, gemm(512) | LACKING),
    "normal": (gemm(), gemm(2048), gemm(1024, "fp16", 0.005), mnist(), memory()),
    "virtual": tuple(
        row | VIRTUAL | CARDS["4090"]
        for row in (gemm(), gemm(1024, "fp16", 0.005), mnist(), memory())
    ),
}
NOTHING_TO_SHOW = {"empty", "only failed"}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.__name__.split(".")[-1])
def test_a_figure_module_keeps_to_the_contract(module, kind, load):
    import plotly.graph_objects as go

    assert isinstance(module.TITLE, str)
    assert isinstance(module.ORDER, int)
    assert 1 <= len(re.findall(r"[.!]( |$)", module.CAPTION)) <= 4
    drawing = module.figure(load(*FRAMES[kind]))
    if kind in NOTHING_TO_SHOW:
        assert drawing is None
    else:
        assert isinstance(drawing, go.Figure)
        assert drawing.data
        assert not [trace for trace in drawing.data if trace.type.endswith("gl")]


def test_titles_and_places_are_each_figures_own():
    assert len({module.TITLE for module in FIGURES}) == len(FIGURES)
    assert len({module.ORDER for module in FIGURES}) == len(FIGURES)


@pytest.mark.parametrize("kind", FRAMES)
def test_every_frame_gives_a_page(kind, load):
    text = render_report(load(*FRAMES[kind]))
    assert "<h1>" in text
    assert ('id="plotly-js"' in text) is (kind not in NOTHING_TO_SHOW)


def test_a_figure_that_has_nothing_to_show_is_named(load):
    text = render_report(load(gemm()))
    assert "Not drawn" in section(text, "summary")
    assert "Speedup over fp32" in section(text, "summary")
    assert 'id="figure-precision"' not in text


def test_one_row_is_enough_for_a_page(load):
    assert "1 case: 1 ok" in render_report(load(gemm()))


OWN = """
import plotly.graph_objects as go
TITLE, ORDER, CAPTION = "My own <figure>", 5, "Read it so."
def figure(frame):
    return go.Figure(go.Scatter(y=[len(frame)]))
"""


@pytest.fixture
def own_figure(tmp_path, monkeypatch):
    """Write a figure of the user's."""

    def write(text, name="mine"):
        (tmp_path / "own" / "figures").mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "figures" / f"{name}.py").write_text(text)
        monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path / "own"))

    return write


def test_a_new_file_is_a_new_figure(own_figure, load):
    own_figure(OWN)
    found = Page(render_report(load(gemm())))
    assert "My own <figure>" in found.text
    assert json.loads(found.data("data-mine"))["data"][0]["y"] == [1]
    titles = [module.TITLE for module in sorted(FIGURES, key=lambda module: module.ORDER)]
    assert found.text.index("Read it so.") < found.text.rindex(titles[0])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("lame", OWN.replace("CAPTION", "TEXT"), "CAPTION"),
        ("broken", OWN.replace("len(frame)", "frame['no such column']"), "KeyError"),
    ],
)
def test_a_users_broken_figure_is_named(own_figure, load, name, text, words):
    own_figure(text, name)
    with pytest.raises(UsageError, match=f"{name}.*{words}") as caught:
        render_report(load(gemm()))
    assert caught.value.remedy


# honesty ------------------------------------------------------------------------------------------


def test_failures_are_in_the_tables_with_their_reasons(usual_page):
    problems = section(usual_page, "problems")
    assert "12 GiB were not there" in problems
    assert "oom" in problems
    assert "bf16 begins with Ampere" in problems
    assert section(usual_page, "results").count(">oom<") == 1


def test_no_failure_is_drawn_as_a_number(usual):
    for module in FIGURES:
        drawing = module.figure(usual)
        for trace in drawing.data:
            drawn = trace.mode != "text" if trace.type == "scatter" else True
            size = values(trace.x if trace.type == "bar" else trace.y)
            if drawn and module.__name__.split(".")[-1] in ("throughput", "gemm_size", "roofline"):
                assert all(value > 0 for value in size if not np.isnan(value))


def test_a_failure_stands_in_words_where_its_bar_would_be(usual):
    from gpubench.figures import throughput

    texts = [text for trace in throughput.figure(usual).data for text in trace.text or ()]
    assert " ✗ oom" in texts
    assert " – unsupported" in texts


def test_a_case_that_failed_in_one_trial_is_not_shown_as_well(load):
    from gpubench.figures import throughput

    frame = load(gemm(trial=1), gemm(trial=2) | OUT_OF_MEMORY)
    texts = [text for trace in throughput.figure(frame).data for text in trace.text or ()]
    assert any("GFLOP/s" in text and "✗ oom" in text for text in texts)
    assert "0 ok, 1 failed" in render_report(frame)


def test_virtual_rows_are_marked_everywhere(load):
    text = render_report(load(*(row | CARDS["4090"] | VIRTUAL for row in FRAMES["normal"])))
    found = Page(text)
    assert (
        "5 of 5 rows are virtual" in found.with_class("banner")[0][1].get("role", "") + found.text
    )
    assert "RTX 4090 (virtual)" in found.text
    rows = [attributes for attributes in found.all("tr") if attributes.get("class") == "simulated"]
    assert len(rows) == 5
    assert section(text, "results").count(">virtual<") == 5
    assert ">virtual<" in section(text, "environments")


def test_measured_rows_raise_no_banner(usual_page):
    found = Page(usual_page)
    assert not [e for e in found.with_class("banner") if e[1].get("role") == "alert"]
    assert not found.with_class("simulated")


def test_virtual_series_are_hatched_or_open_and_measured_ones_are_not(load):
    measured = [CARDS["1080"] | row for row in FRAMES["normal"]]
    frame = load(*measured, *(row | CARDS["4090"] | VIRTUAL for row in FRAMES["normal"]))
    real, virtual = series_of(frame)
    assert (real.simulated, virtual.simulated) == (False, True)
    for module in FIGURES:
        for trace in module.figure(frame).data:
            if not trace.marker or trace.marker.color not in (real.color, virtual.color):
                continue
            expected = trace.marker.color == virtual.color
            if trace.type == "bar":
                assert bool(trace.marker.pattern.shape) is expected
            elif "markers" in trace.mode:
                assert trace.marker.symbol.endswith("-open") is expected


def test_a_modelled_row_is_not_taken_for_a_measured_one(load):
    text = render_report(load(gemm(provenance="modelled"), gemm(512, provenance="modelled")))
    assert "2 of 2 rows are modelled" in Page(text).text
    assert "Test processor (modelled)" in text


def test_flags_are_explained(load):
    known = sorted(report.FLAGS)
    text = section(render_report(load(gemm(flags=[*known, "new_one"]))), "flags")
    for flag in known:
        assert page.escape(report.FLAGS[flag]) in text
    assert "no description" in text


def test_two_sides_are_judged_and_the_page_says_what_to_type(load):
    one = [gemm(trial=1), gemm(512, trial=1)]
    text = render_report(load(old=one, new=[row | {"run_id": "run-2"} for row in one]))
    body = section(text, "comparison")
    assert "inconclusive" in body
    assert "<code>gpubench run --suite quick --trials" in body
    assert "No verdicts" in section(render_report(load(*one)), "comparison")


def test_a_cpu_has_points_and_no_roofs(load):
    from gpubench.figures import roofline

    drawing = roofline.figure(load(gemm(), mnist()))
    assert "no roofs" in " ".join(note.text for note in drawing.layout.annotations)
    assert {trace.mode for trace in drawing.data} == {"markers"}
    with_roofs = roofline.figure(load(CARDS["4090"] | gemm()))
    assert any(trace.mode.startswith("lines") for trace in with_roofs.data)


def test_units_never_share_a_panel(usual):
    from gpubench.figures import throughput

    drawing = throughput.figure(usual)
    titles = {axis.anchor: axis.title.text for axis in drawing.select_xaxes()}
    assert len(titles) == 3
    units = {}
    for trace in drawing.data:
        if trace.type == "scatter":
            found = {
                text.removesuffix(" ±?").split()[-1][-6:] for text in trace.text if "/s" in text
            }
            units.setdefault(trace.xaxis, set()).update(found)
    assert all(len(found) == 1 for found in units.values())


def test_a_bar_says_where_its_interval_is_unknown_or_cut_off_and_stands_clear_of_its_text(load):
    from gpubench.figures import throughput

    known, unknown = gemm(), gemm(512, samples_s=[0.01])
    wide = [gemm(2048, seconds=0.01 * factor, trial=n) for n, factor in enumerate((1, 4), 1)]
    bars, texts = throughput.figure(load(known, unknown, *wide)).data
    said = {text.strip() for text in texts.text}
    assert sorted(text[:1] == "→" for text in said) == [False, False, True]
    assert sum(text.endswith("GFLOP/s ±?") for text in said) == 1
    ends = np.asarray(bars.x) + np.nan_to_num(np.asarray(bars.error_x.array))
    assert (ends <= np.asarray(texts.x) * 1.0001).all()


def test_the_summary_prefers_rates_whose_interval_is_known(load):
    one, faster_without = gemm(), gemm(512, samples_s=[1e-5])
    short = section(render_report(load(one, faster_without)), "summary")
    assert "214 GFLOP/s" in short
    assert "±?" not in short
    alone = section(render_report(load(faster_without)), "summary")
    assert "±?</dt>" in alone


def test_a_slow_card_stays_visible_beside_a_fast_one(load):
    from gpubench.figures import throughput

    rows = [CARDS["4090"] | gemm(seconds=1e-5), CARDS["1080"] | gemm(seconds=1e-3)]
    lacking = CARDS["1080"] | gemm(512, "bf16") | LACKING
    drawing = throughput.figure(load(*rows, CARDS["4090"] | gemm(512, "bf16"), lacking))
    (axis,) = drawing.select_xaxes()
    assert axis.type == "log"
    assert "logarithmic" in axis.title.text
    low, high = (10.0**end for end in axis.range)
    placed = np.concatenate([np.asarray(trace.x) for trace in drawing.data])
    assert (placed >= 0.999 * low).all()
    assert (placed <= high).all()
    (plain,) = throughput.figure(load(rows[0], CARDS["1080"] | gemm(seconds=1e-4))).select_xaxes()
    assert plain.range[0] == 0


def test_long_names_at_an_axis_stay_apart(load):
    from gpubench.figures import precision, throughput

    def attention(direction, precision):
        params = {"batch": 4, "sequence": 2048, "heads": 16, "direction": direction}
        row = named("attention", precision=precision, **{k: str(v) for k, v in params.items()})
        return gemm(seconds=0.01) | row

    directions = ["forward with dropout inside", "forward without dropout inside"]
    rows = [attention(way, kind) for way in directions for kind in ("fp32", "fp16")]
    rows.append(attention(directions[0], "fp32") | {"case_id": "attention:more"})
    rows[-1]["params"] |= {"sequence": "4096", "heads": "8", "batch": "16"}
    for module in (throughput, precision):
        drawing = module.figure(load(*rows))
        texts = next(drawing.select_yaxes()).ticktext
        assert len(set(texts)) == len(texts) > 1
        assert any("<br>" in text for text in texts)
        assert not any("…" in text for text in texts)


def test_samples_are_decimated_without_losing_their_extremes():
    times = [1.0 + 0.001 * (position % 7) for position in range(9_973)]
    times[4321], times[8765] = 3.0, 0.5
    kept = samples.decimated(times, 500)
    assert len(kept) <= 500
    assert kept == sorted(set(kept))
    assert {4321, 8765} <= set(kept)
    assert samples.decimated(times[:400], 500) == list(range(400))


def test_no_trace_has_more_points_than_a_screen_shows(load):
    drawing = samples.figure(load(gemm(samples_s=[0.01 + 1e-6 * i for i in range(3000)])))
    assert max(len(trace.y) for trace in drawing.data) <= 500
    assert drawing.data[0].y.dtype == np.float32


# series and names ---------------------------------------------------------------------------------


def test_a_cards_color_is_the_same_in_every_figure(usual):
    own = {one.group: one.color for one in series_of(usual)}
    assert list(own.values()) == list(COLORS[:2])
    for module in FIGURES:
        for trace in module.figure(usual).data:
            if trace.legendgroup in own and trace.name:
                assert trace.marker.color == own[trace.legendgroup]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        ("driver", ("driver 550", "driver 570")),
        ("torch", ("torch 2.6", "torch 2.7")),
        ("power_limit_w", ("limited to 300 W", "limited to 450 W")),
    ],
)
def test_other_conditions_are_another_series(load, column, texts):
    first, second = (text.split()[-2 if "W" in text else -1] for text in texts)
    kind = float if column == "power_limit_w" else str
    rows = [
        CARDS["4090"] | gemm(run_id=value, **{"backend": "cuda", column: kind(value)})
        for value in (first, second)
    ]
    found = series_of(load(*rows))
    assert [one.conditions for one in found] == list(texts)
    assert [row["trials"] for one in found for row in one.rows] == [1, 1]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("timer", {"timer cuda_event", "timer cuda_graph"}),
        ("cold_by", {"cold by flush", "cold by rotation"}),
    ],
)
def test_ways_of_timing_are_cases_of_their_own_where_a_card_has_several(column, names, load):
    values = sorted(name.split()[-1] for name in names)
    rows = [gemm(trial=trial, **{column: value}) for trial, value in enumerate(values)]
    (series,) = series_of(load(*rows, gemm(cache="hot")))
    assert {row["variant"] for row in series.rows if row["cache"] == "cold"} == names
    assert {row["variant"] for row in series.rows if row["cache"] == "hot"} == {""}


def test_the_head_and_a_card_count_the_same_cases(load):
    lacking = {"status": "unsupported", "reason": "no such kernel", "samples_s": None}
    rows = [
        gemm(size=size, run_id=code, workload_hash=code, **different)
        for code in ("old", "new")
        for size, different in ((512, {}), (1024, lacking))
    ]
    made = render_report(load(*rows, gemm(size=2048, **lacking)))
    assert re.findall(r"\b(\d+ cases?)\b(?=:)", made)[:2] == ["4 cases", "4 cases"]
    assert "2 ok, 0 failed, 2 unsupported" in made  # old and new of 512 are two cases, both timed


def test_a_changed_workload_is_not_pooled_with_its_older_self(load):
    frame = load(gemm(), gemm(run_id="run-2", workload_hash="other", workload_version=2))
    (one,) = series_of(frame)
    assert [row["trials"] for row in one.rows] == [1, 1]
    labels = set(case_labels(one.rows).values())
    assert len(labels) == 2
    assert any("version 2" in label for label in labels)


def test_trials_of_two_runs_are_pooled(load):
    (one,) = series_of(load(gemm(), gemm(run_id="run-2")))
    assert [row["trials"] for row in one.rows] == [2]


def named(workload="gemm", cache="cold", **params):
    inside = ",".join(f"{name}={text}" for name, text in params.items())
    return {
        "case_id": f"{workload}:{inside}",
        "workload": workload,
        "cache": cache,
        "params": params,
    }


def test_names_of_cases_leave_out_what_all_share():
    rows = [
        named(shape="1024x1024x1024", precision="fp32"),
        named(shape="4096x768x3072", precision="bf16"),
        named("attention", heads="16", sequence="512", causal="true"),
        named("attention", heads="16", sequence="2048", causal="false"),
    ]
    assert list(case_labels(rows).values()) == [
        "gemm 1024³ fp32",
        "gemm 4096×768×3072 bf16",
        "attention sequence 512 causal",
        "attention sequence 2048 not causal",
    ]


def test_names_of_cases_are_never_shared():
    rows = [named(a="x", b="1"), named(a="x b 1"), named(a="x b 1", cache="hot")]
    labels = case_labels(rows)
    assert len(set(labels.values())) == len(rows)


def test_sizes_are_ordered_as_numbers():
    names = ["gemm 1024", "gemm 512", "gemm 16384", "attention", "gemm 9" + "9" * 5000]
    assert sorted(names, key=natural)[:4] == ["attention", "gemm 512", "gemm 1024", "gemm 16384"]


def test_logarithmic_axes_have_more_than_one_tick():
    assert _panels.log_axis([40e9, 120e9])["ticktext"] == ["50 G", "100 G"]
    assert _panels.log_axis([1e9, 1e13])["ticktext"] == ["1 G", "10 G", "100 G", "1 T", "10 T"]


# hostile strings ----------------------------------------------------------------------------------


def hostile_rows():
    for number, text in enumerate(HOSTILE):
        evil = {
            "run_id": str(number),
            "case_id": text,
            "workload": text,
            "params": {text: text, "precision": text},
            "card": text,
            "architecture": text,
            "driver": text,
            "cpu": text,
            "commit": text,
            "item": text,
            "flags": [text],
            "suite": text,
        }
        yield gemm() | evil
        yield gemm(2048) | evil | {"case_id": text + "2", "items": 5.0}
        yield gemm(512) | evil | OUT_OF_MEMORY | {"reason": text, "case_id": text + "3"}
        yield gemm(512) | evil | LACKING | {"reason": text, "case_id": text + "4"}
        known = {"run_id": str(number), "card": text, "architecture": text, "driver": text}
        yield gemm(1024, "fp16") | known
        yield gemm() | known
    yield gemm(512) | evil | {"provenance": HOSTILE[0]}


@pytest.fixture
def hostile(load):
    if "hostile page" not in MADE:
        MADE["hostile page"] = render_report(load(*hostile_rows()))
    return MADE["hostile page"]


def test_hostile_strings_stay_text(hostile, load):
    found = Page(hostile)
    harmless = {tag for tag, _ in Page(render_report(load())).elements}
    figures = {"article", "details", "summary", "figure", "figcaption", "button", "wbr", "code"}
    tables = {"table", "thead", "tbody", "tr", "th", "td", "h3", "dl", "dt", "dd", "div", "span"}
    assert {tag for tag, _ in found.elements} <= harmless | figures | tables | {"strong", "p"}
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    running = [attributes for attributes, _ in found.scripts if "type" not in attributes]
    assert len(running) == 1
    for text in HOSTILE[:6]:
        assert text in found.text


ODD = {
    "beyond single precision": {"flops": 1e300},
    "endless work": {"flops": math.inf},
    "no shape of this world": {"params": {"shape": "9" * 400 + "x1x1"}},
    "a shape of words": {"params": {"shape": "large"}},
    "a null flag": {"flags": [None]},
    "too few samples": {"samples_s": [0.1, 0.2]},
    "nothing known": dict.fromkeys(
        [
            "case_id",
            "workload",
            "params",
            "card",
            "architecture",
            "card_id",
            "provenance",
            "started_at",
            "timer",
            "cache",
            "flags",
            "run_id",
            "suite",
            "reason",
        ]
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_values_give_a_page_without_a_warning(kind, load, recwarn):
    assert "All results" in render_report(load(gemm() | ODD[kind], gemm(512)))
    assert not recwarn.list


def test_control_characters_are_gone(hostile):
    assert not {c for c in hostile if not c.isprintable()} - {"\n"} - set(page._library().packed)


def test_figures_hold_no_markup_of_strangers(hostile):
    found = Page(hostile)
    names = [e["data-figure"] for _, e in found.elements if "data-figure" in e]
    assert len(names) >= 4
    for name in names:
        raw = found.data(name)
        assert not set(raw) & set("<>&")
        for string in strings(json.loads(raw)):
            ours = re.sub(r"</?b>|<br>|<extra></extra>", "", string)
            assert "<" not in ours


def test_a_browser_finds_no_active_element_of_strangers(hostile, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here to draw the page with")
    path = tmp_path / "index.html"
    path.write_text(hostile, encoding="utf-8")
    quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    quiet += ["disable-component-update", "disable-sync", "no-sandbox", "virtual-time-budget=15000"]
    quiet += ["headless", "dump-dom", f"user-data-dir={tmp_path / 'profile'}"]
    words = [f"--{flag}" for flag in quiet]
    done = subprocess.run(
        [chromium, *words, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = Page(done.stdout)
    assert found.all("html")[0].get("data-figures") == "drawn"
    assert len(found.with_class("main-svg")) > 4
    assert "could not be drawn" not in found.text
    assert not found.all("img") + found.all("iframe")
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        links = [attributes[name] or "" for name in ("href", "xlink:href") if name in attributes]
        assert all(link.startswith("#") for link in links)
    running = [text for attributes, text in found.scripts if "type" not in attributes]
    assert len(running) == 2  # the page's own and plotly.js
    assert not [text for text in running if text.startswith("alert(")]


# writing ------------------------------------------------------------------------------------------


def test_the_folder_is_made(load, tmp_path):
    path = write_report(load(gemm()), str(tmp_path / "new" / "deeper" / "index.html"))
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [inside.name for inside in path.parent.iterdir()] == ["index.html"]


@pytest.mark.parametrize("where", ["folder", "file/index.html", "n" * 300])
def test_what_cannot_be_written_says_so(load, tmp_path, where):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotWrite) as caught:
        write_report(load(gemm()), str(tmp_path / where))
    assert "-o" in caught.value.remedy
    assert not list(tmp_path.rglob("*.partial"))


def test_an_older_page_survives_a_full_disk(load, tmp_path, monkeypatch):
    path = write_report(load(gemm()), str(tmp_path / "index.html"))
    before = path.read_bytes()

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    frame = table.load([str(tmp_path / "results.parquet")])
    with pytest.raises(CannotWrite, match="No space left"):
        write_report(frame, str(path))
    assert path.read_bytes() == before
