"""Nothing leaves a device but the messages that the protocol declares, and nothing of its data in any disguise."""

import hashlib
import platform
import re
import socket
import threading
import zlib
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tokenizers import Tokenizer

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.bundle import Bundle
from ravan.update import decode
from tests.conftest import sentences, write_rows
from tests.e2e.disguises import disguises, numbers, unpacked
from tests.e2e.processes import FAST, Fleet
from tests.e2e.wiretap import REQUESTS, Call, Wiretap, remote_ends, strings, undeclared

CANARIES = ("Zebrafinch-Quokka-7f3a91", "wombat.example.invalid", "Ökonomie-Geheimnis-4711")
"""Private texts: a name in the data, a folder's, and one that is not ASCII."""
SENTENCE = "apple old hammer near horse far pear small"
FOLDER = "the-diary-of-canary-Numbat"
UPLOAD, FAILURE = "/ravan.v1.Fleet/UploadUpdate", "/ravan.v1.Fleet/ReportFailure"
SAID = (
    r"[0-9a-f]{12}|[0-9a-f]{32}|[0-9a-f]{64}",  # ids and hashes
    r"phone",
    re.escape(platform.machine()),
    r"ravan-fl [\w.]+, onnxruntime [\w.]+(, onnxruntime-training [\w.]+)?",
    r"manifest\.json|initial\.ravan|[a-z]+\.(onnx|bin|json)",
    r"bad-data|The device's own log says why\.",
)
HEADERS = {
    ":method": r"POST",
    ":scheme": r"http",
    ":path": r"/ravan\.v1\.(Fleet|Enrollment)/\w+",
    ":authority": r"127\.0\.0\.1:\d+",
    "te": r"trailers",
    "content-type": r"application/grpc",
    "user-agent": r"grpc-python/[\w.]+ grpc-c/[\w.]+ \(linux; chttp2\)",
    "grpc-accept-encoding": r"[a-z, ]+",
    "grpc-timeout": r"\d+[HMSmun]",
}


@contextmanager
def tapped(fleet: Fleet) -> Iterator[Wiretap]:
    """Devices that are started meanwhile reach the server through the tap."""
    with closing(Wiretap(fleet.port)) as tap:
        fleet.port = tap.port
        yield tap


def rows() -> list[dict[str, str]]:
    mine = [{"text": f"{SENTENCE} {canary}", "label": "fruit"} for canary in CANARIES]
    return [*mine, *sentences(30, 5)] * 2


