"""Settings of the device's programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_settings import SettingsConfigDict

from edge.guest import GuestSettings
from edge.job import CHECKPOINT_SECONDS, Priority, Scope
from edge.runtimes import Runtime
from ravan.cli.output import Format, RowFormat
from ravan.cli.settings import Settings, argument

if TYPE_CHECKING:
    from ravan.runtime.session import RuntimeOptions

DEFAULT_HOME = Path("ravan-edge")


AUTO = "auto"


def _head_budget(value: object) -> str:
    """Raises ValueError if it is neither auto nor a share."""
    if value != AUTO and not 0 < float(str(value)) <= 1:
        raise ValueError("give a share above 0, at most 1, or auto")
    return str(value)


HeadBudget = Annotated[str, BeforeValidator(_head_budget)]


class DeviceSettings(Settings):
    """What all of them have in common."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_EDGE_", frozen=True, extra="forbid")

    home: Path = Field(DEFAULT_HOME, description="Folder for bundles and the device's identity.")
    threads: NonNegativeInt = Field(0, description="Threads of a training step; 0 for all cores.")
    skip_bad: bool = Field(
        default=False, description="Leave out lines and images that are no example instead of refusing the file."
    )
    dataset: str = Field(
        "",
        description="Code that reads the data: an installed dataset's name, package.module:Class or file.py:Class.",
    )


class TrainingSettings(DeviceSettings):
    """How a device trains."""

    name: str = Field("", description="Name of the device; the data file's by default.")
    seed: NonNegativeInt = Field(0, description="Of the choice of held-out examples.")
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

    @property
    def session(self) -> "RuntimeOptions":
        """How onnxruntime uses the machine."""
        from ravan.runtime.session import RuntimeOptions

        return RuntimeOptions(self.threads, self.spinning, self.mapped_weights)


class EdgeSettings(TrainingSettings, GuestSettings):
    """Settings of ``ravan-edge run``."""

    heads: HeadBudget = Field(
        AUTO, description="Share of the heads this device trains: above 0, at most 1; auto for what it has time for."
    )

    server: str = Field("", description="The server's address, host:port; where the device enrolled by default.")
    insecure: bool = Field(
        default=False, description="No TLS and no key, for a server on this machine that is insecure too."
    )
    key_days: NonNegativeInt = Field(90, description="Days after which the device makes itself a new key; 0 for never.")
    update_hours: NonNegativeFloat = Field(
        6, description="Hours between two looks for a newer client; 0 to run what was installed and nothing else."
    )
    data: tuple[Path, ...] = Field(
        min_length=1,
        description="Private data, a device for each: JSONL or CSV (text, label; source, target), text, images, NPZ.",
    )
    runtime: Runtime = Field(
        Runtime.AUTO,
        description="What trains: onnxruntime, onnxruntime-training, or what is installed and the bundle is made for.",
    )
    ort_training_python: Path | None = Field(
        None, description="Python of an environment with onnxruntime-training, if this one has onnxruntime."
    )
    priority: Priority = Field(
        Priority.IDLE,
        description="Of training, against other programs: idle for what nobody else wants, low to give way, normal.",
    )
    memory_mb: NonNegativeInt = Field(0, description="Most memory that training may take; 0 for what is free.")
    checkpoint_seconds: NonNegativeFloat = Field(
        CHECKPOINT_SECONDS, description="Least time between two checkpoints of a local run; 0 for after every step."
    )
    held_out: float = Field(
        0.0, ge=0, lt=1, description="Share of the data never trained on, for ravan-edge personalize to measure on."
    )
    until_finished: bool = Field(
        default=False, description="Exit when the run has finished instead of waiting for another."
    )
    dry_run: bool = Field(
        default=False, description="Take one task, train, show the exact upload, and send none; the task is given back."
    )
    format: Format = Field(Format.TEXT, description="Of --dry-run: text or json.")


class DoctorSettings(EdgeSettings):
    """Settings of ``ravan-edge doctor``: those of the client that is looked over."""

    data: tuple[Path, ...] = Field((), description="Private data; what the last client was given by default.")
    format: Format = Field(Format.TEXT, description="text or json.")


class PersonalizeSettings(TrainingSettings):
    """Settings of ``ravan-edge personalize``."""

    heads: float = Field(1.0, gt=0, le=1, description="Share of the heads to train.")

    adapter: Path = argument("The global adapter (safetensors), as ravan-server export writes it.")
    data: Path = Field(description="The device's private data, as for ravan-edge run.")
    bundle: Path | None = Field(None, description="The bundle's folder; the one in --home by default.")
    keep: Scope = Field(
        Scope.HEADS, description="What is trained and kept: s; heads, H and s; or all, modules trained whole too."
    )
    held_out: float = Field(0.2, gt=0, lt=1, description="Share of the data that is measured on and not trained on.")
    epochs: PositiveInt = Field(3, description="How often every example is trained on.")
    batch_size: PositiveInt = Field(16, description="Examples of a mini-batch.")
    learning_rate: float | None = Field(None, gt=0, description="By default 0.002; for s alone 0.05.")
    even_if_worse: bool = Field(
        default=False, description="Keep the personal adapter even if it is worse than the global one."
    )
    format: Format = Field(Format.TEXT, description="text or json.")


class PredictSettings(DeviceSettings):
    """Settings of ``ravan-edge predict``."""

    adapter: Path = argument("A global or personal adapter (safetensors).")
    data: tuple[Path, ...] = Field(
        (), description="What to ask about, as for training but for its labels; may be repeated."
    )
    text: tuple[str, ...] = Field((), description="A text to ask about; may be repeated.")
    bundle: Path | None = Field(None, description="The bundle's folder; the one in --home by default.")
    top: PositiveInt = Field(3, description="How many labels to give, the likeliest first.")
    tokens: NonNegativeInt = Field(
        20, description="Tokens that a language model writes on; 0 for the perplexity alone."
    )
    format: RowFormat = Field(RowFormat.TEXT, description="text, jsonl or json.")
