"""Every unit test draws the same random numbers in every run."""

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _the_same_draws() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
