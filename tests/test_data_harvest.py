"""What counts as a documented function, and how its docstring leaves its code."""

import ast
import subprocess
import sys
from textwrap import dedent

import pytest

from lab.data import harvest, stack

BODY = "\n    y = x + 1\n    return y\n"


def rows(source, **where):
    return list(harvest.functions(dedent(source).encode(), **({"package": "p", "module": "p.m"} | where)))


def code(source):
    (row,) = rows(source)
    return row["code"]


def kept(doc, body=BODY):
    return [row["summary"] for row in rows(f'def f(x):\n    """{doc}"""{body}')]


def test_row():
    source = '''
    class Outer:
        class Inner:
            async def method(self, x):
                """Adds one to
                a number.

                At length.
                """
                y = x + 1
                return y
    '''
    assert rows(source) == [
        {
            "name": "Outer.Inner.method",
            "text": "Adds one to\na number.\n\nAt length.",
            "summary": "Adds one to a number.",
            "code": "async def method(self, x):\n    y = x + 1\n    return y",
            "package": "p",
            "module": "p.m",
            "parent": "Outer.Inner",
        }
    ]


CUTS = {
    "comments stay": (
        'def f(x):\n    # before\n    """Adds one to x."""  # beside\n\n    # after\n    return x\n',
        "def f(x):\n    # before\n    # beside\n\n    # after\n    return x",
    ),
    "blank lines after it go": (
        'def f(x):\n    """Adds one to x."""\n\n   \n    y = x\n    return y\n',
        "def f(x):\n    y = x\n    return y",
    ),
    "decorators and a long head": (
        '@a\n@b(\n    1,\n)\ndef f(\n    x,  # why\n):\n    """Adds one to x."""\n    return x\n',
        "@a\n@b(\n    1,\n)\ndef f(\n    x,  # why\n):\n    return x",
    ),
    "only its own": (
        'def f(x):\n    """Adds one to x."""\n    def g():\n        """Adds two to x."""\n    return g\n',
        'def f(x):\n    def g():\n        """Adds two to x."""\n    return g',
    ),
    "semicolon": (
        'def f(x):\n    """Adds one to x."""; y = 1 ;\n    return y\n',
        "def f(x):\n    y = 1 ;\n    return y",
    ),
    "idle semicolon": (
        'def f(x):\n    """Adds one to x.""" ;\n    y = 1\n    return y\n',
        "def f(x):\n    y = 1\n    return y",
    ),
    "continued line": (
        'def f(x):\n    """Adds one to x.""" \\\n    ; y = 1\n    return y\n',
        "def f(x):\n    y = 1\n    return y",
    ),
    "one line": (
        'def f(x,\n      y,\n      z): "Adds one to x."; return x\n',
        "def f(x,\n      y,\n      z): return x",
    ),
    "joined strings in parentheses": (
        "def f(x):\n    ('Adds one '\n     'to x.')\n    y = 1\n    return y\n",
        "def f(x):\n    y = 1\n    return y",
    ),
    "multi-byte characters before and inside": (
        'def f(ä, é=("ß€😀")): "Adds one to x.\\n\\n😀"; ß = 1; \\\n  s = "€"; \\\n  return ß\n',
        'def f(ä, é=("ß€😀")): ß = 1; \\\n  s = "€"; \\\n  return ß',
    ),
    "a mark inside a string": (
        "def f(x):\n    '''Adds \"\"\" one to x.'''\n    y = 'Adds one to x.'\n    return y\n",
        "def f(x):\n    y = 'Adds one to x.'\n    return y",
    ),
    "method with strings that dedenting would change": (
        'class A:\n    def f(self):\n        """Adds\n        one to x."""\n        y = """a\n        b"""\n'
        "        z = ('c'\n             'd')\n        w = 'e\\\n        f'\n        return y, z, w\n",
        'def f(self):\n    y = """a\n        b"""\n'
        "    z = ('c'\n         'd')\n    w = 'e\\\n        f'\n    return y, z, w",
    ),
    "string in a default, above the docstring": (
        'class A:\n    def f(self, x="""a\n        b"""):\n        """Adds one to x."""\n        return x\n',
        'def f(self, x="""a\n        b"""):\n    return x',
    ),
    "f-string": (
        'class A:\n    def f(self, x):\n        """Adds one to x."""\n'
        '        y = f"""a {x}\n        b"""\n        return y\n',
        'def f(self, x):\n    y = f"""a {x}\n        b"""\n    return y',
    ),
    "tabs and a comment to the left": (
        'class A:\n\tdef f(self, x):\n\t\t"""Adds one to x."""\n# left\n\t\ty = x\n\t\treturn y\n',
        "def f(self, x):\n# left\n\ty = x\n\treturn y",
    ),
    "carriage returns": (
        'def f(x):\r\n    """Adds one\r\n    to x."""\r\n    y = x\r\n    return y\r\n',
        "def f(x):\n    y = x\n    return y",
    ),
    "form feed and line separator are no new lines": (
        '\x0cdef g(): "\u2028\x0c"\n\x0c\ndef f(x):\n    """Adds one to x."""\n    y = "\u2028"\n    return y\n',
        'def f(x):\n    y = "\u2028"\n    return y',
    ),
}


