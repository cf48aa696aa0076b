"""The parameters cell is a notebook's interface: read it, parse text for it, refuse what does not fit.

A line is `name: type = default  # help`. Types: int, float, str, bool, None, tuple, list, dict, with
elements as in `tuple[str, ...]` or `list[int]`, and unions `int | None`. Without a type the default's counts.
"""

import ast
import io
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real

PRESETS = ("smoke", "quick", "full")
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    type: str
    default: object
    help: str

    def __str__(self) -> str:
        return f"{self.name}: {self.type} = {self.default!r}" + (f"  # {self.help}" if self.help else "")


class Misfit(ValueError):  # noqa: N818 (it never leaves this file)
    """A value does not fit a type; the public functions add the notebook and the parameter."""


def read(source: str) -> dict[str, Parameter]:
    """The parameters that a cell's source defines, in its order.

    ValueError: not Python, a default that is no literal, a type that no parameter can have.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"the parameters cell is not Python: {error.msg} (line {error.lineno})") from None
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    known: dict[str, Parameter] = {}
    for line in tree.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
                type_ = ast.unparse(kind)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                type_ = ""
            case _:
                continue
        try:
            default = ast.literal_eval(value)
            type_ = type_ or ("None" if default is None else type(default).__name__)
            _convert(default, _kind(type_))
        except Misfit as error:
            raise ValueError(f"the parameters cell: {name}: {error}") from None
        except (ValueError, TypeError):
            raise ValueError(
                f"the parameters cell: the default of {name} must be a literal, got {ast.unparse(value)}"
            ) from None
        known[name] = Parameter(name, type_, default, comments.get(line.end_lineno or 0, ""))
    return known


def check(notebook: str, known: Mapping[str, Parameter], given: Mapping[str, object]) -> dict[str, object]:
    """The given values as the notebook's types want them.

    ValueError names the notebook, the unknown names and what is known, or the value that does not fit.
    """
    if unknown := sorted(given.keys() - known.keys()):
        listed = "".join(f"\n  {parameter}" for parameter in known.values()) or " none"
        raise ValueError(f"{notebook} has no parameter {', '.join(map(repr, unknown))}; it has:{listed}")
    checked: dict[str, object] = {}
    for name, value in given.items():
        try:
            checked[name] = _convert(value, _kind(known[name].type))
        except Misfit as error:
            raise ValueError(f"{notebook}: parameter {name!r}: {error}") from None
    preset = checked.get("preset", PRESETS[0])
    if preset not in PRESETS:
        raise ValueError(f"{notebook}: parameter 'preset': expected {' | '.join(PRESETS)}, got {preset!r}")
    return checked


def parse(notebook: str, parameter: Parameter, text: str) -> object:
    """The value that a text from the command line means for this parameter. ValueError: it means none."""
    try:
        return _parse(text, _kind(parameter.type))
    except Misfit as error:
        raise ValueError(f"{notebook}: parameter {parameter.name!r}: {error}") from None


def _kind(type_: str) -> ast.expr:
    return ast.parse(type_, mode="eval").body


def _elements(kind: ast.Subscript) -> list[ast.expr]:
    # list[int] -> [int]; tuple[int, ...] -> [int, ...]
    return kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]


def _per_element(kind: ast.Subscript, values: list, convert) -> list:
    name, wanted = ast.unparse(kind.value), _elements(kind)
    if name == "list" or (len(wanted) == 2 and isinstance(wanted[1], ast.Constant)):
        wanted = [wanted[0]] * len(values)
    if len(wanted) != len(values):
        raise Misfit(f"expected {ast.unparse(kind)}, got {len(values)} elements")
    return [convert(value, element) for value, element in zip(values, wanted, strict=True)]


def _convert(value: object, kind: ast.expr) -> object:
    """The value in the plain Python type that `kind` writes; Misfit if it is something else."""
    match kind:
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            try:
                return _convert(value, left)
            except Misfit:
                try:
                    return _convert(value, right)
                except Misfit:
                    raise Misfit(f"expected {ast.unparse(kind)}, got {_said(value)}") from None
        case ast.Constant(value=None):
            fits, plain = value is None, value
        case ast.Constant(value=str(quoted)):
            return _convert(value, _kind(quoted))
        case ast.Name(id="bool"):
            fits, plain = isinstance(value, bool), value
        case ast.Name(id="int"):
            fits = isinstance(value, Integral) and not isinstance(value, bool)
            plain = int(value) if fits else None
        case ast.Name(id="float"):
            fits = isinstance(value, Real) and not isinstance(value, bool)
            plain = float(value) if fits else None
        case ast.Name(id="str"):
            fits, plain = isinstance(value, str), value
        case ast.Name(id="tuple" | "list" as name):
            fits = isinstance(value, tuple | list)
            plain = {"tuple": tuple, "list": list}[name](value) if fits else None
        case ast.Name(id="dict"):
            fits, plain = isinstance(value, dict), value
        case ast.Subscript(value=ast.Name(id="tuple" | "list")):
            whole = _convert(value, kind.value)
            return type(whole)(_per_element(kind, list(whole), _convert))
        case ast.Subscript(value=ast.Name(id="dict")):
            return _convert(value, kind.value)
        case _:
            raise Misfit(f"a parameter cannot have the type {ast.unparse(kind)}")
    if not fits:
        raise Misfit(f"expected {ast.unparse(kind)}, got {_said(value)}")
    return plain


def _said(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _parse(text: str, kind: ast.expr) -> object:
    """What a text means as `kind`: `8`, `0.5`, `true`, `none`, `a,b,c`."""
    low = text.strip().lower()
    match kind:
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            # None first, then the narrower reading: `int | str` takes 8 as a number
            for choice in sorted((left, right), key=lambda k: not isinstance(k, ast.Constant)):
                try:
                    return _parse(text, choice)
                except Misfit:
                    continue
        case ast.Constant(value=None) if low == "none":
            return None
        case ast.Constant(value=str(quoted)):
            return _parse(text, _kind(quoted))
        case ast.Name(id="bool") if low in _TRUE | _FALSE:
            return low in _TRUE
        case ast.Name(id="int" | "float" as name):
            try:
                return {"int": int, "float": float}[name](text)
            except ValueError:
                pass
        case ast.Name(id="str"):
            return text
        case ast.Name(id="tuple" | "list" as name):
            return {"tuple": tuple, "list": list}[name](_literal(word) for word in _words(text))
        case ast.Subscript(value=ast.Name(id="tuple" | "list" as name)):
            return {"tuple": tuple, "list": list}[name](_per_element(kind, _words(text), _parse))
        case ast.Name(id="dict") | ast.Subscript(value=ast.Name(id="dict")):
            value = _literal(text)
            if isinstance(value, dict):
                return value
    raise Misfit(f"expected {ast.unparse(kind)}, got {text!r}")


def _words(text: str) -> list[str]:
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    return [word.strip().strip("'\"") for word in inner.split(",") if word.strip()]


def _literal(word: str) -> object:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
