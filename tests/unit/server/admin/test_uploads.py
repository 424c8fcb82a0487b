"""Uploaded artifacts: agreed with the workers, shared by the API servers, whole or not at all."""

import asyncio
import io
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probes.artifact import FILES, Artifact
from server.admin.overrides import MAX_ARTIFACTS, NOTHING, OverrideFile
from server.admin.uploads import UnusableUpload, Uploads, read_tar
from server.artifacts import STALE, Artifacts
from server.errors import BadControl
from server.worker.message import WorkerArtifact
from tests.tars import packed, tar
from tests.unit.server.support import (
    artifacts,
    save_probe,
    save_statistics,
    save_vector,
)


def vector(root: Path, seed: int = 0, name: str = "m/push") -> Path:
    return save_vector(root, name, (1,), seed)


class Deployment:
    """Two API servers and two workers that share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.broken: WorkerArtifact | None = None
        """What the second worker answers; None: what it loaded."""
        self.artifacts = [artifacts() for _ in range(2)]
        self.servers = [Uploads(OverrideFile(folder), mine, self.load) for mine in self.artifacts]

    async def load(self, folder: str) -> list[WorkerArtifact | None]:
        self.calls.append(folder)
        found = artifacts().examine(partial(Artifact.load, Path(folder))).usable
        assert found is not None
        mine = found.for_workers()
        return [mine, self.broken or mine, None]  # the last is a rank that does not sample


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path / "shared")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()


def usable(found: Artifacts) -> set[str]:
    return {card.id for card in found.cards if card.usable}


async def test_what_is_uploaded_at_one_api_server_is_used_at_the_other(
    deployment: Deployment, tmp_path: Path
) -> None:
    mine, theirs = deployment.servers
    digest = await mine.add("m/own", packed(save_statistics(tmp_path, "m/made")))
    assert usable(deployment.artifacts[0]) == {"m/own"}
    assert deployment.calls == []  # workers need no statistics
    await theirs.sync()
    found = deployment.artifacts[1]
    assert found.hapo_statistics("m/own", "tau").std == pytest.approx(1.25)
    assert [card.hash for card in found.cards] == [digest]
    assert theirs.names == mine.names == ["m/own"]
    await theirs.remove("m/own")
    await mine.sync()
    with pytest.raises(BadControl, match="unknown artifact"):
        deployment.artifacts[0].hapo_statistics("m/own", "tau")
    assert not list(tmp_path.glob("shared/artifacts/*/m/own"))
    with pytest.raises(KeyError):
        await mine.remove("m/own")


async def test_a_vector_is_offered_once_every_worker_holds_the_same(
    deployment: Deployment, tmp_path: Path
) -> None:
    mine = deployment.servers[0]
    deployment.broken = WorkerArtifact(hash="other", layers=[1], reason=None)
    for reason in ("other contents", "layer 1 was not hooked"):
        with pytest.raises(UnusableUpload, match=reason):
            await mine.add("m/push", packed(vector(tmp_path)))
        assert usable(deployment.artifacts[0]) == set()
        assert deployment.servers[0].names == []
        deployment.broken = WorkerArtifact(hash="", layers=[], reason="layer 1 was not hooked")
    deployment.broken = None
    await mine.add("m/push", packed(vector(tmp_path)))
    assert len(deployment.calls) == 3
    assert usable(deployment.artifacts[0]) == {"m/push"}


async def test_an_engine_without_a_sampling_worker_takes_nothing(
    deployment: Deployment, tmp_path: Path
) -> None:
    async def nobody(folder: str) -> list[WorkerArtifact | None]:
        return [None]

    lone = Uploads(OverrideFile(tmp_path / "shared"), artifacts(), nobody)
    with pytest.raises(UnusableUpload, match="no worker"):
        await lone.add("m/push", packed(vector(tmp_path)))


async def test_a_name_has_one_content_and_files_come_first(
    deployment: Deployment, tmp_path: Path
) -> None:
    mine, theirs = deployment.servers
    first, other = (packed(vector(tmp_path / str(seed), seed)) for seed in (1, 2))
    digest = await mine.add("m/push", first)
    assert await theirs.add("m/push", first) == digest
    with pytest.raises(ValueError, match="remove it first"):
        await theirs.add("m/push", other)
    save_statistics(tmp_path / "root", "m/kept")
    server = Uploads(
        OverrideFile(tmp_path / "shared"), artifacts(tmp_path / "root"), deployment.load
    )
    with pytest.raises(UnusableUpload, match="in a folder of the server"):
        await server.add("m/kept", first)


async def test_the_number_of_artifacts_is_bounded(deployment: Deployment, tmp_path: Path) -> None:
    full = NOTHING.model_copy(
        update={"artifacts": {f"m/{number}": "f" for number in range(MAX_ARTIFACTS)}}
    )
    with pytest.raises(ValueError, match="at most"):
        full.with_artifact("m/more", "f")
    assert len(full.without_artifact("m/0").with_artifact("m/more", "f").artifacts) == MAX_ARTIFACTS


@pytest.mark.parametrize(
    "name",
    ["m", "m/", "/x", "../x", "m/..", "m/.hidden", "m/a b", "m/a/b", "m/" + "a" * 101, "m/\n"],
)
async def test_a_name_is_two_plain_words(deployment: Deployment, name: str) -> None:
    with pytest.raises(UnusableUpload, match="cannot name an artifact"):
        await deployment.servers[0].add(name, b"")


def sparse() -> bytes:
    """A tar whose file of a few bytes says that it is 8 GiB long."""
    member = tarfile.TarInfo(FILES[0])
    member.size = 0
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"100000000000"  # real size, in octal digits
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def link() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(FILES[0])
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    return buffer.getvalue()


ONE = (FILES[0], b"{}")
TARS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"{}" * 900,
    "compressed": tar([ONE], "w:gz"),
    "one file": tar([ONE]),
    "twice": tar([ONE, ONE, (FILES[1], b"")]),
    "another file": tar([ONE, (FILES[1], b""), ("run.pickle", b"")]),
    "a path": tar([("../manifest.json", b"{}"), (FILES[1], b"")]),
    "an absolute path": tar([("/manifest.json", b"{}"), (FILES[1], b"")]),
    "a link": link(),
    "a sparse file": sparse(),
    "cut": tar([ONE, (FILES[1], b"x" * 9000)])[:3000],
    "a long manifest": tar([(FILES[0], b" " * (5 << 20)), (FILES[1], b"")]),
}


@pytest.mark.parametrize("kind", TARS)
def test_only_a_tar_of_the_two_files_is_read(kind: str) -> None:
    with pytest.raises(UnusableUpload):
        read_tar(TARS[kind])
    assert read_tar(tar([("./" + ONE[0], b"a"), (FILES[1], b"b")])) == (b"a", b"b")


async def test_what_does_not_fit_is_refused_with_its_reason(
    deployment: Deployment, tmp_path: Path
) -> None:
    mine = deployment.servers[0]
    folder = save_statistics(tmp_path, "m/other", weights_hash="x")
    with pytest.raises(UnusableUpload, match="made for another model"):
        await mine.add("m/own", packed(folder))
    folder = save_probe(tmp_path, "m/probe")
    manifest, weights = ((folder / name).read_bytes() for name in FILES)
    with pytest.raises(UnusableUpload, match="the file is damaged"):
        await mine.add("m/own", tar([(FILES[0], manifest), (FILES[1], weights[:-1] + b"x")]))
    unbound = Artifact.load(folder).manifest.model_copy(update={"tensors_hash": None})
    text = unbound.model_dump_json().encode()
    with pytest.raises(UnusableUpload, match="tensors_hash is missing"):
        await mine.add("m/own", tar([(FILES[0], text), (FILES[1], weights)]))
    with pytest.raises(UnusableUpload, match="not safetensors"):
        await mine.add("m/own", tar([(FILES[0], text), (FILES[1], b"\x80\x04pickle")]))
    deployment.artifacts[0].mark_stale()
    with pytest.raises(UnusableUpload, match=STALE):
        await mine.add("m/own", packed(folder))
    assert deployment.calls == []
    assert mine.names == []


async def test_files_that_change_on_disk_are_not_offered(
    deployment: Deployment, tmp_path: Path
) -> None:
    mine, theirs = deployment.servers
    await mine.add("m/own", packed(save_statistics(tmp_path, "m/made")))
    (stored,) = tmp_path.glob("shared/artifacts/*/m/own")
    shutil.rmtree(stored)
    await theirs.sync()
    (card,) = deployment.artifacts[1].cards
    assert not card.usable
    assert "missing" in str(card.reason)


async def test_changes_at_the_same_time_end_in_the_same_state(
    deployment: Deployment, tmp_path: Path
) -> None:
    bodies = [packed(vector(tmp_path / str(seed), seed)) for seed in range(4)]

    async def change(number: int) -> Any:
        server = deployment.servers[number % 2]
        return await server.add(f"m/v{number % 4}", bodies[number % 4])

    await asyncio.gather(*(change(number) for number in range(16)))
    for server in deployment.servers:
        await server.sync()
    assert [usable(one) for one in deployment.artifacts] == [{f"m/v{n}" for n in range(4)}] * 2
