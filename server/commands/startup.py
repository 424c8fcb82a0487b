"""Messages from the server's processes to their supervisor: what is starting, and who is ready.

A datagram socket, whose path is among the settings: it reaches the supervisor from any process of
the tree, however deep. Without a supervisor nothing is sent.
"""

import asyncio
import json
import socket
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from server.settings import settings

_MAX_BYTES = 1 << 16


class StartupMessages:
    """The supervisor's end of the socket."""

    def __init__(self) -> None:
        """Open the socket."""
        self.path = Path(mkdtemp(prefix="entrostat-")) / "supervisor"
        """For the server's processes, which read it from their settings."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message; None if there is none within `timeout` seconds, or it is malformed."""
        self._socket.settimeout(timeout)
        try:
            message = json.loads(self._socket.recv(_MAX_BYTES))
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Remove the socket."""
        self._socket.close()
        with suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()


def tell(**message: Any) -> None:
    """Send a message to the supervisor, if there is one that still listens."""
    path = settings().supervisor
    if path is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outgoing, suppress(OSError):
        outgoing.setblocking(False)
        outgoing.sendto(json.dumps(message).encode()[:_MAX_BYTES], str(path))


async def tell_when_ready(app_state: Any, models: list[str], profiles: list[str]) -> None:
    """Tell the supervisor when this API server accepts connections.

    Args:
        app_state: Of the application; vLLM puts the HTTP server there.
        models: Names that requests may use.
        profiles: Names of the loaded profiles.
    """
    while not getattr(getattr(app_state, "server", None), "started", False):
        await asyncio.sleep(0.1)
    tell(ready=True, models=models, profiles=profiles)
