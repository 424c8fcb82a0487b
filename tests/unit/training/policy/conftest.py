"""Imports TRL as the package does, before any test module imports it, and trains one run."""

import training.policy.trl_import  # noqa: F401, I001

from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.training.policy import tiny_policy
from tests.unit.training.policy.tiny_run import config_in
from training.policy.job import train_policy


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_policy.save(folder)
    return folder


@pytest.fixture(scope="session")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run. Tests that change it restore it."""
    run = tmp_path_factory.mktemp("whole")
    train_policy(config_in(run, tiny_checkpoint), Console(quiet=True))
    return run
