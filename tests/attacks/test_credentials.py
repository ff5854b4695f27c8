"""Every kind of bad credential against every RPC: none passes; each gets a code, a counter and a sentence."""

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from protos.ravan.v1 import control_pb2
from ravan.rpc.keys import PrivateKey, new_key, public_hex
from ravan.rpc.signing import CALL_KEY, SIGNATURE_KEY, Statement, signed, with_signature
from server import client
from server.errors import STATUS
from server.sql_state import open_sqlite
from tests.attacks.calls import ENROLL, LEAVE, ROTATE, Answer, Rpc, call, every_rpc
from tests.server.secured import Known, Secured, secured

RPCS = every_rpc()
CODES = {kind.code: status.name for kind, status in STATUS.items()}
Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Scene:
    """A server, whom it knows, and a token that nobody has used."""

    server: Secured
    known: Known
    other: Known
    revoked: Known
    rotated: Known
    operator: PrivateKey
    token: str
    devices: grpc.Channel
    operators: grpc.Channel

    def channel(self, rpc: Rpc) -> grpc.Channel:
        return self.operators if rpc.is_operators else self.devices

    def key(self, rpc: Rpc) -> PrivateKey:
        """The key that opens an RPC."""
        return self.operator if rpc.is_operators else self.known.key

    def body(self, rpc: Rpc, key: PrivateKey | None = None) -> bytes:
        return rpc.body(self.known, public_hex(key or self.known.key), self.token)

    def sound(self, rpc: Rpc) -> Statement:
        """What an honest caller would state; edited by the attacks."""
        (_, text), _ = signed(self.key(rpc), rpc.path, self.body(rpc), time.time())
        return Statement.parse(text)

    def edited(self, rpc: Rpc, **fields: object) -> Metadata:
        """An honest statement with other fields, honestly signed."""
        return with_signature(self.key(rpc), dataclasses.replace(self.sound(rpc), **fields))  # type: ignore[arg-type]

    def by(self, rpc: Rpc, key: PrivateKey) -> Metadata:
        """A call signed with another key, which it names."""
        return signed(key, rpc.path, self.body(rpc, key), time.time())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with secured(tmp_path_factory.mktemp("attacked") / "state") as server:
        known, other, revoked, rotated = (server.enroll() for _ in range(4))
        client.revoke_device(server.control, revoked.device_id)
        body = RPC[ROTATE].body(rotated, public_hex(new_key()))
        with server.channel(server.address) as devices, server.channel(server.control.target) as operators:
            answer = call(devices, ROTATE, signed(rotated.key, ROTATE, body, time.time()), [body])
            assert answer.status == "OK"
            operator = server.tls.operator()
            yield Scene(server, known, other, revoked, rotated, operator, server.token(), devices, operators)


RPC = {rpc.path: rpc for rpc in RPCS}
Attack = Callable[[Scene, Rpc], Metadata]


def wrong_signature(scene: Scene, rpc: Rpc) -> Metadata:
    """Names the right key, signs with another."""
    return with_signature(new_key(), scene.sound(rpc))


def flipped(scene: Scene, rpc: Rpc) -> Metadata:
    """One bit of the signature."""
    call, (name, signature) = with_signature(scene.key(rpc), scene.sound(rpc))
    return call, (name, f"{int(signature, 16) ^ 1:0128x}")


def moved(scene: Scene, rpc: Rpc) -> Metadata:
    """An honest signature whose statement was rewritten to this method."""
    _, signature = scene.edited(rpc, method="/ravan.v1.Fleet/Another")
    return (CALL_KEY, str(scene.sound(rpc))), signature


def raw(*metadata: tuple[str, str]) -> Attack:
    return lambda scene, rpc: metadata


def part(*keep: int) -> Attack:
    """Statement and signature in other numbers than one each."""
    return lambda scene, rpc: [with_signature(scene.key(rpc), scene.sound(rpc))[i] for i in keep]


def written(change: Callable[[str], str]) -> Attack:
    """A statement in another form, honestly signed."""

    def attack(scene: Scene, rpc: Rpc) -> Metadata:
        text = change(str(scene.sound(rpc)))
        return (CALL_KEY, text), (SIGNATURE_KEY, scene.key(rpc).sign(text.encode()).hex())

    return attack


