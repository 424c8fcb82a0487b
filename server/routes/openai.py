"""vLLM's OpenAI routes with the `entropy` field."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, ValidationError, WrapValidator
from vllm.entrypoints.openai.chat_completion import api_router as chat
from vllm.entrypoints.openai.chat_completion.protocol import (
    BatchChatCompletionRequest,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
)
from vllm.entrypoints.openai.completion import api_router as completion
from vllm.entrypoints.openai.completion.protocol import (
    CompletionRequest,
    CompletionResponse,
    CompletionResponseChoice,
)
from vllm.entrypoints.openai.responses import api_router as responses
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest, ResponsesResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import validate_json_request
from vllm.exceptions import VLLMValidationError

from probes.strict import FirstError
from server.errors import describe
from server.routes.bodies import BoundedRoute
from server.routes.controlled import run_controlled
from server.wire.report import Report
from server.wire.request import Control

CONTROL = "Controls that measure entropy and act on it while the answer is decoded."
"""Description of the request field `entropy`."""
REPORT = "Measurements and applied controls; present if the request has controls."
"""Description of the response field `entropy`."""

router = APIRouter(route_class=BoundedRoute)


class _Mistake(VLLMValidationError):
    def __str__(self) -> str:
        return str(self.args[0])  # the message already names the parameter


def _validate_control(value: Any, validate: Callable[[Any], Control | None]) -> Control | None:
    """Convert a validation error to one sentence and `param`, like other API errors."""
    try:
        return validate(value)
    except ValidationError as error:
        mistake = describe(error, "entropy")
        raise _Mistake(str(mistake), parameter=mistake.param) from error


ControlField = Annotated[Control | None, WrapValidator(_validate_control)]


class ControlledChatRequest(FirstError, ChatCompletionRequest):
    """vLLM's chat request with the `entropy` field."""

    entropy: ControlField = Field(None, description=CONTROL)


class ControlledBatchRequest(FirstError, BatchChatCompletionRequest):
    """vLLM's batch of conversations with the `entropy` field."""

    entropy: ControlField = Field(None, description=CONTROL)


class ControlledCompletionRequest(FirstError, CompletionRequest):
    """vLLM's completion request with the `entropy` field."""

    entropy: ControlField = Field(None, description=CONTROL)


class ControlledResponsesRequest(FirstError, ResponsesRequest):
    """vLLM's Responses request with the `entropy` field."""

    entropy: ControlField = Field(None, description=CONTROL)


class ReportedChatChoice(ChatCompletionResponseChoice):
    """A chat choice with its report."""

    entropy: Report | None = Field(None, description=REPORT)


class ReportedChatResponse(ChatCompletionResponse):
    """vLLM's chat response with reports."""

    choices: list[ReportedChatChoice]


class ReportedCompletionChoice(CompletionResponseChoice):
    """A completion choice with its report."""

    entropy: Report | None = Field(None, description=REPORT)


class ReportedCompletionResponse(CompletionResponse):
    """vLLM's completion response with reports."""

    choices: list[ReportedCompletionChoice]


class ReportedResponsesResponse(ResponsesResponse):
    """vLLM's Responses response with a report."""

    entropy: Report | None = Field(None, description=REPORT)


def _response_docs(model: type[Any], *, streams: bool = True) -> dict[int | str, dict[str, Any]]:
    answer: dict[str, Any] = {"model": model}
    if streams:
        answer["content"] = {"text/event-stream": {}}
    errors: dict[int | str, dict[str, Any]]
    errors = {code: {"model": ErrorResponse} for code in (400, 404, 500, 501)}
    return {200: answer, **errors}


_JSON = [Depends(validate_json_request)]


@router.post(
    "/v1/chat/completions",
    dependencies=_JSON,
    response_model=None,
    responses=_response_docs(ReportedChatResponse),
)
async def create_chat_completion(request: ControlledChatRequest, raw_request: Request) -> Any:
    """Answer a conversation, with the controls of `entropy` if set."""
    return await run_controlled(request, raw_request, chat.create_chat_completion)


@router.post(
    "/v1/chat/completions/batch",
    dependencies=_JSON,
    response_model=None,
    responses=_response_docs(ReportedChatResponse, streams=False),
)
async def create_batch_chat_completion(
    request: ControlledBatchRequest, raw_request: Request
) -> Any:
    """Answer several conversations with the same controls."""
    return await run_controlled(request, raw_request, chat.create_batch_chat_completion)


@router.post(
    "/v1/completions",
    dependencies=_JSON,
    response_model=None,
    responses=_response_docs(ReportedCompletionResponse),
)
async def create_completion(request: ControlledCompletionRequest, raw_request: Request) -> Any:
    """Complete one or more prompts, with the controls of `entropy` if set."""
    return await run_controlled(request, raw_request, completion.create_completion)


@router.post(
    "/v1/responses",
    dependencies=_JSON,
    response_model=None,
    responses=_response_docs(ReportedResponsesResponse),
)
async def create_responses(request: ControlledResponsesRequest, raw_request: Request) -> Any:
    """Answer a request of the Responses API, with the controls of `entropy` if set."""
    return await run_controlled(request, raw_request, responses.create_responses)
