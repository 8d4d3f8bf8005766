"""``t2l train library`` and ``t2l train recon``: adapters of many tasks, and a hypernetwork that regresses onto them.

Level 6. Thin: `t2l.training` does the work; this file reads the options and prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from t2l.commands.options import AsJson
from t2l.commands.terminal import print_json, results, say
from t2l.commands.train import AcceptChanges, DryRun, OnCpu, Overrides, RecipeName, RunOption, running

_Library = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="The library; below 'runs' by default. Adapters that are there stay."
    ),
]


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
    say(str(folder), "bold green", console=results())
    say(f"Next: t2l train recon {recipe} data.store={wanted.data.store} recon.library={folder}", console=results())


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
        say(f"Left out: {name}: {reason}", "yellow")
    if dry_run:
        _show(plan_figures(wanted, plan, encoder_from_config(wanted.encoder)), as_json)
        return
    say(f"{len(plan.learned)} adapters are learned, {len(plan.held_out)} are held out for validation.")
    with running(out or Path("runs") / f"{Path(recipe).stem}-recon", wanted, cpu) as (folder, accelerator):
        trained = run_recon(wanted, folder, accelerator, accept_changes=accept_changes, say=say)
        if not accelerator.is_main_process:
            return
        checkpoint = trained.save_pretrained(folder.result, force=True)
        if as_json:
            print_json({"run": str(folder.folder), "result": str(checkpoint)})
            return
        say(str(checkpoint), "bold green", console=results())
        say(f"Next: t2l generate 'what it should do' --checkpoint {checkpoint}", console=results())


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        say(f"{name.replace('_', ' '):<{width}}  {shown}", console=results())
