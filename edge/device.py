"""A device's loop: check in -> (bundle) -> adapter -> pick heads -> train -> upload -> sleep."""

import hashlib
import os
import platform
import random
import threading
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import structlog

import ravan
from edge.enrollment import rotate_if_due
from edge.errors import NotLetIn, Refused, Stopped, TaskFailed
from edge.fleet_client import FleetClient
from edge.held_out import split
from edge.home import Home
from edge.progress import Progress
from edge.training import LocalRun, mini_batches, run_generator, train_locally
from edge.vouched import require_signed_bundle
from edge.workshop import Workshop
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.cli.errors import explain_os_error
from ravan.errors import DataError, MalformedUpdate, RavanError
from ravan.rpc.plan import WIRE_FORMATS, TrainingPlan, plan_from_proto
from ravan.runtime.dataset import MakeDataset
from ravan.runtime.examples import Examples, read_examples
from ravan.update import Update, decode, largest_size
from ravan.wire import WireFormat, pack

LONGEST_WAIT = 60.0  # seconds, after failures in a row
OVER = {"too-stale", "stale-round", "future-round", "round-closed", "not-selected", "conflict", "not-found"}
"""Refusals after which there is no part to give back."""
LATE = {"too-stale", "stale-round", "round-closed"}
"""Those of them that say nothing against the device: it asks for the next task soon, or hears that the run is over."""
LATE_SECONDS = 0.5
WITHHELD = "The device's own log says why."
"""What the server is told beside the code: paths and what stands in the data never leave the device."""


@dataclass(frozen=True)
class DeviceOptions:
    """What makes one device: its data file, name, share of the heads, most tokens at a time (None: as the bundle).

    ``make`` reads the data where it is not in the form that the bundle's task has. The share ``held_out`` of the
    examples, chosen by ``seed``, is never trained on. A key older than ``key_days`` is replaced, 0 for never.
    """

    name: str
    data: Path
    head_budget: float = 1.0
    micro_batch: int | None = None
    skip_bad: bool = False
    until_finished: bool = False
    make: MakeDataset | None = None
    key_days: int = 0
    held_out: float = 0.0
    seed: int = 0


