"""`entrostat serve`: vLLM's serve command with the plugin enabled."""

import os
import signal
import sys
from importlib.metadata import entry_points
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from server.commands.model_runner import VARIABLE, Runner, choose_runner
from server.commands.startup import send_to_supervisor
from server.commands.supervisor import supervise
from server.profiles import ProfileError, Profiles
from server.surface import STARTUP_MODULES, Side, UnsupportedVllm, first_module, require

LOOPBACK = "127.0.0.1"
MAX_CHOICES = "1024"
"""Default of VLLM_MAX_N_SEQUENCES: vLLM's own, 16384, holds the event loop for a second."""

ALLOW_LISTED = (
    "vllm.general_plugins",
    "vllm.io_processor_plugins",
    "vllm.platform_plugins",
    "vllm.stat_logger_plugins",
)
"""Plugin groups that `VLLM_PLUGINS` filters if it is set."""


class SteeringFlags(NamedTuple):
    """The steering flags; None if not given."""

    layers: list[int] | None = None
    vectors: int | None = None


def serve(
    ctx: typer.Context,
    profiles: Annotated[
        Path | None,
        typer.Option(help="TOML file of named controls, added to the built-in ones."),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="Folder of artifacts, searched before the built-in ones."),
    ] = None,
    steering_layers: Annotated[
        str | None,
        typer.Option(
            help="Decoder layers that can be steered, separated by commas, counted from 0; "
            "default: those of the steering vectors for the model."
        ),
    ] = None,
    max_steering_vectors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of distinct steering configs in flight; further ones wait. A "
            "limit saves memory in large batches; default: one per request of a batch.",
        ),
    ] = None,
    model_runner: Annotated[
        Runner | None,
        typer.Option(help="vLLM model runner; default: vLLM's own choice, v2 on most GPUs."),
    ] = None,
    no_playground: Annotated[
        bool, typer.Option("--no-playground", help="Do not serve the playground at `/`.")
    ] = False,
    baseline_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the requests with difficulty, drawn at random, that are answered as if "
            "without it, so that metrics tell how many tokens it saves; default: 0.",
        ),
    ] = None,
    decision_log: Annotated[
        Path | None,
        typer.Option(help="Append a line of JSON for each controlled request to this file."),
    ] = None,
    decision_log_max_bytes: Annotated[
        int | None,
        typer.Option(min=1024, help="Size at which the decision log is rotated; default: 64 MiB."),
    ] = None,
    decision_log_files: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Rotated decision logs that are kept; default: 5."),
    ] = None,
    log_prompts: Annotated[
        bool,
        typer.Option(
            "--log-prompts", help="Write the body of each request, with its prompts, to that log."
        ),
    ] = False,
) -> None:
    """Serve a model behind an OpenAI API that controls entropy at every token.

    Usage: `entrostat serve [MODEL] [any vllm serve flag]`. Without MODEL it serves the embedded
    default, SmolLM2-135M-Instruct. Every flag of `vllm serve` is accepted:
    `entrostat serve --help=all` lists them.

    For example:

        entrostat serve

        entrostat serve Qwen/Qwen3-8B --tensor-parallel-size 2 --port 8001

        entrostat serve ./checkpoint --profiles profiles.toml --dtype float32
    """
    _check_own_flags(profiles, artifacts)
    if profiles is not None:
        os.environ["ENTROSTAT_PROFILES"] = str(profiles.resolve())
    if artifacts is not None:
        os.environ["ENTROSTAT_ARTIFACTS"] = str(artifacts.resolve())
    if no_playground:
        os.environ["ENTROSTAT_PLAYGROUND"] = "0"
    if baseline_share is not None:
        os.environ["ENTROSTAT_BASELINE_SHARE"] = str(baseline_share)
    if decision_log is not None:
        os.environ["ENTROSTAT_DECISION_LOG"] = str(decision_log.resolve())
    if decision_log_max_bytes is not None:
        os.environ["ENTROSTAT_DECISION_LOG_MAX_BYTES"] = str(decision_log_max_bytes)
    if decision_log_files is not None:
        os.environ["ENTROSTAT_DECISION_LOG_FILES"] = str(decision_log_files)
    if log_prompts:
        os.environ["ENTROSTAT_LOG_PROMPTS"] = "1"
    _check_settings()
    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", MAX_CHOICES)
    os.environ["VLLM_PLUGINS"] = ",".join(allowed_plugins(os.environ.get("VLLM_PLUGINS")))
    steering = SteeringFlags(_parse_layers(steering_layers), max_steering_vectors)

    def run(supervisor: Path) -> None:
        os.environ["ENTROSTAT_SUPERVISOR"] = str(supervisor)
        _run(ctx.args, model_runner, steering)

    raise SystemExit(supervise(run))


