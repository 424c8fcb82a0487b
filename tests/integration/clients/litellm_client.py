"""`litellm`: controls go in through `extra_body`; reports are in `provider_specific_fields`.

Needs OPENAI_BASE_URL.
"""

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no download of a price list

import litellm
import openai

MESSAGES = [{"role": "user", "content": "Name three colors."}]
ENTROPY = {"temperature": {"type": "entropy_target", "entropy_target": 1.0}, "trace": "tokens"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "strict": True,  # vLLM constrains the arguments of strict tools only
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}


def main() -> None:
    """Run a request, a stream, a tool call, a structured answer and a refused control."""
    base_url = os.environ["OPENAI_BASE_URL"]
    key = os.environ.get("OPENAI_API_KEY", "none")
    name = openai.OpenAI(base_url=base_url, api_key=key).models.list().data[0].id

    def ask(messages: list[Any] = MESSAGES, suffix: str = "", **options: Any) -> Any:
        return litellm.completion(
            model=f"openai/{name}{suffix}",
            api_base=base_url,
            api_key=key,
            messages=messages,
            **{"max_tokens": 16, **options},
        )

    answer = ask(extra_body={"entropy": ENTROPY})
    report = answer.choices[0].provider_specific_fields["entropy"]
    assert report["law"] == "entropy_target"
    assert report["num_tokens"] == answer.usage.completion_tokens == len(report["tokens"])
    print("litellm, one answer:", report["entropy_mean"])

    chunks = list(
        ask(extra_body={"entropy": ENTROPY}, stream=True, stream_options={"include_usage": True})
    )
    whole = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens >= 1
    print("litellm, stream:", repr(whole.choices[0].message.content))

    named = ask(suffix="@adaptive")
    assert named.choices[0].provider_specific_fields["entropy"]["profile"] == "adaptive"

    choice = {"type": "function", "function": {"name": "weather"}}
    called = ask(
        tools=[TOOL], tool_choice=choice, max_tokens=64, extra_body={"entropy": ENTROPY}
    ).choices[0]
    (call,) = called.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    after = ask([*MESSAGES, called.message.model_dump(), result], extra_body={"entropy": ENTROPY})
    assert after.choices[0].provider_specific_fields["entropy"]["num_tokens"] >= 1
    print("litellm, tool call:", call.function.arguments)

    form = {
        "type": "json_schema",
        "json_schema": {"name": "color", "schema": SCHEMA, "strict": True},
    }
    structured = ask(response_format=form, max_tokens=64, extra_body={"entropy": ENTROPY})
    assert json.loads(structured.choices[0].message.content)["color"] in ("red", "blue")
    print("litellm, structured:", structured.choices[0].message.content)

    try:
        ask(extra_body={"entropy": {"bogus": 1}})
    except litellm.BadRequestError as error:
        print("litellm, a mistake:", error)
    else:
        raise AssertionError("an unknown control was not refused: it did not arrive")


if __name__ == "__main__":
    main()
