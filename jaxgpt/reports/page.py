"""Sections of a report as one HTML page, or as Markdown. Knows nothing of what they say."""

import difflib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Characters that may not stand in HTML, such as text of a model may hold.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Words, and the white space between them; together they are the text.
_WORDS = re.compile(r"\S+|\s+")


@dataclass(frozen=True)
class Table:
    """Rows of cells under column names; cells are numbers but in `text_columns`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order.

    Attributes:
        text: a plain sentence or two.
        notice: a sentence that a reader must not miss; set apart.
        figure: SVG; only in HTML.
        table_is_folded: in HTML the table is folded away, below the figure that shows the same.
        figures: small SVGs that stand two abreast; only in HTML.
        tables: small tables by name that stand two abreast; only in HTML.
        tables_summary: if any, the tables are folded away under this line.
        samples: by name, documents as {location, detail, text}, perhaps with {prompt}, which the
            text continues; only in HTML.
        compared: as `samples`, side by side and folded away; words of a text that the first one
            of its name does not have at that place are marked.
        folded: names of the samples that are folded away at first.
        preformatted: text that is shown as it stands; folded away in HTML, not in Markdown.
    """

    title: str
    text: str = ""
    table: Table | None = None
    figure: str = ""
    table_is_folded: bool = False
    figures: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    samples: Mapping[str, Sequence[Mapping[str, str]]] | None = None
    compared: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    folded: frozenset[str] = frozenset()
    preformatted: str = ""
    notice: str = ""
    tables_summary: str = ""


