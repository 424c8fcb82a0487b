"""Whatever an artifact's files hold, loading returns usable tensors or raises `ArtifactError`."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from probes.artifact import Artifact, ArtifactError
from probes.tensors import FLOATS
from server.artifacts import Artifacts
from server.served_model import ModelFacts
from server.wire.cards import ArtifactList
from tests.unit.server.support import (
    HIDDEN_SIZE,
    SERVED,
    save_inquiry,
    save_probe,
    save_statistics,
    save_vector,
)

KINDS: dict[str, Callable[[Path, str], object]] = {
    "entropy": save_statistics,
    "difficulty": save_probe,
    "inquiry": save_inquiry,
    "steering": save_vector,
}
ODD: list[Any] = [None, -1, 0, 999, 1.5, True, "x", "", [], {}, [None], 10**30, 1e300, "layer_1"]
DTYPES = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
]
quick = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A good artifact of each kind."""
    name: str = request.param
    KINDS[name](tmp_path, f"m/{name}")
    return tmp_path / "m" / name


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Replace the tensors, as a foreign tool would: the manifest then has no hash of them."""
    (folder / "weights.safetensors").write_bytes(save(tensors))
    edit(folder, ("tensors_hash",), None)


def edit(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    file = folder / "manifest.json"
    manifest = place = json.loads(file.read_text())
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(manifest))


def loaded(folder: Path) -> Artifact | None:
    """The artifact, or None if it is refused as it should be; nothing else may happen."""
    artifact = None
    try:
        artifact = Artifact.load(folder)
    except ArtifactError as error:
        said = str(error)
        assert said.startswith(f"m/{folder.name}: ")
        assert "\n" not in said
        assert "manifest.json" in said or "weights.safetensors" in said
    if artifact is not None:
        for tensor in artifact.tensors.values():
            assert tensor.dtype in FLOATS
            assert tensor.isfinite().all()
        artifact.contents()
    server = Artifacts([folder.parent.parent], SERVED, ModelFacts(HIDDEN_SIZE, num_layers=4))
    (card,) = server.cards
    assert card.usable or card.reason
    assert artifact is not None or not card.usable
    ArtifactList(data=[card]).model_dump_json()
    server.heads()
    server.steering_vectors()
    server.for_workers()
    return artifact


def test_a_good_artifact_is_usable(folder: Path) -> None:
    assert loaded(folder) is not None
    (card,) = Artifacts([folder.parent.parent], SERVED, ModelFacts(HIDDEN_SIZE)).cards
    assert card.usable, card.reason


@contextmanager
def damaged(file: Path, data: st.DataObject, within: int = 10**9) -> Iterator[bytes]:
    """Cut and insert up to nine bytes somewhere in the first bytes of a file; yield what it was."""
    good = file.read_bytes()
    at = data.draw(st.integers(0, min(len(good) - 1, within)))
    cut, extra = data.draw(st.integers(0, 9)), data.draw(st.binary(max_size=9))
    try:
        file.write_bytes(good[:at] + extra + good[at + cut :])
        yield good
    finally:
        file.write_bytes(good)


@quick
@given(data=st.data())
def test_damaged_weights_load_identical_or_not_at_all(folder: Path, data: st.DataObject) -> None:
    with damaged(folder / "weights.safetensors", data) as good:
        artifact = loaded(folder)
        if artifact is not None:
            same = load(good)
            assert all(torch.equal(artifact.tensors[name], same[name]) for name in same)


@quick
@given(data=st.data())
def test_damaged_weights_without_a_hash_load_finite_or_not_at_all(
    folder: Path, data: st.DataObject
) -> None:
    edit(folder, ("tensors_hash",), None)
    with damaged(folder / "weights.safetensors", data, within=400):
        loaded(folder)


@quick
@given(data=st.data())
def test_a_damaged_manifest_loads_or_is_refused(folder: Path, data: st.DataObject) -> None:
    with damaged(folder / "manifest.json", data):
        loaded(folder)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every field of a JSON document."""
    items = enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict):
        items = value.items()  # type: ignore[assignment]
    found = [] if not path else [path]
    for key, one in items:
        found += places(one, (*path, key))
    return found


