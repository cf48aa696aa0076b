"""A docstring as HTML: it is plain text laid out with care, so its layout is kept and nothing in it is markup.

Paragraphs flow; a block that is indented or holds columns stays as it stands; `- ` begins a list; `code`, links,
names of the lab and $equations$ are recognised. All else is shown letter for letter, formulas written in plain
characters among it: x_t * m_t is no emphasis here.
"""

import re
import textwrap
from collections.abc import Mapping

from markupsafe import Markup, escape

from lab.reports import markdown

_INLINE = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|(?P<link>https?://[^\s)>\]]*[^\s)>\].,;:])"
    r"|(?<![\w\\$])\$(?P<math>[^$\s](?:[^$\n]*[^$\s])?)\$(?![\w$])"
    r"|(?P<name>\blab(?:\.[A-Za-z_]\w*)+)"
)
_COLUMNS = re.compile(r"\S {3,}\S")


def html(text: str, anchors: Mapping[str, str]) -> Markup:
    """The docstring, already free of its own indentation. anchors: {qualified or short name: address} to link to."""
    blocks = re.split(r"\n[ \t]*\n", text.strip("\n"))
    return Markup("\n").join(_block(block, anchors) for block in blocks if block.strip())


def inline(text: str, anchors: Mapping[str, str]) -> Markup:
    """One run of words with its links, code and equations."""
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        parts += [escape(text[end : match.start()]), _piece(match, anchors)]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def first(text: str) -> str:
    """The first sentence, on one line: what a table of contents says."""
    opening = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.:?!]) (?=[A-Z(])", opening, maxsplit=1)[0].rstrip(":")


def _block(block: str, anchors: Mapping[str, str]) -> Markup:
    lines = block.split("\n")
    if all(re.match(r"- |  ", line) for line in lines) and lines[0].startswith("- "):
        items = re.split(r"\n(?=- )", block)
        rows = (Markup("<li>{}</li>").format(inline(" ".join(item[2:].split()), anchors)) for item in items)
        return Markup("<ul>{}</ul>").format(Markup("").join(rows))
    if any(line.startswith("  ") or _COLUMNS.search(line) for line in lines):
        return Markup("<pre>{}</pre>").format(inline(textwrap.dedent(block), anchors))
    return Markup("<p>{}</p>").format(inline(" ".join(block.split()), anchors))


def _piece(match: re.Match, anchors: Mapping[str, str]) -> Markup:
    if (address := match["link"]) is not None:
        return Markup('<a href="{}">{}</a>').format(address, re.sub(r"^https?://(www\.)?", "", address))
    if match["math"] is not None:
        return markdown.mathml(match["math"], "inline")
    word = match["code"] or match["name"]
    known = anchors.get(re.split(r"[(\[]", word)[0])
    shown = Markup("<code>{}</code>").format(word)
    return Markup('<a href="{}">{}</a>').format(known, shown) if known else shown