def later(seconds: float) -> Attack:
    return lambda scene, rpc: scene.edited(rpc, milliseconds=round((time.time() + seconds) * 1000))


ATTACKS: dict[str, tuple[Attack, str]] = {
    "nothing": (raw(), "no-credential"),
    "other metadata": (raw(("authorization", "Bearer x")), "no-credential"),
    "statement alone": (part(0), "malformed-credential"),
    "signature alone": (part(1), "malformed-credential"),
    "two statements": (part(0, 0, 1), "malformed-credential"),
    "two signatures": (part(0, 1, 1), "malformed-credential"),
    "noise": (raw((CALL_KEY, "x"), (SIGNATURE_KEY, "0" * 128)), "malformed-credential"),
    "no hexadecimal signature": (raw((CALL_KEY, "x"), (SIGNATURE_KEY, "z" * 128)), "malformed-credential"),
    "another version": (written(lambda text: text.replace("call-1", "call-2")), "malformed-credential"),
    "a field more": (written(lambda text: text + " x"), "malformed-credential"),
    "a negative time": (written(lambda text: text.replace(" 1", " -1", 1)), "malformed-credential"),
    "the key of nobody": (lambda scene, rpc: scene.edited(rpc, key="f" * 64), "wrong-signature"),
    "a key that is no point": (lambda scene, rpc: scene.edited(rpc, key="0" * 63 + "2"), "wrong-signature"),
    "wrong key": (wrong_signature, "wrong-signature"),
    "a flipped bit": (flipped, "wrong-signature"),
    "moved to this method": (moved, "wrong-signature"),
    "other method": (lambda scene, rpc: scene.edited(rpc, method="/ravan.v1.Fleet/Another"), "other-method"),
    "other body": (lambda scene, rpc: scene.edited(rpc, body=secrets.token_hex(32)), "other-body"),
    "stale": (later(-400), "stale-call"),
    "signed in 1970": (lambda scene, rpc: scene.edited(rpc, milliseconds=0), "stale-call"),
    "future": (later(400), "future-call"),
    "the far future": (lambda scene, rpc: scene.edited(rpc, milliseconds=10**15 - 1), "future-call"),
    "unknown device": (lambda scene, rpc: scene.by(rpc, new_key()), "unknown-device"),
    "revoked device": (lambda scene, rpc: scene.by(rpc, scene.revoked.key), "revoked"),
    "a key that was replaced": (lambda scene, rpc: scene.by(rpc, scene.rotated.key), "unknown-device"),
    "another device": (lambda scene, rpc: scene.by(rpc, scene.other.key), "other-device"),
    "the other side's key": (
        lambda scene, rpc: scene.by(rpc, scene.known.key if rpc.is_operators else scene.operator),
        "unknown-device",
    ),
}
OF_OTHERS = {"unknown device", "revoked device", "a key that was replaced", "another device", "the other side's key"}
"""Attacks whose signature is right, by somebody who may not."""


def expected(name: str, code: str, rpc: Rpc) -> str | None:
    """The code that an attack gets; None where it is none, as whoever has a token may enroll with a new key."""
    if rpc.is_operators and name in OF_OTHERS:
        return "not-operator"
    if rpc.path == ENROLL and name in OF_OTHERS - {"revoked device"}:
        return None
    return code


@pytest.mark.parametrize("name", ATTACKS)
def test_no_bad_credential_opens_any_rpc(scene: Scene, name: str) -> None:
    attack, code = ATTACKS[name]
    before = contents(scene)
    for rpc in RPCS:
        wanted = expected(name, code, rpc)
        if wanted is None:
            continue
        metadata = attack(scene, rpc)
        signer = next((text.split()[-1] for key, text in metadata if key == CALL_KEY), "")
        body = rpc.body(scene.known, signer if name in OF_OTHERS else public_hex(scene.known.key), scene.token)
        check_refused(scene, rpc, wanted, lambda: call(scene.channel(rpc), rpc.path, metadata, [body]))  # noqa: B023
    assert contents(scene) == before


