"""``t2l train ...`` and ``t2l recipes ...``: from a recipe to a trained checkpoint.

Level 6. Thin wrappers: `t2l.training` does the work; this file knows options, and which verb trains what.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2l.commands.options import AsJson, Force
from t2l.commands.terminal import print_json, say, tell
from t2l.errors import TrainingStopped

if TYPE_CHECKING:
    from accelerate import Accelerator

    from t2l.lora import LoraSource, LoraSpec
    from t2l.recipes.reader import Recipe
    from t2l.training.run_folder import RunFolder

train = typer.Typer(
    name="train", help="Train a hypernetwork, a library of adapters, or one LoRA, from a recipe.", no_args_is_help=True
)
recipes = typer.Typer(name="recipes", help="The recipes that ship with t2l.", no_args_is_help=True)


@recipes.command("ls")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes, a line each."""
    from t2l.recipes.reader import load_recipe, recipe_names

    found = {name: load_recipe(name).about for name in recipe_names()}
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, about in found.items():
        tell(f"{name:<{width}}  {about}")


@recipes.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The recipe's name, or a file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to it.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every value, defaults included.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe."""
    from t2l.recipes.reader import load_recipe, recipe_names, recipe_text

    recipe = load_recipe(name, overrides or [])
    if as_json:
        print_json(recipe.to_dict())
    elif full or overrides or name not in recipe_names():
        tell(recipe.to_yaml().rstrip())
    else:
        tell(recipe_text(name).rstrip())


@recipes.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="The recipe's name.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes, such as mine.yaml.")],
    force: Force = False,
) -> None:
    """Copy a recipe to a file of your own, to change it there."""
    from t2l.recipes.reader import recipe_text
    from t2l.storage import check_file, write_bytes

    text = recipe_text(name)
    check_file(out, force=force)
    write_bytes(out, text.encode())
    tell(f"{out}: train with it: t2l train sft {out} data.store=STORE")


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name (t2l recipes ls) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as loop.steps=500.")
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="The run's folder; below 'runs' by default. Resumes what is there."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Shapes, parameters, memory, steps and time; nothing is started.")
]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Resume though the recipe differs from the run's.")
]
OnCpu = Annotated[bool, typer.Option("--cpu", help="Compute on the CPU, whatever else there is.")]


@contextmanager
def running(place: Path, recipe: Recipe, cpu: bool) -> Iterator[tuple[RunFolder, Accelerator]]:
    """The run's folder, which no other process trains in, and what places it on devices.

    Raises:
        T2LError: a library is missing, or another process trains there.
        typer.Exit: the run was asked to stop, and has saved its state.
    """
    from t2l.training.loop import accelerator_of
    from t2l.training.run_folder import RunFolder

    folder = RunFolder(place)
    accelerator = accelerator_of(folder.folder, recipe.loop.trackers, cpu=cpu)
    main = accelerator.is_main_process
    with folder.locked() if main else nullcontext():
        try:
            yield folder, accelerator
        except TrainingStopped as stop:
            if main:
                say(str(stop), "yellow")
            raise typer.Exit(143) from stop
        accelerator.wait_for_everyone()
    accelerator.end_training()


def _train(
    context: typer.Context,
    name: RecipeName,
    overrides: Overrides = None,
    out: RunOption = None,
    dry_run: DryRun = False,
    accept_changes: AcceptChanges = False,
    cpu: OnCpu = False,
    as_json: AsJson = False,
) -> None:
    what = str(context.info_name)
    from t2l.recipes.reader import load_recipe

    recipe = load_recipe(name, overrides or [])
    if dry_run:
        from t2l.training.plan import plan_of

        plan = plan_of(recipe, what)
        if as_json:
            print_json(plan.to_dict())
        else:
            tell(plan.text())
        return
    from t2l.training.sft_run import train_from_store

    read = None
    if what == "hyperdecoder":
        from t2l.baselines.hyperdecoder import input_states as read
    with running(out or Path("runs") / Path(name).stem, recipe, cpu) as (folder, accelerator):
        trained = train_from_store(
            recipe,
            folder,
            accelerator,
            say=lambda text: say(text),
            make_source=None if what == "sft" else partial(_baseline, recipe, what),
            read=read,
            accept_changes=accept_changes,
            what=what,
        )
        if accelerator.is_main_process:
            _tell_result(folder, _save(trained, folder, recipe, what), as_json)


for _what, _said in (
    ("sft", "Train a hypernetwork end to end, through the frozen base, on a data store."),
    ("lora", "Train one LoRA by the same loop: of all tasks, or of those that data.tasks names."),
    ("multi-task", "Train one LoRA of all tasks by the same loop: what a hypernetwork is compared with."),
    ("hyperdecoder", "Train a baseline by the same loop: a hypernetwork that reads the prompt, not a description."),
):
    train.command(_what, help=_said)(_train)


