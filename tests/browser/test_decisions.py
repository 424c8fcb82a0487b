"""The view of decisions: probabilities, prediction sets, the next question, programs."""

import re
from typing import Any

import pytest

from tests.browser.actions import control, expect, fill, programs, serious_findings, switch_on
from tests.browser.test_safety import PAYLOADS, assert_no_markup
from tests.conftest import TEAMS

TICKET = "My card was charged twice for one parcel."
QUESTION = "Which team does the customer ask for?"
"""Its answer tells the model what to say."""
NAMES = ("billing", "shipping", "returns")


@pytest.fixture
def view(page: Any) -> Any:
    """A ticket and the question that the calibration has."""
    page.get_by_role("button", name="Decisions").click()
    page.get_by_label("Text to decide about").fill(TICKET)
    fill(page, "decision.questions.0.instructions", "Which team?")
    fill(page, "decision.questions.0.name", "team")
    control(page, "decision.questions.0.choices").get_by_role("button", name="Add another").click()
    for place, name in enumerate(NAMES):
        fill(page, f"decision.questions.0.choices.{place}.value", name)
    return page


def decide(page: Any) -> None:
    page.get_by_role("button", name="Decide", exact=True).click()
    decided(page)


def decided(page: Any) -> None:
    page.locator("main:not([aria-busy=true]) .composer #input").wait_for()


def add_question(page: Any, place: int, kind: str, instructions: str) -> None:
    questions = control(page, "decision.questions")
    questions.get_by_role("button", name="Add another").last.click()
    fill(page, f"decision.questions.{place}.type", kind)
    fill(page, f"decision.questions.{place}.instructions", instructions)


def test_every_kind_of_question_is_answered_and_a_calibrated_one_has_a_set(view: Any) -> None:
    fill(view, "decision.entropy.calibration", TEAMS)
    fill(view, "decision.entropy.confidence_level", "0.9")
    add_question(view, 1, "predicate", "The customer is angry.")
    add_question(view, 2, "score", "How urgent is it?")
    for place, label in enumerate(("low", "high")):
        fill(view, f"decision.questions.2.levels.{place}.label", label)
    decide(view)
    team = view.get_by_label("Decision team")
    size = re.compile(r"[0-3] of 3 options in the prediction set at 90 %")
    expect(team.locator(".badge")).to_contain_text(size)
    shown = team.locator(".labels li").all_inner_texts()
    shares = [int(text.removesuffix(" (not in the set)").split()[1]) for text in shown]
    assert sorted(text.split()[0] for text in shown) == sorted(NAMES)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=2)
    assert shown[0].split()[0] in team.locator(".badge").inner_text()
    angry = view.get_by_label("Decision The customer is angry.")
    expect(angry.locator(".badge")).to_contain_text("not calibrated")
    assert {text.split()[0] for text in angry.locator("li").all_inner_texts()} == {"true", "false"}
    urgent = view.get_by_label("Decision How urgent is it?").locator("li").all_inner_texts()
    assert {text.split()[0] for text in urgent} == {"low", "high"}
    expect(view.get_by_role("status").last).to_contain_text("Decided in")
    assert serious_findings(view) == []


def test_the_next_question_is_asked_and_its_answer_joins_the_text(view: Any) -> None:
    switch_on(view, "decision.entropy.abstain")
    fill(view, "decision.entropy.abstain.min_probability", "0.99")
    switch_on(view, "decision.entropy.ask")
    fill(view, "decision.entropy.ask.0.question", QUESTION)
    fill(view, "decision.entropy.ask.0.answers", "billing, returns")
    decide(view)
    team = view.get_by_label("Decision team")
    expect(team.locator(".badge")).to_contain_text("too uncertain to act on")
    expect(team.locator(".replies")).to_contain_text(f"Ask next: {QUESTION}")
    before = team.locator(".labels").inner_text()
    team.get_by_role("button", name="returns").click()
    expect(view.get_by_label("Text to decide about")).to_have_value(
        f"{TICKET}\n\n{QUESTION}\nreturns"
    )
    decided(view)
    assert team.locator(".labels").inner_text() != before


def test_a_refused_field_has_the_reason_beside_it(view: Any) -> None:
    fill(view, "decision.entropy.confidence_level", "2")
    decide(view)
    field = control(view, "decision.entropy.confidence_level")
    expect(field.locator(".error")).to_contain_text("less than 1")
    expect(field.locator("input")).to_be_focused()
    expect(view.get_by_role("alert")).to_contain_text("confidence_level")


def test_the_questions_stay_while_the_chat_is_shown(view: Any) -> None:
    view.get_by_role("button", name="Chat").click()
    expect(view.get_by_label("Message")).to_be_visible()
    view.get_by_role("button", name="Decisions").click()
    expect(view.get_by_label("Text to decide about")).to_have_value(TICKET)
    expect(control(view, "decision.questions.0.choices.2.value").locator("input")).to_have_value(
        "returns"
    )


def test_the_copied_programs_decide(view: Any) -> None:
    fill(view, "decision.entropy.calibration", TEAMS)
    for name, printed in programs(view):
        assert "billing" in printed, name
        assert "prediction_set" in printed, name


def test_markup_in_options_and_questions_is_text(view: Any) -> None:
    for place, text in enumerate(PAYLOADS[:3]):
        fill(view, f"decision.questions.0.choices.{place}.value", text)
    for text in PAYLOADS[3:]:
        fill(view, "decision.questions.0.name", text)
        switch_on(view, "decision.entropy.abstain")
        fill(view, "decision.entropy.abstain.min_probability", "0.99")
        switch_on(view, "decision.entropy.ask")
        fill(view, "decision.entropy.ask.0.question", text)
        fill(view, "decision.entropy.ask.0.answers", f"{PAYLOADS[0]}, no")
        decide(view)
        expect(view.locator(".decision .badge")).to_contain_text(text.replace("\n", " "))
        for option in PAYLOADS[:3]:
            expect(view.locator(".labels")).to_contain_text(option)
        assert_no_markup(view)
