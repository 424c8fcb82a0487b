"""Helpers of the integration tests."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from openai import OpenAI

from tests.long import is_long

if TYPE_CHECKING:
    from tests.conftest import Server

MODEL = "smollm2-135m"
PROMPTS = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
    "List three fruits.",
    "Tell me a story about a fox.",
    "What is 12 plus 7?",
    "How do I boil an egg?",
    "Name a famous painter.",
    "What does a compiler do?",
    "Describe a rainy day.",
]


def some(server: "Server", everything: list[str], few: int) -> list[str]:
    """All of them, and only a few where Triton's interpreter runs the engine, step by step."""
    return everything if server.runner.startswith("v1") or is_long() else everything[:few]


def ask(client: OpenAI, prompt: str, entropy: dict[str, Any] | None = None, **options: Any) -> Any:
    """Send one chat request and return the response."""
    options.setdefault("model", MODEL)
    options.setdefault("max_tokens", 24)
    extra = options.pop("extra_body", {})
    if entropy is not None:
        extra = {**extra, "entropy": entropy}
    return client.chat.completions.create(
        messages=[{"role": "user", "content": prompt}], extra_body=extra, **options
    )


def report(answer: Any, choice: int = 0) -> dict[str, Any]:
    """`choices[i].entropy` of a response of the SDK."""
    found: dict[str, Any] = answer.choices[choice].entropy
    return found


def together(jobs: list[Any], workers: int = 16) -> list[Any]:
    """Run callables concurrently; return their results in order."""
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def law(kind: str, **parameters: float | str) -> dict[str, Any]:
    """A control with a temperature law."""
    return {"temperature": {"type": kind, **parameters}, "trace": "tokens"}


def counter(server: "Server", name: str) -> float:
    """Value of a counter in `/metrics`."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def preemptions(server: "Server") -> float:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith("vllm:num_preemptions_total"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("vLLM reports no preemptions metric")


@contextmanager
def hooked(reference: Any, change: dict[int, Any], start: int) -> Iterator[None]:
    """Change the residual stream after some layers, starting at a position."""

    def hook(edit: Any) -> Any:
        def run(_: Any, __: Any, output: Any) -> Any:
            stream = output[0] if isinstance(output, tuple) else output
            stream[:, start:] = edit(stream[:, start:])
            return output

        return run

    handles = [
        reference.model.layers[layer].register_forward_hook(hook(edit))
        for layer, edit in change.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def decide(client: OpenAI, calibration: str, text: str = "I was charged twice.") -> tuple[str, Any]:
    """Ask which team a ticket belongs to; return id and answer."""
    question: Any = {
        "type": "choice",
        "instructions": "Which team?",
        "choices": [{"value": one} for one in ("billing", "shipping", "returns")],
    }
    raw = client.decisions.with_raw_response.create(
        model=MODEL,
        input=text,
        questions=[question],
        extra_body={"entropy": {"calibration": calibration}},
    )
    return raw.headers["x-entropy-id"], raw.parse().answers[0]
