"""Functions of users' files: called as ``python FILE.py`` would find its imports, and without a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurosens_fast.support.userfile import call_user_function, describe_user_function, is_user_function


@pytest.fixture(autouse=True)
def _no_trace() -> Iterator[None]:
    """``sys.path`` and ``sys.modules`` are as before after every one of these tests."""
    path, search, modules = sys.path, list(sys.path), dict(sys.modules)
    yield
    assert sys.path is path
    assert sys.path == search
    ours = {name for name in sys.modules if "_user_" in name or name in ("helper", "parts", "parts.one")}
    assert not ours - modules.keys()
    assert all(sys.modules[name] is module for name, module in modules.items())


def file(folder: Path, text: str, name: str = "net.py") -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("spec", ["net.py:f", "a/b c/net.py:f", "~/net.py:", "net.py"])
def test_form(spec: str) -> None:
    assert is_user_function(spec)
    assert not is_user_function(spec.replace(".py", ".pt"))


def test_siblings_and_packages_beside_the_file(tmp_path: Path) -> None:
    file(tmp_path, "def value(): return 40", "helper.py")
    file(tmp_path, "from . import one", "parts/__init__.py")
    file(tmp_path, "two = 2", "parts/one.py")
    late = "def late():\n import helper, sys; sys.path.append('elsewhere'); return helper.value()"
    spec = file(tmp_path, f"import helper, parts.one\ndef f(): return helper.value() + parts.one.two\n{late}")
    assert call_user_function(f"{spec}:f") == 42
    assert call_user_function(f"{spec}:late") == 40


def test_each_file_gets_its_own_sibling_and_is_run_anew(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        file(tmp_path / str(number), f"value = {number}", "helper.py")
        spec = file(tmp_path / str(number), "import helper\ndef f(): return helper.value, __name__ == '__main__'")
        assert call_user_function(f"{spec}:f") == (number, False)
    file(tmp_path / "2", "def f(): return 5")
    assert call_user_function(f"{tmp_path}/2/net.py:f") == 5
    assert not list((tmp_path / "2").glob("__pycache__/net*"))


def test_other_packages_stay_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torchvision, say, a second time would fail: only what lies beside the file is forgotten."""
    (tmp_path / "site").mkdir()
    file(tmp_path / "site", "", "installed_package_of_a_test.py")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    spec = file(tmp_path, "import installed_package_of_a_test as p\ndef f(): return p")
    module = call_user_function(f"{spec}:f")
    assert sys.modules.pop("installed_package_of_a_test") is module


def test_dataclasses_relative_paths_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Box:\n  x: int = 3\n"
    )
    file(tmp_path, code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call_user_function("net.py:Box").x == 3
    assert call_user_function("~/net.py:Box").x == 3
    assert describe_user_function("~/net.py:Box").startswith("net.py:Box (sha256 ")


def test_arguments(tmp_path: Path) -> None:
    spec = file(tmp_path, "def f(a=1, *, b=2): return a, b\ndef g(**k): return k\ndef h(a, /, b): return 0\ni = len")
    assert call_user_function(f"{spec}:f", {"b": 3}, {"a": 4, "c": 5}) == (4, 3)
    assert call_user_function(f"{spec}:g", {"b": 3}, {"a": 4}) == {"b": 3}
    with pytest.raises(ValueError, match=r"net.py:f takes no argument c; add it to the function"):
        call_user_function(f"{spec}:f", {"c": 3})
    with pytest.raises(ValueError, match=r"net.py:h is called without a, b; give each of them a default"):
        call_user_function(f"{spec}:h")
    with pytest.raises(ValueError, match=r"net.py:i is called without obj"):
        call_user_function(f"{spec}:i")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def f():\n  return 1 / 0", r"net.py:f failed in line 2 with ZeroDivisionError: division by zero$"),
        ("\nimport no_such_module", r"net.py:f failed in line 2 with ModuleNotFoundError: No module named"),
        ("def f(:", r"net.py:f failed in line 1 with SyntaxError: invalid syntax$"),
        ("raise SystemExit", r"net.py:f failed in line 1 with SystemExit$"),
        ("def f(): raise ValueError('a\\nb')", r"failed in line 1 with ValueError: a b$"),
        ("def g(): pass\ndef fs(): pass", r"net.py has no function 'f', it defines g, fs; did you mean fs\?$"),
        ("from os.path import join", r"net.py has no function 'f', it defines none$"),
        ("f = {}", r"f in .*net.py is a dict, not a function; write def"),
    ],
)
def test_errors_name_file_and_function(code: str, problem: str, tmp_path: Path) -> None:
    spec = file(tmp_path, code)
    with pytest.raises(ValueError, match=problem) as caught:
        call_user_function(f"{spec}:f")
    assert "\n" not in str(caught.value)
    assert ("failed" in str(caught.value)) == (caught.value.__cause__ is not None)


def test_interrupts_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        call_user_function(file(tmp_path, "def f(): raise KeyboardInterrupt") + ":f")


def test_missing_files_and_functions(tmp_path: Path) -> None:
    spec = file(tmp_path, "def f(): pass")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nett.py; did you mean net.py\?"):
        call_user_function(f"{tmp_path}/nett.py:f")
    for text in (spec, f"{spec}:"):
        with pytest.raises(ValueError, match=r"say which function of .*net.py to call: .*net.py:FUNCTION"):
            call_user_function(text)
