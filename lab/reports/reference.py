"""The reference: a page per room made from its docstrings, signatures and registries, with the look of the reports.

    lab docs --out reports      writes reports/reference/ beside the reports, and the gallery links to it

Everything is read from the package as it is imported, so the pages say what the code says.
"""

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import lab
from lab.reports import docstring, index, record, render

FOLDER = "reference"


@dataclass(frozen=True)
class Entry:
    """A public name: where it stands, how it is called, what it says of itself; parts are a class's or module's own."""

    name: str
    kind: str
    signature: str
    doc: str
    source: str
    parts: list["Entry"] = field(default_factory=list)

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Table:
    """A registry: the columns of its table and a row for each of its names; cells are texts that may hold links."""

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def write(out: str | Path) -> Path:
    """Write the pages into out/reference, renew out/index.html, and give the path of the first page."""
    folder = Path(out) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, html in pages().items():
        record.replace(folder / name, html)
    index.write(Path(out))
    return folder / "index.html"


def pages() -> dict[str, str]:
    """{file name: page} of the reference: an index and a page for each room."""
    rooms = {room: import_module(f"lab.{room}") for room in lab.ROOMS}
    entries = {room: _entries(module, f"lab.{room}") for room, module in rooms.items()}
    tables = {room: [table for build in TABLES.get(room, ()) for table in build()] for room in rooms}
    anchors = _anchors(entries)
    filters = {
        "docstring": partial(docstring.html, anchors=anchors),
        "line": lambda text: docstring.inline(docstring.first(text), anchors),
        "linked": partial(docstring.inline, anchors=anchors),
        "doc": inspect.getdoc,
    }
    shared = {"rooms": rooms, "entries": entries, "tables": tables}
    made = {"index.html": ("reference.html.j2", {"top": lab})}
    made |= {f"{room}.html": ("room.html.j2", {"room": room, "module": module}) for room, module in rooms.items()}
    found = {}
    for name, (template, own) in made.items():
        # a registry's name is the name of something only in its own room
        here = {key.rpartition(".")[2]: to for key, to in anchors.items() if key.startswith(f"lab.{own.get('room')}.")}
        given = filters | {"own": partial(docstring.inline, anchors=here)}
        found[name] = render.filled(template, given, **shared, **own, nonce=render.nonce([name, sorted(anchors)]))
    return found


def _anchors(entries: Mapping[str, list[Entry]]) -> dict[str, str]:
    """Addresses of every room and name, by its whole name and, where only one thing is called so, by its short one."""
    found = {f"lab.{room}": f"{room}.html" for room in entries}
    for room, listed in entries.items():
        for entry in listed:
            for one in (entry, *entry.parts):
                found[one.name] = f"{room}.html#{one.name}"
    shorts = Counter(name.rpartition(".")[2] for name in found)
    return found | {short: to for name, to in found.items() if shorts[short := name.rpartition(".")[2]] == 1}


def _entries(module: ModuleType, name: str) -> list[Entry]:
    """The public names of a room: what it exports, or where it does not say, what is defined in its own files."""
    listed = getattr(module, "__all__", None) or [
        key for key, value in vars(module).items() if not key.startswith("_") and _own(key, value, name)
    ]
    found = [_entry(getattr(module, key), f"{name}.{key}") for key in listed]
    return sorted(found, key=lambda entry: (KINDS.index(entry.kind), entry.short.lower()))


KINDS = ("function", "class", "module", "value")


def _own(key: str, value: object, name: str) -> bool:
    return getattr(value, "__module__", "").startswith(name) or (key.isupper() and isinstance(value, Mapping))


def _entry(value: object, name: str) -> Entry:
    doc = inspect.getdoc(value) or ""
    if inspect.ismodule(value):
        parts = [
            _entry(part, f"{name}.{key}") for key, part in vars(value).items() if _public(key, part, value.__name__)
        ]
        return Entry(name, "module", "", doc, _file(value), parts)
    if inspect.isclass(value):
        parts = [_entry(inspect.unwrap(part), f"{name}.{key}") for key, part in _methods(value)]
        return Entry(name, "class", _constructor(value), doc, _file(value), parts)
    if inspect.isfunction(inner := inspect.unwrap(value) if callable(value) else value):
        return Entry(name, "function", _signature(inner), doc, _file(inner))
    said = f"{len(value)} entries: {', '.join(map(str, value))}" if isinstance(value, Mapping) else repr(value)
    return Entry(name, "value", "", said if len(said) < 2000 else f"{said[:2000]} …", "")


def _public(key: str, value: object, module: str) -> bool:
    return (
        not key.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module
    )


