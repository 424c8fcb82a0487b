"""Which objectives cannot act under which settings of TRL, said before a run starts. Pure."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from probes.laws import HapoLaw, TemperatureLaw
from training.objectives.catalog import ObjectiveConfig, refuse_actuator
from training.objectives.controller import Actuator, ControllerConfig
from training.objectives.requirements import Claim, RequiredTensor
from training.policy.rollouts.settings import BranchConfig

LossType = Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
"""The names of TRL."""

CLIPPED = ("grpo", "dapo", "dr_grpo", "bnpo", "luspo")
"""Loss types that clip the importance ratio on both sides."""

_OPEN_CLIP = ("kl_cov", "lp_reg", "soft_clip_high_entropy")
"""Objectives that let single tokens pass the clip, which `delta` would close again."""


class TrlSettings(NamedTuple):
    """The settings of TRL's trainer that decide what an objective can do."""

    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    delta: float | None = None
    epsilon_high: float = 0.2
    reuses_rollouts: bool = False
    """Whether a rollout serves more than one optimizer step."""
    own_entropy_term: bool = False
    """Whether `entropy_coef` or `use_adaptive_entropy` of TRL is on."""
    top_entropy_quantile: float = 1.0
    normalizes_each_reward: bool = False
    """Whether `multi_objective_aggregation` is `normalize_then_sum`."""
    truncated_sampling: bool = False
    """Whether top-p, top-k, min-p or a repetition penalty shape what is drawn."""
    num_generations: int = 8
    splits_groups: bool = False
    """Whether the completions of one prompt lie on several processes."""
    samples_itself: bool = True
    """Whether rollouts come from `transformers` in this process."""
    served: bool = False
    """Whether a server draws them, perhaps under controls of its own."""
    own_rollouts: bool = False
    """Whether `rollout_func` draws them."""
    corrects: bool = True
    """Whether recorded log-probabilities weigh the loss, that is, `importance_cap` is set."""
    uses_tools: bool = False
    """Whether completions are turns of an agent with tools."""
    has_epsilon_high: bool = True
    """Whether `epsilon_high` is set, not taken from `epsilon`."""
    scale_rewards: str = "group"
    accumulates: bool = False
    """Whether several micro-batches make an optimizer step."""
    step_sequences: int = 64
    """Completions in an optimizer step, all processes together."""


def refuse_settings(
    configs: Sequence[ObjectiveConfig],
    settings: TrlSettings,
    controller: ControllerConfig | None = None,
    law: TemperatureLaw | None = None,
    branch: BranchConfig | None = None,
) -> None:
    """Check that every objective can do its work under these settings.

    Raises:
        ValueError: One cannot; says which, and what to change.
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
            "num_iterations to 2 or more, or cut it into several minibatches"
        )
    if controller.limit >= settings.epsilon_high:
        raise ValueError(
            f"limit = {controller.limit} lets the controller close the clip range: keep it below "
            f"epsilon_high = {settings.epsilon_high}"
        )


def _refuse_losses(
    configs: Sequence[ObjectiveConfig], settings: TrlSettings, controller: ControllerConfig | None
) -> None:
    names = [config.type for config in configs]
    sequences = settings.loss_type == "luspo" or settings.importance_sampling_level == "sequence"
    if any("tokens" in config.acts_on for config in configs) and sequences:
        raise ValueError(
            f"{names} act on single tokens, which a ratio per sequence cannot: set "
            'importance_sampling_level = "token" and another loss_type than "luspo"'
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
            'loss_type = "cispo" reads epsilon_high as the largest ratio itself, and without it '
            "caps ratios at epsilon: set epsilon_high = 5.0, as TRL recommends"
        )
    capped = [name for name in names if name in _OPEN_CLIP]
    if settings.delta is not None and capped:
        raise ValueError(
            f'delta = {settings.delta} caps the ratios that "{capped[0]}" lets pass: leave it out'
        )


def _refuse_small_batches(configs: Sequence[ObjectiveConfig], settings: TrlSettings) -> None:
    """Refuse a covariance over the tokens of one completion, whose advantages are all the same."""
    names = [config.type for config in configs if config.type in ("clip_cov", "kl_cov")]
    if names and settings.step_sequences < 2:
        raise ValueError(
            f'"{names[0]}" needs a covariance with the advantage, which is 0 over the tokens of '
            "one completion: use 2 or more completions in an optimizer step"
        )


def _refuse_own_rollouts(
    configs: Sequence[ObjectiveConfig],
    settings: TrlSettings,
    controller: ControllerConfig | None,
    law: TemperatureLaw | None,
    branch: BranchConfig | None,
) -> None:
    """Refuse what acts in TRL's own sampling where something else samples."""
    if branch is not None and settings.uses_tools:
        raise ValueError(
            "branch forks a completion of one turn: leave out branch, or tools and "
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
            f"rollout_func draws the completions itself and would ignore {', '.join(ignored)}: "
            "leave one of them out"
        )
    sequences = settings.loss_type == "luspo" or settings.importance_sampling_level == "sequence"
    if settings.corrects and sequences:
        raise ValueError(
            "the log-probabilities of rollout_func are corrected token by token: pass "
            'importance_cap = None, or importance_sampling_level = "token" and another loss_type '
            'than "luspo"'
        )


