"""`sama data`: make, check, cache and curate training data."""

import typer

data_app = typer.Typer(help="Make, check, cache and curate training data.", no_args_is_help=True)


@data_app.callback()
def data() -> None:
    """Make, check, cache and curate training data."""