@contextmanager
def watched(pid: int) -> Iterator[set[str]]:
    """Every place that a process and its children are connected to meanwhile."""
    from edge.machine import family

    found, over = set[str](), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in family(pid):
                found.update(remote_ends(process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def secrets(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """All that must not be found, with what it is."""
    texts = [*CANARIES, SENTENCE, FOLDER, "private-diary"]
    if len(socket.gethostname()) > 5:
        texts.append(socket.gethostname())
    for text in texts:
        for how, coded in disguises(text):
            yield f"{text} as {how}", coded
    ids = Tokenizer.from_file(str(bundle.path("tokenizer.json"))).encode(SENTENCE).ids
    for how, coded in numbers(ids, "token ids as "):
        yield how, coded


def leaks(tap: Wiretap, bundle: Bundle) -> list[str]:
    """What of the data is in anything that was sent: in the raw bytes, and in the messages put together."""
    streams = [bytes(sent) for sent in tap.sent]
    streams += [b"".join(data for data, _ in call.messages()) for call in tap.calls()]
    streams += [b"".join(m.data for _, m in call.messages() if m.data) for call in tap.calls() if call.path == UPLOAD]
    streams += ["\n".join(map(str, call.headers)).encode() for call in tap.calls()]
    streams += [plain for stream in list(streams) for plain in unpacked(stream)]
    return [what for what, coded in secrets(bundle) for stream in streams if coded in stream]


def unsaid(calls: list[Call]) -> list[str]:
    """What was sent that the protocol does not declare, or that says something else than it should."""
    problems = []
    for call in calls:
        for name, value in call.headers:
            if not re.fullmatch(HEADERS.get(name, r"(?!)"), value):
                problems.append(f"header {name}: {value}")
        for data, message in call.messages():
            problems += filter(None, [undeclared(data, message)])
            for field, text in strings(message):
                if not any(re.fullmatch(form, text) for form in SAID):
                    problems.append(f"{field}: {text}")
    return problems


def uploads(calls: list[Call]) -> list[tuple[pb.UploadHeader, bytes]]:
    found = []
    for call in calls:
        if call.path == UPLOAD:
            (_, first), *rest = call.messages()
            assert all(message.WhichOneof("part") == "data" for _, message in rest)
            found.append((first.header, b"".join(message.data for _, message in rest)))
    return found


def test_what_leaves_a_device_is_what_is_declared_and_nothing_of_its_data(
    fleet: Fleet, bundle: Bundle, bundle_folder: Path
) -> None:
    server = fleet.serve("--until-finished")
    fleet.create(bundle_folder, rounds=2, clients_per_round=1, local_steps=8, **FAST)
    (fleet.folder / FOLDER).mkdir()
    data = write_rows(fleet.folder / FOLDER / "private-diary.jsonl", rows())
    with tapped(fleet) as tap:
        device = fleet.device("device", data, options=("--name", "phone", "--heads", "0.5"))
        with watched(device.pid) as ends:
            fleet.finished()
        assert server.wait(30) == 0
        calls = tap.calls()
        assert {call.path.rpartition("/")[2] for call in calls} == {
            *("CheckIn", "FetchBundle", "FetchAdapter", "UploadUpdate"),
        }
        assert unsaid(calls) == []
        assert leaks(tap, bundle) == []
        assert ends == {f"127.0.0.1:{tap.port}"}
        sent = uploads(calls)
        assert len(sent) == 2
        for header, update in sent:  # the bytes are one update to the last, with nothing before, between or after
            assert hashlib.sha256(update).hexdigest() == header.sha256
            assert 0 < decode(bundle.manifest.adapter, update).heads.sum() < bundle.manifest.adapter.s_size


def test_data_that_is_of_no_use_is_told_by_a_code_alone(fleet: Fleet, bundle: Bundle, bundle_folder: Path) -> None:
    """The client's own log quotes the line; the server hears no word of it."""
    fleet.serve()
    fleet.create(bundle_folder, rounds=1, clients_per_round=1, local_steps=8, **FAST)
    (fleet.folder / FOLDER).mkdir()
    bad = [*rows(), {"text": f"{SENTENCE} {CANARIES[0]}", "label": CANARIES[1]}]
    data = write_rows(fleet.folder / FOLDER / "private-diary.jsonl", bad)
    with tapped(fleet) as tap:
        assert fleet.device("device", data, options=("--name", "phone")).wait(60) == 3
        assert CANARIES[1] in fleet.log("device")
        calls = tap.calls()
        assert [call.path for call in calls].count(FAILURE) == 1
        assert unsaid(calls) == []
        assert leaks(tap, bundle) == []


class TakesAnything(grpc.GenericRpcHandler):
    """Reads whatever it is sent, to the end."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        def behavior(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for _ in messages:
                pass
            yield b""

        return grpc.stream_stream_rpc_method_handler(behavior)


@pytest.fixture
def anything() -> Iterator[int]:
    """The port of a server that refuses nothing."""
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[TakesAnything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def test_the_tap_would_see_a_leak(anything: int, bundle: Bundle) -> None:
    """Each of these is found by what the tests above hold empty; an honest call is not."""
    name, device = CANARIES[0], "0" * 32
    honest = pb.CheckInRequest(device_id=device, name="phone").SerializeToString()
    hidden = honest + b"\x7a" + bytes([len(name)]) + name.encode()  # field 15, which no definition has
    other = pb.CheckInRequest(device_id=device, name="anna's").SerializeToString()
    coded = zlib.compress(f"{SENTENCE} {name}".encode())
    parts = [pb.UploadUpdateRequest(data=piece) for piece in (coded[:20], coded[20:])]
    upload = [pb.UploadUpdateRequest(header=pb.UploadHeader(device_id=device)), *parts]
    cases: list[tuple[str, list[bytes], tuple[tuple[str, str], ...], bool, bool]] = [
        ("CheckIn", [honest], (), False, False),
        ("CheckIn", [hidden], (), True, True),
        ("CheckIn", [honest], (("x-note", name.encode().hex()),), True, True),
        ("CheckIn", [other], (), True, False),
        ("UploadUpdate", [message.SerializeToString() for message in upload], (), False, True),
    ]
    for method, bodies, metadata, is_unsaid, is_leak in cases:
        with closing(Wiretap(anything)) as tap, grpc.insecure_channel(f"127.0.0.1:{tap.port}") as channel:
            call: Any = channel.stream_stream(f"/ravan.v1.Fleet/{method}")
            list(call(iter(bodies), metadata=metadata, timeout=20))
            calls = tap.calls()
            assert (bool(unsaid(calls)), bool(leaks(tap, bundle))) == (is_unsaid, is_leak), method


def test_every_disguise_is_seen(bundle: Bundle) -> None:
    found = dict(secrets(bundle))
    assert len(found) > 300
    assert min(len(coded) for coded in found.values()) >= 8  # or it would be found by chance
    assert set(REQUESTS) >= {UPLOAD, FAILURE}
