from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.artifact import Artifact
from probes.laws import LAWS, NO_LAW, NO_ROW, NUM_PARAMETERS, HapoStatistics
from server.artifacts import Artifacts
from server.errors import BadControl
from server.planning.plan import ControlSources, Plan, make_plan, split_model
from server.planning.refusals import RequestParams
from server.wire.request import Control
from tests.unit.server.support import STATISTICS, artifacts, save_statistics

TARGET = {"type": "entropy_target", "entropy_target": 1.5}
PROFILES = {
    "cool": Control.model_validate({"temperature": {"type": "fixed", "temperature": 0.3}}),
    "wide": Control.model_validate(
        {"temperature": {"type": "dynatemp", "range": 0.4}, "trace": "tokens"}
    ),
    "steady": Control.model_validate({"temperature": TARGET}),
    "adaptive": Control.model_validate({"temperature": {"type": "hapo", "tau": 0.2}}),
    "watch": Control(trace="tokens"),
    "hard": Control.model_validate({"difficulty": {}}),
    "pushed": Control.model_validate({"steering": [{"vector": "no/such", "strength": 1}]}),
    "game": Control.model_validate({"inquiry": {"task": "no/such"}}),
}
NO_ARTIFACTS = artifacts()
QUESTION = {"role": "user", "content": "Why?"}


def plan(
    body: dict[str, Any] | None = None,
    suffix: str | None = None,
    header: str | None = None,
    temperature: float | None = None,
    using: Artifacts = NO_ARTIFACTS,
    **params: Any,
) -> Plan | None:
    control = None if body is None else Control.model_validate(body)
    others = RequestParams(**{"temperature": temperature, "last_message": QUESTION, **params})
    return make_plan(ControlSources(control, suffix, header), PROFILES, using, others)


def refusal(*arguments: Any, **options: Any) -> BadControl:
    with pytest.raises(BadControl) as caught:
        plan(*arguments, **options)
    return caught.value


# -- precedence --------------------------------------------------------------------------------


def test_a_request_without_controls_has_no_plan() -> None:
    assert plan() is None
    assert plan(temperature=0.5) is None


def test_an_empty_control_measures_and_changes_nothing() -> None:
    assert plan({}) == Plan(None, None, NO_LAW, NO_ROW, "summary", control=Control())


@pytest.mark.parametrize(
    ("body", "suffix", "header", "ruled_by"),
    [
        ({"profile": "cool"}, "wide", "steady", "cool"),
        (None, "wide", "steady", "wide"),
        ({}, "wide", "steady", "wide"),
        (None, None, "steady", "steady"),
        ({"trace": "none"}, None, "steady", "steady"),
        ({"trace": "none"}, None, None, None),
    ],
)
def test_the_body_overrides_the_suffix_which_overrides_the_header(
    body: dict[str, Any] | None, suffix: str | None, header: str | None, ruled_by: str | None
) -> None:
    got = plan(body, suffix, header)
    assert got is not None
    assert got.profile == ruled_by
    assert got.law == (PROFILES[ruled_by].temperature if ruled_by else None)


def test_fields_of_the_body_override_those_of_the_profile() -> None:
    other_law = plan({"profile": "wide", "temperature": {"type": "fixed", "temperature": 1.2}})
    other_trace = plan({"trace": "summary"}, suffix="wide")
    assert other_law is not None
    assert other_trace is not None
    assert (other_law.profile, other_law.tag, other_law.trace) == (
        "wide",
        LAWS["fixed"].tag,
        "tokens",
    )
    assert (other_trace.tag, other_trace.trace) == (LAWS["dynatemp"].tag, "summary")


@pytest.mark.parametrize("field", [*Control.model_fields])
def test_null_beside_a_profile_equals_an_absent_key(field: str) -> None:
    assert plan({"profile": "wide", field: None}, suffix="wide") == plan(suffix="wide")


def test_requests_do_not_modify_the_profile_they_use() -> None:
    before = {name: control.model_dump() for name, control in PROFILES.items()}
    plan({"profile": "wide", "trace": "none", "temperature": TARGET})
    assert {name: control.model_dump() for name, control in PROFILES.items()} == before


