"""Training with the official artifacts and onnxruntime-training, in a process of its own.

The runtime ends its whole process over a label out of range or a missing model, and takes what is not a number in
silence. So whatever can be checked is checked before it is called, and whatever it does still costs one local run and
not the client. A process of its own also lets a client keep a newer onnxruntime: the two install the same import
package and can't share an environment.
"""

import importlib.util
import json
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ravan
from ravan.artifacts import require_artifacts
from ravan.bundle import Bundle, Manifest
from ravan.bundle_files import ARTIFACTS
from ravan.errors import DataError, EnvironmentProblem, RuntimeProblem
from ravan.layout import Vector
from ravan.processes import last_line
from ravan.runtime.channel import Channel, Message
from ravan.runtime.checks import check_batch, check_labels
from ravan.runtime.names import GRADIENTS, IGNORED, LABELS, LOSS, TRAINABLES
from ravan.runtime.operators import check_graphs
from ravan.runtime.session import Batch, RuntimeOptions, StepResult
from ravan.spec import AdapterSpec

VERSION = "1.19.2"
"""The last onnxruntime-training there is."""
ADVICE = "make an environment with 'ravan-fl[ort-training]' and give its Python as --ort-training-python"
_PROCESS = "ravan.runtime.ort_process"
END_SECONDS = 10.0


def find_python(given: Path | None) -> Path | None:
    """A Python that may have onnxruntime-training: the given one, or this one if it is installed here."""
    if given is not None:
        return given
    found = importlib.util.find_spec("onnxruntime")
    here = found is not None and found.origin is not None and Path(found.origin).with_name("training").is_dir()
    return Path(sys.executable) if here else None


def require_python(given: Path | None) -> Path:
    """A Python that has onnxruntime-training, asked whether it does.

    Raises:
        EnvironmentProblem: there is none, or it has another version than this program works with.
    """
    python = find_python(given)
    if python is None:
        raise EnvironmentProblem(
            f"onnxruntime-training {VERSION} is not installed here, and can't be beside onnxruntime: {ADVICE}."
        )
    try:
        done = subprocess.run(
            [str(python), "-P", "-m", _PROCESS, "--version"], capture_output=True, text=True, check=False
        )
        found = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"{python} can't be run ({error}): {ADVICE}.") from error
    if not found:
        raise EnvironmentProblem(f"{python} has no onnxruntime-training ({last_line(done.stderr)}): {ADVICE}.")
    wanted = {"ravan-fl": ravan.__version__, "onnxruntime-training": VERSION}
    for name, version in wanted.items():
        if found.get(name) != version:
            raise EnvironmentProblem(f"{python} has {name} {found.get(name)}, and {version} is needed: install that.")
    return python


class OrtFailure(Exception):
    """onnxruntime-training refuses what it was given, or its process has ended; says which."""


