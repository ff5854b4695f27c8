"""The worker: the process that trains. It does the client's jobs one by one, and ends when the client does.

A job is one local run: it opens the bundle, reads the data, trains with a checkpoint now and then, and leaves the
packed update in the outbox. Sessions and examples are kept for the next job; all memory is gone once the process is.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import IO, Any

import numpy as np
import onnxruntime
import structlog

from edge.checkpoint import Checkpoints, run_key, stamp
from edge.desk import CHECKPOINT
from edge.errors import Stopped
from edge.held_out import split
from edge.job import FAILED, FINISHED, STEP, STOPPED, WORKER_LOCK, DataOptions, Job, WorkerSettings, from_dict
from edge.packing import keep_finished
from edge.priority import limit_memory, lower
from edge.quota import CACHE, MEGABYTE, Quota
from edge.runtimes import Runtime, Runtimes
from edge.training import MiniBatches, Standing, run_generator, train_locally
from edge.trial import learn, seconds_per_example, share_of
from edge.workshop import Workshop
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import PREFIX, WEIGHTS, Bundle, Manifest, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.cli.errors import explain_os_error
from ravan.cli.logs import configure_logs
from ravan.errors import EnvironmentProblem, MalformedUpdate, RavanError
from ravan.faults import reached
from ravan.files import lock_folder
from ravan.rpc.plan import plan_from_proto
from ravan.runtime.dataset import find_dataset
from ravan.runtime.examples import Examples, read_examples
from ravan.runtime.memory import available_memory
from ravan.runtime.session import RuntimeOptions
from ravan.spread import layers_for_budget
from ravan.update import Update, decode

log = structlog.get_logger()
LEAST_SECONDS = 0.1  # between two events of one run
DEFECT = "defect"


class Worker:
    """Does jobs for the client at the other end of two pipes.

    Attributes:
        stopping: the client wants the run to stop at its next step.
    """

    def __init__(self, settings: WorkerSettings, events: IO[str]) -> None:
        self.stopping = threading.Event()
        self._settings, self._events = settings, events
        options = RuntimeOptions(settings.threads, settings.spinning, settings.mapped)
        runtimes = Runtimes(Runtime(settings.wanted), settings.ort_python)
        room = Quota(settings.home, settings.disk_mb * MEGABYTE).room_for_cache(settings.cache_mb << 20)
        self._workshop = Workshop(options, settings.home / CACHE, room, runtimes, settings.memory_mb << 20)
        self._bundle: Bundle | None = None
        self._examples: dict[tuple[str, DataOptions, str], Examples] = {}

    def do(self, job: Job) -> None:
        """One job, to its last event."""
        try:
            self._train(job)
            self._say(event=FINISHED)
        except Stopped:
            self._say(event=STOPPED)
        except RavanError as error:
            self._say(event=FAILED, code=error.code, reason=str(error))
        except MemoryError:
            problem = EnvironmentProblem("The local run took more memory than it may: free some, or raise --memory-mb.")
            self._say(event=FAILED, code=problem.code, reason=str(problem))
        except OSError as error:
            explained = explain_os_error(error)
            self._say(event=FAILED, code=explained.code, reason=str(explained))
        except Exception as error:
            log.exception("defect")
            self._say(event=FAILED, code=DEFECT, reason=f"A defect of ravan-edge ({error!r}): please report the log.")

    def close(self) -> None:
        """Lets go of sessions."""
        self._workshop.close()

    def _train(self, job: Job) -> None:
        task = pb.Task.FromString(job.task)
        bundle, plan, binding = self._opened(job), plan_from_proto(task.plan), task.binding
        spec, base = bundle.manifest.adapter, _base(job, bundle)
        examples = self._data(job, bundle)
        generator = run_generator(plan, binding.round, job.device_id)
        prepared = self._workshop.prepared(bundle, examples)
        key = run_key(task=job.task.hex(), device=job.device_id, data=job.data, files=stamp(job.data.data),
                      heads=job.head_budget)  # fmt: skip

        def measure(tokens: int) -> float:
            parts = next(MiniBatches(prepared, plan.batch_size, tokens, np.random.default_rng(0)))
            return seconds_per_example(self._workshop.step(bundle), base.trainables(spec), parts, plan.batch_size)

        share = share_of(job, key, bundle.manifest, plan, self._settings.home, measure)
        step = self._workshop.step(bundle, layers_for_budget(plan.head_spread, share.head_budget, len(spec.layers)))
        batches = MiniBatches(prepared, plan.batch_size, share.tokens, generator)
        seconds = self._settings.checkpoint_seconds
        watcher = _Watcher(self, Checkpoints(job.desk / CHECKPOINT, key, spec, batches, generator, seconds))
        run = train_locally(
            step, spec, base, batches, plan, share.head_budget, generator, watcher.on_step, keeper=watcher
        )
        learn(self._settings.home, bundle.manifest, plan, share, watcher.step_seconds)
        keep_finished(job, task, spec, plan.wire, base, run, len(examples))
        reached("run-kept")

    def say_step(self, step: int, loss: float) -> None:
        """Tells the client how far the run is."""
        self._say(event=STEP, step=step, loss=loss)

    def _say(self, **event: object) -> None:
        self._events.write(json.dumps(event) + "\n")
        self._events.flush()

    def _opened(self, job: Job) -> Bundle:
        """The job's bundle, every file of it checked before a session is made of it."""
        if self._bundle is None or self._bundle.folder != job.bundle:
            self._examples.clear()
            self._workshop.close()
            self._bundle = open_bundle(job.bundle, may_lack=OPTIONAL)
            limit_memory(self._settings.memory_mb << 20 or available_memory(), mapped_bytes(self._bundle.manifest))
        return self._bundle

    def _data(self, job: Job, bundle: Bundle) -> Examples:
        """The data read with the bundle's settings; kept while both stay the same."""
        options = job.data
        key = bundle.manifest.bundle_id, options, stamp(options.data)
        if key not in self._examples:
            make = find_dataset(options.dataset) if options.dataset else None
            examples = read_examples(bundle, options.data, skip_bad=options.skip_bad, make=make)
            if options.held_out:
                examples, _ = split(examples, options.held_out, options.seed)
            log.info("data read", device=job.name, examples=len(examples), skipped=examples.skipped)
            self._examples[key] = examples
        return self._examples[key]


