"""Patterns over the names of a model's parts: what they match, exceptions, and the help for one that is mistyped."""

import pytest
from torch import nn

from utils.patterns import all_names, idle_patterns, matches, selected

NAMES = ["features.0.weight", "features.1.running_mean", "features.10.weight", "head.2.bias"]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("features", "features.0.weight", True),
        ("features", "features", True),
        ("features.*", "features.0.weight", True),
        ("features.*", "features.0", True),
        ("features.*", "features", False),
        ("features.*", "features_2.0", False),
        ("features.1", "features.10.weight", False),
        ("features.1*", "features.10.weight", True),
        ("features.?", "features.1.running_mean", True),
        ("features.?", "features.10.weight", False),
        ("features.[01]", "features.1.bias", True),
        ("features.[01]", "features.2.bias", False),
        ("*.weight", "features.0.weight", True),
        ("*.weight", "weight", False),
        ("*.weight", "features.weight.scale", True),
        ("weight", "features.0.weight", False),
        ("feat", "features.0.weight", False),
        ("Features", "features.0.weight", False),
        ("*", "anything.at.all", True),
    ],
)
def test_a_pattern_matches_a_part_and_all_within_it(pattern: str, name: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["features"], NAMES[:3]),
        (["*", "!head"], NAMES[:3]),
        (["!head", "*"], NAMES),
        (["*", "!features", "features.0"], ["features.0.weight", "head.2.bias"]),
        (["!features"], []),
        (["*.weight", "head"], ["features.0.weight", "features.10.weight", "head.2.bias"]),
    ],
)
def test_the_last_pattern_that_matches_decides(patterns: list[str], expected: list[str]) -> None:
    assert [name for name in NAMES if selected(name, patterns)] == expected


def test_a_pattern_that_matches_nothing_is_found_with_its_place_and_the_nearest_name() -> None:
    idle = idle_patterns(["features.*", "!hedd.*", "!*.bias", "feature"], NAMES)
    assert [position for position, _ in idle] == [1, 3]
    assert idle[0][1] == "found `!hedd.*`, which matches nothing in the model; did you mean `head`?"
    assert idle[1][1].endswith("did you mean `features`?")


def test_where_no_name_is_near_some_are_listed() -> None:
    ((_, few),) = idle_patterns(["zzz"], ["a.b", "c"])
    assert few.endswith("allowed: patterns over a, a.b, c")
    ((_, many),) = idle_patterns(["zzz"], [f"layer.{number}" for number in range(30)])
    assert many.count("layer") == 12
    assert many.endswith(", …")


def test_a_part_that_is_shared_has_all_its_names() -> None:
    model = nn.ModuleDict({"one": nn.Linear(2, 2, bias=False), "two": nn.Linear(2, 2, bias=False), "three": nn.ReLU()})
    model["two"].weight = model["one"].weight
    assert all_names(model.named_parameters(remove_duplicate=False)) == {"one.weight": ["one.weight", "two.weight"]}
