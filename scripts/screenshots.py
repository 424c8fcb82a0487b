"""Take the screenshots of the playground page: `python -m scripts.screenshots URL`.

URL is a server of the default model with a `confidence`, an `abstention` and a
`decision-calibration` artifact; its API key, if any, is `OPENAI_API_KEY`. Needs Playwright and
Chromium, as `make test-browser` does, and Pillow.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from training.datasets.tickets import TEAMS

_FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
_WIDE, _NARROW = {"width": 1200, "height": 900}, {"width": 1000, "height": 600}
_PHONE = {"width": 390, "height": 844}
_MARGIN = 12
_COLORS = 128
"""Of a picture: text and flat areas have few."""


_TICKET = "You took 59 euros from my card twice for the headphones. Please send one of them back."


class _Shot(NamedTuple):
    """One picture."""

    name: str
    take: Callable[[Any], None]
    """Brings the page to what is shown."""
    size: dict[str, int]
    scheme: str = "light"
    part: str | None = None
    """Selector of the part of the page that is shown, with a margin; None shows all of it."""


def main() -> None:
    """Write `docs/images/playground-NAME.png` for each shot, or for those named after URL."""
    from playwright.sync_api import sync_playwright

    url, *names = sys.argv[1:]
    _FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for shot in _shots(_artifacts(url)):
            if names and shot.name not in names:
                continue
            page = browser.new_page(viewport=shot.size, color_scheme=shot.scheme)
            page.set_default_timeout(120_000)
            page.goto(url)
            _enter(page)
            shot.take(page)
            page.evaluate("document.querySelectorAll('*').forEach(one => one.scrollTo(0, 0))")
            file = _FOLDER / f"playground-{shot.name}.png"
            box = None if shot.part is None else page.locator(shot.part).last.bounding_box()
            page.screenshot(path=file, full_page=True, clip=box and _with_margin(box))
            page.close()
            _shrink(file)
        browser.close()


def _shots(artifacts: dict[str, str]) -> list[_Shot]:
    def confident(page: Any) -> None:
        _confidence(page, artifacts["confidence"], artifacts["abstention"])

    def decide(page: Any) -> None:
        _decide(page, artifacts["decision-calibration"])

    return [
        _Shot("light", _chat, _WIDE),
        _Shot("dark", _compare, _WIDE, "dark"),
        _Shot("phone", _inquiry, _PHONE),
        _Shot("votes", _vote, _NARROW, part=".lane"),
        _Shot("confidence", confident, _NARROW, part=".lane"),
        _Shot("decisions", decide, _WIDE),
    ]


def _artifacts(url: str) -> dict[str, str]:
    """A usable artifact of each kind."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    cards = httpx.get(f"{url}/v1/entropy/artifacts", headers=headers).raise_for_status().json()
    return {one["kind"]: one["id"] for one in cards["data"] if one["usable"]}


def _with_margin(box: dict[str, float]) -> dict[str, float]:
    return {
        "x": box["x"] - _MARGIN,
        "y": box["y"] - _MARGIN,
        "width": box["width"] + 2 * _MARGIN,
        "height": box["height"] + 2 * _MARGIN,
    }


def _shrink(file: Path) -> None:
    from PIL import Image

    with Image.open(file) as found:
        small = found.convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


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
    page.locator("main:not([aria-busy=true])").first.wait_for()


def _panel(page: Any, name: str) -> None:
    """Open or close a panel."""
    page.locator("summary:visible", has_text=name).first.click()


def _fill(page: Any, path: str, value: str) -> None:
    """Set the field of a path such as `entropy.vote.n`."""
    box = page.locator(f'[data-path="{path}"]').last.locator("input, select, textarea").first
    kind = box.evaluate("element => element.type")
    if kind == "select-one":
        box.select_option(label=value)
    elif kind == "checkbox":
        box.check()
    else:
        box.fill(value)
        box.blur()


def _settings(page: Any, seed: int, tokens: int, **more: str) -> None:
    _panel(page, "Request")
    for name, value in {"seed": str(seed), "max_tokens": str(tokens), **more}.items():
        _fill(page, name, value)
    _panel(page, "Request")


def _controls(page: Any, values: dict[str, str]) -> None:
    """Set fields of the controls; a control itself is switched on by an empty value."""
    _panel(page, "Controls")
    for path, value in values.items():
        _fill(page, f"entropy.{path}", value)
    _panel(page, "Controls")


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
    _controls(page, {"inquiry": "", "inquiry.task": "smollm2-135m/animals"})
    _send(page, "Guess my animal.")
    for reply in ("No", "Yes"):
        _click(page, reply)


def _vote(page: Any) -> None:
    _settings(page, 1, 24, temperature="0.7")
    _controls(page, {"vote": "", "vote.n": "15", "vote.answer": "numeric", "vote.stop": "none"})
    _send(page, "What is 8 plus 5? Answer with one number.")


def _confidence(page: Any, probe: str, calibration: str) -> None:
    _settings(page, 1, 48, temperature="0.7")
    promise = {"abstain.promise": "joint", "abstain.alpha": "0.2", "abstain.withhold": "false"}
    abstain = {"abstain": "", "abstain.calibration": calibration, **promise}
    _controls(page, {"confidence": "", "confidence.probe": probe, **abstain})
    _send(page, 'What is the simple past of the English verb "to fly"?')


def _decide(page: Any, calibration: str) -> None:
    page.get_by_role("button", name="Decisions").click()
    page.get_by_label("Text to decide about").fill(_TICKET)
    _fill(page, "decision.entropy.calibration", calibration)
    _fill(page, "decision.entropy.confidence_level", "0.8")
    page.locator('[data-path="decision.entropy.ask"]').get_by_role("checkbox").first.check()
    _fill(page, "decision.entropy.ask.0.question", "Is it about money?")
    _fill(page, "decision.entropy.ask.0.answers", "yes, no")
    question = "decision.questions.0"
    _fill(page, f"{question}.name", "team")
    _fill(page, f"{question}.instructions", "Which team should handle this support ticket?")
    for _ in range(len(TEAMS) - 2):
        options = page.locator(f'[data-path="{question}.choices"]')
        options.get_by_role("button", name="Add another").click()
    for place, (name, about) in enumerate(TEAMS.items()):
        _fill(page, f"{question}.choices.{place}.value", name)
        _fill(page, f"{question}.choices.{place}.description", about)
    page.get_by_role("button", name="Decide", exact=True).click()
    page.locator(".decision").wait_for()


if __name__ == "__main__":
    main()
