"""What each objective adds to a step of training: `python -m benchmarks.policy.overhead`.

Every arm does the same step on the same weights with the same random numbers: a rollout, its
scoring, the forward and backward passes of all micro-batches; no optimizer, so nothing moves. A
round visits every arm once in random order. Counted is the processor time of one thread, which a
busy machine disturbs less than the clock; an arm's figure is its median over stock TRL's in the
same rounds. The memory is the peak of the process during the step, above what it held before.
Every round is saved as it ends; re-running the same command resumes the run.
"""

import gc
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from datasets import Dataset
from pydantic import TypeAdapter
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import machine
from training.objectives.catalog import ObjectiveConfig, ObjectiveList
from training.objectives.registry import OBJECTIVES
from training.policy.config import PolicyConfig, load_config
from training.policy.grading import ProblemGrader
from training.policy.job import trl_config
from training.policy.preparation import checkpoint_of, conversation, split_problems
from training.policy.trainer import EntropyGRPOTrainer
from training.policy.trl_import import GRPOTrainer

_OBJECTIVES: TypeAdapter[tuple[ObjectiveConfig, ...]] = TypeAdapter(ObjectiveList)
STOCK = "stock TRL"
REUSED = ", reused"
"""Ends the names of arms whose rollout serves two optimizer steps."""
NEEDS_REUSE = ("kl_cov", "soft_clip_high_entropy")
SCORING = ("canon", "empg", "pear", "ares", "lp_reg", "dcpo")
"""Those that need to know the policy that sampled: a scoring pass, which TRL makes in reuse."""
ARMS = (
    STOCK,
    *(name for name in OBJECTIVES if name not in (*NEEDS_REUSE, "info_gain")),
    f"{STOCK}{REUSED}",
    *(f"{name}{REUSED}" for name in (*NEEDS_REUSE, *SCORING)),
)
RESULT = Path("benchmarks/results/policy-overhead")


class Cost(NamedTuple):
    """Of one step."""

    seconds: float
    mebibytes: float


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    model: Annotated[str | None, typer.Option(help="Checkpoint; else the default model.")] = None,
    out: Annotated[Path, typer.Option(help="Without its ending.")] = RESULT,
) -> None:
    """Measure all arms and write a page."""
    torch.set_num_threads(1)
    console, facts = Console(), machine.describe("benchmarks.policy.overhead")
    facts["versions"].update(_versions())
    facts["model"] = model
    configs = {name: _config(model, name) for name in ARMS}
    trainers = _trainers(configs)
    costs = _measured(out.with_suffix(".json"), facts)
    for name in (STOCK, f"{STOCK}{REUSED}"):  # warms up
        _step(*trainers[name])
    for number in range(len(costs[STOCK]), rounds):
        # Of a round that is cut off, nothing is kept.
        order = random.Random(number).sample(ARMS, len(ARMS))
        found = {name: _step(*trainers[name]) for name in order}
        costs = {name: [*costs[name], found[name]] for name in ARMS}
        rows = {name: _row(name, costs) for name in ARMS}
        staging = out.with_suffix(".tmp")
        staging.write_text(
            json.dumps({"machine": facts, "rows": rows, "samples": costs}, indent=1) + "\n"
        )
        staging.replace(out.with_suffix(".json"))
        out.with_suffix(".md").write_text(_page(facts, rows, configs[STOCK], number + 1))
        console.print(f"round {number + 1} of {rounds}, in {out}.md", highlight=False)


def _measured(path: Path, facts: dict[str, Any]) -> dict[str, list[Cost]]:
    """What earlier rounds on this machine and these versions left; nothing if others did."""
    nothing: dict[str, list[Cost]] = {name: [] for name in ARMS}
    if not path.is_file():
        return nothing
    before = json.loads(path.read_text())
    same = all(before["machine"].get(key) == facts[key] for key in ("cpu", "versions", "model"))
    if not same or before["samples"].keys() != nothing.keys():
        return nothing
    return {name: [Cost(*cost) for cost in rows] for name, rows in before["samples"].items()}


