"""Run several servers on one machine: start, suspend, resume and stop them.

A server that is not being measured is frozen (SIGSTOP to its process group). Two engines may share
the same cores: a frozen one takes nothing from the other, however its threads wait for work.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

READY_TIMEOUT = 900.0
"""Seconds; a first compilation takes minutes."""
_STOP_TIMEOUT = 20.0
_MEMORY = 4.0
"""GiB that a server of the default model takes with a GiB of KV cache."""
_CORES = re.compile(r"core ids=\[([\d, ]*)\]")

# Both use the same flags and environment, except for the plugin.
_STOCK = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
_OURS = [str(Path(sys.executable).with_name("entrostat")), "serve"]


class Server:
    """A server in its own process group."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], port: int, log: Path
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: It ended, or did not answer in time; ends with the log's tail.
        """
        deadline = time.monotonic() + READY_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(URLError, OSError), urlopen(f"{self.url}/health", timeout=5):
                return
            time.sleep(0.5)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"the server did not become ready; last log lines:\n{tail}")

    def freeze(self) -> None:
        """Stop every process of the server where it is."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the server and everything it started."""
        with suppress(ProcessLookupError):
            self.wake()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT)
        with suppress(ProcessLookupError):  # the process group is empty
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def cores(self) -> list[int] | None:
        """Cores that the engine says its OpenMP threads are bound to; None if it says nothing."""
        found = _CORES.search(self._log.read_text(errors="replace"))
        return None if found is None else [int(core) for core in found[1].split(",") if core]

    def idle_load(self, seconds: float = 5.0) -> float:
        """Share of one core that the server burns while nobody asks it anything."""
        before = self._cpu_seconds()
        time.sleep(seconds)
        return (self._cpu_seconds() - before) / seconds

    def api_seconds(self) -> float:
        """Processor time so far of all processes that are not vLLM's engine or its workers."""
        return self._cpu_seconds(without=("VLLM::Engine", "VLLM::Worker"))

    def _cpu_seconds(self, without: tuple[str, ...] = ()) -> float:
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # the process ended meanwhile
                name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
                fields = rest.split()
                if int(fields[2]) == self._process.pid and not name.startswith(without):
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def side_by_side(
    checkpoint: Path,
    name: str,
    flags: Sequence[str],
    logs: Path,
    *,
    twin: bool,
    own: Sequence[str] = (),
    others: Mapping[str, Sequence[str]] | None = None,
    backwards: bool = False,
    memory: float = _MEMORY,
) -> Iterator[dict[str, Server]]:
    """Run `stock`, perhaps a second stock server `twin`, and `ours` while the block runs, frozen.

    Args:
        checkpoint: Folder of the model.
        name: Served model name.
        flags: Further flags of vLLM, the same for all.
        logs: Folder for the servers' output.
        twin: Whether to run the second stock server.
        own: Flags of `ours` alone.
        others: Further servers of ours: their flags, by a name.
        backwards: Start ours first.
        memory: GiB that a server takes.

    Raises:
        RuntimeError: Too little memory, or a server did not start.
    """
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    env["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    env.pop("VLLM_PLUGINS", None)
    # An empty allow-list keeps even the inert part of our plugin out of the baseline.
    stock: tuple[list[str], dict[str, str], list[str]] = (_STOCK, env | {"VLLM_PLUGINS": ""}, [])
    kinds: dict[str, tuple[list[str], dict[str, str], Sequence[str]]] = {
        "stock": stock,
        "ours": (_OURS, env, own),
    }
    if twin:
        kinds["twin"] = stock
    for kind, more in (others or {}).items():
        kinds[kind] = (_OURS, env, more)
    _check_memory(memory * len(kinds))
    servers: dict[str, Server] = {}
    with ExitStack() as stack:
        order = reversed(kinds) if backwards else iter(kinds)
        for kind in order:
            command, variables, further = kinds[kind]
            port = _free_port()
            where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", name]
            whole = [*command, str(checkpoint), *where, *flags, *further]
            server = Server(whole, variables, port, logs / f"{kind}.log")
            stack.callback(server.stop)
            server.wait_until_ready()
            server.freeze()
            servers[kind] = server
        yield servers


def _check_memory(needed: float) -> None:
    """A machine that runs out of memory measures that, or kills somebody else's process."""
    free = float(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) / 2**20
    if free < needed:
        raise RuntimeError(f"the servers need {needed:.0f} GiB of memory, {free:.1f} are free")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
