"""`langchain-openai`: controls go in through `extra_body` or the model's name.

LangChain drops fields of a choice that it does not know, so what comes back is read from the
response headers. Needs OPENAI_BASE_URL.
"""

import os

import openai
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr


def main() -> None:
    """Run one request and one stream, and check that an invalid control is refused."""
    base_url = os.environ["OPENAI_BASE_URL"]
    key = os.environ.get("OPENAI_API_KEY", "none")
    name = openai.OpenAI(base_url=base_url, api_key=key).models.list().data[0].id

    def model(suffix: str = "", **entropy: object) -> ChatOpenAI:
        return ChatOpenAI(
            model=name + suffix,
            base_url=base_url,
            api_key=SecretStr(key),
            max_completion_tokens=16,
            extra_body={"entropy": entropy} if entropy else None,
            include_response_headers=True,
            max_retries=0,
        )

    for asked in (model(profile="adaptive"), model("@adaptive")):
        answer = asked.invoke("Name three colors.")
        assert isinstance(answer, AIMessage)
        assert profile_of(answer) == "adaptive"
        print("langchain, one answer:", repr(answer.content))

        text, profile = "", None
        for chunk in asked.stream("Name three colors."):
            assert isinstance(chunk, AIMessageChunk)
            text += str(chunk.content)
            profile = profile or profile_of(chunk)
        assert text
        assert profile == "adaptive"
        print("langchain, stream:", repr(text))

    try:
        model(temperature={"type": "entropy_target", "entropy_target": -1}).invoke("Hello.")
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
