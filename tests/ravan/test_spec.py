import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravan.errors import SpecError
from ravan.spec import AdapterSpec, Init, LayerSpec, TensorSpec, rank_for_budget

names = st.text("abc.", min_size=1, max_size=8)
specs = st.builds(
    AdapterSpec,
    layers=st.lists(
        st.builds(LayerSpec, names, st.integers(1, 64), st.integers(1, 64)),
        min_size=1,
        max_size=4,
        unique_by=lambda x: x.name,
    ).map(tuple),
    heads=st.integers(1, 5),
    rank=st.integers(1, 5),
    init=st.sampled_from(Init),
    seed=st.integers(0, 2**63 - 1),
    saved=st.just(()),
)


@given(specs)
def test_a_spec_survives_its_dictionary(spec: AdapterSpec) -> None:
    again = AdapterSpec.from_dict(spec.to_dict())
    assert again == spec
    assert again.digest == spec.digest


def test_sizes_add_up(spec: AdapterSpec) -> None:
    assert spec.H_shape == (2, 3, 2, 2)
    assert (spec.H_size, spec.s_size, spec.saved_size, spec.size) == (24, 6, 12, 42)


def test_any_change_changes_the_digest(spec: AdapterSpec) -> None:
    changed = [
        AdapterSpec(spec.layers, 2, spec.rank, spec.init, spec.seed, spec.saved),
        AdapterSpec(spec.layers, spec.heads, spec.rank, Init.NORMAL, spec.seed, spec.saved),
        AdapterSpec(spec.layers, spec.heads, spec.rank, spec.init, 8, spec.saved),
        AdapterSpec(spec.layers[::-1], spec.heads, spec.rank, spec.init, spec.seed, spec.saved),
        AdapterSpec(spec.layers, spec.heads, spec.rank, spec.init, spec.seed, spec.saved[:1]),
    ]
    assert len({spec.digest, *(c.digest for c in changed)}) == 6


@pytest.mark.parametrize(("lora_rank", "rank"), [(32, 110), (64, 156)])
def test_the_rank_follows_from_the_budget_as_in_the_paper(lora_rank: int, rank: int) -> None:
    """Section 5: 110 and 156 for ViT-B/16 (width 768, 24 layers) beside LoRA of rank 32 and 64, with 4 heads."""
    layers = [LayerSpec(f"layer.{i}", 768, 768) for i in range(24)]
    assert rank_for_budget(24 * 2 * lora_rank * 768, layers, heads=4) == rank


def test_a_budget_below_rank_one_is_refused() -> None:
    with pytest.raises(SpecError, match="need 8"):
        rank_for_budget(7, [LayerSpec("a", 4, 4), LayerSpec("b", 4, 4)], heads=4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"layers": ()}, "at least one layer"),
        ({"heads": 0}, "at least 1"),
        ({"rank": 0}, "at least 1"),
        ({"seed": -1}, "out of range"),
        ({"saved": (TensorSpec("a", (0,)),)}, "at least 1"),
        ({"saved": (TensorSpec("a", (1,)),)}, "stands twice"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields: dict[str, object], says: str) -> None:
    sound: dict[str, object] = {"layers": (LayerSpec("a", 4, 4),), "heads": 1, "rank": 1}
    with pytest.raises(SpecError, match=says):
        AdapterSpec(**(sound | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [{}, {"layers": 3}, {"layers": [], "heads": "x"}])
def test_a_dictionary_that_is_no_spec_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="export the bundle again"):
        AdapterSpec.from_dict(value)
