"""No check that cannot fail, in any test file; and the finder itself, on snippets that must and must not be found."""

from pathlib import Path
from textwrap import dedent

import pytest
from vacuous import vacuous

TESTS = Path(__file__).parent


def test_no_check_of_ours_is_vacuous():
    files = sorted(TESTS.rglob("*.py"))
    assert Path(__file__) in files
    found = [
        f"{path.relative_to(TESTS)}:{line} {fault}"
        for path in files
        for line, fault in vacuous(path.read_text(encoding="utf-8"))
    ]
    assert found == []


MUST_BE_FOUND = [
    # the result of a check is dropped
    "a == b",
    "not a",
    "x in y",
    "torch.allclose(a, b)",
    "np.allclose(a, b)",
    "torch.equal(a, b)",
    "np.array_equal(a, b)",
    "math.isclose(a, b)",
    "frame.equals(other)",
    "isinstance(a, int)",
    "any(a)",
    "all(x > 0 for x in a)",
    "a.isnan().any()",
    "(a == b).all()",
    "torch.is_tensor(a)",
    "ready and a == b",
    "_ = torch.allclose(a, b)",
    # always true
    "assert (a == b, 'differs')",
    "assert True",
    "assert 1",
    "assert 'a == b'",
    "assert f'{a} == {b}'",
    "assert [a == b]",
    "assert lambda: a == b",
    "assert (x == y for x, y in pairs)",
    "assert any",
    "assert torch.allclose",
    "assert (a == b).all",
    "assert helper",
    "assert Helper",
    "assert not []",
    "assert not False",
    "assert a == b or True",
    "assert a == b or 'differs'",
    "assert a == b and True",
    "assert a == b and (c, d)",
    "assert 1 == 1",
    "assert 1 < 2",
    "assert len(a) >= 0",
    "assert a == b if c else True",
    "assert a == b if c else d == e",
    "assert a == a",
    "assert a.shape[0] == a.shape[0]",
    "assert a is a",
    "assert a <= a",
    "assert torch.equal(a, a)",
    "torch.testing.assert_close(a, a)",
    "np.testing.assert_allclose(a.grad, a.grad, rtol=1e-3)",
    "assert pytest.approx(a) == pytest.approx(b)",
    # swallowed
    "try:\n    assert a\nexcept AssertionError as e:\n    print(e)",
    "try:\n    assert a\nexcept Exception:\n    pass",
    "try:\n    assert a\nexcept:\n    pass",
    "try:\n    assert a\nexcept (ValueError, AssertionError):\n    pass",
    "with contextlib.suppress(AssertionError):\n    assert a",
    # met by any mistake
    "with pytest.raises(Exception):\n    f()",
    "with pytest.raises(Exception, match='got'):\n    f()",
    "with pytest.raises(builtins.Exception):\n    f()",
    "with pytest.raises((KeyError, BaseException)):\n    f()",
    "with pytest.raises(ValueError):\n    f()",
    "with pytest.raises(TypeError) as caught:\n    f()",
    "with pytest.raises((KeyError, ValueError)):\n    f()",
    "with pytest.raises(ValueError, match=''):\n    f()",
    "with pytest.raises(KeyError):\n    f()\n    assert a",
    # never run
    "for x in []:\n    assert x",
    "for x in range(0):\n    assert x",
    "for x in list():\n    assert x",
    "assert all(x for x in ())",
    "if False:\n    assert a",
    "for x in y:\n    continue\n    assert x",
    "@pytest.mark.parametrize('x', [])\ndef test_x(x):\n    assert x",
    "@pytest.mark.skip(reason='flaky')\ndef test_x():\n    assert a",
    "@pytest.mark.skip\ndef test_x():\n    assert a",
    "pytestmark = pytest.mark.skip",
    "@pytest.mark.skipif(True, reason='off')\ndef test_x():\n    assert a",
    "@pytest.mark.skipif(old)\ndef test_x():\n    assert a",
    "@pytest.mark.skipif(old, reason='')\ndef test_x():\n    assert a",
    "@pytest.mark.xfail\ndef test_x():\n    assert a",
    "@pytest.mark.xfail(reason='known')\ndef test_x():\n    assert a",
    "@pytest.mark.xfail(strict=True)\ndef test_x():\n    assert a",
    "def test_x():\n    pytest.skip('off')\n    assert a",
    "pytest.skip('off', allow_module_level=True)",
    "if old:\n    pytest.skip()",
    "def test_x():\n    return\n    assert a",
    # nothing to fail
    "def test_x():\n    f()",
    "def test_x():\n    'only words'",
    "class TestX:\n    def test_x(self):\n        f()",
    "def test_x():\n    def inner():\n        assert a\n    f()",
    "def test_x():\n    quiet()\ndef quiet():\n    f()",
    "def test_x():\n    subprocess.run(command, text=True)",
    "def test_x():\n    subprocess.run(command, check=False)",
]

