"""Drift: what moves the counts, and that their index tells a shift from none."""

import math
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from clients.drift import Drift, drifts, stability_index
from clients.scrape import Scrape
from probes.artifact import Artifact, ArtifactError, Kind, Manifest
from probes.drift import MonitoredInput, ReferenceHistogram
from server.metrics.drift import export_reference, observe_inputs
from server.planning.plan import ControlSources, Plan, make_plan
from server.planning.refusals import RequestParams
from server.requests.telemetry import Decision
from server.wire.request import Control
from tests.unit.server.fake_engine import chat_stream, entropy_of, params
from tests.unit.server.requests.difficulty_run import EASY, PLAIN, SPOKEN
from tests.unit.server.requests.difficulty_run import Run as DifficultyRun
from tests.unit.server.requests.generation_run import Run
from tests.unit.server.support import artifacts, save_probe, save_statistics

TRAINING = np.random.default_rng(0).normal(size=2000)
QUESTION = RequestParams(last_message={"role": "user", "content": "Why?"})


def scraped() -> Scrape:
    """The metrics of this process, as `entrostat top` reads them."""
    page = generate_latest(REGISTRY).decode()
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            samples.setdefault(one.name, []).append((one.labels, one.value))
    return Scrape(samples)


def drift(artifact: str) -> Drift | None:
    return next((one for one in drifts(scraped()) if one.artifact == artifact), None)


def monitored(artifact: str) -> MonitoredInput:
    found = MonitoredInput(artifact, "state", ReferenceHistogram.of(TRAINING))
    export_reference(found)
    return found


def add_reference(folder: Path, edges: tuple[float, ...]) -> None:
    """Give an artifact on disk a histogram with a value in every bin."""
    found = Artifact.load(folder)
    reference = ReferenceHistogram(edges=edges, counts=(1,) * (len(edges) + 1))
    manifest = found.manifest.model_copy(update={"reference": reference})
    found.model_copy(update={"manifest": manifest}).save(folder.parents[1])


# -- the index ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_like_the_training_data_is_stable(seed: int) -> None:
    watched = monitored(f"m/stable-{seed}")
    for values in np.random.default_rng(seed + 1).normal(size=(50, 10)):
        observe_inputs(watched, values.tolist())
    found = drift(f"m/stable-{seed}")
    assert found is not None
    assert found.seen == 500
    assert found.psi < 0.1


@pytest.mark.parametrize(
    ("name", "shift", "scale"), [("up", 1.0, 1.0), ("down", -1.0, 1.0), ("wider", 0.0, 2.5)]
)
def test_a_shifted_stream_is_not(name: str, shift: float, scale: float) -> None:
    watched = monitored(f"m/{name}")
    values = np.random.default_rng(7).normal(shift, scale, 500)
    observe_inputs(watched, values.tolist())
    found = drift(f"m/{name}")
    assert found is not None
    assert found.psi > 0.25


def test_the_index_is_that_of_the_literature() -> None:
    expected = (0.5 - 0.25) * math.log(2) + (0.5 - 0.75) * math.log(2 / 3)
    assert stability_index([10, 10], [0.25, 0.75]) == pytest.approx(expected)
    assert stability_index([1, 3], [0.25, 0.75]) == 0
    assert math.isfinite(stability_index([0, 5], [0.5, 0.5]))


def test_the_counts_of_an_artifact_start_at_zero_beside_its_shares() -> None:
    monitored("m/unused")
    now = scraped()
    rows = now.samples["entrostat_drift_observations_total"]
    assert [value for labels, value in rows if labels["artifact"] == "m/unused"] == [0] * 10
    shares = now.samples["entrostat_drift_reference_share"]
    mine = [value for labels, value in shares if labels["artifact"] == "m/unused"]
    assert mine == pytest.approx([0.1] * 10, abs=0.001)
    assert drift("m/unused") is None


# -- what moves it -----------------------------------------------------------------------------


