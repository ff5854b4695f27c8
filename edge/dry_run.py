"""Showing an owner what would be sent: the message that begins an upload, and every tensor in its bytes."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from edge.contents import Content, contents
from edge.desk import BASE, FINISHED
from edge.outbox import Finished
from ravan.bundle import Bundle, open_bundle
from ravan.bundle_files import OPTIONAL
from ravan.cli.output import Format
from ravan.sizes import value_type_of
from ravan.update import decode
from ravan.wire import WireFormat


def main(arguments: Sequence[str]) -> None:
    """Shows what is in the outbox: the arguments are the folders of desk and bundle, and a format."""
    desk, folder, output = arguments
    finished = Finished.read(Path(desk) / FINISHED)
    if finished is not None:
        bundle = open_bundle(Path(folder), may_lack=OPTIONAL)
        sys.stdout.write(shown(finished, bundle, Path(desk) / BASE, Format(output)) + "\n")


def shown(finished: Finished, bundle: Bundle, base: Path, output: Format) -> str:
    """An upload as a text; ``base`` is the file of the adapter that the round started from."""
    spec = bundle.manifest.adapter
    wire = WireFormat(value_type_of(finished.data))
    found = contents(spec, wire, decode(spec, base.read_bytes()), finished.data)
    header = MessageToDict(finished.header, preserving_proto_field_name=True)
    if output is Format.JSON:
        return json.dumps({"header": header, "wire": wire, "contents": [asdict(c) for c in found]}, indent=2)
    return "\n".join(
        [
            "An upload begins with this message:",
            json.dumps(header, indent=2),
            f"Then come these {len(finished.data)} bytes, values as {wire}:",
            *_table(found),
            "Nothing of it was sent.",
        ]
    )


def _table(found: list[Content]) -> list[str]:
    rows = [("tensor", "shape", "bytes", "norm", "moved")]
    rows += [
        (c.name, " x ".join(map(str, c.shape)), str(c.bytes), *(_figures(c) if c.shape else ("", ""))) for c in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _figures(content: Content) -> tuple[str, str]:
    return f"{content.norm:.6g}", f"{content.moved:.6g}"
