"""What the server refuses, with the code and gRPC status that go over the wire.

    RavanError
    └── Refusal
        ├── BadRequest     the request itself makes no sense
        ├── NotFound       no such run, bundle, file or adapter
        ├── NotSelected    the device has no part in this round
        ├── StaleRound, FutureRound              an earlier round; one that is not open yet
        ├── RoundClosed    the round no longer takes updates
        ├── TooStale       too many adapters were published since the update began
        ├── WrongBundle    trained with another bundle
        ├── WrongBase      trained from another adapter
        ├── WrongOffset    an upload that goes on at bytes which are not here
        ├── TooLarge       more bytes than a valid update has
        ├── TooSlow        a message or an upload that takes longer than allowed
        ├── TooMany        more uploads of one update at a time than any device makes
        ├── Incomplete     an upload that ends before all its bytes are there
        ├── WrongHash      the bytes do not match their sha256
        ├── Conflict       another update by this device is already counted, or another device has this key
        ├── UnknownFormat  the run's updates are coded in a way that the device does not know
        ├── WrongState     the run's state does not allow it
        │   the caller is not let in:
        ├── NoCredential, MalformedCredential    unsigned; signed in a form unknown here
        ├── OtherMethod, OtherBody, OtherDevice  signed for something else than what came
        ├── WrongSignature                       not by the key it names
        ├── UnknownDevice, NotOperator, Revoked  by a key that opens nothing here
        ├── StaleCall, FutureCall, ReplayedCall  signed too long ago, ahead of time, or used before
        └── WrongToken, UsedToken, ExpiredToken  a token that enrolls nobody

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


class StaleRound(Refusal):
    """The request belongs to an earlier round."""

    code = "stale-round"


class FutureRound(Refusal):
    """The request belongs to a round that is not open yet."""

    code = "future-round"


class RoundClosed(Refusal):
    """The round no longer takes updates."""

    code = "round-closed"


class TooStale(Refusal):
    """Too many adapters were published since the update began."""

    code = "too-stale"


class WrongBundle(Refusal):
    """The update was trained with another bundle."""

    code = "wrong-bundle"


class WrongBase(Refusal):
    """The update was trained from another adapter."""

    code = "wrong-base"


class WrongOffset(Refusal):
    """An upload goes on at an offset before which bytes are missing."""

    code = "wrong-offset"


class TooLarge(Refusal):
    """More bytes than a valid update has."""

    code = "too-large"


class TooSlow(Refusal):
    """An upload takes longer than allowed."""

    code = "too-slow"


class TooMany(Refusal):
    """One device makes more uploads at a time than any needs."""

    code = "too-many"


class Incomplete(Refusal):
    """An upload ends before all its bytes are there; what came is kept."""

    code = "incomplete"


class WrongHash(Refusal):
    """The bytes do not match the sha256 in the header."""

    code = "wrong-hash"


class Conflict(Refusal):
    """Another update by this device is already counted in this round, or another device has this key."""

    code = "conflict"


class UnknownFormat(Refusal):
    """The run's updates are coded in a way that the device does not know."""

    code = "unknown-format"


class WrongState(Refusal):
    """The run's state does not allow the request."""

    code = "wrong-state"


class NoCredential(Refusal):
    """The call is not signed."""

    code = "no-credential"


class MalformedCredential(Refusal):
    """The call is signed in a form that is unknown here."""

    code = "malformed-credential"


class OtherMethod(Refusal):
    """The signature is for another method."""

    code = "other-method"


class OtherBody(Refusal):
    """The signature is for another body."""

    code = "other-body"


class OtherDevice(Refusal):
    """The call speaks for another device than the one whose key signed it."""

    code = "other-device"


class WrongSignature(Refusal):
    """The signature is not by the key that the call names."""

    code = "wrong-signature"


class UnknownDevice(Refusal):
    """No device is enrolled with this key."""

    code = "unknown-device"


class NotOperator(Refusal):
    """The key is not the operator's."""

    code = "not-operator"


class Revoked(Refusal):
    """The device was revoked."""

    code = "revoked"


class StaleCall(Refusal):
    """The call was signed too long ago."""

    code = "stale-call"


class FutureCall(Refusal):
    """The call was signed ahead of time."""

    code = "future-call"


class ReplayedCall(Refusal):
    """The call's nonce was used before."""

    code = "replayed-call"


class WrongToken(Refusal):
    """There is no such token."""

    code = "wrong-token"


class UsedToken(Refusal):
    """Another device used the token."""

    code = "used-token"


class ExpiredToken(Refusal):
    """The token is too old."""

    code = "expired-token"


STATUS: dict[type[RavanError], grpc.StatusCode] = {
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    NotSelected: grpc.StatusCode.PERMISSION_DENIED,
    StaleRound: grpc.StatusCode.FAILED_PRECONDITION,
    FutureRound: grpc.StatusCode.FAILED_PRECONDITION,
    RoundClosed: grpc.StatusCode.FAILED_PRECONDITION,
    TooStale: grpc.StatusCode.FAILED_PRECONDITION,
    WrongBundle: grpc.StatusCode.FAILED_PRECONDITION,
    WrongBase: grpc.StatusCode.FAILED_PRECONDITION,
    WrongOffset: grpc.StatusCode.OUT_OF_RANGE,
    TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooSlow: grpc.StatusCode.ABORTED,
    TooMany: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Incomplete: grpc.StatusCode.ABORTED,
    WrongHash: grpc.StatusCode.DATA_LOSS,
    Conflict: grpc.StatusCode.ALREADY_EXISTS,
    UnknownFormat: grpc.StatusCode.FAILED_PRECONDITION,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    NoCredential: grpc.StatusCode.UNAUTHENTICATED,
    MalformedCredential: grpc.StatusCode.UNAUTHENTICATED,
    OtherMethod: grpc.StatusCode.UNAUTHENTICATED,
    OtherBody: grpc.StatusCode.UNAUTHENTICATED,
    OtherDevice: grpc.StatusCode.PERMISSION_DENIED,
    WrongSignature: grpc.StatusCode.UNAUTHENTICATED,
    UnknownDevice: grpc.StatusCode.UNAUTHENTICATED,
    NotOperator: grpc.StatusCode.PERMISSION_DENIED,
    Revoked: grpc.StatusCode.PERMISSION_DENIED,
    StaleCall: grpc.StatusCode.UNAUTHENTICATED,
    FutureCall: grpc.StatusCode.UNAUTHENTICATED,
    ReplayedCall: grpc.StatusCode.UNAUTHENTICATED,
    WrongToken: grpc.StatusCode.UNAUTHENTICATED,
    UsedToken: grpc.StatusCode.UNAUTHENTICATED,
    ExpiredToken: grpc.StatusCode.UNAUTHENTICATED,
    errors.MalformedUpdate: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongFormat: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongScale: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongSpec: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WrongShape: grpc.StatusCode.INVALID_ARGUMENT,
    errors.HeadsNotAllowed: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownHead: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFinite: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NormTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SettingsError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BundleError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ReleaseError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DataError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NoExamples: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RuntimeProblem: grpc.StatusCode.UNAVAILABLE,
    errors.EnvironmentProblem: grpc.StatusCode.UNAVAILABLE,
    errors.DiskFull: grpc.StatusCode.UNAVAILABLE,
}
"""The gRPC status of every error that crosses the wire; a test holds it complete."""
