"""Streaming bytes in chunks, and what travels in the metadata of answers."""

from collections.abc import Iterator

CODE_KEY = "ravan-code"
TIME_KEY = "ravan-time"
"""Of the metadata that a health check is answered with: the server's clock, milliseconds since 1970."""
LONGEST = 1 << 20  # bytes of data in one message
CHUNK = 256 << 10
"""Bytes that are sent at a time: what a line that breaks loses at most, and has to send again."""
MESSAGE_LIMIT = LONGEST + (64 << 10)  # bytes of one message with its frame

NO_COMPRESSION = ("grpc.compression_enabled_algorithms_bitset", 1)  # a small gzip message can inflate to gigabytes

CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),  # or a server ends slow uploads for their keepalives
    NO_COMPRESSION,
]

CONTROL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 256 << 20),  # an operator's lists of devices and rounds
    ("grpc.max_send_message_length", 256 << 20),
]

OPERATOR_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", 256 << 20),
    NO_COMPRESSION,
]
"""Of the server, which is sent settings and gives lists."""


def chunks(data: bytes, size: int = CHUNK) -> Iterator[bytes]:
    """The bytes in pieces of at most ``size``; one empty piece for no bytes."""
    for start in range(0, max(len(data), 1), size):
        yield data[start : start + size]
