"""The report's page as HTML: escaped text, tables, figures as data, and the policy around them.

Strings of result files are a stranger's. `escape` makes each of them text, and the page's own
Content-Security-Policy lets nothing run but two scripts, named by their hashes, and nothing load
from anywhere.
"""

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any

import pandas as pd

from gpubench import __version__, plugins, render
from gpubench.errors import UsageError
from gpubench.render import Column, Row

DATA = Path(__file__).parent / "data"
CONTRACT = ("TITLE", "ORDER", "CAPTION", "figure")
# Which cells may break anywhere and how wide they stay.
WIDE_CELLS = {
    "card": "name",
    "side": "name",
    "case_id": "id",
    "reason": "long",
    "detail": "long",
    "changed_text": "long",
}
# A trace's symbol in the legend: filled for measured series, open for the others.
GLYPHS = {
    "bar": "■▨",
    "circle": "●○",
    "square": "■□",
    "diamond": "◆◇",
    "triangle-up": "▲△",
    "star": "★☆",
    "cross": "✚✚",
    "x": "✖✖",
}


@dataclass(frozen=True)
class Section:
    """A part of the page; its title is plain text, its body HTML. Without a body it is left out."""

    anchor: str
    title: str
    body: str


@dataclass(frozen=True)
class Figure:
    """What a figure module gave for the page; without data there was nothing to show."""

    name: str
    title: str
    caption: str
    data: str | None = None
    height: int = 450
    minimum_width: int = 0
    note: str = ""
    legend: str = ""


# text ------------------------------------------------------------------------------------------


def escape(text: object) -> str:
    """Text for HTML, in an element or an attribute: no markup and no control characters."""
    return html.escape(render.clean(text), quote=True)


def code(line: str) -> str:
    """A line with its `commands` set as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(line))


def folded(items: Sequence[str], noun: str) -> str:
    """A list that opens on demand, without any script."""
    listed = escape("; ".join(items))
    return f"<details><summary>{render.count(len(items), noun)}</summary>{listed}</details>"


def badge(provenance: str) -> str:
    """A label that says where numbers come from."""
    kind = "measured" if provenance == "measured" else "simulated"
    return f'<span class="badge {kind}">{escape(provenance)}</span>'


# tables ----------------------------------------------------------------------------------------


def rows_table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Rows as people read them; those that were not measured are hatched."""
    heads = [_cell("th", escape(column.heading), _classes(column, None)) for column in columns]
    lines = []
    for row in rows:
        cells = [_cell("td", _text(column, row), _classes(column, row)) for column in columns]
        simulated = row.get("provenance", "measured") != "measured"
        opening = '<tr class="simulated">' if simulated else "<tr>"
        lines.append(f"{opening}{''.join(cells)}</tr>")
    return _table(heads, lines, "box tall")


def plain_table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lines of HTML cells below headings of plain text; the first cell of a line heads it."""
    body = [
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in lines
    ]
    return _table([_cell("th", escape(head), "") for head in heads], body, "box")


def _text(column: Column, row: Row) -> str:
    """A cell's text; ids of cases may break after their commas, which no browser guesses."""
    text = escape(render.text_of(column, row))
    return text.replace(",", ",<wbr>") if column.key == "case_id" else text


def _table(heads: Sequence[str], lines: Sequence[str], classes: str) -> str:
    """A table scrolls in its box, and the box can be reached with the keyboard."""
    return (
        f'<div class="{classes}" tabindex="0"><table>\n<thead><tr>{"".join(heads)}</tr></thead>\n'
        "<tbody>\n" + "\n".join(lines) + "\n</tbody>\n</table></div>"
    )


def _cell(tag: str, content: str, classes: str) -> str:
    return f'<{tag} class="{classes}">{content}</{tag}>' if classes else f"<{tag}>{content}</{tag}>"


def _classes(column: Column, row: Row | None) -> str:
    """Classes are words of ours: a file's strings only choose among them."""
    names = ["right"] if column.right else []
    if row is not None:
        names += [WIDE_CELLS[column.key]] if column.key in WIDE_CELLS else []
        if column.key in ("result", "status"):
            names.append(_outcome(row))
        if column.key == "verdict":
            names.append(str(row["verdict"]))
    return " ".join(names)


def _outcome(row: Row) -> str:
    if row.get("status") == "ok":
        return "flagged" if row.get("flags") else "ok"
    return "unsupported" if row.get("status") == "unsupported" else "bad"


# figures ---------------------------------------------------------------------------------------


def draw_figures(frame: pd.DataFrame) -> list[Figure]:
    """What every figure module makes of the frame, in their order.

    Raises:
        UsageError: a figure of the user's breaks the contract or fails.
    """
    modules = list(plugins.modules("figures"))
    for module in modules:
        if lacking := [name for name in CONTRACT if not hasattr(module, name)]:
            raise UsageError(
                f"figure {_name(module)} defines no {', '.join(lacking)}",
                f"a figure file defines {', '.join(CONTRACT)}(frame)",
            )
    ordered = sorted(modules, key=lambda module: (module.ORDER, _name(module)))
    return [_draw(module, frame) for module in ordered]


def _draw(module: ModuleType, frame: pd.DataFrame) -> Figure:
    try:
        drawing = module.figure(frame)
    except Exception as error:
        if module.__name__.startswith("gpubench.figures."):
            raise  # a bug of ours
        raise UsageError(
            f"figure {_name(module)} failed: {type(error).__name__}: {error}",
            "mend the file or take its folder out of GPUBENCH_PATH",
        ) from error
    return place(module, drawing)


