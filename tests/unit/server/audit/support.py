"""Lines and logs of the tests."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.audit.lines import ChoiceLine, DecisionLine, UsageLine
from server.wire.cards import ServerFacts

FACTS = ServerFacts(
    entrostat="0",
    vllm="0",
    torch="0",
    model="m",
    dtype="float32",
    config_hash="c",
    weights_hash="w",
    tokenizer_hash="t",
    chat_template_hash="j",
    weight_updates=0,
)


def line(name: str, **report: Any) -> DecisionLine:
    """A line with one choice."""
    return DecisionLine(
        time=datetime.now(UTC),
        server=FACTS,
        kind="completion",
        id=name,
        route="/v1/completions",
        seconds=0.0,
        model="m",
        control={},
        plan={},
        parameters={},
        artifacts={},
        usage=UsageLine(),
        in_flight=0,
        choices=[ChoiceLine(index=0, report=report)],
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, as strict JSON."""
    return [json.loads(one, parse_constant=_refuse) for one in path.read_text().splitlines()]
