"""Rollouts drawn by a running server, which is given the adapter of every step.

The server reads the adapter from disk, so it must see the run folder: it runs on this machine or
shares its files.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import openai
import torch
from pydantic import BaseModel, ValidationError

from training.common.errors import TrainingError
from training.common.server_pool import Sampling, ServerPool
from training.policy.rollouts.settings import ServedConfig
from training.policy.rollouts.source import DrawnCompletions, Generate

_START = (
    "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 entrostat serve MODEL --enable-lora "
    "--max-loras 2 --logprobs-mode processed_logprobs"
)


class _Logprobs(BaseModel):
    token_logprobs: list[float | None]


class _Choice(BaseModel):
    index: int
    token_ids: list[int]
    logprobs: _Logprobs


class _Completion(BaseModel):
    choices: list[_Choice]


class Draw(BaseModel):
    """A completion as it was drawn."""

    token_ids: list[int]
    logprobs: list[float]
    """Of each token, under the distribution that it was drawn from, controls included."""


class ServedPolicy:
    """The policy on a server: put there once per step, then asked for completions."""

    def __init__(self, config: ServedConfig, folder: Path) -> None:
        """Connect to nothing yet.

        Args:
            config: Where, and how.
            folder: Adapters are handed over in it.
        """
        self._config = config
        self._folder = folder.resolve()
        base = config.url.rstrip("/").removesuffix("/v1") + "/v1"
        self._client = openai.OpenAI(base_url=base, api_key="none", max_retries=4, timeout=600)
        self._name: str | None = None

    def connect(self) -> None:
        """See that the server can do what is needed.

        Raises:
            TrainingError: It does not answer, is no Entrostat server, or reports log-probabilities
                from before temperatures and controls.
        """

        async def describe() -> str:
            async with ServerPool([self._config.url], Sampling()) as fleet:
                return (await fleet.connect()).model

        model = asyncio.run(describe())
        # The first token of this text is the likeliest one at every temperature; how likely it is
        # depends on the temperature, if that is what the server reports.
        ask = {"model": model, "prompt": "One, two,", "max_tokens": 1, "logprobs": 1, "seed": 0}
        top = []
        for temperature in (1.0, 2.0):
            answer: Any = self._post("/completions", {**ask, "temperature": temperature})
            top.append(max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()))
        if abs(top[0] - top[1]) < 1e-3:
            raise TrainingError(
                f"{self._config.url} reports log-probabilities from before the temperature, which "
                f"are not those that tokens are drawn with: {_START}"
            )

    def publish(self, model: Any, state: Any, step: int) -> None:
        """Load an adapter into the server in place of the one before.

        A new name each time: the server caches prefixes by name, and reloads an adapter that is
        replaced in place at every forward.

        Args:
            model: A `peft` model.
            state: Its weights, gathered from all processes.
            step: Optimizer steps done.

        Raises:
            TrainingError: The server does not take it.
        """
        name = self.name(step)
        folder = self._folder / name
        model.save_pretrained(str(folder), state_dict=state)
        try:
            self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except TrainingError as error:
            if "already been loaded" not in str(error):  # by a run that was killed here
                raise
            self._post("/unload_lora_adapter", {"lora_name": name})
            self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        if self._name is not None and self._name != name:
            self._post("/unload_lora_adapter", {"lora_name": self._name})
            shutil.rmtree(self._folder / self._name, ignore_errors=True)
        self._name = name

    def name(self, step: int) -> str:
        """What the adapter of a step is called on the server."""
        return f"{self._folder.parent.name}-{step}"

    def draw(
        self,
        prompts: Sequence[list[int]],
        *,
        step: int,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[Draw]:
        """One completion for each prompt; equal neighbours are one request.

        Args:
            prompts: Token ids.
            step: Whose adapter answers.
            max_tokens: Longest completion.
            temperature: T0; the controls may move it.
            seed: Same seed, same completions.

        Raises:
            TrainingError: The server refuses or fails.
        """
        groups = [(prompt, len([*same])) for prompt, same in groupby(prompts)]
        common = {
            "model": self.name(step),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
            "entropy": {"trace": "none", **self._config.controls},
        }

        def ask(number: int, prompt: list[int], count: int) -> list[Draw]:
            body = {**common, "prompt": prompt, "n": count, "seed": seed + number * len(prompts)}
            answer = _completion(self._post("/completions", body), self._config.url)
            choices = sorted(answer.choices, key=lambda choice: choice.index)
            return [_draw(one, self._config.url) for one in choices]

        with ThreadPoolExecutor(max_workers=min(len(groups), 32)) as threads:
            found = threads.map(ask, range(len(groups)), *zip(*groups, strict=True))
            return [one for group in found for one in group]

    def _post(self, path: str, body: dict[str, Any]) -> object:
        try:
            return self._client.post(path, cast_to=object, body=body)
        except openai.NotFoundError as error:
            raise TrainingError(f"{self._config.url} has no {path}: {_START}") from error
        except openai.APIStatusError as error:
            said = error.body.get("message") if isinstance(error.body, dict) else None
            text = " ".join(str(said or error.message).split())
            raise TrainingError(f"{self._config.url}: {text}") from error
        except openai.APIError as error:
            raise TrainingError(f"{self._config.url} does not answer: {error.message}") from error


def _draw(choice: _Choice, url: str) -> Draw:
    logprobs = [value for value in choice.logprobs.token_logprobs if value is not None]
    if len(logprobs) != len(choice.token_ids):
        raise TrainingError(
            f"{url} sent {len(choice.token_ids)} tokens with {len(logprobs)} log-probabilities: a "
            "token without one cannot be weighed"
        )
    return Draw(token_ids=choice.token_ids, logprobs=logprobs)


def _completion(answer: object, url: str) -> _Completion:
    try:
        return _Completion.model_validate(answer)
    except ValidationError as error:
        finding = error.errors()[0]
        where = ".".join(str(part) for part in finding["loc"])
        raise TrainingError(
            f"{url} sent a completion with a wrong {where}: {finding['msg']}"
        ) from error


class ServedSource:
    """Lets a server draw, which has the adapter of the current step."""

    is_off_policy = True

    def __init__(
        self,
        policy: ServedPolicy,
        hand_over: Callable[[ServedPolicy], int],
        *,
        max_tokens: int,
        temperature: float,
    ) -> None:
        """Draw on a server.

        Args:
            policy: The policy there.
            hand_over: Publishes the adapter if it has changed; returns its step.
            max_tokens: Longest completion.
            temperature: T0; the server's controls may move it.
        """
        self._policy, self._hand_over = policy, hand_over
        self._max_tokens, self._temperature = max_tokens, temperature

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Completions, with the log-probabilities they were drawn with."""
        drawn = self._policy.draw(
            prompt_ids,
            step=self._hand_over(self._policy),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=int(torch.randint(2**31, ())),
        )
        return DrawnCompletions([one.token_ids for one in drawn], [one.logprobs for one in drawn])
