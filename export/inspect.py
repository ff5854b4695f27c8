"""A bundle in plain words, or as JSON-ready values."""

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ravan.bases import overfull
from ravan.bundle import Bundle, Manifest
from ravan.bundle_files import ARTIFACTS
from ravan.sizes import largest_size
from ravan.spec import Init

SHOWN = 4  # entries of a list; JSON gives all


def facts(bundle: Bundle) -> dict[str, Any]:
    """What a user wants to know of a bundle."""
    manifest, spec = bundle.manifest, bundle.manifest.adapter
    artifacts = sum(manifest.files[name].size for name in ARTIFACTS if name in manifest.files)
    return {
        "bundle": manifest.bundle_id,
        "model": manifest.model,
        "task": manifest.task,
        "labels": list(manifest.labels),
        **_examples(manifest),
        "precision": str(manifest.precision),
        "adapted_layers": [layer.name for layer in spec.layers],
        "heads": spec.heads,
        "rank": spec.rank,
        "init": str(spec.init),
        "seed": spec.seed,
        "saved": [tensor.name for tensor in spec.saved],
        "trainable_parameters": spec.size,
        "download_bytes": manifest.download_size,
        **({"ort_training_bytes": artifacts} if artifacts else {}),
        "largest_upload_bytes": largest_size(spec),
        "training_memory_bytes": dict(manifest.memory),
        "needs": asdict(manifest.needs),
        "verification": dict(manifest.verification),
        "versions": dict(manifest.versions),
        "notes": notes(bundle),
    }


def _examples(manifest: Manifest) -> dict[str, Any]:
    """What the bundle's examples are."""
    if manifest.custom:
        inputs = {value.name: str(value) for value in manifest.inputs}
        return {"inputs": inputs, **asdict(manifest.custom)}
    if manifest.image:
        return {"image": asdict(manifest.image)}
    targets = {"targets": asdict(manifest.seq2seq)} if manifest.seq2seq else {}
    return {"max_length": manifest.max_length, **targets}


def notes(bundle: Bundle) -> list[str]:
    """What the user should know about the choices made."""
    spec = bundle.manifest.adapter
    if spec.init is Init.GRAM_SCHMIDT and (layers := overfull(spec)):
        return [
            f"rank x heads = {spec.rank * spec.heads} exceeds a dimension of {len(layers)} layers: "
            "Gram-Schmidt orthonormalizes their bases in blocks."
        ]
    return []


def describe(bundle: Bundle) -> RenderableType:
    """Tables of a bundle's facts and files."""
    about = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in facts(bundle).items():
        about.add_row(name.replace("_", " "), escape(_plain(value)))
    files = Table("file", "bytes", "sha256", box=None, padding=(0, 2, 0, 0))
    for name, entry in bundle.manifest.files.items():
        files.add_row(name, f"{entry.size:,}", entry.sha256[:16])
    return Group(about, "", files)


def _plain(value: object) -> str:
    match value:
        case list():
            shown = [*value[:2], "...", value[-1]] if len(value) > SHOWN else value
            return f"{len(value)}: {', '.join(map(str, shown))}" if value else "none"
        case dict():
            return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()) or "none"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
