"""One source file in, its documented functions out, by `ast` alone: nothing is imported, nothing runs.

Standard library only, so that `python -I harvest.py` starts in hundredths of a second: it reads one
JSON line [package, module, path] per file on stdin and writes one JSON line per file, in the same order.
The rules of what counts as a pair worth having are here, and only here.
"""

import ast
import gc
import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

WORDS = 3, 60  # of a summary: shorter says nothing, longer is no summary
LINES = 3, 200  # of code without its docstring, blank lines not counted

# where the first paragraph turns from prose into a list, when no blank line stands between
SECTION = re.compile(
    r"^\s*(:(param|type|returns?|rtype|raises?|args?|kwargs?|key\w*|yields?|[ic]?var)\b|"
    r">>>|\.\. |[-*+] |@\w+|[-=~]{3,}|"
    r"(Args|Arguments|Parameters?|Params|Returns?|Yields?|Raises|Examples?|Notes?|Usage|Inputs?|Outputs?|"
    r"Attributes|See Also|References|Warnings?|Keyword Args|Shape)\b ?:?\s*$)"
)
# a first paragraph that repeats the signature, as C functions and ufuncs have it; the prose is in the next
SIGNATURE = re.compile(r"\A[\w.]+\([^()]*(?:\([^()]*\)[^()]*)*\)(?:\s*-+>?.*)?\s*(?:\Z|\n\s*\n)")
# sentences that stand above many functions and tell none of them apart
BOILERPLATE = re.compile(
    r"\W*deprecated|docstring\b|to-?do\b|fixme\b|overrid(e|es|den)\b|inherit(s|ed)?\b|"
    r"(please )?(see|refer to) (the |also |its )?"
    r"(base|parent|super|doc|corresponding|method|function|class|`|[\w.]+\W*$)|"
    r"(this (function|method) )?(is )?(not implemented|unused)\b|"
    # "Helper function for X.", "Wrap X()", "Same as X": one name and no word about it
    r"(a |the )?(helper|wrap\w*|implement\w*|equivalent|version|variant|alternative|alias|same|short\w+)"
    r"( (function|method|version))?( (of|to|for|as|around))?( the)? [\w.:]+(\(.*\))?\W*$|"
    r"\w+ \(.*?\) ?:|"  # "input_ids (torch.LongTensor of shape ...):" is an argument, not the function
    r"(input|output)s? ?(shape)?:",
    re.IGNORECASE,
)
PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\{?\w*\}?\}|<<|\$\{?\w+")  # a decorator would have filled it in
ROLE = re.compile(r":(?:[a-z]+:)?[a-z]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`")  # :class:`X`, :py:meth:`a.b <c>`
LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
QUOTED = re.compile(r"``(.+?)``|`([^`]+)`_{0,2}")
GAP = re.compile(rb"(?:[ \t\f]|\\\n)*(?:;(?:[ \t\f]|\\\n)*)?")  # what may follow a docstring on its logical line


def functions(source: bytes, package: str, module: str) -> Iterator[dict]:
    """Rows of the documented functions and methods of one file, in the order of its lines.

    Raises SyntaxError, UnicodeDecodeError or (null bytes) ValueError when the bytes are no Python source.
    """
    text = importlib.util.decode_source(source)  # honours coding cookies, makes every newline \n
    with warnings.catch_warnings(action="ignore"):  # invalid escapes are their author's business
        tree = ast.parse(text)
    lines = text.encode().split(b"\n")  # ast counts columns in UTF-8 bytes, and lines by \n alone
    for node, parent in _definitions(tree.body, ()):
        if _dunder(node.name):
            continue
        doc = ast.get_docstring(node)
        if not doc or _overload(node) or _idle(node):
            continue
        summary = summarise(doc)
        if not _tells(summary) or not _encodes(doc):
            continue
        code = without_docstring(node, lines)
        if LINES[0] <= sum(not line.isspace() for line in code.split("\n") if line) <= LINES[1]:
            yield {
                "name": ".".join((*parent, node.name)),
                "text": doc,
                "summary": summary,
                "code": code,
                "package": package,
                "module": module,
                "parent": ".".join(parent),
            }


def first(rows: Iterable[dict]) -> Iterator[dict]:
    """Rows whose place, code and summary no earlier row has, whatever its spacing, case and punctuation."""
    seen = set()
    for row in rows:
        place = row["module"], row["name"]
        code = " ".join(row["code"].split())
        summary = ("summary", *re.findall(r"[a-z0-9]+", row["summary"].lower()))
        if seen.isdisjoint((place, code, summary)):
            seen.update((place, code, summary))
            yield row


def _definitions(body: Iterable[ast.AST], parent: tuple[str, ...]) -> Iterator[tuple]:
    """Functions of a module and of its classes, under `if`, `try` and `with` too.

    Not those inside functions: they mean little without their surroundings, whose code holds theirs already.
    """
    for node in body:  # statements, and the handlers of a `try`
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, parent
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, (*parent, node.name))
        else:
            for field in ("body", "handlers", "orelse", "finalbody"):
                yield from _definitions(getattr(node, field, ()), parent)