class _Watcher:
    """After every step: a checkpoint if it is time, a word to the client, and the end if the client wants it."""

    def __init__(self, worker: Worker, checkpoints: Checkpoints) -> None:
        self._worker, self._checkpoints = worker, checkpoints
        self._said, self._began = 0.0, time.monotonic()
        self.step_seconds: list[float] = []
        self._standing: Any = None

    def begun(self) -> Standing | None:
        """As ``Keeper.begun``."""
        return self._checkpoints.begun()

    def keep(self, standing: Any) -> None:
        """As ``Keeper.keep``."""
        self._standing = standing
        self._checkpoints.keep(standing)

    def on_step(self, step: int, loss: float) -> None:
        """Raises Stopped once the client wants it, with a checkpoint."""
        reached("step-done")
        now = time.monotonic()
        self.step_seconds.append(now - self._began)
        self._began = now
        if self._worker.stopping.is_set():
            self._checkpoints.write(self._standing())
            raise Stopped("The client is stopping.")
        if now - self._said > LEAST_SECONDS:
            self._said = now
            self._worker.say_step(step, loss)


def mapped_bytes(manifest: Manifest) -> int:
    """Bytes of weights that the bundle's sessions map, which the system can drop at any time."""
    return manifest.files[WEIGHTS].size * (2 if PREFIX in manifest.files else 1)


def _base(job: Job, bundle: Bundle) -> Update:
    """The adapter that the round starts from.

    Raises:
        MalformedUpdate: it does not carry every head.
    """
    base = decode(bundle.manifest.adapter, job.base.read_bytes())
    if not base.heads.all():
        raise MalformedUpdate("The round's adapter lacks heads: ask the operator to look at the server.")
    return base


def main() -> None:
    """Works for the process at the other end of standard input and output, with the settings it sends first.

    Whatever else is printed, as by a user's dataset, goes to standard error.
    """
    configure_logs()
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    commands = os.fdopen(os.dup(0), "r")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    first = commands.readline()
    if not first:
        return
    settings = from_dict(WorkerSettings, json.loads(first))
    lower(settings.priority)
    onnxruntime.set_default_logger_severity(3)
    with closing(lock_folder(settings.home, "worker", WORKER_LOCK)), closing(Worker(settings, events)) as worker:
        jobs: list[Job] = []
        there = threading.Condition()
        threading.Thread(target=_listen, args=(commands, worker, jobs, there), daemon=True).start()
        while True:
            with there:
                there.wait_for(lambda: jobs)
                job = jobs.pop()
            worker.do(job)


def _listen(commands: IO[str], worker: Worker, jobs: list[Job], there: threading.Condition) -> None:
    """Hands on what the client sends; its end is the end of this process, wherever that is."""
    for line in commands:
        message: Mapping[str, Any] = json.loads(line)
        if message.get("stop"):
            worker.stopping.set()
            continue
        with there:
            jobs.append(Job.from_dict(message))
            there.notify()
    sys.stderr.flush()
    os._exit(0)