def advice(configs: Sequence[ObjectiveConfig], settings: TrlSettings) -> list[str]:
    """Sentences on settings that run, but not as the source of an objective recommends."""
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
                "num_iterations to 2 or more, or cut it into several minibatches (TRL: "
                "steps_per_generation above gradient_accumulation_steps)"
            )
        if settings.own_entropy_term and Claim.ENTROPY in objective.claims():
            raise ValueError(
                f'"{name}" and the entropy term of TRL both decide {Claim.ENTROPY}: leave '
                "entropy_coef and use_adaptive_entropy out"
            )
        if settings.normalizes_each_reward and Claim.REWARD in objective.claims():
            raise ValueError(
                f'"{name}" makes advantages of one reward: set multi_objective_aggregation = '
                '"sum_then_normalize"'
            )
    if any(c.type == "high_entropy_mask" for c in configs) and settings.top_entropy_quantile < 1.0:
        raise ValueError('"high_entropy_mask" is top_entropy_quantile of TRL: set one of them')


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
                f"{who} needs the probability that each token was drawn with, and truncated "
                "sampling hides it: set top_p = 1, top_k = 0, no min_p and repetition_penalty = 1"
            )
        if (law is not None or drives) and (settings.served or not settings.samples_itself):
            raise ValueError(
                f'{who} acts in rollouts of this process: set backend = "transformers"'
            )
        if settings.importance_sampling_level == "sequence" or settings.loss_type == "luspo":
            raise ValueError(
                f"{who} is corrected token by token: set importance_sampling_level = "
                '"token" and another loss_type than "luspo"'
            )
    if isinstance(law, HapoLaw) and "hapo" not in names:
        raise ValueError('the law "hapo" takes its statistics from the objective "hapo": add it')
    if isinstance(law, HapoLaw) and law.statistics is not None:
        raise ValueError(
            'the law "hapo" takes its statistics from the objective "hapo": leave statistics out'
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
        raise ValueError(f"{who} draws in its own way: leave law and controller out")
    if settings.served or not settings.samples_itself:
        raise ValueError(f'{who} draws extra completions here: set backend = "transformers"')
    if who == '"aepo"':
        if branch is not None:
            raise ValueError('"aepo" and branch both decide which samples are drawn: leave one out')
        if settings.splits_groups:
            raise ValueError('"aepo" needs whole groups on each process: raise micro_batch')
        if settings.loss_type == "luspo" or settings.importance_sampling_level == "sequence":
            raise ValueError('"aepo" is corrected token by token: use token-level ratios')
        shared = [one.type for one in configs if one.batch_needs]
        if settings.accumulates and shared and "lp_reg" not in shared:
            raise ValueError(
                f'"aepo" replaces samples that are part of the statistics of "{shared[0]}": leave '
                "one out, or raise micro_batch until a step needs no accumulation"
            )
        if "lp_reg" in [config.type for config in configs]:
            raise ValueError('"aepo" replaces samples that "lp_reg" has measured: leave one out')
    elif branch is not None and not branch.roots < settings.num_generations:
        raise ValueError(
            f"branch.roots = {branch.roots} leaves none of num_generations = "
            f"{settings.num_generations} to fork"
        )
    elif settings.splits_groups:
        raise ValueError("branch needs whole groups on each process: raise micro_batch")


def needs_logits(configs: Sequence[ObjectiveConfig]) -> bool:
    """Whether full logits are kept in memory, batch times tokens times vocabulary."""
    logits = {
        RequiredTensor.PROXY_LOGPROBS,
        RequiredTensor.RESCORED_LOGPROBS,
        RequiredTensor.NUCLEUS_ENTROPY,
    }
    return any(config.needs & logits for config in configs)