def summarise(doc: str) -> str:
    """First paragraph of a cleaned docstring on one line, reStructuredText's marks replaced by what they show."""
    paragraph = []
    for line in SIGNATURE.sub("", doc.strip()).split("\n"):
        if not line.strip() or SECTION.match(line):
            break
        paragraph.append(line)
    text = " ".join(" ".join(paragraph).split())
    text = LINK.sub(r"\1", ROLE.sub(r"\1", text))
    return QUOTED.sub(lambda found: found[1] or found[2], text).removesuffix("::")


def without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[bytes]) -> str:
    """Source of a function that has a docstring, dedented, with the docstring cut out and all else kept."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    doc = node.body[0]  # the statement, so that parentheses around the string go too
    before = lines[doc.lineno - 1][: doc.col_offset]
    after = b"\n".join([lines[doc.end_lineno - 1][doc.end_col_offset :], *lines[doc.end_lineno : node.end_lineno]])
    after = after[GAP.match(after).end() :]
    if not before.strip() and after.startswith(b"\n"):  # the docstring had its lines to itself
        before, after = b"", re.sub(rb"^\n(?:[ \t\f]*\n)*", b"", after)
    head = b"".join(line + b"\n" for line in lines[first : doc.lineno - 1])
    indent = len(lines[first]) - len(lines[first].lstrip())
    kept = head + before + after
    removed = node.end_lineno - first - kept.count(b"\n") - 1
    spanning = any(mark in kept for mark in (b'"""', b"'''", b"\\\n"))  # a walk over the tree is dear
    inside = _string_lines(node, lines, first, removed) if spanning else ()
    return "\n".join(
        line if number in inside else line[min(indent, len(line) - len(line.lstrip())) :].rstrip()
        for number, line in enumerate(kept.decode().split("\n"))
    ).rstrip()


def _string_lines(node: ast.AST, lines: list[bytes], first: int, removed: int) -> set[int]:
    """Numbers of the kept lines that begin inside a string: dedenting these would change what the code does."""
    inside = set()
    doc = node.body[0]
    for part in ast.walk(node):
        text = isinstance(part, ast.JoinedStr) or (
            isinstance(part, ast.Constant) and isinstance(part.value, str | bytes)
        )
        if text and part.end_lineno > part.lineno and part is not doc.value:
            rows = lines[part.lineno - 1 : part.end_lineno]
            # neighbours joined inside parentheses span lines too, but each line is code
            if any(mark in row for row in rows for mark in (b'"""', b"'''")) or rows[0].endswith(b"\\"):
                shift = first + (removed if part.lineno >= doc.end_lineno else 0)
                inside.update(range(part.lineno - shift, part.end_lineno - shift))
    return inside


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)


def _idle(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True for a body that does nothing: pass, ..., strings, raise NotImplementedError."""
    return all(
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        or (isinstance(part, ast.Raise) and part.exc and "NotImplemented" in ast.unparse(part.exc))
        for part in node.body
    )


def _tells(summary: str) -> bool:
    """True for a summary that says, in a sentence of its own, what its function does."""
    words = summary.split()
    return (
        summary.isascii()
        and WORDS[0] <= sum(bool(re.search("[A-Za-z]", word)) for word in words)
        and len(words) <= WORDS[1]
        and bool(re.match(r"\(?[A-Za-z_]", summary))
        and not summary.endswith(":")  # the sentence goes on in a list
        and not BOILERPLATE.match(summary)
        and not PLACEHOLDER.search(summary)
    )


def _encodes(text: str) -> bool:
    """False for a docstring with half a surrogate pair, which no file can hold."""
    return not re.search("[\ud800-\udfff]", text)


def main() -> None:
    gc.disable()  # trees hold no cycles, and there are millions of nodes to look through for some
    for line in sys.stdin:
        package, module, path = json.loads(line)
        try:
            found = list(functions(Path(path).read_bytes(), package, module))
        except (SyntaxError, ValueError):  # ValueError: null bytes, and its child UnicodeDecodeError
            found = None
        print(json.dumps(found))


if __name__ == "__main__":
    main()
