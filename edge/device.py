"""A device's loop: check in -> (bundle) -> adapter -> local run -> upload -> sleep; nothing of it trains by itself."""

import platform
import random
import threading
import time
from functools import partial

import structlog

from edge.conditions import METERED
from edge.courier import Courier
from edge.enrollment import rotate_if_due
from edge.errors import NotLetIn, Refused, RoundOver, Stopped, TaskFailed, WorkerEnded
from edge.fleet_client import FleetClient
from edge.foreman import Foreman
from edge.home import Home
from edge.job import Job
from edge.options import DeviceOptions, Equipment
from edge.outbox import Finished
from edge.progress import Progress
from edge.strength import all_known
from edge.vouched import require_signed_bundle
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle, Manifest
from ravan.bundle_files import TOP_GRAPH, shortest_graph
from ravan.cli.errors import explain_os_error
from ravan.errors import DataError, DiskFull, RavanError
from ravan.faults import reached
from ravan.sizes import largest_size
from ravan.spread import Spread, layers_for_budget

LONGEST_WAIT = 60.0  # seconds, after failures in a row
OVER = {"too-stale", "stale-round", "future-round", "round-closed", "not-selected", "conflict", "not-found"}
"""Refusals after which there is no part to give back."""
LATE = {"too-stale", "stale-round", "round-closed"}
"""Those of them that say nothing against the device: it asks for the next task soon, or hears that the run is over."""
PASSING = {"stale-call", "future-call", "replayed-call", "too-many", "too-slow"}
"""Refusals of a call, not of the update that it carries: once the clock is set, or the crowd is gone, it may pass."""
LATE_SECONDS = 0.5
MOST_TIMES = 16
HELD_SECONDS = 2.0
CRASHES = 3
"""So often in one task a worker may end before it: then the task is given back."""
WITHHELD = "The device's own log says why."
"""What the server is told beside the code: paths and what stands in the data never leave the device."""


