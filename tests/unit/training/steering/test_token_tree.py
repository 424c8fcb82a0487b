from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
)

from training.common.errors import TrainingError
from training.steering.reader import PLAIN, Condition, EpisodeReader, TokenizedEpisode
from training.steering.token_tree import (
    TokenTree,
    add_to_stream,
    attention_windows,
    build_tree,
    capture_stream,
    pad_rows,
)

RUNS = [
    TokenizedEpisode([[5, 6, 7], [5, 6, 8, 9], [5, 6, 8, 9, 4, 3]], [[[1], [2, 3, 4], [2]]] * 3),
    TokenizedEpisode([[1, 2], [5, 6, 7]], [[[11, 12], [13]], [[14], [15, 16]]]),
]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def alone(model: Any, prompt: list[int], action: list[int]) -> float:
    """Log-probability of an action behind a prompt, by an ordinary pass."""
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt + action])).logits[0].log_softmax(-1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(action))


def test_texts_share_what_they_begin_with() -> None:
    tokens, parents, ends = build_tree([[5, 6, 7], [5, 6, 8], [], [5, 6]])
    assert tokens == [5, 6, 7, 8]
    assert parents == [-1, 0, 1, 1]
    assert ends == [2, 3, -1, 1]


def test_a_tree_is_read_as_its_texts_are_alone(model: Any) -> None:
    texts = [[[5, 6, 7, 1], [5, 6, 8], [9, 9]], [[4, 3]]]
    merged = [build_tree(row) for row in texts]
    logits = TokenTree(model, 2).extend(
        pad_rows([(tokens, parents) for tokens, parents, _ in merged])
    )
    for row, (_, _, ends) in enumerate(merged):
        for text, end in zip(texts[row], ends, strict=True):
            with torch.inference_mode():
                reference = model(torch.tensor([text])).logits[0, -1]
            assert torch.allclose(logits[row, end], reference, atol=1e-5)


_SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
_MIXED = ["sliding_attention", "full_attention"] * 2
SLIDING = {
    "mistral": MistralConfig(**_SIZES, sliding_window=3),
    "qwen2, all sliding": Qwen2Config(
        **_SIZES, sliding_window=3, use_sliding_window=True, layer_types=["sliding_attention"] * 4
    ),
    "qwen2": Qwen2Config(**_SIZES, sliding_window=3, use_sliding_window=True, layer_types=_MIXED),
    "qwen2, unused window": Qwen2Config(**_SIZES, sliding_window=3, use_sliding_window=False),
    "gemma2": Gemma2Config(**_SIZES, sliding_window=3, layer_types=_MIXED),
    "gemma3": Gemma3TextConfig(**_SIZES, sliding_window=3, layer_types=_MIXED),
}


@pytest.mark.parametrize("name", SLIDING)
def test_sliding_windows_are_attended_as_transformers_does(name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SLIDING[name]).float().eval()
    texts = [[5, 6, 7, 1, 8, 3, 2, 9], [5, 6, 7, 1, 4, 4, 9], [9, 9, 1]]
    tokens, parents, ends = build_tree(texts)
    tree = TokenTree(model, 1)
    first = tree.extend(pad_rows([(tokens[:5], parents[:5])]))
    logits = torch.cat([first, tree.extend(pad_rows([(tokens[5:], parents[5:])]))], 1)
    for text, end in zip(texts, ends, strict=True):
        with torch.inference_mode():
            reference = model(torch.tensor([text])).logits[0, -1]
        assert torch.allclose(logits[0, end], reference, atol=1e-4)


def test_layers_without_attention_are_refused() -> None:
    config = Qwen2Config(**_SIZES, layer_types=["full_attention", "linear_attention"] * 2)
    with pytest.raises(TrainingError, match="`qwen2` has layers of `linear_attention`"):
        attention_windows(config)


def test_actions_of_several_tokens_have_their_joint_probability(model: Any) -> None:
    found = EpisodeReader(model, RUNS).logprobs(PLAIN)
    expected = [
        [alone(model, prompt, action) for action in actions]
        for run in RUNS
        for prompt, actions in zip(run.prompts, run.actions, strict=True)
    ]
    assert found.shape == (5, 3)
    for row, values in zip(found.tolist(), expected, strict=True):
        assert row[: len(values)] == pytest.approx(values, abs=1e-5)
        assert row[len(values) :] == [-torch.inf] * (3 - len(values))


