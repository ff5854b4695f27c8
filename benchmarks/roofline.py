"""How far our step is from what the machine's matrix products allow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.contenders import Contender, run_json
from benchmarks.profile_step import Profile


@dataclass(frozen=True)
class Roofline:
    """A work's int8 step under the profiler, and beside the machine's peak.

    Attributes:
        work: its name.
        profile: shares of time, and multiply-adds needed.
        peak: multiply-adds a second, by ``fp32`` and ``int8``.
        seconds: that the necessary multiply-adds take at the peak.
        share: of the measured step.
    """

    work: str
    profile: Profile
    peak: Mapping[str, float]
    seconds: float
    share: float


def roofline(work: str, contender: Contender, measured: float) -> Roofline:
    """Profiles a contender of our side, and measures the machine's peak on the shapes of its frozen products.

    Raises:
        RuntimeProblem: a process failed.
    """
    job = replace(contender.job, steps=max(contender.job.steps, 1))
    profile = Profile.from_dict(run_json("benchmarks.profile_step", job.to_json()))
    peak = run_json("benchmarks.gemm", json.dumps(profile.weights))
    seconds = sum(count / peak[kind] for counts in profile.multiply_adds.values() for kind, count in counts.items())
    return Roofline(work, profile, peak, seconds, seconds / measured)
