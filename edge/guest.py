"""Settings by which the owner of a device says what a client may take of it, and when."""

from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt
from pydantic_settings import SettingsConfigDict

from edge.bandwidth import parse_rate
from edge.conditions import CALM_SECONDS, Metered, Rules
from edge.hours import Hours
from ravan.cli.settings import Settings

FLAG = "metered"


class GuestSettings(Settings):
    """When it trains, what it sends and fetches, and how much disk and memory it takes."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_EDGE_", frozen=True, extra="forbid")

    hours: tuple[str, ...] = Field(
        (), description="Local time in which to train, such as 22:00-06:00; may be repeated; always by default."
    )
    max_load: float | None = Field(
        None, gt=0, description="Train while other programs keep at most so many cores busy; any number by default."
    )
    on_mains: bool = Field(default=False, description="Train on mains alone, never on battery.")
    min_battery: float | None = Field(
        None, ge=0, le=100, description="Least charge to train at while on battery, percent."
    )
    max_temperature: float | None = Field(
        None, description="Train while no part is hotter than that, degrees Celsius, as /sys/class/thermal says."
    )
    calm_seconds: NonNegativeFloat = Field(
        CALM_SECONDS, description="How long all must have been well before training that was stopped goes on."
    )
    metered: Metered = Field(
        Metered.NEVER,
        description="What goes over a metered network: never anything, finished uploads alone, or any traffic.",
    )
    metered_file: Path | None = Field(
        None, description="File that exists while the network is metered; the file metered in --home by default."
    )
    bandwidth: str = Field("", description="Most that all transfers together take, such as 500kB/s; no cap by default.")
    disk_mb: NonNegativeInt = Field(0, description="Most disk that --home takes, MB; 0 for what the disk has.")
    machine_root: Path = Field(
        Path("/"), description="Folder below which /proc and /sys are read: a container's view of its host's."
    )

    @property
    def rate(self) -> float:
        """The cap on transfers, bytes a second.

        Raises:
            SettingsError: it is no rate.
        """
        return parse_rate(self.bandwidth)

    def rules(self, home: Path) -> Rules:
        """When training is allowed, and what of the network.

        Raises:
            SettingsError: the hours make no sense.
        """
        return Rules(
            Hours.parse(self.hours),
            self.max_load,
            self.on_mains,
            self.min_battery,
            self.max_temperature,
            self.metered,
            (self.metered_file or home / FLAG).absolute(),
            self.machine_root.absolute(),
            self.calm_seconds,
        )
