"""The server's memory behind one interface: every method is one transaction, durable when it returns."""

from typing import Protocol

from ravan.runtime.session import Evaluation
from server.keyring import Keyring
from server.records import Assignment, AssignmentState, Device, Release, Round, Run, RunState


class State(Keyring, Protocol):
    """Runs, rounds, devices, their keys, and each device's part in a round.

    One contract test suite holds for every implementation. Blobs are kept elsewhere, by the sha256 recorded here.
    """

    def create_run(self, run: Run) -> None:
        """Adds a run.

        Raises:
            WrongState: another run is active or paused.
        """

    def runs(self) -> list[Run]:
        """All runs, newest first."""
        ...

    def run(self, run_id: str) -> Run:
        """One run.

        Raises:
            NotFound: there is no such run.
        """
        ...

    def active_run(self) -> Run | None:
        """The run that is active or paused."""
        ...

    def set_run_state(self, run_id: str, state: RunState, now: float) -> None:
        """Changes a run's state; an open round of a run that ends is abandoned.

        Raises:
            WrongState: the run has ended.
        """

    def record_initial(self, run_id: str, evaluation: Evaluation) -> None:
        """Keeps the evaluation before the first round."""

    def see_device(self, device: Device) -> None:
        """Records a check-in; counters and the last failure stay as they are."""

    def devices(self) -> list[Device]:
        """All devices, most recently seen first."""
        ...

    def present_devices(self, run_id: str, since: float) -> list[str]:
        """Ids, in order, of devices seen since then that have no open part in the run; revoked ones are not present."""
        ...

    def count_present(self, since: float) -> int:
        """How many devices were seen since then."""
        ...

    def open_round(self, opened: Round) -> None:
        """Adds a round."""

    def rounds(self, run_id: str) -> list[Round]:
        """A run's rounds in order."""
        ...

    def count_parts(self, run_id: str, number: int) -> dict[AssignmentState, int]:
        """How many devices have a part in a round, by the part's state."""
        ...

    def count_published(self, run_id: str) -> int:
        """How many of a run's rounds are published."""
        ...

    def current_round(self, run_id: str) -> Round | None:
        """A run's newest round."""
        ...

    def select(self, run_id: str, number: int, device_ids: list[str], deadline: float) -> None:
        """Gives devices a part in a selecting round, which then collects until the deadline."""

    def extend_deadline(self, run_id: str, number: int, deadline: float) -> None:
        """Moves a collecting round's deadline, as after a restart."""

    def assignments(self, run_id: str, number: int | None = None) -> list[Assignment]:
        """The parts in one round or in all, in the order of round and device id."""
        ...

    def assignment(self, run_id: str, number: int, device_id: str) -> Assignment | None:
        """A device's part in a round."""
        ...

    def count_bytes_down(self, run_id: str, number: int, device_id: str, size: int) -> None:
        """Adds to what a device downloaded for its part in a round."""

    def count_bundle_bytes(self, device_id: str, size: int) -> None:
        """Adds to what a device downloaded of bundles."""

    def join(self, part: Assignment) -> Assignment | None:
        """Gives a device a part in an asynchronous run's newest round; the one it has already, if so.

        None if the round no longer collects, or the device was revoked.
        """
        ...

    def expect(self, part: Assignment) -> None:
        """Says whether an update could be counted by now.

        Raises:
            RoundClosed: no round takes it.
            TooStale: an asynchronous run has published too many adapters since it began.
        """

    def receive(self, received: Assignment) -> None:
        """Counts an update; that of an asynchronous run goes to the end of the buffer.

        Raises:
            RoundClosed, TooStale: see ``expect``.
            Conflict: another update by this device is counted already.
            Revoked: the device was revoked since it began to upload.
        """

    def names_update(self, sha256: str, run_id: str = "", after: int = 0) -> bool:
        """Whether any part counts this update, leaving out what counts in one run's rounds up to ``after``."""
        ...

    def counted(self, run_id: str, number: int) -> list[Assignment]:
        """The parts whose updates count in a round, in the order of receipt or, without one, of device id."""
        ...

    def buffered(self, run_id: str) -> int:
        """How many updates of an asynchronous run wait to be folded."""
        ...

    def fail(self, run_id: str, number: int, device_id: str, failure: str) -> None:
        """Gives a device's part back, unless its update is counted already."""

    def close_round(self, run_id: str, number: int) -> None:
        """A collecting round takes no more updates and is aggregated."""

    def close_buffer(self, run_id: str, number: int, size: int) -> None:
        """The oldest updates in the buffer, so many, count in a collecting round, which is aggregated.

        Raises:
            WrongState: there are fewer.
        """

    def abandon(self, run_id: str, number: int, now: float) -> None:
        """A round ends without a new adapter."""

    def publish(
        self,
        run_id: str,
        number: int,
        adapter: str,
        evaluation: Evaluation | None,
        now: float,
        optimizer_memory: str | None = None,
    ) -> None:
        """An aggregated round's adapter becomes the run's, together with what the server optimizer remembers."""

    def set_release(self, release: Release) -> Release | None:
        """Offers a release to its kind of machine; returns the one before."""
        ...

    def releases(self) -> list[Release]:
        """The releases that are offered, by machine."""
        ...

    def withdraw_release(self, machine: str) -> Release:
        """Offers a kind of machine none any more.

        Raises:
            NotFound: none is offered to it.
        """
        ...

    def close(self) -> None:
        """Releases the storage."""
