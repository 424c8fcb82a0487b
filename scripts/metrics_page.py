"""`docs/reference/metrics.md`: every metric, from the definitions."""

_HEAD = """\
# Metrics

<!-- Written by `python -m scripts.docs`; do not edit. -->

`GET /metrics` has these metrics beside vLLM's own (`vllm:*`), which cover requests with and without
controls. [Monitor a server](../how-to/monitor.md) shows how to read them, with a dashboard and
alerts.

| metric | type | labels | meaning |
|---|---|---|---|
"""

_NOTES = """
- Labels take their values from the server, never from a client: laws, names of profiles, fallbacks.
  Where all values are known beforehand, each is exported as 0 from the start.
- With several API servers, counters and histograms are the sum over all of them. Of the gauges,
  `entrostat_steer*` are sums too, `entrostat_coverage_*` and `entrostat_drift_*` the latest value,
  the others the largest.
- `entrostat_worker_failures` and `entrostat_weight_updates` are read from the workers every
  15 seconds and at `/ready`.
- Tokens, entropy, temperature and set sizes are counted from the report of an answer. A request
  with `"trace": "none"` has none: it is in `entrostat_requests_total` and, with `difficulty`, in
  `entrostat_strategies_total`. A stream that the client closes early is in
  `entrostat_requests_total` only.
- A request whose `entropy` field does not fit the [schema](wire-schema.json) (an unknown key, a
  value out of its range) is answered with 400 while it is parsed. It is not in
  `entrostat_refused_total`, but in vLLM's own `http_requests_total{status="4xx"}`.
- Reasons of `entrostat_fallbacks_total` are the [fallback codes](wire.md#fallbacks) of reports.
"""


def metrics_page() -> str:
    """The page."""
    from server.metrics.definitions import METRICS

    rows = [
        f"| `{one.name}` | {one.kind} | {_labels(one.labels)} | {one.help} |\n" for one in METRICS
    ]
    return _HEAD + "".join(rows) + _NOTES


def _labels(labels: dict[str, str]) -> str:
    return "; ".join(f"`{name}`: {values}" for name, values in labels.items())
