"""Ravan: multi-head low-rank adaptation for federated fine-tuning (arXiv 2506.05568).

Each adapted linear layer computes ``W + sum_i s_i B_i H_i A_i``. ``B_i`` and ``A_i`` are frozen random bases,
devices train only ``H_i`` and ``s_i`` and upload ``s_i H_i``, which the server averages exactly, head by head.

The modules of this package need nothing but numpy. Four subpackages need more and are imported only by name:
``ravan.torch`` (workstation), ``ravan.runtime`` (onnxruntime), ``ravan.rpc`` (grpcio) and
``ravan.cli`` (command lines).
"""

__version__ = "0.1.0"
