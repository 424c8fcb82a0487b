"""The configuration of `train-policy`, validated before torch is imported."""

import json
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from probes.graders import GraderName
from probes.laws import TemperatureLaw
from probes.strict import StrictModel
from training.common.errors import TrainingError
from training.objectives.catalog import ObjectiveList, refuse_experimental
from training.objectives.configs import PlainConfig
from training.objectives.core.controller import ControllerConfig
from training.policy.rollouts.settings import BranchConfig, ServedConfig
from training.policy.validation import LossType, TrlSettings, refuse_settings

_RENAMED = {"optimiser": "optimizer"}
"""Maps old section names to new ones."""


class TaskConfig(StrictModel):
    """Problems with known answers, split into a training set and a held-out set."""

    tasks: tuple[str, ...] = Field(("drill",), min_length=1)
    """Built-in names, JSONL files with `prompt` and `answer`, or ids of data sets on the hub."""
    grader: GraderName | None = None
    """Grader for JSONL files whose lines have no `grader`."""
    num_problems: int = Field(400, ge=8, le=1_000_000)
    """Number of problems over all tasks, including the held-out ones. For a data set of the hub,
    held-out problems come from its test split and the others from its training split."""
    held_out: int = Field(48, ge=4)
    """Number of held-out problems, on which pass@k is measured before and after training."""
    instruction: str = ""
    """Text appended to every question."""
    system: str | None = None
    """System message; None uses the default of the chat template."""

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        if self.held_out >= self.num_problems:
            raise ValueError(
                f"held_out = {self.held_out} must be below num_problems = {self.num_problems}: no "
                "problems are left to train on"
            )
        return self


class RolloutConfig(StrictModel):
    """How completions are sampled."""

    backend: Literal["transformers", "entrostat", "vllm-colocate", "vllm-server"] = "transformers"
    """Source of completions: this process, a running `entrostat serve`, or a vLLM mode of TRL."""
    server: str = "http://127.0.0.1:8000"
    """Server address for `entrostat` and `vllm-server`."""
    controls: dict[str, Any] = Field(default_factory=dict)
    """The field `entropy` of every request to `entrostat serve`; importance weights correct for
    it."""
    prompts_per_step: int = Field(4, ge=1)
    """Prompts of one rollout, over all processes."""
    num_generations: int = Field(8, ge=2)
    """Completions per prompt; advantages compare the completions of this group."""
    max_tokens: int = Field(20, ge=1)
    """Largest number of tokens of a completion."""
    temperature: float = Field(1.0, gt=0.0, le=2.0)
    """Temperature of the rollouts and of the trained policy."""
    law: TemperatureLaw | None = None
    """Law that sets the temperature of each token; importance weights correct for it."""
    branch: BranchConfig | None = None
    """Forks completions at tokens of high entropy."""
    importance_cap: float = Field(3.0, ge=1.0)
    """Largest importance weight."""
    num_iterations: int = Field(1, ge=1)
    """Passes over each rollout; objectives that depend on ratios need 2 or more."""
    num_minibatches: int = Field(1, ge=1)
    """Optimizer steps per pass; with 2 or more, ratios differ from 1."""


class LossConfig(StrictModel):
    """Settings of TRL's loss."""

    loss_type: LossType = "dapo"
    """TRL's name of the loss."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Compute one importance ratio per token or one per completion."""
    epsilon: float = Field(0.2, gt=0.0)
    """Lower clip range of the ratio; also the upper one unless `epsilon_high` is set."""
    epsilon_high: float | None = Field(None, gt=0.0)
    """Upper clip range of the ratio; for `cispo` the largest ratio, by default 5.0."""
    delta: float | None = Field(None, gt=1.0)
    """Upper limit of the ratio, also where the clip has no effect."""
    beta: float = Field(0.0, ge=0.0)
    """Coefficient of the KL divergence to the reference model."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the rewards of the group, the batch, or not at
    all."""

    @property
    def clip_high(self) -> float | None:
        """`epsilon_high`, with TRL's recommended default for `cispo`."""
        if self.epsilon_high is None and self.loss_type == "cispo":
            return 5.0
        return self.epsilon_high


