"""A device of ours whose training is to add a constant; all else, from check-in to receipt, is the product's.

usage: python -m benchmarks.serving.client SERVER HOME NAME [CA TOKEN], in the repository; over TLS with the last two.
"""

import sys
import threading
from contextlib import closing
from pathlib import Path

from edge.device import Device
from edge.enrollment import enroll
from edge.fleet_client import FleetClient
from edge.foreman import Foreman, OnPause
from edge.home import Home
from edge.job import DataOptions, Job, WorkerSettings
from edge.options import DeviceOptions
from edge.packing import keep_finished
from edge.progress import Events, OnStep
from edge.runtimes import Runtimes
from edge.setting_out import equipment
from edge.training import LocalRun
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Manifest
from ravan.bundle_files import MANIFEST
from ravan.cli.logs import configure_logs
from ravan.rpc.plan import plan_from_proto
from ravan.update import Update, decode


class Adder(Foreman):
    """Does a job at once, by adding 1 to every value."""

    def train(
        self, job: Job, stop: threading.Event, until: float, on_step: OnStep, on_pause: OnPause = lambda why: None
    ) -> None:
        """As ``Foreman.train``."""
        task, spec = pb.Task.FromString(job.task), Manifest.from_json((job.bundle / MANIFEST).read_bytes()).adapter
        base = decode(spec, job.base.read_bytes())
        run = LocalRun(Update(base.heads, base.sH + 1, base.saved + 1), (0.0,), 0.0, spec.heads)
        keep_finished(job, task, spec, plan_from_proto(task.plan).wire, base, run, examples=1)


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
        options = DeviceOptions(name, DataOptions(Path(folder)), until_finished=True)
        with closing(FleetClient(server, device_id, stop, identity)) as client:
            adder = Adder(WorkerSettings(home.folder))
            Device(options, client, home, adder, equipment(Runtimes()), Events(), stop).run()


if __name__ == "__main__":
    main()
