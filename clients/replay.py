"""`entrostat replay`: runs the requests of a decision log again and says which answers differ."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import openai
import typer

from clients.connection import DEFAULT_URL, ClientError, connect, explained
from clients.decision_log import (
    LoggedDecision,
    UnreadableLine,
    causes,
    difference,
    fingerprints,
    read_log,
    unknown_cause,
)
from clients.render import printable


class _Server(NamedTuple):
    client: openai.OpenAI
    facts: dict[str, Any]
    artifacts: dict[str, str | None]


def replay(
    file: Annotated[Path, typer.Argument(help="Decision log, written with `--log-prompts`.")],
    url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="Base URL of the server, with its /v1.")
    ] = DEFAULT_URL,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first lines; default: all.")
    ] = None,
    id: Annotated[
        list[str] | None, typer.Option(help="Only the line with this id; may be repeated.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Largest difference of measurements that are equal."),
    ] = 1e-3,
) -> None:
    """Run the requests of a decision log again and say which answers differ, and why.

    Compares decisions, reports and, where the API returns them, the tokens. A difference is
    attributed to what changed since: an artifact, the weights, a version, chance without a seed;
    else to the shape of the batch. Exit code 0: all are equal; 1: some differ or could not be
    repeated; 2: there is no such log or no server.

    For example:

        entrostat serve --decision-log decisions.jsonl --log-prompts

        entrostat replay decisions.jsonl
    """
    try:
        lines = _chosen(file, limit, set(id or ()))
        with connect(url) as client:
            server = _server(client)
            verdicts = Counter(_replay(line, server, tolerance) for line in lines)
    except (ClientError, OSError) as error:
        print(f"entrostat replay: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(", ".join(f"{verdicts[name]} {name}" for name in ("equal", "different", "not replayed")))
    if verdicts.total() > verdicts["equal"]:
        raise SystemExit(1)


def _chosen(file: Path, limit: int | None, ids: set[str]) -> list[LoggedDecision | UnreadableLine]:
    """The lines to replay.

    Raises:
        OSError: The file cannot be read.
        ClientError: There are none.
    """
    lines = list(read_log(file))
    if not any(isinstance(one, LoggedDecision) for one in lines):
        raise ClientError(f"{file}: no decisions in it")
    if ids:
        lines = [one for one in lines if isinstance(one, LoggedDecision) and one.id in ids]
        if missing := ids - {one.id for one in lines if isinstance(one, LoggedDecision)}:
            raise ClientError(f"{file}: no line with the id {sorted(missing)[0]}")
    return lines[:limit]


def _server(client: openai.OpenAI) -> _Server:
    with explained(client):
        facts = client.get("/entropy/server", cast_to=httpx.Response).json()
        cards = client.get("/entropy/artifacts", cast_to=httpx.Response).json()
    return _Server(client, facts, fingerprints(cards["data"]))


def _replay(line: LoggedDecision | UnreadableLine, server: _Server, tolerance: float) -> str:
    """Replay one line, print what differs, and return the verdict."""
    if isinstance(line, UnreadableLine):
        return _say(f"line {line.number}", "not replayed", line.reason)
    name = f"{line.kind} {line.id}"
    if line.body is None:
        return _say(name, "not replayed", "its body was not logged: serve with --log-prompts")
    if not line.is_finished:
        return _say(name, "not replayed", "its answer did not reach the end")
    if "state" in line.body and line.route == "/v1/systemone":
        return _say(name, "not replayed", "answers in vLLM's schema are not compared")
    found = _new_difference(line, server.client, tolerance)
    if found is None:
        return "equal"
    reasons = causes(line, server.facts, server.artifacts) or [unknown_cause(line)]
    return _say(name, "different", f"{found}; cause: {'; '.join(reasons)}")


def _new_difference(line: LoggedDecision, client: openai.OpenAI, tolerance: float) -> str | None:
    """What differs in the answer of the server; None if nothing does."""
    with explained(client):
        try:
            response = client.post(
                line.route.removeprefix("/v1"), body=line.request(), cast_to=httpx.Response
            )
        except openai.APIStatusError as error:
            if error.status_code == line.status:
                return None
            return f"status {line.status}, now {error.status_code}: {error.message}"
    if line.status != response.status_code:
        return f"status {line.status}, now {response.status_code}"
    return difference(line, response.json(), tolerance)


def _say(name: str, verdict: str, text: str) -> str:
    print(printable(f"{name}: {verdict}: {' '.join(text.split())[:600]}"))
    return verdict
