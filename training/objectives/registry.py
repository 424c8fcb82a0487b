"""Maps the names of objectives to their classes."""

from typing import Any

from training.objectives.catalog import ObjectiveConfig
from training.objectives.configs import PlainConfig
from training.objectives.core.interface import Objective
from training.objectives.core.requirements import ObjectiveSettings
from training.objectives.covariance import ClipCov, KlCov, TeaRl
from training.objectives.entropy_terms import AdaptiveEntropy, EntropyBonus, TargetEntropy
from training.objectives.epo import Epo
from training.objectives.experimental.ares import Ares
from training.objectives.experimental.hicra import Hicra
from training.objectives.experimental.info_gain import InfoGain
from training.objectives.groups.arbitrary_entropy import Aepo, Dcpo
from training.objectives.groups.baselines import Canon, HardnessWeight, SeedGrpo
from training.objectives.groups.empg import Empg
from training.objectives.groups.rewards import Empo, Pear
from training.objectives.hapo import HapoObjective
from training.objectives.high_entropy import EntropyAdvantage, HighEntropyMask
from training.objectives.lp_reg import LpReg
from training.objectives.siren import Siren
from training.objectives.soft_clip import SoftClip
from training.objectives.steer import SteerObjective


class Plain(Objective[PlainConfig]):
    """No objective: the trainer's unmodified loss."""


OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "none": Plain,
    "entropy_bonus": EntropyBonus,
    "adaptive_entropy": AdaptiveEntropy,
    "target_entropy": TargetEntropy,
    "high_entropy_mask": HighEntropyMask,
    "entropy_advantage": EntropyAdvantage,
    "hardness_weight": HardnessWeight,
    "clip_cov": ClipCov,
    "kl_cov": KlCov,
    "tea_rl": TeaRl,
    "steer": SteerObjective,
    "lp_reg": LpReg,
    "siren": Siren,
    "epo": Epo,
    "hapo": HapoObjective,
    "dcpo": Dcpo,
    "aepo": Aepo,
    "seed_grpo": SeedGrpo,
    "canon": Canon,
    "empg": Empg,
    "hicra": Hicra,
    "soft_clip_high_entropy": SoftClip,
    "empo": Empo,
    "pear": Pear,
    "ares": Ares,
    "info_gain": InfoGain,
}


def build_objective(config: ObjectiveConfig) -> Objective[ObjectiveSettings]:
    """Build the objective of a config."""
    return OBJECTIVES[config.type](config)
