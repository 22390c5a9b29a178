"""Settings that are refused are named on the command line, and no password with them."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.source_tree import ROOT


def doctor(tmp_path, **variables):
    """What it says with those variables in the environment, and its exit code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "500"} | variables
    return subprocess.run([sys.executable, "-m", "cluster.cli", "doctor"], capture_output=True, text=True, timeout=60,
                          env=environment, cwd=tmp_path, check=False)  # fmt: skip


def test_settings_that_contradict_their_profile_end_the_command_and_show_no_password(tmp_path):
    done = doctor(
        tmp_path, VITALGRID_SECURITY__PROFILE="dev", VITALGRID_API__HOST="0.0.0.0", VITALGRID_DOORS__TLS_CERT_FILE="door.pem",
        VITALGRID_DATABASE_URL="postgresql://u:s3cret@db/v", VITALGRID_WEBHOOK__SECRET="whsec_s3cret",
    )  # fmt: skip
    assert done.returncode == 2
    assert "api.host is 0.0.0.0" in done.stderr
    assert "doors.tls_key_file" in done.stderr
    assert "database_url is PostgreSQL at db with sslmode=none" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


def test_a_misspelt_section_in_the_environment_ends_the_command_and_its_value_is_not_shown(tmp_path):
    done = doctor(
        tmp_path, VITALGRID_SECURTY__PROFILE="cn", VITALGRID_WEBHOK__SECRET="whsec_s3cret", VITALGRID_TOKEN="vg_t0ken"
    )
    assert done.returncode == 2
    assert "securty" in done.stderr
    assert "VITALGRID_WEBHOK__SECRET" in done.stderr
    assert "token" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
