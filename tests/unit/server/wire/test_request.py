import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from probes.laws import LAWS, DynatempLaw, EdtLaw, EntropyTargetLaw, FixedLaw, HapoLaw
from server.wire.report import Report, TokenReport
from server.wire.request import Control

MINIMAL: dict[str, dict[str, Any]] = {
    "fixed": {"temperature": 0.5},
    "hapo": {},
    "edt": {},
    "dynatemp": {},
    "entropy_target": {"entropy_target": 1.0},
}


def parse(kind: str, **fields: Any) -> Any:
    return Control.model_validate(
        {"temperature": {"type": kind, **MINIMAL.get(kind, {}), **fields}}
    ).temperature


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


fixed = st.builds(FixedLaw, temperature=numbers(0.01, 2))
hapo = st.builds(
    HapoLaw,
    tau=st.floats(0, 1, exclude_max=True),
    statistics=st.none() | st.text(max_size=200),
)
edt = st.builds(EdtLaw, theta=numbers(0.01, 100), base=numbers(0.01, 0.99))
dynatemp = st.builds(DynatempLaw, range=numbers(0, 2), exponent=numbers(0.01, 10))
target = st.builds(
    EntropyTargetLaw,
    entropy_target=numbers(0.01, 15),
    temperature_min=numbers(0.01, 1),
    temperature_max=numbers(1.01, 10),
)
controls = st.builds(
    Control,
    profile=st.none() | st.text(max_size=100),
    temperature=st.none() | fixed | hapo | edt | dynatemp | target,
    trace=st.sampled_from(["none", "summary", "tokens"]),
)


@given(control=controls)
def test_a_control_round_trips_through_json(control: Control) -> None:
    assert Control.model_validate_json(control.model_dump_json()) == control
    assert Control.model_validate(json.loads(json.dumps(control.model_dump()))) == control


@pytest.mark.parametrize("kind", list(MINIMAL))
def test_a_law_requires_only_fields_without_a_default(kind: str) -> None:
    assert parse(kind).type == kind


@pytest.mark.parametrize(
    "body",
    [
        {"color": 1},
        {"temperature": {"type": "warm"}},
        {"temperature": {}},
        {"temperature": 0.7},
        {"temperature": {"type": "fixed"}},
        {"temperature": {"type": "entropy_target"}},
        {"trace": "loud"},
        {"profile": "x" * 101},
        {"profile": 3},
        [],
        "adaptive",
        None,
    ],
)
def test_a_malformed_control_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError):
        Control.model_validate(body)


@pytest.mark.parametrize("kind", list(MINIMAL))
def test_an_unknown_key_of_a_law_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        parse(kind, color=1)


@pytest.mark.parametrize(
    ("kind", "field", "inside", "outside"),
    [
        ("fixed", "temperature", [0.01, 2.0], [0.0, 0.009, 2.001, -1]),
        ("hapo", "tau", [0.0, 0.999], [-0.001, 1.0]),
        ("hapo", "statistics", ["x" * 200], ["x" * 201, 3]),
        ("edt", "theta", [1e-9, 100.0], [0.0, 100.1]),
        ("edt", "base", [0.001, 0.999], [0.0, 1.0]),
        ("dynatemp", "range", [0.0, 2.0], [-0.1, 2.1]),
        ("dynatemp", "exponent", [0.001, 10.0], [0.0, 10.1]),
        ("entropy_target", "entropy_target", [1e-9, 15.0], [0.0, 15.1]),
        ("entropy_target", "temperature_min", [0.01, 1.99], [0.0, 0.009, 2.0, 10.0]),
        ("entropy_target", "temperature_max", [0.11, 10.0], [0.1, 0.05, 10.1]),
    ],
)
def test_every_field_is_accepted_exactly_within_its_bounds(
    kind: str, field: str, inside: list[Any], outside: list[Any]
) -> None:
    for value in inside:
        assert getattr(parse(kind, **{field: value}), field) == value
    for value in outside:
        with pytest.raises(ValidationError):
            parse(kind, **{field: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (law.model_fields["type"].default, name)
        for law in LAWS.values()
        for name, info in law.model_fields.items()
        if info.annotation is float
    ],
)
def test_non_finite_numbers_are_refused(kind: str, field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        parse(kind, **{field: value})


def test_an_error_for_crossed_limits_names_both_values() -> None:
    with pytest.raises(ValidationError, match=r"temperature_min \(1\.5\).*temperature_max \(0\.5"):
        parse("entropy_target", temperature_min=1.5, temperature_max=0.5)


@pytest.mark.parametrize("control", [Control(), parse("hapo")])
def test_a_control_is_immutable(control: Any) -> None:
    field = next(iter(type(control).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(control, field, None)


def test_a_report_round_trips_through_json_with_every_field() -> None:
    token = TokenReport(entropy=None, temperature=0.0, varentropy=2.0)
    report = Report(entropy_mean=1.5, tokens=[token])
    shown = json.loads(report.model_dump_json())
    assert set(shown) == set(Report.model_fields)
    assert shown["tokens"] == [{"entropy": None, "temperature": 0.0, "varentropy": 2.0}]
    assert Report.model_validate(shown) == report
