"""Flower's server: FedAvg over all clients, and the time at which every round ended."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):  # type: ignore[misc]
    """FedAvg as it is, that notes when rounds end."""

    ends: list[float]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean, and the time after it."""
        combined: tuple[ArrayRecord | None, MetricRecord | None] = super().aggregate_train(server_round, replies)
        self.ends.append(time.time())
        return combined


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """All rounds; writes their ends, and what the constants summed up to."""
    config = context.run_config
    clients = int(config["clients"])
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients, min_evaluate_nodes=0)
    strategy.ends = []
    start = ArrayRecord([np.zeros(int(config["values"]), np.float32)])
    result = strategy.start(grid=grid, initial_arrays=start, num_rounds=int(config["rounds"]), timeout=600)
    last = result.arrays.to_numpy_ndarrays()[0]
    out = Path(str(config["out"]))
    part = out.with_suffix(".part")
    part.write_text(json.dumps({"ends": strategy.ends, "value": float(last.mean())}), "utf-8")
    part.rename(out)
