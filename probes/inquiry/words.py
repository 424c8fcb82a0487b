"""Literal types of an inquiry, for the wire; does not import torch."""

from typing import Literal

LabelWeights = Literal["posterior", "uniform"]
"""Distribution of the answering label in the lookahead: its current probability, or uniform as
published."""
Policy = Literal["set_size", "entropy_bound", "entropy", "random"]
"""Quantity that the next question minimizes: the expected set size (C-IP as in the paper), the
bound on the entropy (C-IP as in its code), the expected entropy (plain IP), or none."""
ModelPredictor = Literal["likelihood", "direct"]
"""Bayes' rule over the model's log-likelihoods of statements, or asking the model for the label."""
Predictor = Literal["table", "likelihood", "direct"]
"""`table` applies Bayes' rule to the task's own answers and uses no model; the others use it."""
Queries = Literal["closed", "open"]
"""Source of questions: the task, or proposals of the model in every turn."""
StopReason = Literal["singleton", "budget", "exhausted", "no_gain"]
"""Why there is no further question."""
TOLERANCE = 0.35
"""Expected sizes up to this share above the smallest tie with it.

With exact ties, the default model is less accurate than with plain IP. On splits 100 to 399 of the
labels, this was the smallest share, in steps of 0.05, at which the accuracy over an inquiry was not
below IP's confidence interval for either shipped task (at 0.4 it was for one, by 0.002).
"""
