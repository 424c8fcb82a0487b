"""The model list with `MODEL@PROFILE` names, and non-generating routes that accept them."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.anthropic import api_router as anthropic
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard
from vllm.entrypoints.serve.tokenize import api_router as tokenization
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request

from server.errors import BadControl
from server.planning.plan import split_model
from server.routes.bodies import BoundedRoute
from server.routes.state import state_of

router = APIRouter(route_class=BoundedRoute)
_JSON = [Depends(validate_json_request)]
_ERRORS: dict[int | str, dict[str, Any]]
_ERRORS = {code: {"model": ErrorResponse} for code in (400, 404, 500, 501)}


@router.get("/v1/models")
async def list_models(raw_request: Request) -> JSONResponse:
    """List each model, alone and combined with each profile."""
    models = await raw_request.app.state.openai_serving_models.show_available_models()
    profiles = state_of(raw_request).profiles
    cards = list(models.data)
    for card in models.data:
        cards += [_profile_card(card, profile) for profile in profiles]
    models.data = cards
    return JSONResponse(models.model_dump())


def _profile_card(card: ModelCard, profile: str) -> ModelCard:
    return card.model_copy(update={"id": f"{card.id}@{profile}", "parent": card.id})


@router.post("/tokenize", dependencies=_JSON, response_model=None, responses=_ERRORS)
async def tokenize(request: TokenizeRequest, raw_request: Request) -> Any:
    """Tokenize a text or a conversation; profiles do not change the tokens."""
    _drop_profile(request, raw_request)
    return await tokenization.tokenize(request, raw_request=raw_request)


@router.post("/detokenize", dependencies=_JSON, response_model=None, responses=_ERRORS)
async def detokenize(request: DetokenizeRequest, raw_request: Request) -> Any:
    """Turn tokens into text; profiles do not change it."""
    _drop_profile(request, raw_request)
    return await tokenization.detokenize(request, raw_request=raw_request)


@router.post("/v1/messages/count_tokens", dependencies=_JSON, response_model=None)
async def count_tokens(request: AnthropicCountTokensRequest, raw_request: Request) -> Any:
    """Count the tokens of an Anthropic conversation; profiles do not change the count."""
    _drop_profile(request, raw_request)
    return await anthropic.count_tokens(request, raw_request=raw_request)


def _drop_profile(request: Any, raw_request: Request) -> None:
    """Remove the profile from the model name of a request.

    Raises:
        BadControl: The profile does not exist.
    """
    state = state_of(raw_request)
    request.model, profile = split_model(
        request.model, state.served_names(raw_request), state.profiles
    )
    if profile is not None and profile not in state.profiles:
        raise BadControl(f"`model`: unknown profile `{profile}`", "model")
