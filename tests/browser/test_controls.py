"""Every generated control, two profiles side by side, and an inquiry, on the real model."""

import re
from typing import Any

import pytest

from tests.browser.actions import (
    answered,
    ask,
    expect,
    fill,
    open_panel,
    request,
    send,
    sent,
    summary,
    switch_on,
)

LAWS: dict[str, tuple[dict[str, str], str]] = {
    "fixed": ({"temperature": "0.5"}, "mean 0.50"),
    "hapo": ({"tau": "0.2", "statistics": "smollm2-135m/entropy"}, "mean"),
    "edt": ({"theta": "0.6", "base": "0.7"}, "mean 0."),
    "dynatemp": ({"range": "0.4", "exponent": "1.5"}, "mean"),
    "shuffled": ({"temperatures": "0.5, 1.5", "weights": "0.25, 0.75"}, "mean"),
    "entropy_target": (
        {
            "entropy_target": "1",
            "temperature_min": "0.2",
            "temperature_max": "1.5",
            "side": "ceiling",
        },
        "mean 0.",
    ),
}


@pytest.fixture
def form(page: Any) -> Any:
    request(page)
    open_panel(page, "Controls")
    return page


@pytest.mark.parametrize("law", LAWS)
def test_every_law_applies_with_all_of_its_parameters(form: Any, law: str) -> None:
    values, temperature = LAWS[law]
    switch_on(form, "entropy.temperature")
    fill(form, "entropy.temperature.type", law)
    for name, value in values.items():
        fill(form, f"entropy.temperature.{name}", value)
    control = sent(form)
    shown = {key: str(one).strip("[]") for key, one in control["temperature"].items()}
    assert shown == {"type": law, **values}
    row = summary(form)
    assert row["law"] == law
    assert row["temperature"].startswith(temperature)
    if law in ("edt", "entropy_target"):
        assert row["cooled"] != "0 %"


def test_difficulty_shows_the_class_and_its_strategy(form: Any) -> None:
    switch_on(form, "entropy.difficulty")
    fill(form, "entropy.difficulty.probe", "smollm2-135m/difficulty")
    fill(form, "entropy.difficulty.mode", "act")
    fill(form, "entropy.difficulty.effort", "false")
    switch_on(form, "entropy.difficulty.strategies")
    for level in ("easy", "normal", "hard"):
        path = f"entropy.difficulty.strategies.{level}"
        switch_on(form, path)
        fill(form, f"{path}.prompt", "Be brief.")
        fill(form, f"{path}.temperature", "0.7")
        fill(form, f"{path}.budget", "0.9")
    strategy = {"prompt": "Be brief.", "temperature": 0.7, "budget": 0.9}
    assert sent(form)["difficulty"] == {
        "probe": "smollm2-135m/difficulty",
        "mode": "act",
        "effort": False,
        "strategies": dict.fromkeys(("easy", "normal", "hard"), strategy),
    }
    badge = form.locator(".badge")
    expect(badge).to_contain_text(re.compile(r"Difficulty: (easy|normal|hard) \(\d+ %\)"))
    expect(badge).to_contain_text("T0 0.7, at most 2")
    expect(badge).to_contain_text("added text, decided by probe")


def test_the_effort_of_the_request_decides_if_asked_to(form: Any) -> None:
    switch_on(form, "entropy.difficulty")
    fill(form, "entropy.difficulty.effort", "true")
    fill(form, "entropy.difficulty.mode", "shadow")
    fill(form, "reasoning_effort", "high")
    ask(form)
    expect(form.locator(".badge")).to_contain_text("Difficulty: hard, would apply:")
    expect(form.locator(".badge")).to_contain_text("decided by effort")


