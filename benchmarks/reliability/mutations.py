"""Messages of every method, filled from their descriptors, and what may become of them on the way to a server."""

import random
import string
import struct
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
ABSURD_TEXTS = ("", "\0", "\n" * 50, "../" * 30, "\u202e\U0001f600", "x" * 100_000, "'; DROP TABLE devices; --")
ABSURD_FLOATS = (float("nan"), float("inf"), float("-inf"), 1e308, -1.0, 5e-324)
ABSURD_INTEGERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
DEEP, MANY = 5_000, 10_000


def filled(kind: type[Message], known: Mapping[str, object], generator: random.Random) -> Message:
    """A message with every field set: those that are known by their names, the others as their types allow."""
    message = kind()
    _fill(message, known, generator, lambda field: _plain(field, generator))
    return message


def absurd(kind: type[Message], known: Mapping[str, object], generator: random.Random) -> Message:
    """A message in which half of the fields have values that nobody would send."""
    message = kind()
    few = {name: value for name, value in known.items() if generator.random() < 0.5}
    _fill(message, few, generator, lambda field: _absurd(field, generator))
    return message


def _fill(
    message: Any, known: Mapping[str, object], generator: random.Random, value: Callable[[FieldDescriptor], object]
) -> None:
    chosen = {oneof.name: generator.choice(oneof.fields).name for oneof in message.DESCRIPTOR.oneofs}
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof and chosen[field.containing_oneof.name] != field.name:
            continue
        if field.message_type and field.is_repeated:
            for _ in range(generator.choice((0, 1, 3))):
                _fill(getattr(message, field.name).add(), known, generator, value)
        elif field.message_type:
            _fill(getattr(message, field.name), known, generator, value)
        elif field.is_repeated:
            getattr(message, field.name).extend(value(field) for _ in range(generator.choice((0, 1, 3))))
        else:
            setattr(message, field.name, known.get(field.name, value(field)))


def _plain(field: FieldDescriptor, generator: random.Random) -> object:
    if field.type in FLOATS:
        return generator.random()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return generator.random() < 0.5
    if field.enum_type:
        return generator.choice(field.enum_type.values).number
    text = "".join(generator.choices(string.ascii_lowercase, k=generator.randrange(1, 20)))
    return {FieldDescriptor.TYPE_STRING: text, FieldDescriptor.TYPE_BYTES: text.encode()}.get(
        field.type, generator.randrange(100)
    )


def _absurd(field: FieldDescriptor, generator: random.Random) -> object:
    if field.type in FLOATS:
        return generator.choice(ABSURD_FLOATS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.type == FieldDescriptor.TYPE_ENUM:
        return generator.choice((-1, 99, 2**31 - 1))
    if field.type == FieldDescriptor.TYPE_STRING:
        return generator.choice(ABSURD_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return generator.choice((b"", b"\0", b"\xff" * 100_000))
    largest = 2**32 if field.type == FieldDescriptor.TYPE_UINT32 else 2**64
    return generator.choice([value for value in ABSURD_INTEGERS if value < largest])


def mutated(data: bytes, generator: random.Random) -> tuple[str, bytes]:
    """A message's bytes with one kind of damage, and its name."""
    name = generator.choice(tuple(DAMAGES))
    return name, DAMAGES[name](data, generator)


def _flipped(data: bytes, generator: random.Random) -> bytes:
    damaged = bytearray(data or b"\0")
    for _ in range(generator.randrange(1, 9)):
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
    return bytes(damaged)


def _cut(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data) + 1)]


def _doubled(data: bytes, generator: random.Random) -> bytes:
    start = generator.randrange(len(data) + 1)
    piece = data[start : start + generator.randrange(1, 64)]
    return data[:start] + piece * generator.choice((2, 3, 1000)) + data[start:]


def _merged(data: bytes, generator: random.Random) -> bytes:
    """Every field again, as protobuf allows."""
    return data * generator.choice((2, 50))


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def _huge_length(data: bytes, generator: random.Random) -> bytes:
    length = generator.choice((2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
    return data + _tag(generator.randrange(1, 12), 2) + _varint(length) + b"x" * 10


def _wrong_type(data: bytes, generator: random.Random) -> bytes:
    """A field of the message with another wire type than it has."""
    values = {0: _varint(2**64 - 1), 1: struct.pack("<d", float("nan")), 2: _varint(3) + b"\xff\xfe\0", 5: b"\xff" * 4}
    kind = generator.choice((0, 1, 2, 3, 4, 5, 6, 7))
    field = _tag(generator.randrange(1, 12), kind) + values.get(kind, b"")
    return generator.choice((field + data, data + field, field * 100))


def _deep(data: bytes, generator: random.Random) -> bytes:
    """Messages in messages, and groups in groups, deeper than any reader should go."""
    if generator.random() < 0.5:
        return data + _tag(generator.randrange(1, 12), 3) * DEEP
    inner = b""
    for _ in range(400):
        inner = _tag(generator.randrange(1, 8), 2) + _varint(len(inner)) + inner
    return data + inner


def _many(data: bytes, generator: random.Random) -> bytes:
    return data + (_tag(generator.randrange(1, 12), 0) + _varint(generator.randrange(2**40))) * MANY


def _long_varint(data: bytes, generator: random.Random) -> bytes:
    return data + _tag(generator.randrange(1, 12), 0) + b"\xff" * generator.randrange(9, 30)


def _noise(data: bytes, generator: random.Random) -> bytes:
    return generator.randbytes(generator.choice((1, 10, 1000)))


DAMAGES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped bits": _flipped,
    "cut short": _cut,
    "a piece doubled": _doubled,
    "fields repeated": _merged,
    "a huge length": _huge_length,
    "a wrong type": _wrong_type,
    "deep nesting": _deep,
    "many values": _many,
    "an endless varint": _long_varint,
    "noise": _noise,
}
