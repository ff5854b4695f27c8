"""ravan-export: make, inspect and merge training bundles."""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from export.recipe import Recipe

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(highlight=False)


class Documents(StrEnum):
    """How documents become sequences."""

    PACKED = "packed"
    PADDED = "padded"


class ExportSettings(Settings):
    """What the export commands have in common."""

    model_config = SettingsConfigDict(env_prefix="RAVAN_EXPORT_", frozen=True, extra="forbid")

    model: str = argument("Folder or hub id of a transformers model.")
    out: Path = Field(description="Folder to write the bundle to; must not exist.")
    heads: PositiveInt = Field(4, description="Number of heads h in every adapted layer.")
    rank: PositiveInt | None = Field(None, description="Rank r of every head.")
    budget: PositiveInt | None = Field(None, description="Trainable parameters in all H; the rank follows from it.")
    init: Init = Field(Init.GRAM_SCHMIDT, description="How the frozen bases are drawn.")
    seed: int = Field(0, ge=0, description="Seed of the bases and of new modules.")
    target: tuple[str, ...] = Field((), description="Linear layers to adapt, by name or pattern; may be repeated.")
    train: tuple[str, ...] = Field((), description="Modules to train whole, by name or pattern; may be repeated.")
    top_layers: PositiveInt | None = Field(
        None, description="Adapt only so many of the top layers: the backward pass stops below, devices may cache."
    )
    precision: Precision = Field(Precision.FP32, description="Of the frozen products: fp32, or the faster int8.")
    activation_memory: PositiveInt = Field(
        192, description="MB for activations: fewer tokens at a time, and in need layers computed twice, to fit in."
    )
    tolerance: float = Field(1e-4, gt=0, description="Largest accepted relative difference to torch's gradients.")
    with_ort_training: bool = Field(
        default=False, description="Add the official artifacts for devices that train with onnxruntime-training."
    )
    ort_training_python: Path | None = Field(
        None, description="Python of an environment with onnxruntime-training, which makes the artifacts."
    )


class TextClassifierSettings(ExportSettings):
    """Settings of ``ravan-export text-classifier``."""

    labels: str = Field(description="Number of labels, or a text file with one label name a line.")
    max_length: int = Field(128, ge=2, description="Longest sequence, tokens.")


class TokenClassifierSettings(ExportSettings):
    """Settings of ``ravan-export token-classifier``."""

    labels: str = Field(description="Number of tags, or a text file with one tag a line.")
    max_length: int = Field(128, ge=2, description="Longest sequence, tokens.")


class CausalLMSettings(ExportSettings):
    """Settings of ``ravan-export causal-lm``."""

    model: str = argument("Folder, hub id or .gguf file of a transformers model.")
    max_length: int = Field(128, ge=2, description="Tokens of a training sequence.")
    documents: Documents = Field(
        Documents.PACKED, description="packed: joined and cut into full sequences; padded: each on its own."
    )


class Seq2SeqSettings(ExportSettings):
    """Settings of ``ravan-export seq2seq``."""

    labels: str | None = Field(
        None, description="To classify by writing a label's name: a text file with one name a line."
    )
    prefix: str = Field("", description="Text that every source begins with, such as 'summarize: '.")
    max_length: int = Field(128, ge=2, description="Longest source, tokens.")
    max_target_length: int | None = Field(
        None, ge=2, description="Longest target, tokens; 64 by default, or as the labels need."
    )


class ImageClassifierSettings(ExportSettings):
    """Settings of ``ravan-export image-classifier``."""

    labels: str = Field(description="Number of labels, or a text file with one label name a line.")


class CustomModelSettings(ExportSettings):
    """Settings of ``ravan-export custom``."""

    model: str = argument("package.module:factory or file.py:factory, a function that returns a CustomModel.")


@app.command()
@command(TextClassifierSettings)
def text_classifier(settings: TextClassifierSettings) -> None:
    """Export a transformers model as a bundle for text classification."""
    labels = read_labels(settings.labels)

    def recipe() -> "Recipe":
        from export.text_classifier import text_classifier

        return text_classifier(settings.model, labels, settings.max_length, settings.seed)

    _export(settings, recipe)


