"""Chatting: the key, shaded tokens, profiles, errors beside their fields, stopping, copying."""

import re
from typing import Any

from tests.browser.actions import (
    answered,
    ask,
    control,
    expect,
    fill,
    open_panel,
    programs,
    request,
    send,
    summary,
    switch_on,
)
from tests.browser.conftest import KEY, MARKUP


def test_the_key_is_asked_for_and_stays_in_memory(closed: Any) -> None:
    closed.get_by_label("API key").fill("wrong")
    closed.get_by_role("button", name="Use key").click()
    expect(closed.get_by_role("alert")).to_contain_text("refuses this key")
    closed.get_by_label("API key").fill(KEY)
    closed.get_by_role("button", name="Use key").click()
    expect(closed.get_by_label("Message")).to_be_visible()
    stored = "[localStorage.length, sessionStorage.length, document.cookie, location.href]"
    *counts, cookie, address = closed.evaluate(stored)
    assert (counts, cookie) == ([0, 0], "")
    assert KEY not in address
    closed.reload()
    expect(closed.get_by_label("API key")).to_have_value("")


def test_every_token_of_an_answer_is_shaded_and_explained(page: Any) -> None:
    request(page)
    ask(page)
    tokens = page.locator(".token")
    shown, row = tokens.count(), summary(page)
    assert 0 <= int(row["tokens"]) - shown <= 1  # the token that ends an answer has no text
    shades = tokens.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(shades)) > 3
    assert re.fullmatch(r"mean \d\.\d\d, highest \d+\.\d\d nats", row["entropy"])
    assert (row["heated"], row["cooled"], row["end"]) == ("0 %", "0 %", "length")
    tokens.nth(2).hover()
    details = page.locator(".details")
    expect(details).to_contain_text(re.compile(r"H = \d\.\d\d nats, T = 1\.00, p = \d+ %"))
    expect(details.get_by_role("listitem")).to_have_count(5)
    assert "sampled" in details.inner_text() or "p = 0 %" in details.inner_text()
    label = page.locator(".chart").get_attribute("aria-label")
    assert f"of {row['tokens']} tokens" in label
    assert page.locator(".chart canvas").count() == 1
    expect(page.get_by_role("status").first).to_contain_text(f"{row['tokens']} tokens in")


def test_tokens_can_be_read_with_the_keyboard(page: Any) -> None:
    request(page)
    page.get_by_label("Message").focus()
    page.keyboard.type("Name three colors.")
    page.keyboard.press("Enter")
    answered(page)
    answer = page.get_by_role("listbox")
    answer.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token[aria-selected=true]")).to_have_count(1)
    second = page.locator(".token").nth(1)
    expect(second).to_have_attribute("aria-selected", "true")
    assert answer.get_attribute("aria-activedescendant") == second.get_attribute("id")
    assert "nats, temperature 1.00; most probable:" in second.get_attribute("aria-label")
    page.keyboard.press("End")
    expect(page.locator(".token").last).to_have_attribute("aria-selected", "true")


def test_an_answer_can_be_stopped_and_the_conversation_goes_on(page: Any) -> None:
    request(page, max_tokens="1500")
    send(page, "Write a long story about the sea.")
    expect(page.locator(".token").nth(5)).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    answered(page)
    expect(page.get_by_role("status").first).to_contain_text("Stopped.")
    assert summary(page)["end"] == "stopped"
    send(page, "Again.")
    expect(page.locator("article").nth(1).locator(".token").nth(3)).to_be_attached()
    page.get_by_label("Message").press("Escape")
    answered(page)
    assert page.get_by_role("listbox").count() == 2


def test_a_profile_applies_and_its_controls_are_shown(page: Any) -> None:
    request(page)
    page.get_by_label("Profile").select_option("cool")
    expect(page.locator(".picker")).to_contain_text('"temperature":0.3')
    ask(page)
    row = summary(page)
    assert (row["profile"], row["law"]) == ("cool", "fixed")
    assert row["temperature"].startswith("mean 0.30")
    assert row["cooled"] == "100 %"
    page.get_by_label("Profile").select_option(MARKUP)
    ask(page)
    assert summary(page)["profile"] == MARKUP


def test_a_refused_field_has_the_reason_beside_it(page: Any) -> None:
    request(page)
    open_panel(page, "Controls")
    switch_on(page, "entropy.temperature")
    fill(page, "entropy.temperature.type", "hapo")
    fill(page, "entropy.temperature.tau", "5")
    ask(page, "Keep this text.")
    field = control(page, "entropy.temperature.tau")
    expect(field.locator(".error")).to_contain_text("less than 1")
    expect(field.locator("input")).to_be_focused()
    expect(field.locator("input")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert")).to_contain_text("entropy.temperature.tau")
    expect(page.get_by_label("Message")).to_have_value("Keep this text.")
    fill(page, "entropy.temperature.tau", "0.5")
    fill(page, "temperature", "9")
    send(page, "Keep this text.")
    expect(control(page, "temperature").locator(".error")).to_be_visible()
    fill(page, "temperature", "0.8")
    ask(page)
    assert summary(page)["law"] == "hapo"


def test_the_copied_programs_run_and_the_key_is_not_in_them(page: Any, url: str) -> None:
    request(page, max_tokens="5")
    open_panel(page, "Controls")
    switch_on(page, "entropy.temperature")
    fill(page, "entropy.temperature.type", "fixed")
    fill(page, "entropy.temperature.temperature", "0.01")
    page.get_by_label("Message").fill('It\'s a "test"; $HOME\n`x`')
    for name, printed in programs(page):
        assert "fixed" in printed, name
        assert "temperature_mean" in printed, name
    assert url in page.locator("pre").inner_text()
