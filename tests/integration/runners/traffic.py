"""Random traffic through an engine in one process, every answer checked against transformers.

`python -m tests.integration.runners.traffic ENGINE [--seed S] [--requests N]` draws requests with
random laws, temperatures, n, penalties, probes, steering, logprobs and aborts, sends them at random
steps into five slots with little KV memory and small chunks, and prints one line of JSON: what was
checked, the largest deviations and what was wrong. `--seed random` draws a seed and prints it.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

WORDS = [
    *("the", "fox", "runs", "over", "hill", "and", "dog", "sleeps", "in", "sun", "while"),
    *("one", "two", "three", "four", "five", "six"),
]
TEMPERATURES_BY_CLASS = (0.5, 0.6, 0.7)
NUM_SLOTS = 5


class Request(NamedTuple):
    """One request, what it asks for and when it comes and goes."""

    name: str
    ids: list[int]
    trace: int
    controlled: bool
    law: Any
    truncation: Any
    confident: bool
    temperature: float
    n: int
    max_tokens: int
    penalty: float
    logprobs: int | None
    probe: str | None
    vector: str | None
    strength: float
    everywhere: bool
    arrives: int
    """Step at which it is sent."""
    aborts: int | None
    """Steps after that at which its client leaves."""
    thinking: Any
    """Law of the thinking phase; the law is that of the answer then."""
    marks: tuple[int, int] | None
    """Tokens that start and end the thinking; None has one law for the whole answer."""

    @property
    def starts(self) -> bool:
        """Whether the prompt ends inside the thinking."""
        return self.marks is not None and _phases(self.marks, self.ids)[-1]

    def thinks(self, drawn: list[int]) -> list[bool]:
        """Whether each token of an answer is thinking."""
        return [] if self.marks is None else _phases(self.marks, drawn, self.starts)[:-1]


def _phases(marks: tuple[int, int], tokens: list[int], first: bool = False) -> list[bool]:
    """Whether each token is thinking, and whether one behind them would be."""
    found = [first]
    for token in tokens:
        found.append((found[-1] or token == marks[0]) and token != marks[1])
    return found


def random_requests(
    chance: random.Random,
    number: int,
    tokenizer: Any,
    probes: list[str],
    vectors: list[str],
    *,
    drafts: bool,
) -> list[Request]:
    """Draw requests; half of the prompts repeat themselves, so that drafts are accepted.

    Args:
        chance: Draws.
        number: How many requests.
        tokenizer: Of the model.
        probes: Ids that may be asked for.
        vectors: The same.
        drafts: Whether tokens are drafted: mirostat is refused then.
    """
    from tests.unit.server.engine.support import (
        ALL_LAWS,
        MIROSTAT,
        P_LESS,
        SHUFFLED,
        TOP_N_SIGMA,
    )

    # Common words, so that the phases change often.
    the, comma = (
        tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in (" the", ",")
    )
    phases = random.Random(number)
    cuts = [None, None, TOP_N_SIGMA, P_LESS, *([] if drafts else [MIROSTAT, MIROSTAT])]
    requests = []
    for index in range(number):
        length = chance.choice([3, 8, 20, 90, 150])
        words = [chance.choice(WORDS) for _ in range(length)]
        if chance.random() < 0.5:
            words = (words[:6] * length)[:length]
        temperature = chance.choice([0.0, 0.0, 0.8, 1.0])
        controlled = chance.random() < 0.85
        requests.append(
            Request(
                name=f"r{index}",
                ids=tokenizer(" ".join(words))["input_ids"],
                trace=index + 1,
                controlled=controlled,
                law=chance.choice([*ALL_LAWS, SHUFFLED]),
                truncation=chance.choice(cuts) if controlled else None,
                confident=chance.random() < 0.5,
                temperature=temperature,
                n=chance.choice([1, 1, 1, 2]) if temperature else 1,
                max_tokens=chance.randint(2, 40),
                penalty=chance.choice([1.0, 1.0, 1.3]),
                logprobs=chance.choice([None, 0]),
                probe=chance.choice([None, *probes]) if controlled else None,
                vector=chance.choice([None, None, *vectors]) if controlled else None,
                strength=chance.choice([0.3, -0.2]),
                everywhere=chance.random() < 0.5,
                arrives=chance.randint(0, number * 2),
                aborts=chance.choice([None] * 7 + [chance.randint(1, 12)]),
                thinking=phases.choice(ALL_LAWS),
                marks=phases.choice([None, (the, comma), (comma, the)]) if controlled else None,
            )
        )
    return requests


class Traffic(NamedTuple):
    """What came back, and what happened on the way."""

    answers: dict[str, Any]
    """vLLM's last output by request; None where the client left."""
    steps: int
    num_preempted: int
    num_drafts: int


