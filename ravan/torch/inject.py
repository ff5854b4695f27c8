"""Putting Ravan heads into a module and taking them out again."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from ravan.bases import draw_bases
from ravan.errors import ExportError, TargetError
from ravan.spec import AdapterSpec, Init, LayerSpec, TensorSpec, rank_for_budget
from ravan.torch.linear import RavanLinear

_NUMBERED = re.compile(r"(?P<stack>(?:[^.]*\.)*?)(?P<number>[0-9]+)(?:\.|$)")


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name fits a pattern: a glob over the whole name, or its last parts (``attention.query``)."""
    return fnmatchcase(name, pattern) or name.endswith("." + pattern)


def find_targets(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers whose names match any of the patterns, in the model's order.

    Raises:
        TargetError: a pattern matches no linear layer; the message names the closest ones.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for pattern in patterns:
        if not any(matches(name, pattern) for name in linear):
            raise TargetError(f"No linear layer matches {pattern!r}: {_closest(pattern, linear)}.")
    return {name: module for name, module in linear.items() if any(matches(name, p) for p in patterns)}


def make_spec(
    model: nn.Module,
    patterns: Sequence[str],
    *,
    heads: int,
    rank: int | None = None,
    budget: int | None = None,
    init: Init = Init.GRAM_SCHMIDT,
    seed: int = 0,
    saved: Sequence[str] = (),
    top_layers: int | None = None,
) -> AdapterSpec:
    """The adapter spec for the layers that match ``patterns``; ``rank`` is given or follows from ``budget``.

    ``saved`` are patterns of modules that are trained as they are, as PEFT's modules_to_save. ``top_layers`` keeps
    only the targets in so many of the last transformer layers; the backward pass stops below them.

    Raises:
        TargetError: a pattern matches nothing, or a weight that another module uses too.
        SpecError: a count makes no sense.
    """
    targets = find_targets(model, patterns)
    if top_layers is not None:
        targets = _topmost(targets, top_layers)
    layers = tuple(LayerSpec(name, m.in_features, m.out_features) for name, m in targets.items())
    if rank is None:
        rank = rank_for_budget(budget or 0, layers, heads)
    tensors = tuple(_saved_tensors(model, saved, targets))
    _require_own(model, [*(f"{name}.weight" for name in targets), *(tensor.name for tensor in tensors)])
    return AdapterSpec(layers, heads, rank, init, seed, tensors)


def inject(model: nn.Module, spec: AdapterSpec) -> None:
    """Replaces the spec's layers by RavanLinear and freezes all else but the saved tensors, in place."""
    model.requires_grad_(requires_grad=False)
    for layer in spec.layers:
        base = model.get_submodule(layer.name)
        if not isinstance(base, nn.Linear) or (base.in_features, base.out_features) != (layer.d_in, layer.d_out):
            raise TargetError(
                f"{layer.name} is no linear layer of {layer.d_in} to {layer.d_out}: use the spec's own model."
            )
        model.set_submodule(layer.name, RavanLinear(base, draw_bases(spec, layer)))
    for tensor in spec.saved:
        model.get_parameter(tensor.name).requires_grad_()


@torch.no_grad()
def merge(model: nn.Module, spec: AdapterSpec) -> None:
    """Adds every layer's weight change to its W and puts the plain layer back, in place.

    Raises:
        ExportError: a merged weight is not finite.
    """
    for layer in spec.layers:
        adapted = model.get_submodule(layer.name)
        assert isinstance(adapted, RavanLinear)
        adapted.base.weight += adapted.weight_change()
        if not bool(torch.isfinite(adapted.base.weight).all()):
            raise ExportError(f"The merged weight of {layer.name} is not finite: choose an earlier adapter.")
        model.set_submodule(layer.name, adapted.base)


def _topmost(targets: dict[str, nn.Linear], count: int) -> dict[str, nn.Linear]:
    """Those in the last ``count`` layers of each stack, as an encoder and a decoder are two.

    A layer is known by the first number in a module's name, a stack by what comes before it.
    """
    stacks: defaultdict[str, set[int]] = defaultdict(set)
    layers: dict[str, tuple[str, int]] = {}
    for name in targets:
        if found := _NUMBERED.match(name):
            layers[name] = found["stack"], int(found["number"])
            stacks[found["stack"]].add(layers[name][1])
    longest = max(map(len, stacks.values()), default=0)
    if not 0 < count <= longest:
        raise TargetError(f"The top {count} layers can't be adapted: {longest} numbered layers match the targets.")
    top = {(stack, number) for stack, numbers in stacks.items() for number in sorted(numbers)[-count:]}
    return {name: module for name, module in targets.items() if layers.get(name) in top}


def _saved_tensors(model: nn.Module, patterns: Sequence[str], targets: Iterable[str]) -> Iterable[TensorSpec]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = [name for name, _ in model.named_modules() if name]
    chosen = set()
    for pattern in patterns:
        found = [name for name in modules if matches(name, pattern)]
        if not found:
            raise TargetError(f"No module matches {pattern!r}: {_closest(pattern, modules)}.")
        chosen |= set(found)
    for name, parameter in parameters.items():
        owners = {name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)}
        if owners & chosen:
            if owners & set(targets):
                raise TargetError(f"{name} is both adapted and trained whole: choose one of the two.")
            yield TensorSpec(name, tuple(parameter.shape))


def _require_own(model: nn.Module, names: Iterable[str]) -> None:
    """Raises TargetError if a parameter is that of another module too: the other would change with it."""
    shared: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(parameter, []).append(name)
    for name in names:
        if others := [other for other in shared[model.get_parameter(name)] if other != name]:
            raise TargetError(f"{name} is also {others[0]}: adapt and train modules that share no weight with others.")


def _closest(pattern: str, names: Iterable[str]) -> str:
    """The names most like a pattern that matched none, by any of their parts."""
    candidates = {part: name for name in names for part in name.split(".") if not part.isdecimal()}
    if not candidates:
        return "the model has none"
    near = difflib.get_close_matches(pattern.rsplit(".", 1)[-1], candidates, n=3, cutoff=0.3)
    return "closest are " + ", ".join(dict.fromkeys(candidates[part] for part in near or list(candidates)[-3:]))
