"""What the page shows of truncation, router, votes, clusters, confidence and abstention."""

import re
from typing import Any

import pytest

from tests.browser.actions import (
    ask,
    control,
    expect,
    fill,
    open_panel,
    request,
    sent,
    summary,
    switch_on,
)
from tests.conftest import ROUTED_PROBE
from tests.selective_artifacts import ANSWERS, CONFIDENCE, DECLINES, STATE


@pytest.fixture
def form(page: Any) -> Any:
    request(page)
    open_panel(page, "Controls")
    return page


TRUNCATIONS = {
    "top_n_sigma": {"n": "1"},
    "p_less": {"normalized": "true"},
    "mirostat": {"surprise_target": "2", "learning_rate": "0.2"},
}


@pytest.mark.parametrize("kind", TRUNCATIONS)
def test_every_truncation_applies_with_its_parameters(form: Any, kind: str) -> None:
    switch_on(form, "entropy.truncation")
    fill(form, "entropy.truncation.type", kind)
    for name, value in TRUNCATIONS[kind].items():
        fill(form, f"entropy.truncation.{name}", value)
    found = sent(form)["truncation"]
    assert {key: str(one).lower() for key, one in found.items()} == {
        "type": kind,
        **TRUNCATIONS[kind],
    }
    assert summary(form)["truncation"] == kind


def test_the_price_slider_changes_what_the_router_may_cost(form: Any) -> None:
    switch_on(form, "entropy.difficulty")
    fill(form, "entropy.difficulty.probe", ROUTED_PROBE)
    fill(form, "entropy.difficulty.labels", "worth")
    fill(form, "entropy.difficulty.price", "0.2")
    slider = form.get_by_label("price, slider")
    expect(slider).to_have_value("0.2")
    slider.press("ArrowRight")
    expect(control(form, "entropy.difficulty.price").locator("input").first).to_have_value("0.21")
    slider.press("End")
    assert sent(form)["difficulty"]["price"] == 1
    badge = form.locator(".badge").first
    expect(badge).to_contain_text("decided by probe at price 1")
    for level in ("easy", "normal", "hard"):
        row = re.compile(rf"{level}: predicted accuracy \d+ %, \d+ tokens")
        expect(badge).to_contain_text(row)


def test_a_strategy_limits_the_thinking_by_a_switch_or_a_share(form: Any) -> None:
    switch_on(form, "entropy.difficulty")
    switch_on(form, "entropy.difficulty.strategies")
    switch_on(form, "entropy.difficulty.strategies.easy")
    for name, text in {"prompt": "Be brief.", "temperature": "0.7", "budget": "0.9"}.items():
        fill(form, f"entropy.difficulty.strategies.easy.{name}", text)
    field = "entropy.difficulty.strategies.easy.thinking"
    for text, value in (("false", False), ("0.5", 0.5), ("", None)):
        fill(form, field, text)
        easy = sent(form)["difficulty"]["strategies"]["easy"]
        assert easy.get("thinking") == value
    fill(form, field, "maybe")
    ask(form)
    expect(control(form, field).locator(".error")).to_be_visible()


def test_a_vote_shows_its_table(form: Any) -> None:
    switch_on(form, "entropy.vote")
    fill(form, "entropy.vote.n", "5")
    fill(form, "entropy.vote.answer", "line")
    fill(form, "entropy.vote.stop", "none")
    request(form, max_tokens="3")
    assert sent(form)["vote"] == {"n": 5, "answer": "line", "stop": "none"}
    found = form.get_by_label("Vote", exact=True)
    expect(found.locator(".badge")).to_contain_text(re.compile(r"Vote: .+, \d+ % of 5 samples"))
    rows = found.locator("tbody tr")
    votes = [int(text) for text in rows.locator("td:last-child").all_inner_texts()]
    assert sum(votes) == 5
    assert votes == sorted(votes, reverse=True)
    winner = rows.first.locator("td").first.inner_text()
    expect(found.locator(".badge")).to_contain_text(f"Vote: {winner}")


