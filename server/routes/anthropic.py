"""vLLM's Anthropic Messages API with the `entropy` field."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from vllm.entrypoints.anthropic import api_router as vllm_route
from vllm.entrypoints.anthropic.protocol import (
    AnthropicErrorResponse,
    AnthropicMessagesRequest,
)
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

from probes.strict import FirstError
from server.requests.merge import ReportedMessagesResponse
from server.routes.bodies import BoundedRoute
from server.routes.controlled import run_controlled
from server.routes.openai import CONTROL, ControlField

router = APIRouter(route_class=BoundedRoute)


class ControlledMessagesRequest(FirstError, AnthropicMessagesRequest):
    """vLLM's Messages request with the `entropy` field."""

    entropy: ControlField = Field(None, description=CONTROL)


@router.post(
    "/v1/messages",
    dependencies=[Depends(validate_json_request)],
    response_model=None,
    responses={
        200: {"model": ReportedMessagesResponse, "content": {"text/event-stream": {}}},
        **{code: {"model": AnthropicErrorResponse} for code in (400, 404, 500)},
    },
)
async def create_messages(request: ControlledMessagesRequest, raw_request: Request) -> Any:
    """Answer a conversation of the Messages API, with the controls of `entropy` if set."""
    return await run_controlled(request, raw_request, vllm_route.create_messages)
