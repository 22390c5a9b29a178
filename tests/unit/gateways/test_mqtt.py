"""The MQTT codec: golden bytes of the standard, round trips, any cut of the stream, any bytes at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput
from gateways.mqtt import encode, encode_puback, encode_publish
from gateways.mqtt_packets import (
    Ack,
    ConnAck,
    Connect,
    MalformedPacket,
    PacketKind,
    Publish,
    Simple,
    SubAck,
    Subscribe,
    Unsubscribe,
    UnsupportedLevel,
    Will,
)
from gateways.mqtt_reader import PacketReader

LIMIT = 1024  # bytes of payload

GOLDEN = {
    "connect": (
        "1018 0004 4d515454 04 c2 003c 0003 646576 0003 746f6b 0002 7077",
        Connect("dev", 60, True, "tok", b"pw"),
    ),
    "connect-will": (
        "1017 0004 4d515454 04 0e 000a 0001 61 0003 742f77 0003 627965",
        Connect("a", 10, True, will=Will("t/w", b"bye", 1)),
    ),
    "connack": ("2002 0005", ConnAck(5)),
    "publish-qos1": ("3208 0003 612f62 000a 21", Publish("a/b", b"!", 1, 10, size_bytes=1)),
    "publish-qos0": ("3006 0003 612f62 21", Publish("a/b", b"!", size_bytes=1)),
    "publish-dup": ("3a07 0003 612f62 000a", Publish("a/b", b"", 1, 10, dup=True, size_bytes=0)),
    "puback": ("4002 000a", Ack(PacketKind.PUBACK, 10)),
    "pubrel": ("6202 000a", Ack(PacketKind.PUBREL, 10)),
    "subscribe": ("8208 000a 0003 612f62 01", Subscribe(10, (("a/b", 1),))),
    "suback": ("9004 000a 0080", SubAck(10, (0, 0x80))),
    "unsubscribe": ("a207 000a 0003 612f62", Unsubscribe(10, ("a/b",))),
    "pingreq": ("c000", Simple(PacketKind.PINGREQ)),
    "disconnect": ("e000", Simple(PacketKind.DISCONNECT)),
}


def packets_of(data, **options):
    reader = PacketReader(LIMIT, **options)
    reader.feed(data)
    return list(iter(reader.next_packet, None))


@pytest.mark.parametrize("name", GOLDEN)
def test_packet_is_the_bytes_of_the_standard(name):
    wire, packet = GOLDEN[name]
    assert encode(packet) == bytes.fromhex(wire)
    assert packets_of(bytes.fromhex(wire)) == [packet]


def test_puback_shortcut_is_the_packet():
    assert encode_puback(513) == encode(Ack(PacketKind.PUBACK, 513))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
TOPICS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=30)
IDS = st.integers(1, 65535)
SOME_BYTES = st.binary(max_size=60)
WILLS = st.builds(Will, TOPICS, SOME_BYTES, st.integers(0, 2), st.booleans())
CREDENTIALS = st.one_of(st.tuples(st.none(), st.none()), st.tuples(TEXTS, st.none() | SOME_BYTES))
CONNECTS = st.tuples(TEXTS, st.integers(0, 65535), st.booleans(), CREDENTIALS, st.none() | WILLS).map(
    lambda t: Connect(t[0], t[1], t[2], *t[3], t[4])
)
PUBLISHES = st.tuples(TOPICS, st.binary(max_size=300), st.integers(0, 2), IDS, st.booleans(), st.booleans()).map(
    lambda t: Publish(t[0], t[1], t[2], t[3] if t[2] else 0, t[4] and t[2] > 0, t[5], len(t[1]))
)
ACKS = st.builds(Ack, st.sampled_from([PacketKind(k) for k in (4, 5, 6, 7, 11)]), IDS)
SIMPLES = st.sampled_from([Simple(PacketKind(k)) for k in (12, 13, 14)])
SUBSCRIBES = st.builds(Subscribe, IDS, st.lists(st.tuples(TOPICS, st.integers(0, 2)), min_size=1, max_size=4).map(tuple))
UNSUBSCRIBES = st.builds(Unsubscribe, IDS, st.lists(TOPICS, min_size=1, max_size=4).map(tuple))
SUBACKS = st.builds(SubAck, IDS, st.lists(st.sampled_from([0, 1, 2, 128]), min_size=1, max_size=4).map(tuple))
CONNACKS = st.builds(ConnAck, st.integers(0, 255), st.booleans())
PACKETS = st.one_of(CONNECTS, PUBLISHES, ACKS, SIMPLES, SUBSCRIBES, UNSUBSCRIBES, SUBACKS, CONNACKS)


@given(st.lists(PACKETS, max_size=6), st.lists(st.integers(1, 40), max_size=60))
def test_packets_come_back_whole_wherever_the_network_cut_them(packets, cuts):
    wire = b"".join(map(encode, packets))
    reader, seen, at = PacketReader(LIMIT), [], 0
    for step in [*cuts, len(wire)]:
        reader.feed(wire[at : at + step])
        at += step
        seen += iter(reader.next_packet, None)
    assert seen == packets


@given(st.binary(max_size=200), st.none() | st.just(PacketKind.CONNECT))
def test_any_bytes_give_packets_or_a_clear_error(data, first_kind):
    with contextlib.suppress(MalformedPacket, UnsupportedLevel):
        packets = packets_of(data, first_kind=first_kind)
        assert all(len(encode(packet)) >= 2 for packet in packets)


@given(st.sampled_from([bytes.fromhex(wire) for wire, _ in GOLDEN.values()]), st.data())
def test_a_flipped_bit_never_breaks_the_reader(wire, data):
    bit = data.draw(st.integers(0, len(wire) * 8 - 1))
    broken = bytearray(wire)
    broken[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(MalformedPacket, UnsupportedLevel):
        assert all(packet is not None for packet in packets_of(bytes(broken)))


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        ("00 00", "no kind"),
        ("f0 00", "no kind"),
        ("80 05 000a 0001 61", "no kind"),  # SUBSCRIBE without its flags
        ("36 06 0001 61 000a 21", "QoS"),
        ("38 04 0001 61 21", "QoS"),  # DUP at QoS 0
        ("32 05 0001 61 0000", "packet id is 0"),
        ("30 03 0001 2b", "wildcard"),
        ("30 02 0000", "empty"),
        ("30 03 0001 ff", "UTF-8"),
        ("30 03 0001 00", "null"),
        ("30 02 0009", "ends before"),
        ("30 01 00", "ends before"),
        ("30 ff ff ff ff 01", "four bytes"),
        ("40 03 000a 00", "after its last field"),
        ("40 01 00", "early"),
        ("c0 01 00", "body"),
        ("20 02 0200", "CONNACK"),
        ("82 02 000a", "SUBSCRIBE"),
        ("a2 02 000a", "UNSUBSCRIBE"),
        ("90 03 000a 05", "SUBACK"),
        ("10 0c 0004 4d515454 04 01 0000 0000", "reserved flag"),
        ("10 0c 0004 4d515454 04 08 0000 0000", "will"),
        ("10 0e 0004 4d515454 04 42 0000 0000 0000", "no user name"),
        ("10 0c 0004 4d515455 04 02 0000 0000", "protocol"),
    ],
)
def test_malformed_packet_is_named(wire, says):
    with pytest.raises(MalformedPacket, match=says):
        packets_of(bytes.fromhex(wire))


@pytest.mark.parametrize("wire", ["10 0d 0004 4d515454 05 02 0000 00 0000", "10 0e 0006 4d5149736470 03 02 0000 0000"])
def test_other_protocol_levels_are_named(wire):
    with pytest.raises(UnsupportedLevel, match=r"expected 4"):
        packets_of(bytes.fromhex(wire))


def test_server_expects_connect_first():
    with pytest.raises(MalformedPacket, match="expected CONNECT"):
        packets_of(encode_publish("a", b"x" * 5000), first_kind=PacketKind.CONNECT)


@given(st.integers(LIMIT - 3, LIMIT * 4), st.integers(1, 700), st.integers(0, 2))
def test_payload_over_the_limit_is_read_to_its_end_and_kept_in_part(size, chunk, qos):
    wire = encode_publish("some/topic", b"p" * size, qos, 7 if qos else 0) + encode_puback(9)
    reader, seen = PacketReader(LIMIT), []
    for at in range(0, len(wire), chunk):
        reader.feed(wire[at : at + chunk])
        seen += iter(reader.next_packet, None)
        assert len(reader._buffer) <= LIMIT + 700 + 40
    publish, ack = seen
    assert (publish.topic, publish.packet_id, publish.size_bytes) == ("some/topic", 7 if qos else 0, size)
    assert len(publish.payload) == min(size, LIMIT)
    assert publish.is_cut == (size > LIMIT)
    assert ack == Ack(PacketKind.PUBACK, 9)


def test_control_packet_over_its_limit_is_refused_before_it_arrives():
    with pytest.raises(MalformedPacket, match="too large"):
        packets_of(b"\x10\xff\xff\xff\x7f")


def test_fields_that_do_not_fit_are_refused_when_encoding():
    with pytest.raises(InvalidInput, match="65535"):
        encode(Connect("x" * 70_000))
