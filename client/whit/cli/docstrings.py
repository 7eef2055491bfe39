"""The docstrings of the Python standard library, read from its source files: the corpus of ``whit demo``.

Nothing is imported or run: the files are parsed. What a reader would not look up is left out (tests, private names,
docstrings of a word or two).
"""

from __future__ import annotations

import ast
import inspect
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from whit.cli.passages import Passage, split_text

SKIPPED_DIRECTORIES = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo",
     "pydoc_data", "ensurepip", "distutils", "encodings"}
)  # fmt: skip
MIN_WORD_COUNT = 4

_KINDS = {ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}


def standard_library() -> Path:
    """The directory of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def collect(root: Path, character_count: int) -> Iterator[Passage]:
    """The public docstrings of modules, classes, functions and methods below ``root``, in a fixed order.

    The text starts with the qualified name, since that is how people ask. One with more than ``character_count`` characters
    becomes several passages. Metadata: ``module``, ``object``, ``kind`` (module, class, function or method). Of two under one
    name (the setter of a property) the first is taken. Files that cannot be decoded or parsed are skipped.
    """
    seen: set[str] = set()
    for path in _source_files(root):
        module = _module_name(path.relative_to(root))
        if any(part.startswith("_") and part != "__future__" for part in module.split(".")):
            continue
        tree = _parse(path)
        if tree is None:
            continue
        for name, kind, docstring in _docstrings(tree, module):
            if len(docstring.split()) < MIN_WORD_COUNT or name in seen:
                continue
            seen.add(name)
            text = f"{name}: {docstring}"
            metadata = {"module": module, "object": name, "kind": kind}
            for number, piece in enumerate(split_text(text, character_count), 1):
                yield Passage(f"{name}#{number}", piece, metadata, str(path))


def _source_files(root: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(root):
        directories[:] = sorted(
            d for d in directories if d not in SKIPPED_DIRECTORIES and not d.startswith(("config-", "."))
        )
        yield from (Path(parent) / name for name in sorted(names) if name.endswith(".py"))


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _parse(path: Path) -> ast.Module | None:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            return ast.parse(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return None


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str, str]]:
    """Qualified name, kind and cleaned docstring of the module and of every public definition in it, in source order."""
    if docstring := ast.get_docstring(tree):
        yield module, "module", docstring
    yield from _members(tree, module, in_class=False)


def _members(parent: ast.Module | ast.ClassDef, prefix: str, *, in_class: bool) -> Iterator[tuple[str, str, str]]:
    for node in parent.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        kind = _KINDS[type(node)]
        if docstring := ast.get_docstring(node, clean=False):
            yield name, "method" if in_class and kind == "function" else kind, inspect.cleandoc(docstring)
        if isinstance(node, ast.ClassDef):
            yield from _members(node, name, in_class=True)
