"""What is installed and shipped is what is in the repository: no shadowing, nine packages, everything locked."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.source_tree import PACKAGES, ROOT, files, name_of, pyproject

PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def requirement_name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower().replace("_", "-")


@pytest.mark.parametrize("package", PACKAGES)
def test_package_resolves_inside_the_repository(package):
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert Path(spec.origin).resolve() == ROOT / package / "__init__.py"


def test_the_nine_packages_are_all_there_are():
    found = {path.parent.name for path in files() if path.name == "__init__.py" and path.parent.parent == ROOT}
    assert found - {"tests"} == set(PACKAGES)


def test_each_tool_is_told_of_all_nine_packages():
    tool = pyproject()["tool"]
    for listed in (
        tool["hatch"]["build"]["targets"]["wheel"]["packages"], tool["mypy"]["packages"], tool["importlinter"]["root_packages"],
    ):  # fmt: skip
        assert sorted(listed) == sorted(PACKAGES)


def test_the_wheel_holds_every_file_of_the_nine_packages_and_nothing_else():
    shipped = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    ours = {name_of(path) for path in files() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert {name for name in shipped if "__pycache__" not in name} == ours


def test_every_dependency_is_locked_with_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {name for name, _ in PINNED.findall(lock)}
    project = pyproject()
    wanted = {requirement_name(r) for r in (*project["project"]["dependencies"], *project["dependency-groups"]["dev"])}
    assert wanted <= pinned
    blocks = re.split(r"\n(?=\S)", lock.strip())
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_names_no_host():
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_the_project_cannot_be_published_by_mistake():
    assert "Private :: Do Not Upload" in pyproject()["project"]["classifiers"]