def drive(started: Any, requests: list[Request], artifacts: Any) -> tuple[Traffic, dict[str, Any]]:
    """Send the requests, step by step. Returns the traffic and the steering plans by request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from server.planning.steering import plan_steering
    from server.wire.request import Steer
    from server.worker.message import difficulty_control
    from tests.integration.runners.inprocess import control
    from tests.unit.server.engine.support import while_thinking

    engine, plans = started.llm.llm_engine, dict[str, Any]()

    def send(one: Request) -> None:
        prompt: Any = {"prompt_token_ids": one.ids}
        extra = None
        if one.controlled:
            plan = None
            if one.vector:
                steer = Steer(
                    vector=one.vector,
                    strength_relative=one.strength,
                    positions="all" if one.everywhere else "answer",
                )
                plan = plans[one.name] = plan_steering([steer], artifacts)
                prompt = plan.add_cache_salt(prompt, "secret")
            reads = one.probe and difficulty_control(
                probe=one.probe, trace=one.trace, temperatures=TEMPERATURES_BY_CLASS
            )
            extra = control(
                one.law,
                trace=one.trace,
                choices=one.n,
                difficulty=reads or None,
                steering=plan and plan.control,
                truncation=one.truncation,
                seed=one.trace,
                confidence=one.confident,
                phases=one.marks
                and while_thinking(one.thinking, one.marks, thinking=one.starts, call=one.trace),
            )
        sampling = SamplingParams(
            n=one.n,
            temperature=one.temperature,
            seed=one.trace,
            max_tokens=one.max_tokens,
            ignore_eos=True,
            repetition_penalty=one.penalty,
            logprobs=one.logprobs,
            extra_args=extra,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(one.name, prompt, sampling)

    counts = {"preempted": 0, "drafts": 0}
    execute = started.runner.execute_model

    def watch(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        counts["preempted"] += len(scheduled.preempted_req_ids or ())
        counts["drafts"] += sum(map(len, scheduled.scheduled_spec_decode_tokens.values()))
        return execute(scheduled, *args, **kwargs)

    started.runner.execute_model = watch
    waiting, arrived, answers, step = list(requests), dict[str, int](), dict[str, Any](), 0
    while waiting or engine.has_unfinished_requests():
        for one in list(waiting):
            if one.arrives <= step or not engine.has_unfinished_requests():
                send(one)
                arrived[one.name] = step
                waiting.remove(one)
        for one in requests:
            leaves = one.aborts is not None and arrived.get(one.name) == step - one.aborts
            if leaves and one.name not in answers:
                engine.abort_request([one.name])
                answers[one.name] = None
        for output in engine.step():
            if output.finished:
                answers.setdefault(output.request_id, output)
        step += 1
        assert step < 3000, "the engine makes no progress"
    return Traffic(answers, step, counts["preempted"], counts["drafts"]), plans


def main() -> None:
    """Run one engine and print its line."""
    from tests.integration.runners.engines import ENGINES, GPU_ENGINES

    engines = ENGINES | GPU_ENGINES
    parser = argparse.ArgumentParser(prog="python -m tests.integration.runners.traffic")
    parser.add_argument("engine", choices=engines)
    parser.add_argument("--seed", default="0", help="a number, or `random`")
    parser.add_argument("--requests", type=int, default=14)
    parser.add_argument("--model", default=None, help="a checkpoint; else the default model")
    asked = parser.parse_args()
    engine = engines[asked.engine]
    environment = engine.environment()
    if os.environ.get("PYTHONPATH") != environment["PYTHONPATH"]:  # the hook has to come first
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], environment)
    seed = random.randrange(2**32) if asked.seed == "random" else int(asked.seed)

    from server.artifacts import load_artifacts
    from server.commands.default_model import default_model
    from server.settings import settings
    from tests.integration.runners.checks import check
    from tests.integration.runners.inprocess import start

    began, checkpoint = time.monotonic(), Path(asked.model or default_model(settings().cache))
    started = start(
        engine,
        str(checkpoint),
        max_num_seqs=NUM_SLOTS,
        max_model_len=256,
        max_num_batched_tokens=64,
        kv_cache_memory_bytes=13 << 20,
    )
    artifacts = load_artifacts(started.runner.model_config, any_template=True)
    heads, vectors = artifacts.heads(), list(artifacts.steering_vectors())
    requests = random_requests(
        random.Random(seed),
        asked.requests,
        started.llm.get_tokenizer(),
        list(heads),
        vectors,
        drafts=engine.num_drafts > 0,
    )
    traffic, plans = drive(started, requests, artifacts)
    verdict = check(started, requests, traffic, plans, artifacts, checkpoint)
    line = {
        "engine": asked.engine,
        "seed": seed,
        "requests": len(requests),
        "steps": traffic.steps,
        "preempted": traffic.num_preempted,
        "aborted": sum(answer is None for answer in traffic.answers.values()),
        "drafts": traffic.num_drafts,
        "steered": sum(request.vector is not None for request in requests),
        "failures": started.controller.failures,
        "seconds": round(time.monotonic() - began),
        **verdict,
    }
    print("TRAFFIC", json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
