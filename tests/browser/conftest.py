"""Chromium on the playground of a real server. `make test-browser` installs what it needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probes.artifact import ModelIdentity
from tests.conftest import FLAGS, Server, entrostat, run_server, save_decisions, save_probes
from tests.selective_artifacts import save_selective

KEY = "secret"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PACKAGES = Path(__file__).parents[2] / "playground"
AXE = PACKAGES / "node_modules" / "axe-core" / "axe.min.js"
OFFLINE = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
MARKUP = "<img src=x onerror=alert(1)>"
PROFILES = f"""
[cool]
temperature = {{ type = "fixed", temperature = 0.3 }}

["{MARKUP}"]
temperature = {{ type = "fixed", temperature = 0.5 }}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests; skip them without Playwright or Chromium."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        reason = "Playwright is not installed: run `make test-browser`"
    else:
        reason = "" if CHROMIUM else "Chromium is not installed"
    for item in items:
        if item.nodeid.startswith("tests/browser/"):
            item.add_marker(pytest.mark.engine)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    """The server: with an API key, artifacts, and a profile whose name is markup."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "profiles.toml").write_text(PROFILES)
    artifacts = folder / "artifacts"
    save_probes(artifacts, checkpoint)
    save_selective(artifacts, ModelIdentity.from_checkpoint(checkpoint))
    save_decisions(artifacts, checkpoint)
    files = ("--profiles", str(folder / "profiles.toml"), "--artifacts", str(artifacts))
    own = (*files, "--api-key", KEY)
    with run_server(entrostat("serve", *FLAGS, *own), folder / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest) -> str:
    """Its address; `PLAYGROUND_URL` names a running server with the same key and files instead."""
    running = os.environ.get("PLAYGROUND_URL")
    address: str = running or request.getfixturevalue("served").url
    return address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)  # a busy machine is slow
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OFFLINE))
        yield browser
        browser.close()


VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error("CSP", event.violatedDirective, event.blockedURI, event.sample))"""


class Problems(list[str]):
    """Console errors, CSP violations among them; uncaught errors; dialogs; other hosts."""

    def watch(self, page: Any, url: str) -> None:
        def printed(message: Any) -> None:
            if message.type == "error":
                self.append(message.text)

        def asked(dialog: Any) -> None:
            self.append(f"dialog {dialog.message}")
            dialog.accept()

        def requested(request: Any) -> None:
            if not request.url.startswith(url):
                self.append(f"request {request.url}")

        page.on("console", printed)
        page.on("dialog", asked)
        page.on("request", requested)
        page.on("pageerror", lambda error: self.append(str(error)))


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture
def closed(browser: Any, url: str, problems: Problems) -> Iterator[Any]:
    """A page that asks for the key."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(VIOLATIONS)
    page = context.new_page()
    page.set_default_timeout(120_000)
    problems.watch(page, url)
    page.goto(url + "/")
    yield page
    context.close()


@pytest.fixture
def page(closed: Any, problems: Problems) -> Iterator[Any]:
    """A page with the key entered; afterwards no violation of the CSP and no other error."""
    closed.get_by_label("API key of this server").fill(KEY)
    closed.get_by_role("button", name="Use key").click()
    closed.get_by_label("Message").wait_for()
    yield closed
    expected = ("401", "400")  # Chromium prints refused requests as errors, too
    others = [
        text for text in problems if not any(f"status of {code}" in text for code in expected)
    ]
    assert others == []
