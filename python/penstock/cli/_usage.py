"""Wrong usage: what typer refuses before a command begins."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What typer shows itself; it is click's class, or that of the click inside newer versions of typer.
_Shown: Any = typer.BadParameter.__mro__[2]
_FOUND: list[str] = []


def found() -> str | None:
    """What was wrong with the usage, in one sentence; None unless that is what ended the command."""
    return _FOUND[-1] if _FOUND else None


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line that was not understood has `--json`."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    try:
        yield
    except _Shown as error:
        _FOUND.append(error.format_message())
        raise


class Command(TyperCommand):
    """A command whose options are not taken for the values of others: `--date --json` lacks a date."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, after a look at what would be taken as a value."""
        options = [option for option in self.params if option.param_type_name == "option"]
        known = {name for option in options for name in (*option.opts, *option.secondary_opts) if name.startswith("--")}
        valued = {
            name
            for option in options
            if not getattr(option, "is_flag", False) and not getattr(option, "count", False)
            for name in option.opts
        }
        own = args[: args.index("--")] if "--" in args else args
        for option, value in itertools.pairwise(own):
            if option in valued and value in known:
                raise typer.BadParameter(
                    f"a value is missing; {value} is another option", ctx, param_hint=f"'{option}'"
                )
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """The commands; what is wrong with the usage of one is noted for `found`."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        """As typer does."""
        with _noted():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        """As typer does."""
        with _noted():
            return super().invoke(ctx)
