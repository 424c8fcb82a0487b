from collections.abc import Callable

import pytest

from probes.graders import (
    GraderName,
    choice,
    contains,
    exact,
    final_span,
    math,
    numeric,
)
from probes.grading.final_answer import final_answer
from probes.grading.wording import after_thinking, plain_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: 7", "7"),
        ("First answer: 3. No.\nFinal answer: 4 apples\nBye", "4 apples"),
        ("The answer is: 12", "12"),
        ("no mark at all ", "no mark at all"),
        ("Answer:", ""),
        ("**Answer:** 7", "7"),
        ("The final answer is:\n\\[\n\\boxed{5}\n\\]", "5"),
        ("**Final Answer:**\n\n$$\n5\n$$", "5"),
        ("Answer:\n```python\nx + 1\n```", "x + 1"),
        ("Answer: >", ">"),
        ("**Answer: 7**", "7"),
        ("2*3*4", "2*3*4"),
        ("<think>Answer: 3</think>\n\nno mark", "no mark"),
    ],
)
def test_the_final_answer_follows_the_last_mark(text: str, expected: str) -> None:
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("plain", "plain"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),  # where the template opens the thinking
        ("<think>a</think>b</think>c", "c"),
        ("<think>for ever", ""),
        ("<think>a</think>b<think>c", ""),
    ],
)
def test_thinking_is_no_part_of_the_text(text: str, visible: str) -> None:
    assert after_thinking(text) == visible


@pytest.mark.parametrize(
    ("grader", "answer"),
    [(exact, "5"), (contains, "5"), (numeric, "5"), (choice, "B"), (math, "5")],
)
def test_no_grader_reads_thinking(grader: Callable[[str, str], bool], answer: str) -> None:
    assert grader(f"<think>Answer: 7 (A)</think>\n\n{answer}", answer)
    assert not grader(f"<think>Answer: {answer}</think>I do not know", answer)
    assert not grader(f"<think>{answer}", answer)
    assert not grader(f"<think>{answer}</think>Answer: none", answer)  # nor does a second look


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
        ("10-5", "5", True),
        ("pages 3-5", "5", True),
        ("(10)-5", "5", True),
        ("10-5", "-5", False),
        ("-5", "-5", True),
        ("x = -5", "-5", True),
        ("it costs -$5", "-5", True),
        ("1e3", "1000", True),
        ("2.5E-1", "0.25", True),
        ("1e3", "3", False),
        ("in all 1,234,567 people", "1234567", True),
        ("5 euros", "\u20ac5", True),
        ("50%", "50%", True),
        ("5000 m or 5", "5 km", False),
        ("2", "1/2", False),
        ("1/2", "1/2", True),
        ("none", "none", False),
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
        ("The Paris!", "paris", True),
        ("- Paris", "Paris", True),
        ("**Paris**", "Paris", True),
        ("St. Petersburg", "St. Petersburg", True),
        ("Porto Novo", "Porto-Novo", True),
        ("J. R. R. Tolkien", "J.R.R. Tolkien", True),
    ],
)
def test_exact_forgives_case_accents_articles_and_punctuation(
    text: str, answer: str, right: bool
) -> None:
    assert exact(text, answer) is right


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "-5"),
        ("C", "C++"),
        ("C", "C#"),
        (">", "<"),
        ("", "!"),
        ("1/2", "1 2"),
        ("3.5", "35"),
        ("do", ".do"),
        ("50%", "50"),
        ("a", "the"),
    ],
)
def test_exact_tells_signs_and_symbols_apart(one: str, other: str) -> None:
    assert not exact(one, other)
    assert not exact(other, one)
    assert exact(other, other)


