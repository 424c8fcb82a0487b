"""Reads the rows through a server, each on disk as it comes."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from rich.console import Console

from probes.decisions.scores import OptionLogprobs
from training.common.errors import TrainingError
from training.common.files import read_json_lines
from training.common.progress import progress_bar
from training.decisions.rows import LabeledRow


async def read_rows(
    urls: Sequence[str],
    model: str,
    rows: Sequence[LabeledRow],
    control: dict[str, Any],
    file: Path,
    concurrency: int,
    console: Console,
) -> list[OptionLogprobs]:
    """Log-probabilities of every row's options.

    Args:
        urls: Addresses of servers.
        model: Name under which they serve it.
        rows: The rows.
        control: The field `entropy` of each request.
        file: What was read before; appended to.
        concurrency: Requests under way at once.
        console: For the progress bar.

    Raises:
        TrainingError: A server does not answer, or refuses a row.
    """
    known = _kept(file)
    key = os.environ.get("OPENAI_API_KEY") or "none"
    bases = [f"{url.rstrip('/').removesuffix('/v1')}/v1" for url in urls]
    clients = [
        openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=5, timeout=600) for base in bases
    ]
    free = asyncio.Semaphore(concurrency)

    async def read(number: int) -> None:
        row = rows[number]
        async with free:
            answer = await clients[number % len(clients)].decisions.create(
                model=model,
                input=row.input,
                questions=[row.asked],  # type: ignore[list-item]
                extra_body={"entropy": control},
            )
        reads = (answer.answers[0].model_extra or {}).get("entropy", {}).get("reads")
        if reads is None:
            raise TrainingError(f"row {number}: the server could not read it: its logits are NaN")
        known[number] = OptionLogprobs(**reads)
        with file.open("a") as out:
            out.write(json.dumps({"row": number, **reads}) + "\n")
        work.advance(1)

    missing = [number for number in range(len(rows)) if number not in known]
    with progress_bar(console, "reading rows", len(rows), "rows", len(known)) as work:
        try:
            async with asyncio.TaskGroup() as group:
                for number in missing:
                    group.create_task(read(number))
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            if isinstance(first, openai.APIError):
                raise TrainingError(f"reading rows failed: {first.message}") from first
            raise first from None
        finally:
            for client in clients:
                await client.close()
    return [known[number] for number in range(len(rows))]


def _kept(file: Path) -> dict[int, OptionLogprobs]:
    if not file.is_file():
        return {}
    return {record.pop("row"): OptionLogprobs(**record) for _, record in read_json_lines(file)}
