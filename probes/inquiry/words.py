"""Words of an inquiry: data, without torch, for the wire."""

from typing import Literal

EmptySets = Literal["full", "raw"]
"""What a set becomes that no label passes: all labels, or nothing as the formula says."""
LabelWeights = Literal["posterior", "uniform"]
"""Which label answers in the look-ahead: by its probability now, or any one as published."""
Policy = Literal["set_size", "entropy_bound", "entropy", "random"]
"""What the next question should make small: the expected set (C-IP as in the paper), the bound on
the entropy (C-IP as in its code), the expected entropy (plain IP), or nothing."""
ModelPredictor = Literal["likelihood", "direct"]
"""Bayes' rule over the model's log-likelihoods of statements, or the model asked for the label."""
Predictor = Literal["table", "likelihood", "direct"]
"""Bayes' rule over the task's own answers, which asks no model, or one of the model's."""
Queries = Literal["closed", "open"]
"""Where questions come from: the task's own, or the model proposes new ones at every turn."""
StopReason = Literal["singleton", "budget", "exhausted", "no_gain"]
"""Why there is no further question."""
TOLERANCE = 0.35
"""Share by which an expected set may be larger than the smallest and still tie with it. With exact
ties the default model's games are right less often than those of plain IP. On divisions 100 to 399
of the labels this was the smallest share, in steps of 0.05, at which the accuracy over a game did
not lie below IP's beyond its interval for either shipped task (at 0.4 it did for one, by 0.002)."""
