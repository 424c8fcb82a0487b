"""Replies that need no model: plain ones on six questions, and texts that are no answer."""

import pytest

from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.replies import literal_answer
from probes.inquiry.task import Task, load_task

QUESTIONS = [
    "Is it a mammal?",
    "Can it fly?",
    "Does it have stripes?",
    "Does it live in water?",
    "Do people keep it as a pet?",
    "Is it larger than a human?",
]
POSITIVE = """
yes | Yes! | yeah | yep, it does | yup | sure | of course | certainly | definitely | absolutely
indeed | correct | that's right | true | it does | it sure does | yes it is | I think so
I believe so | oh yes | well, yes | very much so | without a doubt | you bet | affirmative
for sure | yes, always
"""
NEGATIVE = """
no | No. | nope | nah | never | no, never | not really | not at all | it does not | it doesn't
it isn't | no it is not | I don't think so | certainly not | definitely not | absolutely not
of course not | no way | negative | false | that's wrong | incorrect | I doubt it | hardly
not that I know of | by no means | far from it | no, it can't | well, no | I'm afraid not
"""
NEITHER = """
I don't know | no idea | not sure | maybe | can't say | it depends | dunno | hard to say
sometimes | who knows
"""
NOISE = """
blue | 42 | banana | banana banana 42 | asdf qwer | lorem ipsum dolor sit amet
the weather is nice today | what do you mean? | hello | hello there | how are you | xyzzy
1234567890 | let's play another game | tell me a joke | Paris is the capital of France
I like pizza | my dog ate my homework | green | Tuesday | seven | stop | help | why? | because
the quick brown fox jumps over the lazy dog | SELECT * FROM users | <html></html>
purple monkey dishwasher | please continue | interesting | can you repeat the question?
what was the question | good morning | thank you | happy birthday | 0x7fff | e=mc^2 | Berlin
a b c d e f g | foo bar baz | the cat sat on the mat | ok google | once upon a time | ring ring
music | car | orange juice
"""


def replies(text: str) -> list[str]:
    return [reply.strip() for line in text.splitlines() for reply in line.split("|") if line]


@pytest.fixture(scope="module")
def animals() -> Task:
    return load_task("animals")


@pytest.mark.parametrize(
    ("texts", "meaning"), [(POSITIVE, YES), (NEGATIVE, NO), (NEITHER, UNKNOWN)]
)
def test_plain_replies_mean_the_same_on_every_question(
    animals: Task, texts: str, meaning: int
) -> None:
    for reply in replies(texts):
        found = {literal_answer(animals, question, reply) for question in QUESTIONS}
        assert found == {meaning}, reply


def test_noise_is_never_an_answer(animals: Task) -> None:
    for reply in replies(NOISE):
        found = {literal_answer(animals, question, reply) for question in QUESTIONS}
        assert found <= {None, UNKNOWN}, reply


@pytest.mark.parametrize(
    ("question", "reply", "meaning"),
    [
        ("Does it have stripes?", "it has stripes", YES),
        ("Does it have stripes?", "It has no stripes.", NO),
        ("Can it fly?", "they can\u2019t fly", NO),
        ("Is it a mammal?", "it's a mammal", YES),
        ("Is it a mammal?", "it's not a mammal", NO),
        ("Is it a mammal?", "it is a lovely day", None),
        ("Is it a mammal?", "no, it's a bird", NO),
        ("Is it a mammal?", "NOOOO!", NO),
        ("Is it a mammal?", "yes and no", UNKNOWN),
        ("Is it a mammal?", "yes. No, wait: no!", None),
        ("Is it a mammal?", "of course not", NO),
        ("Is it a mammal?", "no doubt", YES),
        ("Is it a mammal?", "", UNKNOWN),
    ],
)
def test_negation_decides_first_and_the_questions_own_words_count(
    animals: Task, question: str, reply: str, meaning: int | None
) -> None:
    assert literal_answer(animals, question, reply) == meaning


def test_another_language_has_the_tasks_words_and_no_english_rules(animals: Task) -> None:
    words = {"yes": ["klar"], "no": ["auf keinen Fall"]}
    german = Task.model_validate(
        {**animals.model_dump(), "answers": ("ja", "nein"), "replies": words}
    )
    for reply, meaning in (
        ("Ja!", YES),
        ("ja, natürlich", YES),
        ("Nein, das glaube ich nicht.", NO),
        ("Klar doch", YES),
        ("Auf keinen Fall!", NO),
        ("no", None),
        ("vielleicht", None),
    ):
        assert literal_answer(german, QUESTIONS[0], reply) == meaning


def test_a_reply_of_many_parts_is_read_from_its_beginning(animals: Task) -> None:
    assert literal_answer(animals, QUESTIONS[0], "oh, " * 500) is None
    assert literal_answer(animals, QUESTIONS[0], "no, " * 500) == NO
