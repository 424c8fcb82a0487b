"""Refuses combinations of objectives and TRL settings that cannot work. Pure functions."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from probes.laws import HapoLaw, ShuffledLaw, TemperatureLaw
from training.objectives.catalog import ObjectiveConfig, refuse_actuator
from training.objectives.core.controller import Actuator, ControllerConfig
from training.objectives.core.requirements import Claim, RequiredTensor
from training.policy.rollouts.settings import BranchConfig

LossType = Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
"""TRL's names of the loss types."""

CLIPPED = ("grpo", "dapo", "dr_grpo", "bnpo", "luspo")
"""Loss types that clip the importance ratio on both sides."""

_OPEN_CLIP = ("kl_cov", "lp_reg", "soft_clip_high_entropy")
"""Objectives that exempt single tokens from the clip, which `delta` would undo."""


class TrlSettings(NamedTuple):
    """Settings of TRL's trainer that decide which objectives are supported."""

    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    delta: float | None = None
    epsilon_high: float = 0.2
    reuses_rollouts: bool = False
    """Whether a rollout serves more than one optimizer step."""
    own_entropy_term: bool = False
    """Whether `entropy_coef` or `use_adaptive_entropy` of TRL is set."""
    top_entropy_quantile: float = 1.0
    normalizes_each_reward: bool = False
    """Whether `multi_objective_aggregation` is `normalize_then_sum`."""
    truncated_sampling: bool = False
    """Whether top-p, top-k, min-p or a repetition penalty is used."""
    num_generations: int = 8
    splits_groups: bool = False
    """Whether the completions of one prompt are split over several processes."""
    samples_itself: bool = True
    """Whether rollouts come from `transformers` in this process."""
    served: bool = False
    """Whether a server draws the rollouts."""
    own_rollouts: bool = False
    """Whether `rollout_func` draws the rollouts."""
    corrects: bool = True
    """Whether importance weights are applied, that is, `importance_cap` is set."""
    uses_tools: bool = False
    """Whether completions are turns of an agent with tools."""
    has_epsilon_high: bool = True
    """Whether `epsilon_high` is set explicitly."""
    scale_rewards: str = "group"
    accumulates: bool = False
    """Whether an optimizer step has several micro-batches."""
    step_sequences: int = 64
    """Completions per optimizer step, over all processes."""

    @property
    def ratio_per_sequence(self) -> bool:
        """Whether the importance ratio is one of a whole completion, not of each token."""
        return self.loss_type == "luspo" or self.importance_sampling_level == "sequence"


def refuse_settings(
    configs: Sequence[ObjectiveConfig],
    settings: TrlSettings,
    controller: ControllerConfig | None = None,
    law: TemperatureLaw | None = None,
    branch: BranchConfig | None = None,
) -> None:
    """Check that every objective is supported under these settings.

    Raises:
        ValueError: A combination is not supported; the message names it and the remedy.
    """
    if controller is not None:
        refuse_actuator(configs, controller.actuator)
        _refuse_clip(controller, settings)
    _refuse_losses(configs, settings, controller)
    _refuse_small_batches(configs, settings)
    _refuse_own_rollouts(configs, settings, controller, law, branch)
    _refuse_doubles(configs, settings)
    _refuse_rollouts(configs, settings, controller, law)
    _refuse_extra_rollouts(configs, settings, controller, law, branch)


def _refuse_clip(controller: ControllerConfig, settings: TrlSettings) -> None:
    if controller.actuator is not Actuator.CLIP_HIGH:
        return
    if not settings.reuses_rollouts:
        raise ValueError(
            'actuator "clip_high" has no effect while each rollout serves one optimizer step: set '
            "num_iterations to 2 or more, or use several minibatches"
        )
    if controller.limit >= settings.epsilon_high:
        raise ValueError(
            f"limit = {controller.limit} lets the controller reduce the clip range to 0: use a "
            f"value below epsilon_high = {settings.epsilon_high}"
        )


