"""Take the screenshots of the playground page: `python -m scripts.screenshots URL`.

URL is a server of the default model; its API key, if any, is `OPENAI_API_KEY`. Needs Playwright and
Chromium, as `make test-browser` does.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
_WIDE, _PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}


def main() -> None:
    """Write `docs/images/playground-{light,dark,phone}.png`."""
    from playwright.sync_api import sync_playwright

    _FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, take, size in (
            ("light", _chat, _WIDE),
            ("dark", _compare, _WIDE),
            ("phone", _inquiry, _PHONE),
        ):
            scheme = "dark" if name == "dark" else "light"
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(sys.argv[1])
            _enter(page)
            take(page)
            page.screenshot(path=_FOLDER / f"playground-{name}.png", full_page=True)
        browser.close()


def _enter(page: Any) -> None:
    page.locator("#key, #prompt").wait_for()
    if page.locator("#key").count():
        page.locator("#key").fill(os.environ["OPENAI_API_KEY"])
        page.keyboard.press("Enter")
    page.locator("#prompt").wait_for()


def _send(page: Any, text: str) -> None:
    page.get_by_label("Message").fill(text)
    _click(page, "Send")


def _click(page: Any, button: str) -> None:
    """Click a button that sends a message, and wait for the answers."""
    turns = page.locator("article").count()
    page.get_by_role("button", name=button, exact=True).click()
    page.locator("article").nth(turns).wait_for()
    page.locator("main:not([aria-busy=true])").wait_for()


def _settings(page: Any, seed: int, tokens: int) -> None:
    page.locator("summary", has_text="Request").first.click()
    page.get_by_label("seed", exact=True).fill(str(seed))
    page.get_by_label("max_tokens", exact=True).fill(str(tokens))
    page.get_by_label("max_tokens", exact=True).blur()
    page.locator("summary", has_text="Request").first.click()


def _chat(page: Any) -> None:
    _settings(page, 1, 80)
    page.get_by_label("Profile").select_option("steady")
    _send(page, "Why is the sky blue?")
    page.locator(".token").nth(7).hover()


def _compare(page: Any) -> None:
    _settings(page, 3, 60)
    page.get_by_label("Profile").select_option("steady")
    page.get_by_role("button", name="Compare two profiles").click()
    page.get_by_label("Profile B").select_option("thrifty")
    _send(page, "How do birds find their way?")


def _inquiry(page: Any) -> None:
    page.locator("summary", has_text="Controls").click()
    page.get_by_role("checkbox", name="inquiry").check()
    page.locator('[data-path="entropy.inquiry.task"] select').select_option("smollm2-135m/animals")
    page.locator("summary", has_text="Controls").click()
    _send(page, "Guess my animal.")
    for reply in ("No", "Yes"):
        _click(page, reply)
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
