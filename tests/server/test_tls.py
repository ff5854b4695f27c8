"""Certificates: made once, renewed under a running server, and never served with the wrong key."""

import asyncio
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from ravan.errors import EnvironmentProblem, NotTrusted, SettingsError, Unreachable
from ravan.rpc.address import split
from server import client
from server.certificates import initialize
from server.control_address import ControlAddress, control_address
from server.serving import serving
from server.settings import ServeSettings
from server.tls import Tls
from tests.attacks.calls import call
from tests.server.secured import Secured, secured


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("tls") / "state") as running:
        yield running


def names(tls: Tls) -> set[str]:
    certificate = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def served(address: str, ca: str) -> int:
    """The serial number of the certificate that a client of this authority gets to see."""
    context = ssl.create_default_context(cadata=ca)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(split(address), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        seen = wrapped.getpeercert(binary_form=True)
    assert seen is not None
    return x509.load_der_x509_certificate(seen).serial_number


def test_secrets_are_their_users_alone(tmp_path: Path) -> None:
    tls = Tls.of(tmp_path / "state")
    initialize(tls, ["server.example", "10.1.2.3"], renew=False)
    assert names(tls) == {"server.example", "10.1.2.3", "localhost", "127.0.0.1", "::1"}
    for path in (tls.ca_key, tls.key, tls.operator_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (tls.folder, tls.folder.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_there_is_kept_and_what_is_missing_made(tmp_path: Path) -> None:
    tls = Tls.of(tmp_path)
    initialize(tls, ["a.example"], renew=False)
    with pytest.raises(EnvironmentProblem, match="--renew"):
        initialize(tls, ["b.example"], renew=False)
    before = {path: path.read_bytes() for path in tls.folder.iterdir()}
    tls.operator_public.unlink()
    initialize(tls, ["b.example"], renew=False)
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert changed == {tls.operator_key, tls.operator_public}
    initialize(tls, ["b.example"], renew=True)
    assert "b.example" in names(tls)
    assert tls.ca.read_bytes() == before[tls.ca]
    tls.ca_key.unlink()
    with pytest.raises(EnvironmentProblem, match=r"ca\.key is not there"):
        initialize(tls, ["b.example"], renew=True)


@pytest.mark.parametrize("host", ["server.example:7071", "https://x", "a b", "", "ü.example"])
def test_a_host_that_is_no_name_is_one_sentence_and_leaves_nothing(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="without a port"):
        initialize(Tls.of(tmp_path / "state"), [host], renew=False)
    assert not (tmp_path / "state").exists()


def serve_once(settings: ServeSettings) -> None:
    async def scene() -> None:
        async with serving(settings):
            pass

    asyncio.run(scene())


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_insecure_is_for_loopback_alone(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match="other machines reach"):
        serve_once(ServeSettings(state=tmp_path / "state", listen=address, insecure=True))
    assert not (tmp_path / "state").exists()


def test_a_server_without_certificates_does_not_start_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="run ravan-server init first"):
        serve_once(ServeSettings(state=tmp_path / "state", listen="127.0.0.1:0"))
    assert not (tmp_path / "state").exists()


def test_a_server_without_an_operators_key_offers_no_control_on_the_network(tmp_path: Path) -> None:
    settings = ServeSettings(state=tmp_path, listen="127.0.0.1:0", control="127.0.0.1:0", insecure=True)
    with pytest.raises(EnvironmentProblem, match=r"operator\.pub does not exist"):
        serve_once(settings)


def test_a_key_of_another_certificate_does_not_start(tmp_path: Path) -> None:
    tls, other = Tls.of(tmp_path / "one"), Tls.of(tmp_path / "two")
    initialize(tls, [], renew=False)
    initialize(other, [], renew=False)
    tls.key.write_bytes(other.key.read_bytes())
    with pytest.raises(EnvironmentProblem, match="is not the key of"):
        serve_once(ServeSettings(state=tmp_path / "one", listen="127.0.0.1:0"))
    tls.certificate.write_text("no certificate")
    with pytest.raises(EnvironmentProblem, match="holds no certificate"):
        serve_once(ServeSettings(state=tmp_path / "one", listen="127.0.0.1:0"))


def test_a_renewed_certificate_is_served_without_a_restart(server: Secured) -> None:
    first = served(server.address, server.ca)
    key = server.tls.key.read_bytes()
    server.tls.key.write_bytes(Tls.of(other_state(server)).key.read_bytes())
    assert served(server.address, server.ca) == first  # half a change is none
    server.tls.key.write_bytes(key)
    initialize(server.tls, ["renewed.example"], renew=True)
    assert served(server.address, server.ca) != first
    assert client.devices(server.control).devices is not None


def other_state(server: Secured) -> Path:
    state = server.tls.folder.parent.with_name("other")
    initialize(Tls.of(state), [], renew=False)
    return state


def test_the_operator_is_told_what_is_wrong(server: Secured, tmp_path: Path) -> None:
    strange = Tls.of(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"operator\.key"):
        client.devices(ControlAddress(server.control.target, strange))
    initialize(strange, [], renew=False)
    with pytest.raises(NotTrusted, match=r"not trusted \(.*\).*copy ca\.pem to"):
        client.devices(ControlAddress(server.control.target, strange))
    strange.ca.write_text(server.ca)
    with pytest.raises(Exception, match="not the operator's"):
        client.devices(ControlAddress(server.control.target, strange))
    with pytest.raises(Unreachable):
        client.devices(ControlAddress("127.0.0.1:1", server.tls))


def test_the_operators_socket_is_its_users_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(ServeSettings(state=tmp_path / "state", listen="127.0.0.1:0", insecure=True)):
            path = Path(control_address(tmp_path / "state", "").target.removeprefix("unix:"))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    asyncio.run(scene())


def test_tokens_and_revocations_of_the_operator(server: Secured) -> None:
    made = client.create_tokens(server.control, 3, 60)
    assert len(set(made.tokens)) == 3
    device = server.enroll()
    with pytest.raises(Exception, match="No enrolled device"):
        client.revoke_device(server.control, "zz")
    server.enroll()
    with pytest.raises(Exception, match="No enrolled device"):
        client.revoke_device(server.control, "")
    assert client.revoke_device(server.control, device.device_id[:12]).device_id == device.device_id
    listed = {d.device_id: d for d in client.devices(server.control).devices}
    assert listed[device.device_id].HasField("revoked_at")
    for count, seconds in ((0, 60), (10_001, 60), (1, 0), (1, float("nan")), (1, 1e9)):
        with pytest.raises(Exception, match="Make 1 to 10,000 tokens"):
            client.create_tokens(server.control, count, seconds)


def test_a_server_behind_a_gate_closes_its_insecure_door(server: Secured) -> None:
    with grpc.insecure_channel(server.address) as plain:
        assert call(plain, "/grpc.health.v1.Health/Check", (), [b""]).status == "UNAVAILABLE"
