"""Finds the run folder of a job and samples the missing rollouts."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console

from training.common.files import write_text
from training.common.progress import progress_bar
from training.common.rollout_store import RolloutStore
from training.common.server_pool import SampleRequest, ServedModel, ServerPool


def run_folder(runs: Path, job: str, served: ServedModel, settings: Mapping[str, Any]) -> Path:
    """The folder of everything made in this way: the same settings find it again.

    Args:
        runs: Folder of runs.
        job: First word of the name.
        served: The model that is sampled.
        settings: What decides which answers are drawn; written beside them.
    """
    text = json.dumps({"model": served.model, **settings}, indent=2)
    digest = sha256(text.encode()).hexdigest()[:8]
    run = runs / f"{job}-{Path(served.model).name}-{digest}"
    run.mkdir(exist_ok=True)
    write_text(run / "settings.json", text + "\n")
    return run


async def sample_missing(
    fleet: ServerPool,
    run: Path,
    asks: Callable[[RolloutStore], Iterator[SampleRequest]],
    console: Console,
    *,
    fresh: bool,
    total: int,
    unit: str,
    done: Callable[[RolloutStore], int],
) -> RolloutStore:
    """Sample the answers that a run folder does not have yet; each is saved as it arrives.

    Args:
        fleet: Connected servers.
        run: The folder; `traces.jsonl` is made in it.
        asks: What is missing, looked at again whenever a place is free.
        console: For the progress bar.
        fresh: Throw away what is there.
        total: How much there will be.
        unit: Of what.
        done: How much there is.

    Returns:
        All of it, closed.

    Raises:
        TrainingError: A request failed for good; what had finished is kept.
    """
    with RolloutStore(run / "traces.jsonl", fresh=fresh) as traces:
        console.print(f"run folder: {run}", highlight=False, soft_wrap=True)
        if traces.rollouts:
            console.print(f"resuming: the run folder already has {done(traces):,} {unit}")
        with progress_bar(console, "sampling", total, unit, done(traces)) as work:
            async with aclosing(fleet.run(asks(traces))) as rollouts:
                async for rollout in rollouts:
                    traces.append(rollout)
                    work.update(done(traces))
        return traces