@settings(quick, max_examples=120)
@given(data=st.data())
def test_a_field_of_another_value_loads_or_is_refused(folder: Path, data: st.DataObject) -> None:
    file = folder / "manifest.json"
    good = file.read_text()
    path = data.draw(st.sampled_from(places(json.loads(good))))
    try:
        edit(folder, path, data.draw(st.sampled_from(ODD)))
        loaded(folder)
    finally:
        file.write_text(good)


@settings(quick, max_examples=120)
@given(data=st.data())
def test_other_tensors_load_only_if_they_can_be_used(folder: Path, data: st.DataObject) -> None:
    weights, manifest = folder / "weights.safetensors", folder / "manifest.json"
    good, described = weights.read_bytes(), manifest.read_text()
    tensors = load(good)
    name = data.draw(st.sampled_from(sorted(tensors)))
    change = data.draw(st.sampled_from(["dtype", "shape", "value", "missing", "extra"]))
    match change:
        case "dtype":
            tensors[name] = tensors[name].to(data.draw(st.sampled_from(DTYPES)))
        case "shape":
            tensors[name] = torch.cat([tensors[name].flatten(), torch.ones(1)])
        case "value":
            odd = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
            tensors[name] = torch.full_like(tensors[name], odd)
        case "missing":
            del tensors[name]
        case "extra":
            tensors["extra"] = torch.ones(1)
    try:
        rewrite(folder, tensors)
        assert loaded(folder) is None
    finally:
        weights.write_bytes(good)
        manifest.write_text(described)


@pytest.mark.parametrize("layer", ["-1", "1.5", "01", "+1", " 1", "one", "", "1e1", "9" * 30])
def test_a_layer_that_is_no_plain_number_is_refused(tmp_path: Path, layer: str) -> None:
    save_vector(tmp_path, "m/steering", layers=(1,))
    edit(tmp_path / "m" / "steering", ("steering", "norms"), {layer: 1.0})
    with pytest.raises(ArtifactError, match=r"manifest\.json: steering\.norms\."):
        Artifact.load(tmp_path / "m" / "steering")


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("steering", ("steering",), None, "manifest.json: steering is missing"),
        ("entropy", ("kind",), "difficulty-probe", "manifest.json: probe is missing"),
        ("entropy", ("kind",), "weather", "manifest.json: kind: "),
        ("entropy", ("schema_version",), 2, "manifest.json: schema_version is 2"),
        ("entropy", ("schema_version",), None, "manifest.json: schema_version is None"),
        ("steering", ("steering", "features"), 0, "manifest.json: steering.features: "),
        ("steering", ("steering", "norms", "1"), -1.0, "manifest.json: steering.norms.1: "),
        ("difficulty", ("tensors_hash",), "other", "weights.safetensors: tensors_hash"),
    ],
)
def test_file_and_field_are_named(
    name: str, path: tuple[str, ...], value: object, said: str, tmp_path: Path
) -> None:
    KINDS[name](tmp_path, f"m/{name}")
    edit(tmp_path / "m" / name, path, value)
    with pytest.raises(ArtifactError) as error:
        Artifact.load(tmp_path / "m" / name)
    assert str(error.value).startswith(f"m/{name}: {said}")


def test_a_probe_in_the_manifest_of_a_vector_is_refused(tmp_path: Path) -> None:
    save_vector(tmp_path, "m/steering")
    save_probe(tmp_path, "m/difficulty")
    probe = json.loads((tmp_path / "m/difficulty/manifest.json").read_text())["probe"]
    edit(tmp_path / "m/steering", ("probe",), probe)
    with pytest.raises(ArtifactError, match="probe does not belong to a steering-vector"):
        Artifact.load(tmp_path / "m/steering")


@pytest.mark.parametrize("name", ["scale", "temperature"])
def test_a_probe_that_divides_by_zero_is_refused(name: str, tmp_path: Path) -> None:
    save_probe(tmp_path, "m/difficulty")
    folder = tmp_path / "m" / "difficulty"
    tensors = load((folder / "weights.safetensors").read_bytes())
    for value in (0.0, -1.0, 1e-60):  # the last is 0 in float32, in which a server divides
        wrong = torch.full(tensors[name].shape, value, dtype=torch.float64)
        rewrite(folder, tensors | {name: wrong})
        with pytest.raises(ArtifactError, match=rf"tensor `{name}` must be larger than 0"):
            Artifact.load(folder)


