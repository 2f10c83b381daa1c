"""`sama eval`: run an editor on a benchmark, let a judge score it, score it exactly, draw tables."""

import typer

eval_app = typer.Typer(help="Score editors on benchmarks.", no_args_is_help=True)


@eval_app.callback()
def evaluate() -> None:
    """Score editors on benchmarks."""