def plan(root: Path, control: dict[str, object]) -> Plan:
    body = Control.model_validate(control)
    found = make_plan(ControlSources(body, None, None), {}, artifacts(root), QUESTION)
    assert found is not None
    return found


@pytest.mark.parametrize("law", [{"type": "hapo"}, {"type": "hapo", "statistics": "m/entropy"}])
async def test_tokens_under_hapo_are_compared_with_the_statistics(
    law: dict[str, str], tmp_path: Path
) -> None:
    first = entropy_of(1, 0, 0)
    add_reference(save_statistics(tmp_path, "m/entropy"), edges=(first - 1, first + 0.01))
    watched = plan(tmp_path, {"temperature": law}).monitored
    assert watched is not None
    before = scraped()
    run = Run([[(0, 1)], [(0, 2)]])
    run.generation.calls.plan = run.generation.plan._replace(monitored=watched)
    await run.stream(chat_stream, params())
    after = scraped().since(before)
    seen = [
        after.total("entrostat_drift_observations_total", artifact="m/entropy", bin=str(number))
        for number in range(3)
    ]
    assert seen == [0, 1, 2]


def test_other_requests_are_compared_with_nothing(tmp_path: Path) -> None:
    add_reference(save_statistics(tmp_path, "m/entropy"), edges=(1.0,))
    save_statistics(tmp_path, "m/old")
    assert plan(tmp_path, {"temperature": {"type": "edt"}}).monitored is None
    hapo = {"type": "hapo", "statistics": "m/old"}  # of an earlier release
    assert plan(tmp_path, {"temperature": hapo}).monitored is None


async def test_a_prompt_that_a_difficulty_probe_reads_counts_once(tmp_path: Path) -> None:
    add_reference(save_probe(tmp_path, "m/reads"), edges=(1.0, 2.0))
    difficulty = plan(tmp_path, {"difficulty": {"probe": "m/reads"}}).difficulty
    assert difficulty is not None
    assert difficulty.monitored is not None
    for strategies in (PLAIN, SPOKEN):  # in the engine, and by a pre-pass
        before = scraped()
        run = DifficultyRun(strategies, decided=EASY, monitored=difficulty.monitored, distance=1.5)
        await run.prepare(temperature=1.0)
        for choice in range(2):  # of the same prompt
            run.decisions.trace.store_decision(
                choice, Decision(EASY, (0.8, 0.1, 0.1), distance=1.5)
            )
            await run.run.report(choice)
        seen = scraped().since(before).by("entrostat_drift_observations_total", "bin")
        assert seen == {"1": 1}


async def test_a_state_that_is_not_finite_counts_nowhere() -> None:
    watched = monitored("m/broken")
    observe_inputs(watched, [math.nan])
    assert drift("m/broken") is None


def test_an_artifact_that_no_request_is_compared_with_has_no_histogram(tmp_path: Path) -> None:
    folder = save_statistics(tmp_path, "m/entropy")
    fields = Artifact.load(folder).manifest.model_dump()
    kind: Kind = "abstention"
    wrong = {**fields, "kind": kind, "reference": {"edges": [1.0], "counts": [1, 1]}}
    with pytest.raises(ValueError, match="reference does not belong to a abstention"):
        Manifest.model_validate(wrong)
    text = (folder / "manifest.json").read_text()
    broken = text.replace('"reference": null', '"reference": {"edges": [1.0], "counts": [1]}')
    assert broken != text
    (folder / "manifest.json").write_text(broken)
    with pytest.raises(ArtifactError, match="reference: a histogram needs one bin more"):
        Artifact.load(folder)


def test_the_server_exports_the_training_data_of_usable_artifacts(tmp_path: Path) -> None:
    add_reference(save_probe(tmp_path, "m/exported"), edges=(1.0,))
    add_reference(save_probe(tmp_path, "m/foreign", config_hash="other"), edges=(1.0,))
    artifacts(tmp_path).count_states()
    shown = scraped().by("entrostat_drift_reference_share", "artifact")
    assert shown["m/exported"] == 1
    assert "m/foreign" not in shown
