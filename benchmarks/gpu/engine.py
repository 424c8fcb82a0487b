"""An engine in a process of its own that measures what its parent asks for.

Reads lines of JSON from its input and answers each by a line that begins with `RESULT`.
`benchmarks.gpu.checks` holds two of them, stock vLLM and ours, and asks them in turns.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.integration.runners.engines import Engine
from tests.integration.runners.traffic import WORDS

if TYPE_CHECKING:
    from server.engine.controller import Controller

NUM_PROMPTS = 30


@contextmanager
def interpreted(clock: Callable[[], float]) -> Iterator[list[float]]:
    """Collect the seconds of every kernel that Triton's interpreter runs: none on a GPU."""
    from triton.runtime import interpreter

    seconds: list[float] = []
    launch = interpreter.GridExecutor.__call__

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = clock()
        try:
            return launch(*args, **kwargs)
        finally:
            seconds.append(clock() - begin)

    interpreter.GridExecutor.__call__ = timed
    try:
        yield seconds
    finally:
        interpreter.GridExecutor.__call__ = launch


class Bench:
    """A started engine and the prompts that it is asked."""

    def __init__(self, llm: Any, controller: "Controller | None" = None) -> None:
        from tests.unit.server.engine.support import ALL_LAWS, MIROSTAT, P_LESS, TOP_N_SIGMA

        self._llm, self._ours, self._controller = llm, controller is not None, controller
        chance, tokenizer = random.Random(3), llm.get_tokenizer()
        texts = [
            " ".join(chance.choice(WORDS) for _ in range(chance.randint(4, 40)))
            for _ in range(NUM_PROMPTS)
        ]
        # Half of them repeat themselves, so that drafts are accepted.
        texts = [text if i % 2 else f"{text[:20]} " * 4 for i, text in enumerate(texts)]
        self._prompts = [{"prompt_token_ids": tokenizer(text)["input_ids"]} for text in texts]
        laws = {"none": None} | {str(law.type): law for law in ALL_LAWS if law is not None}
        truncations = {str(one.type): one for one in (MIROSTAT, P_LESS, TOP_N_SIGMA)}
        self._controls: dict[str, dict[str, Any]] = {
            **{name: {"law": law} for name, law in laws.items()},
            **{name: {"truncation": truncation} for name, truncation in truncations.items()},
            "summary": {"trace": 1},
            "confidence": {"trace": 1, "confidence": True},
        }

    def _params(self, max_tokens: int, name: str | None = None, **options: Any) -> Any:
        """Sampling parameters of a request under one of the controls; None asks for none."""
        from vllm import SamplingParams

        from tests.integration.runners.inprocess import control

        extra = None
        if name is not None and self._ours:
            extra = control(**self._controls[name])
        options = {"temperature": 1.0, "ignore_eos": True, "detokenize": False, **options}
        return SamplingParams(max_tokens=max_tokens, extra_args=extra, **options)

    def speed(self, batch: int, tokens: int, law: str | None, wall: bool) -> tuple[float, float]:
        """Output tokens per second of `batch` requests under a law; None asks for no control.

        Returns:
            Per second by the clock or of CPU time, and per such second outside of Triton's
            interpreter.
        """
        prompts = [self._prompts[i % NUM_PROMPTS] for i in range(batch)]
        clock = time.perf_counter if wall else time.process_time
        with interpreted(clock) as kernels:
            begin = clock()
            self._llm.generate(prompts, self._params(tokens, law), use_tqdm=False)
            seconds = clock() - begin
        return batch * tokens / seconds, batch * tokens / (seconds - sum(kernels))

    def tokens(self, count: int, tokens: int, options: dict[str, Any], beside: bool) -> list[Any]:
        """Tokens of uncontrolled requests, alone or in one batch with as many controlled ones.

        On stock vLLM the others are uncontrolled too: the batches have the same shapes.
        """
        prompts = self._prompts[:count]
        params = [self._params(tokens, **options)] * count
        if beside:
            laws = ["dynatemp", "entropy_target"]
            params += [self._params(tokens, laws[i % 2], seed=i) for i in range(count)]
            prompts = prompts * 2
        answers = self._llm.generate(prompts, params, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers[:count]]

    def tokens_per_step(self, tokens: int, law: str | None, temperature: float) -> float:
        """Tokens that one request gains per step of the engine, on text that repeats itself."""
        engine, steps = self._llm.llm_engine, 0
        params = self._params(tokens, law, temperature=temperature, seed=1)
        engine.add_request(f"{law}-{temperature}", self._prompts[0], params)
        while engine.has_unfinished_requests():
            engine.step()
            steps += 1
        return tokens / steps

    def longest_step(self, batch: int, law: str | None, wall: bool) -> float:
        """Longest step of a batch under a law, in seconds by the clock or of CPU time."""
        return max(self._steps(batch, 4, law, wall))

    def decoding_step(self, batch: int, tokens: int, control: str | None, wall: bool) -> float:
        """Median step in which every request of a batch gets a token, in such seconds."""
        return statistics.median(self._steps(batch, tokens, control, wall)[1:])

    def publish(self) -> None:
        """Send traces from now on, as in a server."""
        from server.engine.publisher import Publisher

        assert self._controller is not None
        self._controller.report_to(Publisher())

    def _steps(self, batch: int, tokens: int, control: str | None, wall: bool) -> list[float]:
        """Seconds of every step of a batch."""
        engine, found = self._llm.llm_engine, []
        clock = time.perf_counter if wall else time.process_time
        for number in range(batch):
            prompt = self._prompts[number % NUM_PROMPTS]
            name = f"{control}-{batch}-{number}-{time.monotonic()}"
            engine.add_request(name, prompt, self._params(tokens, control))
        while engine.has_unfinished_requests():
            begin = clock()
            engine.step()
            found.append(clock() - begin)
        return found


def start(asked: dict[str, Any]) -> Bench:
    """Start vLLM as the parent says: `engine` is an `Engine`, `options` are of `vllm.LLM`."""
    engine = Engine(**asked["engine"])
    if asked["ours"]:
        from tests.integration.runners.inprocess import start as start_ours

        started = start_ours(engine, asked["model"], **asked["options"])
        started.controller.report_to(None)
        return Bench(started.llm, started.controller)
    from vllm import LLM

    return Bench(LLM(asked["model"], **engine.options(), **asked["options"]))


def main() -> None:
    """Answer until the input ends."""
    bench = start(json.loads(sys.argv[1]))
    print("RESULT", json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print("RESULT", json.dumps(getattr(bench, name)(**arguments)), flush=True)


if __name__ == "__main__":
    main()
