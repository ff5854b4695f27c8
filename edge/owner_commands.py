"""What the owner of a device asks and orders beside training: status, uploads, doctor, leave."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge.errors import NotEnrolled
from edge.settings import DEFAULT_HOME, DoctorSettings
from ravan.cli.output import Format
from ravan.cli.settings import command
from ravan.errors import EnvironmentProblem

HomeOption = Annotated[Path, typer.Option(help="Folder of the device's identity.", envvar="RAVAN_EDGE_HOME")]
FormatOption = Annotated[Format, typer.Option("--format", help="text or json.")]
MARKS = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "problem": "[red]problem[/red]"}
app = typer.Typer()


@app.command()
def status(home: HomeOption = DEFAULT_HOME, output: FormatOption = Format.TEXT) -> None:
    """Say what the client does, has done, and why it waits; also while it runs, and after it was killed."""
    from edge.telling import facts, words

    _require(home)
    if output is Format.JSON:
        print(json.dumps(facts(home), indent=2))
        return
    for line in words(home):
        print(line)


@app.command()
def uploads(
    home: HomeOption = DEFAULT_HOME,
    last: Annotated[int, typer.Option(min=0, help="How many to list, the newest; 0 for all.")] = 20,
    output: FormatOption = Format.TEXT,
) -> None:
    """List what was sent from here: when, how much, its sha256, the heads in it, and what the server said."""
    from edge.upload_log import read_uploads

    _require(home)
    found = list(read_uploads(home))[-last:]
    if output is Format.JSON:
        print(json.dumps(found, indent=2))
        return
    for line in map(_upload, found):
        print(line)
    if not found:
        print("No update has been sent from here.")


@app.command()
@command(DoctorSettings)
def doctor(settings: DoctorSettings) -> None:
    """Look over home, keys, server, clock, disk, memory, data and conditions; exit code 5 if one is a problem."""
    from edge.doctor import examine
    from edge.findings import Verdict

    findings, console = [], Console(soft_wrap=True, highlight=False)
    for finding in examine(settings):
        findings.append(finding)
        if settings.format is Format.TEXT:
            console.print(MARKS[finding.verdict], end=" ")
            console.print(f"{finding.check}: {finding.sentence}", markup=False)
    if settings.format is Format.JSON:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise typer.Exit(EnvironmentProblem.exit_code)


@app.command()
def leave(
    home: HomeOption = DEFAULT_HOME,
    name: Annotated[str | None, typer.Option(help="Name of the device; all devices of the home by default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask whether you mean it.")] = False,
) -> None:
    """Leave the federation: tell the server, and delete key, bundles, cached data and adapters from this device."""
    from edge.home import Home
    from edge.leaving import leave as leave_for_good
    from edge.leaving import remains

    _require(home)
    with closing(Home(home)) as opened:
        if name is not None and opened.identities.get(name) is None:
            raise NotEnrolled(f"There is no device {name!r} in {home}: ravan-edge doctor lists those that are.")
        if not yes:
            typer.confirm(f"Delete what {home} holds for the federation, its keys too?", abort=True)
        farewells = leave_for_good(home, opened.identities, name)
    for farewell in farewells:
        print(f"{farewell.name or farewell.device_id[:8]} has left; what it held for the federation is deleted.")
    if not farewells:
        print(f"No device was enrolled in {home}; what it held is deleted.")
    for sentence in remains(home, farewells):
        print(sentence)


def _require(home: Path) -> None:
    if not home.is_dir():
        raise EnvironmentProblem(f"{home} does not exist: give the --home of the client.")


def _upload(upload: dict[str, object]) -> str:
    """One upload in a line."""
    heads = upload["heads"]
    assert isinstance(heads, dict)
    carried = sum(map(len, heads.values()))
    said = upload.get("receipt") or upload["outcome"]
    return (
        f"{upload['began']}  {upload['device']}  round {upload['round']}  {upload['bytes']} bytes ({upload['wire']})  "
        f"{carried} heads in {len(heads)} layers  sha256 {str(upload['sha256'])[:12]}  {said}"
    )
