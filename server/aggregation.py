"""The settings of a run that say how updates become an adapter, and what must fit together among them."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from ravan.by_head import Median, MultiKrum, TrimmedMean
from ravan.errors import SettingsError
from ravan.norms import Norms, bound
from ravan.rules import ClippedMean, Mean, Rule, RuleName
from ravan.server_optimizer import FedAdam, FedAvg, FedAvgM, FedYogi, OptimizerKind, ServerOptimizer

DEFAULT_ATTACKERS = 0.2


class AggregationOptions(BaseModel):
    """From the updates of a round to the next adapter: a bound at the door, a rule, and a server optimizer."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    aggregation: RuleName = Field(
        RuleName.MEAN, description="Rule: mean, clipped-mean, median, trimmed-mean or multi-krum."
    )
    attackers: float | None = Field(
        None, ge=0, le=0.49, description="Share of hostile updates a rule other than mean must bear; 0.2 by default."
    )
    max_norm: float = Field(0.0, ge=0, description="Refuse updates that change a head by a larger norm; 0: any.")
    max_saved_norm: float = Field(
        0.0, ge=0, description="Refuse updates that change the modules trained whole by a larger norm; 0: any."
    )
    max_norm_ratio: float = Field(
        10.0,
        ge=0,
        description="Refuse norms of more than so many times the median of the last rounds' updates; 0: any.",
    )
    server_optimizer: OptimizerKind = Field(
        OptimizerKind.FEDAVG, description="What steps along the average: fedavg, fedavgm, fedadam or fedyogi."
    )
    server_learning_rate: float | None = Field(
        None, gt=0, description="Of the server optimizer; by default 1, and 0.01 for fedadam and fedyogi."
    )
    server_momentum: float = Field(0.9, ge=0, lt=1, description="Of fedavgm, fedadam and fedyogi.")
    server_beta2: float = Field(0.99, ge=0, lt=1, description="Of the second moment of fedadam and fedyogi.")
    server_tau: float = Field(1e-3, gt=0, description="Of fedadam and fedyogi: the smaller, the more adaptive.")

    def rule(self) -> Rule:
        """The rule.

        Raises:
            SettingsError: it does not bear the share of attackers.
        """
        share = DEFAULT_ATTACKERS if self.attackers is None else self.attackers
        match self.aggregation:
            case RuleName.MEAN:
                return Mean(self.attackers or 0.0)
            case RuleName.CLIPPED_MEAN:
                return ClippedMean(share)
            case RuleName.MEDIAN:
                return Median(share)
            case RuleName.TRIMMED_MEAN:
                return TrimmedMean(share)
            case RuleName.MULTI_KRUM:
                return MultiKrum(share)

    def optimizer_of_server(self) -> ServerOptimizer:
        """The server optimizer."""
        rate = {} if self.server_learning_rate is None else {"rate": self.server_learning_rate}
        adaptive = {**rate, "beta": self.server_momentum, "beta2": self.server_beta2, "tau": self.server_tau}
        match self.server_optimizer:
            case OptimizerKind.FEDAVG:
                return FedAvg(**rate)
            case OptimizerKind.FEDAVGM:
                return FedAvgM(**rate, beta=self.server_momentum)
            case OptimizerKind.FEDADAM:
                return FedAdam(**adaptive)
            case OptimizerKind.FEDYOGI:
                return FedYogi(**adaptive)

    def bound(self, earlier: Sequence[Norms]) -> Norms:
        """The largest norms that a round takes after updates of these norms."""
        return bound(earlier, Norms(self.max_norm, self.max_saved_norm), self.max_norm_ratio)

    def check_clients(self, least: int, settings: str) -> None:
        """Refuses a rule that so few updates are not enough for.

        Raises:
            SettingsError: a round of ``least`` updates, or of some more, does not bear the share of attackers; says
                which ``settings`` to raise.
        """
        rule = self.rule()
        if least < rule.least_clients:
            raise SettingsError(
                f"The {rule.name} bears {rule.attackers:.0%} hostile updates from {rule.least_clients} updates a round "
                f"on, and this run takes {least}: raise {settings}, or lower --attackers."
            )
