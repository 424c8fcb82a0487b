"""Decisions of the real engine: equal to transformers, by the SDK, one by one and in batches."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import BadRequestError, OpenAI

from probes.decisions.question import (
    DecisionQuestion,
    choice,
    context,
    labels,
    letters_prompt,
    orders,
    predicate,
    score,
    statements,
    statements_prompt,
)
from tests.integration.support import MODEL

TEXT = "I was charged twice for the same order and I want my money back today."
TEAMS = ["billing", "shipping", "returns"]
QUESTIONS: list[dict[str, Any]] = [
    {
        "type": "choice",
        "name": "team",
        "instructions": "Which team?",
        "choices": [{"value": one} for one in TEAMS],
    },
    {"type": "predicate", "name": "urgent", "instructions": "Is it urgent?"},
    {
        "type": "score",
        "name": "mood",
        "instructions": "How angry is the customer?",
        "levels": [{"label": one} for one in ("calm", "annoyed", "angry")],
    },
]
OURS = [
    choice("Which team?", TEAMS),
    predicate("Is it urgent?"),
    score("How angry is the customer?", ["calm", "annoyed", "angry"]),
]


def decide(client: OpenAI, questions: list[dict[str, Any]], **entropy: Any) -> Any:
    return client.decisions.create(
        model=MODEL,
        input=TEXT,
        questions=questions,  # type: ignore[arg-type]
        extra_body={"entropy": entropy} if entropy else {},
    )


class Reference:
    """Log-probabilities of replies by transformers in float32."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)

    def replies(self, prompt: str, texts: list[str]) -> list[float]:
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": context(TEXT) + prompt}],
            tokenize=False,
            add_generation_prompt=True,
        )
        return [self.reply(chat, text) for text in texts]

    def reply(self, chat: str, text: str) -> float:
        prompt = self.tokenizer(chat, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(chat + text, add_special_tokens=False)["input_ids"]
        assert whole[: len(prompt)] == prompt
        with torch.inference_mode():
            logits = self.model(torch.tensor([whole])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(-1, torch.tensor(whole[len(prompt) :])[:, None])
        return float(chosen.sum())


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest.mark.parametrize(("asked", "question"), list(zip(QUESTIONS, OURS, strict=True)))
def test_letters_and_statements_are_those_of_transformers(
    client: OpenAI, reference: Reference, asked: dict[str, Any], question: DecisionQuestion
) -> None:
    answer = decide(client, [asked], read="both", reads=True).answers[0]
    reads = answer.entropy["reads"]
    for order, found in zip(orders(question, 2), reads["letters"], strict=True):
        truth = reference.replies(letters_prompt(question, order), labels(question, order))
        assert found == pytest.approx(truth, abs=1e-4)
        assert sum(map(math.exp, found)) <= 1
    truth = reference.replies(statements_prompt(question), statements(question))
    assert reads["statements"] == pytest.approx(truth, abs=1e-4)


def test_a_question_alone_is_answered_as_among_twenty(client: OpenAI) -> None:
    others = [{**QUESTIONS[1], "instructions": f"Does it name {n} parcels?"} for n in range(19)]
    alone = decide(client, QUESTIONS[:1], reads=True).answers[0]
    # A cache key of its own: the reads of the question alone are not reused.
    among = client.decisions.create(
        model=MODEL,
        input=TEXT,
        questions=[*others, QUESTIONS[0]],  # type: ignore[list-item]
        prompt_cache_key="among",
        extra_body={"entropy": {"reads": True}},
    )
    one, two = alone.entropy["reads"], among.answers[-1].entropy["reads"]  # type: ignore[union-attr]
    for name in ("letters", "letters_prior"):
        torch.testing.assert_close(
            torch.tensor(one[name]), torch.tensor(two[name]), atol=1e-4, rtol=0
        )


def test_the_sdk_gets_the_types_that_it_declares(client: OpenAI) -> None:
    answer = decide(client, QUESTIONS)
    team, urgent, mood = answer.answers
    assert [one.name for one in answer.answers] == ["team", "urgent", "mood"]
    assert (team.type, urgent.type, mood.type) == ("choice", "predicate", "score")
    assert team.choice in TEAMS
    assert 0 <= urgent.probability <= 1
    assert 0 <= mood.score <= 2
    assert answer.usage.total_tokens == answer.usage.input_tokens > 0
    assert answer.model_dump() == decide(client, QUESTIONS).model_dump()


def test_an_input_that_is_too_long_names_the_field(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.decisions.create(
            model=MODEL,
            input="word " * 3000,
            questions=QUESTIONS,  # type: ignore[arg-type]
        )
    assert caught.value.param == "input"
