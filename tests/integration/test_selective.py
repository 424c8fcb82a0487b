"""Confidence, abstention and votes on the real engine: transformers, streams, refusals."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import BadRequestError

from clients.entropy import (
    EntropyStream,
    abstain,
    ask_or_decline,
    confidence,
    controls,
    report,
    semantic,
    vote,
)
from tests.conftest import Server
from tests.integration.support import MODEL, PROMPTS, ask
from tests.selective_artifacts import (
    ANSWERS,
    CONFIDENCE,
    DECLINES,
    HIDDEN_SIZE,
    STATE,
    state_reader,
)

SURE = confidence(CONFIDENCE)
ANSWERED = abstain(ANSWERS, 0.1, promise="joint")
DECLINED = abstain(DECLINES, 0.1, promise="joint", text="No idea.")


def test_scores_of_an_answer_are_those_of_transformers(server: Server, checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    extra = {"return_token_ids": True}
    answer = ask(
        server.client, PROMPTS[0], {"confidence": {"window": 3}}, max_tokens=8, extra_body=extra
    )
    prompt, tokens = answer.prompt_token_ids, answer.choices[0].token_ids
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logp = logits.double().log_softmax(-1)
    certainty = -logp.mean(-1) - math.log(logp.shape[-1])
    chosen = logp.gather(-1, torch.tensor(tokens)[:, None])
    found = report(answer.choices[0])
    assert found is not None
    measured = found.confidence
    assert measured is not None
    expected = {
        "self_certainty_mean": certainty.mean(),
        "self_certainty_window_min": certainty.unfold(0, 3, 1).mean(-1).min(),
        "collision_mean": logp.exp().square().sum(-1).mean(),
        "logprob_min": chosen.min(),
    }
    for name, value in expected.items():
        assert getattr(measured, name) == pytest.approx(float(value), abs=5e-3), name


def test_the_state_of_the_prompt_is_that_of_transformers(server: Server, checkpoint: Path) -> None:
    from training.common.hidden_states import hidden_states

    states, _ = hidden_states(checkpoint, [PROMPTS[0]], lambda _: None)
    score, distance = state_reader(HIDDEN_SIZE).read(states)[0].tolist()
    for number in range(2):  # the second prompt is in the prefix cache
        asked = {"confidence": confidence(STATE)}
        answer = ask(server.client, PROMPTS[0], asked, max_tokens=2, n=2, seed=number)
        for choice in answer.choices:
            found = report(choice)
            assert found is not None
            assert found.fallback is None
            assert found.confidence is not None
            expected = 1 / (1 + math.exp(-score))
            assert found.confidence.high_entropy == pytest.approx(expected, abs=0.02)
            assert found.confidence.state_distance == pytest.approx(distance, rel=0.02)
            assert found.confidence.out_of_distribution is True


def test_every_choice_and_the_last_chunk_of_a_stream_have_a_probability(server: Server) -> None:
    client = server.client
    messages: Any = [{"role": "user", "content": PROMPTS[1]}]
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=messages,
        max_tokens=6,
        n=2,
        seed=1,
        extra_body=controls(confidence=SURE),
    )
    answer = raw.parse()
    probabilities = []
    for choice in answer.choices:
        found = report(choice)
        assert found is not None
        assert found.confidence is not None
        assert found.entropy_mean is not None
        expected = 1 / (1 + math.exp(found.entropy_mean - 4))
        assert found.confidence.probability == pytest.approx(expected, abs=1e-6)
        probabilities.append(expected)
    assert raw.headers["x-entropy-confidence"] == f"{probabilities[0]:.4f}"
    stream = EntropyStream(
        client.chat.completions.create(
            model=MODEL,
            messages=messages,
            max_tokens=6,
            n=2,
            seed=1,
            stream=True,
            extra_body=controls(confidence=SURE),
        )
    )
    list(stream)
    for index, expected in enumerate(probabilities):
        last = stream.report(index)
        assert last is not None
        assert last.confidence is not None
        assert last.confidence.probability == pytest.approx(expected, abs=1e-3)


def test_answers_are_given_or_declined(server: Server) -> None:
    client = server.client
    messages = [{"role": "user", "content": PROMPTS[2]}]
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    given = ask_or_decline(client, MODEL, messages, ANSWERED, confidence=SURE, **options)
    plain = ask(client, PROMPTS[2], **options).choices[0].message.content
    assert (given.text, given.declined) == (plain, False)
    declined = ask_or_decline(client, MODEL, messages, DECLINED, logprobs=True, **options)
    assert (declined.text, declined.declined) == ("No idea.", True)
    assert declined.report.abstain is not None
    assert declined.report.abstain.answer is None
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt="The sky is", n=2, logprobs=1, extra_body=controls(abstain=DECLINED)
    )
    completion = raw.parse()
    assert [choice.text for choice in completion.choices] == ["No idea."] * 2
    assert [choice.logprobs for choice in completion.choices] == [None] * 2
    assert raw.headers["x-entropy-abstained"] == "true"


@pytest.mark.parametrize("given", [True, False])
def test_a_stream_waits_for_the_verdict(given: bool, server: Server) -> None:
    asked = controls(abstain=ANSWERED, confidence=SURE) if given else controls(abstain=DECLINED)
    chunks = server.client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPTS[2]}],
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=asked,
    )
    kept = list(chunks)
    assert kept[-1].usage is not None
    assert kept[-1].usage.completion_tokens == 8
    text = "".join(one.choices[0].delta.content or "" for one in kept if one.choices)
    plain = ask(server.client, PROMPTS[2], max_tokens=8, temperature=0).choices[0].message.content
    assert text == (plain if given else "No idea.")
    last = report(kept[-2].choices[0])
    assert last is not None
    assert last.abstain is not None
    assert last.abstain.abstained is not given


def test_semantic_entropy_comes_with_an_unchanged_answer(server: Server) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    plain = ask(server.client, PROMPTS[5], **options).choices[0].message.content
    asked = {"semantic": semantic(4, estimator="likelihood")}
    answer = ask(server.client, PROMPTS[5], asked, **options)
    assert answer.choices[0].message.content == plain
    found = report(answer.choices[0])
    assert found is not None
    assert found.semantic is not None
    assert found.semantic.entropy is not None
    assert 0 <= found.semantic.entropy <= math.log(4)
    assert answer.usage.completion_tokens == found.semantic.tokens
    assert sum(cluster.share for cluster in found.semantic.clusters) == pytest.approx(1)


@pytest.mark.parametrize("cluster", ["judge", "entailment"])
def test_the_model_says_which_samples_say_the_same(server: Server, cluster: Any) -> None:
    asked = {"semantic": semantic(3, cluster=cluster, temperature=2)}
    answer = ask(server.client, PROMPTS[5], asked, max_tokens=4)
    found = report(answer.choices[0])
    assert found is not None
    assert found.semantic is not None
    assert (found.semantic.cluster, found.fallback) == (cluster, None)
    assert found.semantic.pairs is not None
    assert 1 <= found.semantic.pairs <= 3
    assert answer.usage.completion_tokens == found.semantic.tokens
    assert sum(one.share for one in found.semantic.clusters) == pytest.approx(1)


def test_votes_weigh_by_the_probability_of_their_tokens(server: Server) -> None:
    asked = {"vote": vote(3, weight="probability")}
    found = report(ask(server.client, PROMPTS[5], asked, max_tokens=3, temperature=1).choices[0])
    assert found is not None
    assert found.vote is not None
    assert found.vote.weight == "probability"
    assert all(0 < row.weight < row.votes for row in found.vote.table)
    assert found.vote.table[0].weight == max(row.weight for row in found.vote.table)


def test_weak_samples_of_a_vote_end_and_have_no_vote(server: Server) -> None:
    prompt = "Write one long sentence about the sea."
    asked = {"vote": vote(6, answer="line", percentile=90, warmup=2, window=4)}
    answer = ask(server.client, prompt, asked, max_tokens=24, temperature=1.5, seed=1)
    found = report(answer.choices[0])
    assert found is not None
    assert found.vote is not None
    assert found.vote.threshold is not None
    assert found.vote.finished == 6
    assert found.vote.weak >= 1  # of a warm-up of two, the less sure one is below 90 % of them
    voters = sum(row.votes for row in found.vote.table) + (found.vote.no_answer or 0)
    assert voters + found.vote.weak == 6
    assert answer.usage.completion_tokens == found.vote.tokens
    # The ones that are ended are shorter than an answer that goes on to its limit.
    assert found.vote.tokens is not None
    assert found.vote.tokens < 6 * 24


def test_the_samples_of_a_vote_share_the_prompt(server: Server) -> None:
    prompt = f"Here is a list: {' '.join(map(str, range(120)))}. What is 2 plus 3?"
    answer = ask(server.client, prompt, {"vote": vote(4)}, max_tokens=2, temperature=0.7)
    found = report(answer.choices[0])
    assert found is not None
    assert found.vote is not None
    assert found.vote.cached_tokens is not None
    whole = 3 * answer.usage.prompt_tokens
    assert 0.8 * whole < found.vote.cached_tokens < whole


WRONG: dict[str, dict[str, Any]] = {
    "entropy.abstain.alpha": {"abstain": {**DECLINED, "alpha": 0.001}},
    "entropy.abstain.calibration": {"abstain": {**DECLINED, "calibration": CONFIDENCE}},
    "entropy.abstain": {"abstain": ANSWERED},
    "entropy.trace": {"abstain": DECLINED, "trace": "none"},
    "entropy.confidence.probe": {"confidence": {"probe": "no/such"}},
    "entropy.confidence.window": {"confidence": {"window": 0}},
    "entropy.vote.n": {"vote": {"n": 33}},
    "entropy.vote.stop": {"vote": {"stop": "early"}},
    "entropy.vote.percentile": {"vote": {"percentile": 100}},
    "entropy.vote.warmup": {"vote": {"percentile": 10, "warmup": 1}},
    "entropy.vote.window": {"vote": {"percentile": 10, "window": 4096}},
    "entropy.abstain.promise": {"abstain": {**DECLINED, "promise": "both"}},
}


@pytest.mark.parametrize("param", WRONG)
def test_bad_input_is_refused_by_name(param: str, server: Server) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(server.client, PROMPTS[0], WRONG[param])
    assert caught.value.param == param


@pytest.mark.parametrize("streams", [False, True])
def test_a_vote_is_one_answer_and_counts_all_tokens(streams: bool, server: Server) -> None:
    asked = controls(vote=vote(4, stop="lead"), confidence=confidence())
    options: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is 2 plus 3? Say the number."}],
        "max_tokens": 12,
        "temperature": 0.7,
        "seed": 5,
        "extra_body": asked,
    }
    client = server.client
    if streams:
        chunks = list(
            client.chat.completions.create(
                stream=True, stream_options={"include_usage": True}, **options
            )
        )
        usage = chunks[-1].usage
        texts = [one.choices[0].delta.content for one in chunks if one.choices]
        found, text = report(chunks[-2].choices[0]), "".join(filter(None, texts))
    else:
        answer = client.chat.completions.create(**options)
        assert len(answer.choices) == 1
        usage, found = answer.usage, report(answer.choices[0])
        text = answer.choices[0].message.content or ""
    assert usage is not None
    assert found is not None
    assert found.vote is not None
    assert found.vote.n == 4
    assert usage.completion_tokens == found.vote.tokens
    assert found.num_tokens is not None
    assert usage.completion_tokens > found.num_tokens > 0
    assert text
    assert sum(group.votes for group in found.vote.table) + (found.vote.no_answer or 0) == (
        found.vote.finished
    )
    assert found.confidence is not None
