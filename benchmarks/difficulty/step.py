"""What a difficulty probe adds to a step of the engine: `python -m benchmarks.difficulty.step`.

The engine runs inside this process, so that steps can be timed without HTTP around them. Requests
of every arm are traced in the same way; only the probe differs.
"""

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
import zmq
from rich.console import Console
from rich.progress import track

from benchmarks import machine
from benchmarks.arms import PROMPTS
from benchmarks.difficulty.cost import PLAIN, save_probes
from probes.laws import NO_LAW, NO_ROW
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings
from server.worker.message import KEY, difficulty_control, engine_control

TOKENS = 32
_END = 2
"""The default model's end token, which only a budget's end may draw."""
_METHOD = """\
The engine inside one process, eager, {batch} requests at once, {tokens} tokens each: the step that
reads the prompts and {tokens} that draw. Every arm is traced token by token; the arm `probe` also
classifies each question, takes its temperature from the class, and ends at the class's budget.
Arms in random order within every round, {rounds} rounds. Ratios are medians over rounds of the
time of all steps over that of `no probe` in the same round; intervals are bootstraps over rounds.
The second `no probe` is the control: what its ratio shows is noise."""
_ARMS = ("no probe", "no probe, again", "probe")


class Lap(NamedTuple):
    """What one batch took, in seconds."""

    steps: float
    """All its steps."""
    inside: float
    """Of these, in the code of the probe."""
    number: int
    """How many steps."""


def main(
    rounds: Annotated[int, typer.Option(help="Batches of each arm.")] = 12,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure and write difficulty-step.md."""
    facts = machine.describe("benchmarks.difficulty.step")
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    with tempfile.TemporaryDirectory() as folder:
        save_probes(Path(folder))
        os.environ["ENTROSTAT_ARTIFACTS"] = folder
        laps = _measure(rounds, f"ipc://{folder}/traces")
    lines = ["# What a difficulty probe adds to a step", "", *machine.markdown(facts)]
    lines += [f"- model: {DEFAULT_MODEL}", ""]
    lines += [_METHOD.format(batch=len(PROMPTS), tokens=TOKENS, rounds=rounds), ""]
    lines += table(laps)
    Console().print("\n".join(lines), markup=False, highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    (output / "difficulty-step.md").write_text("\n".join(lines) + "\n")


def _measure(rounds: int, address: str) -> dict[str, list[Lap]]:
    from vllm import LLM

    _drain(address)
    llm = LLM(
        str(default_model(settings().cache)),
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=len(PROMPTS),
        kv_cache_memory_bytes=512 << 20,
        distributed_executor_backend="uni",
        logits_processors=["server.engine.runner_v1:EntropyProcessorV1"],
        additional_config={"entrostat": {}},
    )
    engine: Any = llm.llm_engine
    worker = engine.model_executor.driver_worker.worker
    watch = _Stopwatch(worker.entrostat_processor.controller.difficulty)
    laps: dict[str, list[Lap]] = {arm: [] for arm in _ARMS}
    chance = random.Random(0)
    for lap in track(range(-1, rounds), "steps", transient=True):
        for arm in chance.sample(_ARMS, len(_ARMS)):
            took = _batch(llm, watch, arm == "probe", address)
            if lap >= 0:  # the first ones warm up
                laps[arm].append(took)
    return laps


def _drain(address: str) -> None:
    """Receive traces, as an API server does."""

    def receive() -> None:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        socket.bind(address)
        while True:
            socket.recv()

    threading.Thread(target=receive, daemon=True).start()


class _Stopwatch:
    """Seconds spent in the methods of the probe that a step calls."""

    def __init__(self, control: Any) -> None:
        self.seconds = 0.0
        for name in ("read_prompts", "base", "may_end", "limit"):
            setattr(control, name, self._timed(getattr(control, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args)
            finally:
                self.seconds += time.perf_counter() - begin

        return timed


def _batch(llm: Any, watch: _Stopwatch, probed: bool, address: str) -> Lap:
    from vllm import SamplingParams

    engine = llm.llm_engine
    for number, question in enumerate(PROMPTS):
        difficulty = difficulty_control(
            probe=PLAIN,
            trace=number + 1,
            temperatures=(0.5, 0.8, 0.4),
            budgets=(TOKENS,) * 3,
            stop=_END,
        )
        control = engine_control(
            law=NO_LAW,
            parameters=NO_ROW,
            trace=number + 1,
            address=address,
            choices=1,
            difficulty=difficulty if probed else None,
        )
        params = SamplingParams(
            max_tokens=TOKENS,
            seed=number,
            logit_bias={_END: -100.0},
            extra_args={KEY: control},
        )
        chat = [{"role": "user", "content": question}]
        tokens = llm.get_tokenizer().apply_chat_template(
            chat, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        engine.add_request(str(number), {"prompt_token_ids": tokens}, params)
    watch.seconds, steps, number, produced = 0.0, 0.0, 0, 0
    while engine.has_unfinished_requests():
        begin = time.perf_counter()
        outputs = engine.step()
        steps += time.perf_counter() - begin
        number += 1
        produced += sum(len(one.outputs[0].token_ids) for one in outputs if one.finished)
    assert produced == len(PROMPTS) * TOKENS, produced
    assert (watch.seconds > 0) == probed
    return Lap(steps, watch.seconds, number)


def table(laps: dict[str, list[Lap]]) -> list[str]:
    """Rows of Markdown."""
    base = np.array([lap.steps for lap in laps[_ARMS[0]]])
    lines = [
        "| arm | step, ms | ratio to no probe | 95 % interval | in the probe's code, ms a step "
        "| share of the step |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for arm, mine in laps.items():
        ratios = np.array([lap.steps for lap in mine]) / base
        draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
        step = np.median([lap.steps / lap.number for lap in mine]) * 1e3
        cells = ["", ""]
        if arm != _ARMS[0]:
            cells = [f"{np.median(ratios):.4f}", f"{low:.4f} to {high:.4f}"]
        inside = np.median([lap.inside / lap.number for lap in mine]) * 1e3
        share = np.median([lap.inside / lap.steps for lap in mine])
        cells += [f"{inside:.3f}", f"{share:.2%}"] if inside else ["", ""]
        lines.append(f"| {arm} | {step:.2f} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
