"""What `keep_finite`, the guard of keys and values, costs a steered step.

    python -m benchmarks.steering.guard --rounds 12

One engine in this process, eager, with the shipped vector. Every round generates with the guard's
hooks and without them, in random order. Prints a table of time ratios.
"""

import argparse
import os
import random
import time
from typing import Any

import numpy as np

TOKENS = 24


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steering.guard")
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    engine, guarded = _engine()
    print("| requests | step with the guard over without, median (middle half) | ms per step |")
    print("|---|---|---|")
    for batch in (1, 16):
        ratios, steps = _ratios(engine, guarded, batch, rounds)
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(f"| {batch} | {middle:.3f} ({low:.3f} to {high:.3f}) | {np.median(steps):.1f} |")


def _engine() -> tuple[Any, list[Any]]:
    """The default model with its shipped vector, and the attention modules with a guard."""
    from vllm import LLM

    from server.commands.default_model import default_model
    from server.engine.steering_hooks import keep_finite
    from server.settings import settings

    engine = LLM(
        str(default_model(settings().cache)),
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=16,
        kv_cache_memory_bytes=256 << 20,
        distributed_executor_backend="uni",
        logits_processors=["server.engine.runner_v1:EntropyProcessorV1"],
        additional_config={"entrostat": {}},
    )
    (guarded,) = engine.apply_model(
        lambda model: [
            one for one in model.modules() if keep_finite in one._forward_pre_hooks.values()
        ]
    )
    print(f"{len(guarded)} guarded attention modules")
    return engine, guarded


def _ratios(
    engine: Any, guarded: list[Any], batch: int, rounds: int
) -> tuple[list[float], list[float]]:
    hooks = [dict(one._forward_pre_hooks) for one in guarded]
    ratios, steps = list[float](), list[float]()
    for _ in range(rounds + 1):
        took: dict[bool, float] = {}
        for on in random.sample((True, False), 2):
            for one, own in zip(guarded, hooks, strict=True):
                one._forward_pre_hooks.clear()
                if on:
                    one._forward_pre_hooks.update(own)
            took[on] = _time(engine, batch)
        ratios.append(took[True] / took[False])
        steps.append(took[False] / TOKENS * 1e3)
    return ratios[1:], steps[1:]  # the first round warms up


def _time(engine: Any, batch: int) -> float:
    from vllm import SamplingParams

    from probes.laws import NO_LAW, NO_ROW
    from server.worker.message import engine_control, steering_control

    steering = steering_control(
        key="one", add=[("smollm2-135m/explore", 23, 0.1)], clamp=[], everywhere=True
    )
    control = engine_control(
        law=NO_LAW, parameters=NO_ROW, trace=0, address="", choices=1, steering=steering
    )
    params = SamplingParams(
        max_tokens=TOKENS, ignore_eos=True, seed=1, extra_args={"entropy": control}
    )
    prompts = [f"{number} ships on the sea" for number in range(batch)]
    start = time.perf_counter()
    engine.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
