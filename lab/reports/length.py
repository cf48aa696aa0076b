"""Texts no one reads to the end, cut with a word of what is left out: a megabyte in a page keeps it from opening."""

import re
from collections.abc import Mapping

WORDS = 2_000  # characters of a title, a caption, a point's text
RUN = 20_000  # of HTML between two tags
TAGS = 10_000  # of HTML: cleaning takes a second for so many
SOURCE = 50_000  # characters of markdown, without its images
OUTPUT = 200_000  # of what a cell printed
DEEP = 500  # tags inside each other, or attributes of one: parsers take minutes for thousands
_IMAGE = re.compile(r"data:image/[\w.+-]+;base64,[\w+/=]+")
_LONG = re.compile(rf"(?:\A|(?<=>))[^<]{{{RUN + 1},}}")
_TAG = re.compile(r"<(/?)([a-zA-Z][\w-]*)([^>]*)")
# of which a page may hold any number without an end
_ALONE = re.compile(
    r"(?i)area|base|br|col|d[dt]|embed|hr|img|input|li|link|meta|option|p|source|t(body|[dhr]|head)|wbr"
)


def cut(text: str, most: int) -> str:
    """The text, of a longer one than `most` characters its two ends and how many lie between them."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … [{len(text) - 2 * half:,} characters left out] … {text[-half:]}"


def brief(value: object) -> object:
    """What a template shows of a value: a text that is not HTML is cut to WORDS, all else is left."""
    return cut(value, WORDS) if type(value) is str else value


def cut_source(markdown: str) -> str:
    """Markdown of more than SOURCE characters, not counting the images in it, cut."""
    if len(markdown) <= SOURCE or len(_IMAGE.sub("", markdown)) <= SOURCE:
        return markdown
    return cut(markdown, SOURCE)


def cut_tags(html: str) -> str:
    """HTML of more than TAGS tags with those in the middle left out."""
    places = [found.start() for found in re.finditer("<", html)]
    if len(places) <= TAGS:
        return html
    half = TAGS // 2
    return f"{html[: places[half]]} … [{len(places) - TAGS:,} tags left out] … {html[places[-half] :]}"


def tangled(html: str) -> bool:
    """Whether some HTML has more than DEEP tags inside each other, or a tag with as many attributes."""
    depth = 0
    for close, name, attributes in _TAG.findall(html):
        if not _ALONE.fullmatch(name):
            depth += -1 if close else 1
        if depth > DEEP or len(attributes.split()) > DEEP:
            return True
    return False


def cut_words(part: object) -> object:
    """A figure with its long words cut: nothing is placed by those of points, titles and captions."""
    if isinstance(part, list) and part and isinstance(part[0], Mapping):
        return [cut_words(one) for one in part]
    if not isinstance(part, Mapping):
        return part
    words = ("text", "hovertext", "caption", *(() if "data" in part else ("name",)))  # a frame is called by its name
    return {name: _words(value) if name in words else cut_words(value) for name, value in part.items()}


def _words(value: object) -> object:
    if isinstance(value, list):
        return [_words(word) for word in value]
    return cut(value, WORDS) if isinstance(value, str) else cut_words(value)


def cut_runs(html: str) -> str:
    """HTML with each text between its tags cut; tags, and what stands in their attributes, are left whole."""
    return _LONG.sub(lambda run: cut(run.group(), RUN), html)
