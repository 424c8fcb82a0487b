"""A number is graded as itself, however it is written, and as no other number."""

import random
import threading
from collections.abc import Iterator
from fractions import Fraction

import pytest

from probes.graders import math, numeric
from tests.long import is_long

SIGNS = ("-", "\u2212", "\u2013", "\u2011", "minus ", "negative ")
SEPARATORS = (
    "",
    ",",
    "{,}",
    ",\\!",
    "\\,",
    "\\ ",
    "\\;",
    " ",
    "\u00a0",
    "\u2009",
    "\u202f",
    "'",
    "_",
)
TIMES = (" x ", "x", " * ", "\u00d7", " \u00d7 ", " \\times ", "\\cdot ", "\u00b7")
UNITS = (
    "", "%", "\\%", " percent", " cm", "cm", " cm^2", " m\u00b2", " \\text{ cm}^2", " m/s",
    " km/h", "\\text{ m/s}^{2}", " kg m^{-3}", "^\\circ", "\u00b0C", "^{\\circ}", " apples",
    " m2", " s^{-1}",
)  # fmt: skip
CURRENCIES = ("$", "\\$", "\u20ac", "\u00a3", "\u20b9")
MACROS = ("{}", "\\text{{{}}}", "\\mathbf{{{}}}", "\\left({}\\right)", "{{{}}}")
DIGITS = ("0123456789", "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669",
          "\u06f0\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6\u06f7\u06f8\u06f9",
          "\u0966\u0967\u0968\u0969\u096a\u096b\u096c\u096d\u096e\u096f",
          "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19")  # fmt: skip
SUPERSCRIPT = str.maketrans(
    "0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b"
)
FRAMES = (
    "{}", "It is {}.", "Answer: {}", "**Answer:** {}", "ANSWER: {}\n\nDone in 17 steps.",
    "The answer is {}.", "the final answer is: {}. I used 17 steps.", "\\boxed{{{}}}",
    "There are 17 steps.\n\n#### {}", "#### {}\n\nI needed 17 steps.",
    "Final Answer:\n\\[\n{}\n\\]",
    "First 17 * 2 = 34. So x = {}", "**{}**", "Therefore, \\({}\\).", "$$\\boxed{{{}}}$$",
    "<think>Answer: 17</think>{}", "\u200fAnswer: \u200e{}\u200e", "Answer:\n```\n{}\n```",
    "```python\nanswer = 17\n```\nAnswer: {}", "Answer: {} (not 17)", "Answer: {}, since 17 is odd",
    "Die Antwort ist {}.", "\u7b54\u6848\u662f{}", "The answer to question 17 is {}.",
    "So \\boxed{{17}}. Wait, that is wrong. \\boxed{{{}}}", "Answer: \\fbox{{{}}}",
)  # fmt: skip


def grouped(digits: str, separator: str) -> str:
    head = len(digits) % 3 or 3
    groups = [digits[:head], *(digits[i : i + 3] for i in range(head, len(digits), 3))]
    return separator.join(groups)


def lakhs(digits: str) -> str:
    head, last = digits[:-3], digits[-3:]
    start = len(head) % 2
    parts = [head[:start], *(head[i : i + 2] for i in range(start, len(head), 2)), last]
    return ",".join(part for part in parts if part)


def spelled(value: Fraction, chance: random.Random) -> str:
    """One of the spellings of a positive number."""
    above, below = value.numerator, value.denominator
    decimal = below in (1, 2, 4, 5, 8, 10, 20, 25, 50, 100)
    if not decimal or (below > 1 and chance.random() < 0.4):
        return fraction(above, below, chance)
    digits = f"{float(value):.6f}".rstrip("0").rstrip(".")
    whole, _, decimals = digits.partition(".")
    kind = chance.choice(("plain", "grouped", "scientific", "power", "trailing", "digits", "comma"))
    if kind == "grouped" and len(whole) > 3:
        separator = chance.choice(SEPARATORS)
        whole = lakhs(whole) if chance.random() < 0.1 else grouped(whole, separator)
    elif kind == "scientific":
        return scientific(digits, chance)
    elif kind == "power" and not decimals and whole.strip("0") == "1" and len(whole) > 1:
        exponent = len(whole) - 1
        return chance.choice((f"10^{exponent}", f"10^{{{exponent}}}", f"10**{exponent}"))
    elif kind == "trailing":
        decimals += "0" * chance.randint(1, 2) if decimals else ".00"[1:]
    elif kind == "digits":
        return digits.translate(str.maketrans(DIGITS[0], chance.choice(DIGITS)))
    elif kind == "comma" and len(decimals) in (1, 2):
        return f"{grouped(whole, '.')},{decimals}" if len(whole) > 3 else f"{whole},{decimals}"
    return f"{whole}.{decimals}" if decimals else whole


def fraction(above: int, below: int, chance: random.Random) -> str:
    whole, rest = divmod(above, below)
    forms = [f"{above}/{below}", f"{above} / {below}", f"\\frac{{{above}}}{{{below}}}",
             f"\\dfrac{{{above}}}{{{below}}}", f"{above}\u2044{below}"]  # fmt: skip
    if whole and rest:
        forms += [f"{whole} {rest}/{below}", f"{whole}\\frac{{{rest}}}{{{below}}}"]
        forms += [f"{whole} \\tfrac{{{rest}}}{{{below}}}"]
    if above < 10 and below < 10:
        forms.append(f"\\frac{above}{below}")
    return chance.choice(forms)


