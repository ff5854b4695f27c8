"""Any torch module as a training bundle: what its factory says, checked, as a recipe."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from export.architectures import Architecture
from export.custom_checks import checked, checked_outputs, checked_rows
from export.recipe import Example, Recipe
from ravan.bundle import Task
from ravan.errors import BundleError, ExportError, SettingsError
from ravan.inputs import BATCH, LEAST, CustomSettings, Loss, Metric
from ravan.plugins import describe, load_object
from ravan.runtime.names import IGNORED
from ravan.torch import CustomModel
from ravan.torch.inject import matches

WEIGHTS, FACTORY = "model.safetensors", "factory.json"
"""Of a custom model's folder: its state dict, and where the factory is."""


def custom_model(factory: str) -> Recipe:
    """The recipe for what a factory makes.

    Args:
        factory: ``package.module:name`` or ``folder/file.py:name`` of a function without arguments.

    Raises:
        SettingsError: there is no such factory.
        ExportError: it fails, or returns something that can't be trained; the sentence says which part.
    """
    return _recipe(factory, _made(factory))


def saved_model(folder: Path) -> Recipe:
    """The recipe for a folder that a custom recipe's ``save`` wrote: the factory's module with the saved weights.

    Raises:
        BundleError: the factory is gone, or makes a module that these weights don't fit.
        ExportError: as ``custom_model``.
    """
    factory = str(json.loads((folder / FACTORY).read_text("utf-8"))["factory"])
    try:
        made = _made(factory)
    except SettingsError as error:
        raise BundleError(f"The bundle was made by {factory}, which is needed again: {error}") from error
    try:
        made.module.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(
            f"{factory} makes another module than when the bundle was exported: bring the old code back, or export "
            "the bundle again."
        ) from error
    return _recipe(factory, made)


def _made(factory: str) -> CustomModel:
    make = load_object(factory)
    if not callable(make):
        raise ExportError(f"{factory} is {type(make).__name__}: name a function that returns a CustomModel.")
    try:
        made = make()
    except Exception as error:  # whatever the user's code raises
        raise ExportError(f"{factory} failed ({describe(error)}): correct it.") from error
    return checked(made, factory)


def _recipe(factory: str, made: CustomModel) -> Recipe:
    loss, longest = Loss(made.loss), _longest(made)
    made.module.eval()
    outputs = checked_outputs(made, factory)
    checked_rows(made, factory, outputs)
    labels = _labels(made, factory, outputs)
    return Recipe(
        task=Task.CUSTOM,
        model=made.module,
        architecture=partial(_architecture, made),
        axes={name: {0: BATCH, **made.dynamic.get(name, {})} for name in made.batch},
        longest=0,
        example=partial(_example, made, longest),
        save=partial(_save, made.module, factory),
        settings={
            "labels": labels,
            "max_length": 0,
            "pad_id": 0,
            "custom": CustomSettings(loss, Metric(made.metric or loss.metrics[0]), longest),
        },
        longest_axes=longest,
        loss=loss,
    )


def _longest(made: CustomModel) -> dict[str, int]:
    sizes = {name: made.batch[x].shape[axis] for x, axes in made.dynamic.items() for axis, name in axes.items()}
    return {name: int(made.longest.get(name, size)) for name, size in sizes.items()}


def _labels(made: CustomModel, factory: str, outputs: Tensor) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
        ExportError: they are not as many as the outputs' last axis is long.
    """
    if Loss(made.loss) is Loss.MEAN_SQUARED_ERROR:
        return ()
    classes = outputs.shape[-1]
    names = made.label_names or tuple(map(str, range(classes)))
    if len(names) != classes:
        raise ExportError(
            f"{factory}: label_names has {len(names)} names and the outputs {classes} classes: give one for each."
        )
    return names


def _architecture(made: CustomModel) -> Architecture:
    """The patterns given, or all linear layers but the last, which is trained whole.

    Raises:
        ExportError: there is no layer to adapt.
    """
    modules = {name: module for name, module in made.module.named_modules() if name}
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    saved = tuple(made.saved) or (() if made.targets else tuple(map(_exactly, linear[-1:])))
    whole = tuple(f"{name}." for name in modules if any(matches(name, pattern) for pattern in saved))
    free = (name for name in linear if not f"{name}.".startswith(whole))
    targets = tuple(made.targets) or tuple(map(_exactly, free))
    if not targets:
        raise ExportError(
            f"The module has no linear layer to adapt ({len(linear)} in all, the last is trained whole by default): "
            "name targets and saved modules in the CustomModel."
        )
    return Architecture(targets, saved)


def _exactly(name: str) -> str:
    """A pattern for this module and none whose name ends like it."""
    return f"[{name[0]}]{name[1:]}"


def _example(made: CustomModel, longest: Mapping[str, int], rows: int, length: int) -> Example:
    """The example batch, its rows and dynamic axes repeated or cut to the size; random labels.

    Dynamic axes get different sizes, so that none passes for another.
    """
    sizes = {name: max(min(length + i, most), LEAST) for i, (name, most) in enumerate(longest.items())}
    axes = {name: {axis: sizes[of] for axis, of in made.dynamic.get(name, {}).items()} for name in made.batch}
    batch = {name: _resized(value, {0: rows, **axes[name]}) for name, value in made.batch.items()}
    outputs = checked_outputs(made, "At other sizes of the example batch", batch)
    return Example(batch, _random_labels(Loss(made.loss), outputs))


def _resized(value: Tensor, sizes: Mapping[int, int]) -> Tensor:
    for axis, size in sizes.items():
        value = value.index_select(axis, torch.arange(size) % value.shape[axis])
    return value.contiguous()


def _random_labels(loss: Loss, outputs: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if loss is Loss.MEAN_SQUARED_ERROR:
        return outputs + torch.randn(outputs.shape, generator=generator)
    labels = torch.randint(0, outputs.shape[-1], outputs.shape[:-1], generator=generator)
    if loss is Loss.TOKEN_CROSS_ENTROPY:
        ignored = torch.rand(labels.shape, generator=generator) < 0.3
        ignored[..., 0] = False
        labels[ignored] = IGNORED
    return labels


def _save(module: nn.Module, factory: str, folder: Path) -> None:
    """A plain state dict, and the factory's name."""
    folder.mkdir(exist_ok=True)
    state = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(state, folder / WEIGHTS)
    (folder / FACTORY).write_text(json.dumps({"factory": factory}) + "\n", "utf-8")
