"""Addresses, keys and statements: what counts as this machine, and what a signature holds for."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from ravan.errors import SettingsError
from ravan.rpc.address import is_local, read_authority, split
from ravan.rpc.keys import device_id_of, from_pem, is_signed_by, new_key, public_hex, to_pem
from ravan.rpc.signing import Statement, signed


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7071",
        "127.9.9.9:1",
        "[::1]:7071",
        "localhost:7071",
        "ipv4:127.0.0.1:7",
        "dns:///localhost:7",
        "unix:/x",
    ],
)
def test_this_machine_is_local(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0:7071", "[::]:7071", "10.0.0.1:7071", ":7071", "", "7071", "[::ffff:10.0.0.1]:1"),
        *("localhost.evil.invalid:1", "127.0.0.1.evil.invalid:1", "xds:///localhost:1"),
        *("127.0.0.1:1@10.0.0.1:1", "127.0.0.1:1,10.0.0.1:1"),
    ],
)
def test_nothing_else_is(address: str) -> None:
    assert not is_local(address)


def test_an_address_is_split_into_host_and_port() -> None:
    assert split("server.example:7071") == ("server.example", 7071)
    assert split("[fe80::1]:7071") == ("fe80::1", 7071)
    assert split("server.example") == ("server.example", 0)
    for wrong in ("", "a:b", "a/b:1", "a:99999"):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever urllib says
            split(wrong)


def test_a_key_comes_back_from_its_text() -> None:
    key = new_key()
    again = from_pem(to_pem(key))
    assert public_hex(again) == public_hex(key)
    assert len(device_id_of(public_hex(key))) == 32
    with pytest.raises(ValueError, match="PEM"):
        from_pem("no key")


def test_keys_are_kept_as_openssl_keeps_them() -> None:
    key = new_key()
    theirs = load_pem_private_key(to_pem(key).encode(), None)
    assert isinstance(theirs, Ed25519PrivateKey)
    assert theirs.sign(b"text") == key.sign(b"text")
    pem = theirs.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert pem == to_pem(key)
    assert public_hex(from_pem(pem.replace("\n", "\r\n"))) == public_hex(key)
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="Ed25519"):
        from_pem(other.decode())


def test_a_signature_holds_for_one_text_and_one_key() -> None:
    key = new_key()
    signature = key.sign(b"text").hex()
    assert is_signed_by(public_hex(key), signature, "text")
    assert not is_signed_by(public_hex(key), signature, "texts")
    assert not is_signed_by(public_hex(new_key()), signature, "text")
    assert not is_signed_by("00", signature, "text")
    assert not is_signed_by(public_hex(key), "zz", "text")


def test_a_statement_says_what_was_called_and_is_read_as_it_was_written() -> None:
    key = new_key()
    (_, text), (_, signature) = signed(key, "/ravan.v1.Fleet/CheckIn", b"body", 1234.5678)
    statement = Statement.parse(text)
    assert str(statement) == text
    assert (statement.method, statement.seconds, statement.key) == (
        "/ravan.v1.Fleet/CheckIn",
        1234.568,
        public_hex(key),
    )
    assert is_signed_by(statement.key, signature, text)
    other = Statement.parse(signed(key, "/ravan.v1.Fleet/CheckIn", b"body", 1234.5678)[0][1])
    assert other.nonce != statement.nonce
    for wrong in (
        text + " ",
        " " + text,
        text.upper(),
        text.replace(" ", "  "),
        text + "\n",
        text.replace("5", "\u0665"),
    ):
        with pytest.raises(ValueError, match="statement"):
            Statement.parse(wrong)


def test_a_file_that_is_no_certificate_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    with pytest.raises(SettingsError, match="holds no certificate"):
        read_authority(tmp_path / "ca.pem")
    with pytest.raises(SettingsError, match="can't be read"):
        read_authority(tmp_path / "absent.pem")