def vllm_help(argv: list[str]) -> None:
    """Print vLLM's own help, `--help=all` or `--help=<group or flag>`, and exit."""
    _parse_vllm_flags(argv)


def _fail(message: object) -> NoReturn:
    print(f"entrostat serve: {message}", file=sys.stderr)
    raise SystemExit(2)


def _check_own_flags(profiles: Path | None, artifacts: Path | None) -> None:
    try:
        Profiles(profiles)
    except ProfileError as error:
        _fail(error)
    if artifacts is not None and not artifacts.is_dir():
        _fail(f"--artifacts {artifacts}: no such folder")


def _check_settings() -> None:
    """Check all settings, and give all API servers the same secret."""
    from pydantic import ValidationError

    from server.audit.files import refuse_unwritable
    from server.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        variable = f"{Settings.model_config['env_prefix']}{error.errors()[0]['loc'][0]}".upper()
        _fail(f"{variable}: {_one_sentence(error)}")
    if settings.decision_log is not None:
        try:
            refuse_unwritable(settings.decision_log)
        except OSError as error:
            _fail(f"--decision-log: {error}")
    elif settings.log_prompts:
        _fail("--log-prompts needs --decision-log")
    os.environ["ENTROSTAT_CACHE_SECRET"] = settings.cache_secret.get_secret_value()


def allowed_plugins(allowed: str | None) -> list[str]:
    """Add ours to the allow-list and keep all plugins that would load without a list."""
    if allowed is not None:
        names = [name for name in allowed.split(",") if name]
    else:
        names = [entry.name for group in ALLOW_LISTED for entry in entry_points(group=group)]
    return list(dict.fromkeys([*names, "entrostat"]))


def _parse_layers(flag: str | None) -> list[int] | None:
    if flag is None:
        return None
    try:
        return sorted({int(number) for number in flag.split(",")})
    except ValueError:
        _fail(f"--steering-layers {flag}: write numbers separated by commas, such as 18,20")


def _run(argv: list[str], model_runner: Runner | None, steering: SteeringFlags) -> None:
    refuse_unsupported("serve")
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.logger import configure_logging_from_args, init_logger

    first_module(STARTUP_MODULES, "cli_env_setup")()
    args = _parse_vllm_flags(argv)
    configure_logging_from_args(args)
    logger = init_logger("vllm.entrostat")
    _check_folder(args.model_tag or args.model)
    if args.model_tag is None and not has_model_argument(argv):
        send_to_supervisor(stage="preparing the default model")
        _use_default_model(args, argv)
    choose_address(args, logger)
    choose_block_size(args, logger)
    runner = _settle_runner(args, model_runner)
    enable_worker_side(args, runner, steering)
    logger.info("entrostat: using vLLM's model runner %s", runner.value.upper())
    send_to_supervisor(address=_url(args))
    send_to_supervisor(
        stage="starting the engine: a first start compiles for minutes, later ones are faster"
    )
    refuse_unsupported("api", "v2" if runner == Runner.V2 else "v1")
    command = ServeSubcommand()
    signal.signal(signal.SIGHUP, _forward_to_api_servers)
    try:
        command.validate(args)
        command.cmd(args)
    except (ValueError, OSError, TypeError) as error:
        _fail(_one_sentence(error))


def _settle_runner(args: Any, flag: Runner | None) -> Runner:
    """Choose the runner for all processes of the server, and refuse what it cannot control."""
    from server.worker.supported import EngineSettings, refuse_controls

    try:
        runner = choose_runner(args, flag)
        refuse_controls(EngineSettings.of_arguments(args, is_v2=runner == Runner.V2))
    except (ValueError, OSError) as error:
        _fail(_one_sentence(error))
    os.environ[VARIABLE] = "1" if runner == Runner.V2 else "0"
    return runner


