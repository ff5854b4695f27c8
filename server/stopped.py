"""Runs and devices of a server that is not running, read from its state."""

from contextlib import closing

from protos.ravan.v1 import control_pb2 as pb
from server.place import Place
from server.postgres import open_engine
from server.report import report_devices, report_run
from server.sql_state import DATABASE, SqlState, open_sqlite


def is_kept(place: Place) -> bool:
    """Whether there is a state to read."""
    return bool(place.database) or (place.folder / DATABASE).is_file()


def read(place: Place) -> tuple[list[pb.Run], list[pb.Device]]:
    """What its Control service would tell."""
    with closing(SqlState(open_engine(place.database)) if place.database else open_sqlite(place.folder)) as stored:
        return [report_run(stored, run) for run in stored.runs()], report_devices(stored)
