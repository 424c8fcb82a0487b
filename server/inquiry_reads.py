"""Next-token reads of the served model, many at once, counted for the report."""

from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.label_reads import next_token_label_reads
from vllm.inputs import tokens_input
from vllm.sampling_params import SamplingParams


class Reads:
    """What one turn asks of the engine."""

    def __init__(self, engine: Any, request_id: str) -> None:
        """Ask nothing yet.

        Args:
            engine: vLLM's engine client.
            request_id: Of the HTTP request.
        """
        self._engine = engine
        self._tokenizer = engine.renderer.get_tokenizer()
        self._request_id = request_id
        self.forwards = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def tokens(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def tokens_after(self, text: str) -> list[int]:
        """Token ids of a text that continues a prompt."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    async def logprobs(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[int]
    ) -> list[list[float]]:
        """Log-probability of some next tokens after each prompt, in nats.

        Args:
            prompts: Token ids.
            choices: The tokens, at most 128 and all different.

        Raises:
            ValueError: A prompt is too long for the model, or the engine failed.
        """
        limit = self._engine.model_config.max_model_len - 1
        if longest := max((len(prompt) for prompt in prompts if len(prompt) > limit), default=0):
            raise ValueError(f"a prompt has {longest} tokens, the model takes {limit}")
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=len(choices),
            logprob_token_ids=list(choices),
        )
        reads = await next_token_label_reads(
            self._engine,
            [tokens_input(list(prompt)) for prompt in prompts],
            [params] * len(prompts),
            f"{self._request_id}-read{self.forwards}",
        )
        self.forwards += len(reads)
        for read in reads:
            self.prompt_tokens += len(read.result.prompt_token_ids or ())
            self.cached_tokens += read.result.num_cached_tokens or 0
        return [read.logprobs for read in reads]