class Device:
    """One participant; runs on a thread of its own and shares home, foreman and display with its process."""

    def __init__(
        self,
        options: DeviceOptions,
        client: FleetClient,
        home: Home,
        foreman: Foreman,
        equipment: Equipment,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._options, self._equipment = options, equipment
        self._client = client
        self._home = home
        self._desk = home.desk(options.name)
        self._courier = Courier(options.name, client, home)
        self._foreman = foreman
        self._progress = progress
        self._stop = stop
        self._jitter = random.Random(client.device_id)  # noqa: S311 - spreads check-ins, hides nothing
        self._failures = self._crashes = 0
        self._log = structlog.get_logger().bind(device=options.name)

    def run(self) -> None:
        """Takes part until stopped or, if so set, until the run has finished.

        Raises:
            DataError: the data file is of no use; the server has been told.
            NotLetIn, NotTrusted: the server and this device have nothing to say to one another.
        """
        try:
            self._take_part()
        except RavanError as error:
            self._progress.ended(self._options.name, str(error))
            raise
        self._progress.ended(self._options.name, "")

    def _take_part(self) -> None:
        while not self._stop.is_set():
            try:
                self._deliver()
                if self._is_held():
                    continue
                rotate_if_due(self._home.identities, self._client, self._options.key_days)
                self._progress.asking(self._options.name)
                answer = self._client.check_in(self._options.name, self._capabilities())
                if answer.HasField("task"):
                    self._do(answer.task)
                    self._failures = 0
                    continue
            except NotLetIn:
                raise
            except Refused as error:
                self._log.warning("refused", code=error.code, reason=str(error))
                self._progress.failed(self._options.name, str(error))
                self._back_off()
                continue
            except TaskFailed as error:
                self._progress.failed(self._options.name, str(error))
                self._back_off()
                continue
            except OSError as error:  # of the disk, between two tasks
                explained = explain_os_error(error)
                self._log.error("can't go on", reason=str(explained))
                self._progress.failed(self._options.name, str(explained))
                self._back_off()
                continue
            if self._is_last(answer.wait):
                return

    def _is_last(self, wait: pb.Wait) -> bool:
        """Waits, unless the run has finished and there is nothing to wait for."""
        if wait.reason != pb.WAIT_REASON_RUN_PAUSED:
            self._desk.clear()  # of a task that is over by now
        if wait.reason == pb.WAIT_REASON_RUN_FINISHED and self._options.until_finished:
            self._log.info("run finished")
            return True
        seconds = self._jitter.uniform(wait.min_seconds, max(wait.min_seconds, wait.max_seconds))
        self._progress.waiting(self._options.name, wait.reason, seconds)
        self._stop.wait(seconds)
        return False

    def _is_held(self) -> bool:
        """Waits a little if its owner's rules keep this device from asking for a task."""
        why = self._foreman.conditions.against_tasks()
        if why:
            if not self._desk.has_finished:  # or it is said already why that waits
                self._progress.held(self._options.name, why)
            self._stop.wait(HELD_SECONDS)
        return bool(why)

    def _back_off(self) -> None:
        """Waits longer after every failure in a row, with full jitter: the same task would fail again at once."""
        self._failures += 1
        self._stop.wait(self._jitter.uniform(0.5, min(2.0**self._failures, LONGEST_WAIT)))

    def _do(self, task: pb.Task) -> None:
        """One task, from bundle to receipt.

        Raises:
            DataError: the data is of no use, which ends the device.
            TaskFailed: anything else; it is logged, and the server knows if it can.
        """
        until = time.monotonic() + task.deadline_seconds if task.deadline_seconds else float("inf")
        try:
            require_signed_bundle(self._client.identity, task)
            self._progress.fetching(self._options.name, task.binding)
            self._train(
                task, self._home.bundle(self._client, task.binding.bundle_id, partial(self._admit, task)), until
            )
            self._crashes = 0
        except (Stopped, NotLetIn):
            raise
        except RoundOver as error:
            self._log.warning("round over", round=task.binding.round, reason=str(error))
            self._desk.clear()
            return
        except WorkerEnded as error:
            self._crashes += 1
            self._fail(task, error, gives_back=self._crashes >= CRASHES)
        except DataError as error:
            self._give_back(task.binding, error.code)
            raise
        except Refused as error:
            self._refused(task.binding, error)
            return
        except RavanError as error:
            self._fail(task, error)
        except OSError as error:
            self._fail(task, explain_os_error(error))
        self._deliver()

    def _train(self, task: pb.Task, bundle: Bundle, until: float) -> None:
        """Has the local run done, whose update is in the outbox then."""
        binding, options = task.binding, self._options
        most = largest_size(bundle.manifest.adapter)
        job = Job(
            task=_without_deadline(task),
            device_id=self._client.device_id,
            name=options.name,
            bundle=bundle.folder,
            base=self._desk.base(binding.base_adapter, lambda: self._client.fetch_adapter(binding, most)),
            desk=self._desk.folder,
            left_out=self._desk.left_out,
            head_budget=self._budget(task),
            auto=options.head_budget is None,
            seconds=max(until - time.monotonic(), 1.0) if task.deadline_seconds else 0,
            data=options.data,
        )
        with self._progress.training(options.name, binding.round, task.plan.local_steps) as on_step:
            self._foreman.train(job, self._stop, until, on_step, partial(self._progress.paused, options.name))

    def _admit(self, task: pb.Task, manifest: Manifest) -> tuple[str, ...]:
        """What is downloaded beside what every device needs, with a shorter training graph if the budget has one."""
        files = self._equipment.runtimes.admit(manifest, self._equipment.onnxruntime)
        if task.plan.head_spread != pb.HEAD_SPREAD_TOP_LAYERS:
            return files
        if self._options.head_budget is None:  # it may turn out weaker, and they are small
            return (*files, *filter(TOP_GRAPH.fullmatch, manifest.files))
        layers = layers_for_budget(Spread.TOP_LAYERS, self._budget(task), len(manifest.adapter.layers))
        shorter = shortest_graph(manifest.files, layers)
        return files if shorter is None else (*files, shorter)

    def _budget(self, task: pb.Task) -> float:
        """Share of the heads that this device trains: its own, unless the server gave it less."""
        return min(self._options.head_budget or 1.0, task.head_budget or 1.0)

    def _fail(self, task: pb.Task, error: RavanError, *, gives_back: bool = True) -> None:
        """Raises TaskFailed, after the log and perhaps the server have been told.

        For room on a full disk, the client's or the worker's, a task waits until the round's deadline.
        """
        self._log.error("task failed", round=task.binding.round, code=error.code, reason=str(error))
        if gives_back and error.code != DiskFull.code:
            self._crashes = 0
            self._give_back(task.binding, error.code)
        raise TaskFailed(str(error)) from error

    def _deliver(self) -> None:
        """Uploads what is in the outbox, which leaves it with the receipt or with a refusal that is final.

        Raises:
            Refused: for a reason that may pass; it stays.
            TaskFailed: it was refused for good.
        """
        finished = self._desk.finished
        if finished is None:
            return
        binding = finished.header.binding
        if finished.header.device_id != self._client.device_id:
            self._log.warning("finished update dropped", round=binding.round, reason="this device has enrolled anew")
            self._desk.clear()
            return
        if not self._foreman.conditions.rules.allow_uploads:
            self._progress.uploading(self._options.name, binding.round, METERED)
            return
        self._progress.uploading(self._options.name, binding.round)
        try:
            self._courier.send(finished)
        except NotLetIn:
            raise
        except Refused as error:
            self._refused(binding, error)
            return
        reached("update-sent")
        self._settle(finished)

    def _settle(self, finished: Finished) -> None:
        self._desk.settle(finished)
        header = finished.header
        self._progress.uploaded(self._options.name, header.binding.round, header.size, header.report.last_loss)

    def _refused(self, binding: pb.Binding, error: Refused) -> None:
        """After a refusal in a task: returns if the next task may be asked for soon.

        Raises:
            Refused: it may pass.
            TaskFailed: the task came to nothing.
        """
        if error.code in PASSING:
            raise error
        self._log.warning("refused", round=binding.round, code=error.code, reason=str(error))
        if error.code in LATE:
            self._desk.clear()
            self._stop.wait(self._jitter.uniform(0, LATE_SECONDS))
            return
        if error.code in OVER:
            self._desk.clear()
        else:
            self._give_back(binding, error.code)
        raise TaskFailed(str(error)) from error

    def _give_back(self, binding: pb.Binding, code: str) -> None:
        self._desk.clear()
        try:
            self._client.report_failure(binding, code, WITHHELD)
        except Refused as error:
            self._log.warning("refused", code=error.code, reason=str(error))

    def _capabilities(self) -> pb.Capabilities:
        equipment, own = self._equipment, self._options.head_budget
        known = all_known(self._home.folder) if own is None else {}
        times = [(each, *time) for each, strength in known.items() for time in strength.times.items()]
        return pb.Capabilities(
            cores=equipment.cores,
            memory_bytes=equipment.memory_bytes,
            machine=platform.machine(),
            software=equipment.software,
            head_budget=own or 1.0,
            wire_formats=equipment.wire_formats,
            head_spreads=equipment.head_spreads,
            available_memory=next(filter(None, (strength.memory for strength in reversed(known.values()))), 0),
            step_times=[pb.StepTime(bundle_id=b, depth=d, seconds_per_example=s) for b, d, s in times[-MOST_TIMES:]],
        )


def _without_deadline(task: pb.Task) -> bytes:
    """The bytes of a task, the same whenever in its round it is given."""
    same = pb.Task()
    same.CopyFrom(task)
    same.ClearField("deadline_seconds")
    return same.SerializeToString(deterministic=True)
