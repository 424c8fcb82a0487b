"""Objectives of policy training: pure torch, no trainer.

`registry.OBJECTIVES` is the table of names, `interface` what an objective may do, `compose` what
a trainer calls.
"""

from training.objectives.batch import Need, Plan, Rollout, Step, Tokens
from training.objectives.compose import Objectives
from training.objectives.distributed import Alone, Ranks
from training.objectives.registry import (
    OBJECTIVES,
    ObjectiveConfig,
    ObjectiveList,
    refuse_actuator,
)

__all__ = [
    "OBJECTIVES",
    "Alone",
    "Need",
    "ObjectiveConfig",
    "ObjectiveList",
    "Objectives",
    "Plan",
    "Ranks",
    "Rollout",
    "Step",
    "Tokens",
    "refuse_actuator",
]
