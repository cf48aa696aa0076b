"""Finds checks that cannot fail, in the syntax tree of a test file.

Linters see the bare comparison. A dropped `torch.allclose(...)`, a conditional assert and a swallowed
AssertionError are seen by none, and stand in widely used test suites.
"""

import ast
from collections.abc import Iterator

Found = Iterator[tuple[int, str]]

PREDICATES = {
    "allclose", "isclose", "equal", "equals", "identical", "array_equal", "array_equiv", "all", "any",
    "isinstance", "issubclass", "hasattr", "callable", "startswith", "endswith", "issubset", "issuperset",
    "isdisjoint", "isnan", "isfinite", "isinf", "exists", "bool",
}  # fmt: skip
SWALLOWERS = {"AssertionError", "Exception", "BaseException"}
NEEDS_MATCH = {"ValueError", "TypeError"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CHECKING_CALLS = {"raises", "warns", "deprecated_call", "fail", "gradcheck", "gradgradcheck"}


def vacuous(source: str) -> list[tuple[int, str]]:
    """(line, what is wrong) of each check in `source` that cannot fail."""
    tree = ast.parse(source)
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)}
    named = set(functions) | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    named -= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}  # a fixture's value, not the fixture
    found = [
        *_dropped(tree),
        *_asserts(tree, named),
        *_swallowed(tree),
        *_raises(tree),
        *_never_run(tree),
        *_marks(tree),
        *_without_check(tree, functions),
    ]
    return sorted(set(found))


def _last(node: ast.AST) -> str:
    """The last name of a dotted expression or call: `raises` for `pytest.raises(...)`."""
    match node:
        case ast.Call(func=func):
            return _last(func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _predicate(node: ast.AST) -> bool:
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.BoolOp(values=values):
            return _predicate(values[-1])  # `ready or start()` is a command
        case ast.Call():
            return _last(node) in PREDICATES or _last(node).startswith(("is_", "has_"))
    return False


def _expects(node: ast.AST) -> bool:
    """A `with` whose body is run for what it raises."""
    return isinstance(node, ast.With) and any(
        _last(item.context_expr) in {"raises", "warns", "deprecated_call"} for item in node.items
    )


def _dropped(tree: ast.AST) -> Found:
    expected = {id(n) for block in ast.walk(tree) if _expects(block) for n in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in expected:
            continue
        match node:
            case ast.Expr(value=value) if _predicate(value):
                yield node.lineno, "the result of a check is dropped"
            case ast.Assign(targets=[ast.Name(id="_")], value=value) if _predicate(value):
                yield node.lineno, "the result of a check is dropped"


def _truth(node: ast.AST, named: set[str]) -> bool | None:
    """The truth value that the expression has whatever the code does; None where it depends."""
    match node:
        case ast.Constant(value=value):
            return bool(value)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items) | ast.Dict(keys=items):
            return bool(items)
        case ast.JoinedStr() | ast.Lambda() | ast.GeneratorExp():
            return True
        case ast.Name(id=name) if name in named | {"all", "any", "isinstance"}:
            return True  # a function, not its result
        case ast.Attribute(attr=name) if name in PREDICATES:
            return True
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _truth(operand, named)
            return None if inner is None else not inner
        case ast.BoolOp(op=op, values=values):
            parts = {_truth(value, named) for value in values}
            decisive = isinstance(op, ast.Or)
            return decisive if decisive in parts else (None if None in parts else not decisive)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _comparison(left, op, right)
    return None


def _comparison(left: ast.AST, op: ast.cmpop, right: ast.AST) -> bool | None:
    reflexive = isinstance(op, ast.Eq | ast.LtE | ast.GtE | ast.Is)
    if reflexive and _same(left, right):
        return True
    match left, op, right:
        case (ast.Call(func=ast.Name(id="len")), ast.GtE(), ast.Constant(value=0)) | (
            ast.Constant(value=0),
            ast.LtE(),
            ast.Call(func=ast.Name(id="len")),
        ):
            return True
        case ast.Constant(), _, ast.Constant():
            return True
    return None


def _same(left: ast.AST, right: ast.AST) -> bool:
    """Equal text without a call: two calls may differ, and `draw(0) == draw(0)` is a real check."""
    return ast.dump(left) == ast.dump(right) and not any(isinstance(n, ast.Call) for n in ast.walk(left))


def _asserts(tree: ast.AST, named: set[str]) -> Found:
    for node in ast.walk(tree):
        match node:
            case ast.Assert(test=ast.IfExp()):
                yield node.lineno, "a conditional assert is `assert (a if c else b)`: write two"
            case ast.Assert(test=test) if _truth(test, named):
                yield node.lineno, "the assert is always true"
            case ast.Assert(test=ast.BoolOp(op=ast.And(), values=values)) if any(
                _truth(value, named) for value in values
            ):
                yield node.lineno, "a part of the assert is always true"
            case ast.Compare(left=left, comparators=[right]) if _last(left) == _last(right) == "approx":
                yield node.lineno, "approx on both sides"
            case ast.Call(args=[first, second, *_]) if _same(first, second) and (
                _last(node).startswith("assert_") or _last(node) in PREDICATES - {"isinstance", "issubclass"}
            ):
                yield node.lineno, "a thing is compared with itself"


def _swallowed(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=kind, body=body) if kind is None or _names(kind) & SWALLOWERS:
                inner = [n for statement in body for n in ast.walk(statement)]
                if not any(isinstance(n, ast.Raise) or _last(n) == "fail" for n in inner):
                    yield node.lineno, "the handler swallows AssertionError"
            case ast.Call(args=args) if _last(node) == "suppress":
                if {name for arg in args for name in _names(arg)} & SWALLOWERS:
                    yield node.lineno, "suppress swallows AssertionError"


def _names(node: ast.AST) -> set[str]:
    """The exceptions in `ValueError` or `(ValueError, TypeError)`; another module's Exception keeps its prefix."""
    items = node.elts if isinstance(node, ast.Tuple) else [node]
    return {ast.unparse(item).removeprefix("builtins.") for item in items}


def _raises(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        match node:
            case ast.Call(args=[kind, *rest], keywords=keywords) if _last(node) == "raises":
                match_word = {k.arg: k.value for k in keywords}.get("match")
                if _names(kind) & {"Exception", "BaseException"}:
                    yield node.lineno, "raises(Exception) is met by any mistake, a NameError too"
                if not rest and _names(kind) & NEEDS_MATCH and match_word is None:
                    yield node.lineno, "raises(ValueError | TypeError) without match="
                if isinstance(match_word, ast.Constant) and not match_word.value:
                    yield node.lineno, "an empty match= is met by every message"
            case ast.With(body=[_, *later]) if _expects(node) and _raising(node):
                for statement in later:
                    if any(isinstance(n, ast.Assert) for n in ast.walk(statement)):
                        yield statement.lineno, "an assert after the line that raises never runs"


def _raising(node: ast.With) -> bool:
    return any(_last(item.context_expr) == "raises" for item in node.items)


def _never_run(tree: ast.AST) -> Found:
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=iterable) | ast.comprehension(iter=iterable) if _empty(iterable):
                yield iterable.lineno, "a loop over nothing"
            case ast.If(test=test) | ast.While(test=test) if isinstance(test, ast.Constant) and not test.value:
                yield node.lineno, "a branch that is never taken"
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(block, list):
                yield from _after_the_end(block)


def _empty(node: ast.AST) -> bool:
    match node:
        case ast.Tuple(elts=[]) | ast.List(elts=[]) | ast.Dict(keys=[]) | ast.Constant(value="" | b""):
            return True
        case ast.Call(func=ast.Name(id="list" | "tuple" | "set" | "dict"), args=[], keywords=[]):
            return True
        case ast.Call(func=ast.Name(id="range"), args=[ast.Constant(value=0)]):
            return True
    return False


def _after_the_end(block: list[ast.stmt]) -> Found:
    ended = False
    for statement in block:
        if ended and any(isinstance(n, ast.Assert) for n in ast.walk(statement)):
            yield statement.lineno, "an assert that is never reached"
        ended |= isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break)


