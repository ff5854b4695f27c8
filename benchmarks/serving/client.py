"""A device of ours whose training is to add a constant; all else, from check-in to receipt, is the product's.

usage: python -m benchmarks.serving.client SERVER HOME NAME [CA TOKEN], in the repository; over TLS with the last two.
"""

import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import cast

from edge.device import Device, DeviceOptions
from edge.enrollment import enroll
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.progress import Events
from edge.training import LocalRun
from edge.workshop import Workshop
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.cli.logs import configure_logs
from ravan.rpc.plan import TrainingPlan
from ravan.runtime.examples import Examples
from ravan.runtime.session import RuntimeOptions
from ravan.update import Update


class Adding(Device):
    """Takes part like any device."""

    def _examples(self, bundle: Bundle) -> Examples:
        return cast(Examples, ())

    def _train(self, task: pb.Task, plan: TrainingPlan, bundle: Bundle, base: Update) -> LocalRun:
        return LocalRun(Update(base.heads, base.sH + 1, base.saved + 1), (0.0,), 0.0, bundle.manifest.adapter.heads)


def main() -> None:
    """Takes part until the run has finished."""
    server, folder, name, *secure = sys.argv[1:]
    configure_logs()
    stop = threading.Event()
    with closing(Home(Path(folder))) as home:
        identity = None
        if secure:
            ca, token = secure
            identity = enroll(home.identities, name, server, Path(ca).read_text("ascii"), token)
        device_id = identity.device_id if identity else home.device_id(name)
        options = DeviceOptions(name, Path(folder), until_finished=True)
        workshop = Workshop(RuntimeOptions(1), home.hidden_states, 0)
        with closing(FleetClient(server, device_id, stop, identity)) as client:
            Adding(options, client, home, workshop, Events(), stop).run()


if __name__ == "__main__":
    main()
