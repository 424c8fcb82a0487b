"""One real server for the whole session: starting an engine costs most of a minute."""

import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from openai import OpenAI
from xdist.scheduler import LoadScopeScheduling

from probes.artifact import Artifact, Manifest, ModelIdentity
from probes.decisions.calibration import CalibratedQuestion, DecisionSpec
from probes.decisions.question import choice
from probes.decisions.scores import ReadSettings
from probes.difficulty.probe import Forecast, Head
from probes.difficulty.strategies import ProbeSpec, RouterSpec, Strategies, Strategy, Thresholds
from probes.drift import ReferenceHistogram
from probes.steering import SteeringSpec, tensor_name
from tests.integration.runners.engines import ENGINES
from tests.integration.support import PROMPTS
from tests.long import is_long
from tests.selective_artifacts import save_selective

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# vLLM binds each engine to the same cores, of two the first, and several engines run at once here.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
# vLLM closes a connection that was idle for 5 s; who sends at that very moment is cut off.
os.environ.setdefault("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "300")

# A busy machine is slow, and that is no failure of a property. The default tests draw the same
# examples in every run and on every machine; the long ones draw new ones.
hypothesis_settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=not is_long(),
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("any machine")

MODEL = "smollm2-135m"

PLAIN_PROBE, SPOKEN_PROBE = f"{MODEL}/plain", f"{MODEL}/spoken"
ROUTED_PROBE = f"{MODEL}/worth"
PUSH, PUSH_AGAIN, TURN = f"{MODEL}/push", f"{MODEL}/push-again", f"{MODEL}/turn"

ADMIN_KEY = "the key of the tests"
"""Of the shared server's operator."""

MAX_STEERINGS = 4
"""Kinds of steering that the shared server takes at once; further ones wait."""

# float32 so that vLLM and transformers can be compared closely; little KV memory so that many
# requests at once preempt each other; few tokens per step so that a long prompt comes in chunks.
FLAGS = [
    *("--dtype", "float32", "--enforce-eager"),
    *("--max-model-len", "2048", "--max-num-batched-tokens", "512", "--max-num-seqs", "32"),
    *("--kv-cache-memory-bytes", str(160 << 20), "--block-size", "128"),  # as stock vLLM has it
]


ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""The worker is in the engine's process, as on one GPU. By default vLLM gives it its own on a CPU:
vLLM is imported once more, and each of the two spins while it waits for the other."""
UNCOMPILED = {"TORCHDYNAMO_DISABLE": "1"}
"""For servers on which no law is measured: compiling the laws takes a third of a start."""


class Server(NamedTuple):
    """A running server and how to reach it."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    runner: str = "v1"
    """Of `ENGINES`."""

    @property
    def decisions(self) -> Path:
        """The decision log of the shared server."""
        return self.log.with_name("decisions.jsonl")

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def run_server(
    command: list[str], log: Path, *, ready: str = "/ready", env: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start a server, wait until it is ready, stop it and whatever it started."""
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | (env or {}),
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until_ready(server, ready)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(server: Server, path: str, timeout: float = 300) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(server.url + path, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text()[-4000:]}")


def entrostat(*arguments: str) -> list[str]:
    """The installed command of this environment."""
    return [str(Path(sys.executable).with_name("entrostat")), *arguments]


QUESTIONS = [
    f"{prompt} {tail}".strip()
    for prompt in PROMPTS
    for tail in (
        "",
        "Be exact.",
        "Explain it to a child, please, and do so at some length.",
        "Why?",
    )
]


class OfflineProbe(NamedTuple):
    """A difficulty probe that no training made, and what it says of `QUESTIONS` offline."""

    head: Head
    distances: torch.Tensor
    probabilities: torch.Tensor
    forecast: Forecast


@lru_cache(maxsize=1)
def offline_probe(checkpoint: Path) -> OfflineProbe:
    """A random linear head over the standardised states of the questions, by transformers."""
    from training.common.hidden_states import hidden_states

    states, _ = hidden_states(checkpoint, QUESTIONS, lambda _: None)
    draw = torch.Generator().manual_seed(4)
    head = Head(
        mean=states.mean(0),
        scale=states.std(0),
        weight=torch.randn(3, states.shape[1], generator=draw) * 0.1,
        bias=torch.zeros(3),
        temperature=torch.tensor(1.0),
    )
    head = head._replace(
        router_weight=torch.randn(6, states.shape[1], generator=draw) * 0.01,
        router_bias=torch.tensor([0.4, 0.6, 0.5, 0.3, 1.0, 0.6]),
        router_kept=torch.ones(3),
    )
    found = (head.distance(states), head.probabilities(states), head.forecast(states))
    return OfflineProbe(head, *found)


def save_probes(root: Path, checkpoint: Path) -> None:
    """The random head: with strategies that leave the prompt alone, that do not, and a router."""
    spoken = Strategies(
        easy=Strategy(prompt="Answer in one word.", temperature=0.5, budget=0.4),
        hard=Strategy(prompt="Outline the method.", temperature=0.4, budget=0.5),
    )
    router = RouterSpec(price=0.2, normal_tokens=30.0)
    head, distances, *_ = offline_probe(checkpoint)
    by_class = head._replace(router_weight=None, router_bias=None, router_kept=None)
    for name, strategies in (
        (PLAIN_PROBE, Strategies()),
        (SPOKEN_PROBE, spoken),
        (ROUTED_PROBE, Strategies()),
    ):
        routed = name == ROUTED_PROBE
        manifest = Manifest(
            kind="difficulty-probe",
            model=MODEL,
            identity=ModelIdentity.from_checkpoint(checkpoint),
            data_hash="none",
            seed=4,
            probe=ProbeSpec(
                layer="final",
                normalized=True,
                position="last_prompt_token",
                features=576,
                labels=Thresholds(alpha=0.7, beta=1.0, gamma=0.3),
                strategies=strategies,
                router=router if routed else None,
            ),
            reference=ReferenceHistogram.of(distances),
        )
        tensors = (head if routed else by_class).tensors()
        Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


def save_vectors(root: Path, checkpoint: Path) -> None:
    """Random steering vectors; two of them are the same under different names."""
    draw = torch.Generator().manual_seed(9)
    push = {layer: torch.randn(576, generator=draw) for layer in (12, 20)}
    turn = {20: torch.randn(576, generator=draw)}
    for name, vectors in ((PUSH, push), (PUSH_AGAIN, push), (TURN, turn)):
        manifest = Manifest(
            kind="steering-vector",
            model=MODEL,
            identity=ModelIdentity.from_checkpoint(checkpoint),
            data_hash="none",
            seed=9,
            steering=SteeringSpec(features=576, norms=dict.fromkeys(vectors, 20.0)),
        )
        tensors = {tensor_name(layer): vector for layer, vector in vectors.items()}
        Artifact(id=name, manifest=manifest, tensors=tensors).save(root)


TEAMS = f"{MODEL}/teams"
"""A calibration of one decision, `Which team?`, whose sets are made up."""


def save_decisions(root: Path, checkpoint: Path) -> None:
    """A calibration whose 99 rows gave the first of three options a probability of 0.6."""
    question = choice("Which team?", ["billing", "shipping", "returns"])
    calibrated = CalibratedQuestion(
        name="team", question=question, settings=ReadSettings(), method="temperature"
    )
    manifest = Manifest(
        kind="decision-calibration",
        model=MODEL,
        identity=ModelIdentity.from_checkpoint(checkpoint),
        data_hash="none",
        seed=0,
        decision=DecisionSpec(questions=(calibrated,)),
    )
    tensors = {
        "0.weight": torch.eye(3),
        "0.bias": torch.tensor([2.0, 0.0, 0.0]),
        "0.probabilities": torch.tensor([[0.6, 0.2, 0.2]]).repeat(99, 1),
        "0.labels": torch.zeros(99),
    }
    Artifact(id=TEAMS, manifest=manifest, tensors=tensors).save(root)


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint: Path
) -> Iterator[Server]:
    """The default model under `entrostat serve` on an engine, shared by every engine test."""
    runner: str = request.param
    engine = ENGINES[runner]
    folder = tmp_path_factory.mktemp("server")
    profiles = folder / "profiles.toml"
    profiles.write_text('[cool]\ntemperature = { type = "fixed", temperature = 0.3 }\n')
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    save_probes(folder / "artifacts", checkpoint)
    save_vectors(folder / "artifacts", checkpoint)
    save_selective(folder / "artifacts", ModelIdentity.from_checkpoint(checkpoint))
    save_decisions(folder / "artifacts", checkpoint)
    own = ("--profiles", str(profiles), "--artifacts", str(folder / "artifacts"))
    steerings = ("--max-steering-vectors", str(MAX_STEERINGS))
    log = ("--decision-log", str(folder / "decisions.jsonl"), "--log-prompts")
    chosen = (*engine.flags(), "--model-runner", "v2" if engine.v2 else "v1")
    command = entrostat("serve", *FLAGS, *tools, *own, *steerings, *log, *chosen)
    environment = {**runner_environment(runner), "ENTROSTAT_ADMIN_KEY": ADMIN_KEY}
    with run_server(command, folder / "server.log", env=environment) as running:
        yield running._replace(runner=runner)


def runner_environment(runner: str) -> dict[str, str]:
    """What a server on an engine needs: V2 runs by Triton's interpreter here."""
    return ONE_PROCESS if runner == "v1" else ENGINES[runner].environment()


def runners(item: pytest.Metafunc) -> list[Any]:
    """The engines of an engine test: V1, and V2 if it is marked or if the long tests run.

    `TEST_ENGINES` names others of `ENGINES`, by commas, for every test.
    """
    both = is_long() or item.definition.get_closest_marker("both_runners") is not None
    asked = os.environ.get("TEST_ENGINES")
    names = asked.split(",") if asked else ["v1", "v2"] if both else ["v1"]
    return [pytest.param(name, id=name) for name in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of the shared server on each of their engines."""
    if "server" in metafunc.fixturenames:
        metafunc.parametrize("server", runners(metafunc), indirect=True, scope="session")


@pytest.fixture(scope="session")
def client(server: Server) -> OpenAI:
    return server.client


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """Folder of the default model."""
    from server.commands.default_model import default_model
    from server.settings import settings

    return default_model(settings().cache)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below tests/integration needs the real engine, and is first: it takes longest."""
    for item in items:
        if item.nodeid.startswith("tests/integration/"):
            item.add_marker(pytest.mark.engine)
    items.sort(key=_turn)


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection: trainers collect for a second each."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let extensions be freed at exit, or they print what leaked."""
    gc.unfreeze()


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("engine") is None:
        return 2
    return int(not _shares_the_engine(item.nodeid))


def _shares_the_engine(nodeid: str) -> bool:
    return nodeid.startswith("tests/integration/test_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2` one process begins with the tests that share the engine, the other with the rest.

    Those on runner V2 share another engine, and are a third part. A process takes the next file
    when it is done, in the order of `pytest_collection_modifyitems`, so both end together.
    """
    config.option.loadscopereorder = False
    return _OneEngine(config, log)


class _OneEngine(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if not _shares_the_engine(nodeid):
            return file
        return "engine v2" if re.search(r"[\[-]v2[\]-]", test) else "engine"