def _config(model: str | None, arm: str) -> PolicyConfig:
    own = [] if model is None else [f"model={model}"]
    if arm.endswith(REUSED):
        own.append("rollout.num_minibatches=2")
    small = ["rollout.prompts_per_step=2", "rollout.num_generations=4", "optimizer.micro_batch=4"]
    return load_config("plain", [*own, *small, f"run={tempfile.gettempdir()}/overhead"])


def _trainers(configs: dict[str, PolicyConfig]) -> dict[str, tuple[Any, list[dict[str, Any]]]]:
    """A trainer and its batch for every arm, all on one model."""
    first = configs[STOCK]
    checkpoint = checkpoint_of(first)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    problems = split_problems(first).train[: first.rollout.prompts_per_step]
    grader = ProblemGrader(problems)
    rows = [
        {"prompt": conversation(problem, first), "problem": index}
        for index, problem in enumerate(problems)
    ]
    batch = [row for row in rows for _ in range(first.rollout.num_generations)]
    made = {}
    for name, config in configs.items():
        own: dict[str, Any] = {}
        if not name.startswith(STOCK):
            objectives = _OBJECTIVES.validate_python([name.removesuffix(REUSED)])
            own = {"objectives": objectives, "grader": grader.is_right}
        kind = EntropyGRPOTrainer if own else GRPOTrainer
        trainer = kind(
            model,
            grader.accuracy_reward,
            trl_config(config),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **own,
        )
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        made[name] = trainer, batch
    return made


def _step(trainer: Any, batch: list[dict[str, Any]]) -> Cost:
    """A rollout and all its micro-batches, forward and backward."""
    trainer.model.zero_grad(set_to_none=True)
    trainer._step, trainer._buffered_inputs = 0, None
    gc.collect()
    torch.manual_seed(0)
    before = _reset_peak()
    begin = time.process_time()
    trainer.model.train()
    for _ in range(trainer.args.steps_per_generation):
        trainer.training_step(trainer.model, batch, None)
    seconds = time.process_time() - begin
    return Cost(seconds, _status("VmHWM") - before)


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    """A figure of this process, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel does not say {field}")


def _row(name: str, costs: dict[str, list[Cost]]) -> dict[str, float]:
    base = costs[f"{STOCK}{REUSED}" if name.endswith(REUSED) else STOCK]
    ratios = [own.seconds / stock.seconds for own, stock in zip(costs[name], base, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "seconds": statistics.median(cost.seconds for cost in costs[name]),
        "ratio": statistics.median(ratios),
        "ratio_low": quartiles[0],
        "ratio_high": quartiles[2],
        "mebibytes": statistics.median(cost.mebibytes for cost in costs[name]),
    }


def _page(
    facts: dict[str, Any], rows: dict[str, dict[str, float]], config: PolicyConfig, rounds: int
) -> str:
    table = "\n".join(
        f"| {name} | {row['seconds']:.2f} | {row['ratio'] - 1:+.1%} | "
        f"{row['ratio_low'] - 1:+.1%} to {row['ratio_high'] - 1:+.1%} | {row['mebibytes']:.0f} |"
        for name, row in rows.items()
    )
    lines = "\n".join(machine.markdown(facts))
    return f"""# What objectives add to a step of training

{lines}

A step is a rollout of {config.sequences} completions of at most {config.rollout.max_tokens} tokens,
its scoring, and forward and backward of two micro-batches, without the optimizer. {rounds} rounds,
each visits all arms in random order. Time is processor time of one thread. "reused": the rollout
serves two optimizer steps, which costs stock TRL a scoring pass too; those arms are compared with
it.

| arm | s per step | over stock TRL, median | quartiles | peak memory above rest, MiB |
|---|---|---|---|---|
{table}

{_named(SCORING)} need to know the policy that sampled: one scoring pass more, none in reuse, where
TRL makes one anyway. `lp_reg` and `dcpo` make that pass with full logits, reuse or not; `siren`
keeps the logits of every training forward. `aepo` draws a second, smaller rollout.
"""


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _versions() -> dict[str, str]:
    from probes.artifact import package_versions

    return package_versions("trl", "transformers")


if __name__ == "__main__":
    typer.run(main)