def scientific(digits: str, chance: random.Random) -> str:
    whole, _, decimals = digits.partition(".")
    shift = len(whole) - 1
    mantissa = whole[0] + ("." + whole[1:] + decimals).rstrip("0").rstrip(".")
    if whole == "0":
        return digits
    if chance.random() < 0.3:
        return f"{mantissa}{chance.choice('eE')}{chance.choice(('', '+'))}{shift}"
    power = chance.choice(
        (f"10^{shift}", f"10^{{{shift}}}", f"10{str(shift).translate(SUPERSCRIPT)}")
    )
    return mantissa + chance.choice(TIMES) + power


def cases(number: int, seed: int) -> Iterator[tuple[str, Fraction]]:
    """Texts and the number that each states."""
    chance = random.Random(seed)
    for _ in range(number):
        value = Fraction(*chance.choice((
            (chance.randint(1, 99), 1), (chance.randint(1000, 9_999_999), 1),
            (10 ** chance.randint(1, 9), 1), (chance.randint(1, 99_999), 100),
            (chance.randint(1, 40), chance.choice((2, 3, 4, 5, 6, 7, 8, 9, 12))),
        )))  # fmt: skip
        text, frame = spelled(value, chance), chance.choice(FRAMES)
        negative = chance.random() < 0.3
        kind = chance.random()
        if kind < 0.3:
            text += chance.choice(UNITS)
        elif kind < 0.5 and len(text.rpartition(".")[2]) != 3:
            text = chance.choice(CURRENCIES) + text
        elif kind < 0.6 and "," not in text:
            text = chance.choice(MACROS).format(text)
        elif kind < 0.7:
            text = f"${text}$"
        if negative:
            sign = chance.choice(SIGNS if not text.startswith(("$", "\\", "{", "(")) else SIGNS[:3])
            text = (
                f"${sign}{text[1:]}" if text.startswith("$") and text.endswith("$") else sign + text
            )
        yield frame.format(text), -value if negative else value


def others(value: Fraction) -> list[Fraction]:
    """Numbers that a careless reader would find in a spelling of this one."""
    digits = str(abs(value.numerator))
    found = {-value, value + 1, value * 10, value * 100, value / 100, value * 1000, value / 1000}
    found |= {Fraction(digits[-3:]), Fraction(digits[:-3] or "0"), Fraction(value.denominator)}
    found |= {
        Fraction(value.numerator),
        Fraction(17),
        Fraction(2),
        Fraction(10),
        Fraction(int(value)),
    }
    return sorted(found - {value})


def check(number: int, seed: int) -> None:
    for text, value in cases(number, seed):
        answer = str(value)
        assert numeric(text, answer), (text, answer)
        for other in others(value):
            assert not numeric(text, str(other)), (text, str(other))


def test_every_spelling_of_a_number_is_that_number_and_no_other() -> None:
    check(400, 0)


@pytest.mark.skipif(not is_long(), reason="5,000 spellings: LONG_TESTS=1")
def test_every_one_of_many_spellings_is_that_number_and_no_other() -> None:
    check(5_000, 1)


def test_mathematics_reads_the_same_numbers() -> None:
    for text, value in cases(60, 2):
        if "," in text.replace("{,}", "") or "'" in text or "_" in text:
            continue
        assert math(text, str(value)), (text, value)
        assert not math(text, str(value + 1)), (text, value)


@pytest.mark.parametrize(
    "text",
    [
        "2^10", "5\\sqrt{2}", "$5\\sqrt{2}$", "10\\pi", "3x", "2 * 10", "10 + 2",
        "2 + 10", "12 - 10",
        "\\frac{\\sqrt{10}}{10}", "x^10", "10 or 12", "12, 10", "Answer: 12 and 10", "10:30",
        "(12, 10)",
        "\\boxed{10} or \\boxed{12}", "Answer: 10 or 12", "The answer is 10. The answer is 12.",
        "#### 12\n#### 10", "10^2", "10 million", "x_10", "\\log 10", "\u221a10",
        "10_6", "The answer is not 10.",
    ],
)  # fmt: skip
def test_a_number_within_a_formula_or_among_candidates_is_no_answer(text: str) -> None:
    assert not numeric(text, "10")


def test_mathematics_is_graded_in_any_thread() -> None:
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: verdicts.append(math(f"\\boxed{{x+{n}}}", f"{n}+x")))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 4


@pytest.mark.parametrize(
    "text", ["9^{9^{9^{9}}}", "\\int e^{x^{x^x}} \\sin(x^7) dx", "(x+1)^{99999}"]
)
def test_mathematics_that_never_ends_is_wrong_and_the_next_answer_is_graded(text: str) -> None:
    assert not math(f"\\boxed{{{text}}}", "\\sqrt{2}")
    assert math("\\boxed{\\frac{2}{\\sqrt{2}}}", "\\sqrt{2}")