MUST_NOT_BE_FOUND = [
    "assert a == b, 'differs'",
    "assert torch.allclose(a, b)",
    "assert a == pytest.approx(b)",
    "assert (a == b).all()",
    "assert a != a",  # NaN
    "assert draw(seed=0) == draw(seed=0)",
    "assert 0 <= a < 1",
    "assert a or b",
    "assert found",
    "assert not missing",
    "assert len(a) >= 1",
    "assert a == (b or 1)",
    "assert isinstance(a, Helper)",
    "same = torch.allclose(a, b)",
    "torch.testing.assert_close(a, b)",
    "f()",
    "_ = f()",
    "build(ValueError)",
    "assert frame.columns",
    "ready or start()",
    "with pytest.raises(ValueError, match='got'):\n    a == b",
    "with pytest.raises(KeyError):\n    f()",
    "with pytest.raises(AssertionError):\n    assert a",
    "with pytest.raises(pytest.fail.Exception):\n    f()",
    "with pytest.raises(KeyError) as caught:\n    f()\nassert 'a' in str(caught.value)",
    "with pytest.warns(UserWarning):\n    f()\n    assert a",
    "try:\n    f()\nexcept ValueError as e:\n    assert 'a' in str(e)",
    "try:\n    f()\nexcept Exception:\n    cleanup()\n    raise",
    "try:\n    f()\nexcept AssertionError:\n    pytest.fail('seen')",
    "for x in [1, 2]:\n    assert x",
    "for x in range(3):\n    assert x",
    "if old:\n    pytest.skip('needs a GPU')",
    "@pytest.mark.skipif(old, reason='needs a GPU')\ndef test_x():\n    assert a",
    "@pytest.mark.xfail(reason='known', strict=True)\ndef test_x():\n    assert a",
    "@pytest.mark.parametrize('x', [1])\ndef test_x(x):\n    assert x",
    "def test_x():\n    if old:\n        return\n    assert a",
    "def test_x():\n    with pytest.raises(KeyError):\n        f()",
    "def test_x():\n    torch.testing.assert_close(a, b)",
    "def test_x():\n    torch.autograd.gradcheck(f, a)",
    "def test_x(page):\n    page.wait_for_function('drawn')",  # raises when its time is up
    "def test_x():\n    subprocess.run(command, check=True)",
    "def test_x():\n    agree(a)\ndef agree(a):\n    assert a",
    "def test_x():\n    @given(n)\n    def inner(n):\n        assert n\n    inner()",
    "@pytest.fixture\ndef test_folder():\n    return f()",
    "def helper_of_tests():\n    f()",
    "@pytest.fixture\ndef rows():\n    return f()\ndef test_x(rows):\n    assert rows",
]


def in_context(snippet: str) -> str:
    return "def helper(): pass\nclass Helper: pass\n" + dedent(snippet)


@pytest.mark.parametrize("snippet", MUST_BE_FOUND)
def test_a_vacuous_check_is_found(snippet):
    assert vacuous(in_context(snippet))


@pytest.mark.parametrize("snippet", MUST_NOT_BE_FOUND)
def test_a_real_check_is_left_alone(snippet):
    assert vacuous(in_context(snippet)) == []


def test_a_find_has_its_line_and_its_reason():
    assert vacuous("x = 1\ntorch.allclose(a, b)\n") == [(2, "the result of a check is dropped")]
