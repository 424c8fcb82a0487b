"""LlamaIndex (`llama-index-llms-openai-like`): controls go in through `additional_kwargs`.

`response.raw` is the answer of the OpenAI SDK, with the report. Needs OPENAI_BASE_URL.
"""

import os
from typing import Any, Literal

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

ENTROPY = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}, "trace": "tokens"}
HELLO = [ChatMessage(role="user", content="Name three colors.")]


class Color(BaseModel):
    """A color."""

    color: Literal["red", "blue"]


def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


def main() -> None:
    """Run a request, a stream, a tool call, a structured answer and a refused control."""
    base_url = os.environ["OPENAI_BASE_URL"]
    key = os.environ.get("OPENAI_API_KEY", "none")
    name = openai.OpenAI(base_url=base_url, api_key=key).models.list().data[0].id

    def model(entropy: Any = None, suffix: str = "", tokens: int = 16) -> OpenAILike:
        return OpenAILike(
            model=name + suffix,
            api_base=base_url,
            api_key=key,
            is_chat_model=True,
            is_function_calling_model=True,
            max_tokens=tokens,
            max_retries=0,
            strict=True,  # vLLM constrains the arguments of strict tools only
            additional_kwargs={"extra_body": {"entropy": entropy}} if entropy else {},
        )

    answer = model(ENTROPY).chat(HELLO)
    report = answer.raw.choices[0].entropy
    assert report["law"] == "entropy_target"
    assert report["num_tokens"] == answer.raw.usage.completion_tokens == len(report["tokens"])
    print("llama-index, one answer:", report["entropy_mean"])

    tokens: list[Any] = []
    summary = None
    for piece in model(ENTROPY).stream_chat(HELLO):
        for choice in piece.raw.choices:
            entropy = getattr(choice, "entropy", None) or {}
            tokens += entropy.get("tokens") or []
            summary = entropy if "entropy_mean" in entropy else summary
    assert summary is not None
    assert summary["num_tokens"] == len(tokens)
    print("llama-index, stream:", summary["entropy_mean"])

    for suffix in ("@adaptive", "@steady", "@thrifty"):  # its temperature is 0.1
        named = model(suffix=suffix).chat(HELLO)
        assert named.raw.choices[0].entropy["profile"] == suffix[1:]

    tool = FunctionTool.from_defaults(weather)
    asked = model(ENTROPY, tokens=64)
    called = asked.chat_with_tools([tool], chat_history=HELLO, tool_required=True)
    (call,) = asked.get_tool_calls_from_response(called)
    result = ChatMessage(
        role="tool",
        content=str(tool(**call.tool_kwargs)),
        additional_kwargs={"tool_call_id": call.tool_id},
    )
    after = model(ENTROPY).chat([*HELLO, called.message, result])
    assert after.raw.choices[0].entropy["num_tokens"] >= 1
    print("llama-index, tool call:", call.tool_kwargs)

    structured = asked.as_structured_llm(Color).chat(HELLO)
    assert structured.raw.color in ("red", "blue")
    print("llama-index, structured:", structured.message.content)

    try:
        model({"bogus": 1}).chat(HELLO)
    except openai.BadRequestError as error:
        print("llama-index, a mistake:", error.param)
    else:
        raise AssertionError("an unknown control was not refused: it did not arrive")


if __name__ == "__main__":
    main()
