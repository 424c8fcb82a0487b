import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("server", "probes", "training", "clients")
ALLOWED = {
    "server": {"server", "probes"},
    "training": {"training", "probes", "clients"},
    "clients": {"clients"},
    "probes": {"probes"},
}
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
OTHERS = [
    path
    for folder in ("benchmarks", "scripts", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

JOBS = (
    *("temperature", "difficulty", "inquiry", "decisions", "selective", "steering", "policy"),
    "evaluation",
)
"""The jobs of `training/`, which know nothing of each other."""
SHARED_BY_JOBS = ("common", "datasets", "objectives")

MAX_MODULES = 20
MAX_LINES = 400

CROWDED: dict[str, int] = {}
"""Folders that still have more than `MAX_MODULES` modules. The list may only shrink."""

DEFINED_TWICE: set[str] = set()
"""Public class names that still mean two things. The list may only shrink."""

WITHOUT = {
    "torch": (
        "clients.ask",
        "clients.chat",
        "clients.entropy",
        "clients.inquiry",
        "probes.graders",
        "probes.laws",
        "probes.strict",
        "server.commands.entrostat",
        "server.commands.serve",
        "server.errors",
        "server.planning.difficulty",
        "server.planning.plan",
        "server.planning.refusals",
        "server.profiles",
        "server.settings",
        "server.wire.report",
        "server.wire.request",
        "training.cli.evaluate",
        "training.cli.policy",
        "training.cli.probe",
        "training.cli.steering",
        "training.cli.objective_table",
        "training.objectives.catalog",
        "training.policy.config",
        "training.policy.validation",
    ),
}
"""Modules that are imported before, or without, the heavy package named first."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_file = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: import by full name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_every_package_has_files_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@each_file
def test_imports_follow_the_arrows(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    forbidden = {*PACKAGES, "benchmarks", "tests", "docs"} - ALLOWED[package]
    crossed = {m for m in imports(path) for other in forbidden if inside(m, other)}
    assert not crossed, f"{package} must not import {', '.join(sorted(crossed))}"


@each_file
def test_only_the_server_knows_vllm_and_only_its_engine_the_worker(path: Path) -> None:
    modules = imports(path)
    parts = path.relative_to(ROOT).parts
    if parts[0] in ("probes", "clients"):
        assert not [m for m in modules if inside(m, "vllm")]
    if parts[:2] in (("server", "planning"), ("server", "wire")):
        assert not [m for m in modules if inside(m, "vllm")]
    if parts[:2] != ("server", "engine"):
        internals = ("vllm.v1.worker", "vllm.v1.sample")
        assert not [m for m in modules for package in internals if inside(m, package)]


def environment_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of our own variables that a file mentions, except where it only sets them."""
    written = {
        id(node.slice)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith("ENTROSTAT_")
            and id(node) not in written
        ):
            yield node.value, node.lineno


@each_file
def test_one_file_reads_our_part_of_the_environment_and_one_sets_it(path: Path) -> None:
    name = name_of(path)
    if name == "server/settings.py":
        return
    text = path.read_text()
    assert list(environment_names(ast.parse(text))) == []
    if name != "server/commands/serve.py":
        assert '"ENTROSTAT_' not in text


@pytest.mark.parametrize("path", [*SOURCES, *OTHERS], ids=name_of)
def test_no_file_is_too_long_to_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time"}


@pytest.mark.parametrize(
    "path", [path for path in OTHERS if path.is_relative_to(ROOT / "tests")], ids=name_of
)
def test_no_test_asserts_a_duration(path: Path) -> None:
    """It would fail on a busy machine; `benchmarks/` measures, `tests.waiting` waits."""
    asserted = [node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.Assert]
    for node in asserted:
        compared = [part for part in ast.walk(node) if isinstance(part, ast.Compare)]
        called = {
            getattr(part.func, "attr", getattr(part.func, "id", None))
            for one in compared
            for part in ast.walk(one)
            if isinstance(part, ast.Call)
        }
        assert not called & CLOCKS, f"{name_of(path)}:{node.lineno}"


def test_no_folder_has_too_many_modules() -> None:
    modules = [path for path in SOURCES if path.name != "__init__.py"]
    counts = Counter(name_of(path.parent) for path in modules)
    crowded = {name: n for name, n in counts.items() if n > CROWDED.get(name, MAX_MODULES)}
    assert crowded == {}


@each_file
def test_the_jobs_of_training_know_nothing_of_each_other(path: Path) -> None:
    top, job, *_ = (*path.relative_to(ROOT).parts, "")
    if top != "training" or job not in (*JOBS, *SHARED_BY_JOBS):
        return
    others = {f"training.{other}" for other in (*JOBS, "cli") if other != job}
    if job not in ("policy", "objectives"):
        others.add("training.objectives")
    assert {m for m in imports(path) for other in others if inside(m, other)} == set()


def test_a_public_class_name_means_one_thing() -> None:
    names = Counter(
        node.name
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} - DEFINED_TWICE == set()


def folder_imports() -> dict[str, dict[str, set[str]]]:
    """For each folder, the folders it imports and by which modules; types-only imports count too.

    Every folder is a unit of its own: `server/routes` and `server` are two.
    """
    folders = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): name_of(
            path.parent
        )
        for path in SOURCES
    }
    found: dict[str, dict[str, set[str]]] = {name: {} for name in folders.values()}
    for path in SOURCES:
        home = name_of(path.parent)
        for name in imports(path):
            module = name if name in folders else name.rpartition(".")[0]
            if folders.get(module, home) != home:
                found[home].setdefault(folders[module], set()).add(name_of(path))
    return found


def test_no_folders_import_each_other_in_a_circle() -> None:
    arrows = folder_imports()

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = set(arrows[left.pop()]) - seen
            seen |= new
            left.extend(new)
        return seen

    circular = {name for name in arrows if name in reached(name)}
    assert {
        f"{home} -> {other} ({', '.join(sorted(modules))})"
        for home in circular
        for other, modules in arrows[home].items()
        if other in circular
    } == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even where only types are imported."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCES
    }
    needs = {
        module: {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
        & (modules.keys() - {module})
        for module, path in modules.items()
    }
    TopologicalSorter(needs).prepare()  # raises an error that names the circle


@pytest.mark.parametrize("heavy", WITHOUT)
def test_light_modules_import_nothing_heavy(heavy: str) -> None:
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    assert sys.argv[1] not in sys.modules, f'{name} imports {sys.argv[1]}'\n"
    )
    command = [sys.executable, "-c", program, heavy, *WITHOUT[heavy]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, "-m", "scripts.docs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
