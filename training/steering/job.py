"""Job: read an agent's episodes, fit EAST, choose layer and strength, test on other episodes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoConfig

from probes.artifact import Artifact, Manifest, package_versions
from probes.steering import SteeringSpec, action_entropy, sampled_entropy, tensor_name
from training.common.errors import TrainingError
from training.common.job import (
    check_job,
    check_name,
    default_checkpoint,
    make_writable,
    model_identity,
)
from training.steering.cache import BatchCache, run_folder
from training.steering.config import EpisodeSplit, SteeringConfig, episodes_hash, split_episodes
from training.steering.fit import (
    Choice,
    UnsteeredSteps,
    Vector,
    control_vectors,
    equal_weights,
    fit_vectors,
    uniform_residue,
)
from training.steering.generations import generate_steered
from training.steering.measure import compare_candidates, measure_vector, strength_curves
from training.steering.model import LoadedModel, load_model
from training.steering.reader import (
    PLAIN,
    EpisodeReader,
    TokenizedEpisode,
    count_actions,
    end_token,
)
from training.steering.report import write_report, write_summary
from training.steering.results import SteeringResult, TaskResult
from training.steering.tasks import Episode
from training.steering.token_tree import attention_windows, decoder_layers


def train_steering(job: SteeringConfig, console: Console) -> Path:
    """Run the job.

    Returns:
        The artifact's folder.

    Raises:
        TrainingError: The job failed; readings stay in the run folder.
    """
    split, checkpoint = check(job)
    for folder in (job.out, job.runs):
        make_writable(folder)
    loaded = load_model(checkpoint, is_default=job.model is None)
    name = job.name or f"{loaded.name}/explore"
    check_name(name)
    layers = _layers(job.layers, len(decoder_layers(loaded.model)))
    settings = {
        "identity": model_identity(loaded.folder).model_dump(),
        **_cache_settings(job),
        "layers": layers,
        "seed": job.seed,
        "data": [
            episodes_hash(runs) for runs in (split.train, split.validation, *split.tests.values())
        ],
    }
    folder = run_folder(job.runs, loaded.name, settings, fresh=job.fresh)
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)
    readings = BatchCache(folder, loaded.model, console)

    read = _read_unsteered(readings, loaded.texts(split.train), layers)
    entropy = _entropy(job, readings, loaded, split.train, read)
    weights = _weights(split, entropy)
    try:
        vectors = fit_vectors(read, weights, layers)
    except ValueError as error:
        raise TrainingError(f"--task {job.task}: {error}") from error
    curves = strength_curves(job, readings, loaded.texts(split.validation), vectors)
    compared = compare_candidates(job, readings, loaded.texts(split.validation), vectors, curves)
    if not compared:
        raise TrainingError(
            "no strength raises the entropy while answers stay valid, at no layer: try other "
            "--strengths, a lower --valid-share or other runs"
        )
    choice = max(compared, key=lambda candidate: candidate.margin).choice
    vector, place = vectors[choice.layer], layers.index(choice.layer)
    controls = control_vectors(read, weights, place, vector)
    tests = {
        task: measure_vector(
            readings,
            task,
            loaded.texts(runs),
            vector,
            choice,
            controls,
            job.strengths,
            labels=[run[0].answer_prefix if run[0].wording else "" for run in runs],
            seed=job.seed,
        )
        for task, runs in split.tests.items()
    }
    generations = generate_steered(
        readings,
        loaded.tokenizer,
        split.tests[split.counts],
        vector,
        choice,
        job.strengths,
        completions=job.completions,
        tokens=job.max_tokens,
        seed=job.seed,
    )
    artifact = Artifact(
        id=name,
        manifest=_manifest(job, loaded, split, vector, choice, tests[split.counts]),
        tensors={tensor_name(vector.layer): vector.direction.float()},
    )
    facts = SteeringResult(
        artifact=artifact,
        choice=choice,
        curves=curves,
        compared=compared,
        share=job.valid_share,
        tests=tests,
        generations=generations,
        estimates=(entropy, action_entropy(read.logprobs)),
        size=float(vector.direction.norm()) / vector.norm,
        residue=uniform_residue(read, place) / vector.norm,
        command=job.command,
        num_wordings=split.num_wordings,
    )
    target = artifact.save(job.out)
    report = write_report(facts, folder)
    write_summary(facts, console)
    console.print(f"artifact: {target}\nreport:   {report}", highlight=False, soft_wrap=True)
    return target


def check(job: SteeringConfig) -> tuple[EpisodeSplit, Path]:
    """Check the settings before anything is started; `--dry-run` calls this too.

    Returns:
        The episodes, and the model's folder.
    """
    check_job(job)
    split = split_episodes(job)
    checkpoint = default_checkpoint() if job.model is None else job.model
    model_identity(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint)
    attention_windows(config)
    _layers(job.layers, int(config.get_text_config().num_hidden_layers))
    return split, checkpoint


def cost(job: SteeringConfig, checked: tuple[EpisodeSplit, Path]) -> str:
    """Cost of the run, for `--dry-run`."""
    split, checkpoint = checked
    tests = len(split.tests) * job.held_out
    return (
        f"{len(split.train)} episodes to learn from, {len(split.validation)} to choose on and "
        f"{tests} to test on, read with {checkpoint.name} at {len(job.strengths)} strengths; "
        f"{job.minutes}"
    )


def _layers(wanted: tuple[int, ...] | None, number: int) -> list[int]:
    if wanted is None:
        return list(range(number))
    if unknown := [layer for layer in wanted if not 0 <= layer < number]:
        raise TrainingError(
            f"--layers: there is no layer {unknown[0]}: the model's layers are 0 to {number - 1}"
        )
    return sorted(set(wanted))


def _cache_settings(job: SteeringConfig) -> dict[str, float | int | str]:
    """The settings on which the readings depend."""
    return {
        "task": Path(job.task).name,
        "wordings": "" if job.wordings is None else job.wordings.name,
        "transfer": ",".join(job.transfer),
        "arms": job.arms,
        "histories": job.histories,
        "held_out": job.held_out,
        "steps": job.steps,
        "estimator": job.estimator,
        "completions": job.completions,
        "max_tokens": job.max_tokens,
        "miller_madow": int(job.miller_madow),
        "strengths": ",".join(f"{strength:g}" for strength in job.strengths),
        "valid_share": job.valid_share,
    }


def _read_unsteered(
    readings: BatchCache, texts: Sequence[TokenizedEpisode], layers: Sequence[int]
) -> UnsteeredSteps:
    def read(reader: EpisodeReader, _: int) -> dict[str, Tensor]:
        logprobs, states = reader.states(layers)
        return {"logprobs": logprobs, "states": states}

    found = readings.map_batches("reading states", texts, read)
    steps = torch.tensor([len(run.prompts) for run in texts])
    runs = torch.arange(len(texts)).repeat_interleave(steps)
    return UnsteeredSteps(found["logprobs"], found["states"], runs)


def _weights(split: EpisodeSplit, entropy: Tensor) -> Tensor:
    """The entropies; with many wordings so that each counts the same."""
    if not split.num_wordings:
        return entropy
    numbers = {one: number for number, one in enumerate(dict.fromkeys(split.wordings))}
    return equal_weights(entropy, torch.tensor([numbers[one] for one in split.wordings]))


def _entropy(
    job: SteeringConfig,
    readings: BatchCache,
    loaded: LoadedModel,
    runs: Sequence[Episode],
    read: UnsteeredSteps,
) -> Tensor:
    """Entropy over the actions at every step, by the chosen estimator."""
    if job.estimator == "logit":
        return action_entropy(read.logprobs).entropy
    answers = job.completions, job.max_tokens

    def sample(reader: EpisodeReader, batch: int) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(job.seed * 100_000 + batch)
        drawn = reader.sample(PLAIN, *answers, chance, end_token(loaded.tokenizer))
        return {"counts": count_actions(reader, drawn, loaded.tokenizer)}

    counts = readings.map_batches("sampling answers", loaded.texts(runs), sample)["counts"]
    return sampled_entropy(counts, miller_madow=job.miller_madow)


def _manifest(
    job: SteeringConfig,
    loaded: LoadedModel,
    split: EpisodeSplit,
    vector: Vector,
    choice: Choice,
    test: TaskResult,
) -> Manifest:
    return Manifest(
        kind="steering-vector",
        model=loaded.name,
        identity=model_identity(loaded.folder),
        data_hash=episodes_hash(split.train + split.validation),
        seed=job.seed,
        versions=package_versions("entrostat", "transformers", "safetensors"),
        settings={
            **_cache_settings(job),
            "model_type": str(loaded.model.config.model_type),
            "strength_relative": choice.strength,
        },
        steering=SteeringSpec(features=len(vector.direction), norms={vector.layer: vector.norm}),
        metrics=_metrics(test, choice, job.valid_share),
    )


def _metrics(test: TaskResult, choice: Choice, share: float) -> dict[str, float | int]:
    """Metrics for the manifest, on the test that counts."""
    entropy, action_probability_mass = test.curve.interpolate(choice.strength)
    return {
        "entropy_unsteered": round(test.curve.interpolate(0.0)[0], 4),
        "entropy_steered": round(entropy, 4),
        "mass_unsteered": round(test.curve.interpolate(0.0)[1], 4),
        "mass_steered": round(action_probability_mass, 4),
        "spearman": round(test.curve.spearman_correlation(share), 4),
        "shuffled_mean": round(test.controls["shuffled"].mean, 4),
        "shuffled_sd": round(test.controls["shuffled"].spread, 4),
        "above_shuffled_low": round(test.effect.above_shuffled.low, 4),
        "above_shuffled_high": round(test.effect.above_shuffled.high, 4),
        "num_steps": test.steps,
    }
