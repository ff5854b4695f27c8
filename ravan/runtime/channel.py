"""Messages between two processes of one machine: a JSON object, then the bytes of arrays. Nothing is unpickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ravan.runtime.session import Batch

NUMBERS = "biuf"
"""Kinds of arrays that may be sent: booleans, integers, floats."""


@dataclass(frozen=True)
class Message:
    """What is sent at once: JSON-ready values by name, and arrays by name."""

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Batch = field(default_factory=dict)


class Channel:
    """One end of a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Message) -> None:
        """Sends a message whole.

        Raises:
            OSError: the other end is gone.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
        shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
        self._connection.send_bytes(json.dumps([dict(message.values), shapes]).encode())
        for array in arrays.values():
            self._connection.send_bytes(_bytes(array))

    def receive(self) -> Message:
        """Waits for a message.

        Raises:
            EOFError: the other end is gone.
            ValueError: what comes is no message.
        """
        values, shapes = json.loads(self._connection.recv_bytes())
        return Message(values, {name: self._array(np.dtype(dtype), shape) for name, (dtype, shape) in shapes.items()})

    def close(self) -> None:
        """Lets the other end know that nothing will follow."""
        self._connection.close()

    def _array(self, dtype: np.dtype[Any], shape: list[int]) -> NDArray[Any]:
        if dtype.kind not in NUMBERS:
            raise ValueError(f"arrays of {dtype} are not sent")
        array = np.empty(shape, dtype)
        self._connection.recv_bytes_into(_bytes(array))
        return array


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
