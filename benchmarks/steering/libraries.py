"""Steering by other libraries: `python -m benchmarks.steering.libraries CHECKPOINT LAYER...`.

Started by `benchmarks.steering`; prints what it measured as JSON. `repeng` and `steering-vectors`
are measured where they are installed.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.arms import PROMPTS
from benchmarks.steering.vectors import random_vectors

MAX_TOKENS, STRENGTH, ROUNDS = 64, 0.1, 3
Vectors = dict[int, Tensor]


class Timing(NamedTuple):
    """What one library does."""

    library: str
    distinct: bool
    """Whether every request has a vector of its own."""
    tokens_per_second: float | None
    """None if the library is not there."""
    remark: str


class Generator:
    """transformers' own loop over a batch of prompts."""

    def __init__(self, checkpoint: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto").eval()

    def run(self, prompts: tuple[str, ...], tokens: int = MAX_TOKENS) -> None:
        """Answer all of them at once, with so many tokens each."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        inputs = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            answer = self.model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        assert answer.shape == (len(prompts), inputs["input_ids"].shape[1] + tokens)


Steered = Callable[[Generator, list[Vectors]], Any]
"""A context in which a batch is steered: one vector for all of it, or one for each."""


@contextmanager
def by_hook(generator: Generator, vectors: list[Vectors]) -> Iterator[None]:
    handles = []
    for layer in vectors[0]:
        rows = torch.stack([one[layer] for one in vectors]).to(generator.model.dtype) * STRENGTH

        def add(_: Any, __: Any, output: Any, rows: Tensor = rows) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            stream[:, -1] += rows

        handles.append(generator.model.model.layers[layer].register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def by_repeng(generator: Generator, vectors: list[Vectors]) -> Iterator[None]:
    np.float_ = np.float64  # type: ignore[attr-defined]  # NumPy 1's name, which repeng 0.4 uses
    from repeng import ControlModel, ControlVector

    directions = {layer: vector.numpy() for layer, vector in vectors[0].items()}
    model = ControlModel(generator.model, list(directions))
    model.set_control(ControlVector(model_type="llama", directions=directions), STRENGTH)
    try:
        yield
    finally:
        model.unwrap()


@contextmanager
def by_steering_vectors(generator: Generator, vectors: list[Vectors]) -> Iterator[None]:
    from steering_vectors import SteeringVector

    tensors = {k: v.to(generator.model.dtype) for k, v in vectors[0].items()}
    with SteeringVector(layer_activations=tensors).apply(generator.model, multiplier=STRENGTH):
        yield


def speed(generator: Generator, steered: Steered, jobs: list[tuple[Any, list[Vectors]]]) -> float:
    """Median tokens per second over rounds of these batches, one after another."""
    with steered(generator, jobs[0][1]):
        generator.run(jobs[0][0], 4)
    seconds = []
    for _ in range(ROUNDS):
        answer_prefix = time.perf_counter()
        for prompts, vectors in jobs:
            with steered(generator, vectors):
                generator.run(prompts)
        seconds.append(time.perf_counter() - answer_prefix)
    total = sum(len(prompts) for prompts, _ in jobs) * MAX_TOKENS
    return total / sorted(seconds)[ROUNDS // 2]


def main(checkpoint: str, layers: list[int]) -> list[Timing]:
    """Measure every library that is there."""
    generator, rows = Generator(checkpoint), list[Timing]()
    size = generator.model.config.hidden_size
    vectors = [random_vectors(size, layers, number) for number in range(len(PROMPTS))]
    together = [(PROMPTS, vectors[:1])]
    each = [((prompt,), [vector]) for prompt, vector in zip(PROMPTS, vectors, strict=True)]
    hook = "transformers and a hook"
    rows.append(Timing(hook, False, speed(generator, by_hook, together), "in one batch"))
    rows.append(Timing(hook, True, speed(generator, by_hook, [(PROMPTS, vectors)]), "in one batch"))
    libraries: dict[str, Steered] = {"repeng": by_repeng, "steering-vectors": by_steering_vectors}
    for name, steered in libraries.items():
        try:
            rows.append(Timing(name, False, speed(generator, steered, together), "in one batch"))
        except ImportError as error:
            rows.append(Timing(name, False, None, f"not measured: {error}"))
            continue
        rows.append(Timing(name, True, speed(generator, steered, each), "one after another"))
    return rows


if __name__ == "__main__":
    print(json.dumps(main(str(Path(sys.argv[1])), [int(one) for one in sys.argv[2:]])))
