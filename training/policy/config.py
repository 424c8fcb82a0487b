"""What `train-policy` is told: a TOML file, checked before anything heavy is imported."""

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
from training.objectives.controller import ControllerConfig
from training.policy.rollouts.settings import BranchConfig, ServedConfig
from training.policy.validation import LossType, TrlSettings, refuse_settings

_RENAMED = {"optimiser": "optimizer"}
"""Old names of sections."""


class TaskConfig(StrictModel):
    """Questions with known answers, split into those trained on and those held out."""

    tasks: tuple[str, ...] = Field(("drill",), min_length=1)
    """Built-in names, JSONL files with `prompt` and `answer`, or ids of hub data sets."""
    grader: GraderName | None = None
    """For JSONL files whose lines name none."""
    num_problems: int = Field(400, ge=8)
    """Over all tasks, the held-out ones included. Of a data set of the hub the held-out ones come
    from its test part and the others from its training part."""
    held_out: int = Field(48, ge=4)
    """Never trained on; pass@k is measured on them before and after."""
    instruction: str = ""
    """Added after every question."""
    system: str | None = None
    """System message; None leaves it to the chat template."""

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        if self.held_out >= self.num_problems:
            raise ValueError(
                f"held_out = {self.held_out} leaves nothing of num_problems = {self.num_problems} "
                "to train on"
            )
        return self


class RolloutConfig(StrictModel):
    """How completions are drawn."""

    backend: Literal["transformers", "entrostat", "vllm-colocate", "vllm-server"] = "transformers"
    """Where from: this process, a running `entrostat serve`, or TRL's two ways with vLLM."""
    server: str = "http://127.0.0.1:8000"
    """Address for `entrostat` and `vllm-server`."""
    controls: dict[str, Any] = Field(default_factory=dict)
    """The field `entropy` of every request to `entrostat serve`; importance weights correct."""
    prompts_per_step: int = Field(4, ge=1)
    """Questions of one rollout, all processes together."""
    num_generations: int = Field(8, ge=2)
    """Completions of each prompt, the group that advantages compare."""
    max_tokens: int = Field(20, ge=1)
    """Longest completion."""
    temperature: float = Field(1.0, gt=0.0, le=2.0)
    """Of rollouts and, always, of the policy that is trained."""
    law: TemperatureLaw | None = None
    """Another temperature for each token; importance weights correct for it."""
    branch: BranchConfig | None = None
    """Forks completions at tokens of high entropy."""
    importance_cap: float = Field(3.0, ge=1.0)
    """Largest such weight."""
    num_iterations: int = Field(1, ge=1)
    """Passes over each rollout; objectives that act on ratios need 2 or more."""
    num_minibatches: int = Field(1, ge=1)
    """Optimizer steps within a pass; above 1, ratios leave 1 too."""


class LossConfig(StrictModel):
    """TRL's loss."""

    loss_type: LossType = "dapo"
    """TRL's name of it."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """One ratio of new to old policy for each token or for each completion."""
    epsilon: float = Field(0.2, gt=0.0)
    """Clip range of the ratio, downwards and, without `epsilon_high`, upwards."""
    epsilon_high: float | None = Field(None, gt=0.0)
    """Upper clip range; for `cispo` the largest ratio itself, 5.0 unless set."""
    delta: float | None = Field(None, gt=1.0)
    """Largest ratio at all, also where the clip lets it pass."""
    beta: float = Field(0.0, ge=0.0)
    """Coefficient of the KL to the reference model."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation of rewards advantages are divided by."""

    @property
    def clip_high(self) -> float | None:
        """`epsilon_high`, with the default that TRL recommends for `cispo`."""
        if self.epsilon_high is None and self.loss_type == "cispo":
            return 5.0
        return self.epsilon_high


class OptimizerConfig(StrictModel):
    """The optimizer and how much fits into memory at once."""

    steps: int = Field(20, ge=1)
    """Optimizer steps of the run."""
    learning_rate: float = Field(1e-5, gt=0.0)
    """Of AdamW, at its highest."""
    schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "constant"
    """How the learning rate goes on from there."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps until the learning rate is there."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients are scaled down to this norm."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the mean gradient. What a controller changes is felt 1 / (1 - beta1) steps
    later."""
    micro_batch: int = Field(8, ge=1)
    """Sequences per forward and process."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward; weights and optimizer stay float32. A CPU without AMX prefers float32."""
    gradient_checkpointing: bool = False
    """Less memory for a slower backward."""
    save_every: int = Field(10, ge=1)
    """Optimizer steps between checkpoints; the last step always has one."""