def refuse_unsupported(*sides: Side) -> None:
    """Refuse a version of vLLM without the names that these processes need."""
    try:
        require(*sides)
    except UnsupportedVllm as error:
        _fail(error)


def choose_address(args: Any, logger: Any) -> None:
    """Listen on the loopback interface by default; log the choice."""
    if args.uds or args.headless:
        return
    if args.host is None:
        args.host = LOOPBACK
        logger.info("entrostat: only this machine can connect; use --host 0.0.0.0 to allow others")
    elif not _is_loopback(args.host) and not (args.api_key or os.environ.get("VLLM_API_KEY")):
        logger.warning(
            "entrostat: ANYONE WHO CAN REACH %s:%s CAN USE THIS SERVER: it listens on a "
            "non-loopback address without --api-key",
            args.host,
            args.port,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_block_size(args: Any, logger: Any) -> None:
    """Default to the smallest block on CPUs: short prompts do not fill one of 128 tokens."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and args.block_size is None:
        args.block_size = 32
        logger.info(
            "entrostat: --block-size 32, so that the prefix cache also covers short prompts "
            "(vLLM's default on CPUs is 128)"
        )


def _url(args: Any) -> str:
    """URL of the server on this machine."""
    if args.uds:
        return f"unix:{args.uds}"
    host = LOOPBACK if args.host in (None, "0.0.0.0", "::") else args.host
    scheme = "https" if args.ssl_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{args.port}"


def _parse_vllm_flags(argv: list[str]) -> Any:
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="entrostat")
    subparser = ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    parser.error = subparser.error = _fail
    return parser.parse_args(["serve", *argv])


def _check_folder(model: str) -> None:
    """Refuse a missing folder, which vLLM would interpret as a repository name."""
    if model.startswith((".", "/")) and not Path(model).exists():
        _fail(f"{model}: no such model folder")


def has_model_argument(argv: list[str]) -> bool:
    """Whether the model comes from `--model` or a config file."""
    return any(arg.split("=")[0] in ("--model", "--config") for arg in argv)


def _use_default_model(args: Any, argv: list[str]) -> None:
    """Serve the embedded model, with defaults for a fast start unless flags override them."""
    from vllm.platforms import current_platform

    from server.commands.default_model import DEFAULT_MODEL, ModelUnavailable, default_model
    from server.settings import settings

    try:
        args.model_tag = str(default_model(settings().cache))
    except (ModelUnavailable, OSError) as error:
        _fail(error)
    args.served_model_name = args.served_model_name or [DEFAULT_MODEL]
    if current_platform.is_cpu():
        given = {arg.split("=")[0] for arg in argv}
        if not given & {"--no-enforce-eager", "--compilation-config", "-O", "-cc"}:
            args.enforce_eager = True
        if args.kv_cache_memory_bytes is None and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            args.kv_cache_memory_bytes = 1 << 30  # 46,000 tokens of this model


def enable_worker_side(args: Any, runner: Runner, steering: SteeringFlags) -> None:
    """Enable the worker side: the logits processor and the config key of the plugin."""
    from server.worker.message import CONFIG_KEY, LAYERS_KEY, VECTORS_KEY

    flags = {LAYERS_KEY: steering.layers, VECTORS_KEY: steering.vectors}
    ours = {key: value for key, value in flags.items() if value is not None}
    processor = f"server.engine.runner_{runner.value}:EntropyProcessor{runner.value.upper()}"
    args.logits_processors = [*(args.logits_processors or []), processor]
    args.additional_config = {**(args.additional_config or {}), CONFIG_KEY: ours}
    if args.disable_access_log_for_endpoints is None:
        args.disable_access_log_for_endpoints = "/health,/ready,/metrics"


def _forward_to_api_servers(signum: int, frame: object) -> None:
    """Forward a signal: with several API servers, the profiles are in their processes."""
    import multiprocessing

    for child in multiprocessing.active_children():
        if child.name.startswith("ApiServer") and child.pid is not None:
            os.kill(child.pid, signum)


def _one_sentence(error: BaseException) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        finding = error.errors()[0]
        return str(finding["msg"]).removeprefix("Value error, ").splitlines()[0]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