def test_steering_takes_vectors_with_each_kind_of_amount(form: Any) -> None:
    switch_on(form, "entropy.steering")
    form.get_by_role("button", name="Add another").click()
    for i in range(2):
        fill(form, f"entropy.steering.{i}.vector", "smollm2-135m/explore")
    fill(form, "entropy.steering.0.strength_relative", "0.1")
    fill(form, "entropy.steering.0.positions", "answer")
    switch_on(form, "entropy.steering.1.clamp")
    fill(form, "entropy.steering.1.clamp.0", "-1000")
    fill(form, "entropy.steering.1.clamp.1", "1000")
    first, second = sent(form)["steering"]
    assert (first["strength_relative"], second["clamp"]) == (0.1, [-1000, 1000])
    expect(form.locator(".badge").first).to_contain_text(
        "Steering: smollm2-135m/explore, strength_relative 0.1, layers"
    )
    form.get_by_role("button", name="Remove steering 2").click()
    fill(form, "entropy.steering.0.strength_relative", "")
    fill(form, "entropy.steering.0.strength", "0.5")
    layers = form.locator(".badge").first.inner_text().rpartition("layers ")[2]
    fill(form, "entropy.steering.0.layers", layers.split(", ")[0])
    (only,) = sent(form)["steering"]
    assert only["strength"] == 0.5
    expect(form.locator(".badge").first).to_contain_text(f"layers {only['layers'][0]}")


def test_the_trace_decides_what_is_shown(form: Any) -> None:
    fill(form, "entropy.trace", "summary")
    ask(form)
    assert form.locator(".token.measured").count() == 0
    assert float(summary(form)["entropy"].split()[1].strip(",")) > 0
    fill(form, "entropy.trace", "none")
    ask(form)
    assert summary(form)["heated"] == "\N{EN DASH}"
    fill(form, "entropy.trace", "tokens")
    ask(form)
    assert form.locator(".token.measured").count() > 3


def test_two_profiles_answer_side_by_side(page: Any) -> None:
    request(page)
    page.get_by_label("Profile").select_option("steady")
    page.get_by_role("button", name="Compare two profiles").click()
    expect(page.get_by_label("Profile A")).to_have_value("steady")
    ask(page)
    first, second = summary(page, "A"), summary(page, "B")
    assert first["profile"] == "steady"
    assert "profile" not in second
    assert (first["cooled"] != "0 %", second["cooled"]) == (True, "0 %")
    assert float(first["seconds"].split(",")[0]) > 0
    assert int(second["tokens"]) > 0
    left, right = (page.get_by_label(f"Conversation {name}").bounding_box() for name in "AB")
    assert left["x"] + left["width"] <= right["x"]
    page.get_by_role("button", name="One profile").click()
    assert page.get_by_role("listbox").count() == 0
    ask(page)
    assert summary(page)["profile"] == "steady"


INQUIRY = {
    "confidence_level": "0.8",
    "max_turns": "8",
    "predictor": "table",
    "queries": "closed",
    "max_candidates": "16",
    "policy": "set_size",
    "tolerance": "0.2",
}


def test_an_inquiry_asks_until_the_prediction_set_is_small(form: Any) -> None:
    switch_on(form, "entropy.inquiry")
    fill(form, "entropy.inquiry.task", "smollm2-135m/animals")
    for name, value in INQUIRY.items():
        fill(form, f"entropy.inquiry.{name}", value)
    control = sent(form)["inquiry"]
    assert {key: str(one) for key, one in control.items()} == {
        "task": "smollm2-135m/animals",
        **INQUIRY,
    }
    badge = form.locator(".inquiry .badge")
    expect(badge).to_contain_text("Question 1")
    for _ in range(8):
        if "Answer:" in badge.inner_text():
            break
        turns = form.locator("article").count()
        form.get_by_role("button", name="Yes").click()
        expect(form.locator("article")).to_have_count(turns + 1)
        answered(form)
    expect(badge).to_contain_text("Answer: ")
    expect(badge).to_contain_text("stopped: ")
    sizes = [int(size) for size in re.findall(r"\d+", form.locator(".sizes").inner_text())]
    assert len(sizes) == form.locator("article").count()
    assert sizes[-1] < sizes[0]
    expect(form.locator(".labels .in").first).to_be_visible()
    assert form.get_by_role("button", name="Yes").count() == 0


def test_an_inquiry_without_a_task_says_what_is_missing(form: Any) -> None:
    switch_on(form, "entropy.inquiry")
    send(form, "hi")
    expect(form.get_by_role("alert")).to_contain_text("entropy.inquiry")
    expect(form.locator("fieldset .error").first).to_be_visible()
