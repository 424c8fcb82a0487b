"""Dashboard and alerts: every metric in them exists, and promtool accepts the rules."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from server.metrics.definitions import METRICS

DEPLOY = Path(__file__).parents[4] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
KINDS = {one.name: one.kind for one in METRICS}
LABELS = {one.name: set(one.labels) for one in METRICS}


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard."""
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana" / "entrostat.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def defined(name: str) -> str:
    """The definition that a name in PromQL belongs to."""
    root = re.sub(r"_(bucket|sum|count)$", "", name)
    return root if KINDS.get(root) == "histogram" else name


def names(text: str) -> set[str]:
    return {defined(one) for one in re.findall(r"\bentrostat_\w+", text)}


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    assert names("\n".join(expressions())) == set(KINDS) - {"entrostat_info"}


def test_every_panel_has_an_id_and_a_place_of_its_own() -> None:
    panels = json.loads((DEPLOY / "grafana" / "entrostat.json").read_text())["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    assert len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(panels)


def test_every_metric_and_label_in_an_alert_exists() -> None:
    text = "\n".join(re.findall(r"expr: .*(?:\n {10}.*)*", RULES.read_text()))
    assert names(text) <= set(KINDS)
    for name, labels in re.findall(r"(entrostat_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)!?=", labels)) <= LABELS[defined(name)]


def test_counters_are_read_as_counters_and_histograms_by_their_parts() -> None:
    for expression in [*expressions(), RULES.read_text()]:
        for name in re.findall(r"\bentrostat_\w+", expression):
            assert KINDS[defined(name)] != "histogram" or name != defined(name), name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
def test_promtool_accepts_the_rules_and_each_alert_fires_when_it_should() -> None:
    script = DEPLOY / "prometheus" / "check.sh"
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
