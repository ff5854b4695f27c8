"""The promises, and the modules that try them.

A module is named here once it exists. It has one function, ``figures(folder)``: an iterator of ``Figure`` that may use
the empty folder as it likes, and leaves no process behind.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """What server or devices promise, in a sentence, and who tries it."""

    number: int
    name: str
    sentence: str
    modules: tuple[str, ...] = ()


PROMISES = (
    Promise(
        1,
        "A receipt is a promise",
        "An update is on disk before its receipt is sent; kill -9 anywhere loses none that has one, counts none twice, "
        "and changes no bit of what is published.",
        ("crash", "power"),
    ),
    Promise(
        2,
        "Exactly once",
        "Same device, same round, same body: same receipt; another body is refused. A transfer goes on at the byte "
        "where the line broke.",
        ("once",),
    ),
    Promise(
        3,
        "Rounds are bound",
        "What belongs to another round, base, spec or device is refused, each with a code and a counter of its own.",
        ("bound",),
    ),
    Promise(4, "Rounds close", "Late, dead and slow clients never hold a round; many devices cost little.", ("crowd",)),
    Promise(5, "Asynchronous mode", "Buffered aggregation keeps the same promises.", ("asynchronous",)),
    Promise(6, "Scale-out", "Replicas share one state: any takes any call, killing some loses nothing.", ("replicas",)),
    Promise(7, "Only known devices", "Nobody calls without an enrolled key, over TLS.", ("credentials",)),
    Promise(8, "Poison stops at the door", "Updates are checked before they are stored; rules bear hostile devices."),
    Promise(9, "Malformed never crashes", "No message brings the server down or costs it memory.", ("malformed",)),
    Promise(
        10,
        "Bad weather",
        "Disk full or read-only, fsync failing, a clock a day off, lines cut or half open, a locked database: a clear "
        "code, no corruption, and recovery when it clears.",
        ("weather",),
    ),
    Promise(
        11,
        "Devices survive",
        "A client or worker that is killed, loses power, disk, server, line or time goes on where it was: every update "
        "has the bits of an undisturbed run, none that is finished is trained again, and no partial file is left.",
        ("device_kills", "device_weather"),
    ),
)