def test_steering_begins_at_the_last_prompt_token_and_ends_with_its_condition(model: Any) -> None:
    move = torch.linspace(-2, 2, 16)
    reader = EpisodeReader(model, RUNS)
    before = reader.logprobs(PLAIN)
    found = reader.logprobs(Condition({1: move}))
    prompt, action = RUNS[0].prompts[1], RUNS[0].actions[1][1]

    def hook(_: Any, __: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        stream[:, len(prompt) - 1 :] += move
        return output

    handle = model.model.layers[1].register_forward_hook(hook)
    try:
        expected = alone(model, prompt, action)
    finally:
        handle.remove()
    assert float(found[1, 1]) == pytest.approx(expected, abs=1e-5)
    assert abs(float(before[1, 1]) - expected) > 1e-2
    assert torch.allclose(reader.logprobs(PLAIN), before, atol=1e-5)


def test_many_conditions_at_once_are_each_alone(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = torch.linspace(-2, 2, 16), torch.linspace(3, -1, 16)
    conditions = [
        Condition({0: one}),
        PLAIN,
        Condition({2: two, 0: two}),
        Condition(temperature=2.0),
        Condition({0: one}, temperature=0.5),
    ]
    for tokens in (10_000, 30, 1):
        monkeypatch.setattr("training.steering.reader._TAIL_TOKENS", tokens)
        reader = EpisodeReader(model, RUNS)
        together = reader.sweep(conditions)
        for place, condition in enumerate(conditions):
            alone = EpisodeReader(model, RUNS).logprobs(condition)
            assert torch.allclose(together[:, place], alone, atol=1e-5)


def test_a_temperature_scales_every_token_of_an_action(model: Any) -> None:
    found = EpisodeReader(model, RUNS).logprobs(Condition(temperature=2.0))
    prompt = RUNS[1].prompts[1]
    with torch.inference_mode():
        halved = (model(torch.tensor([[*prompt, 15]])).logits[0] / 2).log_softmax(-1)
    expected = float(halved[len(prompt) - 1, 15] + halved[len(prompt), 16])
    assert float(found[4, 1]) == pytest.approx(expected, abs=1e-5)


def test_states_are_those_behind_each_layer_without_the_final_norm(model: Any) -> None:
    _, states = EpisodeReader(model, RUNS).states([0, 1, 2])
    for number, prompt in enumerate([*RUNS[0].prompts, *RUNS[1].prompts]):
        with torch.inference_mode(), capture_stream(model, [0, 1, 2]) as streams:
            model(torch.tensor([prompt]))
        for layer in range(3):
            assert torch.allclose(states[number, layer], streams[layer][0, -1], atol=1e-5)


def test_likeliest_answers_are_those_of_generate(model: Any) -> None:
    greedy = Condition(temperature=0.0)
    chance = torch.Generator().manual_seed(0)
    drawn = EpisodeReader(model, RUNS).sample(greedy, 2, 6, chance, end=-1)
    for prompt, completions in zip([*RUNS[0].prompts, *RUNS[1].prompts], drawn, strict=True):
        text = list(prompt)
        for _ in range(6):
            with torch.inference_mode():
                text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        assert completions == [text[len(prompt) :]] * 2


def test_samples_follow_the_model_and_end_where_it_ends(model: Any) -> None:
    chance = torch.Generator().manual_seed(0)
    drawn = EpisodeReader(model, RUNS[1:]).sample(PLAIN, 4000, 2, chance, end=7)
    assert not [one for one in drawn[0] if 7 in one]
    with torch.inference_mode():
        shares = model(torch.tensor([RUNS[1].prompts[0]])).logits[0, -1].softmax(-1)
    seen = sum(one[:1] == [3] for one in drawn[0]) / 4000
    assert seen == pytest.approx(float(shares[3]), abs=0.03)


def test_a_hook_ends_with_its_block(model: Any) -> None:
    with add_to_stream(model, {0: torch.ones(16)}), capture_stream(model, [1]):
        pass
    assert not any(layer._forward_hooks for layer in model.model.layers)
