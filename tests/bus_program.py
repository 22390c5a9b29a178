"""A hospital's program on the bus, as docs/howto/hear-alarms-on-the-bus.md has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from tests.openssl import openssl

_HOWTO = Path(__file__).parents[1] / "docs" / "howto" / "hear-alarms-on-the-bus.md"


def request_of(folder: Path) -> str:
    """A certification request, whose key is in `his.key` beside it."""
    request = str(folder / "his.csr")
    openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/",
        "-keyout", str(folder / "his.key"), "-out", request,
    )  # fmt: skip
    return request


def program_of_the_howto(url: str, certificate: dict[str, Any]) -> str:
    """The page's program, for this bus and a certificate as the API shows it."""
    program = _HOWTO.read_text().partition("```python\n")[2].partition("```")[0]
    for written, meant in (
        ("tls://10.1.2.3:4222", url), ("_INBOX.17", certificate["inbox"]),
        ("hospital.sz.h012.17.alarms", certificate["hears"]), ("hospital.sz.h012.17.ask", certificate["asks"]),
    ):  # fmt: skip
        assert written in program
        program = program.replace(written, meant)
    return program


def connections_of(pid: int) -> set[tuple[str, int]]:
    """Where a process is connected to."""
    open_ones = (one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED)
    return {(one.raddr.ip, one.raddr.port) for one in open_ones}
