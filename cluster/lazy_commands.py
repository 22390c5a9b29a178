"""Commands that are imported when they are asked for: `vitalgrid user add` need not wait for all that backups import."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyCommands(TyperGroup):
    """A group that has, behind commands of its own, those of `ELSEWHERE`: where each is, as `module:attribute`.

    An attribute is a `typer.Typer`, a group then, or a function. Only `--help` of the whole group imports them all.
    """

    ELSEWHERE: ClassVar[dict[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.ELSEWHERE]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.ELSEWHERE and cmd_name not in self.commands:
            self.commands[cmd_name] = _imported(cmd_name, self.ELSEWHERE[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            for name in self.ELSEWHERE:  # what is like the word is looked for among those that are here
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _imported(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)
