"""Rollouts drawn by a running server, which loads the adapter of every step.

The server reads the adapter from disk, so it needs access to the run folder: it must run on this
machine or on a shared file system.
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
    """A completion with its sampling log-probabilities."""

    token_ids: list[int]
    logprobs: list[float]
    """Log-probability of each token under the sampling distribution, including controls."""


class ServedPolicy:
    """The policy on a server: publishes an adapter once per step and requests completions."""

    def __init__(self, config: ServedConfig, folder: Path) -> None:
        """Create the client; does not connect yet.

        Args:
            config: Address and controls.
            folder: Folder in which adapters are saved for the server.
        """
        self._config = config
        self._folder = folder.resolve()
        base = config.url.rstrip("/").removesuffix("/v1") + "/v1"
        self._client = openai.OpenAI(base_url=base, api_key="none", max_retries=4, timeout=600)
        self._name: str | None = None

    def connect(self) -> None:
        """Check that the server supports training rollouts.

        Raises:
            TrainingError: The server does not answer, is not an Entrostat server, or reports
                log-probabilities before temperatures and controls.
        """

        async def describe() -> str:
            async with ServerPool([self._config.url], Sampling()) as fleet:
                return (await fleet.connect()).model

        model = asyncio.run(describe())
        # The most likely first token is the same at every temperature. Its log-probability depends
        # on the temperature if the server reports processed log-probabilities.
        ask = {"model": model, "prompt": "One, two,", "max_tokens": 1, "logprobs": 1, "seed": 0}
        top = []
        for temperature in (1.0, 2.0):
            answer: Any = self._post("/completions", {**ask, "temperature": temperature})
            top.append(max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()))
        if abs(top[0] - top[1]) < 1e-3:
            raise TrainingError(
                f"{self._config.url} reports log-probabilities before the temperature is applied, "
                f"but training needs those of the sampling distribution: {_START}"
            )

    def publish(self, model: Any, state: Any, step: int) -> None:
        """Load an adapter into the server and unload the previous one.

        Each adapter gets a new name, because the server caches prefixes by name and reloads an
        adapter that is replaced in place at every forward pass.

        Args:
            model: A `peft` model.
            state: Its weights, gathered from all processes.
            step: Optimizer steps done.

        Raises:
            TrainingError: The server refuses the adapter.
        """
        name = self.name(step)
        folder = self._folder / name
        model.save_pretrained(str(folder), state_dict=state)
        try:
            self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except TrainingError as error:
            if "already been loaded" not in str(error):  # by a killed run at this step
                raise
            self._post("/unload_lora_adapter", {"lora_name": name})
            self._post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        if self._name is not None and self._name != name:
            self._post("/unload_lora_adapter", {"lora_name": self._name})
            shutil.rmtree(self._folder / self._name, ignore_errors=True)
        self._name = name

    def name(self, step: int) -> str:
        """Name of the adapter of a step on the server."""
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
        """Draw one completion per prompt; consecutive equal prompts share one request.

        Args:
            prompts: Token ids.
            step: Optimizer step of the adapter.
            max_tokens: Largest number of tokens of a completion.
            temperature: T0; the controls may change it.
            seed: Seed; equal seeds give equal completions.

        Raises:
            TrainingError: The server refuses a request or fails.
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
            message = error.body.get("message") if isinstance(error.body, dict) else None
            text = " ".join(str(message or error.message).split())
            raise TrainingError(f"{self._config.url}: {text}") from error
        except openai.APIError as error:
            raise TrainingError(f"{self._config.url} does not answer: {error.message}") from error


def _draw(choice: _Choice, url: str) -> Draw:
    logprobs = [value for value in choice.logprobs.token_logprobs if value is not None]
    if len(logprobs) != len(choice.token_ids):
        raise TrainingError(
            f"{url} returned {len(choice.token_ids)} tokens but {len(logprobs)} log-probabilities: "
            "importance weights need one for each token"
        )
    return Draw(token_ids=choice.token_ids, logprobs=logprobs)


def _completion(answer: object, url: str) -> _Completion:
    try:
        return _Completion.model_validate(answer)
    except ValidationError as error:
        finding = error.errors()[0]
        where = ".".join(str(part) for part in finding["loc"])
        raise TrainingError(
            f"{url} returned a completion with an invalid {where}: {finding['msg']}"
        ) from error


class ServedSource:
    """Draws on a server that has the adapter of the current step."""

    is_off_policy = True

    def __init__(
        self,
        policy: ServedPolicy,
        hand_over: Callable[[ServedPolicy], int],
        *,
        max_tokens: int,
        temperature: float,
    ) -> None:
        """Store the settings.

        Args:
            policy: The policy on the server.
            hand_over: Publishes the adapter if it has changed; returns its step.
            max_tokens: Largest number of tokens of a completion.
            temperature: T0; the server's controls may change it.
        """
        self._policy, self._publish_adapter = policy, hand_over
        self._max_tokens, self._temperature = max_tokens, temperature

    def draw(self, prompt_ids: list[list[int]], generate: Generate) -> DrawnCompletions:
        """Draw completions with their sampling log-probabilities."""
        drawn = self._policy.draw(
            prompt_ids,
            step=self._publish_adapter(self._policy),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=int(torch.randint(2**31, ())),
        )
        return DrawnCompletions([one.token_ids for one in drawn], [one.logprobs for one in drawn])
