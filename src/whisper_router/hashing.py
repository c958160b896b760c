"""Hashes of values, files and code; the import closure that code hashes and dvc.yaml share."""

import ast
import hashlib
import json
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("whisper_router", "flows")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])


def unit_interval(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone, evenly spread over parts."""
    text = "\x1f".join(parts)
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 11) / 2**53


@cache
def module_path(module: str) -> Path | None:
    """The source file of one of the project's modules; None where there is no such module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _parse(path: Path) -> ast.Module:
    """The syntax tree of a source file.

    CPython before 3.13 counts recursion over all threads and may fail while another thread parses too
    (https://github.com/python/cpython/issues/106905): then again.
    """
    for _ in range(20):
        try:
            return ast.parse(path.read_text())
        except SystemError:
            time.sleep(0.05)
    return ast.parse(path.read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """The project's modules that a module's source imports, anywhere in it."""
    path = module_path(module)
    if path is None:
        raise ModuleNotFoundError(module)
    names: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*parents, *([node.module] if node.module else [])])
            names.add(name)
            names.update(f"{name}.{alias.name}" for alias in node.names)
    return frozenset(name for name in names if name.split(".")[0] in PACKAGES and module_path(name))


def import_closure(*modules: str) -> list[str]:
    """The modules and all they import within the project, sorted; packages that hold them included."""
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(imports(module))
            if "." in module:
                todo.append(module.rpartition(".")[0])
    return sorted(seen)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree


@cache
def code_hash(*modules: str) -> str:
    """Hash of the syntax trees of the modules and all they import: comments and docstrings do not count."""
    trees = {}
    for module in import_closure(*modules):
        path = module_path(module)
        if path is None:
            raise ModuleNotFoundError(module)
        trees[module] = ast.dump(_without_docstrings(_parse(path)))
    return digest(trees)
