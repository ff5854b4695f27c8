"""Appending nodes and constants to an ONNX graph."""

import hashlib
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

Operand = ir.Value | np.ndarray | float | None
Attribute = int | float | str | ir.Graph | Iterable[int]


class Builder:
    """Appends nodes to a graph; plain numbers and arrays become constants, each stored once."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self.graph = graph
        self._prefix = prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def op(self, op_type: str, *inputs: Operand, **attributes: Attribute) -> ir.Value:
        """Appends a node with one output and returns the output; floats stand for float32 constants."""
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: Operand, outputs: int, **attributes: Attribute) -> list[ir.Value]:
        """Appends a node with several outputs and returns them."""
        values = [x if x is None or isinstance(x, ir.Value) else self.constant(x) for x in inputs]
        plain = {k: v if isinstance(v, (int, float, str, ir.Graph)) else list(v) for k, v in attributes.items()}
        node = ir.node(op_type, values, plain, num_outputs=outputs, name=self._name(op_type))
        for i, out in enumerate(node.outputs):
            out.name = f"{node.name}_{i}" if i else node.name
        self.graph.append(node)
        return list(node.outputs)

    def constant(self, value: np.ndarray | float) -> ir.Value:
        """An initializer with this value; equal ones are shared."""
        array = np.asarray(value) if isinstance(value, np.ndarray) else np.asarray(value, np.float32)
        key = array.dtype.str, array.shape, hashlib.blake2b(np.ascontiguousarray(array).data).digest()
        if key not in self._constants:
            name = self._name("constant")
            made = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            made.shape, made.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
            self.graph.register_initializer(made)
            self._constants[key] = made
        return self._constants[key]

    def ints(self, values: Iterable[int]) -> ir.Value:
        """A constant int64 vector."""
        return self.constant(np.array(list(values), np.int64))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._prefix}_{self._count}_{kind}"
