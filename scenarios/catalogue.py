"""The scenarios there are: the TOML files beside this module, by the name of their file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from domain.errors import InvalidInput, NotFound
from scenarios.model import Scenario, load_scenario

FOLDER: Final = Path(__file__).parent


def scenario_names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.toml"))


def open_scenario(name: str, overrides: Mapping[str, str] | None = None, folder: Path = FOLDER) -> Scenario:
    """The scenario `name`, or the one in the TOML file of that path. Raises NotFound naming those there are."""
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise NotFound(f"scenario {name!r} is unknown: expected one of {', '.join(scenario_names(folder))}, or a .toml file")
    return load_scenario(path, overrides)


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """`["fleet.devices=5000"]` as a mapping. Raises InvalidInput for one without `=`."""
    pairs = [assignment.partition("=") for assignment in assignments]
    wrong = [key for key, sign, _ in pairs if not sign or not key]
    if wrong:
        raise InvalidInput(f"--set {wrong[0]!r} is no assignment: expected key=value, such as fleet.devices=5000")
    return {key.strip(): value.strip() for key, _, value in pairs}
