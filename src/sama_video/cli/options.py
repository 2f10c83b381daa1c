"""Options that several commands share: a judge's endpoint and the estimate of what it costs."""

from typing import Annotated

import typer

BaseUrl = Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")]
ApiKeyEnv = Annotated[str, typer.Option(help="Environment variable that holds the key.")]
Concurrency = Annotated[int, typer.Option(help="Requests in flight.")]
Timeout = Annotated[float, typer.Option(help="Seconds for a request.")]
MaxTries = Annotated[int, typer.Option(help="Requests sent before one is given up.")]
DryRun = Annotated[bool, typer.Option(help="Print what would be asked and what it costs; ask nothing.")]
PriceIn = Annotated[float, typer.Option(help="Price of a million input tokens, for --dry-run.")]
PriceOut = Annotated[float, typer.Option(help="Price of a million output tokens, for --dry-run.")]
SecondsPerRequest = Annotated[float, typer.Option(help="Assumed, for --dry-run.")]