def _marks(tree: ast.AST) -> Found:
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Attribute(attr="mark"), attr="skip"):
                yield node.lineno, "an unconditional skip"
            case ast.Attribute(value=ast.Attribute(attr="mark"), attr="xfail") if id(node) not in called:
                yield node.lineno, "xfail without a reason and strict=True"
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr=mark), args=args, keywords=words):
                given = {word.arg: word.value for word in words}
                yield from ((node.lineno, fault) for fault in _mark_faults(mark, args, given))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr="skip" | "xfail" as name)):
                if not _reason([*node.args, *(w.value for w in node.keywords if w.arg == "reason")]):
                    yield node.lineno, f"{name} without a reason"
            case ast.Module(body=body) | ast.FunctionDef(body=body):
                for statement in body:
                    if isinstance(statement, ast.Expr) and _last(statement.value) == "skip":
                        yield statement.lineno, "an unconditional skip"


def _mark_faults(mark: str, args: list[ast.AST], given: dict[str | None, ast.AST]) -> Iterator[str]:
    reason = _reason([given["reason"]] if "reason" in given else [])
    match mark:
        case "skipif":
            if not reason:
                yield "skipif without a reason"
            if args and _truth(args[0], set()):
                yield "an unconditional skip"
        case "xfail":
            strict = given.get("strict")
            if not (reason and isinstance(strict, ast.Constant) and strict.value is True):
                yield "xfail without a reason and strict=True"
        case "parametrize":
            if len(args) > 1 and _empty(args[1]):
                yield "a loop over nothing"


def _reason(values: list[ast.AST]) -> bool:
    return any(not isinstance(value, ast.Constant) or bool(value.value) for value in values)


def _without_check(tree: ast.AST, functions: dict[str, ast.AST]) -> Found:
    for node in ast.walk(tree):
        is_test = isinstance(node, FUNCTIONS) and node.name.startswith("test") and not _fixture(node)
        if is_test and not _checks(node, functions, set()):
            yield node.lineno, f"{node.name} checks nothing"


def _fixture(node: ast.FunctionDef) -> bool:
    return any(_last(decorator) == "fixture" for decorator in node.decorator_list)


def _checks(node: ast.AST, functions: dict[str, ast.AST], seen: set[str]) -> bool:
    """Whether the body can fail by intent: itself, or through a helper of the same file that it calls."""
    loaded = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    todo = list(ast.iter_child_nodes(node))
    while todo:
        part = todo.pop()
        if isinstance(part, FUNCTIONS) and part.name not in loaded:
            continue  # an inner function that nobody calls
        if isinstance(part, ast.Assert | ast.Raise) or (isinstance(part, ast.Call) and _checking(part)):
            return True
        helper = _last(part) if isinstance(part, ast.Call) else ""
        if helper in functions.keys() - seen and _checks(functions[helper], functions, seen | {helper}):
            return True
        todo += ast.iter_child_nodes(part)
    return False


def _checking(call: ast.Call) -> bool:
    name = _last(call)
    strict_run = any(k.arg == "check" and isinstance(k.value, ast.Constant) and k.value.value for k in call.keywords)
    return strict_run or name in CHECKING_CALLS or name.startswith(("assert", "check", "expect", "wait_for"))
