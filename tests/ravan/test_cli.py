"""Settings: one description, four sources, and a sentence for whatever does not fit."""

import errno
import re
from pathlib import Path

import pytest
import typer
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from typer.testing import CliRunner

from ravan.cli.errors import explain_os_error, run
from ravan.cli.settings import Settings, argument, command, load
from ravan.errors import NoExamples, SettingsError


class Example(Settings):
    model_config = SettingsConfigDict(env_prefix="RAVAN_TEST_", frozen=True, extra="forbid")

    name: str = argument("A name.")
    count: int = Field(3, gt=0, description="How many.")
    paths: tuple[Path, ...] = Field((), description="Where.")
    loud: bool = Field(False, description="Whether loud.")


def test_command_line_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "a.toml"
    assert load(Example, {"name": "x"}).count == 3
    config.write_text("count = 4\n")
    assert load(Example, {"name": "x"}, config).count == 4
    monkeypatch.setenv("RAVAN_TEST_COUNT", "5")
    assert load(Example, {"name": "x"}, config).count == 5
    assert load(Example, {"name": "x", "count": 6}, config).count == 6


def test_unknown_keys_are_refused_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "a.toml"
    config.write_text("cuont = 4\n")
    with pytest.raises(SettingsError, match="--cuont"):
        load(Example, {"name": "x"}, config)
    monkeypatch.setenv("RAVAN_TEST_CUONT", "5")
    with pytest.raises(SettingsError, match="RAVAN_TEST_CUONT names no setting"):
        load(Example, {"name": "x"})


@pytest.mark.parametrize("content", ["count = ", "count = 0", '"\xff"'])
def test_a_wrong_file_or_value_gets_a_sentence(tmp_path: Path, content: str) -> None:
    config = tmp_path / "a.toml"
    config.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError):
        load(Example, {"name": "x"}, config)
    with pytest.raises(SettingsError, match="can't be read"):
        load(Example, {"name": "x"}, tmp_path / "absent.toml")


def test_lists_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVAN_TEST_PATHS", '["a", "b"]')
    assert load(Example, {"name": "x"}).paths == (Path("a"), Path("b"))
    monkeypatch.setenv("RAVAN_TEST_PATHS", "a,b")
    with pytest.raises(SettingsError, match="as JSON"):
        load(Example, {"name": "x"})


def test_a_command_has_one_option_per_field() -> None:
    seen: list[Example] = []
    app = typer.Typer()
    app.command()(command(Example)(seen.append))
    done = CliRunner().invoke(app, ["n", "--count", "9", "--paths", "p", "--paths", "q", "--loud"])
    assert done.exit_code == 0, done.output
    assert seen == [Example(name="n", count=9, paths=(Path("p"), Path("q")), loud=True)]
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "How many." in shown
    assert re.search(r"How many\..*default: \(3", shown)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (NoExamples("Nothing there: look."), 4, "error: Nothing there: look."),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            5,
            "error: /x: No space left on device: free some space",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_users_mistake_ends_in_one_sentence_and_an_exit_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(fail)
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert shown.startswith(says)
    assert "Traceback" not in shown


def test_our_own_defects_keep_their_traceback() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(fail)


def test_a_refusal_of_the_system_names_the_file() -> None:
    assert "port" in str(explain_os_error(OSError(errno.EADDRINUSE, "Address already in use")))
