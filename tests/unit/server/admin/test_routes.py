"""The routes of the operator: who may use them, what they refuse, and what is logged."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from scripts.routes_page import build_app
from server.admin.overrides import OverrideFile
from server.admin.uploads import MAX_BYTES, Uploads
from server.audit.log import DecisionLog
from server.profiles import Profiles
from server.routes.table import route_facts
from server.worker.message import WorkerArtifact
from tests.tars import packed
from tests.unit.server.audit.support import FACTS, read
from tests.unit.server.support import artifacts, save_statistics

KEY = "a key of the operator"
API = {"Authorization": "Bearer secret"}
ADMIN = {**API, "X-Entropy-Admin-Key": KEY}
APP = build_app("--api-key", "secret", env={"ENTROSTAT_ADMIN_KEY": KEY})
STATE, PROFILE, SWITCH = (
    f"/v1/entropy/admin/{path}" for path in ("state", "profiles/mine", "switches/steering")
)
OURS = [one for one in route_facts(APP) if one.path.startswith("/v1/entropy/admin/")]


async def no_workers() -> list[WorkerArtifact | None]:
    return []


class Admin:
    """A client of the app, and its decision log."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"
        self.log = DecisionLog(self.path, 1 << 20, 1, prompts=False)
        overrides, mine = OverrideFile(folder), artifacts()
        uploads = Uploads(overrides, mine, lambda _: no_workers())
        APP.state.entrostat = SimpleNamespace(
            settings=SimpleNamespace(admin_key=SecretStr(KEY)),
            overrides=overrides,
            profiles=Profiles(uploaded=lambda: overrides.current().profiles),
            artifacts=mine,
            uploads=uploads,
            sync_artifacts=uploads.sync,
            decision_log=self.log,
            facts=lambda _: FACTS,
        )
        self.client = TestClient(APP, raise_server_exceptions=False)

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("headers", ADMIN)
        return self.client.request(method, path, json=body, **options)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    found = Admin(tmp_path)
    yield found
    found.log.close()


def test_without_an_admin_key_the_routes_do_not_exist() -> None:
    paths = {one.path for one in route_facts(build_app("--api-key", "secret"))}
    assert not any("/admin" in path for path in paths)
    assert len(OURS) == 6


@pytest.mark.parametrize("one", OURS, ids=lambda one: f"{one.method} {one.path}")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        API,
        {**API, "X-Entropy-Admin-Key": "wrong"},
        {**API, "X-Entropy-Admin-Key": KEY + "x"},
        {"X-Entropy-Admin-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {**API, "X-Entropy-Admin-Key": "\xff"},
    ],
)
def test_both_keys_are_needed(admin: Admin, one: Any, headers: dict[str, str]) -> None:
    path = one.path.format(name="mine", model="m", control="steering")
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = admin.client.request(one.method, path, json={"on": False}, headers=encoded)
    assert answer.status_code == 401
    assert set(answer.json()) == {"error"}
    assert admin.send("GET", STATE).json()["switched_off"] == []


def test_a_profile_is_uploaded_listed_and_removed(admin: Admin) -> None:
    control = {"temperature": {"type": "edt"}}
    answer = admin.send("PUT", PROFILE, control)
    assert answer.status_code == 200, answer.text
    cards = {one["id"]: one for one in answer.json()["profiles"]}
    assert cards["mine"]["source"] == "uploaded"
    assert cards["steady"]["source"] == "file"
    assert admin.send("DELETE", PROFILE).status_code == 200
    assert admin.send("DELETE", PROFILE).status_code == 404
    admin.log.close()
    lines = [(one["action"], one["subject"], one.get("control")) for one in read(admin.path)]
    assert lines == [("profile_uploaded", "mine", control), ("profile_removed", "mine", None)]
    assert KEY not in admin.path.read_text()


def test_an_artifact_is_uploaded_listed_and_removed(admin: Admin, tmp_path: Path) -> None:
    path, body = "/v1/entropy/admin/artifacts/m/own", packed(save_statistics(tmp_path, "m/made"))
    answer = admin.client.put(path, content=body, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    (card,) = answer.json()["artifacts"]
    assert (card["id"], card["usable"]) == ("m/own", True)
    assert answer.json()["uploaded_artifacts"] == ["m/own"]
    assert admin.send("DELETE", path).json()["artifacts"] == []
    assert admin.send("DELETE", path).status_code == 404
    admin.log.close()
    lines = [(one["action"], one["subject"], one.get("hash")) for one in read(admin.path)]
    assert lines == [
        ("artifact_uploaded", "m/own", card["hash"]),
        ("artifact_removed", "m/own", None),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("m/own", b"no tar", 400, "artifact"),
        ("m/own", b"", 400, "artifact"),
        ("m/..%2f..%2fown", b"", 404, None),
        ("m/.own", b"", 400, "artifact"),
        ("m/own", b"x" * (MAX_BYTES + 1), 413, None),
    ],
)
def test_what_is_no_artifact_is_refused_and_not_logged(
    admin: Admin, path: str, body: bytes, status: int, param: str | None
) -> None:
    url = f"/v1/entropy/admin/artifacts/{path}"
    answer = admin.client.put(url, content=body, headers=ADMIN)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert admin.send("GET", STATE).json()["artifacts"] == []
    admin.log.close()
    assert admin.path.read_text() == ""


def test_a_control_is_switched_off_and_on(admin: Admin) -> None:
    assert admin.send("PUT", SWITCH, {"on": False}).json()["switched_off"] == ["steering"]
    assert admin.send("GET", STATE).json()["switched_off"] == ["steering"]
    assert admin.send("PUT", SWITCH, {"on": True}).json()["switched_off"] == []
    admin.log.close()
    assert [one["action"] for one in read(admin.path)] == ["switched_off", "switched_on"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (PROFILE, {"temperatur": 1}, 400, "profile.temperatur"),
        (PROFILE, {"profile": "steady"}, 400, "profile"),
        (PROFILE, [], 400, "profile"),
        (PROFILE, {"steering": [{"vector": "x" * 20_000, "strength": 1}]}, 413, None),
        ("/v1/entropy/admin/profiles/a@b", {}, 400, "name"),
        ("/v1/entropy/admin/profiles/" + "a" * 200, {}, 400, "name"),
        (SWITCH, {"on": "perhaps"}, 400, "on"),
        (SWITCH, {}, 400, "on"),
        ("/v1/entropy/admin/switches/trace", {"on": False}, 404, None),
        ("/v1/entropy/admin/switches/nothing", {"on": False}, 404, None),
    ],
)
def test_what_is_no_change_is_refused_and_not_logged(
    admin: Admin, path: str, body: Any, status: int, param: str | None
) -> None:
    answer = admin.send("PUT", path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    admin.log.close()
    assert admin.path.read_text() == ""