def check_refused(scene: Scene, rpc: Rpc, code: str, attack: Callable[[], Answer]) -> None:
    counted = scene.server.serving.refused.get(code, 0)
    answer = attack()
    assert (answer.code, answer.status) == (code, CODES[code]), f"{rpc}: {answer}"
    assert answer.status in ("UNAUTHENTICATED", "PERMISSION_DENIED")
    assert answer.sentence.endswith(".")
    assert answer.sentence.count(". ") == answer.sentence.count("\n") == 0
    refused, patience = scene.server.serving.refused, time.monotonic() + 5
    while refused.get(code, 0) == counted and time.monotonic() < patience:
        time.sleep(0.001)  # the caller hears of it first
    assert refused.get(code, 0) == counted + 1


def contents(scene: Scene) -> tuple[object, ...]:
    """Everything that an attack might have changed."""
    state = open_sqlite(scene.server.tls.folder.parent)
    try:
        return state.holders(), state.devices(), state.runs(), state.releases()
    finally:
        state.close()


@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_the_same_call_with_a_good_credential_passes_once(scene: Scene, rpc: Rpc) -> None:
    """What the attacks differ from in one thing each; the second time it is a replay."""
    device = scene.server.enroll() if rpc.path == LEAVE else scene.known
    key = {ENROLL: new_key(), LEAVE: device.key}.get(rpc.path, scene.key(rpc))
    body = rpc.body(device, public_hex(key), scene.server.token())
    metadata = signed(key, rpc.path, body, time.time())
    let_in = call(scene.channel(rpc), rpc.path, metadata, [body])
    assert let_in.status not in ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"), let_in
    again = "revoked" if rpc.path == LEAVE else "replayed-call"
    check_refused(scene, rpc, again, lambda: call(scene.channel(rpc), rpc.path, metadata, [body]))


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc.is_streaming], ids=str)
def test_a_stream_without_the_message_that_was_signed_is_refused(scene: Scene, rpc: Rpc) -> None:
    metadata = signed(scene.key(rpc), rpc.path, scene.body(rpc), time.time())
    check_refused(scene, rpc, "other-body", lambda: call(scene.channel(rpc), rpc.path, metadata, []))


def test_a_stranger_is_refused_before_it_sends_anything(scene: Scene) -> None:
    """A call without a credential, whose body never comes, holds nothing up."""
    hold = threading.Event()

    def bodies() -> Iterator[bytes]:
        hold.wait()
        yield b""

    try:
        for rpc in RPCS:
            check_refused(
                scene,
                rpc,
                "no-credential",
                lambda: call(scene.channel(rpc), rpc.path, (), bodies()),  # noqa: B023
            )
        assert call(scene.devices, "/grpc.health.v1.Health/Check", (), bodies()).status == "OK"
    finally:
        hold.set()


def test_enrolling_with_a_key_takes_its_signature(scene: Scene) -> None:
    """The key in the body must be the one that signed, or anybody could enroll the keys of others."""
    mine, theirs = new_key(), new_key()
    body = RPC[ENROLL].body(scene.known, public_hex(theirs), scene.token)
    metadata = signed(mine, ENROLL, body, time.time())
    check_refused(scene, RPC[ENROLL], "other-device", lambda: call(scene.devices, ENROLL, metadata, [body]))


def enroll(scene: Scene, key: PrivateKey, token: str) -> Answer:
    body = RPC[ENROLL].body(scene.known, public_hex(key), token)
    return call(scene.devices, ENROLL, signed(key, ENROLL, body, time.time()), [body])


def test_no_bad_token_enrolls_anybody(scene: Scene) -> None:
    used, expired = scene.server.token(), scene.server.token(0.01)
    owner = new_key()
    assert enroll(scene, owner, used).status == "OK"
    assert enroll(scene, owner, used).status == "OK"  # the same device, whose answer was lost
    before = contents(scene)
    bad = {"": "wrong-token", "ravan-guess": "wrong-token", "x" * 100_000: "wrong-token", used: "used-token"}
    for token, code in [*bad.items(), (expired, "expired-token"), (scene.token.upper(), "wrong-token")]:
        check_refused(scene, RPC[ENROLL], code, lambda: enroll(scene, new_key(), token))  # noqa: B023
    assert contents(scene) == before


