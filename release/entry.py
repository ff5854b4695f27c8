"""What the binary starts."""

import sys

if sys.argv[1:2] == ["-m"]:  # as Python does, for that is how the client starts processes of its own
    from runpy import run_module

    sys.argv = sys.argv[2:]
    run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    from edge.cli import main

    main()