@pytest.mark.parametrize(("source", "without"), CUTS.values(), ids=CUTS)
def test_docstring_is_cut_exactly(source, without):
    (row,) = harvest.functions(source.encode(), "p", "p")
    assert row["code"] == without
    tree = ast.parse(source.replace("\r\n", "\n"))
    (whole,) = (node for node in ast.walk(tree) if getattr(node, "name", "") == "f")
    whole.body = whole.body[1:]
    assert ast.dump(ast.parse(row["code"]).body[0]) == ast.dump(whole)


def test_real_code_keeps_its_tree():
    """On the real scipy.stats: every piece of code parses to the original's tree without the docstring."""
    checked = 0
    for source in stack.sources("scipy"):
        if source.module.startswith("scipy.stats._q"):
            original = source.path.read_bytes()
            trees = {}
            for node, parent in harvest._definitions(ast.parse(original).body, ()):
                if ast.get_docstring(node):
                    node.body = node.body[1:]
                    trees.setdefault(".".join((*parent, node.name)), []).append(ast.dump(node))
            for row in harvest.functions(original, *source[:2]):
                assert ast.dump(ast.parse(row["code"]).body[0]) in trees[row["name"]], row["name"]
                checked += 1
    assert checked > 30


SAYS = {
    "plain": ("Adds one to x.", "Adds one to x."),
    "space": ("\n    Adds   one\n    to x.\n\n    More.", "Adds one to x."),
    "roles": (":py:meth:`Adds <a.b>` one to :class:`~a.X` :math:`x`.", "Adds one to a.X x."),
    "quotes": ("Adds ``one`` to `x`, see `here <http://a>`_ for why.", "Adds one to x, see here for why."),
    "stops at a list": ("Adds one to x.\n    :param x: number", "Adds one to x."),
    "stops at a heading": ("Adds one to x.\n    Args:\n        x: number", "Adds one to x."),
    "stops at an example": ("Adds one to x.\n    >>> f(1)", "Adds one to x."),
    "signature first": ("f(x, y=(1, 2)) -> int\n\n    Adds one to x.", "Adds one to x."),
    "begins with a name": ("f() adds one to x.", "f() adds one to x."),
    "helper that says more": ("Helper function for f that adds one.", "Helper function for f that adds one."),
    "deprecated later": ("Adds one, now deprecated.", "Adds one, now deprecated."),
    "sees more": ("See whether x is one or more.", "See whether x is one or more."),
}


@pytest.mark.parametrize(("doc", "summary"), SAYS.values(), ids=SAYS)
def test_summary(doc, summary):
    assert kept(doc) == [summary]


@pytest.mark.parametrize(
    "doc",
    [
        "",
        "Adds one.",
        "x = 1 + 2 + 3 + 4",
        "adds(one,to,x) quickly",
        "1 Adds one to x.",
        "word " * 61,
        "Añade uno a x.",
        "Deprecated, adds one to x.",
        ".. deprecated:: 1.2",
        "**Deprecated**: adds one to x.",
        "See the docstring of g.",
        "See base class for more.",
        "Refer to the documentation of g.",
        "Overrides the method of its parent.",
        "Inherited from the parent class.",
        "TODO add one to x",
        "Helper function for g.",
        "Wrap library.g().",
        "Same as numpy.g",
        "This method is not implemented yet.",
        "f(x, y=(1, 2)) -> int number",
        "input_ids (torch.LongTensor of shape (batch, n)): indices of tokens",
        "Input shape: Batch x Time x Channel",
        "Adds %(number)s to the number.",
        "Adds {number} to the number.",
        "Adds one to x, where:",
        "[note] Adds one to x.",
        "Parameters\n    ----------\n    x : one number",
        r"Adds \ud800 one to x.",
    ],
)
def test_docstrings_that_tell_nothing_are_dropped(doc):
    assert kept("Adds one to x.") != []
    assert kept(doc) == []