def test_plain_words_keep_their_signs_and_lose_punctuation() -> None:
    assert (
        plain_words("(The) \u20185%\u2019 of N'Djamena, C++ & .fr...")
        == "5 % of n djamena c++ & .fr"
    )
    assert plain_words("\u22125 or 3\u20135") == "-5 or 3-5"
    assert plain_words("...") == "..."


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("The capital of France is Paris.", "Paris", True),
        ("Parisian", "Paris", False),
        ("It is London. Or Paris.", "Paris", False),  # a second guess does not count
        ("I think it is New Delhi", "New Delhi", True),
        ("The symbol is Fe", "F", False),
        ("It is -5", "5", False),
        ("It is -5.", "-5", True),
        ("2 + 3=5", "5", True),
        ("It boils at 100\u00b0C", "100", True),
        (r"The symbol is \(U\).", "U", True),
        ('The domain is ".fr".', ".fr", True),
        ("I do not know. It is", ".do", False),
        ("What is it?", ".is", False),
        ("It is St. Petersburg.", "St. Petersburg", True),
        ("It is St. Petersburg.", "St Petersburg", True),
        ("It was D. H. Lawrence.", "D. H. Lawrence", True),
        ("It is London. Or D. H. Lawrence.", "D. H. Lawrence", False),
        ("Sure! It is Paris.", "Paris", True),
        ("Yes.\n\nIt is Paris.", "Paris", True),
        ("Yes. It is.", "Yes", True),
        ("Sure! It is London. Or Paris.", "Paris", False),
        ("London. Paris.", "Paris", False),
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
        ("Answer: B because A is wrong", "B", True),
        ("Because", "B", False),
        ("Answer: B. I am sure.", "B", True),
        ("B because I checked it", "B", True),
        ("(B) A dog", "B", True),
        ("Answer: B. A cat", "B", True),
        ("'B' because it barks", "B", True),
        ("b", "B", True),
        ("A", "A", True),
        ("A is right", "A", True),
        ("A cat, so B", "B", True),
        ("A cat", "A", False),
        ("I think it is B", "B", True),
        ("I think so", "I", False),
        ("I'm sure", "I", False),
        ("It is (C). A dog has 4 legs", "C", True),
        ("Not (A). So (C) is left, said I", "C", True),
        ("The answer is B as E. coli show", "B", True),
        ("B", "B) Paris", True),
        ("(b) Paris", "B", True),
        ("Paris", "Paris", False),
        ("Answer: none\n", "B", False),
    ],
)
def test_the_letter_that_is_no_word_is_the_choice(text: str, answer: str, right: bool) -> None:
    assert choice(text, answer) is right


def test_mathematics_is_compared_by_value() -> None:
    assert math(r"so \boxed{\frac{1}{2}}", r"\frac12")
    assert math("Answer: 0.5", r"\frac{1}{2}")
    assert not math(r"\boxed{3}", "4")


@pytest.mark.parametrize(
    "text",
    [
        "A) Paris\nB) London\nC) Rome\n\nThe answer is B",
        "Let us see.\nA. no\nB. yes\nC. no\nD. no\nThe correct answer is **B**",
        "The answer is \\boxed{B}. (C) is wrong",
        "答案是B",
        "정답은 B입니다",
        "Answer: B입니다",
    ],
)
def test_a_choice_is_found_behind_a_list_of_all_and_beside_other_scripts(text: str) -> None:
    assert choice(text, "B")
    assert not choice(text, "A")


def test_emphasis_may_hold_asterisks() -> None:
    assert contains("It is **12 * 4 = 48**.", "48")
    assert exact("**2*3**", "2*3")


def test_a_formula_below_the_mark_is_the_answer() -> None:
    assert math("The final answer is:\n\\[\n\\boxed{5}\n\\]", "5")


@pytest.mark.parametrize(
    ("text", "grader", "part"),
    [
        ("12 + 7 = 19 apples.", "numeric", "19"),
        ("The answer is 1,200 cards, not 12.", "numeric", "1,200"),
        ("So \\boxed{42} it is, of 50.", "numeric", "42"),
        ("7 <think>9</think> then 5", "numeric", "5"),
        ("Paris is large.\nAnswer: Rome", "contains", "Rome"),
        ("It is 3. Answer: B", "choice", "B"),
    ],
)
def test_the_final_part_is_where_the_grader_reads_the_answer(
    text: str, grader: GraderName, part: str
) -> None:
    span = final_span(text, grader)
    assert span is not None
    assert text[slice(*span)] == part
    assert not text[span[1] :].count(part)


@pytest.mark.parametrize(
    ("text", "grader"),
    [
        ("no number", "numeric"),
        ("Answer: 3. Answer: 4", "numeric"),
        ("The capital is Rome.", "contains"),
        ("", "exact"),
    ],
)
def test_without_a_marked_answer_or_a_number_there_is_no_final_part(
    text: str, grader: GraderName
) -> None:
    assert final_span(text, grader) is None
