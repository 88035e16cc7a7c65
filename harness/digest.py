"""Digests of what determines a prediction: code (as syntax trees), data and settings."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .registry import PACKAGE, ROOT, Entry, locate

LIBRARIES = ("numpy", "pillow", "tokenizers", "torch", "transformers")
"""Distributions whose major version is part of every work."""


def digest(value: object) -> str:
    """A short digest of JSON-ready data, equal whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def file_digest(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@cache
def tree_digest(path: Path) -> str:
    """Of a module's syntax tree: comments, layout and docstrings change nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def code_digest(entry: Entry) -> str:
    """Of the module of a method, task or metric and of every module of its own package that it imports, at any depth.

    The engine is left out: it is digested once, by `engine_digest`, for what depends on it. An operator's digest holds
    that of the method under it.
    """
    own = _code_digest(entry.module, entry.path)
    return digest([own, code_digest(entry.under)]) if entry.under else own


@cache
def _code_digest(module: str, path: Path) -> str:
    return digest({name: tree_digest(source) for name, source in sorted(_closure(module, path).items())})


@cache
def engine_digest(*parts: str) -> str:
    """Of the named modules and folders of the harness, without what trains embedded models: weights have a revision."""
    paths: list[Path] = []
    for part in parts:
        path = ROOT / "harness" / part
        inside = (p for p in path.rglob("*.py") if "embedded" not in p.relative_to(path).parts)
        paths += sorted(inside) if path.is_dir() else [path]
    return digest({str(p.relative_to(ROOT)): tree_digest(p) for p in paths})


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of installed distributions; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def major(versions: Mapping[str, str]) -> dict[str, str]:
    """The first number of each version."""
    return {k: v.partition(".")[0] for k, v in versions.items()}


def _closure(module: str, path: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = [(module, path)]
    while waiting:
        name, file = waiting.pop()
        if name in found:
            continue
        found[name] = file
        for imported in _imports(name, file):
            ours = imported.split(".")[0] in (module.split(".")[0], PACKAGE)
            if ours and not imported.startswith(f"{PACKAGE}.harness") and (target := _source(imported)):
                waiting.append((imported, target))
    return found


def _imports(module: str, path: Path) -> Iterator[str]:
    """Candidates: `from a import b` may mean the module a, the module a.b, or both."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *((node.module or "").split(".") if node.module else [])]
            yield ".".join(parts)
            yield from (".".join([*parts, a.name]) for a in node.names)


def _source(module: str) -> Path | None:
    if module == PACKAGE:  # its __init__ only names what the harness defines
        return None
    if module.startswith(f"{PACKAGE}."):
        base = ROOT.joinpath(*module.split(".")[1:])
        return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    try:
        return locate(module)
    except (ImportError, ValueError):
        return None