def test_long_summary_and_other_text():
    assert kept("word " * 60) == [" ".join(["word"] * 60)]
    assert kept("Adds one to x.\n\n    Añade uno. €") == ["Adds one to x."]


@pytest.mark.parametrize(
    ("body", "stays"),
    [
        ("\n    y = x\n    return y\n", True),
        ("\n    return x\n", False),  # two lines with the head
        ("\n\n\n    return x\n", False),  # blank lines are not code
        ("\n    y = 1" * 199 + "\n", True),
        ("\n    y = 1" * 200 + "\n", False),
        ("\n    pass\n    pass\n", False),
        ("\n    ...\n    ...\n", False),
        ("\n    raise NotImplementedError(\n        'x')\n", False),
        ("\n    raise ValueError(\n        'x')\n", True),
        ("\n    'more words'\n    pass\n", False),
    ],
)
def test_bodies(body, stays):
    assert bool(kept("Adds one to x.", body)) is stays


def test_which_definitions_count():
    body = '"""Adds {} to x."""\n{i}    y = x\n{i}    return y\n'
    source = "def plain(x):\n    " + body.format("one", i="")
    source += "def __call__(x):\n    " + body.format("two", i="")
    source += "def __private(x):\n    " + body.format("three", i="")
    source += "@typing.overload\ndef loaded(x):\n    " + body.format("four", i="")
    source += "@cache\ndef outer(x):\n    " + body.format("five", i="")
    source += "    def inner(x):\n        " + body.format("six", i="    ")
    source += "try:\n    def tried(x):\n        " + body.format("seven", i="    ")
    source += "except ValueError:\n    def caught(x):\n        " + body.format("eight", i="    ")
    source += "if x:\n    pass\nelse:\n    class A:\n        def __init__(self, x):\n            "
    source += (
        body.format("nine", i="        ") + "        def go(self, x):\n            " + body.format("ten", i="        ")
    )
    source += "f = lambda x: x\ndef bare(x):\n    y = x\n    return y\n"
    assert [row["name"] for row in rows(source)] == ["plain", "__private", "outer", "tried", "caught", "A.go"]


def test_first_of_each_kind():
    def row(name, code, summary, module="m"):
        return {"name": name, "code": code, "summary": summary, "module": module}

    given = [
        row("a", "def a(): 1", "Adds one to x."),
        row("b", "def  a():\n  1", "Another word for it."),  # the code of a
        row("c", "def c(): 1", "adds `one` to x"),  # the summary of a
        row("a", "def a(): 2", "A setter of a."),  # the place of a
        row("a", "def a(): 3", "Elsewhere it is another.", module="n"),
        row("d", "def c(): 1", "Whose code only a dropped row had."),
    ]
    assert [(kept["name"], kept["module"]) for kept in harvest.first(given)] == [("a", "m"), ("a", "n"), ("d", "m")]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"def f(:\n", SyntaxError),
        (b"x = '\xff'\n", (SyntaxError, UnicodeDecodeError)),
        (b"# coding: nonsense\n", SyntaxError),
        (b"x = 1\0\n", (SyntaxError, ValueError)),
    ],
)
def test_what_is_no_python(source, error):
    with pytest.raises(error):
        list(harvest.functions(source, "p", "p"))


def test_other_encodings():
    source = '# coding: latin-1\ndef f(x):\n    """Adds one to x."""\n    y = "ä"\n    return y\n'
    (row,) = harvest.functions(source.encode("latin-1"), "p", "p")
    assert row["code"] == 'def f(x):\n    y = "ä"\n    return y'


def test_harvester_needs_the_standard_library_only():
    loaded = f"import sys, runpy; runpy.run_path({harvest.__file__!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-I", "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert {name.split(".")[0] for name in modules.split()}.isdisjoint({"lab", "numpy", "pandas", "tqdm"})
