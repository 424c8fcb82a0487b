"""What a finished vector does in other wordings: `python -m benchmarks.steering.transfer`.

The tests of `train-steering east` on any steering vector of the default model with one layer, such
as the shipped one: wordings that nothing was chosen on, plain questions and other bandits, beside
20 shuffled and 20 Gaussian vectors.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import machine
from probes.artifact import Artifact
from probes.steering import random_direction, shuffled, tensor_name
from training.common.metrics import Interval
from training.common.report import markdown_table
from training.steering.cache import BatchCache
from training.steering.config import SteeringConfig, split_episodes
from training.steering.fit import CONTROLS, Choice, Vector
from training.steering.measure import measure_vector
from training.steering.model import load_model
from training.steering.results import TaskResult

_HEAD = (
    "test", "unsteered", "steered", "change", "change, negated", "20 shuffled", "20 Gaussian",
    "above shuffled", "exceeds", "effect",
)  # fmt: skip


def load_vector(folder: Path) -> tuple[Artifact, Vector]:
    """A vector of one layer."""
    artifact = Artifact.load(folder)
    spec = artifact.manifest.steering
    assert spec is not None
    ((layer, norm),) = spec.norms.items()
    return artifact, Vector(layer, artifact.tensors[tensor_name(layer)].double(), norm)


def row(task: str, test: TaskResult, choice: Choice) -> tuple[str, ...]:
    """A line of the table."""
    effect = test.effect
    shuffled_ones, gaussian = test.controls["shuffled"], test.controls["Gaussian"]
    return (
        task,
        f"{test.curve.interpolate(0.0)[0]:.3f}",
        f"{test.curve.interpolate(choice.strength)[0]:.3f}",
        *(_cell(one) for one in (effect.change, effect.negated)),
        *(f"{one.mean:.3f} ± {one.spread:.3f}" for one in (shuffled_ones, gaussian)),
        _cell(effect.above_shuffled),
        f"{test.below(choice, 'shuffled')} of {CONTROLS}, {test.below(choice, 'Gaussian')} of "
        f"{CONTROLS}",
        "yes" if test.transfers(choice) else "not shown",
    )


def _cell(one: Interval) -> str:
    return f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


def main(
    vector: Annotated[Path, typer.Option(help="Folder of the vector.")] = Path(
        "artifacts/smollm2-135m/explore"
    ),
    strength: Annotated[float, typer.Option(help="In multiples of the stream's norm.")] = 0.1,
    transfer: Annotated[str, typer.Option(help="Other tasks, as for `train-steering`.")] = "",
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
    runs: Annotated[Path, typer.Option(help="Readings; the same command resumes there.")] = Path(
        "runs/steering-transfer"
    ),
) -> None:
    """Measure and write steering-transfer-NAME.md."""
    facts = machine.describe("benchmarks.steering.transfer")
    artifact, found = load_vector(vector)
    job = SteeringConfig(transfer=tuple(filter(None, transfer.split(","))))
    loaded, choice = load_model(None), Choice(found.layer, strength)
    controls = {
        name: [found.with_direction(make(found.direction, seed)) for seed in range(CONTROLS)]
        for name, make in (("shuffled", shuffled), ("Gaussian", random_direction))
    }
    rows = list[tuple[str, ...]]()
    folder = runs / f"{vector.name}-{str(artifact.manifest.tensors_hash)[:8]}-{strength:g}"
    folder.mkdir(parents=True, exist_ok=True)
    readings = BatchCache(folder, loaded.model, Console())
    for task, episodes in split_episodes(job).tests.items():
        test = measure_vector(
            readings,
            task,
            loaded.texts(episodes),
            found,
            choice,
            controls,
            (-strength, 0.0, strength),
            labels=[""] * len(episodes),
        )
        rows.append(row(task, test, choice))
        print(rows[-1])
    lines = [f"# `{artifact.id}` in other wordings", "", *machine.markdown(facts), "", f"""\
Vector `{artifact.id}`, learned from `{artifact.manifest.settings["task"]}` (layer {found.layer},
strength {strength:g}; contents `{str(artifact.manifest.tensors_hash)[:12]}`), on the test episodes
of `train-steering east`. Entropy over the actions in nats; 95 % bootstraps over episodes, paired.
An effect is shown where the intervals are above 0 and the vector exceeds all 40 controls.
""", markdown_table(_HEAD, rows)]  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    page = output / f"steering-transfer-{vector.name}.md"
    page.write_text("\n".join(lines) + "\n")
    print(page)


if __name__ == "__main__":
    typer.run(main)
