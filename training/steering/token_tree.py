"""Texts with shared prefixes in one forward pass: each token attends to its ancestors only.

The prompts of an agent's run repeat its history, and a steered answer begins behind an unsteered
prompt. So a run is a tree: what texts share is computed once, and a prompt stays in the cache while
one way of steering after another is tried behind it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from training.common.errors import TrainingError


class Nodes(NamedTuple):
    """New tokens of every row and their parents."""

    tokens: Tensor
    """Shape (rows, n)."""
    parents: Tensor
    """Position of the node before, old and new ones counted together; -1 at a beginning."""


class TokenTree:
    """The nodes in the KV cache, by row; all rows have the same number."""

    def __init__(self, model: Any, rows: int) -> None:
        """Create an empty tree.

        Args:
            model: A causal language model of transformers with full or sliding-window attention.
            rows: Trees side by side.
        """
        self._model = model
        self._windows = attention_windows(model.config)
        self._cache = DynamicCache()
        self._paths = torch.zeros(rows, 0, 0, dtype=torch.bool)
        """Whether node j is an ancestor of node i, or i itself."""

    def __len__(self) -> int:
        return self._paths.shape[1]

    def extend(self, nodes: Nodes, *, logits: bool = True) -> Tensor:
        """Read more tokens.

        Args:
            nodes: In an order in which parents come first.
            logits: False spares them but for the last node's.

        Returns:
            Logits behind every new token, float32, shape (rows, n, vocabulary).
        """
        old, new = len(self), nodes.tokens.shape[1]
        rows = torch.arange(len(nodes.tokens))
        paths = torch.zeros(len(rows), old + new, old + new, dtype=torch.bool)
        paths[:, :old, :old] = self._paths
        for node in range(new):
            parent = nodes.parents[:, node]
            paths[:, old + node] = paths[rows, parent.clamp_min(0)] & (parent >= 0).unsqueeze(1)
            paths[:, old + node, old + node] = True
        self._paths = paths
        seen = paths[:, old:]
        with torch.inference_mode():
            output = self._model(
                input_ids=nodes.tokens,
                attention_mask=self._masks(seen),
                position_ids=seen.sum(-1) - 1,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=0 if logits else 1,
            )
        found: Tensor = output.logits.float()
        return found

    def _masks(self, seen: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive masks, shape (rows, 1, n, nodes): one, or one per kind of attention."""
        depths = self._paths.sum(-1) - 1
        distance = depths[:, -seen.shape[1] :].unsqueeze(2) - depths.unsqueeze(1)
        masks = {
            kind: _attention_bias(seen if window is None else seen & (distance < window))
            for kind, window in self._windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def crop(self, length: int) -> None:
        """Remove all nodes except the first `length`."""
        self._cache.crop(length - len(self))
        self._paths = self._paths[:, :length, :length]


def _attention_bias(seen: Tensor) -> Tensor:
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(seen.shape).masked_fill(~seen, lowest).unsqueeze(1)


def attention_windows(config: Any) -> dict[str, int | None]:
    """Kinds of attention of a model's layers, and how many tokens each looks back; None for all.

    Raises:
        TrainingError: A layer does not attend to single earlier tokens, such as a recurrent one.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    default = "full_attention" if window is None else "sliding_attention"
    kinds = set(getattr(text, "layer_types", None) or [default])
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise TrainingError(
            f"the model `{text.model_type}` has layers of `{min(unknown)}`: steering vectors can "
            "be trained for models with full or sliding-window attention"
        )
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def build_tree(texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """The texts of one row as a tree.

    Returns:
        The tokens of its nodes, their parents, and the node at which each text ends (-1 for an
        empty one).
    """
    tokens, parents, ends = list[int](), list[int](), list[int]()
    children = dict[tuple[int, int], int]()
    for text in texts:
        at = -1
        for token in text:
            if (at, token) not in children:
                children[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
            at = children[at, token]
        ends.append(at)
    return tokens, parents, ends


def pad_rows(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Nodes:
    """Rows of tokens and parents as tensors; what fills the shorter ones follows nothing."""
    width = max(len(tokens) for tokens, _ in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    parents = torch.full((len(rows), width), -1)
    for row, (mine, before) in enumerate(rows):
        tokens[row, : len(mine)] = torch.tensor(mine, dtype=torch.long)
        parents[row, : len(mine)] = torch.tensor(before, dtype=torch.long)
    return Nodes(tokens, parents)


def decoder_layers(model: Any) -> Any:
    """The decoder layers in the order of execution, counted from 0 as in the server."""
    return model.get_decoder().layers


@contextmanager
def add_to_stream(model: Any, moves: Mapping[int, Tensor]) -> Iterator[None]:
    """Add a vector to the residual stream after some layers while the block runs."""

    def hook(move: Tensor) -> Any:
        def run(_: Any, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + move, *output[1:])
            return output + move

        return run

    layers = decoder_layers(model)
    with ExitStack() as stack:
        for number, move in moves.items():
            handle = layers[number].register_forward_hook(hook(move.to(model.dtype)))
            stack.callback(handle.remove)
        yield


@contextmanager
def capture_stream(model: Any, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The residual stream after some layers, shape (rows, n, hidden), of the last pass."""
    streams = dict[int, Tensor]()

    def hook(number: int) -> Any:
        def run(_: Any, __: Any, output: Any) -> None:
            streams[number] = (output[0] if isinstance(output, tuple) else output).float()

        return run

    layers = decoder_layers(model)
    with ExitStack() as stack:
        for number in wanted:
            stack.callback(layers[number].register_forward_hook(hook(number)).remove)
        yield streams