def _refuse_losses(
    configs: Sequence[ObjectiveConfig], settings: TrlSettings, controller: ControllerConfig | None
) -> None:
    names = [config.type for config in configs]
    if any("tokens" in config.acts_on for config in configs) and settings.ratio_per_sequence:
        raise ValueError(
            f"{names} act on single tokens and need a ratio per token: set "
            'importance_sampling_level = "token" and a loss_type other than "luspo"'
        )
    drives_clip = controller is not None and controller.actuator is Actuator.CLIP_HIGH
    clips = [c.type for c in configs if Claim.CLIP in c.claims()]
    if (clips or drives_clip) and settings.loss_type not in CLIPPED:
        who = f'"{clips[0]}"' if clips else 'actuator "clip_high"'
        raise ValueError(
            f'{who} sets a clip range, which loss_type = "{settings.loss_type}" does not have: '
            f"choose one of {[kind for kind in CLIPPED if kind != 'luspo']}"
        )
    if settings.loss_type == "cispo" and not settings.has_epsilon_high:
        raise ValueError(
            'loss_type = "cispo" uses epsilon_high as the largest ratio, and epsilon without it: '
            "set epsilon_high = 5.0, as TRL recommends"
        )
    capped = [name for name in names if name in _OPEN_CLIP]
    if settings.delta is not None and capped:
        raise ValueError(
            f'delta = {settings.delta} caps the ratios that "{capped[0]}" does not clip: remove it'
        )


def _refuse_small_batches(configs: Sequence[ObjectiveConfig], settings: TrlSettings) -> None:
    """Refuse a covariance over the tokens of one completion, whose advantages are all equal."""
    names = [config.type for config in configs if config.type in ("clip_cov", "kl_cov")]
    if names and settings.step_sequences < 2:
        raise ValueError(
            f'"{names[0]}" needs a covariance with the advantage, which is 0 over the tokens of '
            "one completion: use 2 or more completions per optimizer step"
        )


def _refuse_own_rollouts(
    configs: Sequence[ObjectiveConfig],
    settings: TrlSettings,
    controller: ControllerConfig | None,
    law: TemperatureLaw | None,
    branch: BranchConfig | None,
) -> None:
    """Refuse settings of the sampling that a custom `rollout_func` would ignore."""
    if branch is not None and settings.uses_tools:
        raise ValueError(
            "branch supports completions of one turn only: remove branch, or tools and "
            "environment_factory"
        )
    if not settings.own_rollouts:
        return
    drives = controller is not None and controller.actuator is Actuator.TEMPERATURE
    acting = {
        "law": law is not None,
        "branch": branch is not None,
        "served": settings.served,
        'actuator "temperature"': drives,
        '"aepo"': any(config.type == "aepo" for config in configs),
    }
    if ignored := [name for name, is_set in acting.items() if is_set]:
        raise ValueError(
            f"rollout_func draws the completions and would ignore {', '.join(ignored)}: remove one "
            "of them"
        )
    if settings.corrects and settings.ratio_per_sequence:
        raise ValueError(
            "the importance weights for rollout_func are per token: pass importance_cap = None, or "
            'importance_sampling_level = "token" and a loss_type other than "luspo"'
        )


def warnings_for(configs: Sequence[ObjectiveConfig], settings: TrlSettings) -> list[str]:
    """Warnings on supported settings that differ from the recommendation of a source."""
    found = []
    if settings.scale_rewards != "none" and any(c.type == "seed_grpo" for c in configs):
        found.append(
            '"seed_grpo" is published without division by the standard deviation of rewards: set '
            f'scale_rewards = "none" instead of "{settings.scale_rewards}"'
        )
    return found


def _refuse_doubles(configs: Sequence[ObjectiveConfig], settings: TrlSettings) -> None:
    for objective in configs:
        name = objective.type
        if objective.inert_on_policy and not settings.reuses_rollouts:
            raise ValueError(
                f'"{name}" has no effect while each rollout serves one optimizer step: set '
                "num_iterations to 2 or more, or use several minibatches (TRL: "
                "steps_per_generation above gradient_accumulation_steps)"
            )
        if settings.own_entropy_term and Claim.ENTROPY in objective.claims():
            raise ValueError(
                f'"{name}" and the entropy term of TRL both set {Claim.ENTROPY}: remove '
                "entropy_coef and use_adaptive_entropy"
            )
        if settings.normalizes_each_reward and Claim.REWARD in objective.claims():
            raise ValueError(
                f'"{name}" computes advantages from a single reward: set '
                'multi_objective_aggregation = "sum_then_normalize"'
            )
    if any(c.type == "high_entropy_mask" for c in configs) and settings.top_entropy_quantile < 1.0:
        raise ValueError(
            '"high_entropy_mask" is the same as top_entropy_quantile of TRL: set only one of them'
        )


