"""ravan-edge: its commands for people, and the hidden ones by which it starts parts of itself.

The hidden ones import what they need alone: the client is to stay small, and the worker to start fast.
"""

import sys


def main() -> None:
    """Entry point of ravan-edge."""
    match sys.argv[1:]:
        case ["_client", *arguments]:
            if not sys.stderr.isatty():
                sys.modules["rich"] = None  # type: ignore[assignment] # structlog would load it to color tracebacks
            from edge import client
            from ravan.cli.errors import run

            run(lambda: client.main(arguments))
        case ["_worker"]:
            from edge import worker

            worker.main()
        case ["_show", *arguments]:
            from edge import dry_run

            dry_run.main(arguments)
        case ["_bench", *arguments]:
            from edge import bench

            bench.main(arguments)
        case _:
            from edge import cli

            cli.main()


if __name__ == "__main__":
    main()
