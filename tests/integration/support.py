"""Small helpers of the engine tests."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from openai import OpenAI

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


def ask(client: OpenAI, prompt: str, entropy: dict[str, Any] | None = None, **options: Any) -> Any:
    """One chat request; returns the whole answer."""
    options.setdefault("model", MODEL)
    options.setdefault("max_tokens", 24)
    extra = options.pop("extra_body", {})
    if entropy is not None:
        extra = {**extra, "entropy": entropy}
    return client.chat.completions.create(
        messages=[{"role": "user", "content": prompt}], extra_body=extra, **options
    )


def report(answer: Any, choice: int = 0) -> dict[str, Any]:
    """`choices[i].entropy` as the SDK shows it."""
    found: dict[str, Any] = answer.choices[choice].entropy
    return found


def together(jobs: list[Any], workers: int = 16) -> list[Any]:
    """Run callables at the same time; results in order."""
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def law(kind: str, **parameters: float | str) -> dict[str, Any]:
    """A temperature law on the wire."""
    return {"temperature": {"type": kind, **parameters}, "trace": "tokens"}


def is_ci() -> bool:
    """Whether this is a clean machine."""
    return os.environ.get("CI") == "true"


def preemptions(server: "Server") -> float:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith("vllm:num_preemptions_total"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("vLLM reports no preemptions metric")


@contextmanager
def hooked(reference: Any, change: dict[int, Any], start: int) -> Iterator[None]:
    """Change the residual stream behind some layers, from a position on."""

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
