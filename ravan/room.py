"""How much memory training a bundle takes, from what was measured at export; without numpy, for the small client."""

from ravan.bundle import MICRO_BATCH, WEIGHTS, Manifest, Precision

ORT_TRAINING = "ort-training"
SMALL_TOKENS = 512
"""Most tokens at a time in the preset that is measured at export."""


def least_memory(manifest: Manifest) -> int:
    """Bytes that training takes in onnxruntime with the preset that takes least; 0 if that was never measured."""
    return min((size for name, size in manifest.memory.items() if name != ORT_TRAINING), default=0)


def packed_copies(manifest: Manifest) -> int:
    """Bytes of the copies of the weights that onnxruntime makes for speed, which mapped weights do without."""
    copies = 1 if manifest.precision is Precision.INT8 else 2  # of float ones, for the forward and the backward pass
    return copies * manifest.files[WEIGHTS].size


def fitting_tokens(manifest: Manifest, available: int | None) -> int:
    """How many tokens to compute at a time: what the bundle says, halved while it may not fit into memory.

    More than the measured preset computes is taken to need as many times its memory, which is too much by what does
    not grow; fewer are no help that was ever measured. Smaller parts have the same gradient, in more time.
    """
    tokens = manifest.micro_batch or MICRO_BATCH
    measured, needed = min(SMALL_TOKENS, tokens), least_memory(manifest)
    copies = packed_copies(manifest)
    if available is None or not needed:
        return tokens
    room = available - copies if available >= needed + copies else available  # else weights stay mapped
    while tokens > measured and needed * tokens / measured > room:
        tokens = max(tokens // 2, measured)
    return tokens
