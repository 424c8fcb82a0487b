from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from training.common.errors import TrainingError
from training.steering.gguf import read_control_vector, write_control_vector

DIRECTIONS = {20: torch.linspace(-1, 1, 8), 3: torch.arange(1.0, 9.0)}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    write_control_vector(path, DIRECTIONS, "llama")
    hint, found = read_control_vector(path)
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


def written(path: Path, arch: str, **tensors: "np.ndarray[tuple[int, ...], np.dtype]") -> Path:
    writer = GGUFWriter(path, arch)
    for name, tensor in tensors.items():
        writer.add_tensor(name.replace("_", "."), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ONES = np.ones(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("arch", "tensors", "expected"),
    [
        ("llama", {"direction_1": ONES}, "holds `llama` and no control vector"),
        ("controlvector", {"weight": ONES}, "`weight` is no direction"),
        ("controlvector", {"direction_1": ONES.astype(np.float16)}, "float32"),
        ("controlvector", {"direction_1": np.ones((2, 2), np.float32)}, "in one row"),
        ("controlvector", {"direction_1": ONES, "direction_2": np.ones(5, np.float32)}, "length"),
        ("controlvector", {"direction_1": ONES * np.nan}, "no finite numbers"),
        ("controlvector", {"direction_1": ONES * 0}, "zero"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, arch: str, tensors: dict[str, "np.ndarray"], expected: str
) -> None:
    with pytest.raises(TrainingError, match=expected):
        read_control_vector(written(tmp_path / "v.gguf", arch, **tensors))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a gguf file at all, but text" * 9])
def test_what_is_no_gguf_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.gguf"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="not a GGUF file"):
        read_control_vector(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        read_control_vector(tmp_path / "none.gguf")
