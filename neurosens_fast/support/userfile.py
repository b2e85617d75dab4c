"""``FILE.py:FUNCTION``: functions in files that a person wrote."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from .files import existing_file, fingerprint
from .messages import did_you_mean, listing, one_line

_FORM = re.compile(r"(.*\.py)(?::(.*))?", re.DOTALL)


def is_user_function(spec: str) -> bool:
    """Whether ``spec`` has the form ``FILE.py:FUNCTION``, or ``FILE.py`` with the function forgotten."""
    return _FORM.fullmatch(spec) is not None


def describe_user_function(spec: str) -> str:
    """``net.py:build (sha256 0123456789ab)``: the file's name and content, whatever folder it lies in."""
    path, name = _parse(spec)
    return f"{path.name}:{name} (sha256 {fingerprint(path)})"


def call_user_function(
    spec: str, given: Mapping[str, Any] | None = None, offered: Mapping[str, Any] | None = None
) -> Any:
    """What ``FUNCTION`` of ``FILE.py`` returns when it is called with the arguments ``given`` by name.

    ``offered`` arguments are passed where the function accepts them. The file is run anew on each call, under a
    private name (not ``__main__``). Until the function returns, modules beside the file can be imported, as in
    ``python FILE.py``; afterwards ``sys.path`` is as before and those modules are out of ``sys.modules``.

    Raises ``FileNotFoundError``, or ``ValueError`` that names file and function: no such function, one that needs or
    does not take an argument, or an error inside it, which is chained.
    """
    path, name = _parse(spec)
    with _importable(path) as module:
        with _failures_named(spec, path):
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        function = _function(module, spec, name)
        arguments = _accepted(function, spec, dict(given or {}), dict(offered or {}))
        with _failures_named(spec, path):
            return function(**arguments)


def _parse(spec: str) -> tuple[Path, str]:
    form = _FORM.fullmatch(spec)
    if form is None:
        raise ValueError(f"{spec!r} is not of the form FILE.py:FUNCTION")
    path = existing_file(form[1], "file")
    if not form[2]:
        raise ValueError(f"say which function of {form[1]} to call: {form[1]}:FUNCTION")
    return path.resolve(), form[2]


@contextmanager
def _importable(path: Path) -> Iterator[ModuleType]:
    """An empty module for the file at ``path``, while what lies beside it can be imported."""
    name = f"_neurosens_fast_user_{path.stem}"
    specification = spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert specification is not None
    module = module_from_spec(specification)
    search, known = list(sys.path), dict(sys.modules)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # dataclasses, among others, look their module up
    importlib.invalidate_caches()
    try:
        yield module
    finally:
        sys.path[:] = search
        sys.modules.pop(name, None)
        if name in known:
            sys.modules[name] = known[name]
        # Only what lies beside the file goes: a package such as torchvision must not be imported a second time.
        beside = {
            entry
            for entry, found in list(sys.modules.items())
            if "." not in entry and entry not in known and path.parent in _places(found)
        }
        for entry in [entry for entry in sys.modules if entry.partition(".")[0] in beside]:
            del sys.modules[entry]


def _places(module: ModuleType) -> set[Path]:
    """The folders in which a top-level module or package lies."""
    specification = getattr(module, "__spec__", None)
    folders = getattr(specification, "submodule_search_locations", None)
    origin = getattr(specification, "origin", None)
    return {Path(place).parent for place in (folders if folders is not None else [origin] if origin else [])}


@contextmanager
def _failures_named(spec: str, path: Path) -> Iterator[None]:
    """Errors of the user's code as ``ValueError`` with file, function and line; SystemExit too, which would end us."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError):
            lines = [error.lineno]
        else:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines and lines[-1] else ""
        text = error.msg if isinstance(error, SyntaxError) else one_line(error) if str(error) else ""
        raise ValueError(f"{spec} failed{where} with {type(error).__name__}{f': {text}' if text else ''}") from error


def _function(module: ModuleType, spec: str, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    file = spec[: -len(name) - 1]
    if function is not None:
        raise ValueError(f"{name} in {file} is a {type(function).__name__}, not a function; write def NAME() around it")
    own = [
        entry
        for entry, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    ]
    defined = f"it defines {listing(own, 8)}" if own else "it defines none"
    raise ValueError(f"{file} has no function {name!r}, {defined}{did_you_mean(name, own)}")


def _accepted(
    function: Callable[..., Any], spec: str, given: dict[str, Any], offered: dict[str, Any]
) -> dict[str, Any]:
    """The arguments to call with, after a look at the signature."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return given
    any_name = any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values())
    by_name = {
        entry.name for entry in parameters.values() if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)
    }
    refused = [name for name in given if not any_name and name not in by_name]
    if refused:
        raise ValueError(f"{spec} takes no argument {refused[0]}; add it to the function, or do not give it")
    arguments = {name: value for name, value in offered.items() if name in by_name} | given
    needed = [
        entry.name
        for entry in parameters.values()
        if entry.default is entry.empty
        and entry.kind not in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD)
        and entry.name not in arguments
    ]
    if needed:
        raise ValueError(f"{spec} is called without {listing(needed)}; give each of them a default in the function")
    return arguments