def to_html(
    title: str, headline: Mapping[str, str], sections: Sequence[Section], subtitle: str = ""
) -> str:
    """Return a self-contained HTML page; `headline` has large figures by name."""
    cards = "".join(
        f'<div class="card"><b>{_escape(value)}</b><span>{_escape(name)}</span></div>'
        for name, value in headline.items()
    )
    body = "\n".join(_section_html(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{_escape(title)}</h1>\n"
        f"{f'<p>{_escape(subtitle)}</p>' if subtitle else ''}"
        f'<div class="cards" style="--columns: {_balanced(len(headline))}">{cards}</div>\n'
        f"{body}\n</main></body></html>\n"
    )


def _balanced(count: int, most: int = 6) -> int:
    """Return the number of columns that fills rows of at most `most` evenly."""
    num_rows = max(1, -(-count // most))
    return -(-count // num_rows)


def to_markdown(title: str, headline: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Return the page in Markdown, without figures, samples and preformatted text."""
    lines = [f"# {title}", ""]
    lines += [f"- {name}: {value}" for name, value in headline.items()]
    for section in sections:
        if not (section.text and section.table) and section.table is None:
            continue
        lines += ["", f"## {section.title}", ""]
        if section.text:
            lines += [section.text, ""]
        table = section.table
        lines.append(_markdown_row(table.columns))
        alignment = [
            "---" if column in table.text_columns else "---:"
            for column in range(len(table.columns))
        ]
        lines.append(_markdown_row(alignment))
        lines += [_markdown_row(row) for row in table.rows]
    return "\n".join(lines) + "\n"


def _section_html(section: Section) -> str:
    pieces = [f"<section><h2>{_escape(section.title)}</h2>"]
    if section.text:
        pieces.append(f"<p>{_escape(section.text)}</p>")
    if section.notice:
        pieces.append(f'<p class="notice">{_escape(section.notice)}</p>')
    if section.table is not None and not section.table_is_folded:
        pieces.append(_table_html(section.table))
    if section.figure:
        pieces.append(f'<figure class="drawn wide">{section.figure}</figure>')
    if section.table is not None and section.table_is_folded:
        pieces.append(f"<details><summary>numbers</summary>{_table_html(section.table)}</details>")
    if section.figures:
        figures = "".join(f"<figure>{figure}</figure>" for figure in section.figures)
        pieces.append(f'<div class="pair">{figures}</div>')
    if section.tables:
        tables = "".join(
            f"<div><h3>{_escape(name)}</h3>{_table_html(table)}</div>"
            for name, table in section.tables.items()
        )
        columns = f'<div class="columns">{tables}</div>'
        if section.tables_summary:
            summary = _escape(section.tables_summary)
            columns = f"<details><summary>{summary}</summary>{columns}</details>"
        pieces.append(columns)
    for name, samples in (section.samples or {}).items():
        state = "" if name in section.folded else " open"
        pieces.append(f"<details{state}><summary>{_escape(name)}</summary>")
        pieces += [_sample_html(sample) for sample in samples]
        pieces.append("</details>")
    for name, samples in section.compared.items():
        first, *others = samples
        abreast = [_sample_html(first), *(_sample_html(other, first["text"]) for other in others)]
        pieces.append(
            f"<details><summary>{_escape(name)}</summary>"
            f'<div class="pair">{"".join(abreast)}</div></details>'
        )
    if section.preformatted:
        pieces.append(
            f"<details><summary>show</summary><pre>{_escape(section.preformatted)}</pre></details>"
        )
    return "\n".join([*pieces, "</section>"])


def _table_html(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if column in table.text_columns else ' class=n'}>{_escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    rows = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    head = f"<thead><tr>{row(table.columns, 'th')}</tr></thead>" if any(table.columns) else ""
    return f'<div class="wide"><table>{head}<tbody>\n{rows}\n</tbody></table></div>'


def _sample_html(sample: Mapping[str, str], compared_with: str | None = None) -> str:
    detail = f": {_escape(sample['detail'])}" if sample["detail"] else ""
    prompt = f"<b>{_escape(sample['prompt'])}</b>" if sample.get("prompt") else ""
    text = sample["text"]
    marked = _escape(text) if compared_with is None else _mark_changes(compared_with, text)
    text = f"{prompt}{marked}"
    # HTML drops a newline that directly follows <pre>.
    block = f"<pre>\n{text}</pre>" if prompt or sample["text"].strip() else ""
    location = ""
    if sample["location"] or detail:
        location = f'<p class="where"><code>{_escape(sample["location"])}</code>{detail}</p>'
    return f'<div class="sample">{location}{block}</div>'


def _mark_changes(before: str, after: str) -> str:
    """Return `after` as HTML, with words marked that `before` does not have at that place."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    pieces = []
    for kind, _, _, start, stop in matcher.get_opcodes():
        piece = _escape("".join(new[start:stop]))
        pieces.append(piece if kind == "equal" or not piece.strip() else f"<mark>{piece}</mark>")
    return "".join(pieces)


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _escape(text: str) -> str:
    return html.escape(_CONTROL.sub("\ufffd", text))


_STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --grey: #57606a; --line: #e4e7eb;
  --page: #f6f7f9; --card: #fff; --mark: #ffe8a3; --shade: #24292f33; --alert: #d55e00; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e2e6ea; --grey: #9aa4ae; --line: #343b43; --page: #15191d; --card: #1d2329;
    --mark: #6b5310; --shade: #000c; }
  /* Figures are drawn for paper: their ink turns light and keeps its hue. */
  figure svg { filter: invert(0.9) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 16px; }
h2 { font-size: 17px; margin: 0 0 8px; }
p { margin: 0 0 10px; color: var(--grey); }
.cards { display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 10px; }
@media screen and (max-width: 700px) { .cards { grid-template-columns: repeat(2, 1fr); } }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.card { padding: 12px 14px; }
.card b { display: block; font-size: 19px; font-variant-numeric: tabular-nums; }
.card span { color: var(--grey); font-size: 13px; }
section { padding: 16px 18px; margin-top: 14px; }
/* A shadow at the side where more of a table is hidden. */
.wide { overflow-x: auto; background:
  linear-gradient(to right, var(--card) 30%, transparent) left / 30px 100% no-repeat local,
  linear-gradient(to left, var(--card) 30%, transparent) right / 30px 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / 12px 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / 12px 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--grey); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: 4px 14px 4px 0; vertical-align: top; }
td:first-child:not(.n) { min-width: 8em; }
td:last-child, th:last-child { padding-right: 0; }
td:not(.n) { overflow-wrap: anywhere; } .n + :not(.n) { padding-left: 14px; }
@media screen and (max-width: 700px) {
  main { padding: 16px 10px 40px; } section { padding: 12px; } table { font-size: 12.5px; }
  th, td { padding-right: 9px; } td:first-child:not(.n) { min-width: 6em; }
  .drawn svg { min-width: 480px; }
}
td { border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th { vertical-align: bottom; } th.n { white-space: normal; }
figure { margin: 0; } figure svg { width: 100%; height: auto; display: block; }
.drawn svg { max-width: 780px; }
figure text { font-family: inherit !important; }
.pair { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
.columns { columns: 2 300px; column-gap: 28px; }
.columns > div { break-inside: avoid; padding-bottom: 12px; }
.columns td:first-child { width: 50%; }
h3 { font-size: 14px; margin: 0 0 2px; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
mark { background: var(--mark); color: inherit; border-radius: 3px; }
.sample { border-left: 3px solid var(--line); padding-left: 12px; margin: 6px 0 12px; }
.pair > * { min-width: 0; }
.where { margin: 0 0 4px; font-size: 13px; }
code, summary, h2, h3, p { overflow-wrap: anywhere; }
.notice { color: var(--ink); border-left: 4px solid var(--alert); padding-left: 10px; }
code, pre { font: 12.5px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 0; padding: 8px 10px; background: var(--page); border-radius: 6px; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  @page { margin: 14mm; }
  body { background: #fff; font-size: 10pt; } main { padding: 0; max-width: none; }
  .card, figure, tr, .sample { break-inside: avoid; } h2, h3, summary { break-after: avoid; }
  section { padding: 10px 0; border: 0; border-top: 1px solid var(--line); border-radius: 0; }
  table, pre, code { font-size: 8.5pt; }
  .columns > div { break-inside: auto; } details:not([open]) { display: none; }
  .wide { background: none; }
}
"""
