"""`langchain-openai`: controls go in through `extra_body` or the model's name.

LangChain drops fields of a choice that it does not know, so what comes back is read from the
response headers. Needs OPENAI_BASE_URL.
"""

import os
from typing import Literal

import openai
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

ENTROPY = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}}
HELLO = HumanMessage("Name three colors.")


class Color(BaseModel):
    """A color."""

    color: Literal["red", "blue"]


@tool  # type: ignore[untyped-decorator, unused-ignore]
def weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"Sunny in {city}."


def main() -> None:
    """Run a request, a stream, a tool call, a structured answer and a refused control."""
    base_url = os.environ["OPENAI_BASE_URL"]
    key = os.environ.get("OPENAI_API_KEY", "none")
    name = openai.OpenAI(base_url=base_url, api_key=key).models.list().data[0].id

    def model(entropy: object = None, suffix: str = "", tokens: int = 16) -> ChatOpenAI:
        return ChatOpenAI(
            model=name + suffix,
            base_url=base_url,
            api_key=SecretStr(key),
            max_completion_tokens=tokens,
            extra_body={"entropy": entropy} if entropy else None,
            include_response_headers=True,
            stream_usage=True,
            max_retries=0,
        )

    for asked in (model({"profile": "adaptive"}), model(suffix="@adaptive")):
        answer = asked.invoke([HELLO])
        assert isinstance(answer, AIMessage)
        assert profile_of(answer) == "adaptive"
        assert answer.response_metadata["finish_reason"] in ("stop", "length")
        print("langchain, one answer:", repr(answer.content))

        whole = None
        for chunk in asked.stream([HELLO]):
            assert isinstance(chunk, AIMessageChunk)
            whole = chunk if whole is None else whole + chunk
        assert whole is not None
        assert whole.content
        assert profile_of(whole) == "adaptive"
        assert whole.usage_metadata is not None
        assert whole.usage_metadata["output_tokens"] >= 1
        assert whole.response_metadata["finish_reason"] in ("stop", "length")
        print("langchain, stream:", repr(whole.content))

    bound = model(ENTROPY, tokens=64).bind_tools([weather], tool_choice="weather", strict=True)
    called = bound.invoke([HELLO])
    (call,) = called.tool_calls
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert model(ENTROPY).invoke([HELLO, called, result]).content is not None
    print("langchain, tool call:", call["args"])

    structured = model(ENTROPY, tokens=64).with_structured_output(Color, method="json_schema")
    color = structured.invoke([HELLO])
    assert isinstance(color, Color)
    print("langchain, structured:", color)

    if "CONFIDENCE" in os.environ and "ABSTENTION" in os.environ:
        declines = {"calibration": os.environ["ABSTENTION"], "promise": "joint", "alpha": 0.1}
        sure = {"probe": os.environ["CONFIDENCE"]}
        doubted = model({"confidence": sure, "abstain": declines}).invoke([HELLO])
        headers: dict[str, str] = doubted.response_metadata["headers"]
        assert 0 < float(headers["x-entropy-confidence"]) < 1
        assert headers["x-entropy-abstained"] == "true"
        assert doubted.content == "I don't know."
        print("langchain, declined at confidence", headers["x-entropy-confidence"])
        given = model({"confidence": sure}).invoke([HELLO])
        assert given.content != doubted.content
        assert "x-entropy-abstained" not in given.response_metadata["headers"]

    try:
        model({"temperature": {"type": "entropy_target", "entropy_target": -1}}).invoke("Hello.")
    except openai.BadRequestError as error:
        print("langchain, a mistake:", error)
    else:
        raise AssertionError("a negative entropy target was not refused: it did not arrive")


def profile_of(message: AIMessage) -> str | None:
    """The profile that the server reports."""
    headers: dict[str, str] = message.response_metadata.get("headers", {})
    return headers.get("x-entropy-profile")


if __name__ == "__main__":
    main()