def test_one_token_enrolls_one_of_many_that_race_for_it(scene: Scene) -> None:
    token, answers = scene.server.token(), list[Answer]()
    threads = [threading.Thread(target=lambda: answers.append(enroll(scene, new_key(), token))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.code for answer in answers) == ["", *["used-token"] * 11]


def test_one_of_many_equal_calls_that_race_passes(scene: Scene) -> None:
    rpc = RPC["/ravan.v1.Fleet/CheckIn"]
    body = scene.body(rpc)
    metadata, answers = signed(scene.known.key, rpc.path, body, time.time()), list[Answer]()
    threads = [
        threading.Thread(target=lambda: answers.append(call(scene.devices, rpc.path, metadata, [body])))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.code for answer in answers].count("replayed-call") == 11


@pytest.mark.parametrize("rpc", RPCS, ids=str)
def test_neither_plaintext_nor_a_server_by_another_authority_carries_a_call(
    scene: Scene, rpc: Rpc, tmp_path: Path, strange_ca: bytes
) -> None:
    address = scene.server.control.target if rpc.is_operators else scene.server.address
    metadata = signed(scene.key(rpc), rpc.path, scene.body(rpc), time.time())
    before = contents(scene)
    strange = grpc.secure_channel(address, grpc.ssl_channel_credentials(strange_ca))
    trusted = grpc.ssl_channel_credentials(scene.server.ca.encode())
    renamed = grpc.secure_channel(address, trusted, options=[("grpc.ssl_target_name_override", "server.example")])
    for channel in (grpc.insecure_channel(address), strange, renamed):
        with channel:
            assert call(channel, rpc.path, metadata, [scene.body(rpc)]).status == "UNAVAILABLE"
    assert contents(scene) == before


@pytest.fixture(scope="module")
def strange_ca(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from server.certificates import initialize
    from server.tls import Tls

    tls = Tls.of(tmp_path_factory.mktemp("strange"))
    initialize(tls, ["localhost"], renew=False)
    return tls.ca.read_bytes()


def test_a_health_check_says_that_the_server_is_up_and_is_all_that_strangers_get(scene: Scene) -> None:
    assert call(scene.devices, "/grpc.health.v1.Health/Check", (), [b""]) == Answer("OK", "", "")
    assert call(scene.devices, "/grpc.health.v1.Health/Watch", (), [b""]).code == "no-credential"
    assert call(scene.devices, "/ravan.v1.Control/ListRuns", (), [b""]).status == "UNIMPLEMENTED"


def test_the_operator_sees_what_was_refused(scene: Scene) -> None:
    call(scene.devices, "/ravan.v1.Fleet/CheckIn", (), [b""])
    assert client.devices(scene.server.control).refused["no-credential"] >= 1


def test_calls_that_were_made_are_known_after_a_restart(tmp_path: Path) -> None:
    rpc = RPC["/ravan.v1.Fleet/CheckIn"]
    with secured(tmp_path) as server:
        device = server.enroll()
        body = rpc.body(device, "")
        metadata = signed(device.key, rpc.path, body, time.time())
        with server.channel(server.address) as channel:
            assert call(channel, rpc.path, metadata, [body]).code == "bad-request"  # let in: it names no budget
    with secured(tmp_path) as server, server.channel(server.address) as channel:
        assert call(channel, rpc.path, metadata, [body]).code == "replayed-call"
        fresh = signed(device.key, rpc.path, body, time.time())
        assert call(channel, rpc.path, fresh, [body]).code == "bad-request"


def test_whoever_has_no_token_leaves_nothing_on_the_disk(scene: Scene) -> None:
    state = open_sqlite(scene.server.tls.folder.parent)
    try:
        key = new_key()
        body = RPC[ENROLL].body(scene.known, public_hex(key), "guess")
        metadata = signed(key, ENROLL, body, time.time())
        assert call(scene.devices, ENROLL, metadata, [body]).code == "wrong-token"
        assert call(scene.devices, ENROLL, metadata, [body]).code == "wrong-token"
        assert state.holder(public_hex(key)) is None
    finally:
        state.close()


def test_every_rpc_of_the_operator_is_behind_the_operators_key() -> None:
    """The list that the attacks run over is not empty by accident."""
    services = {rpc.path.split("/")[1] for rpc in RPCS}
    assert services == {"ravan.v1.Fleet", "ravan.v1.Enrollment", "ravan.v1.Control", "ravan.v1.Releases"}
    assert len([rpc for rpc in RPCS if rpc.is_operators]) == len(
        control_pb2.DESCRIPTOR.services_by_name["Control"].methods
    )
