import ast
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from probes import artifact as module
from probes.artifact import (
    Artifact,
    ArtifactError,
    Manifest,
    ModelIdentity,
    find_artifacts,
    package_versions,
)

ROOT = Path(__file__).resolve().parents[3]
IDENTITY = ModelIdentity(
    config_hash="c", weights_hash="w", tokenizer_hash="t", chat_template_hash="j"
)


def make(name: str = "tiny/entropy", value: float = 1.0, **changes: object) -> Artifact:
    fields: dict[str, object] = {
        "kind": "entropy-statistics",
        "model": "tiny",
        "identity": IDENTITY,
        "data_hash": "d",
        "seed": 3,
        "versions": {"torch": "2"},
        "settings": {"quantile": 0.8, "prompts": "own", "count": 4},
        "metrics": {"num_tokens": 12, "std": 0.5},
    }
    manifest = Manifest.model_validate({**fields, **changes})
    numbers = [value, 1.0, 0.5, -0.25]
    tensors = {"hapo": torch.tensor(numbers, dtype=torch.float64)}
    return Artifact(id=name, manifest=manifest, tensors=tensors)


def differs(field: str | None) -> str | None:
    return None if field is None else f"made for another model: {field} differs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact on disk."""
    return make().save(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model folder small enough that every byte of its weights is sampled."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 16}
    (path / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.arange(6.0)}, path / "model-1.safetensors")
    save_file({"v": torch.arange(9.0)}, path / "model-2.safetensors")
    (path / "tokenizer.json").write_text('{"model": {}}')
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


# -- on disk -----------------------------------------------------------------------------------


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = make()
    path = saved.save(tmp_path)
    loaded = Artifact.load(path)
    assert path == tmp_path / "tiny" / "entropy"
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "weights.safetensors"]
    digest = hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()
    manifest = saved.manifest.model_copy(update={"tensors_hash": digest})
    assert (loaded.id, loaded.manifest) == (saved.id, manifest)
    assert set(loaded.tensors) == set(saved.tensors)
    for name, tensor in saved.tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_tensors_that_are_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    view = torch.tensor([[1.0, 9.0], [2.0, 9.0], [3.0, 9.0], [-4.0, 9.0]])[:, 0]
    saved = Artifact(id="tiny/view", manifest=make().manifest, tensors={"hapo": view})
    assert torch.equal(Artifact.load(saved.save(tmp_path)).tensors["hapo"], view)


def test_saving_again_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make(value=1.0).save(tmp_path)
    path = make(value=2.0).save(tmp_path)
    assert Artifact.load(path).tensors["hapo"][0] == 2.0
    assert [entry.name for entry in path.parent.iterdir()] == ["entropy"]


def test_others_may_read_what_was_saved(folder: Path) -> None:
    assert folder.stat().st_mode & 0o755 == 0o755


def test_a_failure_while_writing_leaves_the_old_one_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        make(value=2.0).save(folder.parent.parent)
    assert Artifact.load(folder).tensors["hapo"][0] == 1.0
    assert [entry.name for entry in folder.parent.iterdir()] == ["entropy"]


