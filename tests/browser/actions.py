"""What a person does on the page, and what they see."""

import re
from typing import Any

from tests.browser.conftest import AXE

QUICK = {"max_tokens": "24", "seed": "1"}


def expect(found: Any) -> Any:
    """Playwright's assertions, which wait; imported when used, so that tests can be skipped."""
    from playwright.sync_api import expect

    return expect(found)


def open_panel(page: Any, name: str) -> None:
    """Open `Request`, `Controls` or `Copy the request as a program`."""
    title = page.locator("summary").filter(has_text=re.compile(f"^{name}"))
    panel = page.locator("details").filter(has=title)
    if panel.get_attribute("open") is None:
        panel.locator("summary").click()


def control(page: Any, path: str) -> Any:
    """The field of a path such as `entropy.temperature.tau`."""
    return page.locator(f'[data-path="{path}"]').last


def switch_on(page: Any, path: str) -> None:
    control(page, path).get_by_role("checkbox").first.check()


def fill(page: Any, path: str, value: str) -> None:
    """Set a field, whatever its input is."""
    box = control(page, path).locator("input, select, textarea").first
    if box.evaluate("element => element.tagName") == "SELECT":
        box.select_option(label=value)
    else:
        box.fill(value)
        box.blur()


def request(page: Any, **values: str) -> None:
    """Set fields of the request, by default a short answer."""
    open_panel(page, "Request")
    for name, value in {**QUICK, **values}.items():
        fill(page, name, value)


def send(page: Any, text: str) -> None:
    """Send a message; each lane then shows it."""
    turns = page.locator("article").count()
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()
    page.locator("article").nth(turns).wait_for()


def answered(page: Any) -> None:
    """Wait until the answers of all lanes have ended."""
    page.locator("main:not([aria-busy=true])").wait_for()


def ask(page: Any, text: str = "Why is the sky blue?") -> None:
    send(page, text)
    answered(page)


def summary(page: Any, lane: str = "A") -> dict[str, str]:
    """The table below the answer of a lane."""
    rows = page.get_by_label(f"Conversation {lane}").locator(".summary > div").all()
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows}


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds on the page as it is, beyond minor findings."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical", "moderate")
        for node in one["nodes"]
    ]
