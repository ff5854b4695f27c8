"""Settings of the device client."""

from pathlib import Path

from pydantic import Field, NonNegativeInt
from pydantic_settings import SettingsConfigDict

from edge.runtimes import Runtime
from ravan.cli.settings import Settings

DEFAULT_HOME = Path("ravan-edge")


class EdgeSettings(Settings):
    """Settings of ``ravan-edge run``."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_EDGE_", frozen=True, extra="forbid")

    server: str = Field("", description="The server's address, host:port; where the device enrolled by default.")
    insecure: bool = Field(
        default=False, description="No TLS and no key, for a server on this machine that is insecure too."
    )
    data: tuple[Path, ...] = Field(
        min_length=1,
        description="Private data, a device for each: JSONL or CSV (text, label; source, target), text, images, NPZ.",
    )
    dataset: str = Field(
        "",
        description="Code that reads the data: an installed dataset's name, package.module:Class or file.py:Class.",
    )
    home: Path = Field(DEFAULT_HOME, description="Folder for bundles and the device's identity.")
    name: str = Field("", description="Name shown to the operator; the data file's by default.")
    heads: float = Field(1.0, gt=0, le=1, description="Share of the heads this device trains.")
    runtime: Runtime = Field(
        Runtime.AUTO,
        description="What trains: onnxruntime, onnxruntime-training, or what is installed and the bundle is made for.",
    )
    ort_training_python: Path | None = Field(
        None, description="Python of an environment with onnxruntime-training, if this one has onnxruntime."
    )
    threads: NonNegativeInt = Field(0, description="Threads of a training step; 0 for all cores.")
    spinning: bool = Field(
        default=False, description="Keep threads spinning between operators: faster, and rude to others."
    )
    micro_batch: NonNegativeInt | None = Field(
        None,
        description="Most tokens computed at a time: less memory, the same gradient; 0 for whole batches, "
        "what the bundle says by default.",
    )
    mapped_weights: bool = Field(
        default=False, description="Leave weights mapped in the file: least memory, slower steps."
    )
    cache_mb: NonNegativeInt = Field(
        2048, description="Most disk for the frozen layers' results, where a bundle lets them be kept; 0 for none."
    )
    key_days: NonNegativeInt = Field(90, description="Days after which the device makes itself a new key; 0 for never.")
    skip_bad: bool = Field(
        default=False, description="Leave out lines and images that are no example instead of refusing the file."
    )
    until_finished: bool = Field(
        default=False, description="Exit when the run has finished instead of waiting for another."
    )
