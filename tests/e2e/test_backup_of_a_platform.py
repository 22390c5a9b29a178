"""A platform that takes readings is backed up, killed and lost; what is restored has all that was acknowledged before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.running_platform import RunningPlatform, start_platform, wait_until

pytestmark = [
    pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400), pytest.mark.clause("9.3"),
    pytest.mark.clause("8.4e"),
]  # fmt: skip
HOSPITAL = "sz.h001"
NAME = "王小明"


class Sender:
    """Sends one reading after the other, and knows which were acknowledged."""

    def __init__(self, platform: RunningPlatform, token: str) -> None:
        trust = platform.connection.doors_trust
        scheme, options = ("http", {}) if trust is None else ("https", {"verify": trust.context()})
        connection = platform.connection
        self._client = httpx.Client(
            base_url=f"{scheme}://{connection.mqtt_host}:{connection.http_port}",
            headers={"Authorization": f"Bearer {token}"}, **options,
        )  # fmt: skip
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                answer = self._client.post("/v1/readings", json={"metric": "spo2", "value": 90 + number % 10, "seq": number})
            except httpx.TransportError:
                continue
            if answer.is_success:
                self.acknowledged.append(number)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


def command(platform: RunningPlatform, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "backup", *arguments],
        env={**os.environ, **platform.environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sequences(platform: RunningPlatform) -> list[int]:
    """Of all readings of the device, page by page."""
    path, found = f"/readings?device={HOSPITAL}/mon-1&metric=spo2&from=2020-01-01T00:00:00Z&limit=1000", []
    with platform.http() as http:
        while path:
            page = http.get(path).raise_for_status().json()
            found += [row["sequence"] for row in page["items"]]
            path = (page["next"] or "").removeprefix("/api/v1")
    return found


@pytest.mark.parametrize("profile", ["standard"])
def test_what_was_acknowledged_before_a_backup_is_there_after_the_platform_was_lost(tmp_path: Path, profile: str) -> None:
    platform = start_platform(tmp_path / "var", SECURITY__PROFILE=profile, LAKE__FLUSH_INTERVAL_S="5")
    try:
        sender = Sender(platform, platform.register_monitor(HOSPITAL))
        try:
            with platform.http() as http:
                http.post("/patients", json={"hospital_id": HOSPITAL, "ref": "A-1", "name": NAME}).raise_for_status()
            wait_until(lambda: len(sender.acknowledged) > 300, 60)
            before = list(sender.acknowledged)
            command(
                platform,
                "create",
                "--to",
                str(tmp_path / "b"),
                "--keys",
                str(tmp_path / "k"),
                "--data-dir",
                str(tmp_path / "var"),
            )
        finally:
            sender.stop()
    finally:
        platform.kill()
    shutil.rmtree(tmp_path / "var")
    arguments = ("--from", str(tmp_path / "b"), "--keys", str(tmp_path / "k"))
    command(platform, "verify", *arguments)
    command(platform, "restore", *arguments, "--data-dir", str(tmp_path / "again"))
    again = start_platform(tmp_path / "again", SECURITY__PROFILE=profile)
    try:
        wait_until(lambda: set(before) <= set(sequences(again)), 60, lambda: set(before) - set(sequences(again)))
        there = sequences(again)
        assert len(there) == len(set(there))
        with again.http() as http:
            assert http.get("/patients", params={"q": "小明"}).json()["items"][0]["ref"] == "A-1"
            wait_until(lambda: http.get("/ready").json(), 30)
            assert http.get("/log/checkpoint").is_success
    finally:
        again.stop()
