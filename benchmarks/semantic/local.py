"""Reads the reply to a question from the files of a model, in batches, without a server."""

import asyncio
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.semantic.reads import PairRead
from probes.selective.pairs import REPLIES, DirectedAnswer
from training.common.hidden_states import chat_prompts, last_states

_BATCH = 24
_PAUSE = 0.02
"""Seconds in which a batch fills."""


class LocalModel:
    """A model in bfloat16; the caller awaits single replies, which are read together."""

    def __init__(self, checkpoint: Path) -> None:
        """Load it.

        Args:
            checkpoint: Folder of the model.
        """
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
        self._replies = [
            self._tokenizer.encode(reply, add_special_tokens=False)[0] for reply in REPLIES
        ]
        self._waiting: list[tuple[str, asyncio.Future[PairRead]]] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, content: str) -> PairRead:
        """Probabilities of the replies to a user message."""
        found: asyncio.Future[PairRead] = asyncio.get_running_loop().create_future()
        self._waiting.append((content, found))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await found

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(_PAUSE)
            self._waiting.sort(key=lambda one: len(one[0]))
            batch = [self._waiting.pop() for _ in range(min(_BATCH, len(self._waiting)))]
            read = await asyncio.to_thread(self._read, [content for content, _ in batch])
            for (_, found), one in zip(batch, read, strict=True):
                found.set_result(one)

    @torch.inference_mode()
    def _read(self, contents: list[str]) -> list[PairRead]:
        prompts = chat_prompts(self._tokenizer, contents)
        last = last_states(self._model, prompts)
        said = self._model.lm_head(last).float().softmax(-1)[:, self._replies].tolist()
        return [
            PairRead(DirectedAnswer(yes, no), len(prompt))
            for (yes, no), prompt in zip(said, prompts, strict=True)
        ]
