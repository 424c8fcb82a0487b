import random

import torch

from training.policy.rollouts.branch import choose_forks, replace_samples
from training.policy.rollouts.settings import BranchConfig


def batch(rows: int, prompt: int, tokens: int, start: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(start, start + rows * tokens).view(rows, tokens)
    return {
        "prompt_ids": torch.full((rows, prompt), start),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": torch.ones_like(ids),
        "advantages": torch.linspace(-1, 1, rows),
        "num_items_in_batch": torch.tensor(float(rows * tokens)),
    }


def test_chosen_samples_replace_the_first_rows_with_advantage_one() -> None:
    main, extra = batch(4, 2, 3, 100), batch(3, 3, 5, 200)
    extra["sampling_per_token_logps"] = torch.full((3, 5), -1.0)
    mixed = replace_samples(main, extra, torch.tensor([2, 0]), pad_token=9)
    assert mixed["completion_ids"][0].tolist() == extra["completion_ids"][2].tolist()
    assert mixed["completion_ids"][2].tolist() == [*main["completion_ids"][2].tolist(), 9, 9]
    assert mixed["completion_mask"][2].tolist() == [1, 1, 1, 0, 0]
    assert mixed["prompt_ids"][3].tolist() == [9, 100, 100]
    assert mixed["prompt_mask"][3].tolist() == [0, 1, 1]
    assert mixed["advantages"][:2].eq(1).all()
    assert mixed["advantages"][3, :3].eq(1).all()
    assert mixed["advantages"][3, 3:].eq(0).all()
    drawn = mixed["sampling_per_token_logps"]
    assert drawn[:2].eq(-1).all()
    assert drawn[2:, :3].isnan().all()


def test_without_chosen_samples_the_batch_does_not_change() -> None:
    main = batch(4, 2, 3, 100)
    assert replace_samples(main, batch(2, 2, 3, 0), torch.tensor([], dtype=torch.long), 9) == main


def test_forks_are_at_high_entropy_tokens_of_roots_of_the_same_group() -> None:
    config = BranchConfig(roots=2, top=1)
    texts = ["The", " cat", " a", "", "house", "."]
    tokens = {row: texts for row in (0, 1, 4, 5)}
    entropies = {row: [9.0, 1.0, 8.0, 7.0, 2.0, 6.0] for row in tokens}
    found = choose_forks(entropies, tokens, 8, 4, config, random.Random(0))
    # Neither the first token, nor a single letter, a special token or a full stop.
    assert {row: tuple(fork) for row, fork in found.items()} == {
        2: (0, 4),
        3: (1, 4),
        6: (4, 4),
        7: (5, 4),
    }


def test_all_completions_of_a_root_share_its_fork_point() -> None:
    config = BranchConfig(roots=2, top=20)
    tokens = {row: ["word"] * 40 for row in (0, 1)}
    entropies = {row: [1.0] * 40 for row in tokens}
    for seed in range(20):
        found = choose_forks(entropies, tokens, 8, 8, config, random.Random(seed))
        assert len({fork for fork in found.values() if fork.root == 0}) == 1
        assert len({fork for fork in found.values() if fork.root == 1}) == 1
    assert sorted(found) == [2, 3, 4, 5, 6, 7]


def test_completions_of_a_root_without_candidates_are_drawn_in_full() -> None:
    found = choose_forks({0: [1.0]}, {0: ["a"]}, 2, 2, BranchConfig(roots=1), random.Random(0))
    assert found[1] == (0, 0)
