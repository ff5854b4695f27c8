"""Reverse mode over an ONNX graph: gradients as plain ONNX operators that every onnxruntime has.

One small rule per operator (Griewank & Walther, Evaluating Derivatives, chapter 3), in the modules beside this one by
kind. A rule receives dL/d output and returns dL/d input for the inputs that depend on a trainable. Where a few
operators together have a shorter closed form, a pattern stands in for their rules.
"""

from export.autodiff import activations, elementwise, linear, normalize, patterns, reduce, shape
from export.autodiff.backward import Backward, Rule, differentiate

RULES: dict[str, Rule] = {
    **activations.RULES,
    **elementwise.RULES,
    **linear.RULES,
    **normalize.RULES,
    **reduce.RULES,
    **shape.RULES,
    "MatMul": patterns.recognizing((patterns.attention,), linear.matmul),
    "Mul": patterns.recognizing((patterns.silu, patterns.rms_norm), elementwise.mul),
}

__all__ = ["RULES", "Backward", "differentiate"]
