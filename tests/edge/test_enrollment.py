"""A device and the server that knows it: keys that stay, answers that are lost, and what shuts a device out."""

import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from edge.enrollment import enroll, rotate, rotate_if_due
from edge.errors import NotLetIn, Refused
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.identity import ENROLLED, ENROLLING, ROTATING, Identities, Identity
from protos.ravan.v1 import fleet_pb2 as pb
from ravan.errors import EnvironmentProblem, NotTrusted, RavanError, Unreachable
from ravan.rpc.signing import Signing
from server import client as operator
from server.certificates import initialize
from server.enrollment import hash_of
from server.tls import Tls
from tests.server.secured import Secured, secured


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def identities(tmp_path: Path) -> Iterator[Identities]:
    with closing(Home(tmp_path / "home")) as home:
        yield home.identities


@pytest.fixture
def device(server: Secured, identities: Identities) -> Identity:
    return enroll(identities, "one", server.address, server.ca, server.token())


def connected(identity: Identity) -> FleetClient:
    return FleetClient(identity.server, identity.device_id, threading.Event(), identity)


def check_in(identity: Identity) -> pb.CheckInResponse:
    with closing(connected(identity)) as client:
        return client.check_in("one", pb.Capabilities(head_budget=1.0))


def slow(seconds: float) -> object:
    """A signer whose clock is behind."""
    return partial(Signing, clock=lambda: time.time() - seconds)


def files(identities: Identities) -> list[Path]:
    return sorted(identities.path("").parent.iterdir())


