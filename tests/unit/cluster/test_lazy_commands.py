"""Commands are there, and imported when they are asked for alone."""

from __future__ import annotations

import subprocess
import sys

from typer.testing import CliRunner

from cluster.cli import app

SAYS = "import sys; from cluster.cli import app; app(['user', '--help'], standalone_mode=False); print(*sys.modules)"


def test_a_command_waits_for_no_other() -> None:
    out = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "reset-factor" in out
    assert {"polars", "ray", "fastapi", "deltalake", "cluster.backup_commands"}.isdisjoint(out.split())


def test_help_lists_all_and_a_word_that_is_like_one_is_asked_about() -> None:
    said = CliRunner().invoke(app, ["--help"])
    assert said.exit_code == 0
    for name, help_ in (("up", "Start the platform"), ("backup", "Backups"), ("sql-accounts", "CREATE ROLE")):
        assert name in said.output
        assert help_ in said.output
    said = CliRunner().invoke(app, ["backups", "list"])
    assert said.exit_code == 2
    assert "Did you mean 'backup'" in said.output
