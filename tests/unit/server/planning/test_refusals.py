import typing

import pytest
from openai.types.shared import ReasoningEffort

from probes.difficulty.strategies import Difficulty
from probes.truncations import Mirostat, PLess, TopNSigma
from server.errors import BadControl
from server.planning.refusals import EFFORTS, RequestParams, effort_class, refuse_truncation


def of_the_sdk() -> list[str]:
    optional = typing.get_args(ReasoningEffort)
    return [value for part in optional for value in typing.get_args(part)]


def test_every_effort_of_the_openai_sdk_maps_to_a_class() -> None:
    assert set(EFFORTS) == set(of_the_sdk())


@pytest.mark.parametrize("effort", of_the_sdk())
def test_an_effort_maps_to_its_class(effort: str) -> None:
    assert effort_class(RequestParams(reasoning_effort=effort)) == EFFORTS[effort]


def test_more_effort_never_maps_to_an_easier_class() -> None:
    order = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    classes = [EFFORTS[effort] for effort in order]
    assert classes == sorted(classes)
    assert set(classes) == set(Difficulty)


def test_an_error_for_an_unknown_effort_lists_the_known_ones() -> None:
    with pytest.raises(BadControl, match="`heroic`; known: none, minimal") as caught:
        effort_class(RequestParams(reasoning_effort="heroic"))
    assert caught.value.param == "reasoning_effort"


def test_a_request_without_effort_uses_the_probe() -> None:
    assert effort_class(RequestParams()) is None


def test_mirostat_is_refused_beside_drafts_and_beside_another_truncation() -> None:
    for params, param in (
        (RequestParams(speculative=True), "entropy.truncation"),
        (RequestParams(truncating=("top_p", "min_p")), "top_p"),
    ):
        with pytest.raises(BadControl, match="mirostat") as caught:
            refuse_truncation(Mirostat(), params)
        assert caught.value.param == param
        for allowed in (None, PLess(), TopNSigma()):
            refuse_truncation(allowed, params)
    refuse_truncation(Mirostat(), RequestParams(temperature=0.0))
