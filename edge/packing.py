"""From a local run to the outbox: the update packed for the wire, the report, and what the packing leaves out."""

import hashlib
import time

import structlog

from edge.desk import FINISHED
from edge.job import Job
from edge.left_out import LeftOut
from edge.outbox import Finished
from edge.training import LocalRun
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.spec import AdapterSpec
from ravan.update import Update
from ravan.wire import WireFormat, pack

log = structlog.get_logger()
LONGEST_WAIT = 30.0  # seconds


def keep_finished(
    job: Job, task: pb.Task, spec: AdapterSpec, wire: WireFormat, base: Update, run: LocalRun, examples: int
) -> None:
    """Leaves a run's update in the outbox; waits for room on a full disk, for the work is done."""
    left_out = LeftOut(job.left_out, task.binding.run_id, task.binding.bundle_id)
    packed = pack(spec, wire, base, run.update, left_out.read(spec))
    header = pb.UploadHeader(
        device_id=job.device_id,
        binding=task.binding,
        sha256=hashlib.sha256(packed.data).hexdigest(),
        size=len(packed.data),
        report=pb.TrainingReport(
            examples=examples,
            steps=len(run.losses),
            first_loss=run.first_loss,
            last_loss=run.last_loss,
            seconds=run.seconds,
            heads_per_layer=run.heads_per_layer,
        ),
    )
    rest = b"" if wire is WireFormat.FP32 else left_out.bytes_of(spec, packed.left_out)
    _write(Finished(header, packed.data, rest), job)


def _write(finished: Finished, job: Job) -> None:
    header, wait = finished.header, 1.0
    while True:
        try:
            finished.write(job.desk / FINISHED)
        except OSError as error:
            log.warning("finished update waits for the disk", device=job.name, reason=error.strerror)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        else:
            log.info("local run finished", device=job.name, round=header.binding.round, bytes=header.size)
            return
