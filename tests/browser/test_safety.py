"""Markup is text, the CSP holds, axe-core finds nothing, and the page fits a phone."""

import json
from typing import Any

import pytest

from tests.browser.actions import (
    answered,
    ask,
    control,
    expect,
    open_panel,
    request,
    send,
    serious_findings,
    switch_on,
)
from tests.browser.conftest import KEY, Problems

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<svg onload=alert(3)>",
    "<a href='javascript:alert(4)'>link</a>",
    '"><iframe srcdoc="<script>alert(5)</script>"></iframe>',
    "</textarea><script>alert(6)</script>",
    "<style>*{display:none}</style>",
    "<math><mtext></mtext><mglyph><style></math><img src onerror=alert(7)>",
    "{{constructor.constructor('alert(8)')()}}",
    "&lt;img src=x onerror=alert(9)&gt;<!--\u202e--><base href='//evil'>",
]


def streamed(*choices: dict[str, Any]) -> str:
    events = [json.dumps({"choices": [{"index": 0, **one}]}) for one in choices]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


def saying(text: str) -> dict[str, Any]:
    logprob = {"token": text, "logprob": -0.1, "bytes": None}
    return {
        "delta": {"content": text},
        "logprobs": {"content": [{**logprob, "top_logprobs": [logprob]}]},
        "entropy": {"tokens": [{"entropy": 1.0, "temperature": 1.0}]},
        "finish_reason": None,
    }


def answer_with(page: Any, body: str, status: int = 200) -> None:
    kind = "text/event-stream" if status == 200 else "application/json"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=status, body=body, content_type=kind),
    )


def assert_no_markup(page: Any) -> None:
    counts = page.evaluate(
        "['img', 'iframe', 'base', 'style', 'body script', 'a', '[onerror]', '[onload]']"
        ".map(name => document.querySelectorAll(name).length)"
    )
    assert counts == [0] * 8


def test_markup_in_model_output_is_text(page: Any) -> None:
    report = {"profile": PAYLOADS[1], "law": PAYLOADS[0], "fallback": PAYLOADS[2], "tokens": []}
    steering = {"vector": PAYLOADS[3], "strength": 1.0, "layers": [1], "hash": ""}
    end = {"delta": {}, "finish_reason": "stop", "entropy": {**report, "steering": [steering]}}
    answer_with(page, streamed(*map(saying, PAYLOADS), end))
    send(page, PAYLOADS[0])
    answered(page)
    options = page.locator(".token")
    assert options.all_text_contents() == PAYLOADS
    for index in range(len(PAYLOADS)):
        options.nth(index).hover()
    expect(page.locator(".user")).to_contain_text(PAYLOADS[0])
    for text in PAYLOADS[:4]:
        expect(page.get_by_label("Conversation A")).to_contain_text(text)
    assert_no_markup(page)


SELECTIVE: dict[str, dict[str, Any]] = {
    "vote": {
        "answer": PAYLOADS[0],
        "n": 10,
        "finished": 10,
        "agreement": 0.1,
        "stopped": "lead",
        "tokens": 9,
        "table": [{"answer": text, "votes": 1} for text in PAYLOADS],
        "no_answer": 0,
    },
    "semantic": {
        "entropy": 1.0,
        "agreement": 0.1,
        "n": 10,
        "tokens": 9,
        "saturated": True,
        "clusters": [{"answer": text, "share": 0.1} for text in PAYLOADS],
    },
    "confidence": {"probe": PAYLOADS[1], "probability": 0.5, "outside": PAYLOADS},
    "abstain": {
        "abstained": True,
        "uncertainty": 1.0,
        "threshold": 0.5,
        "promise": "joint",
        "alpha": 0.1,
        "questions": 9,
        "answer": "".join(PAYLOADS),
    },
}


@pytest.mark.parametrize("kind", SELECTIVE)
def test_markup_in_reports_of_uncertainty_is_text(page: Any, kind: str) -> None:
    end = {"delta": {}, "finish_reason": "stop", "entropy": {kind: SELECTIVE[kind]}}
    answer_with(page, streamed(saying("hi"), end))
    ask(page)
    for text in PAYLOADS:
        expect(page.get_by_label("Conversation A")).to_contain_text(text)
    assert_no_markup(page)


