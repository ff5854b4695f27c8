"""Ravan inside PyTorch models: inject heads by name, read and write their trainables, merge them back into W.

``CustomModel`` says of a module of your own what ``ravan-export custom`` needs to know. The only part of ``ravan``
that imports torch; it belongs to the workstation, never to a device or the server.
"""

from ravan.inputs import Loss, Metric
from ravan.torch.custom import CustomModel
from ravan.torch.inject import find_targets, inject, make_spec, merge
from ravan.torch.linear import RavanLinear
from ravan.torch.trainables import named_trainables, read_trainables, write_trainables

__all__ = [
    "CustomModel",
    "Loss",
    "Metric",
    "RavanLinear",
    "find_targets",
    "inject",
    "make_spec",
    "merge",
    "named_trainables",
    "read_trainables",
    "write_trainables",
]