def test_a_vote_says_how_many_samples_were_too_unsure(form: Any) -> None:
    switch_on(form, "entropy.vote")
    for field, value in {"n": "6", "answer": "line", "percentile": "90", "warmup": "2"}.items():
        fill(form, f"entropy.vote.{field}", value)
    fill(form, "entropy.vote.window", "2")
    request(form, max_tokens="4")
    assert sent(form)["vote"]["percentile"] == 90
    found = form.get_by_label("Vote", exact=True)
    note = found.get_by_text(re.compile(r"\d samples? without a vote"))
    weak = int(re.findall(r"\d+", note.inner_text())[0])
    assert weak >= 1  # of a warm-up of two, the less sure one is below 90 % of them
    expect(found.locator(".badge")).to_contain_text(f"of {6 - weak} sample")


def test_semantic_clusters_are_shown_with_their_shares(form: Any) -> None:
    switch_on(form, "entropy.semantic")
    fill(form, "entropy.semantic.n", "4")
    fill(form, "entropy.semantic.answer", "line")
    request(form, max_tokens="3")
    assert sent(form)["semantic"] == {"n": 4, "answer": "line"}
    found = form.get_by_label("Semantic clusters")
    badge = re.compile(r"Semantic entropy: \d\.\d\d nats, \d+ % of 4 samples agree")
    expect(found.locator(".badge")).to_contain_text(badge)
    shares = found.locator("tbody td:last-child").all_inner_texts()
    assert sum(int(text.removesuffix(" %")) for text in shares) == pytest.approx(100, abs=2)


def test_confidence_shows_a_probability_and_what_it_stands_on(form: Any) -> None:
    switch_on(form, "entropy.confidence")
    fill(form, "entropy.confidence.probe", CONFIDENCE)
    fill(form, "entropy.confidence.window", "8")
    assert sent(form)["confidence"] == {"probe": CONFIDENCE, "window": 8}
    found = form.get_by_label("Confidence", exact=True)
    expect(found).to_contain_text(re.compile(r"Confidence: right with \d+ %"))
    expect(found).to_contain_text(re.compile(r"self-certainty mean \d+\.\d\d, lowest window \d+"))
    expect(found).to_contain_text(re.compile(r"least probable token \d+ %"))
    fill(form, "entropy.confidence.probe", STATE)
    fill(form, "entropy.confidence.window", "")
    ask(form)
    expect(found).to_contain_text(re.compile(r"answers disagree with \d+ %"))
    expect(found).to_contain_text("The question is unlike the training questions.")


def test_an_abstention_declines_and_says_what_is_promised(form: Any) -> None:
    switch_on(form, "entropy.abstain")
    for name, value in {
        "calibration": DECLINES,
        "promise": "joint",
        "alpha": "0.1",
        "text": "No idea.",
        "withhold": "false",
    }.items():
        fill(form, f"entropy.abstain.{name}", value)
    ask(form)
    found = form.get_by_label("Abstention")
    expect(found).to_contain_text(re.compile(r"Declined: uncertainty \d+\.\d{3}, at most"))
    expect(found).to_contain_text("given and wrong in at most 10 % of all questions")
    expect(found).to_contain_text("over 100 questions")
    assert form.get_by_role("listbox").inner_text() == "No idea."
    assert len(found.locator(".withheld").inner_text()) > len("Not given: ") + 5
    fill(form, "entropy.abstain.calibration", ANSWERS)
    switch_on(form, "entropy.confidence")
    fill(form, "entropy.confidence.probe", CONFIDENCE)
    fill(form, "entropy.abstain.promise", "selective")
    fill(form, "entropy.abstain.alpha", "0.9")
    ask(form)
    expect(found).to_contain_text("Answered")
    expect(found).to_contain_text("at most 90 % of the given answers are wrong")