def test_an_enrolled_device_is_let_in_and_its_key_is_its_users_alone(device: Identity, identities: Identities) -> None:
    assert check_in(device).wait.reason == pb.WAIT_REASON_NO_RUN
    (path,) = files(identities)
    assert path == identities.path("one", ENROLLED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_key_never_leaves_the_device(device: Identity, identities: Identities, server: Secured) -> None:
    kept = identities.path("one", ENROLLED).read_text()
    secret = kept.split("PRIVATE KEY-----\\n")[1].split("\\n")[0].encode()
    assert len(secret) > 40
    everything = b"".join(p.read_bytes() for p in server.tls.folder.parent.rglob("*") if p.is_file())
    assert device.public_key.encode() in everything
    assert secret not in everything


def test_a_key_that_others_can_read_is_not_used(device: Identity, identities: Identities) -> None:
    path = identities.path("one", ENROLLED)
    path.chmod(0o640)
    with pytest.raises(EnvironmentProblem, match="Others can read the key"):
        identities.get("one")
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(EnvironmentProblem, match="holds no identity"):
        identities.get("one")


@pytest.mark.parametrize("token", ["ravan-guess", ""])
def test_a_wrong_token_is_one_sentence_and_leaves_nothing(server: Secured, identities: Identities, token: str) -> None:
    with pytest.raises(NotLetIn, match="There is no such token") as refused:
        enroll(identities, "one", server.address, server.ca, token)
    assert (refused.value.code, refused.value.exit_code) == ("wrong-token", 7)
    assert files(identities) == []


def test_a_failed_enrollment_keeps_the_identity_that_was(
    device: Identity, server: Secured, identities: Identities
) -> None:
    with pytest.raises(NotLetIn):
        enroll(identities, "one", server.address, server.ca, "ravan-guess")
    kept = identities.get("one")
    assert kept is not None
    assert kept.public_key == device.public_key


def test_the_token_is_sent_to_a_trusted_server_alone(server: Secured, identities: Identities, tmp_path: Path) -> None:
    other = Tls.of(tmp_path / "other")
    initialize(other, [], renew=False)
    token = server.token()
    with pytest.raises(NotTrusted, match=r"not trusted \(.*unable to get local issuer.*give --ca") as refused:
        enroll(identities, "one", server.address, other.ca.read_text(), token)
    assert refused.value.exit_code == 7
    with pytest.raises(NotTrusted, match="not trusted"):
        enroll(identities, "one", server.address, None, token)
    assert files(identities) == []
    assert enroll(identities, "one", server.address, server.ca, token)


def test_a_server_under_another_name_is_not_trusted(tmp_path: Path, identities: Identities) -> None:
    tls = Tls.of(tmp_path / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.certificates.ALWAYS", ("server.example",))
        initialize(tls, [], renew=False)
    with secured(tmp_path / "state") as server, pytest.raises(NotTrusted, match="IP address mismatch"):
        enroll(identities, "one", server.address, server.ca, "token")


def test_nobody_there_is_told_at_once(identities: Identities, server: Secured) -> None:
    with pytest.raises(Unreachable, match=r"No server answers at 127\.0\.0\.1:1"):
        enroll(identities, "one", "127.0.0.1:1", server.ca, "token")


def test_an_enrollment_whose_answer_was_lost_is_asked_for_again(
    server: Secured, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = server.token()
    with monkeypatch.context() as cut:
        cut.setattr(Identities, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            enroll(identities, "one", server.address, server.ca, token)
    assert [path.suffix for path in files(identities)] == [ENROLLING]
    device = enroll(identities, "one", server.address, server.ca, token)
    assert check_in(device).HasField("wait")


def test_a_clock_that_is_off_is_told_by_how_much(
    device: Identity, server: Secured, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.fleet_client.Signing", slow(412))
    with pytest.raises(Refused, match=r"clock is 412 s behind the server's, 300 s are allowed: set it\.") as refused:
        check_in(device)
    assert not isinstance(refused.value, NotLetIn)  # a board asks the network for the time some time after its start
    monkeypatch.setattr("edge.enrollment.Signing", slow(-3 * 86_400))
    with pytest.raises(NotLetIn, match=r"clock is 3 days ahead of the server's"):
        enroll(identities, "two", server.address, server.ca, server.token())


def test_a_clock_that_goes_off_later_is_waited_for(device: Identity) -> None:
    """A laptop that wakes up: what was let in before is refused, not shut out."""
    with closing(connected(device)) as client:
        client.check_in("one", pb.Capabilities(head_budget=1.0))
        client._signing._clock = lambda: time.time() - 412
        with pytest.raises(Refused) as refused:
            client.check_in("one", pb.Capabilities(head_budget=1.0))
        assert not isinstance(refused.value, NotLetIn)


def test_a_revoked_device_is_shut_out_at_its_next_call_and_may_enroll_anew(
    device: Identity, server: Secured, identities: Identities
) -> None:
    with closing(connected(device)) as client:
        client.check_in("one", pb.Capabilities(head_budget=1.0))
        operator.revoke_device(server.control, device.device_id)
        with pytest.raises(NotLetIn, match="revoked by the operator"):
            client.check_in("one", pb.Capabilities(head_budget=1.0))
    again = enroll(identities, "one", server.address, server.ca, server.token())
    assert again.device_id != device.device_id
    assert check_in(again).HasField("wait")


def test_a_key_is_replaced_without_a_pause(device: Identity, identities: Identities) -> None:
    with closing(connected(device)) as client:
        rotate(identities, client)
        assert client.check_in("one", pb.Capabilities(head_budget=1.0)).HasField("wait")
    fresh = identities.get("one")
    assert fresh is not None
    assert (fresh.device_id, len(files(identities))) == (device.device_id, 1)
    assert fresh.public_key != device.public_key
    assert check_in(fresh).HasField("wait")
    with pytest.raises(NotLetIn, match="No device is enrolled with this key"):
        check_in(device)


@pytest.mark.parametrize("lost", ["the answer", "the request"])
def test_a_rotation_that_was_cut_off_is_finished_at_the_next_start(
    device: Identity, identities: Identities, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    with closing(connected(device)) as client, monkeypatch.context() as cut:
        where = (
            "edge.identity.Identities.settle" if lost == "the answer" else "edge.fleet_client.FleetClient.rotate_key"
        )
        cut.setattr(where, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rotate(identities, client)
    assert {path.suffix for path in files(identities)} == {ENROLLED, ROTATING}
    kept = identities.get("one")
    assert kept is not None
    with closing(connected(kept)) as client:
        rotate_if_due(identities, client, 0)
        assert client.check_in("one", pb.Capabilities(head_budget=1.0)).HasField("wait")
    assert [path.suffix for path in files(identities)] == [ENROLLED]


def test_a_key_is_replaced_when_it_is_old(device: Identity, identities: Identities) -> None:
    with closing(connected(device)) as client:
        rotate_if_due(identities, client, 1)
        assert client.identity == device
        client.identity = Identity(**{**vars(device), "made_at": time.time() - 2 * 86_400})
        rotate_if_due(identities, client, 0)
        assert client.identity.public_key == device.public_key
        rotate_if_due(identities, client, 1)
        assert client.identity.public_key != device.public_key


def test_a_certificate_that_changes_later_is_waited_for(tmp_path: Path, identities: Identities) -> None:
    """A strange network on the way: whoever was let in before tries again; whoever was not is told."""
    with secured(tmp_path / "one") as server:
        port = server.serving.port
        device = enroll(identities, "one", server.address, server.ca, server.token())
        client = connected(device)
        client.check_in("one", pb.Capabilities(head_budget=1.0))
    with closing(client), secured(tmp_path / "two", port):
        stop = threading.Timer(2.5, client._stop.set)
        stop.start()
        with pytest.raises(RavanError) as ended:
            client.check_in("one", pb.Capabilities(head_budget=1.0))
        assert not isinstance(ended.value, NotTrusted)
        with pytest.raises(NotTrusted, match=r"enroll again with the ca\.pem"):
            check_in(device)


def test_a_server_keeps_hashes_of_tokens_alone(server: Secured) -> None:
    token = server.token()
    everything = b"".join(p.read_bytes() for p in server.tls.folder.parent.rglob("*") if p.is_file())
    assert hash_of(token).encode() in everything
    assert token.encode() not in everything
