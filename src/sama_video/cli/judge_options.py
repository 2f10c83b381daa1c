"""What every command that asks a judge takes: how it is reached, and what a dry run reckons with."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import made_of

if TYPE_CHECKING:
    from ..judge.questions import JudgeConfig, Quote


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """One value for each option."""

    base_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint.")] = "http://localhost:8000/v1"
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY"
    concurrency: Annotated[int, typer.Option(help="Requests in flight.")] = 8
    timeout: Annotated[float, typer.Option(help="Seconds for a request.")] = 300.0
    max_tries: Annotated[int, typer.Option(help="Requests sent before one is given up.")] = 8
    dry_run: Annotated[bool, typer.Option(help="Print what would be asked and what it costs; ask nothing.")] = False
    price_in: Annotated[float, typer.Option(help="Price of a million input tokens, for --dry-run.")] = 0.0
    price_out: Annotated[float, typer.Option(help="Price of a million output tokens, for --dry-run.")] = 0.0
    seconds_per_request: Annotated[float, typer.Option(help="Assumed, for --dry-run.")] = 5.0

    def config(self, **decisive: Any) -> "JudgeConfig":
        """The judge, with what decides its answers."""
        from ..judge.questions import JudgeConfig

        return made_of(vars(self), JudgeConfig, **decisive)

    def show(self, quote: "Quote") -> None:
        """A dry run's output."""
        lines = quote.lines(self.price_in, self.price_out, self.concurrency, self.seconds_per_request)
        typer.echo("\n".join(lines))


def with_judge_options(command: Callable[..., None]) -> Callable[..., None]:
    """Typer takes one parameter for each option: the command's own, and those of its parameter `options`."""
    shared = inspect.signature(JudgeOptions, eval_str=True).parameters
    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "options"]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(options=JudgeOptions(**{name: values.pop(name) for name in shared}), **values)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess] (what inspect reads)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def end_of_judging(unanswered: int) -> None:
    """Exit code 1 if requests got no answer."""
    if unanswered:
        typer.echo(f"{unanswered} requests got no answer: start the same command again to ask them", err=True)
        raise typer.Exit(1)
