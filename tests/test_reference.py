"""The reference says what the code says, and every link of the site leads somewhere without a network."""

import inspect
import re
from pathlib import Path

import pytest
import shelf

import lab
from lab.reports import cli, docstring, reference


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Reports and reference in one folder, as `make docs` leaves them."""
    out = tmp_path_factory.mktemp("site")
    for path in shelf.run().out.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    assert cli.main(["docs", "--out", str(out)]) == 0
    return out


def html(site, name):
    return (site / "reference" / name).read_text(encoding="utf-8")


def broken(site: Path) -> list[str]:
    """Each link that leads nowhere, and each thing that a browser would fetch."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    plain = {path: re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL) for path, text in pages.items()}
    anchors = {path.resolve(): set(re.findall(r'\bid="([^"]*)"', text)) for path, text in plain.items()}
    found = []
    for path, text in plain.items():
        for tag, target in re.findall(r'<(\w+)[^>]*\s(?:href|src)="([^"]*)"', text):
            if target.startswith("data:"):
                continue
            if re.match(r"[a-z][a-z+.-]*:", target):
                found += [] if tag == "a" else [f"{path.name}: <{tag}> asks for {target}"]
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path.resolve()
            if not there.is_file():
                found.append(f"{path.name}: {target}")
            elif anchor and anchor not in anchors.get(there, set()):
                found.append(f"{path.name}: {target} (no such anchor)")
    return found


def test_every_link_leads_somewhere_and_nothing_is_fetched(site):
    assert broken(site) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="gone.html">x</a>', "a.html: gone.html"),
        ('<a href="#gone">x</a>', "a.html: #gone (no such anchor)"),
        ('<a href="b.html#gone">x</a>', "a.html: b.html#gone (no such anchor)"),
        ('<link rel="x" href="https://example.org/a.css">', "a.html: <link> asks for https://example.org/a.css"),
        ('<img alt="" src="https://example.org/a.png">', "a.html: <img> asks for https://example.org/a.png"),
    ],
)
def test_a_broken_link_is_seen(tmp_path, text, fault):
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    (tmp_path / "a.html").write_text(f'<a href="b.html#there">x</a><a href="https://example.org">x</a>{text}')
    assert broken(tmp_path) == [fault]


def test_every_room_and_every_name_it_exports_is_there(site):
    index = html(site, "index.html")
    for room in lab.ROOMS:
        page = html(site, f"{room}.html")
        assert f'href="{room}.html"' in index
        module = getattr(lab, room)
        for name in getattr(module, "__all__", ()):
            assert f'id="lab.{room}.{name}"' in page, name
            assert f'href="{room}.html#lab.{room}.{name}"' in index
    assert 'id="lab.kernels.KERNELS"' in html(site, "kernels.html")  # a room that exports nothing by name
    assert 'id="lab.blocks.find_blocks"' in html(site, "blocks.html")


def test_every_public_function_says_something():
    silent = [
        one.name
        for room in lab.ROOMS
        for entry in reference._entries(getattr(lab, room), f"lab.{room}")
        for one in (entry, *entry.parts)
        if one.kind in ("function", "class") and not one.doc.strip()
    ]
    assert silent == []


@pytest.mark.parametrize("name", ["POOLS", "LAYER_POOLS", "MAP_POOLS"])
def test_the_table_of_pools_is_the_registry(site, name):
    page = html(site, "pooling.html")
    start = page.index(f'id="table-lab.pooling.{name}"')
    table = page[start : page.index("</table>", start)]
    rows = re.findall(r'<th scope="row"><code>(.*?)</code></th>', table)
    assert rows == list(getattr(lab.pooling, name))
    assert len(re.findall(r"<td>", table)) == 4 * len(rows)


def test_the_other_registries_are_tables_with_their_words(site):
    page = html(site, "attention.html")
    table = page[page.index('id="table-lab.attention.NORMALIZERS"') :]
    assert re.findall(r'<th scope="row">(?:<a[^>]*>)?<code>(.*?)</code>', table[: table.index("</table>")]) == list(
        lab.attention.NORMALIZERS
    )
    assert "e^x_j / sum_k e^x_k" in table
    assert 'href="https://arxiv.org/abs/1706.03762"' in table
    page = html(site, "geometry.html")
    for name in ("METRICS", "COLLAPSE", "SIMILARITIES"):
        start = page.index(f'id="table-lab.geometry.{name}"')
        table = page[start : page.index("</table>", start)]
        rows = re.findall(r'<th scope="row">(?:<a[^>]*>)?<code>(.*?)</code>(?:</a>)?</th><td>(.*?)</td>', table)
        assert [row for row, _ in rows] == list(getattr(lab.geometry, name))
        assert [row for row, words in rows if not words] == []


def test_signatures_are_as_written():
    entries = {entry.name: entry for entry in reference._entries(lab.stats, "lab.stats")}
    shown = entries["lab.stats.sign_flip"].signature
    assert " ".join(shown.split()).startswith("( differences: xr.DataArray, along: str = 'seed', *, draws: int = 9999")
    recipe = {entry.name: entry for entry in reference._entries(lab.training, "lab.training")}["lab.training.Recipe"]
    assert "hidden: int | None = None  # of the MLP; 8/3 of dim when not given" in recipe.signature
    assert [part.short for part in recipe.parts] == ["rate_at"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x_t * m_t <b>", "<p>x_t * m_t &lt;b&gt;</p>"),
        ("One\ntwo.\n\nThree.", "<p>One two.</p>\n<p>Three.</p>"),
        ("    a   1\n    bb  2", "<pre>a   1\nbb  2</pre>"),
        ("name      what it is\nother     more", "<pre>name      what it is\nother     more</pre>"),
        ("- one\n  more\n- two", "<ul><li>one more</li><li>two</li></ul>"),
        ("as `known` and `new`", '<p>as <a href="k.html"><code>known</code></a> and <code>new</code></p>'),
        ("`known(x)`", '<p><a href="k.html"><code>known(x)</code></a></p>'),
        ("See https://x.org/a_b.", '<p>See <a href="https://x.org/a_b">x.org/a_b</a>.</p>'),
        ("a $ 5 and $ 6", "<p>a $ 5 and $ 6</p>"),
        ("`<script>` <script>", "<p><code>&lt;script&gt;</code> &lt;script&gt;</p>"),
    ],
)
def test_a_docstring_keeps_its_layout(text, shown):
    assert docstring.html(text, {"known": "k.html"}) == shown


def test_latex_becomes_mathml():
    shown = docstring.html("the mean $\\frac{1}{n}$ of $x_t$", {})
    assert shown.count("<math") == 2
    assert "<mfrac>" in shown


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        ("One thing. Another.", "One thing."),
        ("(PR - 1) / (D - 1), e.g. this: that.\n\nMore.", "(PR - 1) / (D - 1), e.g. this: that."),
        ("Two\nlines. End.", "Two lines."),
        ("", ""),
    ],
)
def test_the_first_sentence(doc, said):
    assert docstring.first(doc) == said


def test_pages_are_light(site):
    for path in (site / "reference").iterdir():
        assert path.stat().st_size < 400_000, path.name


def test_the_gallery_leads_to_the_reference(site):
    assert 'href="reference/index.html"' in (site / "index.html").read_text()
    assert "reference/" not in (shelf.run().out / "index.html").read_text()


def test_docs_take_their_words_from_the_code(monkeypatch):
    monkeypatch.setattr(lab.stats.holm, "__doc__", "Words that stand nowhere else <b>.")
    assert inspect.getdoc(lab.stats.holm) in {e.doc for e in reference._entries(lab.stats, "lab.stats")}