def test_a_failure_while_putting_it_in_place_leaves_the_old_one_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fails_for_the_new_one(path: Path, target: Path) -> Path:
        if path.name.startswith(".staging-"):
            raise OSError("input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(OSError, match="input/output"):
        make(value=2.0).save(folder.parent.parent)
    assert Artifact.load(folder).tensors["hapo"][0] == 1.0


def test_another_user_can_read_it(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        folder = make().save(tmp_path)
    finally:
        os.umask(mask)
    assert {entry.stat().st_mode & 0o777 for entry in folder.iterdir()} == {0o644}


def test_a_crash_between_two_saves_does_not_block_the_next(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name(".previous-entropy"))  # what a killed save leaves
    path = make(value=3.0).save(folder.parent.parent)
    assert Artifact.load(path).tensors["hapo"][0] == 3.0


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"^tiny/entropy: {name} is missing$"):
        Artifact.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_corrupt_manifest_is_named(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"^tiny/entropy: manifest\.json"):
        Artifact.load(folder)


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_weights_are_named(folder: Path, keep: int) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"^tiny/entropy: weights\.safetensors"):
        Artifact.load(folder)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"seed": "many"}, "seed"),
        ({"data_hash": ...}, "data_hash"),
        ({"kind": "weather"}, "kind"),
        ({"identity": {**IDENTITY.model_dump(), "color": "red"}}, r"identity\.color"),
    ],
)
def test_a_manifest_with_a_wrong_field_names_it(
    folder: Path, change: dict[str, object], field: str
) -> None:
    edit(folder, **change)
    with pytest.raises(ArtifactError, match=rf"^tiny/entropy: manifest\.json: {field}: "):
        Artifact.load(folder)


def test_another_schema_version_is_named(folder: Path) -> None:
    edit(folder, schema_version=2)
    with pytest.raises(
        ArtifactError, match=r"^tiny/entropy: manifest\.json: schema_version is 2, .* reads 1"
    ):
        Artifact.load(folder)


# -- where they lie ----------------------------------------------------------------------------


def test_a_root_named_earlier_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make("tiny/both", value=1.0).save(first)
    make("tiny/both", value=2.0).save(second)
    make("tiny/mine").save(second)
    assert find_artifacts([first, second]) == {
        "tiny/both": first / "tiny" / "both",
        "tiny/mine": second / "tiny" / "mine",
    }
    assert find_artifacts([second, first])["tiny/both"] == second / "tiny" / "both"


def test_a_scan_finds_only_folders_with_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "empty").mkdir(parents=True)
    (tmp_path / "tiny" / "README").write_text("")
    assert find_artifacts([tmp_path, tmp_path / "nowhere"]) == {}


@pytest.mark.parametrize("leftover", [".previous-entropy", ".staging-abc"])
def test_a_scan_does_not_take_what_a_killed_save_left_for_an_artifact(
    folder: Path, leftover: str
) -> None:
    shutil.copytree(folder, folder.with_name(leftover))
    assert list(find_artifacts([folder.parent.parent])) == ["tiny/entropy"]


# -- which model they belong to ----------------------------------------------------------------


def test_an_identity_survives_a_copy_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    identity = ModelIdentity.from_checkpoint(checkpoint)
    assert ModelIdentity.from_checkpoint(copy) == identity
    assert (
        make(identity=identity).manifest.identity.mismatch(ModelIdentity.from_checkpoint(copy))
        is None
    )
    assert None not in identity.model_dump().values()


def test_an_empty_folder_has_no_fingerprints(tmp_path: Path) -> None:
    assert set(ModelIdentity.from_checkpoint(tmp_path).model_dump().values()) == {None}


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_one_changed_byte_of_the_weights_is_another_model(
    checkpoint: Path, data: st.DataObject
) -> None:
    before = ModelIdentity.from_checkpoint(checkpoint)
    file = checkpoint / data.draw(st.sampled_from(["model-1.safetensors", "model-2.safetensors"]))
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    after = ModelIdentity.from_checkpoint(checkpoint)
    file.write_bytes(content)
    assert make(identity=before).manifest.identity.mismatch(after) == differs("weights_hash")


