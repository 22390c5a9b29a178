"""What the guard tests look at: the repository's own files, listed once."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("domain", "gateways", "runtime", "actors", "analytics", "sim", "scenarios", "api", "cluster")

Node = TypeVar("Node", bound=ast.AST)


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def files() -> tuple[Path, ...]:
    """Files that git tracks or would track, that exist."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return tuple(path for name in sorted(set(listed.stdout.split("\0")) - {""}) if (path := ROOT / name).is_file())


def modules(*packages: str) -> list[Path]:
    """Python files of the given packages."""
    return [path for path in files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in packages]


def texts(*suffixes: str) -> list[Path]:
    return [path for path in files() if path.suffix in suffixes]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@cache
def _by_kind(path: Path) -> dict[type[ast.AST], list[Any]]:
    """The syntax nodes of a file, walked once for all that ask."""
    found: dict[type[ast.AST], list[Any]] = {}
    for node in ast.walk(tree_of(path)):
        found.setdefault(type(node), []).append(node)
    return found


def nodes(kind: type[Node], *packages: str) -> Iterator[tuple[str, Node]]:
    """(file:line, node) of every syntax node of a kind in the given packages."""
    for path in modules(*packages):
        for node in _by_kind(path).get(kind, ()):
            yield f"{name_of(path)}:{getattr(node, 'lineno', 0)}", node


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.AST) -> str:
    """`datetime.datetime.now` of an attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""
