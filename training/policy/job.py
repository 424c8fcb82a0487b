"""The policy training job: trains a model on a task and saves a checkpoint to serve."""

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from training.common.job import load_tokenizer, make_writable
from training.datasets.problem import Problem
from training.policy.config import PolicyConfig
from training.policy.grading import ProblemGrader
from training.policy.preparation import Prepared, accumulation_steps, conversation, prepare
from training.policy.run_folder import (
    AFTER,
    BEFORE,
    KEPT,
    drop_checkpoints,
    is_finished,
    last_checkpoint,
    make_servable,
    model_folder,
    num_trained,
    only_run,
    refuse_full_disk,
    step_of,
    write_config,
)


def train_policy(config: PolicyConfig, console: Console, *, fresh: bool = False) -> Path:
    """Run the job, or resume it.

    Args:
        config: Configuration of the run.
        console: Console of the live view.
        fresh: Discard the contents of the run folder.

    Returns:
        The folder to serve: a checkpoint, or an adapter.

    Raises:
        TrainingError: The run cannot start or continue.
    """
    prepared = prepare(config, fresh=fresh)
    make_writable(config.run)
    is_main = int(os.environ.get("RANK", "0")) == 0
    with only_run(config.run) if is_main else nullcontext():
        return _train(config, prepared, console, fresh=fresh, is_main=is_main)


def _train(
    config: PolicyConfig, prepared: Prepared, console: Console, *, fresh: bool, is_main: bool
) -> Path:
    """Train and evaluate; the arguments are those of `train_policy`."""
    (questions, checkpoint), run = prepared, config.run
    if is_main:
        write_config(config, fresh=fresh)
    target = model_folder(config)
    if is_finished(config) and not fresh:
        console.print("the run is finished: nothing to train", highlight=False)
        return _finish(config, target, console) if is_main else target
    if config.tracking != "none":  # before TRL imports trackio, which reads it once
        folder = str((run / "tracking").absolute())
        os.environ["TENSORBOARD_LOGGING_DIR"] = os.environ["TRACKIO_DIR"] = folder
    _disable_progress_bars()
    from training.policy.distributed import shut_down
    from training.policy.progress import STEPS_FILE, LiveView, StepLog

    console.print(f"run folder: {run}", highlight=False, soft_wrap=True)
    if is_main:
        _print_estimate(config, console)
    log = StepLog(run / STEPS_FILE)
    view = LiveView(log, config.optimizer.steps, console)
    trainer = build_trainer(config, checkpoint, questions.train, [view])
    resume = last_checkpoint(run)
    if is_main:
        refuse_full_disk(config, num_trained(trainer.model))
        log.drop_after(0 if resume is None else step_of(resume))
        _evaluate_once(run / BEFORE, config, trainer, questions.held_out, console)
    trainer.accelerator.wait_for_everyone()
    if resume is not None:
        console.print(f"resuming from step {step_of(resume)}")
    if resume is not None and step_of(resume) >= config.optimizer.steps:
        # When resumed, the trainer takes one step before it compares the count with max_steps.
        trainer._load_from_checkpoint(str(resume))
    else:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_model(str(target))
    if is_main:
        make_servable(target)
        (run / AFTER).unlink(missing_ok=True)
        _evaluate_once(run / AFTER, config, trainer, questions.held_out, console)
        _finish(config, target, console)
    shut_down(trainer)
    return target


def _print_estimate(config: PolicyConfig, console: Console) -> None:
    """Print the estimated duration of the run."""
    from training.common.duration import LONG, format_duration
    from training.policy.cost import estimate

    seconds = estimate(config).seconds(config.optimizer.steps)
    line = f"expected time: about {format_duration(seconds)} for {config.optimizer.steps} steps"
    if seconds > LONG:
        line = f"warning: {line}; stop with Ctrl-C and try --quick or a smaller run first"
    console.print(line, highlight=False, soft_wrap=True)


def _finish(config: PolicyConfig, target: Path, console: Console) -> Path:
    """Write the report of a finished run and delete its checkpoints."""
    from training.policy.report import write_policy_report

    report = write_policy_report(config.run, config)
    drop_checkpoints(config.run)
    console.print(f"model:  {target}\nreport: {report}", highlight=False, soft_wrap=True)
    return target


