"""Markdown to safe HTML: equations become MathML, images move into the page, nothing can run or be fetched."""

import base64
import functools
import mimetypes
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import markupsafe
from markupsafe import Markup

from lab.reports import length

# what text and tables need: nothing that runs, loads or covers the page
_TAGS = frozenset(
    re.findall(
        r"\w+",
        """a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img
        kbd li mark ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr tt u ul var""",
    )
)
_CSS = ("color", "background-color", "font-weight", "font-style", "text-align", "vertical-align", "white-space")
_NAMELESS = re.compile(r"<img(?![^>]*\balt=)")
_SLOT = re.compile(r"slot-[0-9a-f]{24}")
_STYLE = re.compile(r"<style\b[^>]*>.*?</style\s*>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Heading:
    """A line of the table of contents."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True)
class Page:
    """HTML of one piece of markdown, and its headings of level 2 and 3."""

    html: Markup
    headings: tuple[Heading, ...]


def page(
    source: str, taken: frozenset[str] = frozenset(), folder: Path | None = None, files: Mapping | None = None
) -> Page:
    """Render a markdown cell. taken: anchors that earlier cells use; folder: where local images lie;
    files: the cell's attachments."""
    from nbconvert.filters.markdown_mistune import MarkdownWithMath

    renderer = _renderer()(set(taken), folder, files or {})
    dirty = MarkdownWithMath(renderer=renderer).render(length.cut_source(source))
    clean = Markup(_SLOT.sub(renderer.fill, safe(dirty)))  # noqa: S704 (slots hold our own markup only)
    return Page(clean, tuple(renderer.headings))


def html(source: str) -> Markup:
    """Render markdown that is not a cell: a verdict, a question, an output."""
    return page(source).html


def safe(dirty: str) -> Markup:
    """Sanitise HTML: what is not on the list is shown as text, so nothing runs and nothing is hidden."""
    some = _unstyled(dirty)
    if length.tangled(some):  # nothing that anyone meant as markup
        return Markup("<pre>{}</pre>").format(length.cut(some, length.RUN))
    clean = _cleaner().clean(length.cut_runs(some))
    return Markup(_NAMELESS.sub('<img alt="image"', clean))  # noqa: S704 (that is what the cleaner is for)


def is_plain(dirty: str) -> bool:
    """Whether HTML needs nothing beyond the list: a pandas table does not, a widget-like repr does."""
    return {tag.lower() for tag in re.findall(r"<([a-zA-Z][\w-]*)", _unstyled(dirty))} <= _TAGS


def _unstyled(dirty: str) -> str:
    """Without style sheets, and with no more tags than cleaning has time for."""
    some = length.cut_tags(dirty)
    last = some.lower().rfind("</style")
    end = some.find(">", last) + 1 if last >= 0 else 0  # beyond it each <style would be looked for to the end
    return _STYLE.sub("", some[:end]) + some[end:]


def text(source: str) -> str:
    """Markdown without its marks, for places that hold plain text only."""
    return html(source).striptags()


def mathml(latex: str, display: str) -> Markup:
    """An equation as MathML; one that cannot be read shows its source instead."""
    from latex2mathml import converter, exceptions

    broken = tuple(error for error in vars(exceptions).values() if isinstance(error, type))
    try:
        return Markup(converter.convert(latex.strip(), display=display))  # noqa: S704 (built as an XML tree)
    except (*broken, ValueError, TypeError, LookupError, AttributeError, StopIteration, RecursionError):
        return Markup('<code class="broken-math" title="this equation could not be read">{}</code>').format(latex)


@functools.cache
def _cleaner():
    from bleach.css_sanitizer import CSSSanitizer
    from bleach.sanitizer import Cleaner

    def allowed(tag: str, name: str, value: str) -> bool:
        if name == "src":
            return tag == "img" and value.startswith("data:image/")
        if name == "href":
            return tag == "a"
        if name == "class":
            # ours are all longer or hold a dash; pandas and pygments need these
            return all(len(word) <= 2 or word in ("dataframe", "highlight") for word in value.split())
        return name in {"alt", "title", "colspan", "rowspan", "align", "style", "start", "open", "scope"}

    return Cleaner(
        tags=_TAGS,
        attributes=allowed,
        protocols=frozenset({"http", "https", "mailto", "data"}),
        strip=False,
        strip_comments=True,
        css_sanitizer=CSSSanitizer(allowed_css_properties=_CSS),
    )


@functools.cache
def _renderer() -> type:
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        """Our own markup goes round the sanitiser through slots, random so that no text can name one."""

        def __init__(self, taken, folder, files):
            super().__init__(escape=False, allow_harmful_protocols=False, exclude_anchor_links=True, attachments=files)
            self.taken, self.folder = taken, folder
            self.kept: dict[str, Markup] = {}
            self.headings: list[Heading] = []
            self.used: dict[str, int] = {}  # how far each anchor is counted

        def keep(self, markup):
            slot = f"slot-{secrets.token_hex(12)}"
            self.kept[slot] = markup
            return slot

        def fill(self, slot):
            return self.kept.get(slot.group(), slot.group())

        def plain(self, text):
            """What is rendered as words alone; a formula reads as its source."""
            words = _SLOT.sub(lambda slot: Markup(self.fill(slot)).striptags(), safe(text).striptags())  # noqa: S704
            return length.cut(words, length.WORDS)

        def block_math(self, body):
            return self.keep(Markup('<span class="equation">{}</span>').format(mathml(body, "block")))

        def inline_math(self, body):
            return self.keep(mathml(body, "inline"))

        def latex_environment(self, name, body):
            return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

        def block_mermaidjs(self, code):
            return f"<pre><code>{markupsafe.escape(code)}</code></pre>"

        def heading(self, text, level, **_):
            if level == 1 or level > 3:
                return f"<h{max(level, 2)}>{text}</h{max(level, 2)}>\n"
            plain = self.plain(text)
            stem = "s-" + (re.sub(r"\W+", "-", plain.lower())[:80].strip("-") or "section")
            n = self.used.get(stem, 1)
            while (anchor := stem if n == 1 else f"{stem}-{n}") in self.taken:
                n += 1
            self.used[stem] = n
            self.taken.add(anchor)
            self.headings.append(Heading(level, plain, anchor))
            open_ = self.keep(Markup('<h{} id="{}">').format(level, anchor))
            close = self.keep(Markup("</h{}>").format(level))
            return f"\n\n{open_}{text}{close}\n\n"

        def image(self, text, url, title=None):  # noqa: ARG002 (mistune gives it)
            source = self.data(url)
            alt = self.plain(text)
            if source is None:
                return f'<a href="{markupsafe.escape(url)}">{markupsafe.escape(alt or url)}</a>'
            return self.keep(Markup('<img src="{}" alt="{}">').format(source, alt))

        def data(self, url):
            """The image inside the page: an attachment, a file beside the notebook; None if it lies elsewhere."""
            if url.startswith("data:image/"):
                return url
            if url.startswith("attachment:"):
                for mime, content in self.attachments.get(url.removeprefix("attachment:"), {}).items():
                    return f"data:{mime};base64,{content}"
                return None
            if self.folder is None or "://" in url:
                return None
            path = (self.folder / url).resolve()
            mime = mimetypes.guess_type(path.name)[0] or ""
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file() or not mime.startswith("image/"):
                return None
            return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"

    return Renderer
