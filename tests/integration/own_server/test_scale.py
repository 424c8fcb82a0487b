"""Several API servers and engines: trace routing and shared steering slots."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.conftest import FLAGS, PUSH, UNCOMPILED, Server, entrostat, run_server, save_vectors
from tests.integration.support import MODEL, PROMPTS, ask, law, report, together


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fleet")
    save_vectors(folder / "artifacts", checkpoint)
    profiles = folder / "profiles.toml"
    profiles.write_text("")
    command = entrostat(
        *("serve", *FLAGS, "--profiles", str(profiles)),
        *("--artifacts", str(folder / "artifacts"), "--max-steering-vectors", "2"),
        *("--api-server-count", "2", "--data-parallel-size", "2"),
    )
    with run_server(command, folder / "server.log", env=UNCOMPILED) as running:
        yield running


def test_every_trace_reaches_the_api_server_of_its_request(fleet: Server) -> None:
    def job(index: int) -> tuple[int, int]:
        # A new connection for each request, so that both API servers are used.
        client = OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)
        control = law("dynatemp", range=0.4) if index % 2 else {"trace": "tokens"}
        answer = ask(client, PROMPTS[index % 10], control, n=1 + index % 2, max_tokens=10)
        reports = [report(answer, choice) for choice in range(len(answer.choices))]
        assert all(body["fallback"] is None for body in reports)
        return sum(len(body["tokens"]) for body in reports), answer.usage.completion_tokens

    results = together([lambda i=i: job(i) for i in range(64)], workers=32)
    assert all(traced == produced for traced, produced in results)
    assert httpx.get(f"{fleet.url}/ready", timeout=60).json()["ready"]


def test_every_api_server_admits_its_share_of_the_steering_configs(fleet: Server) -> None:
    """More concurrent steering configs than slots, on two API servers and two engines."""

    def job(strength: float) -> float:
        client = OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)
        steer = {"steering": [{"vector": PUSH, "strength": strength}], "trace": "tokens"}
        answer = ask(client, PROMPTS[3], steer, max_tokens=4, temperature=0)
        return float(report(answer)["tokens"][0]["entropy"])

    strengths = [0.2 * number for number in range(1, 9)]
    alone = [job(strength) for strength in strengths]
    found = together([lambda s=s: job(s) for s in strengths * 3], workers=24)
    assert found == pytest.approx(alone * 3, abs=1e-3)
    assert len({round(entropy, 3) for entropy in alone}) > 5


def test_profiles_reload_in_every_api_server(fleet: Server) -> None:
    path = Path(fleet.log).with_name("profiles.toml")
    path.write_text('[late]\ntemperature = { type = "edt" }\n')
    fleet.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    for _ in range(12):  # new connections reach either server
        models = httpx.get(f"{fleet.url}/v1/models").json()["data"]
        assert f"{MODEL}@late" in {model["id"] for model in models}