def _methods(kind: type) -> list[tuple[str, object]]:
    """Its own public methods and properties that say something; forward of a pool is its call."""
    found = []
    for key, value in vars(kind).items():
        part = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not key.startswith("_") and inspect.isfunction(part) and part.__doc__:
            found.append((key, part))
    return found


def _tree(value: object) -> ast.AST | None:
    try:
        source = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):  # made at run time: it has no source
        return None
    return ast.parse(source).body[0]


def _signature(function: Callable) -> str:
    """As it is written in the source: types by the names their authors gave them."""
    tree = _tree(function)
    if not isinstance(tree, ast.FunctionDef):
        return str(inspect.signature(function))
    returned = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    return _broken(ast.unparse(tree.args), returned)


def _broken(arguments: str, returned: str) -> str:
    """On one line where it fits, else an argument a line."""
    if len(arguments) + len(returned) < 90:
        return f"({arguments}){returned}"
    tree = ast.parse(f"def f({arguments}): ...").body[0]
    return "(\n    " + ",\n    ".join(_each(tree.args)) + f",\n){returned}"


def _each(given: ast.arguments) -> list[str]:
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    lines = [_argument(arg, value) for arg, value in zip(plain, defaults, strict=True)]
    if given.posonlyargs:
        lines.insert(len(given.posonlyargs), "/")
    if given.vararg or given.kwonlyargs:
        lines.append("*" + (ast.unparse(given.vararg) if given.vararg else ""))
    lines += [_argument(arg, value) for arg, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [*lines, *([f"**{ast.unparse(given.kwarg)}"] if given.kwarg else [])]


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    if default is None:
        return ast.unparse(arg)
    return f"{ast.unparse(arg)}{' = ' if arg.annotation else '='}{ast.unparse(default)}"


def _constructor(kind: type) -> str:
    """Arguments of __init__ without self; of a dataclass its fields with their remarks, as the source has them."""
    tree = _tree(kind)
    if isinstance(tree, ast.ClassDef):
        lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
        fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
        if fields and "__init__" not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            return "\n".join(textwrap.dedent("\n".join(lines[f.lineno - 1 : f.end_lineno])) for f in fields)
    init = vars(kind).get("__init__")
    if init is None or not isinstance(made := _tree(init), ast.FunctionDef):
        return ""
    made.args.args = made.args.args[1:]
    return _broken(ast.unparse(made.args), "")


def _file(value: object) -> str:
    root = Path(str(lab.__file__)).parent.parent
    try:
        path = Path(inspect.getsourcefile(value) or "")
    except TypeError:  # built in
        return ""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""


def _pools() -> list[Table]:
    listed = import_module("lab.pooling").table().reset_index()
    families = {"tokens": "POOLS", "layers": "LAYER_POOLS", "maps": "MAP_POOLS"}
    columns = ("name", "class", "formula", "source", "parameters")
    return [
        Table(f"lab.pooling.{name}", columns, _rows(listed[listed.family == family], columns))
        for family, name in families.items()
    ]


def _rows(table, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    coded = ("name", "class")
    return [
        tuple(f"`{row[c]}`" if c in coded else f"{row[c]:,}" if c == "parameters" else str(row[c]) for c in columns)
        for row in table.to_dict("records")
    ]


def _normalizers() -> list[Table]:
    listed = import_module("lab.attention").NORMALIZERS
    rows = [(f"`{name}`", one.formula, one.mass, one.source) for name, one in listed.items()]
    return [Table("lab.attention.NORMALIZERS", ("name", "formula", "row sums to", "source"), rows)]


def _geometry() -> list[Table]:
    room = import_module("lab.geometry")
    rows = {key: [_number(name, one) for name, one in getattr(room, key).items()] for key in ("METRICS", "COLLAPSE")}
    alike = [(f"`{name}`", docstring.first(inspect.getdoc(getattr(room, name)) or "")) for name in room.SIMILARITIES]
    columns = ("name", "what it is")
    return [Table(f"lab.geometry.{key}", columns, found) for key, found in (*rows.items(), ("SIMILARITIES", alike))]


def _number(name: str, one: Callable) -> tuple[str, str]:
    inner = one.func if isinstance(one, partial) else one
    given = f" (with {', '.join(f'{k}={v!r}' for k, v in one.keywords.items())})" if isinstance(one, partial) else ""
    return f"`{name}`", docstring.first(inspect.getdoc(inner) or "") + given


TABLES = {"pooling": (_pools,), "attention": (_normalizers,), "geometry": (_geometry,)}