def build_trainer(
    config: PolicyConfig, checkpoint: Path, problems: Sequence[Problem], callbacks: list[Any]
) -> Any:
    """Build the trainer of a config.

    Args:
        config: Configuration of the run.
        checkpoint: Folder of the initial model.
        problems: Training problems.
        callbacks: Callbacks in addition to TRL's defaults.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PrinterCallback, set_seed

    from training.policy.trainer import EntropyGRPOTrainer

    grader = ProblemGrader(problems)
    rows = [
        {"prompt": conversation(problem, config), "problem": index}
        for index, problem in enumerate(problems)
    ]
    tokenizer = load_tokenizer(checkpoint, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    set_seed(config.seed)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    trainer = EntropyGRPOTrainer(
        model,
        grader.accuracy_reward,
        trl_config(config),
        objectives=config.objectives,
        controller=config.controller,
        law=config.rollout.law,
        branch=config.rollout.branch,
        served=config.served,
        importance_cap=config.rollout.importance_cap,
        grader=grader.is_right,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_peft_config(config),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def trl_config(config: PolicyConfig) -> Any:
    """Convert a config to TRL's `GRPOConfig`."""
    import torch

    from training.policy.trl_import import GRPOConfig

    rollout, loss, optimizer = config.rollout, config.loss, config.optimizer
    accumulation = accumulation_steps(config)
    return GRPOConfig(
        output_dir=str(config.run),
        seed=config.seed,
        per_device_train_batch_size=optimizer.micro_batch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * rollout.num_minibatches,
        num_iterations=rollout.num_iterations,
        num_generations=rollout.num_generations,
        max_completion_length=rollout.max_tokens,
        temperature=rollout.temperature,
        top_k=0,
        use_vllm=rollout.backend.startswith("vllm"),
        vllm_mode="server" if rollout.backend == "vllm-server" else "colocate",
        vllm_server_base_url=rollout.server if rollout.backend == "vllm-server" else None,
        loss_type=loss.loss_type,
        importance_sampling_level=loss.importance_sampling_level,
        epsilon=loss.epsilon,
        epsilon_high=loss.clip_high,
        delta=loss.delta,
        beta=loss.beta,
        scale_rewards=loss.scale_rewards,
        max_steps=optimizer.steps,
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type=optimizer.schedule,
        warmup_steps=optimizer.warmup_steps,
        max_grad_norm=optimizer.max_grad_norm,
        adam_beta1=optimizer.beta1,
        bf16=optimizer.precision == "bfloat16",
        gradient_checkpointing=optimizer.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=optimizer.save_every,
        save_total_limit=KEPT,
        logging_steps=1,
        report_to=config.tracking,
        project="entrostat",
        run_name=config.run.name,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _evaluate_once(
    path: Path,
    config: PolicyConfig,
    trainer: Any,
    problems: list[Problem],
    console: Console,
) -> None:
    """Evaluate the current policy and write the result, unless the file exists."""
    from training.policy.evaluation import evaluate

    if path.is_file():
        return
    with console.status(f"answering {len(problems)} held-out problems"):
        found = evaluate(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            trainer.eos_token_ids,
            problems,
            [conversation(problem, config) for problem in problems],
            samples=config.evaluation.samples,
            batch=config.evaluation.batch,
            max_tokens=config.rollout.max_tokens,
            temperature=config.rollout.temperature,
            seed=config.seed,
        )
    staging = path.with_suffix(".tmp")
    staging.write_text(json.dumps(found._asdict()))
    staging.replace(path)
    console.print(
        f"held out: accuracy {found.accuracy:.3f}, entropy {found.entropy:.3f} nats",
        highlight=False,
    )


def _peft_config(config: PolicyConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(config.lora.target_modules),
        task_type="CAUSAL_LM",
    )


def _disable_progress_bars() -> None:
    """Disable the progress bars of `transformers`; the live view replaces them."""
    from transformers.utils import logging

    logging.disable_progress_bar()
