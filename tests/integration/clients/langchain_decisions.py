"""`langchain-openai`: typed questions through `OpenAIDecisions`. Needs OPENAI_BASE_URL."""

import asyncio
import os

import openai
from langchain_openai.decisions import Choice, OpenAIDecisions, Predicate, Score
from pydantic import SecretStr

TICKET = "My card was charged twice and nobody answers!"


def main() -> None:
    """Ask a predicate, a choice and a score together, in both ways, and a refused question."""
    base_url = os.environ["OPENAI_BASE_URL"]
    key = os.environ.get("OPENAI_API_KEY", "none")
    name = openai.OpenAI(base_url=base_url, api_key=key).models.list().data[0].id
    decisions = OpenAIDecisions(model=name, base_url=base_url, api_key=SecretStr(key))
    questions = {
        "urgent": Predicate(instructions="Is the ticket urgent?"),
        "team": Choice(
            instructions="Which team should handle the ticket?",
            choices={"billing": "charges and invoices", "shipping": None},
        ),
        "mood": Score(instructions="How angry is the customer?", levels=["calm", "angry"]),
    }
    found = decisions.invoke({"input": TICKET, "questions": questions})
    assert 0 <= found.predicates["urgent"].probability <= 1
    team = found.choices["team"]
    assert team.choice in ("billing", "shipping")
    assert abs(sum(team.probabilities.values()) - 1) < 1e-6
    assert 0 <= found.scores["mood"].score <= 1
    assert found.usage.input_tokens
    print("langchain, decisions:", team.choice, round(team.confidence, 3))
    again = asyncio.run(decisions.ainvoke({"input": TICKET, "questions": questions}))
    assert again.choices["team"].probabilities == team.probabilities
    try:
        one = {"team": Choice(instructions="Which?", choices={"billing": None})}
        decisions.invoke({"input": TICKET, "questions": one})
    except openai.BadRequestError as error:
        print("langchain, a mistake:", error)
    else:
        raise AssertionError("a choice of one option was answered")


if __name__ == "__main__":
    main()
