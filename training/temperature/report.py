"""Report of fitted entropy statistics: a page, a figure and a table in the terminal."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from probes.artifact import Artifact
from training.common.report import markdown_table, provenance, write_page
from training.temperature.fit import NUM_RESAMPLES, TemperatureFit, normalized_deviation

TAU = 0.05
"""HAPO's published half-width, for the curve."""
_NAME = "temperature-statistics"
_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.8, 0.9, 0.99)


class TemperatureResult(NamedTuple):
    """Contents of the report."""

    artifact: Artifact
    fit: TemperatureFit
    command: str


def write_report(facts: TemperatureResult, folder: Path) -> Path:
    """Write `temperature-statistics.md` and its figure; returns the page."""
    return write_page(folder, _NAME, _page(facts), draw(facts.fit))


def write_summary(facts: TemperatureResult, console: Console) -> None:
    """Show the statistics in the terminal."""
    table = Table("", "value", "standard error", title=facts.artifact.id)
    for label, value, error in _statistics(facts.fit):
        table.add_row(label, value, error)
    for label, value in _metrics(facts.fit):
        table.add_row(label, value, "")
    console.print(table)


def _statistics(fit: TemperatureFit) -> list[tuple[str, str, str]]:
    errors = fit.standard_errors._asdict()
    return [
        (key, f"{value:.4f}", f"{errors[key]:.4f}")
        for key, value in fit.statistics._asdict().items()
    ]


def _metrics(fit: TemperatureFit) -> list[tuple[str, str]]:
    measured = fit.metrics()
    return [
        ("tokens", f"{measured['num_tokens']:,}"),
        ("answers", f"{measured['num_answers']:,}"),
        ("mean entropy, nats", f"{measured['entropy_mean']:.3f}"),
        ("median entropy, nats", f"{measured['entropy_median']:.3f}"),
        ("left at T0: entropy, nats", f"{math.exp(fit.statistics.pivot):.3f}"),
        ("heated", f"{measured['share_heated']:.1%}"),
        ("heated to the limit", f"{measured['share_clamped_hot']:.2%}"),
        ("cooled to the limit", f"{measured['share_clamped_cold']:.2%}"),
        (f"mean T / T0 at tau = {TAU}", f"{1 + TAU * measured['position_mean']:.4f}"),
    ]


def limit_entropies(fit: TemperatureFit) -> tuple[float, float]:
    """Entropies, in nats, below and above which HAPO is at its limit."""
    pivot, std, positive, negative = fit.statistics
    return math.exp(pivot - std / abs(negative)), math.exp(pivot + std / positive)


def draw(fit: TemperatureFit) -> Figure:
    """The distribution of ln H, and the temperature that follows from it."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    density, curve = figure.subplots(1, 2)
    low, high = limit_entropies(fit)
    pivot = fit.statistics.pivot
    density.hist(fit.entropies.clamp_min(1e-8).log().numpy(), bins=80, density=True, color="0.75")
    marks = [
        (math.log(low), "C0", "h = -1"),
        (pivot, "k", "pivot"),
        (math.log(high), "C3", "h = 1"),
    ]
    for place, color, label in marks:
        density.axvline(place, color=color, label=f"{label}: ln H = {place:.2f}")
    density.set(xlabel="ln H (H in nats)", ylabel="density", title="Entropy of sampled tokens")
    density.legend(loc="upper left")

    entropies = torch.logspace(math.log10(low) - 1, math.log10(high) + 0.2, 400).double()
    curve.semilogx(
        entropies.numpy(), (1 + TAU * normalized_deviation(entropies, fit.statistics)).numpy(), "k"
    )
    curve.axhline(1, color="0.75", linewidth=1)
    curve.axvline(math.exp(pivot), color="0.75", linewidth=1)
    curve.set(xlabel="H (nats)", ylabel="T / T0", title=f"Temperature, tau = {TAU}")
    return figure


def _page(facts: TemperatureResult) -> str:
    manifest, fit = facts.artifact.manifest, facts.fit
    low, high = limit_entropies(fit)
    values = torch.tensor(_QUANTILES, dtype=torch.float64)
    found = torch.quantile(fit.entropies, values).tolist()
    quantiles = [(f"{at:g}", f"{value:.4g}") for at, value in zip(_QUANTILES, found, strict=True)]
    settings = manifest.settings
    return f"""# Entropy statistics of {manifest.model}

{provenance(manifest, facts.command)}

{fit.entropies.numel():,} tokens in {fit.num_answers} answers to {settings["num_prompts"]} prompts,
drawn at temperature {settings["temperature"]:g} with at most {settings["max_tokens"]} tokens each
(seed {manifest.seed}). Standard errors come from resampling whole answers, {NUM_RESAMPLES} times.

{markdown_table(("HAPO's statistics", "value", "standard error"), _statistics(fit))}

The pivot is the {settings["quantile"]:g} quantile of ln H. The scales put {settings["tail"]:.1%} of
the tokens beyond each limit. {math.exp(fit.statistics.pivot):.3f} nats are drawn at T0, more
than {high:.3f} nats at T0 (1 + tau), less than {low:.2g} nats at T0 (1 - tau).

![Distribution of ln H and the temperature that follows from it]({_NAME}.png)

{markdown_table(("on the same tokens", ""), _metrics(fit))}

{markdown_table(("quantile of H", "nats"), quantiles)}

Artifact `{facts.artifact.id}`; sha256 of the rollouts `{manifest.data_hash}`.
"""
