import pytest

from probes.grading import choice, contains, exact, final_answer, math, numeric


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: 7", "7"),
        ("First answer: 3. No.\nFinal answer: 4 apples\nBye", "4 apples"),
        ("The answer is: 12", "12"),
        ("no mark at all ", "no mark at all"),
        ("Answer:", ""),
    ],
)
def test_the_final_answer_follows_the_last_mark(text: str, expected: str) -> None:
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("12 + 30 = 42", "42", True),
        ("It is 42. Answer: 41", "42", False),
        ("$1,234.50", "1234.5", True),
        ("so -7", "-7", True),
        ("so \u22127", "-7", True),
        ("7", "-7", False),
        ("4.20", "4.2", True),
        ("420", "42", False),
        ("Answer: forty-two (42)", "42", True),
        ("none", "42", False),
        ("Answer: unknown, though 42 came up", "42", True),
    ],
)
def test_the_last_number_counts(text: str, answer: str, right: bool) -> None:
    assert numeric(text, answer) is right


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Answer: The Bogotá!", "bogota", True),
        ("Bogotá is nice", "bogota", False),
        ("paris.", "Paris", True),
    ],
)
def test_exact_forgives_case_accents_articles_and_punctuation(
    text: str, answer: str, right: bool
) -> None:
    assert exact(text, answer) is right


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("The capital of France is Paris.", "Paris", True),
        ("Parisian", "Paris", False),
        ("It is London. Or Paris.", "Paris", False),  # a second guess does not count
        ("I think it is New Delhi", "New Delhi", True),
        ("The symbol is Fe", "F", False),
    ],
)
def test_contains_wants_whole_words_of_the_first_sentence(
    text: str, answer: str, right: bool
) -> None:
    assert contains(text, answer) is right


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Answer: (B)", "B", True),
        ("I pick C.", "C", True),
        ("Answer: B because A is wrong", "B", False),
        ("Because", "B", False),
    ],
)
def test_the_last_letter_is_the_choice(text: str, answer: str, right: bool) -> None:
    assert choice(text, answer) is right


def test_mathematics_is_compared_by_value() -> None:
    assert math(r"so \boxed{\frac{1}{2}}", r"\frac12")
    assert math("Answer: 0.5", r"\frac{1}{2}")
    assert not math(r"\boxed{3}", "4")
