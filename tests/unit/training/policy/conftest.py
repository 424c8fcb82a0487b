"""TRL is imported as the product imports it, before a test module does."""

import training.policy.trl_import  # noqa: F401
