"""What votes and semantic samples refuse, one case for each rule."""

from typing import Any

import pytest

from server.errors import BadControl
from server.planning.plan import ControlSources, make_plan
from server.planning.refusals import RequestParams
from server.wire.request import Control
from tests.unit.server.support import artifacts

VOTE: dict[str, Any] = {"vote": {"n": 4}}
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "several choices": (VOTE, {"num_choices": 2}, "n"),
    "greedy": (VOTE, {"temperature": 0.0}, "temperature"),
    "tools": (VOTE, {"has_tools": True}, "tools"),
    "another route": (VOTE, {"supports_inquiry": False}, "entropy.vote"),
    "tokens in a stream": ({**VOTE, "trace": "tokens"}, {"streams": True}, "entropy.trace"),
    "too many samples": ({"vote": {"n": 33}}, {}, "entropy.vote.n"),
    "too many tokens": (
        {"vote": {"n": 9}},
        {"max_tokens": None, "max_model_len": 100},
        "entropy.vote.n",
    ),
    "weights without measurements": (
        {"vote": {"weight": "probability"}, "trace": "none"},
        {},
        "entropy.trace",
    ),
    "weak samples without measurements": (
        {"vote": {"percentile": 10}, "trace": "none"},
        {},
        "entropy.trace",
    ),
    "a window that no answer fills": (
        {"vote": {"percentile": 10, "window": 65}},
        {"max_tokens": 64},
        "entropy.vote.window",
    ),
    "a window of a weight that no answer fills": (
        {"vote": {"weight": "tail"}},
        {"max_tokens": 64},
        "entropy.vote.window",
    ),
    "weights with an early stop": (
        {"vote": {"weight": "probability", "stop": "lead"}},
        {},
        "entropy.vote.stop",
    ),
    "semantic beside a vote": ({**VOTE, "semantic": {}}, {}, "entropy.vote"),
    "semantic with a law": (
        {"semantic": {}, "temperature": {"type": "edt"}},
        {},
        "entropy.temperature",
    ),
    "semantic without a report": ({"semantic": {}, "trace": "none"}, {}, "entropy.trace"),
    "semantic with too many samples": ({"semantic": {"n": 32}}, {}, "entropy.semantic.n"),
    "compared samples without a question": (
        {"semantic": {"cluster": "judge"}},
        {"last_message": {"role": "assistant", "content": "?"}},
        "entropy.semantic.cluster",
    ),
    "semantic with several choices": ({"semantic": {}}, {"num_choices": 2}, "n"),
    "beam search": (VOTE, {"beam_search": True}, "use_beam_search"),
}


def planned(body: dict[str, Any], **params: Any) -> Any:
    sources = ControlSources(Control.model_validate(body), None, None)
    return make_plan(sources, {}, artifacts(), RequestParams(**params))


@pytest.mark.parametrize("case", WRONG)
def test_a_contradiction_names_its_field(case: str) -> None:
    body, params, param = WRONG[case]
    with pytest.raises(BadControl) as caught:
        planned(body, **params)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("abstain", {"calibration": "m/a", "promise": "joint", "alpha": 0.1}),
        ("difficulty", {}),
        ("steering", [{"vector": "m/v", "strength": 1}]),
        ("inquiry", {"task": "m/t"}),
        ("confidence", {"probe": "m/c"}),
    ],
)
def test_a_vote_excludes_what_acts_on_single_answers(field: str, value: Any) -> None:
    with pytest.raises(BadControl) as caught:
        planned({**VOTE, field: value})
    assert caught.value.param.startswith(f"entropy.{field}")


def test_a_vote_within_its_limits_is_planned() -> None:
    made = planned({"vote": {}}, max_tokens=100, max_model_len=100, temperature=0.7)
    assert made.vote.n == 8
    assert planned({"semantic": {"n": 32, "reply": "largest"}}).semantic.n == 32
    assert not planned({"vote": {}, "trace": "none"}).is_empty
    assert planned({"vote": {"weight": "self_certainty"}}, max_tokens=64).measures_certainty
    assert planned({"vote": {"percentile": 10, "window": 64}}, max_tokens=64).measures_certainty
    assert not planned({"vote": {"weight": "probability"}}, max_tokens=64).measures_certainty
