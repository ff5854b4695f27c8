"""A turn of Flower's server, in an environment of its own: SuperLink, a SuperNode for every client, the app beside."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.memory import PeakMemory
from benchmarks.serving.ours import way
from benchmarks.serving.processes import answers, free_port, group, wait_until
from benchmarks.serving.turns import Turn, Work, durations

APP = Path(__file__).parent / "flower_app"
START_SECONDS, ROUND_SECONDS = 240.0, 120.0
CONFIG = """[superlink]
default = "bench"

[superlink.bench]
address = "127.0.0.1:{port}"
insecure = true
"""


@dataclass(frozen=True)
class Flower:
    """Flower in its usual form: ``flower-superlink`` and ``flower-supernode --insecure``, state in memory.

    Attributes:
        python: of the environment that it is installed in.
        values: of the vector, float32.
    """

    python: Path
    values: int

    def play(self, work: Work, folder: Path, *, count: bool = False) -> Turn:
        """All rounds; bytes are counted by a proxy if so asked.

        Raises:
            RuntimeProblem: it takes too long; the log is in ``folder``.
        """
        out, port, binaries = folder / "rounds.json", free_port(), self.python.parent
        app, home = shutil.copytree(APP, folder / "app"), folder / "home"
        shutil.copy(APP.parents[2] / "LICENSE", app)  # Flower takes no app without one
        home.mkdir()
        (home / "config.toml").write_text(CONFIG.format(port=port), "utf-8")
        environment = {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        with group(folder / "flower.log", environment) as start:
            link = [str(binaries / "flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
            server = start([*link, "--host", "127.0.0.1", "--port", str(port)])
            wait_until(lambda: answers(port), "SuperLink", START_SECONDS)
            with way(port, count=count) as counted, PeakMemory(server.pid) as memory:
                for _ in range(work.clients):
                    node = [str(binaries / "flower-supernode"), "--insecure", "--superlink"]
                    start([*node, f"127.0.0.1:{counted.port}", "--port", str(free_port())])
                config = f"clients={work.clients} rounds={work.rounds} values={self.values} out='{out}'"
                submit = start([str(binaries / "flwr"), "run", str(app), "bench", "--run-config", config])

                def over() -> bool:
                    return out.exists() or bool(submit.poll())

                wait_until(over, "end of the run", START_SECONDS + ROUND_SECONDS * work.rounds)
        return Turn(durations(json.loads(out.read_text("utf-8"))["ends"]), memory.bytes, counted.up, counted.down)
