from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from gguf.quants import quantize

from training.common.errors import TrainingError
from training.steering.exchange import same_architecture
from training.steering.gguf import read_control_vector, write_control_vector

DIRECTIONS = {20: torch.linspace(-1, 1, 8), 3: torch.arange(1.0, 9.0)}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    write_control_vector(path, DIRECTIONS, "llama")
    hint, found, _ = read_control_vector(path)
    assert hint == "llama"
    assert sorted(found) == [3, 20]
    for layer, direction in DIRECTIONS.items():
        assert torch.equal(found[layer], direction)
    assert [file.name for file in tmp_path.iterdir()] == ["v.gguf"]


def test_the_file_is_what_llama_cpp_and_repeng_look_for(tmp_path: Path) -> None:
    """Keys and names as both spell them; layer numbers are not shifted."""
    path = tmp_path / "v.gguf"
    write_control_vector(path, DIRECTIONS, "llama")
    reader = GGUFReader(path)

    def value(key: str) -> object:
        field = reader.get_field(key)
        assert field is not None
        return field.contents()

    assert value("general.architecture") == "controlvector"
    assert value("controlvector.model_hint") == "llama"
    assert value("controlvector.layer_count") == 2
    assert [tensor.name for tensor in reader.tensors] == ["direction.3", "direction.20"]
    assert np.array_equal(reader.tensors[0].data, DIRECTIONS[3].numpy())


def test_layer_0_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="layer 0"):
        write_control_vector(tmp_path / "v.gguf", {0: torch.ones(4)}, "llama")
    assert not list(tmp_path.iterdir())


def written(path: Path, arch: str, tensors: Mapping[str, "np.ndarray"], kind: Any = None) -> Path:
    """A file with these tensors, of one type of GGUF."""
    writer = GGUFWriter(path, arch)
    for name, tensor in tensors.items():
        data = tensor if kind is None else quantize(tensor, kind)
        shape = None if kind is None else data.shape
        writer.add_tensor(name, data, raw_shape=shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ONES = np.ones(4, dtype=np.float32)
WAVE = np.sin(np.arange(64, dtype=np.float32))


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0])
@pytest.mark.parametrize("shape", [(64,), (1, 64)])
def test_every_float_type_and_row_shape_is_read(
    tmp_path: Path, kind: Kind, shape: tuple[int, ...]
) -> None:
    tensors = {"direction.5": WAVE.reshape(shape), "direction.7": -WAVE.reshape(shape)}
    found = read_control_vector(written(tmp_path / "v.gguf", "controlvector", tensors, kind))
    assert sorted(found.directions) == [5, 7]
    assert found.directions[5].dtype == torch.float32
    assert found.directions[5].numpy() == pytest.approx(WAVE, abs=0.01)
    assert torch.equal(found.directions[7], -found.directions[5])


def test_float64_is_read(tmp_path: Path) -> None:
    tensors = {"direction.1": WAVE.astype(np.float64)}
    found = read_control_vector(written(tmp_path / "v.gguf", "controlvector", tensors))
    assert np.array_equal(found.directions[1].numpy(), WAVE)


def test_extra_tensors_are_ignored_and_zero_layers_left_out(tmp_path: Path) -> None:
    tensors = {"direction.1": ONES, "direction.2": ONES * 0, "mean.1": ONES, "norm": ONES[:1]}
    found = read_control_vector(written(tmp_path / "v.gguf", "controlvector", tensors))
    assert list(found.directions) == [1]
    assert found.zero_layers == [2]


@pytest.mark.parametrize(
    ("arch", "tensors", "expected"),
    [
        ("llama", {"direction.1": ONES}, r"contains a model \(`llama`\)"),
        ("controlvector", {"weight": ONES}, "contains no tensor `direction.N`"),
        ("controlvector", {"direction.x": ONES}, r"`direction.x` \(F32\) does not end in a layer"),
        (
            "controlvector",
            {"direction.3": np.arange(4, dtype=np.int32)},
            r"`direction.3` \(I32, shape \[4\], layer 3\): expected a float type",
        ),
        (
            "controlvector",
            {"direction.1": np.ones((2, 2), np.float32)},
            r"`direction.1` \(F32, shape \[2, 2\], layer 1\): expected one row",
        ),
        (
            "controlvector",
            {"direction.1": ONES, "direction.2": np.ones(5, np.float32)},
            "differ in length: 4 at layer 1, 5 at layer 2",
        ),
        ("controlvector", {"direction.6": ONES * np.nan}, r"`direction.6` .* not finite"),
        ("controlvector", {"direction.1": ONES * 0}, "every direction is zero"),
        (
            "controlvector",
            {"direction.1": ONES, "direction.01": ONES},
            "two directions for layer 1",
        ),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, arch: str, tensors: dict[str, "np.ndarray"], expected: str
) -> None:
    with pytest.raises(TrainingError, match=expected):
        read_control_vector(written(tmp_path / "v.gguf", arch, tensors))


@pytest.mark.parametrize("cut", [30, 100, 200, -8])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "v.gguf", "controlvector", {"direction.1": WAVE})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TrainingError, match="not a GGUF file, or truncated"):
        read_control_vector(path)


@pytest.mark.parametrize(
    ("hint", "model_type", "same"),
    [
        ("llama", "llama", True),
        ("llama", "mistral", True),
        ("gemma3", "gemma3_text", True),
        ("qwen2moe", "qwen2_moe", True),
        ("qwen2", "llama", False),
        ("gemma2", "gemma3_text", False),
    ],
)
def test_an_architecture_hint_is_compared_as_llama_cpp_and_transformers_spell_it(
    hint: str, model_type: str, same: bool
) -> None:
    assert same_architecture(hint, SimpleNamespace(model_type=model_type)) is same


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a gguf file at all, but text" * 9])
def test_what_is_no_gguf_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.gguf"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="not a GGUF file"):
        read_control_vector(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        read_control_vector(tmp_path / "none.gguf")
