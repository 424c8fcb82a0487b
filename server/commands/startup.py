"""Startup messages from the server's processes to their supervisor: stages and readiness.

Messages go over a datagram socket whose path is a setting, so that any descendant process can send
them. Without a supervisor, none are sent.
"""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from server.settings import settings

_MAX_BYTES = 1 << 16


class StartupMessages:
    """The supervisor's end of the socket."""

    def __init__(self) -> None:
        """Bind the socket in a new temporary folder."""
        self.path = Path(mkdtemp(prefix="entrostat-")) / "supervisor"
        """Path of the socket; the server's processes read it from their settings."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """Return the next message; None after `timeout` seconds or if it is malformed."""
        self._socket.settimeout(timeout)
        try:
            message = json.loads(self._socket.recv(_MAX_BYTES))
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Close the socket and delete its folder, which the server's processes share."""
        self._socket.close()
        rmtree(self.path.parent, ignore_errors=True)


def send_to_supervisor(**message: Any) -> None:
    """Send a message to the supervisor, if one is listening."""
    path = settings().supervisor
    if path is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outgoing, suppress(OSError):
        outgoing.setblocking(False)
        outgoing.sendto(json.dumps(message).encode()[:_MAX_BYTES], str(path))


async def announce_when_ready(app_state: Any, models: list[str], profiles: list[str]) -> None:
    """Notify the supervisor once this API server accepts connections.

    Args:
        app_state: State of the application, where vLLM stores the HTTP server.
        models: Names of the served models.
        profiles: Names of the loaded profiles.
    """
    while not getattr(getattr(app_state, "server", None), "started", False):
        await asyncio.sleep(0.1)
    send_to_supervisor(ready=True, models=models, profiles=profiles)