@pytest.mark.parametrize("file", ["manifest.json", "weights.safetensors"])
def test_what_is_no_regular_file_is_refused(file: str, tmp_path: Path) -> None:
    save_statistics(tmp_path, "m/entropy")
    folder = tmp_path / "m" / "entropy"
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(ArtifactError, match=rf"^m/entropy: {file} is not a regular file$"):
        Artifact.load(folder)


@pytest.mark.parametrize("file", ["manifest.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "dangling", "kernel", "socket"])
def test_a_file_that_never_ends_or_never_begins_is_refused(
    file: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_statistics(tmp_path, "m/entropy")
    path = tmp_path / "m" / "entropy" / file
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # an address has at most 107 characters
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(file)
    else:
        targets = {"device": "/dev/zero", "loop": file, "dangling": "nothing"}
        path.symlink_to(targets.get(kind, "/proc/self/pagemap"))  # no size, and 64 GB to read
    with pytest.raises(ArtifactError, match=rf"^m/entropy: {file} "):
        Artifact.load(path.parent)
    cards = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN_SIZE)).cards
    assert not any(card.usable for card in cards)


def test_a_link_to_a_good_file_is_read(tmp_path: Path) -> None:
    save_statistics(tmp_path, "m/entropy")
    weights = tmp_path / "m" / "entropy" / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert Artifact.load(weights.parent).tensors


def test_a_manifest_cannot_control_a_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_statistics(tmp_path, "m/entropy")
    edit(tmp_path / "m" / "entropy", ("model",), "a\x1b]52;c;eA==\x07")
    save_inquiry(tmp_path, "m/pets")
    label = "\x1b[31m" + "x" * 10_000
    edit(tmp_path / "m" / "pets", ("inquiry", "task", "queries", 0, "yes", 0), label)
    entropy, pets = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN_SIZE)).cards
    assert entropy.model == "a?]52;c;eA==?"
    assert pets.reason is not None
    assert pets.reason.isprintable()
    assert len(pets.reason) <= 500
    assert all(one.getMessage().isprintable() for one in caplog.records)


@pytest.mark.parametrize("name", ["\x1b]52;c;eA==\x07", "a\nb", "\u202etxt", "a\u200db", "\x7f"])
def test_a_name_cannot_control_a_terminal(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to the log and to everybody who lists artifacts."""
    save_statistics(tmp_path, "m/entropy")
    (tmp_path / "m" / "entropy").rename(tmp_path / "m" / name)
    (tmp_path / "m" / name / "weights.safetensors").unlink()
    (card,) = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN_SIZE)).cards
    assert card.id.isprintable()
    assert all(one.getMessage().isprintable() for one in caplog.records)


def test_tensors_survive_a_file_that_shrinks_after_it_was_read(tmp_path: Path) -> None:
    """A mapped file that is cut ends the process with SIGBUS at the next read."""
    save_vector(tmp_path, "m/steering")
    folder = tmp_path / "m" / "steering"
    artifact = Artifact.load(folder)
    before = {name: tensor.clone() for name, tensor in artifact.tensors.items()}
    with (folder / "weights.safetensors").open("r+b") as handle:
        handle.truncate(0)
    assert all(torch.equal(artifact.tensors[name], before[name]) for name in before)


def test_a_name_that_is_not_utf8_is_listed(tmp_path: Path) -> None:
    save_statistics(tmp_path, "m/entropy")
    odd = tmp_path / "m" / b"odd\xff".decode(errors="surrogateescape")
    shutil.copytree(tmp_path / "m" / "entropy", odd)
    cards = Artifacts([tmp_path], SERVED, ModelFacts(HIDDEN_SIZE)).cards
    assert {card.id for card in cards} == {"m/entropy", "m/odd?"}
    ArtifactList(data=cards).model_dump_json()