def test_markup_in_task_texts_and_errors_is_text(page: Any) -> None:
    inquiry = {
        "task": PAYLOADS[0],
        "introduction": PAYLOADS[1],
        "action": "ask",
        "turn": 1,
        "query": PAYLOADS[2],
        "prediction_set": PAYLOADS[3:6],
        "probabilities": dict.fromkeys(PAYLOADS, 0.1),
        "heard": [],
        "reason": PAYLOADS[6],
        "confidence_level": 0.9,
        "calibrated": True,
    }
    asking = {"delta": {"content": PAYLOADS[2]}, "finish_reason": None}
    end = {"delta": {}, "finish_reason": "stop", "entropy": {"inquiry": inquiry}}
    answer_with(page, streamed(asking, end))
    ask(page)
    for text in PAYLOADS:
        expect(page.locator(".labels")).to_contain_text(text)
    expect(page.get_by_label("Conversation A")).to_contain_text(PAYLOADS[1])
    page.unroute("**/v1/chat/completions")
    error = {"message": PAYLOADS[4], "type": "x", "param": "seed", "code": 400}
    answer_with(page, json.dumps({"error": error}), 400)
    send(page, "hi")
    expect(page.get_by_role("alert")).to_have_text(PAYLOADS[4])
    expect(control(page, "seed").locator(".error")).to_have_text(PAYLOADS[4])
    assert_no_markup(page)


def test_markup_in_profile_and_artifact_names_is_text(closed: Any, problems: Problems) -> None:
    def more(route: Any) -> None:
        answer = route.fetch()
        if answer.status == 200:
            listed = answer.json()
            example = listed["data"][0]
            extra = {"usable": True, "kind": "steering-vector"} if "kind" in example else {}
            listed["data"] += [{**example, **extra, "id": text} for text in PAYLOADS]
            route.fulfill(response=answer, json=listed)
        else:
            route.fulfill(response=answer)

    closed.route("**/v1/entropy/profiles", more)
    closed.route("**/v1/entropy/artifacts", more)
    closed.get_by_label("API key").fill(KEY)
    closed.get_by_role("button", name="Use key").click()
    closed.get_by_label("Message").wait_for()
    names = closed.get_by_label("Profile").locator("option").all_text_contents()
    assert set(PAYLOADS) <= set(names)
    closed.get_by_label("Profile").select_option(PAYLOADS[1])
    open_panel(closed, "Controls")
    switch_on(closed, "entropy.steering")
    vectors = control(closed, "entropy.steering.0.vector").locator("option").all_text_contents()
    assert set(PAYLOADS) <= set(vectors)
    assert_no_markup(closed)
    assert [text for text in problems if "401" not in text] == []


def test_the_policy_refuses_what_is_not_the_pages_own_script(
    closed: Any, problems: Problems
) -> None:
    """The control of every other test: a violation is noticed."""
    closed.evaluate(
        "() => { const one = document.createElement('script');"
        "try { one.text = 'window.ran = 1'; document.body.append(one); } catch { } }"
    )
    assert closed.evaluate("window.ran") is None
    closed.wait_for_timeout(200)
    assert any("CSP" in text or "Content Security" in text for text in problems)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(closed: Any, scheme: str) -> None:
    closed.emulate_media(color_scheme=scheme)
    assert serious_findings(closed) == []
    closed.get_by_label("API key").fill(KEY)
    closed.get_by_role("button", name="Use key").click()
    request(closed)
    open_panel(closed, "Controls")
    open_panel(closed, "Copy")
    for path in ("temperature", "difficulty", "steering", "inquiry"):
        switch_on(closed, f"entropy.{path}")
    closed.get_by_role("button", name="curl").click()
    ask(closed)  # refused: the controls contradict each other
    expect(closed.get_by_role("alert")).to_be_visible()
    assert serious_findings(closed) == []
    for path in ("steering", "inquiry", "temperature"):
        control(closed, f"entropy.{path}").get_by_role("checkbox").first.uncheck()
    closed.get_by_role("button", name="Compare two profiles").click()
    ask(closed)
    closed.get_by_role("listbox").first.focus()
    expect(closed.locator(".badge")).to_have_count(2)
    assert serious_findings(closed) == []


def test_the_page_fits_a_phone_and_works_with_the_keyboard_alone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    request(page)
    open_panel(page, "Controls")
    for path in ("temperature", "difficulty", "steering", "inquiry"):
        switch_on(page, f"entropy.{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for path in ("difficulty", "steering", "inquiry", "temperature"):
        control(page, f"entropy.{path}").get_by_role("checkbox").first.uncheck()
    page.get_by_label("Message").focus()
    page.keyboard.type("Name a color.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator(".token").count() > 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.role"))
    assert {"prompt", "profile-A", "listbox"} <= reached


def test_cleared_answers_leave_no_nodes_behind(page: Any) -> None:
    session = page.context.new_cdp_session(page)

    def nodes() -> int:
        session.send("HeapProfiler.collectGarbage")
        counted: int = session.send("Memory.getDOMCounters")["nodes"]
        return counted

    def rounds(count: int) -> int:
        for _ in range(count):
            ask(page, "Name a color.")
        page.get_by_role("button", name="Clear").click()
        return nodes()

    request(page, max_tokens="8")
    first = rounds(2)
    assert rounds(8) <= first + 50