@pytest.mark.parametrize(
    ("body", "suffix", "header", "param"),
    [
        ({"profile": "nope"}, "wide", None, "entropy.profile"),
        (None, "nope", "wide", "model"),
        (None, None, "nope", "X-Entropy-Profile"),
    ],
)
def test_an_error_for_an_unknown_profile_names_the_field_that_names_it(
    body: dict[str, Any] | None, suffix: str | None, header: str | None, param: str
) -> None:
    error = refusal(body, suffix, header)
    assert error.param == param
    assert "`nope`" in str(error)
    assert all(name in str(error) for name in PROFILES)


# -- contradictions ----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 0.999, 2.0])
def test_a_temperature_that_contradicts_the_law_is_refused(temperature: float) -> None:
    error = refusal({"profile": "cool"}, temperature=temperature)
    assert error.param == "temperature"
    assert str(temperature) in str(error)


@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        ("steady", None),
        ("steady", 1.0),
        ("steady", 0.0),
        ("steady", 0.5),
        ("cool", None),
        ("cool", 0.3),
        ("cool", 0.0),
        ("wide", 0.7),
        ("watch", 0.7),
    ],
)
def test_a_temperature_that_is_compatible_with_the_law_is_accepted(
    name: str, temperature: float | None
) -> None:
    assert plan({"profile": name}, temperature=temperature) is not None


# -- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "parameters"),
    [
        ({"type": "fixed", "temperature": 0.4}, [0.4]),
        ({"type": "edt", "theta": 0.7, "base": 0.9}, [0.7, 0.9]),
        ({"type": "dynatemp", "range": 0.3, "exponent": 2.0}, [0.3, 2.0]),
        (
            {**TARGET, "temperature_min": 0.2, "temperature_max": 1.8},
            [1.5, 0.2, 1.8],
        ),
        ({"type": "hapo", "tau": 0.2}, [*STATISTICS, 0.2]),
    ],
)
def test_every_law_maps_to_its_tag_and_its_row(
    tmp_path: Path, control: dict[str, Any], parameters: list[float]
) -> None:
    save_statistics(tmp_path, "tiny/entropy")
    got = plan({"temperature": control}, using=artifacts(tmp_path))
    assert got is not None
    assert got.tag == LAWS[control["type"]].tag
    assert got.parameters == pytest.approx(
        [*parameters, *[0.0] * (NUM_PARAMETERS - len(parameters))]
    )


def test_the_statistics_named_in_the_law_are_used(tmp_path: Path) -> None:
    other = HapoStatistics(1.0, 2.0, 3.0, -4.0)
    save_statistics(tmp_path, "tiny/entropy")
    save_statistics(tmp_path, "tiny/other", other)
    got = plan(
        {"temperature": {"type": "hapo", "statistics": "tiny/other"}}, using=artifacts(tmp_path)
    )
    assert got is not None
    assert got.parameters[:4] == other


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"body": {"temperature": {"type": "hapo"}}}, "entropy.temperature"),
        ({"body": {"profile": "adaptive"}}, "entropy.profile"),
        (
            {"body": {"temperature": {"type": "hapo"}}, "suffix": "adaptive"},
            "entropy.temperature",
        ),
    ],
)
def test_an_error_for_missing_statistics_names_the_field_of_the_law(
    arguments: dict[str, Any], param: str
) -> None:
    error = refusal(**arguments)
    assert error.param == param
    assert "train-probe temperature" in str(error)


def test_an_error_for_an_unknown_artifact_names_the_route_that_lists_them() -> None:
    error = refusal({"temperature": {"type": "hapo", "statistics": "tiny/nope"}})
    assert "unknown artifact `tiny/nope`" in str(error)
    assert "/v1/entropy/artifacts" in str(error)


def test_an_error_for_an_artifact_of_another_model_names_the_differing_field(
    tmp_path: Path,
) -> None:
    save_statistics(tmp_path, "tiny/entropy", tokenizer_hash="other")
    using = artifacts(tmp_path)
    error = refusal({"temperature": {"type": "hapo", "statistics": "tiny/entropy"}}, using=using)
    assert "tokenizer_hash differs" in str(error)
    assert [(card.id, card.usable) for card in using.cards] == [("tiny/entropy", False)]
    assert len(using) == 0
    assert "no entropy statistics" in str(refusal({"profile": "adaptive"}, using=using))


