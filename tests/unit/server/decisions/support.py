"""The app with the routes of decisions, on an engine whose tokens are characters."""

import hashlib
import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from starlette.testclient import TestClient

from scripts.routes_page import build_app
from server.feedback.store import KeptAnswer
from server.inquiry.engine_reads import ReadCache
from tests.unit.server.support import artifacts, nothing_uploaded

KEPT: list[KeptAnswer] = []
"""What the requests of this process kept for feedback."""
CONTEXT = 6000
HEAD, TAIL = "<|user|>", "<|end|>\n<|reply|>"


class Tokenizer:
    """One token for each character."""

    all_special_tokens = ("<|user|>", "<|end|>", "<|reply|>")

    def apply_chat_template(self, chat: Any, **_: Any) -> str:
        return f"{HEAD}{chat[0]['content']}{TAIL}"


class Renderer:
    """vLLM's renderer over `Tokenizer`."""

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    async def tokenize_prompts_async(self, prompts: Any, params: Any) -> list[Any]:
        if any(len(one["prompt"]) > params.max_total_tokens for one in prompts):
            raise ValueError("the text is too long")
        return [{"prompt_token_ids": list(map(ord, one["prompt"]))} for one in prompts]


class CharacterEngine:
    """Gives each next token a probability that depends on the prompt alone."""

    def __init__(self, error: Exception | None = None, logprob: float | None = None) -> None:
        self.model_config = SimpleNamespace(max_model_len=CONTEXT)
        cache = SimpleNamespace(block_size=16, prefix_match_unit=None, enable_prefix_caching=True)
        self.vllm_config = SimpleNamespace(cache_config=cache)
        self.renderer = Renderer()
        self.prompts: list[str] = []
        self.salts: list[str | None] = []
        self.open = self.most_open = 0
        self.error, self.logprob = error, logprob

    def check_admission(self, _: int) -> None:
        return None

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **_: Any
    ) -> AsyncGenerator[Any, None]:
        if self.error is not None:
            raise self.error
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        text = "".join(map(chr, prompt["prompt_token_ids"]))
        self.prompts.append(text)
        self.salts.append(prompt.get("cache_salt"))
        row = {
            token: SimpleNamespace(
                logprob=logprob(text, chr(token)) if self.logprob is None else self.logprob
            )
            for token in params.logprob_token_ids
        }
        done = SimpleNamespace(logprobs=[row], finish_reason="length", token_ids=[0])
        self.open -= 1
        yield SimpleNamespace(outputs=[done], num_cached_tokens=0)


def logprob(prompt: str, token: str) -> float:
    """Log-probability of a character after a prompt, in (-6, -4): 100 of them stay below 1."""
    digest = hashlib.sha256(f"{prompt}|{token}".encode()).digest()
    return -4 - 2 * digest[0] / 256


class Handler:
    """The parts of vLLM's chat handler that the route uses."""

    chat_template = None
    default_chat_template_kwargs: dict[str, Any] = {}  # noqa: RUF012
    models = SimpleNamespace(base_model_paths=[SimpleNamespace(name="m")])

    async def _check_model(self, request: Any) -> Any:
        return None

    def _maybe_get_adapters(self, request: Any) -> Any:
        return None


APP = build_app()


def client_of(engine: CharacterEngine, known: Any = None) -> TestClient:
    """A client of the routes on this engine."""
    APP.state.args.log_error_stack = False
    APP.state.openai_serving_chat = Handler()
    APP.state.entrostat = SimpleNamespace(
        engine=engine,
        artifacts=known or artifacts(),
        profiles={"cool": None},
        decision_log=None,
        served_names=lambda _: {"m"},
        readings=ReadCache(),
        sync_artifacts=nothing_uploaded,
        feedback=SimpleNamespace(keep=KEPT.extend),
        chat_frame=None,
    )
    return TestClient(APP, raise_server_exceptions=False)


def post(engine: CharacterEngine, body: Any, path: str = "/v1/decisions", known: Any = None) -> Any:
    """The answer to one request."""
    return client_of(engine, known).post(path, json=body)


def softmax(values: list[float]) -> list[float]:
    """Probabilities of log-weights."""
    weights = [math.exp(value - max(values)) for value in values]
    return [one / sum(weights) for one in weights]
