"""Brings finished updates to the server, and keeps the owner's record of every one that was sent."""

import structlog

from edge.errors import Refused
from edge.fleet_client import FleetClient
from edge.home import Home
from edge.outbox import Finished
from edge.upload_log import RECEIVED, Upload
from ravan.sizes import heads_of, value_type_of

log = structlog.get_logger()


class Courier:
    """Of one device."""

    def __init__(self, name: str, client: FleetClient, home: Home) -> None:
        self._name, self._client, self._home = name, client, home

    def send(self, finished: Finished) -> None:
        """Uploads an update; that it is sent is on record before its first byte is, and then what the server said.

        Raises:
            Refused: by the server.
            OSError: the record can't be written, and nothing was sent.
        """
        upload, record = self._described(finished), self._home.uploads
        record.began(upload)
        try:
            receipt = self._client.upload(finished.header, finished.data)
        except Refused as error:
            self._end(upload, error.code)
            raise
        self._end(upload, RECEIVED, receipt)

    def _end(self, upload: Upload, outcome: str, receipt: str = "") -> None:
        try:
            self._home.uploads.ended(upload, outcome, receipt)
        except OSError as error:  # the server has the update: it must not be sent again for want of a line
            log.warning("record of uploads not written", reason=error.strerror)

    def _described(self, finished: Finished) -> Upload:
        binding, heads = finished.header.binding, dict[str, list[int]]()
        layers = self._home.layers(binding.bundle_id)
        for layer, head in heads_of(finished.data):
            heads.setdefault(layers[layer] if layer < len(layers) else str(layer), []).append(head)
        return Upload(
            device=self._name,
            run=binding.run_id,
            round=binding.round,
            bundle=binding.bundle_id,
            bytes=len(finished.data),
            sha256=finished.header.sha256,
            heads=heads,
            wire=value_type_of(finished.data),
        )
