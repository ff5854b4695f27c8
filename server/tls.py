"""The folder of certificates and keys, and what the server and the operator read of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ravan.errors import EnvironmentProblem
from ravan.rpc.keys import PrivateKey, from_pem, read_public

log = structlog.get_logger()
WARN_DAYS = 30


@dataclass(frozen=True)
class Tls:
    """Files below one folder, ``tls`` in the server's state, or in its own folder beside a database.

        ca.pem         what devices trust; give it to every one
        ca.key         makes new server certificates; may be kept elsewhere
        server.pem     the server's certificate; yours from another authority may take its place
        server.key     its key
        operator.key   opens Control where it is no socket; may be kept elsewhere
        operator.pub   its public half, hex: all that the server needs of it

    Attributes:
        folder: where they are.
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path) -> "Tls":
        """The one in a server's folder."""
        return cls(folder / "tls")

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's key."""
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        """The server's certificate, and those between it and the authority."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """The server's key."""
        return self.folder / "server.key"

    @property
    def operator_key(self) -> Path:
        """The operator's key."""
        return self.folder / "operator.key"

    @property
    def operator_public(self) -> Path:
        """Its public half."""
        return self.folder / "operator.pub"

    def trusted(self) -> str | None:
        """The authority's certificate as PEM; None, for the authorities that the system trusts, if it is not here."""
        return self.ca.read_text("ascii") if self.ca.is_file() else None

    def operator(self) -> PrivateKey:
        """The operator's key.

        Raises:
            EnvironmentProblem: it is not here.
        """
        try:
            return from_pem(self.operator_key.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            raise EnvironmentProblem(
                f"{self.operator_key} holds no operator's key: copy operator.key and ca.pem from the server."
            ) from None

    def operator_holder(self) -> str:
        """The operator's public key.

        Raises:
            EnvironmentProblem: it is not here.
        """
        if not self.operator_public.is_file():
            raise EnvironmentProblem(
                f"{self.operator_public} does not exist, which devices and operators need: run ravan-server init first."
            )
        return read_public(self.operator_public)


def server_credentials(tls: Tls, now: Callable[[], float] = time.time) -> grpc.ServerCredentials:
    """The server's certificate and key, read again for every connection once the files change.

    Raises:
        EnvironmentProblem: they are missing, or do not belong together.
    """
    current = _Certificate(tls, now)
    renewed = current.renewed  # may give None, which the stubs leave out
    return grpc.dynamic_ssl_server_credentials(current.configuration, renewed)  # type: ignore[arg-type]


class _Certificate:
    """The pair in use; a pair that does not fit, as in the middle of a change, leaves the old one in use."""

    def __init__(self, tls: Tls, now: Callable[[], float]) -> None:
        self._tls = tls
        self._now = now
        self._changed = self._stamp()
        self.configuration = self._load()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks for at every new connection; None for no change.

        To give it the same pair again would make it a TLS context for every connection, strangers' included, and
        grpcio 1.80 frees the one before while handshakes still use it.
        """
        try:
            stamp = self._stamp()
            if stamp == self._changed:
                return None
            configuration, self._changed = self._load(), stamp
        except EnvironmentProblem as error:
            log.warning("certificate kept", reason=str(error))
            return None
        log.info("certificate read again", certificate=str(self._tls.certificate))
        return configuration

    def _stamp(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self._tls.certificate, self._tls.key))
        except FileNotFoundError as error:
            raise EnvironmentProblem(
                f"{error.filename} does not exist: run ravan-server init first, or try --insecure on loopback."
            ) from None

    def _load(self) -> grpc.ServerCertificateConfiguration:
        chain, key = self._tls.certificate.read_bytes(), self._tls.key.read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(chain)
            fits = load_pem_private_key(key, None).public_key() == certificate.public_key()
        except (ValueError, TypeError) as error:
            raise EnvironmentProblem(f"{self._tls.folder} holds no certificate with its key ({error}).") from error
        if not fits:
            raise EnvironmentProblem(f"{self._tls.key} is not the key of {self._tls.certificate}: put back what is.")
        days = (certificate.not_valid_after_utc.timestamp() - self._now()) / 86_400
        if days < WARN_DAYS:
            log.warning("certificate ends soon: run ravan-server init --renew", days=round(days, 1))
        return grpc.ssl_server_certificate_configuration([(key, chain)])
