"""Texts of public benchmarks and bug reports, each with the verdict that a reader would give."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from probes.graders import GRADERS

CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("cases.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['grader']}-{case['text'][:30]!r}")
def test_the_verdict_is_the_readers(case: dict[str, Any]) -> None:
    assert GRADERS[case["grader"]](case["text"], case["answer"]) is case["want"]


PATHOLOGICAL = (
    "1,", "1 ", "1 000 ", "9", "5^", "(", "{", "$", "*a ", "**a", "* ", "- ", "A. ", "a. ", "`",
    "\\boxed{", "\\boxed{3} ", "\\frac{", "\\text{", "\\left(", "\\sqrt{", "\\frac{1}{", "\\",
    "answer is ", "Answer: 5 ", "#### 5 ", "Answer:\n", "\nQ: ", "```\n", "not A ", "wait ",
    "July 4, ", "A is wrong ", "A, ", "option a ", "b) ", "<b>", "$5k ", "_a ", "not to ", "\u221e",
    "€1.000", "\u200f", "\u0661", "<think>", "</think>", "\n", "\t", "=", "1e", "or ",
)  # fmt: skip


@pytest.mark.parametrize("unit", PATHOLOGICAL)
@pytest.mark.parametrize("grader", [name for name in GRADERS if name != "math"])
def test_work_is_linear_in_the_length_of_a_text(unit: str, grader: str) -> None:
    """Counted in calls and bytecode lines rather than seconds, so that load changes nothing."""

    def count(text: str) -> int:
        steps = 0

        def trace(frame: object, event: str, argument: object) -> object:
            nonlocal steps
            steps += 1
            return trace

        others = sys.gettrace()  # of coverage, which would measure nothing after this test
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            GRADERS[grader](text, "5" if grader == "numeric" else "A")  # type: ignore[index]
        finally:
            sys.settrace(others)
        return steps

    short, long = count(unit * 100), count(unit * 400)
    assert long <= 4.5 * short + 2000