class OptimizerConfig(StrictModel):
    """Optimizer, batch sizes and precision."""

    steps: int = Field(20, ge=1)
    """Optimizer steps of the run."""
    learning_rate: float = Field(1e-5, gt=0.0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "constant"
    """Schedule of the learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps until the learning rate reaches its peak."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients are clipped to this norm."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the mean gradient. A change by a controller takes effect after about
    1 / (1 - beta1) steps."""
    micro_batch: int = Field(8, ge=1)
    """Sequences per forward pass and process."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass; weights and optimizer state are float32. On a CPU without AMX,
    float32 is faster."""
    gradient_checkpointing: bool = False
    """Save memory at the cost of a slower backward pass."""
    save_every: int = Field(10, ge=1)
    """Optimizer steps between checkpoints; the last step is always saved."""


class LoraConfig(StrictModel):
    """Train a LoRA adapter instead of all weights."""

    rank: int = Field(16, ge=1)
    """Rank of the adapter's matrices."""
    alpha: int = Field(32, ge=1)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability of the adapter's inputs in training."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Names of the layers that get an adapter."""


class EvaluationConfig(StrictModel):
    """Evaluation on the held-out problems before and after training."""

    samples: int = Field(4, ge=1)
    """Answers per problem, sampled at the rollout temperature."""
    batch: int = Field(32, ge=1)
    """Sequences generated at once."""


class PolicyConfig(StrictModel):
    """Configuration of a `train-policy` run."""

    run: Path = Path("runs/policy")
    """Run folder."""
    model: str | None = None
    """Folder of a checkpoint; None uses the embedded default model."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Seed of the split, the order of the problems, and sampling."""
    objectives: ObjectiveList = (PlainConfig(),)
    """Objectives in the order in which they are applied: names, or tables with `type` and
    settings."""
    experimental: bool = False
    """Allow objectives that were never checked against their source; see the reference page."""
    controller: ControllerConfig | None = None
    """Controller that holds the entropy at a target; None disables it."""
    lora: LoraConfig | None = None
    """Settings of a LoRA adapter; None trains all weights."""
    tracking: Literal["none", "tensorboard", "trackio"] = "none"
    """Experiment tracker; both write to the run folder and use no network."""
    task: TaskConfig = TaskConfig()
    """Training and held-out problems."""
    rollout: RolloutConfig = RolloutConfig()
    """Source and sampling of completions."""
    loss: LossConfig = LossConfig()
    """Loss type, clip ranges and reward scaling."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Steps, learning rate, batch sizes and precision."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation on the held-out problems."""

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        if not self.experimental:
            refuse_experimental(self.objectives)
        settings = TrlSettings(
            loss_type=self.loss.loss_type,
            importance_sampling_level=self.loss.importance_sampling_level,
            delta=self.loss.delta,
            epsilon_high=self.loss.clip_high or self.loss.epsilon,
            has_epsilon_high=self.loss.clip_high is not None,
            scale_rewards=self.loss.scale_rewards,
            accumulates=self.sequences > self.optimizer.micro_batch * self.rollout.num_minibatches,
            step_sequences=self.sequences // self.rollout.num_minibatches,
            reuses_rollouts=self.rollout.num_iterations * self.rollout.num_minibatches > 1,
            num_generations=self.rollout.num_generations,
            samples_itself=self.rollout.backend == "transformers",
            served=self.rollout.backend == "entrostat",
        )
        rollout = self.rollout
        refuse_settings(self.objectives, settings, self.controller, rollout.law, rollout.branch)
        if settings.served and self.lora is None:
            raise ValueError(
                'backend = "entrostat" loads a LoRA adapter into the server at every rollout: add '
                "a section [lora], or choose another backend"
            )
        if rollout.controls and not settings.served:
            raise ValueError(
                'controls need backend = "entrostat"; for other backends, set rollout.law'
            )
        if any(config.type == "info_gain" for config in self.objectives):
            raise ValueError(
                '"info_gain" needs beliefs, which train-policy does not provide: use '
                "EntropyGRPOTrainer with a rollout_func that returns `beliefs`"
            )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        every = self.rollout.num_iterations * self.rollout.num_minibatches
        if self.optimizer.save_every % every:
            raise ValueError(
                f"save_every = {self.optimizer.save_every} would save in the middle of a rollout, "
                f"which cannot be resumed: use a multiple of {every}"
            )
        return self

    @property
    def served(self) -> ServedConfig | None:
        """The server that samples the rollouts; None for other backends."""
        rollout = self.rollout
        if rollout.backend != "entrostat":
            return None
        return ServedConfig(url=rollout.server, controls=rollout.controls)

    @property
    def sequences(self) -> int:
        """Completions of one rollout, over all processes."""
        return self.rollout.prompts_per_step * self.rollout.num_generations


def shipped_configs() -> dict[str, str]:
    """The configs shipped with the package, name to text."""
    folder = files("training.policy").joinpath("configs")
    found = sorted((entry for entry in folder.iterdir()), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".toml"): entry.read_text("utf-8")
        for entry in found
        if entry.name.endswith(".toml")
    }


def load_config(source: str, changes: Sequence[str] = ()) -> PolicyConfig:
    """Read and validate a config.

    Args:
        source: A TOML file, or the name of a shipped config.
        changes: Overrides `section.key=value`; values are TOML or plain text.

    Raises:
        TrainingError: The config cannot be read or is invalid; the message names the field.
    """
    values = _parse(source)
    for change in changes:
        _set_key(values, change)
    for old, new in _RENAMED.items():
        if old in values:
            raise TrainingError(f"{source}: {old}: this section is now called {new}")
    try:
        return PolicyConfig.model_validate(values)
    except ValidationError as error:
        finding = error.errors()[0]
        where = ".".join(str(part) for part in finding["loc"])
        message = finding["msg"].removeprefix("Value error, ")
        raise TrainingError(f"{source}: {f'{where}: ' if where else ''}{message}") from error


def _parse(source: str) -> dict[str, Any]:
    shipped = shipped_configs()
    path = Path(source)
    try:
        text = shipped[source] if source in shipped else path.read_text("utf-8")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise TrainingError(
            f"{source}: neither a file nor one of the shipped configs {', '.join(shipped)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{source}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{source}: not TOML: {error}") from error


def _set_key(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise TrainingError(f"--set {change}: write key=value, such as optimizer.steps=40")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise TrainingError(f"--set {change}: {section} is not a section")
        values = inner
    values[last] = value


def quick_version(config: PolicyConfig) -> PolicyConfig:
    """Return a small version of the run, which checks within minutes that everything works.

    It has two rollouts, at most 8 held-out problems with one answer each, at most 32 tokens per
    answer, and the run folder RUN-quick.
    """
    every = config.rollout.num_iterations * config.rollout.num_minibatches
    values = config.model_dump()
    values["run"] = config.run.with_name(f"{config.run.name}-quick")
    values["optimizer"] |= {"steps": 2 * every, "save_every": 2 * every, "warmup_steps": 0}
    values["rollout"]["max_tokens"] = min(config.rollout.max_tokens, 32)
    values["task"]["held_out"] = min(config.task.held_out, 8)
    values["evaluation"]["samples"] = 1
    return PolicyConfig.model_validate(values)


def config_json(config: PolicyConfig) -> str:
    """The whole config with its defaults, as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2)
