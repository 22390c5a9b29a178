"""`vitalgrid trace`: the way of one message from the wire to the screen, as a timeline."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
import typer
from rich.table import Table

from cluster.command_options import DataDir, Token, target_of
from cluster.rest_calls import ask, in_path
from cluster.run_view import wide_console
from domain.errors import InvalidInput, NotFound
from scenarios.target import Target

_console = wide_console()
_WHY: Final = "vitalgrid trace"
_READINGS_SHOWN: Final = 40
Found = dict[str, Any]


Receipt = Annotated[str | None, typer.Argument(help="A receipt, or the `trace` of a reading or of a reject.")]
OfDevice = Annotated[
    str | None, typer.Option("--device", help="`hospital/device`: list its messages; with a receipt, its readings in that one.")
]
Since = Annotated[str | None, typer.Option("--from", help="With --device: only from this time on (RFC 3339).")]
Until = Annotated[str | None, typer.Option("--until", help="With --device: only before this time.")]
Last = Annotated[bool, typer.Option("--last", help="With --device: follow its newest message.")]
AsJson = Annotated[bool, typer.Option("--json", help="As the API tells it.")]


def trace(  # noqa: PLR0913, PLR0917 (one option each)
    receipt: Receipt = None, device: OfDevice = None, since: Since = None, until: Until = None, last: Last = False,
    as_json: AsJson = False, token: Token = None, data_dir: DataDir = None,
) -> None:  # fmt: skip
    """Follow one message through doors, stream, hosts, lake, alarms and access log; or list those of a device."""
    if receipt is None and device is None:
        raise InvalidInput("a message is named by its receipt, or looked for by --device")
    if receipt is not None and (last or since or until):
        raise InvalidInput("--last, --from and --until are of a device's messages: leave the receipt out")
    target, unknown = target_of(token, data_dir), list[str]()
    if receipt is None:
        named = {"device": device, "from": since, "until": until, "limit": 1 if last else 50}
        found = _get(target, "", {name: value for name, value in named.items() if value is not None})
        if not last:
            _tell(found, as_json, _show_messages)
            return
        if not found["messages"]:
            why = "".join(f"; not known: {text}" for text in found["unknown"])
            raise NotFound(f"device {device} has no message in that time{why}")
        receipt, device, unknown = found["messages"][0]["trace"], None, found["unknown"]
    told = _get(target, f"/{in_path(receipt)}", {"device": device} if device else {})
    _tell(told | {"unknown": [*unknown, *told["unknown"]]}, as_json, _show_trace)


def _get(target: Target, path: str, named: dict[str, Any]) -> Found:
    return ask(target, "GET", f"/traces{path}" + (f"?{urlencode(named)}" if named else ""), reason=_WHY)


def _tell(found: Found, as_json: bool, show: Any) -> None:
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        show(found)


def _say(text: str) -> None:
    _console.print(text, highlight=False, markup=False, soft_wrap=True)


def _show_messages(found: Found) -> None:
    table = Table("trace", "arrival", "sender", "readings", "metrics", title=f"messages of {found['device']}")
    for one in found["messages"]:
        metrics = ", ".join(one["metrics"])
        table.add_row(one["trace"], one["arrival"], one["sender"] or "?", str(one["readings"]), metrics)
    _console.print(table)
    for gap in found["missing"]:
        numbers = f"{gap['first_sequence']} to {gap['last_sequence']}"
        _say(f"not there: its numbers {numbers}, between {gap['after']} and {gap['before']}")
    for one in found["rejects"]:
        _say(f"refused: {one['trace']} at {one['received']} by {one['door']}: {one['reason']}")
    if found["is_cut"]:
        _say("there are more: ask for less time")
    _not_known(found)


def _show_trace(found: Found) -> None:
    kept, receipt = ", ".join(found["kept_in"]) or "nothing", found["receipt"] or "not known"
    _say(f"{found['trace']}: {found['kind']}, kept in {kept}; receipt {receipt}")
    for step in found["steps"]:
        facts = ", ".join(f"{name} {value}" for name, value in step["facts"].items() if value is not None)
        after = "" if step["after_ms"] is None else f"{step['after_ms']:+.3f} ms"
        _say(f"  {step['at'] or 'not known':<28} {after:>14}  {step['step']:<12} {step['says']} ({facts})")
    for sender in found["senders"]:
        by = sender["request"] or sender["connection"] or "what is not known any more"
        _say(f"  from {sender['sender'] or sender['handle']} over {sender['protocol'] or 'a door'}, by {by}")
    _show_readings(found)
    for alarm in found["alarms"]:
        answer = f", acknowledged by {alarm['acknowledged_by']} at {alarm['acknowledged']}" if alarm["acknowledged_by"] else ""
        _say(f"  alarm {alarm['rule']} {alarm['phase']} at {alarm['notified'] or alarm['at']}: {alarm['state']}{answer}")
    if found["alarms_of_others"]:
        _say(f"  and {found['alarms_of_others']} notifications of alarms beyond what you may read")
    shown = found["shown"]
    if shown is not None:
        _say(f"  could have been shown in {shown['answers']} answers and {shown['streams']} live streams (access log)")
        for one in shown["events"] or ():
            _say(f"    {one['at']} {one['who']} {one['route']}")
    _not_known(found)


def _not_known(found: Found) -> None:
    for text in found["unknown"]:
        _say(f"  not known: {text}")


def _show_readings(found: Found) -> None:
    for one in found["readings"][:_READINGS_SHOWN]:
        marks = ", ".join(word for word in (one["validity"], *one["marks"]) if word)
        where = one["lake_file"] or one["where"] or ""
        name = one["device"] or one["handle"]
        _say(f"  {name} {one['metric']} of {one['time']}: {one['fate']}" + (f" ({marks}) in {where}" if where else ""))
    rest = max(len(found["readings"]) - _READINGS_SHOWN, 0) + found["readings_not_listed"]
    if rest > 0:
        _say(f"  and {rest} readings more: name one of its devices")
