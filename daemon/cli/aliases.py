"""Earlier names of commands: they work, and neither `--help` nor completion shows them."""

from __future__ import annotations

import copy
from typing import Final

import click

COMMANDS: Final = {"providers": "models", "sim": "loadtest", "probe": "healthcheck", "contracts": "export-contracts"}


def add(group: click.Group, command: click.Command, earlier: str) -> None:
    """Add `command` to `group` under its own name and, hidden, under its earlier one."""
    group.add_command(command)
    alias = copy.copy(command)
    alias.hidden = True
    group.add_command(alias, earlier)
