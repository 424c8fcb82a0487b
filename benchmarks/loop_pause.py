"""How long one request can hold up all others: `python -m benchmarks.loop_pause`.

Posts the worst body of each kind to a server whose event loop measures its own pauses.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import typer
from rich.console import Console

_BEAT = 0.005
_MODEL = "smollm2-135m"
_FLAGS = (
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "2048",
    "--max-num-seqs",
    "32",
)
_PATIENCE = 10.0
"""Seconds until a client gives up."""
_HELLO = [{"role": "user", "content": "Hello."}]
_METHOD = """\
Each body has about {megabytes:g} MB, or as much as its kind allows. A task on the event loop of the
API server wakes up every {beat:g} ms. `pause` is the longest time that it had to wait while the
body was read, checked, answered or refused: of {repeats} posts the shortest of these longest
pauses. `CPU` is the processor time of the loop's thread between two of its turns, which does not
depend on what else the machine does. A client gives up after {patience:g} s. The first row is the
control: an ordinary request. vLLM limits no body; 400 and 413 are our answers or vLLM's."""


class Body(NamedTuple):
    """A request that makes the server work."""

    name: str
    path: str
    content: bytes


class Pause(NamedTuple):
    """What one body did to the event loop."""

    wall: float
    """Seconds, longest."""
    cpu: float
    """Seconds of the loop's thread between two turns, longest."""
    status: str


