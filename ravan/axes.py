"""The sizes of a graph's dynamic axes, which the exporter writes as expressions: "batch*(time//4)"."""

import ast
import operator
from collections.abc import Callable, Mapping

OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.Sub: operator.sub,
}
FUNCTIONS: Mapping[str, Callable[..., int]] = {"Max": max, "Min": min}


def axis_size(axis: str, sizes: Mapping[str, int]) -> int:
    """The size of an axis from those of the named ones.

    Raises:
        KeyError: it depends on something else; names it.
    """
    try:
        return _value(ast.parse(axis, mode="eval").body, sizes)
    except SyntaxError:
        raise KeyError(axis) from None


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=args) if name in FUNCTIONS:
            return FUNCTIONS[name](*(_value(arg, sizes) for arg in args))
    raise KeyError(ast.unparse(node))
