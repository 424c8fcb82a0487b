"""Imports TRL as the package does, before any test module imports it."""

import training.policy.trl_import  # noqa: F401
