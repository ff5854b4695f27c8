"""Every error a user or a peer can cause, as one sentence that says what to do.

RavanError
├── SpecError          an adapter spec that makes no sense
├── TargetError        a target pattern that matches no linear layer
├── UpdateError        an update that must not be stored
│   ├── MalformedUpdate    bytes that are no update
│   ├── WrongFormat        its values are coded in another way than the run's
│   ├── WrongSpec          made for another adapter spec
│   ├── WrongShape         H or the saved part has other dimensions
│   ├── UnknownHead        a layer or head the spec does not have
│   ├── HeadsNotAllowed    more heads, or others, than its part of the round
│   ├── WrongScale         a scale of coded values that is no size
│   ├── NotFinite          NaN or Inf among its values
│   └── NormTooLarge       it moves a head, or what is trained whole, too far
├── BundleError        a training bundle that must not be used
├── ReleaseError       an archive of the client that must not be used
├── ExportError        a model that can't become a bundle
├── DataError          examples that can't be read
│   └── NoExamples         nothing usable is left
├── SettingsError      a setting that is unknown or out of range
├── RuntimeProblem     onnxruntime fails in the middle of its work
├── EnvironmentProblem the machine refuses: port, folder, disk
│   └── DiskFull           there is no room left, which may pass
├── Unreachable        the server does not answer
└── NotTrusted         the server is not the one that is trusted
"""


class RavanError(Exception):
    """Base of all errors that are explained to a user in one sentence.

    ``exit_code`` is what a command line exits with; ``code`` names the error for programs.
    """

    exit_code = 3
    code = "error"


class SpecError(RavanError):
    """An adapter spec whose fields contradict one another."""

    code = "bad-spec"


class TargetError(RavanError):
    """A target pattern matches no linear layer of the model."""

    code = "no-such-layer"


class UpdateError(RavanError):
    """An update that must not be stored."""

    code = "bad-update"


class MalformedUpdate(UpdateError):
    """The bytes do not follow the update format of this version."""

    code = "malformed-update"


class WrongFormat(UpdateError):
    """The update's values are coded in another way than the run's plan says."""

    code = "wrong-format"


class WrongSpec(UpdateError):
    """The update was made for another adapter spec."""

    code = "wrong-spec"


class WrongShape(UpdateError):
    """The update's H or saved part has other dimensions than the spec's."""

    code = "wrong-shape"


class UnknownHead(UpdateError):
    """The update names a layer or head outside the spec."""

    code = "unknown-head"


class HeadsNotAllowed(UpdateError):
    """The update carries heads that the device's budget does not pay for."""

    code = "heads-not-allowed"


class WrongScale(UpdateError):
    """A scale of the update's coded values is negative, NaN or Inf."""

    code = "wrong-scale"


class NotFinite(UpdateError):
    """The update holds NaN or Inf."""

    code = "not-finite"


class NormTooLarge(UpdateError):
    """The update changes a head, or the modules trained whole, by more than the round takes."""

    code = "norm-too-large"


class BundleError(RavanError):
    """A training bundle is damaged, incomplete or made for another version."""

    code = "bad-bundle"


class ReleaseError(RavanError):
    """An archive of the client is damaged, not signed by the operator, too old, or not for this machine."""

    code = "bad-release"


class ExportError(RavanError):
    """A model can't be turned into a bundle; names the module or operator."""

    code = "export-failed"


class DataError(RavanError):
    """A data file holds something that is no example; names file, line and reason."""

    code = "bad-data"


class NoExamples(DataError):
    """A data file holds no usable example."""

    code = "no-examples"
    exit_code = 4


class SettingsError(RavanError):
    """A setting is unknown, missing or out of range."""

    code = "bad-settings"
    exit_code = 2


class RuntimeProblem(RavanError):
    """onnxruntime fails in the middle of its work, for example for want of memory."""

    code = "runtime"


class EnvironmentProblem(RavanError):
    """The machine refuses what is needed: a port, a folder, disk space."""

    code = "environment"
    exit_code = 5


class DiskFull(EnvironmentProblem):
    """The disk has no room left, which may pass."""

    code = "disk-full"


class Unreachable(RavanError):
    """The server does not answer."""

    code = "unreachable"
    exit_code = 6


class NotTrusted(RavanError):
    """The server can't show that it is the one that is trusted."""

    code = "not-trusted"
    exit_code = 7
