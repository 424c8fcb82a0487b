"""Steering on the real model, compared with a hook in transformers."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI

from probes.artifact import Artifact
from probes.steering import tensor_name
from tests.conftest import MAX_STEERINGS, PUSH, PUSH_AGAIN, TURN, Server
from tests.integration.support import (
    MODEL,
    PROMPTS,
    ask,
    counter,
    hooked,
    preemptions,
    report,
    some,
    together,
)

STRENGTH = 0.6


def steering(vector: str = PUSH, strength: float = STRENGTH, **more: Any) -> dict[str, Any]:
    return {"steering": [{"vector": vector, "strength": strength, **more}], "trace": "tokens"}


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def vectors(server: Server) -> dict[str, Artifact]:
    root = server.log.parent / "artifacts"
    return {name: Artifact.load(root / name) for name in (PUSH, TURN)}


def steered_logits(
    reference: Any, answer: Any, change: dict[int, Any], everywhere: bool = False
) -> torch.Tensor:
    """Logits at every token of an answer."""
    prompt, tokens = answer.prompt_token_ids, answer.choices[0].token_ids
    start = 0 if everywhere else len(prompt) - 1
    with torch.inference_mode(), hooked(reference, change, start):
        logits: torch.Tensor = reference(torch.tensor([prompt + tokens])).logits
    return logits[0, len(prompt) - 1 : -1].clone()


def adding(artifact: Artifact, strength: float = STRENGTH) -> dict[int, Any]:
    assert artifact.manifest.steering is not None
    moves = {
        layer: artifact.tensors[tensor_name(layer)] * strength
        for layer in artifact.manifest.steering.norms
    }
    return {layer: lambda x, move=move: x + move for layer, move in moves.items()}


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def reported(answer: Any) -> torch.Tensor:
    return torch.tensor([token["entropy"] for token in report(answer)["tokens"]])


def greedy(client: OpenAI, prompt: str, control: dict[str, Any] | None, **more: Any) -> Any:
    more = {"max_tokens": 48, **more}
    return ask(
        client, prompt, control, temperature=0, extra_body={"return_token_ids": True}, **more
    )


def text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


@pytest.mark.both_runners
@pytest.mark.parametrize("positions", ["answer", "all"])
def test_a_steered_answer_equals_transformers_with_the_same_vector_added(
    server: Server, reference: Any, vectors: dict[str, Artifact], positions: str
) -> None:
    """Unsteered requests in the same batch are unchanged."""
    client, prompts = server.client, some(server, PROMPTS, 3)
    alone = [text(greedy(client, prompt, None)) for prompt in prompts]
    control = steering(positions=positions)
    jobs = [
        lambda p=prompt, c=one: greedy(client, p, c)
        for prompt in prompts
        for one in (control, None)
    ]
    answers = together(jobs)
    agree, count = 0, 0
    for answer in answers[::2]:
        logits = steered_logits(reference, answer, adding(vectors[PUSH]), positions == "all")
        tokens = torch.tensor(answer.choices[0].token_ids)
        agree, count = agree + int((logits.argmax(-1) == tokens).sum()), count + len(tokens)
        assert (reported(answer) - entropy_of(logits)).abs().max() < 0.02
    assert count >= 30 * len(prompts)
    assert agree >= 0.99 * count
    assert [text(answer) for answer in answers[1::2]] == alone
    assert [text(answer) for answer in answers[::2]] != alone


def test_a_strength_of_zero_equals_no_steering(client: OpenAI) -> None:
    for prompt in PROMPTS[:3]:
        plain = ask(client, prompt, None, seed=3)
        assert text(ask(client, prompt, steering(strength=0.0), seed=3)) == text(plain)


@pytest.mark.both_runners
def test_several_vectors_are_summed_and_a_clamp_is_enforced(
    client: OpenAI, reference: Any, vectors: dict[str, Artifact]
) -> None:
    direction = vectors[TURN].tensors[tensor_name(20)]
    direction = direction / direction.norm()
    push = vectors[PUSH].tensors[tensor_name(12)] * STRENGTH

    def clamp(x: torch.Tensor) -> torch.Tensor:
        along = (x @ direction).unsqueeze(-1)
        moved: torch.Tensor = x + (along.clamp(-3.0, -1.0) - along) * direction
        return moved

    control = {
        "steering": [
            {"vector": PUSH, "strength": STRENGTH, "layers": [12]},
            {"vector": TURN, "clamp": [-3.0, -1.0]},
        ],
        "trace": "tokens",
    }
    answer = greedy(client, PROMPTS[1], control)
    logits = steered_logits(reference, answer, {12: lambda x: x + push, 20: clamp})
    assert (reported(answer) - entropy_of(logits)).abs().max() < 0.02
    assert [one["layers"] for one in report(answer)["steering"]] == [[12], [20]]


def test_strength_relative_scales_with_the_norm_of_the_residual_stream(
    client: OpenAI, vectors: dict[str, Artifact]
) -> None:
    norm = float(vectors[TURN].tensors[tensor_name(20)].norm())
    relative = {"steering": [{"vector": TURN, "strength_relative": 0.5}]}
    absolute = steering(TURN, 0.5 * 20.0 / norm)
    assert text(greedy(client, PROMPTS[0], relative)) == text(greedy(client, PROMPTS[0], absolute))


@pytest.mark.both_runners
def test_the_prefix_cache_never_mixes_steered_and_unsteered_states(
    client: OpenAI, reference: Any, vectors: dict[str, Artifact]
) -> None:
    """The second prompt contains the first answer, steered when generated but not now."""
    question = "Tell me a long story about a fox and a river, with many turns. " * 4
    first = greedy(client, question, steering(), max_tokens=48)
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": text(first)},
        {"role": "user", "content": "Go on."},
    ]
    for control in (steering(), steering(positions="all"), None):
        extra = {} if control is None else {"entropy": control}
        answer = client.chat.completions.create(
            model=MODEL,
            messages=turns,  # type: ignore[arg-type]
            max_tokens=24,
            temperature=0,
            extra_body={"return_token_ids": True, **extra},
        )
        change = {} if control is None else adding(vectors[PUSH])
        everywhere = control is not None and control["steering"][0].get("positions") == "all"
        logits = steered_logits(reference, answer, change, everywhere)
        (choice,) = answer.model_dump()["choices"]
        assert logits.argmax(-1).tolist() == choice["token_ids"]


@pytest.mark.both_runners
def test_short_steered_answers_share_the_prefix_of_unsteered_ones_and_leave_nothing_behind(
    server: Server, reference: Any, vectors: dict[str, Artifact]
) -> None:
    question = "The fox counts the stones in the river: one, two, three, four. " * 10
    hits = counter(server, "vllm:prefix_cache_hits_total")
    for control in (None, steering(), None, steering(TURN)):
        answer = greedy(server.client, question, control or {"trace": "tokens"}, max_tokens=2)
        prompt = len(answer.prompt_token_ids)
        assert (prompt + 2) // 128 == (prompt - 1) // 128 == 1  # the answer fills no block
        name = TURN if control == steering(TURN) else PUSH
        logits = steered_logits(reference, answer, adding(vectors[name]) if control else {})
        assert (reported(answer) - entropy_of(logits)).abs().max() < 0.02
    assert counter(server, "vllm:prefix_cache_hits_total") == hits + 3 * 128


def test_the_report_has_the_hash_of_the_vectors_contents(client: OpenAI) -> None:
    one, other = (greedy(client, PROMPTS[2], steering(name)) for name in (PUSH, PUSH_AGAIN))
    assert text(one) == text(other)
    assert report(one)["steering"][0]["hash"] == report(other)["steering"][0]["hash"]
    turned = greedy(client, PROMPTS[2], steering(TURN))
    assert report(turned)["steering"][0]["hash"] != report(one)["steering"][0]["hash"]


def first_entropy(client: OpenAI, strength: float, **more: Any) -> float:
    """Entropy of the first token, which depends only on the prompt and the strength."""
    more = {"max_tokens": 6, **more}
    return float(reported(greedy(client, PROMPTS[3], steering(strength=strength), **more))[0])


def test_more_steering_configs_than_slots_are_queued(client: OpenAI) -> None:
    """Every table row is reused several times without affecting other requests."""
    strengths = [0.1 * number for number in range(1, 61)]
    assert len(strengths) > 10 * MAX_STEERINGS
    alone = {strength: first_entropy(client, strength) for strength in strengths[::20]}
    plain = text(greedy(client, PROMPTS[5], None))
    jobs: list[Any] = []
    for number, strength in enumerate(strengths):
        jobs.append(lambda s=strength: first_entropy(client, s))
        if number % 6 == 0:
            jobs.append(lambda: text(greedy(client, PROMPTS[5], None)))
    results = together(jobs, workers=40)
    assert [one for one in results if isinstance(one, str)] == [plain] * 10
    entropies = [one for one in results if isinstance(one, float)]
    found = dict(zip(strengths, entropies, strict=True))
    for strength, entropy in alone.items():
        assert found[strength] == pytest.approx(entropy, abs=1e-3)
    assert len({round(entropy, 3) for entropy in entropies}) > 45


def test_slots_of_stopped_and_abandoned_answers_are_freed(client: OpenAI) -> None:
    """A stop string ends an answer in the API server before the engine is notified."""
    alone = first_entropy(client, 2.05)

    def stopped(number: int) -> None:
        steer, words = steering(strength=1 + number / 40), [" ", "e", "a", "o"]
        answer = greedy(client, PROMPTS[number % 10], steer, stop=words, max_tokens=64)
        assert answer.choices[0].finish_reason == "stop"

    def abandoned(number: int) -> None:
        stream = ask(
            client, PROMPTS[number % 10], steering(strength=3 + number / 40), stream=True, n=2
        )
        next(iter(stream))
        stream.close()

    jobs = [lambda n=n: (abandoned if n % 3 == 0 else stopped)(n) for n in range(36)]
    together(jobs, workers=24)
    assert first_entropy(client, 2.05) == pytest.approx(alone, abs=1e-3)
    plain = [text(greedy(client, PROMPTS[5], None)) for _ in range(2)]
    assert plain[0] == plain[1]


def test_preempted_and_chunked_requests_stay_steered(
    server: Server, client: OpenAI, reference: Any, vectors: dict[str, Artifact]
) -> None:
    long = "Sum up: " + "the fox runs over the hill and " * 120
    prompts = [f"{i} {long}" if i < 4 else PROMPTS[i % 10] for i in range(24)]
    before, end = preemptions(server), {"2": -100.0}
    jobs = [
        lambda p=prompt: greedy(client, p, steering(), max_tokens=100, logit_bias=end)
        for prompt in prompts
    ]
    answers = together(jobs, workers=24)
    assert preemptions(server) > before, "the test must really preempt"
    for answer in [*answers[:2], *answers[4:8]]:
        logits = steered_logits(reference, answer, adding(vectors[PUSH]))
        logits[:, 2] -= 100
        same = logits.argmax(-1) == torch.tensor(answer.choices[0].token_ids)
        assert same.float().mean() >= 0.98


def test_every_controlled_route_applies_steering(client: OpenAI) -> None:
    """A missed code path would silently answer without steering."""
    strong = steering(strength=1.5)

    def complete(control: dict[str, Any] | None) -> str:
        extra = {} if control is None else {"entropy": control}
        return str(
            client.completions.create(
                model=MODEL, prompt="The sea", max_tokens=16, temperature=0, extra_body=extra
            )
            .choices[0]
            .text
        )

    def respond(control: dict[str, Any] | None) -> str:
        extra = {} if control is None else {"entropy": control}
        return str(
            client.responses.create(
                model=MODEL,
                input="Tell me of the sea.",
                max_output_tokens=16,
                temperature=0,
                extra_body=extra,
            ).output_text
        )

    assert complete(None) != complete(strong)
    assert respond(None) != respond(strong)
    stream = ask(client, PROMPTS[0], steering(), stream=True, temperature=0)
    pieces = [choice.delta.content or "" for event in stream for choice in event.choices]
    assert "".join(pieces) == text(ask(client, PROMPTS[0], steering(), temperature=0))


def test_every_completion_of_a_request_is_steered(
    client: OpenAI, reference: Any, vectors: dict[str, Artifact]
) -> None:
    extra = {"return_token_ids": True}
    answer = ask(client, PROMPTS[0], steering(), n=3, seed=1, max_tokens=16, extra_body=extra)
    for number, choice in enumerate(answer.choices):
        one = answer.model_copy(update={"choices": [choice]})
        logits = steered_logits(reference, one, adding(vectors[PUSH]))
        entropies = torch.tensor([token["entropy"] for token in report(answer, number)["tokens"]])
        assert (entropies - entropy_of(logits)).abs().max() < 0.02
        assert report(answer, number)["steering"][0]["vector"] == PUSH


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"vector": "nope/nope", "strength": 1}, "entropy.steering.0.vector"),
        ({"vector": "smollm2-135m/entropy", "strength": 1}, "entropy.steering.0.vector"),
        ({"vector": PUSH}, "entropy.steering.0"),
        ({"vector": PUSH, "strength": 1, "clamp": [0, 1]}, "entropy.steering.0"),
        ({"vector": PUSH, "clamp": [2]}, "entropy.steering.0"),
        ({"vector": PUSH, "strength": 1, "layers": [3]}, "entropy.steering.0.layers"),
        ({"vector": PUSH, "strength": 1e9}, "entropy.steering.0.strength"),
    ],
)
def test_an_error_for_invalid_steering_names_the_field(
    client: OpenAI, wanted: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, "hi", {"steering": [wanted]})
    assert str(caught.value.param).startswith(param)


@pytest.mark.parametrize(
    "steers",
    [
        [{"vector": PUSH, "strength": 1}, {"vector": TURN, "strength": 1, "positions": "all"}],
        [{"vector": PUSH, "clamp": [0, 1]}, {"vector": TURN, "clamp": [0, 1]}],
    ],
)
def test_mixed_positions_and_two_clamps_of_a_layer_are_refused(server: Server, steers: Any) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={**body, "entropy": {"steering": steers}},
        timeout=60,
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("entropy.steering")