def _refuse_rollouts(
    configs: Sequence[ObjectiveConfig],
    settings: TrlSettings,
    controller: ControllerConfig | None,
    law: TemperatureLaw | None,
) -> None:
    names = [config.type for config in configs]
    drives = controller is not None and controller.actuator is Actuator.TEMPERATURE
    if law is not None or drives or settings.served:
        who = 'backend "entrostat"' if settings.served else 'actuator "temperature"'
        who = f'the law "{law.type}"' if law is not None else who
        if settings.truncated_sampling:
            raise ValueError(
                f"{who} needs the sampling probability of each token, which is not available with "
                "truncated sampling: set top_p = 1, top_k = 0, no min_p and repetition_penalty = 1"
            )
        if (law is not None or drives) and (settings.served or not settings.samples_itself):
            raise ValueError(f'{who} needs rollouts in this process: set backend = "transformers"')
        if settings.ratio_per_sequence:
            raise ValueError(
                f"{who} needs importance weights per token: set importance_sampling_level = "
                '"token" and a loss_type other than "luspo"'
            )
    if isinstance(law, ShuffledLaw):
        raise ValueError(
            'the law "shuffled" is a control of evaluations, which train-policy does not sample: '
            "choose another law"
        )
    if isinstance(law, HapoLaw) and "hapo" not in names:
        raise ValueError('the law "hapo" takes its statistics from the objective "hapo": add it')
    if isinstance(law, HapoLaw) and law.statistics is not None:
        raise ValueError(
            'the law "hapo" takes its statistics from the objective "hapo": remove statistics'
        )


def _refuse_extra_rollouts(
    configs: Sequence[ObjectiveConfig],
    settings: TrlSettings,
    controller: ControllerConfig | None,
    law: TemperatureLaw | None,
    branch: BranchConfig | None,
) -> None:
    drives = controller is not None and controller.actuator is Actuator.TEMPERATURE
    who = '"aepo"' if any(config.type == "aepo" for config in configs) else "branch"
    if who == "branch" and branch is None:
        return
    if law is not None or drives:
        raise ValueError(
            f"{who} cannot be combined with a law or a temperature controller: remove them"
        )
    if settings.served or not settings.samples_itself:
        raise ValueError(
            f'{who} draws extra completions in this process: set backend = "transformers"'
        )
    if who == '"aepo"':
        if branch is not None:
            raise ValueError('"aepo" and branch both change which samples are drawn: remove one')
        if settings.splits_groups:
            raise ValueError('"aepo" needs whole groups on each process: raise micro_batch')
        if settings.ratio_per_sequence:
            raise ValueError('"aepo" needs importance weights per token: use token-level ratios')
        shared = [one.type for one in configs if one.batch_needs]
        if settings.accumulates and shared and "lp_reg" not in shared:
            raise ValueError(
                f'"aepo" replaces samples that are part of the statistics of "{shared[0]}": remove '
                "one, or raise micro_batch until a step needs no accumulation"
            )
        if "lp_reg" in [config.type for config in configs]:
            raise ValueError('"aepo" replaces samples that "lp_reg" has measured: remove one')
    elif branch is not None and not branch.roots < settings.num_generations:
        raise ValueError(
            f"branch.roots = {branch.roots} must be below num_generations = "
            f"{settings.num_generations}: no completions are left to fork"
        )
    elif settings.splits_groups:
        raise ValueError("branch needs whole groups on each process: raise micro_batch")


def needs_logits(configs: Sequence[ObjectiveConfig]) -> bool:
    """Whether full logits, (batch, tokens, vocab), are kept in memory."""
    logits = {
        RequiredTensor.PROXY_LOGPROBS,
        RequiredTensor.RESCORED_LOGPROBS,
        RequiredTensor.NUCLEUS_ENTROPY,
    }
    return any(config.needs & logits for config in configs)
