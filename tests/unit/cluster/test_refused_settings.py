"""Settings that are refused are named on the command line, and no password with them."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.source_tree import ROOT


def test_settings_that_contradict_their_profile_end_the_command_and_show_no_password(tmp_path):
    environment = os.environ | {
        "VITALGRID_SECURITY__PROFILE": "dev",
            "VITALGRID_API__HOST": "0.0.0.0", "VITALGRID_DOORS__TLS_CERT_FILE": "door.pem", "COLUMNS": "500",
        "VITALGRID_DATABASE_URL": "postgresql://u:s3cret@db/v", "VITALGRID_WEBHOOK__SECRET": "whsec_s3cret",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "cluster.cli", "doctor"], capture_output=True, text=True, timeout=60,
                          env=environment, cwd=tmp_path, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "api.host is 0.0.0.0" in done.stderr
    assert "doors.tls_key_file" in done.stderr
    assert "database_url is PostgreSQL at db with sslmode=none" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