def test_a_broken_artifact_stays_listed_with_the_reason(tmp_path: Path) -> None:
    (save_statistics(tmp_path, "tiny/entropy") / "weights.safetensors").write_bytes(b"junk")
    (card,) = artifacts(tmp_path).cards
    assert (card.id, card.usable) == ("tiny/entropy", False)
    assert card.reason is not None
    assert "weights.safetensors" in card.reason


@pytest.mark.parametrize(
    "tensors",
    [{}, {"hapo": torch.zeros(3)}, {"hapo": torch.zeros(5)}],
    ids=["none", "too short", "too long"],
)
def test_incomplete_statistics_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    folder = save_statistics(tmp_path, "tiny/entropy")
    broken = Artifact.load(folder).model_copy(update={"tensors": tensors})
    broken.save(tmp_path)
    refusal({"temperature": {"type": "hapo"}}, using=artifacts(tmp_path))


@pytest.mark.parametrize(
    ("profile", "field"),
    [("hard", "difficulty.probe"), ("pushed", "steering.0.vector"), ("game", "inquiry.task")],
)
def test_an_error_for_a_control_of_a_profile_named_in_the_body_names_both(
    profile: str, field: str
) -> None:
    error = refusal({"profile": profile, "trace": "none"})
    assert error.param == "entropy.profile"
    assert f"profile `{profile}`" in str(error)
    assert f"`entropy.{field}`" in str(error)
    own = PROFILES[profile].model_dump(exclude_unset=True)
    assert refusal({**own, "profile": "watch"}).param == f"entropy.{field}"


# -- model names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (None, (None, None)),
        ("m", ("m", None)),
        ("m@cool", ("m", "cool")),
        ("a@b", ("a@b", None)),
        ("a@b@cool", ("a@b", "cool")),
        ("unknown@cool", ("unknown", "cool")),
        ("unknown@revision", ("unknown@revision", None)),
        ("m@revision", ("m", "revision")),
        ("m@", ("m", "")),
    ],
)
def test_a_model_name_is_split_at_its_profile(
    model: str | None, expected: tuple[str | None, str | None]
) -> None:
    assert split_model(model, {"m", "a@b"}, {"cool"}) == expected


@given(name=st.text(min_size=1), profile=st.text(min_size=1).filter(lambda text: "@" not in text))
def test_every_served_name_can_be_combined_with_every_profile(name: str, profile: str) -> None:
    assert split_model(name, {name}, ()) == (name, None)
    assert split_model(f"{name}@{profile}", {name}, ()) == (name, profile)


def test_an_empty_suffix_is_an_unknown_profile() -> None:
    assert refusal(suffix="").param == "model"


@pytest.mark.parametrize("name", ["temperature", "truncation", "steering", "vote", "abstain"])
def test_a_control_that_is_switched_off_is_skipped_whoever_asks_for_it(name: str) -> None:
    """Even one that would be refused: the operator's word comes first."""
    bodies: dict[str, Any] = {
        "temperature": {"type": "edt"},
        "truncation": {"type": "top_n_sigma"},
        "steering": [{"vector": "m/nowhere", "strength": 1.0}],
        "vote": {"n": 3},
        "abstain": {"calibration": "m/nowhere", "promise": "joint", "alpha": 0.1},
    }
    control = Control.model_validate({name: bodies[name]})
    sources = ControlSources(control, None, None)
    suffix = ControlSources(None, "mine", None)
    for wanted, profiles in ((sources, PROFILES), (suffix, {"mine": control})):
        got = make_plan(wanted, profiles, artifacts(), RequestParams(), off=(name,))
        assert got is not None
        assert got.skipped == (f"{name}_skipped",)
        assert getattr(got, "law" if name == "temperature" else name) is None


def test_switching_the_confidence_off_takes_its_abstention_along() -> None:
    control = Control.model_validate(
        {
            "confidence": {"probe": "m/p"},
            "abstain": {"calibration": "m/a", "promise": "joint", "alpha": 0.1},
        }
    )
    off = ("confidence",)
    got = make_plan(ControlSources(control, None, None), {}, artifacts(), RequestParams(), off)
    assert got is not None
    assert got.skipped == ("abstain_skipped", "confidence_skipped")
