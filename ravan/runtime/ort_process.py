"""The process that runs onnxruntime-training: loads a bundle's artifacts and answers until the other end is gone.

``ravan.runtime.ort_training`` is that other end. With ``--version`` it tells what is installed instead.

``onnxruntime.training`` imports torch where it is installed and fails where it is not. With an empty package in its
place, the modules below it can be imported, and ``onnxruntime.training.api`` needs numpy alone (seen with 1.19.2).
"""

import importlib
import json
import signal
import sys
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import ravan
from ravan.bundle_files import CHECKPOINT, EVAL_MODEL, TRAINING_MODEL
from ravan.layout import tensors
from ravan.runtime.channel import Channel, Message
from ravan.runtime.memory import peak_memory
from ravan.runtime.names import GRADIENTS, LABELS, LOSS, TRAINABLES
from ravan.runtime.session import RuntimeOptions, first_line, session_settings
from ravan.spec import AdapterSpec

PACKAGE = "onnxruntime.training"


def import_training(name: str) -> Any:
    """A module of ``onnxruntime.training``, without torch.

    Raises:
        ImportError: onnxruntime without training is installed.
    """
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
        sys.modules[PACKAGE] = package
        sys.modules[f"{PACKAGE}.ortmodule"] = None  # type: ignore[assignment] # or it is found and imports torch
    return importlib.import_module(f"{PACKAGE}.{name}")


class Artifacts:
    """A bundle's training model and checkpoint, and its eval model if that is wanted."""

    def __init__(self, folder: Path, spec: AdapterSpec, options: RuntimeOptions, *, evaluates: bool) -> None:
        api = import_training("api")
        self._spec, self._evaluates = spec, evaluates
        self._state = api.CheckpointState.load_checkpoint(str(folder / CHECKPOINT))
        self._module = api.Module(
            str(folder / TRAINING_MODEL),
            self._state,
            str(folder / EVAL_MODEL) if evaluates else None,
            device="cpu",
            session_options=session_settings(options),
        )
        self.inputs: list[str] = self._module.input_names()

    def train(self, request: Message) -> Message:
        """Loss and gradients of one batch, at flat trainables."""
        self._module.train()
        self._module.lazy_reset_grad()  # or gradients add up
        loss = self._run(request)
        names = tensors(self._spec, request.arrays[TRAINABLES])
        gradients = np.concatenate([self._state.parameters[name].grad.ravel() for name in names])
        return Message({LOSS: loss}, {GRADIENTS: gradients})

    def evaluate(self, request: Message) -> Message:
        """The eval model's loss of one batch, at flat trainables."""
        if not self._evaluates:
            raise ValueError("no eval model is loaded")  # the runtime would end the process
        self._module.eval()
        return Message({LOSS: self._run(request)})

    def _run(self, request: Message) -> float:
        for name, value in tensors(self._spec, request.arrays[TRAINABLES]).items():
            self._state.parameters[name] = value
        feed = {**request.arrays, LABELS: _in_a_row(request.arrays[LABELS])}
        outputs = self._module(*(feed[name] for name in self.inputs))
        return float(outputs[0] if isinstance(outputs, tuple) else outputs)


def serve(channel: Channel) -> None:
    """Answers requests in their order, an error with its first line, until the other end is gone."""
    artifacts: Artifacts | None = None
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        try:
            if artifacts is None:
                artifacts = _load(**request.values)
                answer = Message({"inputs": artifacts.inputs})
            else:
                answer = artifacts.evaluate(request) if request.values["evaluate"] else artifacts.train(request)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            answer = Message({"error": first_line(error)})
        channel.send(Message({**answer.values, "peak_memory": peak_memory()}, answer.arrays))


def _load(folder: str, spec: dict[str, Any], options: dict[str, Any], evaluates: bool) -> Artifacts:  # noqa: FBT001
    return Artifacts(Path(folder), AdapterSpec.from_dict(spec), RuntimeOptions(**options), evaluates=evaluates)


def _in_a_row(labels: NDArray[Any]) -> NDArray[Any]:
    """Class indices as the artifacts' cross entropy takes them; values as they are."""
    return labels if labels.dtype.kind == "f" else labels.reshape(-1)


def _main() -> None:
    if sys.argv[1] == "--version":
        import_training("api")
        sys.stdout.write(json.dumps({"ravan-fl": ravan.__version__, "onnxruntime-training": onnxruntime.__version__}))
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the client too, whose end is the end of this process
        signal.signal(number, signal.SIG_IGN)
    onnxruntime.set_default_logger_severity(3)
    serve(Channel(Connection(int(sys.argv[1]))))


if __name__ == "__main__":
    _main()
