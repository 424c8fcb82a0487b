"""The playground's files, their headers, and what switches them off."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from scripts.routes_page import build_app
from server.settings import settings
from server.wire.schema import wire_schema

ROOT = Path(__file__).parents[4]
SOURCES = ROOT / "playground"
BUNDLE = ROOT / "server" / "playground"
FILES = sorted(path.name for path in BUNDLE.iterdir())


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(build_app("--api-key", "secret"), raise_server_exceptions=False)


@pytest.fixture
def switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("ENTROSTAT_PLAYGROUND", "0")
    settings.cache_clear()
    app = build_app()
    app.state.args.log_error_stack = False
    yield TestClient(app, raise_server_exceptions=False)
    settings.cache_clear()


def test_the_page_needs_no_key_and_what_it_asks_for_does(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    for name in FILES:
        assert client.get(f"/playground/{name}").status_code == 200, name
    for path in ("/v1/models", "/v1/entropy/profiles", "/v1/entropy/schema"):
        assert client.get(path).status_code == 401


def test_the_page_runs_only_its_own_script(client: TestClient) -> None:
    for path in ("/", *(f"/playground/{name}" for name in FILES)):
        headers = client.get(path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"


def test_every_asset_is_a_file_of_the_page(client: TestClient) -> None:
    text = client.get("/").text
    assert "http:" not in text
    assert "https:" not in text
    assert "<script>" not in text
    assert " style=" not in text
    for name in ("app.js", "app.css", "icon.svg"):
        assert f'"playground/{name}"' in text  # relative, so that it works under a root path


@pytest.mark.parametrize("name", ["nothing.js", "..%2fsettings.py", "%2e%2e/settings.py", ""])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/playground/{name}").status_code in (401, 404)


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    tag = client.get("/playground/app.js").headers["etag"]
    again = client.get("/playground/app.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200


def test_it_can_be_switched_off(switched_off: TestClient) -> None:
    for path in ("/", "/playground/app.js"):
        assert switched_off.get(path).status_code == 404
    assert switched_off.get("/v1/entropy/schema").json() == wire_schema()


def test_the_bundle_is_built_from_these_sources_and_was_not_edited() -> None:
    """`npm run check` compares every byte; this needs no Node."""
    parts = [*sorted((SOURCES / "src").iterdir()), SOURCES / "build.js"]
    sources = [path.read_bytes() for path in [*parts, SOURCES / "package-lock.json"]]
    banner, _, script = (BUNDLE / "app.js").read_bytes().partition(b"\n")
    bundle = [script, (BUNDLE / "app.css").read_bytes()]
    for name, files in (("sources", sources), ("bundle", bundle)):
        digest = hashlib.sha256(b"".join(files)).hexdigest()
        assert f"{name} sha256 {digest};" in banner.decode(), "run `npm run build` in playground/"
    for name in ("index.html", "icon.svg"):
        assert (BUNDLE / name).read_bytes() == (SOURCES / "src" / name).read_bytes()


def test_the_notice_names_every_bundled_package() -> None:
    notice = (BUNDLE / "NOTICE.txt").read_text()
    for package in ("preact", "uplot"):
        assert package in notice.lower()
    assert notice.count("The MIT License") == 2