@app.command()
@command(TokenClassifierSettings)
def token_classifier(settings: TokenClassifierSettings) -> None:
    """Export a transformers model as a bundle for token classification: a tag for every word."""
    labels = read_labels(settings.labels)

    def recipe() -> "Recipe":
        from export.token_classifier import token_classifier

        return token_classifier(settings.model, labels, settings.max_length, settings.seed)

    _export(settings, recipe)


@app.command()
@command(CausalLMSettings)
def causal_lm(settings: CausalLMSettings) -> None:
    """Export a transformers model as a bundle for next-token prediction."""

    def recipe() -> "Recipe":
        from export.causal_lm import causal_lm

        packed = settings.documents is Documents.PACKED
        return causal_lm(settings.model, settings.max_length, settings.seed, packed=packed)

    _export(settings, recipe)


@app.command()
@command(Seq2SeqSettings)
def seq2seq(settings: Seq2SeqSettings) -> None:
    """Export a transformers encoder-decoder as a bundle for writing targets, or the names of labels."""
    labels = read_labels(settings.labels) if settings.labels else ()

    def recipe() -> "Recipe":
        from export.seq2seq import seq2seq

        longest, target = settings.max_length, settings.max_target_length
        return seq2seq(settings.model, labels, longest, target, settings.seed, prefix=settings.prefix)

    _export(settings, recipe)


@app.command()
@command(ImageClassifierSettings)
def image_classifier(settings: ImageClassifierSettings) -> None:
    """Export a vision transformer as a bundle for image classification."""
    labels = read_labels(settings.labels)

    def recipe() -> "Recipe":
        from export.image_classifier import image_classifier

        return image_classifier(settings.model, labels, settings.seed)

    _export(settings, recipe)


@app.command()
@command(CustomModelSettings)
def custom(settings: CustomModelSettings) -> None:
    """Export a torch module of your own, described by a ravan.torch.CustomModel."""

    def recipe() -> "Recipe":
        from export.custom import custom_model

        return custom_model(settings.model)

    _export(settings, recipe, Path(settings.model).name)


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
    int8: Annotated[bool, typer.Option("--int8", help="Write model-int8.onnx too, with int8 weights.")] = False,
) -> None:
    """Merge a trained adapter into the model: a transformers folder (or a state dict) and model.onnx."""
    with console.status("starting") as status:
        from export.merge import merge_bundle

        merged = merge_bundle(open_bundle(bundle), adapter, out, lambda text: _step(status.update, text), int8=int8)
    console.print(f"{merged.folder}: logits within {max(merged.transformers, merged.onnx):.1e} of the adapter model")
    if merged.int8:
        console.print(f"int8: {merged.int8}")


@app.command()
def lora(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    adapter: Annotated[Path, typer.Argument(help="A trained adapter (safetensors).")],
    out: Annotated[Path, typer.Option(help="Folder to write the LoRA adapter to; must not exist.")],
) -> None:
    """Write a trained adapter as a LoRA adapter that PEFT loads: the same function, rank heads * rank."""
    from export.lora import write_lora

    written = write_lora(open_bundle(bundle), adapter, out)
    console.print(f"{written.folder}: rank {written.rank}, {written.layers} layers")


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


def _export(settings: ExportSettings, recipe: Callable[[], "Recipe"], name: str = "") -> None:
    """The common part of the export commands; ``name`` is the model's, its folder's or hub id by default."""
    if (settings.rank is None) == (settings.budget is None):
        raise SettingsError("Give either --rank or --budget: the one follows from the other.")
    with console.status("starting") as status:
        from export.bundle import ExportOptions, export_bundle
        from ravan.runtime.ort_training import require_python

        ort_python = require_python(settings.ort_training_python) if settings.with_ort_training else None
        options = ExportOptions(
            heads=settings.heads,
            rank=settings.rank,
            budget=settings.budget,
            init=settings.init,
            seed=settings.seed,
            targets=settings.target,
            saved=settings.train,
            top_layers=settings.top_layers,
            precision=settings.precision,
            tolerance=settings.tolerance,
            activation_memory=settings.activation_memory * 1_000_000,
            ort_python=ort_python,
        )
        name = name or (Path(settings.model).name if Path(settings.model).exists() else settings.model)
        bundle = export_bundle(recipe, options, settings.out, name, lambda text: _step(status.update, text))
    _print_bundle(bundle.folder, Format.TEXT)


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