class OrtProcess:
    """A process with the artifacts below a bundle's folder; used by one thread at a time.

    Attributes:
        inputs: names of the training model's inputs, the trainables left out.
        peak_memory: the largest resident size of the process until its last answer, bytes.

    Raises:
        OrtFailure: the process can't be started, or the runtime refuses the artifacts.
    """

    def __init__(
        self, python: Path, folder: Path, spec: AdapterSpec, options: RuntimeOptions, *, evaluates: bool = False
    ) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.peak_memory = 0
        here, there = Pipe()
        self._channel = Channel(here)
        with there:
            self._process = self._begin(python, there.fileno())
        load = {"folder": str(folder), "spec": spec.to_dict(), "options": asdict(options), "evaluates": evaluates}
        try:
            self.inputs = frozenset(map(str, self._ask(Message(load)).values["inputs"]))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def train(self, trainables: Vector, batch: Batch) -> tuple[float, Vector]:
        """Loss and gradients, flat like the trainables, of one checked batch.

        Raises:
            OrtFailure: the runtime refuses, or its process has ended.
        """
        answer = self._ask(Message({"evaluate": False}, self._arrays(trainables, batch)))
        return float(answer.values[LOSS]), answer.arrays[GRADIENTS]

    def evaluate(self, trainables: Vector, batch: Batch) -> float:
        """The loss of one checked batch by the eval model.

        Raises:
            OrtFailure: the runtime refuses, or its process has ended.
        """
        return float(self._ask(Message({"evaluate": True}, self._arrays(trainables, batch))).values[LOSS])

    def close(self) -> None:
        """Ends the process, which is at rest or gone."""
        self._channel.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()

    def _begin(self, python: Path, end: int) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                [str(python), "-P", "-m", _PROCESS, str(end)],
                pass_fds=[end],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
            )
        except OSError as error:  # no memory for another process, or the environment is gone since it was asked
            self._channel.close()
            self._words.close()
            raise OrtFailure(f"its process can't be started: {error}") from error

    def _arrays(self, trainables: Vector, batch: Batch) -> Batch:
        return {TRAINABLES: trainables, **{name: array for name, array in batch.items() if name in self.inputs}}

    def _ask(self, request: Message) -> Message:
        try:
            self._channel.send(request)
            answer = self._channel.receive()
        except (EOFError, OSError) as error:
            raise OrtFailure(f"its process ended: {self._end()}") from error
        if "error" in answer.values:
            raise OrtFailure(answer.values["error"])
        self.peak_memory = int(answer.values["peak_memory"])
        return answer

    def _end(self) -> str:
        """How the process ended: its last words, or the signal."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "no answer"
        self._words.seek(0)
        words = last_line(self._words.read().decode("utf-8", "replace"))
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{ended}, {words}" if words else ended


class OrtTrainStep:
    """The artifacts' training step, as ``TrainStep`` is train.onnx's; after a crash the next call starts anew.

    Raises:
        BundleError: the bundle has no artifacts, or operators in them that no bundle may have.
        RuntimeProblem: the runtime can't be started, or refuses them.
    """

    def __init__(self, bundle: Bundle, options: RuntimeOptions, python: Path) -> None:
        require_artifacts(bundle)
        check_graphs(bundle, ARTIFACTS)
        self._bundle, self._options, self._python = bundle, options, python
        self._process: OrtProcess | None = None
        self._running()

    def __call__(self, trainables: Vector, batch: Batch) -> StepResult:
        """One forward and backward pass; ``trainables`` and the gradients are flat, in the spec's order.

        Raises:
            DataError: the batch does not fit the model's inputs, or holds labels out of range or what is no number.
            RuntimeProblem: the runtime refuses the batch or has crashed.
        """
        manifest, process = self._bundle.manifest, self._running()
        check_batch(manifest, batch, process.inputs)
        check_labels(manifest, batch)
        check_numbers(batch, process.inputs)
        try:
            loss, gradients = process.train(trainables, batch)
        except OrtFailure as error:
            self.close()
            raise _problem(error) from error
        return StepResult(loss, weight_of(manifest, batch[LABELS]), gradients)

    @property
    def pid(self) -> int | None:
        """Of the process; None after a failure, until the next call."""
        return self._process.pid if self._process else None

    @property
    def peak_memory(self) -> int:
        """The largest resident size of the running process until its last answer, bytes."""
        return self._process.peak_memory if self._process else 0

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _running(self) -> OrtProcess:
        """The process; begun anew after a failure."""
        if self._process is None:
            folder, spec = self._bundle.folder, self._bundle.manifest.adapter
            try:
                self._process = OrtProcess(self._python, folder, spec, self._options)
            except OrtFailure as error:
                raise _problem(error) from error
        return self._process


def check_numbers(batch: Batch, taken: Iterable[str]) -> None:
    """Refuses what the runtime would take in silence.

    Raises:
        DataError: an input is missing or not finite.
    """
    for name in sorted(taken):
        if name not in batch or not np.isfinite(batch[name]).all():
            raise DataError(f"Input {name} is {'not finite' if name in batch else 'missing'}: leave such examples out.")


def weight_of(manifest: Manifest, labels: NDArray[Any]) -> float:
    """How many labels stand behind a mean loss; of float labels, how many examples or positions (as train.onnx)."""
    if labels.dtype.kind != "f":
        return float(np.count_nonzero(labels != IGNORED))
    (described,) = (x for x in manifest.inputs if x.name == LABELS)
    return labels.size / math.prod(size for size in described.shape if isinstance(size, int))


def _problem(error: OrtFailure) -> RuntimeProblem:
    return RuntimeProblem(
        f"onnxruntime-training failed ({error}): use smaller batches, free memory, or use --runtime onnxruntime."
    )
