"""What the server refuses, with the code and gRPC status that go over the wire.

    RavanError
    └── Refusal
        ├── BadRequest     the request itself makes no sense
        ├── NotFound       no such run, bundle, file or adapter
        ├── NotSelected    the device has no part in this round
        ├── WrongRound     another round, or another run
        ├── RoundClosed    the round no longer takes updates
        ├── WrongBundle    trained with another bundle
        ├── WrongBase      trained from another adapter
        ├── TooLarge       more bytes than a valid update has
        ├── TooSlow        an upload that takes longer than allowed
├── WrongHash      the bytes do not match their sha256
        ├── Conflict       another update by this device is already counted
        └── WrongState     the run's state does not allow it

Errors of ``ravan`` that a peer can cause are in the same table.
"""

import grpc

from ravan import errors
from ravan.errors import RavanError


class Refusal(RavanError):
    """A request that is refused; nothing was stored."""

    code = "refused"


class BadRequest(Refusal):
    """A field of the request is missing or malformed."""

    code = "bad-request"


class NotFound(Refusal):
    """No such run, bundle, file or adapter."""

    code = "not-found"


class NotSelected(Refusal):
    """The device was not selected for this round."""

    code = "not-selected"


class WrongRound(Refusal):
    """The request belongs to another round or run."""

    code = "wrong-round"


class RoundClosed(Refusal):
    """The round no longer takes updates."""

    code = "round-closed"


class WrongBundle(Refusal):
    """The update was trained with another bundle."""

    code = "wrong-bundle"


class WrongBase(Refusal):
    """The update was trained from another adapter."""

    code = "wrong-base"


class TooLarge(Refusal):
    """More bytes than a valid update has."""

    code = "too-large"


class TooSlow(Refusal):
    """An upload takes longer than allowed."""

    code = "too-slow"


class WrongHash(Refusal):
    """The bytes do not match the sha256 or size in the header."""

    code = "wrong-hash"


class Conflict(Refusal):
    """Another update by this device is already counted in this round."""

    code = "conflict"


class WrongState(Refusal):
    """The run's state does not allow the request."""

    code = "wrong-state"


STATUS: dict[type[RavanError], grpc.StatusCode] = {
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    NotSelected: grpc.StatusCode.PERMISSION_DENIED,
    WrongRound: grpc.StatusCode.FAILED_PRECONDITION,
    RoundClosed: grpc.StatusCode.FAILED_PRECONDITION,
    WrongBundle: grpc.StatusCode.FAILED_PRECONDITION,
    WrongBase: grpc.StatusCode.FAILED_PRECONDITION,
    TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooSlow: grpc.StatusCode.ABORTED,
    WrongHash: grpc.StatusCode.DATA_LOSS,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MalformedUpdate: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongSpec: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WrongShape: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownHead: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFinite: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NormTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SettingsError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BundleError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DataError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NoExamples: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RuntimeProblem: grpc.StatusCode.UNAVAILABLE,
    errors.EnvironmentProblem: grpc.StatusCode.UNAVAILABLE,
}
"""The gRPC status of every error that crosses the wire; a test holds it complete."""
