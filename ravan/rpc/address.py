"""Addresses, and what TLS makes of the server behind one."""

import ipaddress
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ravan.errors import SettingsError

SECONDS = 3.0
_SCHEMES = ("ipv4:", "ipv6:", "dns:///", "dns:")
_WRONG_VERSION = "WRONG_VERSION_NUMBER"


def split(address: str) -> tuple[str, int]:
    """Host and port; the port is 0 where none is given.

    Raises:
        ValueError: it is no address of this form.
    """
    for scheme in _SCHEMES:
        address = address.removeprefix(scheme)
    parts = urlsplit(f"//{address}")
    if not parts.hostname or parts.path:
        raise ValueError(f"{address} is not host:port")
    return parts.hostname, parts.port or 0


def is_local(address: str) -> bool:
    """Whether only this machine can reach an address: every IP of its host is loopback, or it is a socket."""
    if address.startswith("unix:"):
        return True
    try:
        found = socket.getaddrinfo(split(address)[0], None)
    except (OSError, ValueError):
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def read_authority(path: Path) -> str:
    """A file of certificates to trust, PEM.

    Raises:
        SettingsError: it can't be read, or holds none.
    """
    try:
        text = path.read_text("ascii")
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"{path} holds no certificate: copy the server's ca.pem here.") from error
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}): copy the server's ca.pem here.") from error
    return text


def tls_problem(address: str, ca: str | None, advice: str) -> str:
    """What is wrong with a server's TLS, with what to do; empty if nothing is, or if nobody answers.

    ``ca`` holds the trusted certificates as PEM, None for those that the system trusts; ``advice`` is how to trust it.
    """
    context = ssl.create_default_context(cadata=ca)
    try:
        _handshake(address, context)
    except ssl.SSLCertVerificationError as error:
        return (
            f"The server's certificate at {address} is not trusted ({_reason(error)}): "
            f"check the address and this machine's clock, or {advice}."
        )
    except ssl.SSLError as error:
        if error.reason == _WRONG_VERSION:
            return (
                f"The server at {address} does not speak TLS: check the address; on loopback --insecure does without."
            )
    except (OSError, ValueError):
        pass
    return ""


def certificate_ends(address: str, ca: str | None) -> float | None:
    """Until when the certificate of the server behind an address is valid, Unix time; None if it can't be told."""
    try:
        ends = _handshake(address, ssl.create_default_context(cadata=ca)).get("notAfter")
    except (OSError, ValueError):
        return None
    return ssl.cert_time_to_seconds(str(ends)) if ends else None


def speaks_tls(address: str) -> bool:
    """Whether the server at an address answers TLS, whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent to it
    try:
        _handshake(address, context)
    except (OSError, ValueError):
        return False
    return True


def _handshake(address: str, context: ssl.SSLContext) -> Mapping[str, object]:
    """The server's certificate, as far as it was verified."""
    context.set_alpn_protocols(["h2"])
    with _connected(address, context) as spoken:
        spoken.do_handshake()
        return spoken.getpeercert() or {}


def _connected(address: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection before its handshake, at the first address of the host that takes one.

    ``ssl`` forgets to close a connected socket whose line breaks while it is wrapped; this one is wrapped before.
    """
    host, port = split(address)
    why = OSError("the host has no address")
    for family, kind, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        plain = socket.socket(family, kind)
        spoken = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        spoken.settimeout(SECONDS)
        try:
            spoken.connect(where)
        except OSError as error:
            spoken.close()
            why = error
        else:
            return spoken
    raise why


def _reason(error: ssl.SSLCertVerificationError) -> str:
    return (error.verify_message or str(error)).rstrip(".")
