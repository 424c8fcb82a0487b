"""Reads the metrics of a server."""

from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from clients.connection import ClientError

_TIMEOUT = 10.0


class Scrape(NamedTuple):
    """All samples of a server at one moment; absent samples count as 0."""

    samples: dict[str, list[tuple[dict[str, str], float]]]

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of a name that have these labels."""
        return sum(
            value
            for own, value in self.samples.get(name, ())
            if all(own.get(key) == wanted for key, wanted in labels.items())
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by the value of a label, largest first, without zeros."""
        sums: dict[str, float] = {}
        for own, value in self.samples.get(name, ()):
            key = own.get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        ordered = sorted(sums.items(), key=lambda one: -one[1])
        return {key: value for key, value in ordered if value}

    def label(self, name: str, label: str) -> str:
        """A label of the first sample of a name; `?` if there is none."""
        return next((own.get(label, "?") for own, _ in self.samples.get(name, ())), "?")

    def since(self, before: "Scrape | None") -> "Scrape":
        """What was counted since an earlier scrape; of a server that restarted, all of it."""
        if before is None:
            return self
        old = {
            (name, tuple(sorted(own.items()))): value
            for name, rows in before.samples.items()
            for own, value in rows
        }
        found = {
            name: [
                (own, value - old.get((name, tuple(sorted(own.items()))), 0.0))
                for own, value in rows
            ]
            for name, rows in self.samples.items()
        }
        fell = any(
            value < 0
            for name, rows in found.items()
            if name.endswith(("_total", "_count"))
            for _, value in rows
        )
        return self if fell else Scrape(found)


def scrape(client: httpx.Client, url: str) -> Scrape:
    """Read `/metrics`.

    Args:
        client: Sends the request.
        url: Base URL of the server, with or without its /v1.

    Raises:
        ClientError: The server does not answer, or is none of ours.
    """
    base = url.rstrip("/").removesuffix("/v1")
    try:
        response = client.get(f"{base}/metrics", timeout=_TIMEOUT)
        response.raise_for_status()
        families = list(text_string_to_metric_families(response.text))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClientError(
            f"no metrics at {base}/metrics ({type(error).__name__}): start a server with "
            "`entrostat serve` or name another with --url"
        ) from error
    except ValueError as error:
        raise ClientError(f"{base}/metrics is not a page of metrics") from error
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in families:
        for one in family.samples:
            samples.setdefault(one.name, []).append((one.labels, one.value))
    if "entrostat_info" not in samples:
        raise ClientError(f"the server at {base} has no entrostat metrics: it is none of ours")
    return Scrape(samples)
