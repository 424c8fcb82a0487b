"""What a person does on the page, and what they see."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.browser.conftest import AXE, KEY, PACKAGES

QUICK = {"max_tokens": "24", "seed": "1"}
PROGRAMS = {
    "Python": [sys.executable, "-c"],
    "Node": ["node", "--input-type=module", "-e"],
    "curl": ["bash", "-c"],
}
"""How a program of each language is run."""


def expect(found: Any) -> Any:
    """Playwright's assertions, which wait; imported when used, so that tests can be skipped."""
    from playwright.sync_api import expect

    return expect(found)


def open_panel(page: Any, name: str) -> None:
    """Open `Request`, `Controls` or `Copy the request as a program`."""
    title = page.locator("summary").filter(has_text=re.compile(f"^{name}"))
    panel = page.locator("details:visible").filter(has=title)
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


def sent(page: Any) -> dict[str, Any]:
    """Ask, and return the field `entropy` of the request."""
    with page.expect_request("**/v1/chat/completions") as found:
        ask(page)
    control: dict[str, Any] = json.loads(found.value.post_data)["entropy"]
    return control


def summary(page: Any, lane: str = "A") -> dict[str, str]:
    """The table below the answer of a lane."""
    rows = page.get_by_label(f"Conversation {lane}").locator(".summary > div").all()
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows}


def programs(page: Any) -> Iterator[tuple[str, str]]:
    """Language and output of each program that the page gives for the current request."""
    open_panel(page, "Copy")
    for name, command in PROGRAMS.items():
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("details:visible [role=status]")).to_have_text(f"{name} copied.")
        program = page.evaluate("navigator.clipboard.readText()")
        assert KEY not in program
        done = subprocess.run(
            [*command, program],
            capture_output=True,
            text=True,
            env={"OPENAI_API_KEY": KEY, "PATH": os.environ["PATH"]},
            cwd=PACKAGES,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (name, done.stderr)
        yield name, done.stdout


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