def _baseline(recipe: Recipe, what: str, spec: LoraSpec) -> LoraSource:
    """What reads no description."""
    if what in ("lora", "multi-task"):
        from t2l.baselines.static import StaticLora

        return StaticLora(spec, seed=recipe.loop.seed)
    from t2l.base_structure import base_config
    from t2l.baselines.hyperdecoder import new_hyperdecoder

    wanted = recipe.hypernetwork
    width = base_config(recipe.base.model, revision=recipe.base.revision).get_text_config().hidden_size
    return new_hyperdecoder(
        spec,
        int(width),
        wanted.variant,
        trunk_dim=wanted.trunk_dim,
        head_dim=wanted.head_dim,
        dropout=wanted.dropout,
        seed=recipe.loop.seed,
    )


def _tell_result(folder: RunFolder, result: Path, as_json: bool) -> None:
    if as_json:
        print_json({"run": str(folder.folder), "result": str(result)})
        return
    tell(str(result), "bold green")
    if result == folder.result:  # a checkpoint
        tell(f"Next: t2l generate 'what it should do' --checkpoint {result}")


def _prompts(recipe: Recipe) -> dict[str, Any]:
    from t2l.data.store import DataStore

    return {} if recipe.data.store is None else DataStore.open(recipe.data.store).prompts


def _save(trained: object, folder: RunFolder, recipe: Recipe, what: str) -> Path:
    """The checkpoint that ``t2l generate`` reads, the adapter's folder, or that of the hyperdecoder."""
    from t2l.adapter import adapters_from_weights
    from t2l.baselines.hyperdecoder import save_hyperdecoder
    from t2l.baselines.static import StaticLora
    from t2l.hypernet import HyperNetwork
    from t2l.model import TextToLora

    if isinstance(trained, TextToLora):
        return trained.save_pretrained(folder.result, force=True)
    if isinstance(trained, HyperNetwork):
        settings = {"trained_by": "t2l train hyperdecoder", "recipe": recipe.to_dict()}
        return save_hyperdecoder(trained, folder.folder / "hyperdecoder", settings, force=True)
    assert isinstance(trained, StaticLora)
    place = folder.folder / "adapter"
    provenance = {"trained_by": f"t2l train {what}", "base_model": trained.spec.base_model, **_prompts(recipe)}
    weights = trained.weights().detach().map(lambda tensor: tensor.clone())
    adapters_from_weights(trained.spec, weights, [provenance])[0].save(place, force=True)
    return place


_Library = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="The library; below 'runs' by default. Adapters that are there stay."
    ),
]


@train.command("library")
def library(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: _Library = None,
    dry_run: DryRun = False,
    cpu: OnCpu = False,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA for each of many tasks, several at once, as a library of PEFT folders."""
    import torch

    from t2l.recipes.reader import load_recipe
    from t2l.training.loop import Progress
    from t2l.training.run_folder import RunFolder
    from t2l.training.task_library import plan_library, run_library

    wanted = load_recipe(recipe, overrides or [])
    folder = (out or Path("runs") / f"{Path(recipe).stem}-library").expanduser()
    plan = plan_library(wanted, folder)
    if dry_run:
        _show(plan.to_dict(), as_json)
        return
    say(f"{len(plan.tasks)} tasks, {plan.there} of them trained already; at most {plan.steps:,} steps.")
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    progress: list[Progress] = []

    def report(done: int, steps: int, loss: float) -> None:
        if not progress:  # only now is it known where a run that was killed goes on
            progress.append(Progress(done - 1, steps, wanted.loop.log_every, device, say))
        progress[0].step(done, loss)

    with RunFolder(folder).locked():
        found = run_library(wanted, folder, device=str(device), report=report)
    losses = {name: found.record(name) for name in found.names}
    if as_json:
        print_json({"library": str(folder), "adapters": losses})
        return
    stopped = [record["stopped"] for record in losses.values()]
    reasons = ", ".join(f"{stopped.count(reason)} {reason}" for reason in dict.fromkeys(stopped))
    say(f"{len(found)} adapters, each a PEFT folder; they stopped by: {reasons}.")
    tell(str(folder), "bold green")
    tell(f"Next: t2l train recon {recipe} data.store={wanted.data.store} recon.library={folder}")


@train.command("recon")
def recon(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: RunOption = None,
    dry_run: DryRun = False,
    accept_changes: AcceptChanges = False,
    cpu: OnCpu = False,
    as_json: AsJson = False,
) -> None:
    """Train a hypernetwork to reconstruct a library of adapters, read from disk as they are needed."""
    from t2l.encoders import encoder_from_config
    from t2l.recipes.reader import load_recipe
    from t2l.training.reconstruction import plan_figures, plan_recon, run_recon

    wanted = load_recipe(recipe, overrides or [])
    plan = plan_recon(wanted)
    for name, reason in plan.left_out.items():
        say(f"Omitted: {name}: {reason}", "yellow")
    if dry_run:
        _show(plan_figures(wanted, plan, encoder_from_config(wanted.encoder)), as_json)
        return
    say(f"{len(plan.learned)} adapters are learned, {len(plan.held_out)} are held out for validation.")
    with running(out or Path("runs") / f"{Path(recipe).stem}-recon", wanted, cpu) as (folder, accelerator):
        trained = run_recon(wanted, folder, accelerator, accept_changes=accept_changes, say=say)
        if accelerator.is_main_process:
            _tell_result(folder, trained.save_pretrained(folder.result, force=True), as_json)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        tell(f"{name.replace('_', ' '):<{width}}  {shown}")