class Device:
    """One participant; runs on a thread of its own and shares home, workshop and display with its process."""

    def __init__(
        self,
        options: DeviceOptions,
        client: FleetClient,
        home: Home,
        workshop: Workshop,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._options = options
        self._client = client
        self._home = home
        self._workshop = workshop
        self._progress = progress
        self._stop = stop
        self._jitter = random.Random(client.device_id)  # noqa: S311 - spreads check-ins, hides nothing
        self._failures = 0
        self._data: tuple[str, Examples] | None = None
        self._log = structlog.get_logger().bind(device=options.name)

    def run(self) -> None:
        """Takes part until stopped or, if so set, until the run has finished.

        Raises:
            DataError: the data file is of no use; the server has been told.
            NotLetIn, NotTrusted: the server and this device have nothing to say to one another.
        """
        while not self._stop.is_set():
            try:
                rotate_if_due(self._home.identities, self._client, self._options.key_days)
                answer = self._client.check_in(self._options.name, self._capabilities())
                if answer.HasField("task"):
                    self._do(answer.task)
                    self._failures = 0
                    continue
            except NotLetIn:
                raise
            except Refused as error:
                self._log.warning("refused", code=error.code, reason=str(error))
                self._back_off()
                continue
            except TaskFailed:
                self._back_off()
                continue
            wait = answer.wait
            if wait.reason == pb.WAIT_REASON_RUN_FINISHED and self._options.until_finished:
                self._log.info("run finished")
                return
            self._progress.waiting(self._options.name, wait.reason)
            self._stop.wait(self._jitter.uniform(wait.min_seconds, max(wait.min_seconds, wait.max_seconds)))

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
        try:
            require_signed_bundle(self._client.identity, task)
            wanted = self._workshop.runtimes.optional_files
            bundle = self._home.bundle(self._client, task.binding.bundle_id, wanted)
            plan = plan_from_proto(task.plan)
            with self._workshop.turn:
                base = self._base(task, bundle)
                local = self._train(task, plan, bundle, base)
            self._upload(task, plan, bundle, base, local)
        except (Stopped, NotLetIn):
            raise
        except DataError as error:
            self._give_back(task, error.code)
            raise
        except Refused as error:
            self._log.warning("refused", round=task.binding.round, code=error.code, reason=str(error))
            if error.code in LATE:
                self._stop.wait(self._jitter.uniform(0, LATE_SECONDS))
                return
            if error.code not in OVER:
                self._give_back(task, error.code)
            raise TaskFailed(str(error)) from error
        except RavanError as error:
            self._log.error("task failed", round=task.binding.round, code=error.code, reason=str(error))
            self._give_back(task, error.code)
            raise TaskFailed(str(error)) from error
        except OSError as error:
            explained = explain_os_error(error)
            self._log.error("task failed", round=task.binding.round, code=explained.code, reason=str(explained))
            self._give_back(task, explained.code)
            raise TaskFailed(str(explained)) from error

    def _base(self, task: pb.Task, bundle: Bundle) -> Update:
        """The adapter that the round starts from."""
        spec = bundle.manifest.adapter
        received = self._client.fetch_adapter(task.binding, largest_size(spec))
        if hashlib.sha256(received).hexdigest() != task.binding.base_adapter:
            raise MalformedUpdate("The adapter does not match its sha256: ask the operator to look at the server.")
        return decode(spec, received)

    def _train(self, task: pb.Task, plan: TrainingPlan, bundle: Bundle, base: Update) -> LocalRun:
        binding, spec, examples = task.binding, bundle.manifest.adapter, self._examples(bundle)
        trainer = self._workshop.step(bundle)
        generator = run_generator(plan, binding.round, self._client.device_id)
        prepared = self._workshop.prepared(bundle, examples)
        tokens = bundle.manifest.micro_batch if self._options.micro_batch is None else self._options.micro_batch
        batches = mini_batches(prepared, plan.batch_size, tokens, generator)
        with self._progress.training(self._options.name, binding.round, plan.local_steps) as show:

            def on_step(step: int, loss: float) -> None:
                if self._stop.is_set():
                    raise Stopped("The client is stopping: the task waits for it until the round's deadline.")
                show(step, loss)

            return train_locally(trainer, spec, base, batches, plan, self._options.head_budget, generator, on_step)

    def _upload(self, task: pb.Task, plan: TrainingPlan, bundle: Bundle, base: Update, local: LocalRun) -> None:
        """Sends what was trained; what its coding leaves out is kept once the server has the rest."""
        spec, kept = bundle.manifest.adapter, self._home.left_out(self._options.name, task.binding)
        packed = pack(spec, plan.wire, base, local.update, kept.read(spec))
        data = packed.data
        report = pb.TrainingReport(
            examples=len(self._examples(bundle)),
            steps=len(local.losses),
            first_loss=local.first_loss,
            last_loss=local.last_loss,
            seconds=local.seconds,
            heads_per_layer=local.heads_per_layer,
        )
        header = pb.UploadHeader(
            device_id=self._client.device_id,
            binding=task.binding,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            report=report,
        )
        self._client.upload(header, data)
        if plan.wire is not WireFormat.FP32:
            kept.write(spec, packed.left_out)
        self._progress.uploaded(self._options.name, task.binding.round, len(data), local.last_loss)

    def _give_back(self, task: pb.Task, code: str) -> None:
        try:
            self._client.report_failure(task.binding, code, WITHHELD)
        except Refused as error:
            self._log.warning("refused", code=error.code, reason=str(error))

    def _examples(self, bundle: Bundle) -> Examples:
        """The data read with the bundle's settings; kept while the bundle stays the same."""
        if self._data is None or self._data[0] != bundle.manifest.bundle_id:
            options = self._options
            examples = read_examples(bundle, options.data, skip_bad=options.skip_bad, make=options.make)
            if options.held_out:
                examples, _ = split(examples, options.held_out, options.seed)
            self._log.info("data read", examples=len(examples), skipped=examples.skipped)
            self._data = bundle.manifest.bundle_id, examples
        return self._data[1]

    def _capabilities(self) -> pb.Capabilities:
        beside = self._workshop.runtimes.beside
        return pb.Capabilities(
            cores=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            machine=platform.machine(),
            software=f"ravan-fl {ravan.__version__}, onnxruntime {onnxruntime.__version__}{beside}",
            head_budget=self._options.head_budget,
            wire_formats=list(WIRE_FORMATS.values()),
        )
