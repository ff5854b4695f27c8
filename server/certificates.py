"""Making a certificate authority, the server's certificate and the operator's key (X.509, RFC 5280)."""

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ravan.errors import EnvironmentProblem, SettingsError
from ravan.files import write_atomically
from ravan.rpc.keys import new_key, public_hex, to_pem
from server.tls import Tls

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 825
ALWAYS = ("localhost", "127.0.0.1", "::1")
SECRET = 0o600
_BEFORE = timedelta(hours=1)  # for clocks that are a little behind
_DNS_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def initialize(tls: Tls, hosts: Sequence[str], *, renew: bool) -> None:
    """Makes what is missing in the folder; with ``renew`` a new server certificate by the same authority.

    Raises:
        EnvironmentProblem: everything is there already, or the authority's key is not.
        SettingsError: a host is neither a DNS name nor an IP address.
    """
    names = [_general_name(host) for host in dict.fromkeys([*hosts, *ALWAYS])]
    if not renew and all(path.exists() for path in (tls.ca, tls.certificate, tls.key, tls.operator_public)):
        raise EnvironmentProblem(f"{tls.folder} is complete: --renew makes a new server certificate.")
    for folder in (tls.folder.parent, tls.folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not tls.ca.exists():
        _make_authority(tls)
    if renew or not (tls.certificate.exists() and tls.key.exists()):
        _make_certificate(tls, names)
    if not tls.operator_public.exists():
        key = new_key()
        write_atomically(tls.operator_key, to_pem(key).encode(), SECRET)
        write_atomically(tls.operator_public, f"{public_hex(key)}\n".encode())


def _make_authority(tls: Tls) -> None:
    key, name = generate_private_key(SECP256R1()), _name("Ravan server authority")
    authority = (
        _builder(name, name, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    write_atomically(tls.ca_key, _pem(key), SECRET)
    write_atomically(tls.ca, authority.public_bytes(Encoding.PEM))


def _make_certificate(tls: Tls, names: Sequence[x509.GeneralName]) -> None:
    authority = x509.load_pem_x509_certificate(tls.ca.read_bytes())
    signer = _authority_key(tls)
    key = generate_private_key(SECP256R1())
    certificate = (
        _builder(_name("Ravan server"), authority.subject, key, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, SHA256())
    )
    write_atomically(tls.key, _pem(key), SECRET)
    write_atomically(tls.certificate, certificate.public_bytes(Encoding.PEM))


def _authority_key(tls: Tls) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(tls.ca_key.read_bytes(), None)
    except FileNotFoundError:
        raise EnvironmentProblem(f"{tls.ca_key} is not there: put the authority's key back for the renewal.") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise EnvironmentProblem(f"{tls.ca_key} was not made by ravan-server init: put back what was.")
    return key


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _DNS_NAME.fullmatch(host):
            raise SettingsError(f"--host {host}: give a DNS name or an IP address, without a port.") from None
        return x509.DNSName(host)
