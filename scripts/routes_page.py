"""`docs/reference/routes.md`: every route of the server, from the app that vLLM builds."""

import os
from unittest.mock import patch

from fastapi import FastAPI

_HEAD = """\
# Routes

<!-- Written by `python -m scripts.docs`; do not edit. -->

Every route of the server, ours and vLLM's.

- *key*: with `--api-key` (or `VLLM_API_KEY`) the route answers 401 without
  `Authorization: Bearer KEY`. Routes under `/v1/entropy/admin` need the admin key too, in
  `X-Entropy-Admin-Key`.
- *generates*: it runs the model for the client.
- *controls*: "takes" the field `entropy`, the header `X-Entropy-Profile` and `NAME@PROFILE`;
  "own" takes a field `entropy` with other keys and refuses profiles; "refuses" all three with 400
  and `param`; "profile names" accepts `NAME@PROFILE`, which changes nothing there. Routes without
  an entry have no body.
- *needs*: the flag or variable that switches the route on; empty for routes that are always there.

| route | key | generates | controls | needs |
|---|---|---|---|---|
"""

_SWITCHES: dict[str, tuple[list[str], dict[str, str]]] = {
    "": ([], {}),
    "`--enable-scale-out`": (["--enable-scale-out"], {}),
    "`--tokens-only`": (["--tokens-only"], {}),
    "`--enable-fault-tolerance`": (["--enable-fault-tolerance"], {}),
    "`VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`": ([], {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}),
    "`VLLM_SERVER_DEV_MODE=1`": ([], {"VLLM_SERVER_DEV_MODE": "1"}),
    "`ENTROSTAT_ADMIN_KEY`": ([], {"ENTROSTAT_ADMIN_KEY": "a key of sixteen letters"}),
    "`--enable-offline-docs`": (["--enable-offline-docs"], {}),
    "`--enable-tokenizer-info-endpoint`": (["--enable-tokenizer-info-endpoint"], {}),
}
"""By the text of the column *needs*: flags and variables. vLLM adds the last one's route to a
module-level router, where it stays, so it comes last."""


def build_app(*flags: str, env: dict[str, str] | None = None) -> FastAPI:
    """The app of a server with our plugin, without an engine.

    Args:
        flags: Of `vllm serve`.
        env: Further environment variables.
    """
    from vllm.entrypoints.launchers.app import build_app as build
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from server.settings import settings
    from server.surface import CLI_MODULES, first_module

    make_arg_parser = first_module(CLI_MODULES, "make_arg_parser")
    with patch.dict(os.environ, {"VLLM_PLUGINS": "entrostat", **(env or {})}):
        settings.cache_clear()  # it has the variables of the last app
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(list(flags))
        try:
            app: FastAPI = build(args, ("generate",), None)
        finally:
            settings.cache_clear()
        return app


def routes_page() -> str:
    """The page."""
    from server.routes.table import RouteFacts, route_facts

    needs: dict[RouteFacts, str] = {}
    for text, (flags, env) in _SWITCHES.items():
        for facts in route_facts(build_app(*flags, env=env)):
            needs.setdefault(facts, text)
    return _HEAD + "".join(
        f"| `{one.method} {one.path}` | {_tick(one.needs_key)} | {_tick(one.generates)} "
        f"| {one.controls} | {needs[one]} |\n"
        for one in sorted(needs)
    )


def _tick(value: bool) -> str:
    return "yes" if value else "no"