def test_a_changed_block_of_large_weights_is_another_model(checkpoint: Path) -> None:
    large = checkpoint / "model-1.safetensors"
    large.write_bytes(bytes(4 << 20))
    hashes = {ModelIdentity.from_checkpoint(checkpoint).weights_hash}
    for block in range(32):
        content = bytearray(4 << 20)
        content[(4 << 20) * block // 32 + 100] = 1
        large.write_bytes(content)
        hashes.add(ModelIdentity.from_checkpoint(checkpoint).weights_hash)
    assert len(hashes) == 33


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("tokenizer.json", "tokenizer_hash"),
        ("chat_template.jinja", "chat_template_hash"),
    ],
)
def test_a_changed_file_is_the_field_that_differs(checkpoint: Path, file: str, field: str) -> None:
    manifest = make(identity=ModelIdentity.from_checkpoint(checkpoint)).manifest
    with (checkpoint / file).open("a") as handle:
        handle.write(" ")
    served = ModelIdentity.from_checkpoint(checkpoint)
    assert manifest.identity.mismatch(served) == differs(field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": 9}, "config_hash"),
        ({"architectures": ["Other"]}, "config_hash"),
        ({"vocab_size": 17}, "config_hash"),
        ({"transformers_version": "9", "torch_dtype": "float64"}, None),
    ],
)
def test_the_config_is_judged_by_what_makes_the_model(
    checkpoint: Path, changes: dict[str, object], field: str | None
) -> None:
    manifest = make(identity=ModelIdentity.from_checkpoint(checkpoint)).manifest
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    served = ModelIdentity.from_checkpoint(checkpoint)
    assert manifest.identity.mismatch(served) == differs(field)


@pytest.mark.parametrize("field", list(ModelIdentity.model_fields))
def test_a_mismatch_names_the_field(field: str) -> None:
    served = IDENTITY.model_copy(update={field: "other"})
    assert make().manifest.identity.mismatch(served) == differs(field)
    assert make().manifest.identity.mismatch(IDENTITY) is None


@pytest.mark.parametrize("field", list(ModelIdentity.model_fields))
def test_an_artifact_without_a_fingerprint_fits_no_model_that_has_one(field: str) -> None:
    lacking = IDENTITY.model_copy(update={field: None})
    assert make(identity=lacking).manifest.identity.mismatch(IDENTITY) == (
        f"manifest.json: identity.{field} is null: made for an unknown model"
    )


@pytest.mark.parametrize("field", ["tokenizer_hash", "chat_template_hash"])
def test_a_model_without_tokenizer_or_template_has_artifacts_without(field: str) -> None:
    lacking = IDENTITY.model_copy(update={field: None})
    assert make(identity=lacking).manifest.identity.mismatch(lacking) is None
    assert make().manifest.identity.mismatch(lacking) == differs(field)


@pytest.mark.parametrize("field", ["config_hash", "weights_hash"])
def test_nothing_fits_a_model_whose_files_cannot_be_read(field: str) -> None:
    lacking = IDENTITY.model_copy(update={field: None})
    assert make().manifest.identity.mismatch(lacking) is not None
    assert make(identity=lacking).manifest.identity.mismatch(lacking) is not None
    unknown = ModelIdentity.unknown()
    assert make(identity=unknown).manifest.identity.mismatch(unknown) is not None


def test_a_worker_accepts_every_chat_template_and_nothing_else() -> None:
    other = IDENTITY.model_copy(update={"chat_template_hash": "other"})
    assert make().manifest.identity.mismatch(other, any_template=True) is None
    changed = other.model_copy(update={"weights_hash": "other"})
    found = make().manifest.identity.mismatch(changed, any_template=True)
    assert found == differs("weights_hash")


# -- data, never code --------------------------------------------------------------------------

_CODE_IN_DISGUISE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
_LOADERS = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load")}


@pytest.mark.parametrize("package", ["server", "probes", "training", "clients", "benchmarks"])
def test_nothing_in_the_source_can_unpickle(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
                members = {(node.module, alias.name) for alias in node.names}
                assert not members & _LOADERS, f"{path}:{node.lineno}"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in _LOADERS, f"{path}:{node.lineno}"
            assert not names & _CODE_IN_DISGUISE, path


def test_only_installed_packages_have_a_version() -> None:
    versions = package_versions("pydantic", "no-such-package")
    assert set(versions) == {"torch", "pydantic"}
