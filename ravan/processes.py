"""How another process ended, in its own words."""

import subprocess


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line on standard error of a process that has ended, its exit code where there is none."""
    return last_line(done.stderr) or f"exit code {done.returncode}"


def last_line(text: str) -> str:
    """The last line of what a process wrote; empty if it wrote none."""
    return (text.strip().splitlines() or [""])[-1]
