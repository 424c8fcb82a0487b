"""Plans of the control `steering`, and prefix-cache salts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from server.errors import BadControl
from server.planning.steering import SteeringPlan, mark_unsteered, plan_steering
from server.wire.request import Steer
from tests.unit.server.support import HIDDEN_SIZE, artifacts, save_vector

PROMPT = {"prompt_token_ids": [1, 2, 3]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_vector(tmp_path, "m/a")
    save_vector(tmp_path, "m/again")
    save_vector(tmp_path, "m/b", seed=1)
    return tmp_path


def plan(root: Path, *wanted: dict[str, Any]) -> SteeringPlan:
    return plan_steering([Steer.model_validate(one) for one in wanted], artifacts(root))


def salt(
    root: Path, *wanted: dict[str, Any], prompt: dict[str, Any] = PROMPT, secret: str = "secret"
) -> str:
    return str(plan(root, *wanted).add_cache_salt(prompt, secret)["cache_salt"])


def test_a_client_cannot_compute_the_salt_of_a_steered_request(root: Path) -> None:
    """The vectors, the amounts and the prompt are public; only the secret is not."""
    one = {"vector": "m/a", "strength": 1.0}
    assert salt(root, one, secret="one") != salt(root, one, secret="two")
    assert salt(root, one, secret="one") == salt(root, one, secret="one")


def test_no_salt_that_a_client_sends_equals_that_of_a_steered_request(root: Path) -> None:
    stolen = salt(root, {"vector": "m/a", "strength": 1.0})
    sent = mark_unsteered({**PROMPT, "cache_salt": stolen})["cache_salt"]
    assert sent != stolen
    assert mark_unsteered({**PROMPT, "cache_salt": stolen})["cache_salt"] == sent
    other = salt(root, {"vector": "m/b", "strength": 1.0})
    assert mark_unsteered({**PROMPT, "cache_salt": other})["cache_salt"] != sent


@pytest.mark.parametrize("prompt", [{"cache_salt": "own"}, {"cache_salt": None}, {}, "text", [1]])
def test_other_salts_of_a_client_are_unchanged(prompt: Any) -> None:
    assert mark_unsteered(prompt) is prompt


def test_the_salt_depends_on_contents_and_amounts(root: Path) -> None:
    one = {"vector": "m/a", "strength": 1.0}
    same = salt(root, one)
    assert salt(root, {"vector": "m/again", "strength": 1.0}) == same
    others: list[dict[str, Any]] = [
        {"vector": "m/b", "strength": 1.0},
        {**one, "strength": 1.5},
        {**one, "strength": -1.0},
        {**one, "layers": [1]},
        {**one, "positions": "all"},
        {"vector": "m/a", "strength_relative": 1.0},
        {"vector": "m/a", "clamp": [-1.0, 1.0]},
        {"vector": "m/a", "clamp": [-1.0, 2.0]},
    ]
    salts = [same, *(salt(root, other) for other in others)]
    assert len(set(salts)) == len(salts)
    both = [one, {"vector": "m/b", "strength": 1.0}]
    assert salt(root, *both) not in salts


def test_other_contents_under_the_same_name_have_another_salt(root: Path) -> None:
    """Else blocks that outlive the server, on disk or remote, would be reused wrongly."""
    wanted = {"vector": "m/a", "strength": 1.0}
    before = salt(root, wanted)
    save_vector(root, "m/a", seed=7)
    assert salt(root, wanted) != before
    save_vector(root, "m/renamed", seed=0)
    assert salt(root, {"vector": "m/renamed", "strength": 1.0}) == before


def test_client_salts_still_separate_clients(root: Path) -> None:
    wanted = {"vector": "m/a", "strength": 1.0}
    mine = salt(root, wanted, prompt={**PROMPT, "cache_salt": "mine"})
    yours = salt(root, wanted, prompt={**PROMPT, "cache_salt": "yours"})
    assert len({mine, yours, salt(root, wanted)}) == 3


def test_a_prompt_with_an_earlier_steered_answer_shares_no_blocks_with_it(root: Path) -> None:
    """Its tokens were steered and are not now, unless the whole prompt is."""
    longer = {"prompt_token_ids": [1, 2, 3, 4]}
    answer, every = {"vector": "m/a", "strength": 1.0}, {"positions": "all"}
    assert salt(root, answer) != salt(root, answer, prompt=longer)
    assert salt(root, answer | every) == salt(root, answer | every, prompt=longer)


@pytest.mark.parametrize(
    ("length", "max_tokens", "shares"),
    [
        (40, 1, True),  # positions 39 and 40, in the block from 32 to 47
        (33, 14, True),
        (33, 15, False),  # the block fills up with steered states
        (48, 1, False),  # its last token ends a block
        (47, 1, False),
        (40, None, False),
    ],
)
def test_a_prompt_shares_blocks_with_unsteered_ones_if_its_answer_fills_none(
    root: Path, length: int, max_tokens: int | None, shares: bool
) -> None:
    """Else a game of many short steered answers would read its whole history at every turn."""
    prompt = {"prompt_token_ids": [1] * length}
    answer = plan(root, {"vector": "m/a", "strength": 1.0})
    found = answer.add_cache_salt(prompt, "secret", max_tokens, 16)
    assert ("cache_salt" not in found) == shares
    mine = answer.add_cache_salt({**prompt, "cache_salt": "mine"}, "secret", max_tokens, 16)
    assert (mine["cache_salt"] == "mine") == shares
    stolen = {**prompt, "cache_salt": "entrostat:0"}
    assert answer.add_cache_salt(stolen, "secret", max_tokens, 16)["cache_salt"] != "entrostat:0"
    assert "cache_salt" in answer.add_cache_salt(prompt, "secret", max_tokens)  # no prefix cache
    every = plan(root, {"vector": "m/a", "strength": 1.0, "positions": "all"})
    assert "cache_salt" in every.add_cache_salt(prompt, "secret", max_tokens, 16)


def test_the_length_of_a_prompt_of_embeddings_is_part_of_the_salt(root: Path) -> None:
    wanted = {"vector": "m/a", "strength": 1.0}
    of_embeddings = {"prompt_embeds": torch.zeros(3, HIDDEN_SIZE)}
    assert salt(root, wanted, prompt=of_embeddings) == salt(root, wanted)


def test_a_strength_is_converted_to_a_factor_per_layer(root: Path) -> None:
    layers = artifacts(root).steering_vector("m/a", "").layers
    found = plan(root, {"vector": "m/a", "strength_relative": 0.5}).control["add"]
    for (name, layer, factor), expected in zip(found, (1, 2), strict=True):
        assert (name, layer) == ("m/a", expected)
        moved = factor * float(layers[layer].vector.norm())
        assert moved == pytest.approx(0.5 * 8.0)
    absolute = plan(root, {"vector": "m/a", "strength": -2.0, "layers": [2]})
    assert absolute.control["add"] == [("m/a", 2, -2.0)]
    assert absolute.reports[0].layers == [2]


@pytest.mark.parametrize("clamp", [[-1, 1e39], [-1e300, 0], [0, 1e7]])
def test_a_clamp_that_overflows_float32_is_refused(clamp: list[float]) -> None:
    """In the worker it would raise outside of a request and stop the engine."""
    with pytest.raises(ValidationError, match="clamp"):
        Steer.model_validate({"vector": "m/a", "clamp": clamp})


def test_a_zero_vector_is_not_usable(root: Path) -> None:
    save_vector(root, "m/zero", seed=0, scale=0.0)
    card = next(card for card in artifacts(root).cards if card.id == "m/zero")
    assert not card.usable
    assert "has no direction" in str(card.reason)


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ([{"vector": "m/none", "strength": 1}], "entropy.steering.0.vector"),
        (
            [{"vector": "m/a", "strength": 1}, {"vector": "m/b", "strength": 1, "layers": [9]}],
            "entropy.steering.1.layers",
        ),
        (
            [
                {"vector": "m/a", "strength": 1},
                {"vector": "m/b", "strength": 1, "positions": "all"},
            ],
            "entropy.steering.positions",
        ),
        (
            [{"vector": "m/a", "clamp": [0, 1]}, {"vector": "m/b", "clamp": [0, 1]}],
            "entropy.steering",
        ),
    ],
)
def test_an_error_for_invalid_steering_names_the_field(
    root: Path, wanted: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(BadControl) as caught:
        plan(root, *wanted)
    assert caught.value.param == param