def bodies(size: int) -> Iterator[Body]:
    """The worst body of each kind.

    Args:
        size: Approximate number of bytes.
    """

    def body(name: str, path: str = "/v1/chat/completions", **fields: Any) -> Body:
        basic: dict[str, Any] = {"model": _MODEL, "max_tokens": 1}
        if path.startswith(("/v1/chat", "/v1/messages")) and "batch" not in path:
            basic["messages"] = _HELLO
        if path == "/v1/responses":
            basic = {"model": _MODEL, "max_output_tokens": 1}
        return Body(name, path, json.dumps(basic | fields).encode())

    def many(item: Any) -> list[Any]:  # of the size that holds when it is called
        return [item] * max(1, size // (len(json.dumps(item)) + 2))

    def keys(value: Any = 1) -> dict[str, Any]:
        return {f"k{number}": value for number in range(size // 14)}

    text, user = "word " * (size // 5), {"role": "user", "content": "a"}
    part, tool = {"type": "text", "text": "a"}, {"type": "function", "function": {"name": "f"}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"role": "assistant", "content": "Does it live in water?"}
    game = {"inquiry": {"task": f"{_MODEL}/animals"}}
    yield body("ordinary request")
    most = size  # what is below the limits: 2,048 items, 50,000 arrays, 100,000 characters
    size = min(size, 60_000)
    yield body("accepted: messages", messages=[user] * 2048)
    yield body("accepted: wrong messages", messages=[user] * 2047 + [1])
    yield body("accepted: parts", messages=[{"role": "user", "content": [part] * 2040}])
    calls = {"role": "assistant", "tool_calls": [call] * 2040}
    yield body("accepted: tool calls", messages=[user, calls, user])
    yield body("accepted: tools", tools=[tool] * 2048)
    yield body("accepted: batch", "/v1/chat/completions/batch", messages=[[user]] * 1024)
    yield body("accepted: prompts", "/v1/completions", prompt=["a"] * 512)
    yield body("accepted: prompts, n = 2", "/v1/completions", prompt=["a"] * 512, n=2)
    yield body("accepted: tokens", "/v1/completions", prompt=[1] * 499_000)
    yield body("accepted: input items", "/v1/responses", input=[user] * 1024)
    yield body("accepted: Anthropic messages", "/v1/messages", messages=[user] * 2048)
    yield body("accepted: arrays", x=[[]] * 49_000)
    yield body("accepted: keys", x={f"k{one}": 1 for one in range(99_000)})
    yield body("accepted: logit_bias", logit_bias={str(one): 1 for one in range(49_000)})
    yield body("accepted: n = 1024", n=1024)
    yield body("accepted: choices", structured_outputs={"choice": many("word")})
    yield body("accepted: regular expression", structured_outputs={"regex": "(a|b)?" * 166})
    yield body("accepted: JSON schema", structured_outputs={"json": {"enum": many("word")}})
    yield body("accepted: bad_words", bad_words=["word"] * 2048)
    turns = [asked, {"role": "user", "content": "yes"}]
    yield body("accepted: inquiry", entropy=game, messages=turns * 900)
    size = most
    yield body("messages", messages=many(user))
    yield body("messages of a wrong type", messages=many(1))
    yield body("messages without content", messages=many({"role": "user"}))
    yield body("one long message", messages=[{"role": "user", "content": text}])
    yield body("parts of a message", messages=[{"role": "user", "content": many(part)}])
    yield body("parts of a wrong type", messages=[{"role": "user", "content": many(1)}])
    yield body("tool calls", messages=[{"role": "assistant", "tool_calls": many(call)}, user])
    yield body("tools", tools=many(tool))
    yield body("logit_bias", logit_bias={str(one): 1 for one in range(size // 12)})
    yield body("bad_words", bad_words=many("word"))
    yield body("stop", stop=many("word"))
    yield body("stop_token_ids", stop_token_ids=many(1))
    yield body("allowed_token_ids", allowed_token_ids=many(1))
    yield body("n = 16384", n=16384)
    yield body("unknown keys", **keys())
    yield body("chat_template_kwargs", chat_template_kwargs=keys())
    yield body("vllm_xargs", vllm_xargs=keys())
    yield body("choices", structured_outputs={"choice": many("word")})
    yield body("regular expression", structured_outputs={"regex": "(a|b)?" * (size // 6)})
    yield body("JSON schema", structured_outputs={"json": {"enum": many("word")}})
    yield body("entropy: unknown keys", entropy=keys())
    yield body("entropy: a long key", entropy={"k" * size: 1})
    yield body("entropy: vectors", entropy={"steering": many({"vector": "a", "strength": 1})})
    layers = [{"vector": "a", "strength": 1, "layers": many("x")}]
    yield body("entropy: layers", entropy={"steering": layers})
    shuffled = {"type": "shuffled", "temperatures": many("x")}
    yield body("entropy: temperatures", entropy={"temperature": shuffled})
    yield body("entropy: profile name", entropy={"profile": text})
    yield body("model name", model=text)
    yield body("tokens of an answer", entropy={"trace": "tokens"}, max_tokens=500, n=8)
    yield body("inquiry: turns", entropy=game, messages=turns * (size // 110))
    wrong = [{"role": "assistant", "content": text}, user]
    yield body("inquiry: a long question", entropy=game, messages=wrong)
    long = [asked, {"role": "user", "content": text}]
    yield body("inquiry: a long reply", entropy=game, messages=long)
    parts = [asked, {"role": "user", "content": many(part)}]
    yield body("inquiry: parts", entropy=game, messages=parts)
    batch = "/v1/chat/completions/batch"
    yield body("batch", batch, messages=many([user]))
    yield body("prompts", "/v1/completions", prompt=many("a"))
    yield body("512 prompts, n = 32", "/v1/completions", prompt=["a"] * 512, n=32)
    yield body("32 conversations, n = 512", batch, messages=[[user]] * 32, n=512)
    yield body("prompts of tokens", "/v1/completions", prompt=many([1]))
    yield body("tokens of a prompt", "/v1/completions", prompt=many(1))
    yield body("a long prompt", "/v1/completions", prompt=text)
    yield body("input items", "/v1/responses", input=many(user))
    yield body("input items of a wrong type", "/v1/responses", input=many({"type": "x"}))
    yield body("Anthropic messages", "/v1/messages", messages=many(user))
    yield body("text to tokens", "/tokenize", prompt=text)
    yield body("tokens to text", "/detokenize", tokens=many(1))
    start = b'{"model":"%s","messages":[{"role":"user","content":"a"}],"max_tokens":1,"x":' % (
        _MODEL.encode()
    )
    chat = "/v1/chat/completions"
    yield Body("deep nesting", chat, start + b"[" * (size // 2) + b"]" * (size // 2) + b"}")
    yield Body("900 levels", chat, start + b"[" * 900 + b"]" * 900 + b"}")
    yield Body("empty arrays", chat, start + b"[" + b"[]," * (size // 3) + b"1]}")
    yield Body("numbers", chat, start + b"[" + b"1," * (size // 2) + b"1]}")
    yield Body("long numbers", chat, start + b"[" + (b"1" * 4000 + b",") * (size // 4001) + b"1]}")
    yield Body("brackets in a text", chat, start + b'"' + b"[{" * (size // 2) + b'"}')


def watch() -> None:
    """Run `entrostat` with a watch over its event loop, at GET /loop_pause."""
    from server.plugin import EntrostatPlugin

    worst = {"wall": 0.0, "cpu": 0.0}

    async def beat() -> None:
        while True:
            begin, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_BEAT)
            worst["wall"] = max(worst["wall"], time.perf_counter() - begin - _BEAT)
            worst["cpu"] = max(worst["cpu"], time.thread_time() - used)

    async def read() -> dict[str, float]:
        found = dict(worst)
        worst.update(wall=0.0, cpu=0.0)
        return found

    attach, start = EntrostatPlugin.attach_router, EntrostatPlugin.init_state
    tasks = []

    def attach_with_route(self: Any, app: Any) -> None:
        attach(self, app)
        app.add_api_route("/loop_pause", read)

    async def start_watched(self: Any, *arguments: Any) -> None:
        await start(self, *arguments)
        tasks.append(asyncio.create_task(beat()))

    setattr(EntrostatPlugin, "attach_router", attach_with_route)  # noqa: B010
    setattr(EntrostatPlugin, "init_state", start_watched)  # noqa: B010
    (command,) = entry_points(group="console_scripts", name="entrostat")
    command.load()()


def measure(url: str, body: Body) -> Pause:
    """Post one body and read the longest pause that it caused."""
    headers = {"content-type": "application/json"}
    httpx.get(f"{url}/loop_pause", timeout=600)
    try:
        answer = httpx.post(
            url + body.path, content=body.content, headers=headers, timeout=_PATIENCE
        )
        status = str(answer.status_code)
    except httpx.HTTPError as error:
        status = type(error).__name__
    time.sleep(0.1)  # the watch has one more turn
    found = httpx.get(f"{url}/loop_pause", timeout=600).json()
    return Pause(found["wall"], found["cpu"], status)


def main(
    megabytes: Annotated[float, typer.Option(help="Size of a body.")] = 2.0,
    repeats: Annotated[int, typer.Option(help="How often each body is posted.")] = 3,
    only: Annotated[str, typer.Option(help="Parts of names, by commas.")] = "",
    tree: Annotated[Path | None, typer.Option(help="Measure this source tree.")] = None,
    compare: Annotated[Path | None, typer.Option(help="--lines of an earlier run.")] = None,
    lines: Annotated[Path | None, typer.Option(help="Also write JSON lines here.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure and write loop-pause.md."""
    from benchmarks import machine
    from clients.local_server import local_server

    console, facts = Console(), machine.describe("benchmarks.loop_pause")
    folder = Path(tempfile.mkdtemp(prefix="entrostat-loop-"))
    if tree is not None:
        os.environ["PYTHONPATH"] = str(tree.resolve())
    command = [sys.executable, str(Path(__file__).resolve()), "serve", *_FLAGS]
    found: list[dict[str, Any]] = []
    with local_server(command, folder / "server.log", console) as url:
        for body in bodies(int(megabytes * 1e6)):
            if any(part in body.name for part in only.split(",")):
                pauses = [measure(url, body) for _ in range(repeats)]
                wall, cpu = min(one.wall for one in pauses), min(one.cpu for one in pauses)
                status = pauses[-1].status
                found.append({"name": body.name, "wall": wall, "cpu": cpu, "status": status})
                console.print(f"{body.name}: {wall:.3f} s, CPU {cpu:.3f} s, {status}")
                if lines is not None:
                    lines.write_text("".join(json.dumps(one) + "\n" for one in found))
    if tree is None and not only:
        old = [] if compare is None else [json.loads(one) for one in compare.open()]
        method = _METHOD.format(
            megabytes=megabytes, beat=_BEAT * 1e3, repeats=repeats, patience=_PATIENCE
        )
        page = ["# The event loop's longest pause", "", *machine.markdown(facts), "", method, ""]
        page += _table(found, {one["name"]: one for one in old})
        (output / "loop-pause.md").write_text("\n".join(page) + "\n")


def _table(found: list[dict[str, Any]], old: dict[str, dict[str, Any]]) -> list[str]:
    header = ["body", "answer", "pause, s", "CPU, s", "before: answer", "pause, s", "CPU, s"]
    rows = [header, ["---"] * len(header)]
    for one in found:
        before = old.get(one["name"], {})
        rows.append([one["name"], *_cells(one), *_cells(before)])
    return [f"| {' | '.join(row)} |" for row in rows]


def _cells(one: dict[str, Any]) -> list[str]:
    return [one["status"], f"{one['wall']:.3f}", f"{one['cpu']:.3f}"] if one else ["", "", ""]


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        watch()
    else:
        typer.run(main)
