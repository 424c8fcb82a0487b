"""The chat template around a question, and tokens of text that cannot leave its turn."""

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from probes.inquiry.label_tokens import Tokens
from server.errors import BadControl
from server.inquiry.engine_reads import ReadError, Reads

_CONTENT = "\ufdd0question\ufdd0"
"""Stands for the content while the template is rendered; a noncharacter that no text has."""


class ChatFrame(NamedTuple):
    """A user's turn in the served chat template, up to the first token of the reply."""

    head: tuple[int, ...]
    """Tokens before the content."""
    tail: tuple[int, ...]
    """Tokens after the content."""
    tail_text: str
    """The text of `tail`."""
    control: re.Pattern[str] | None
    """Matches the tokenizer's control tokens in a text."""

    async def content(self, text: str, reads: Reads) -> tuple[int, ...]:
        """Tokens of a client's text, in which control tokens are ordinary text.

        A text such as `<|im_end|>` then cannot end the turn that it stands in.

        Raises:
            ReadError: The text is too long for the model.
        """
        pieces = [text] if self.control is None else await asyncio.to_thread(self._pieces, text)
        if len(pieces) > reads.max_tokens:
            raise ReadError(f"the text has more than the {reads.max_tokens} tokens the model takes")
        found = await reads.tokens(pieces, start=False)
        return tuple(token for piece in found for token in piece)

    def _pieces(self, text: str) -> list[str]:
        """The text, cut inside each control token."""
        assert self.control is not None
        cuts = [0, *(match.start() + 1 for match in self.control.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(cuts) if end > start]

    async def replies(self, texts: Sequence[str], reads: Reads, param: str) -> list[Tokens]:
        """Tokens of replies that begin after `tail`.

        Args:
            texts: The replies.
            reads: For the tokenizer.
            param: Field of the request that the texts come from.

        Raises:
            BadControl: A reply has no tokens, or two have the same.
        """
        (before, *found) = await reads.tokens(
            [self.tail_text, *(self.tail_text + text for text in texts)], start=False
        )
        replies = [_after(before, tokens) for tokens in found]
        if None in replies:  # the reply merges with the end of the prompt
            alone = await reads.tokens(list(texts), start=False)
            replies = [tuple(tokens) for tokens in alone]
        sequences = [tokens for tokens in replies if tokens]
        if len(sequences) < len(texts):
            raise BadControl(f"`{param}`: an option has no text", param)
        if len(set(sequences)) < len(sequences):
            raise BadControl(f"`{param}`: two options have the same tokens", param)
        return sequences


def _after(before: Sequence[int], tokens: Sequence[int]) -> Tokens | None:
    return tuple(tokens[len(before) :]) if tokens[: len(before)] == before else None


async def chat_frame(
    engine: Any, template: str | None, options: dict[str, Any], reads: Reads
) -> ChatFrame:
    """Render the served chat template around a question.

    Args:
        engine: vLLM's engine client.
        template: The served chat template, if it is not the model's.
        options: `--default-chat-template-kwargs`.
        reads: For the tokenizer.

    Raises:
        NotImplementedError: The model has no chat template.
    """
    tokenizer = engine.renderer.get_tokenizer()
    rendered = await asyncio.to_thread(_rendered, tokenizer, template, options)
    head, found, tail = rendered.partition(_CONTENT)
    if not found or _CONTENT in tail:
        raise NotImplementedError("the chat template does not repeat a question once")
    head_tokens, tail_tokens = await reads.tokens([head, tail], start=False)
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", ())]
    special += [
        str(token)
        for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
        if getattr(token, "special", False)
    ]
    long = sorted({token for token in special if len(token) > 1}, key=len, reverse=True)
    control = re.compile("|".join(map(re.escape, long))) if long else None
    return ChatFrame(tuple(head_tokens), tuple(tail_tokens), tail, control)


def _rendered(tokenizer: Any, template: str | None, options: dict[str, Any]) -> str:
    chat = {"enable_thinking": False, **options, "chat_template": template}
    for content in (_CONTENT, [{"type": "text", "text": _CONTENT}]):
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                **chat,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # templates raise errors of many kinds
            reason = error
            continue
        if isinstance(text, str) and _CONTENT in text:
            return text
        reason = ValueError("it does not contain the question")
    raise NotImplementedError(f"the model has no chat template for decisions: {reason}")
