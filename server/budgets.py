"""Which share of the heads a device trains in a run: what it says it can, or less if it would be late."""

from protos.ravan.v1 import fleet_pb2 as pb
from ravan.rpc.plan import SPREADS
from ravan.strength import fitting_budget, local_work, sensible
from server.errors import BadRequest, UnknownFormat
from server.records import Run
from server.requests import check_format


def accept(capabilities: pb.Capabilities, run: Run) -> float:
    """The share of the heads that a device is given in the run: no more than fits into a round by what it measured.

    Raises:
        UnknownFormat: it could not upload to the run, or does not know how the run spreads heads.
        BadRequest: its times make no sense.
    """
    check_format(capabilities, run)
    options, said = run.options, capabilities.step_times
    if SPREADS[options.head_spread] not in (capabilities.head_spreads or [pb.HEAD_SPREAD_PER_LAYER]):
        raise UnknownFormat(
            f"This run takes heads {options.head_spread}, which this device does not know: update ravan-fl."
        )
    if not all(sensible({time.depth: time.seconds_per_example}) for time in said):
        raise BadRequest("A step time of this device makes no sense: send what was measured.")
    times = {time.depth: time.seconds_per_example for time in said if time.bundle_id == run.bundle_id}
    work = local_work(options.local_steps, options.batch_size, 0 if options.is_async else options.deadline)
    return fitting_budget(options.head_spread, times, work, capabilities.head_budget)
