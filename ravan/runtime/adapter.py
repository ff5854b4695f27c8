"""A trained adapter as a safetensors file, readable by anything that reads safetensors.

Tensors: ``<layer>.H`` [heads, rank, rank], which is s_i H_i with s = 1 folded in, and every saved tensor by its name.
Metadata: the format, the adapter spec's digest, the bundle's id, and what the writer adds (round, accuracy).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ravan.bundle import Manifest
from ravan.errors import BundleError
from ravan.files import write_atomically
from ravan.layout import saved_tensors
from ravan.spec import AdapterSpec
from ravan.update import Update

FORMAT = "ravan-adapter-1"


def adapter_bytes(manifest: Manifest, adapter: Update, notes: Mapping[str, object]) -> bytes:
    """The bytes of an adapter's file."""
    spec = manifest.adapter
    tensors = {f"{layer.name}.H": H for layer, H in zip(spec.layers, adapter.sH.reshape(spec.H_shape), strict=True)}
    tensors |= saved_tensors(spec, adapter.saved)
    metadata = {"format": FORMAT, "adapter_spec": spec.digest, "bundle": manifest.bundle_id}
    metadata |= {key: json.dumps(value) for key, value in notes.items()}
    return save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata)


def write_adapter(path: Path, manifest: Manifest, adapter: Update, notes: Mapping[str, object]) -> None:
    """Writes the adapter so that the file is either the old or the whole new one, also after a crash."""
    write_atomically(path, adapter_bytes(manifest, adapter, notes))


def bundle_of(path: Path) -> str:
    """The id of the bundle that an adapter was trained with.

    Raises:
        BundleError: no adapter file.
    """
    with _opened(path) as file:
        return str((file.metadata() or {}).get("bundle", ""))


def read_adapter(path: Path, spec: AdapterSpec) -> Update:
    """Reads what ``write_adapter`` wrote.

    Raises:
        BundleError: no adapter file, made for another adapter spec, or with values that are no numbers.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT or metadata.get("adapter_spec") != spec.digest:
            raise BundleError(f"{path} was trained with another bundle: use the bundle and adapter of one run.")
        sH = np.stack([file.get_tensor(f"{layer.name}.H") for layer in spec.layers])
        parts = [file.get_tensor(tensor.name).ravel() for tensor in spec.saved]
    saved = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if (
        sH.shape != spec.H_shape
        or saved.size != spec.saved_size
        or not (np.isfinite(sH).all() and np.isfinite(saved).all())
    ):
        raise BundleError(f"{path} holds other values than its layers take: export it from the server again.")
    return Update.full(sH.astype(np.float32), saved.astype(np.float32))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is no adapter file ({error}): export one from the server first.") from error
