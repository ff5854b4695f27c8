"""Reverse mode over an ONNX graph: gradients as plain ONNX operators that every onnxruntime has.

One small rule per operator (Griewank & Walther, Evaluating Derivatives, chapter 3), in the modules beside this one by
kind. A rule receives dL/d output and returns dL/d input for the inputs that depend on a trainable.
"""

from export.autodiff import elementwise, linear, normalize, reduce, shape
from export.autodiff.backward import Backward, Rule, differentiate

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **linear.RULES,
    **normalize.RULES,
    **reduce.RULES,
    **shape.RULES,
}

__all__ = ["RULES", "Backward", "differentiate"]