def place(module: ModuleType, drawing: Any | None) -> Figure:
    """What a figure module drew, for the page; it may have drawn nothing."""
    import plotly.io

    if drawing is None:
        return Figure(_name(module), module.TITLE, module.CAPTION)
    meta = drawing.layout.meta if isinstance(drawing.layout.meta, Mapping) else {}
    return Figure(
        name=_name(module),
        title=module.TITLE,
        caption=module.CAPTION,
        # "json" rather than whichever encoder is installed: they differ in layout.
        data=_inert(plotly.io.to_json(drawing, engine="json")),
        height=int(drawing.layout.height or 450),
        minimum_width=int(meta.get("minimum_width", 0)),
        note=str(meta.get("note", "")),
        legend=_legend(drawing) if meta.get("legend") == "page" else "",
    )


def _name(module: ModuleType) -> str:
    return plugins.stem(module)


def _inert(data: str) -> str:
    """JSON that can't end the element it stands in; plotly escapes this too, by default."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _legend(drawing: Any) -> str:
    """Buttons that show and hide a group of traces, as HTML: it wraps on a narrow page."""
    groups: dict[str, list[int]] = {}
    for position, trace in enumerate(drawing.data):
        groups.setdefault(trace.legendgroup or f"only {position}", []).append(position)
    buttons = []
    # The first group may appear in a later panel than the second.
    for _, members in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        trace = next(
            (drawing.data[place] for place in members if drawing.data[place].showlegend), None
        )
        if trace is not None:
            # Names are escaped for plotly already.
            name = escape(html.unescape(str(trace.name)))
            buttons.append(
                f'<button type="button" aria-pressed="true" data-traces="{members}">'
                f'<span style="color: {escape(trace.marker.color)}" aria-hidden="true">'
                f"{_glyph(trace)}</span>{name}</button>"
            )
    return f'<div class="legend">{"".join(buttons)}</div>' if buttons else ""


def _glyph(trace: Any) -> str:
    if trace.type == "bar":
        return GLYPHS["bar"][bool(trace.marker.pattern.shape)]
    symbol = str(trace.marker.symbol or "circle")
    return GLYPHS.get(symbol.removesuffix("-open"), "●○")[symbol.endswith("-open")]


def figure_body(figure: Figure) -> str:
    """A figure's place in the page; empty where there was nothing to show."""
    if figure.data is None:
        return ""
    caption = f'<figcaption class="caption">{escape(figure.caption)}</figcaption>'
    note = f'<p class="note">{escape(figure.note)}</p>' if figure.note else ""
    size = f"height: {figure.height}px; min-width: {figure.minimum_width}px"
    return (
        f"<figure>{caption}\n{note}{figure.legend}\n"
        f'<div class="plot"><div class="drawing" data-figure="data-{escape(figure.name)}" '
        f'style="{size}"><p class="waiting">This figure needs JavaScript; '
        "the tables hold its numbers.</p></div></div></figure>"
    )


# page ------------------------------------------------------------------------------------------


def assemble(sections: Sequence[Section], figures: Sequence[Figure], **head: str) -> str:
    """The whole page; ``head`` are the template's ``title``, ``lead``, ``facts`` and ``banner``."""
    script = (DATA / "report.js").read_text(encoding="utf-8")
    library = _library()
    drawn = any(figure.data is not None for figure in figures)
    shown = [section for section in sections if section.body]
    return Template((DATA / "report.html").read_text(encoding="utf-8")).substitute(
        head,
        policy=_policy([_digest(script), library.digest]),
        version=escape(__version__),
        library=f"Figures by {escape(library.name)} (MIT licence), in this page." if drawn else "",
        style=(DATA / "report.css").read_text(encoding="utf-8"),
        script=script,
        contents="\n".join(
            f'<li><a href="#{section.anchor}">{escape(section.title)}</a></li>' for section in shown
        ),
        sections="\n".join(
            f'<section id="{section.anchor}">\n<h2>{escape(section.title)}</h2>\n{section.body}\n'
            "</section>"
            for section in shown
        ),
        payload="\n".join(_payload(figures)),
    )


def _payload(figures: Sequence[Figure]) -> list[str]:
    """Data for the page's script: each figure, and plotly.js once if there is any."""
    drawn = [figure for figure in figures if figure.data is not None]
    data = [
        f'<script type="application/json" id="data-{escape(figure.name)}">{figure.data}</script>'
        for figure in drawn
    ]
    packed = f'<script type="text/plain" id="plotly-js">{_library().packed}</script>'
    return [*data, packed] if drawn else []


def _policy(digests: Sequence[str]) -> str:
    """Only the scripts of these hashes run, and nothing is fetched from anywhere.

    Styles are free because plotly.js writes its own; images may come from the page itself, which
    is how plotly.js saves a figure.
    """
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@dataclass(frozen=True)
class Library:
    """plotly.js as the page carries it: gzip in base64, a third of its size."""

    name: str
    digest: str
    packed: str


@cache
def _library() -> Library:
    """The plotly.js of the installed plotly."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    version = re.search(r"plotly\.js v([\w.+-]+)", source[:400])
    # Without a time in its head, or the same page would not be made twice.
    packed = gzip.compress(source.encode(), 9, mtime=0)
    return Library(
        name=f"plotly.js {version[1]}" if version else "plotly.js",
        digest=_digest(source),
        packed=base64.b64encode(packed).decode(),
    )
