"""Definitions of metrics: one per metric, bounded labels, and what moves them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from server.metrics import observe
from server.metrics.definitions import CONTROLS, LOST, METRICS
from server.wire.report import (
    FALLBACKS,
    ConfidenceReport,
    DifficultyReport,
    Report,
    SemanticReport,
    VoteGroupReport,
    VoteReport,
)
from server.wire.request import Control
from tests.unit.server.metrics.support import value

DOCS = Path(__file__).parents[4] / "docs"


def test_every_exported_metric_is_defined_once_and_every_definition_is_exported() -> None:
    names = [one.name.removesuffix("_total") for one in METRICS]
    exported = {one.name for one in REGISTRY.collect() if one.name.startswith("entrostat_")}
    assert sorted(names) == sorted(exported)


def test_a_label_without_known_values_says_what_its_values_are() -> None:
    for one in METRICS:
        assert one.help.endswith("."), one.name
        assert all(len(text) > 5 for text in one.labels.values()), one.name


def test_known_values_of_labels_are_exported_before_anything_happens() -> None:
    """In a fresh process, so that no other test has moved them."""
    program = (
        "import prometheus_client, server.metrics.definitions\n"
        "print(prometheus_client.generate_latest().decode())"
    )
    page = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    for code in FALLBACKS:
        assert f'entrostat_fallbacks_total{{reason="{code}"}} 0.0' in page
    for cause in LOST:
        assert f'entrostat_worker_failures{{cause="trace_{cause}"}} 0.0' in page
    values = re.findall(r'^entrostat_refused_total\{control="(\w+)"\} 0\.0$', page, re.M)
    assert values == list(CONTROLS)


def test_the_documented_fallbacks_are_those_of_the_metric() -> None:
    section = (DOCS / "reference" / "wire.md").read_text().partition("### Fallbacks")[2]
    table = section.partition("\n### ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [
        code for row in rows for code in re.findall(r"`(\w+)`", row) if code != "fallback"
    ]
    assert sorted(documented) == sorted(FALLBACKS)


def test_every_control_of_a_profile_can_be_reported_as_skipped() -> None:
    controls = set(Control.model_fields) - {"profile", "trace"}
    assert {f"{name}_skipped" for name in controls} <= set(FALLBACKS)


@pytest.mark.parametrize(
    ("param", "control"),
    [
        ("entropy.steering.0.vector", "steering"),
        ("entropy.temperature", "temperature"),
        ("entropy.profile", "profile"),
        ("entropy.made_up_by_a_client", "request"),
        ("model", "request"),
        ("X-Entropy-Profile", "request"),
        ("vllm_xargs.entropy", "request"),
    ],
)
def test_a_refusal_is_counted_by_control_and_never_by_what_a_client_wrote(
    param: str, control: str
) -> None:
    before = value("entrostat_refused_total", control=control)
    observe.count_refusal(param)
    assert value("entrostat_refused_total", control=control) == before + 1
    assert value("entrostat_refused_total", control="made_up_by_a_client") == 0


def test_a_report_moves_tokens_shares_and_the_strategy() -> None:
    names = ("tokens", "heated_tokens", "cooled_tokens", "clamped_tokens")
    before = [value(f"entrostat_{name}_total") for name in names]
    easy = value("entrostat_strategies_total", difficulty="easy", source="probe")
    report = Report(
        num_tokens=10,
        share_heated=0.3,
        share_cooled=0.6999999,
        num_clamped=2,
        difficulty=DifficultyReport(label="easy", mode="act", source="probe"),
    )
    observe.observe_completion(report)
    after = [value(f"entrostat_{name}_total") for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [10, 3, 7, 2]
    assert value("entrostat_strategies_total", difficulty="easy", source="probe") == easy + 1


def routed(mode: str) -> DifficultyReport:
    return DifficultyReport.model_validate(
        {
            "label": "hard",
            "mode": mode,
            "source": "probe",
            "expected_accuracy": {"easy": 0.2, "normal": 0.5, "hard": 0.75},
            "expected_tokens": {"easy": 10.0, "normal": 50.0, "hard": 20.0},
        }
    )


def test_predictions_are_those_of_the_strategy_that_was_applied() -> None:
    labels = {"source": "router"}
    names = [("predicted_accuracy_count", labels), ("predicted_accuracy_sum", labels)]
    names += [("predicted_tokens_count", {}), ("predicted_tokens_sum", {})]
    before = [value(f"entrostat_{name}", **own) for name, own in names]
    for mode in ("act", "shadow"):  # which says nothing about the answer
        observe.observe_completion(Report(num_tokens=4, difficulty=routed(mode)))
    after = [value(f"entrostat_{name}", **own) for name, own in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 0.75, 1, 20]


def test_a_confidence_without_a_probability_is_not_recorded() -> None:
    name = "entrostat_predicted_accuracy_count"
    before = value(name, source="confidence")
    for probability in (None, 0.9):
        confidence = ConfidenceReport(window=8, probability=probability)
        observe.observe_completion(Report(confidence=confidence))
    assert value(name, source="confidence") == before + 1


def test_a_vote_and_the_disagreement_of_samples_are_recorded() -> None:
    vote = VoteReport(
        **{"answer": "13", "weight": "none", "n": 8, "finished": 6, "agreement": 0.5},
        **{"stopped": "none", "tokens": 60, "cached_tokens": 0, "no_answer": 1},
        table=[VoteGroupReport(answer=str(n), votes=1, weight=1) for n in range(4)],
    )
    semantic = SemanticReport(
        **{"entropy": 1.25, "estimator": "discrete", "cluster": "answer", "agreement": 0.5},
        **{"saturated": False, "clusters": [], "n": 4, "tokens": 9, "cached_tokens": 0},
    )
    sums = ("vote_samples_sum", "vote_answers_sum", "vote_agreement_sum")
    names = [f"entrostat_{name}" for name in (*sums, "semantic_entropy_nats_sum")]
    before = [value(name) for name in names]
    outcomes = [value("entrostat_votes_total", outcome=one) for one in ("answered", "no_answer")]
    observe.observe_completion(Report(vote=vote, semantic=semantic))
    nothing = vote.model_copy(update={"answer": None, "agreement": None, "table": []})
    observe.observe_completion(Report(vote=nothing))
    after = [value(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [12, 4, 0.5, 1.25]
    assert value("entrostat_votes_total", outcome="answered") == outcomes[0] + 1
    assert value("entrostat_votes_total", outcome="no_answer") == outcomes[1] + 1
