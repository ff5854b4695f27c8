"""One frozen settings model per process: command line over environment over TOML file over default.

A typer command gets its options from the model's fields, so that a setting is described once.
"""

import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError as SettingsSourceError
from pydantic_settings.sources import EnvSettingsSource

from ravan.errors import SettingsError


class Settings(BaseSettings):
    """Base of all settings: frozen, unknown keys refused, environment variables under a prefix; made by ``load``."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file with settings by these names.")]


def argument(description: str) -> Any:
    """A field that is a positional argument of the command."""
    return Field(description=description, json_schema_extra={"argument": True})


def load(model: type[S], given: Mapping[str, Any], config: Path | None = None) -> S:
    """Settings from the command line's values, the environment, a TOML file and the defaults, in this order.

    Raises:
        SettingsError: a key is unknown, a value missing or out of range; names it.
    """
    prefix = model.model_config.get("env_prefix", "")
    known = _names_with(prefix)
    for variable in os.environ:
        if prefix and variable.startswith(prefix) and variable.removeprefix(prefix).lower() not in known:
            raise SettingsError(f"Environment variable {variable} names no setting: correct or unset it.")
    try:
        values = {**_read_toml(model, config), **EnvSettingsSource(model)(), **given}
    except SettingsSourceError as error:
        raise SettingsError(f'{error}: write a list as JSON, for example \'["a", "b"]\'.') from error
    return validate(model, values)


def validate(model: type[S], values: Mapping[str, Any]) -> S:
    """Settings from these values and the defaults alone.

    Raises:
        SettingsError: a key is unknown, a value missing or out of range; names it.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "settings"
        raise SettingsError(f"{name}: {first['msg']}; see --help.") from error


def command(model: type[S]) -> Callable[[Callable[[S], None]], Callable[..., None]]:
    """Turns a function of a settings model into a typer command with one option per field, and --config."""

    def decorate(function: Callable[[S], None]) -> Callable[..., None]:
        def run(**options: Any) -> None:
            config = options.pop("config")
            given = {name: value for name, value in options.items() if value not in (None, [])}
            function(load(model, given, config))

        parameters = [_parameter(name, field) for name, field in model.model_fields.items()]
        config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption)
        run.__signature__ = inspect.Signature([*parameters, config])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate


def _names_with(prefix: str) -> set[str]:
    """Every setting of this prefix: a variable may be meant for another command of the program."""
    kinds, names = [Settings], set[str]()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.model_config.get("env_prefix", "") == prefix:
            names |= kind.model_fields.keys()
    return names


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """A field as a command-line parameter that defaults to None, "not given"."""
    kind: Any = field.annotation
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("argument"):
        declared: Any = typer.Argument(help=field.description, show_default=False)
        default: Any = ...
    else:
        flag = "--" + name.replace("_", "-")
        flags = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        declared, default = typer.Option(flags, help=field.description, show_default=_shown_default(field)), None
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    elif default is None and type(None) not in get_args(kind):
        kind = Union[kind, None]  # noqa: UP007 - built at run time
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def _shown_default(field: FieldInfo) -> str | bool:
    unset = field.is_required() or field.default in (None, (), "")
    return False if unset else str(field.default)


def _read_toml(model: type[Settings], path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        path.open("rb").close()  # the source below takes a missing file for an empty one
        return TomlConfigSettingsSource(model, toml_file=path)()
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}): check --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML ({error}): correct it.") from error
