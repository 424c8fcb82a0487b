"""Support tickets whose team, urgency and mood are known, because they are built from templates.

`python -m training.datasets.tickets` writes `tickets.jsonl`, the rows of `train-probe decisions`.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TEAMS = {
    "billing": "charges, invoices and payments",
    "shipping": "parcels that are late, lost or at the wrong address",
    "returns": "sending a product back or exchanging it",
    "account": "passwords, logins and personal data",
    "technical": "a product or the app that does not work",
    "sales": "questions before buying",
}
"""Values and descriptions of the question `team`."""

_PROBLEMS: dict[str, tuple[str, ...]] = {
    "billing": (
        "The amount of {money} was taken from my card twice for {thing}.",
        "The invoice for {thing} shows {money}, but I agreed to less.",
        "My bank says that you tried to collect {money} again.",
        "I need the invoice for {thing} with our tax number on it.",
        "You still charge me {money} a month although I cancelled the plan.",
        "The discount code for {thing} was not taken off the {money} I paid.",
    ),
    "shipping": (
        "The parcel with {thing} has been in the same depot for {days} days.",
        "Tracking says {thing} was delivered, but nothing arrived.",
        "I moved {days} days ago and {thing} is going to my old address.",
        "The courier left {thing} with a neighbour I do not know.",
        "When will {thing} arrive? It was due {days} days ago.",
        "The box arrived, but {thing} was missing from it.",
    ),
    "returns": (
        "I would like to send {thing} back; it is not what I expected.",
        "Can I swap {thing} for a larger one? I have had it for {days} days.",
        "Where is the label to send {thing} back?",
        "I sent {thing} back {days} days ago and want to know that you have it.",
        "The colour of {thing} does not suit us and we want another one.",
        "My wife got {thing} twice as a present, so one should go back to you.",
    ),
    "account": (
        "I cannot log in any more since I changed my phone {days} days ago.",
        "Please delete my profile and everything you store about me.",
        "The password mail never comes, so I am locked out.",
        "My name is spelled wrong in my profile and I cannot edit it.",
        "Somebody signed in as me from another country {days} days ago.",
        "How do I change the mail address that I sign in with?",
    ),
    "technical": (
        "{Thing} stopped turning on after {days} days.",
        "The app closes whenever I open the page of {thing}.",
        "{Thing} makes a loud noise and gets hot.",
        "After the update, {thing} no longer connects to the network.",
        "The screen of {thing} flickers, even after a restart.",
        "Error {days}04 comes up each time I start {thing}.",
    ),
    "sales": (
        "Does {thing} come in a larger size, and what would it cost?",
        "We would like to order {days}0 pieces of {thing}. Is there a price for companies?",
        "Which is better for a small flat, {thing} or {other}?",
        "Will {thing} be in stock again before {days} weeks are over?",
        "Is there a trial of {thing} before I decide?",
        "What is the difference between {thing} and {other}?",
    ),
}
_VAGUE = (
    "It is about {thing}. Something went wrong, please get back to me.",
    "I have a problem with {thing} and hope that you can help.",
    "This concerns {thing}. Who can I talk to?",
)
"""Tickets that do not say what the problem is; a follow-up question would."""
_THINGS = (
    "the kettle",
    "the desk lamp",
    "the headphones",
    "the rain jacket",
    "the garden hose",
    "the office chair",
    "the travel bag",
    "the coffee grinder",
    "the tablet",
    "the air purifier",
    "the camping stove",
    "the keyboard",
)
_URGENT = (
    "It has to be solved today.",
    "This cannot wait: our event is tomorrow morning.",
    "Please act at once.",
    "We lose customers every hour because of this.",
)
_CALM = (
    "There is no hurry.",
    "Whenever you have time is fine.",
    "Next week is early enough.",
    "",
)
MOODS = ("calm", "annoyed", "angry")
"""Levels of the question `mood`."""
_OPENINGS = (
    ("Hello, and thanks for your good service so far.", "Good day.", "Hi there!"),
    ("I am a little disappointed.", "This is the second time that I write.", "Honestly, again?"),
    (
        "This is outrageous!",
        "I have never been treated so badly in my life!",
        "You should be ashamed of yourselves!",
    ),
)
FOLLOW_UPS = {
    "Was money taken or an invoice sent?": ("billing",),
    "Is a parcel late, lost or misdirected?": ("shipping",),
    "Do you want to send something back?": ("returns",),
    "Does something not work as it should?": ("technical", "account"),
    "Is it about your profile or your login?": ("account",),
    "Have you bought it already?": ("billing", "shipping", "returns", "technical"),
}
"""Questions to a customer, with the teams for whose tickets the answer is yes."""

TEAM_QUESTION: dict[str, Any] = {
    "type": "choice",
    "name": "team",
    "instructions": "Which team should handle this support ticket?",
    "choices": [{"value": name, "description": text} for name, text in TEAMS.items()],
}
URGENT_QUESTION: dict[str, Any] = {
    "type": "predicate",
    "name": "urgent",
    "instructions": "Is the ticket urgent?",
}
MOOD_QUESTION: dict[str, Any] = {
    "type": "score",
    "name": "mood",
    "instructions": "How angry is the customer?",
    "levels": [{"label": name} for name in MOODS],
}


def tickets(number: int, seed: int, vague: float = 0.1) -> Iterator[dict[str, Any]]:
    """Tickets, all different, with equally many for each team.

    Args:
        number: Number of tickets.
        seed: Seed; equal seeds give equal tickets.
        vague: Share of tickets that do not say what the problem is.

    Yields:
        `input`, `team`, `urgent`, `mood`, and `facts`: the customer's answer to each follow-up.
    """
    chance = random.Random(f"tickets:{seed}")
    seen = set[str]()
    while len(seen) < number:
        team = list(TEAMS)[len(seen) % len(TEAMS)]
        mood, urgent = chance.randrange(len(MOODS)), chance.random() < 0.4
        problems = _VAGUE if chance.random() < vague else _PROBLEMS[team]
        text = _ticket(problems, mood, urgent, chance)
        if text in seen:
            continue
        seen.add(text)
        facts = {asked: "yes" if team in yes else "no" for asked, yes in FOLLOW_UPS.items()}
        yield {"input": text, "team": team, "urgent": urgent, "mood": MOODS[mood], "facts": facts}


def _ticket(problems: Sequence[str], mood: int, urgent: bool, chance: random.Random) -> str:
    thing, other = chance.sample(_THINGS, 2)
    words = {"thing": thing, "Thing": thing.capitalize(), "other": other}
    days, money = chance.randrange(2, 30), f"{chance.randrange(9, 300)}.{chance.randrange(10, 99)}"
    parts = [
        chance.choice(_OPENINGS[mood]),
        chance.choice(problems).format(days=days, money=f"{money} euros", **words),
        chance.choice(_URGENT if urgent else _CALM),
    ]
    return " ".join(filter(None, parts))


def dialogues(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Tickets with the customer's answers to none, one, two or three follow-ups.

    A calibration of them holds for tickets with and without answers.

    Yields:
        As `tickets`; the answers are part of `input`.
    """
    chance = random.Random(f"dialogues:{seed}")
    for place, one in enumerate(tickets(number, seed)):
        asked = chance.sample(list(FOLLOW_UPS), place // len(TEAMS) % 4)
        said = [f"{question}\n{one['facts'][question]}" for question in asked]
        yield {**one, "input": "\n\n".join([one["input"], *said])}


def rows(number: int = 720, seed: int = 0) -> list[dict[str, Any]]:
    """Labeled rows for three questions about each ticket."""
    questions = [TEAM_QUESTION, URGENT_QUESTION, MOOD_QUESTION]
    return [
        {
            "input": one["input"],
            "questions": questions,
            "answers": {"team": one["team"], "urgent": one["urgent"], "mood": one["mood"]},
        }
        for one in tickets(number, seed)
    ]


def main() -> None:
    """Write the tickets as JSONL next to this module, without the questions, which are constant."""
    path = Path(__file__).with_name("tickets.jsonl")
    lines = [json.dumps(one, ensure_ascii=False) for one in tickets(720, 0)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
