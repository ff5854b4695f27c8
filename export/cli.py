"""ravan-export: make, inspect and merge training bundles."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict
from rich.console import Console

from ravan.bundle import Precision, open_bundle
from ravan.cli.errors import run
from ravan.cli.output import Format
from ravan.cli.settings import Settings, argument, command
from ravan.errors import SettingsError
from ravan.spec import Init

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(highlight=False)


class TextClassifierSettings(Settings):
    """Settings of ``ravan-export text-classifier``."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_EXPORT_", frozen=True, extra="forbid")

    model: str = argument("Folder or hub id of a transformers model.")
    out: Path = Field(description="Folder to write the bundle to; must not exist.")
    labels: str = Field(description="Number of labels, or a text file with one label name a line.")
    heads: PositiveInt = Field(4, description="Number of heads h in every adapted layer.")
    rank: PositiveInt | None = Field(None, description="Rank r of every head.")
    budget: PositiveInt | None = Field(None, description="Trainable parameters in all H; the rank follows from it.")
    init: Init = Field(Init.GRAM_SCHMIDT, description="How the frozen bases are drawn.")
    seed: int = Field(0, ge=0, description="Seed of the bases and of a new classifier.")
    target: tuple[str, ...] = Field((), description="Linear layers to adapt, by name or pattern; may be repeated.")
    train: tuple[str, ...] = Field((), description="Modules to train whole, by name or pattern; may be repeated.")
    max_length: int = Field(128, ge=2, description="Longest sequence, tokens.")
    precision: Precision = Field(Precision.FP32, description="Of the frozen products: fp32, or the faster int8.")
    tolerance: float = Field(1e-4, gt=0, description="Largest accepted relative difference to torch's gradients.")


@app.command()
@command(TextClassifierSettings)
def text_classifier(settings: TextClassifierSettings) -> None:
    """Export a transformers model as a bundle for text classification."""
    labels = read_labels(settings.labels)
    if (settings.rank is None) == (settings.budget is None):
        raise SettingsError("Give either --rank or --budget: the one follows from the other.")
    with console.status("starting") as status:
        from export.text_classifier import TextClassifierOptions, export_text_classifier

        options = TextClassifierOptions(
            model=settings.model,
            labels=labels,
            heads=settings.heads,
            rank=settings.rank,
            budget=settings.budget,
            init=settings.init,
            seed=settings.seed,
            targets=settings.target,
            saved=settings.train,
            max_length=settings.max_length,
            precision=settings.precision,
            tolerance=settings.tolerance,
        )
        bundle = export_text_classifier(options, settings.out, lambda text: _step(status.update, text))
    _print_bundle(bundle.folder, Format.TEXT)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    output: Annotated[Format, typer.Option("--format", help="text or json.")] = Format.TEXT,
) -> None:
    """Show what a bundle holds, after checking its files."""
    _print_bundle(bundle, output)


@app.command()
def merge(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder, with its source.")],
    adapter: Annotated[Path, typer.Argument(help="A trained adapter (safetensors).")],
    out: Annotated[Path, typer.Option(help="Folder to write the model to; must not exist.")],
) -> None:
    """Merge a trained adapter into the model: a transformers folder and model.onnx."""
    with console.status("starting") as status:
        from export.merge import merge_bundle

        merged = merge_bundle(open_bundle(bundle), adapter, out, lambda text: _step(status.update, text))
    console.print(f"{merged.folder}: logits within {max(merged.transformers, merged.onnx):.1e} of the adapter model")


def read_labels(value: str) -> tuple[str, ...]:
    """Label names from a number or a file with one name a line.

    Raises:
        SettingsError: fewer than two labels, a name twice, or no such file.
    """
    if value.isdecimal():
        labels = tuple(str(i) for i in range(int(value)))
    else:
        try:
            labels = tuple(filter(None, map(str.strip, Path(value).read_text("utf-8").splitlines())))
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"--labels: {value} can't be read ({error}): give a number or a UTF-8 text file."
            ) from error
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise SettingsError(f"--labels: {value} gives {len(labels)} labels: give at least two, each once.")
    return labels


def _step(update: object, text: str) -> None:
    console.print(text)
    assert callable(update)
    update(text)


def _print_bundle(folder: Path, output: Format) -> None:
    from export.inspect import describe, facts

    bundle = open_bundle(folder)
    if output is Format.JSON:
        print(json.dumps(facts(bundle), indent=2))
    else:
        console.print(describe(bundle))


def main() -> None:
    """Entry point of ravan-export."""
    run(app)


if __name__ == "__main__":
    main()
