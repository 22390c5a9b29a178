"""The limits of the settings, as each listener takes them."""

from __future__ import annotations

from collections import Counter

from api.proxies import TrustedProxies
from api.scope_keys import CALLER_KEY
from cluster.http_protocol import HttpLimits
from gateways.listener import ListenerLimits
from gateways.mqtt_door import MqttLimits
from gateways.paces import PaceLimits
from runtime.setting_sections import DoorSettings, LimitSettings
from runtime.settings import Settings


def proxies(limits: LimitSettings) -> TrustedProxies:
    return TrustedProxies(limits.trusted_proxies)


def http_listener(limits: LimitSettings) -> ListenerLimits:
    """Of the API and of the HTTP door."""
    return ListenerLimits(
        max_connections=limits.connections, max_per_address=limits.connections_per_address,
        max_strangers=limits.strangers, max_strangers_per_address=limits.strangers_per_address,
        handshake_timeout_s=limits.introduction_s, shares=proxies(limits).trusts,
    )  # fmt: skip


def door_http(limits: LimitSettings, cut: Counter[str]) -> HttpLimits:
    return HttpLimits(
        header_timeout_s=limits.introduction_s, body_grace_s=limits.body_grace_s, body_bytes_a_s=limits.body_bytes_a_s,
        write_timeout_s=limits.unread_s, cut=cut,
    )  # fmt: skip


def api_http(limits: LimitSettings, cut: Counter[str]) -> HttpLimits:
    """The sign-in page is shown to anybody: only whom the API knows by name is no stranger."""
    return HttpLimits(
        header_timeout_s=limits.introduction_s, body_grace_s=limits.body_grace_s, body_bytes_a_s=limits.body_bytes_a_s,
        write_timeout_s=limits.unread_s, is_known=lambda scope, _status: CALLER_KEY in scope, cut=cut,
    )  # fmt: skip


def mqtt(settings: Settings) -> MqttLimits:
    doors, limits = settings.doors, settings.limits
    return MqttLimits(
        max_payload_bytes=doors.max_payload_bytes, max_connections=doors.max_connections, max_in_flight=doors.max_in_flight,
        connect_timeout_s=limits.introduction_s, write_timeout_s=limits.unread_s,
        max_per_address=limits.connections_per_address, max_strangers=limits.strangers,
        max_strangers_per_address=limits.strangers_per_address,
    )  # fmt: skip


def paces(doors: DoorSettings) -> PaceLimits:
    return PaceLimits(doors.device_readings_a_s, doors.gateway_readings_a_s, doors.readings_burst_s)
