"""The list of commands in groups, without rich, whose help takes twice as long."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["GroupedCommands"]

_NAME_WIDTH = 8


class GroupedCommands(TyperGroup):
    """Lists commands under their `rich_help_panel`, in the order in which the panels first appear."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, group by group."""
        return [name for names in self._groups().values() for name in names]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        for panel, names in self._groups().items():
            limit = formatter.width - 6 - _NAME_WIDTH
            rows = [
                (name.ljust(_NAME_WIDTH), self.commands[name].get_short_help_str(limit)) for name in names
            ]
            with formatter.section(panel):
                formatter.write_dl(rows)

    def _groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for name, command in self.commands.items():
            groups.setdefault(str(getattr(command, "rich_help_panel", None) or "Commands"), []).append(name)
        return groups