class LoraConfig(StrictModel):
    """Train an adapter instead of all weights."""

    rank: int = Field(16, ge=1)
    """Of the adapter's matrices."""
    alpha: int = Field(32, ge=1)
    """The adapter counts alpha / rank times."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the adapter's inputs left out at random while training."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Names of the layers that get one."""


class EvaluationConfig(StrictModel):
    """What is measured on the held-out problems before and after."""

    samples: int = Field(4, ge=1)
    """Answers to each problem, at the rollout temperature."""
    batch: int = Field(32, ge=1)
    """Sequences generated at once."""


class PolicyConfig(StrictModel):
    """A run of `train-policy`."""

    run: Path = Path("runs/policy")
    """Folder of the run."""
    model: str | None = None
    """Folder of a checkpoint; None is the embedded default model."""
    seed: int = Field(0, ge=0)
    """Of the split, the order of the questions and everything drawn."""
    objectives: ObjectiveList = (PlainConfig(),)
    """In the order in which they act, as names or as tables with a `type` and settings."""
    experimental: bool = False
    """Allow objectives that were never checked against their source; the reference names them."""
    controller: ControllerConfig | None = None
    """Holds the entropy at a target; None leaves it alone."""
    lora: LoraConfig | None = None
    """None trains all weights."""
    tracking: Literal["none", "tensorboard", "trackio"] = "none"
    """Both write below the run folder and ask no network."""
    task: TaskConfig = TaskConfig()
    """What is trained on and measured on."""
    rollout: RolloutConfig = RolloutConfig()
    """Where completions come from and how they are drawn."""
    loss: LossConfig = LossConfig()
    """Settings of the loss of TRL."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Steps, learning rate and memory."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured before and after."""

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
                'backend = "entrostat" hands the server an adapter at every rollout: add a section '
                "[lora], or choose another backend"
            )
        if rollout.controls and not settings.served:
            raise ValueError('controls are for backend = "entrostat"; here, see rollout.law')
        if any(config.type == "info_gain" for config in self.objectives):
            raise ValueError(
                '"info_gain" needs beliefs that no built-in task has: use EntropyGRPOTrainer with '
                "a data set that has the field `beliefs`"
            )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        every = self.rollout.num_iterations * self.rollout.num_minibatches
        if self.optimizer.save_every % every:
            raise ValueError(
                f"save_every = {self.optimizer.save_every} would save in the middle of a rollout, "
                f"which cannot be resumed: make it a multiple of {every}"
            )
        return self

    @property
    def served(self) -> ServedConfig | None:
        """The server that draws the rollouts."""
        rollout = self.rollout
        if rollout.backend != "entrostat":
            return None
        return ServedConfig(url=rollout.server, controls=rollout.controls)

    @property
    def sequences(self) -> int:
        """Completions of one rollout, all processes together."""
        return self.rollout.prompts_per_step * self.rollout.num_generations


def shipped_configs() -> dict[str, str]:
    """The configs that come with the package, name to text."""
    folder = files("training.policy").joinpath("configs")
    found = sorted((entry for entry in folder.iterdir()), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".toml"): entry.read_text("utf-8")
        for entry in found
        if entry.name.endswith(".toml")
    }


def load_config(source: str, changes: Sequence[str] = ()) -> PolicyConfig:
    """Read a config.

    Args:
        source: A TOML file, or the name of a shipped one.
        changes: `key=value` each, dots for sections, values as in TOML or plain text.

    Raises:
        TrainingError: It cannot be read or says something wrong; names the field.
    """
    values = _parse(source)
    for change in changes:
        _set(values, change)
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


def _set(values: dict[str, Any], change: str) -> None:
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
            raise TrainingError(f"--set {change}: {section} is no section")
        values = inner
    values[last] = value


def quick_version(config: PolicyConfig) -> PolicyConfig:
    """The same run, small enough to see within minutes that everything works.

    Two rollouts, at most 8 held-out problems with one answer each and 32 tokens an answer, in the
    folder RUN-quick.
    """
    every = config.rollout.num_iterations * config.rollout.num_minibatches
    values = config.model_dump()
    values["run"] = config.run.with_name(f"{config.run.name}-quick")
    values["optimizer"] |= {"steps": 2 * every, "save_every": 2 * every, "warmup_steps": 0}
    values["rollout"]["max_tokens"] = min(config.rollout.max_tokens, 32)
    values["task"]["held_out"] = min(config.task.held_out, 8)
    values["evaluation"]["samples"] = 1
    return PolicyConfig.model_validate(values)


def resolved(config: PolicyConfig) -> str:
    """The whole config with its defaults, as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2)
