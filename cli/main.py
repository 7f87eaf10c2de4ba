"""`twin`: the command line. A command's module is imported only when the command is used.

An agent must not wait for pandas nor keep an OPC UA client in memory: `twin agent validation` imports what it needs.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from cli.common import err
from runtime import exit_codes
from runtime.config import ConfigurationError

#: Command → module and what of it: a group (`app`) or a function.
COMMANDS = {
    "demo": "cli.demo:demo",
    "up": "cli.local:up",
    "status": "cli.local:status",
    "down": "cli.local:down",
    "env": "cli.local:env",
    "check": "cli.check:check",
    "cert": "cli.cert:app",
    "acl": "cli.acl:acl",
    "tokens": "cli.tokens:tokens",
    "topics": "cli.topics:app",
    "rescale": "cli.rescale:rescale",
    "tail": "cli.tail:tail",
    "rejected": "cli.rejected:app",
    "query": "cli.query:app",
    "replay": "cli.replay:replay",
    "correct": "cli.correct:correct",
    "score": "cli.score:score",
    "compare": "cli.compare:compare",
    "diff": "cli.diff:diff",
    "archive": "cli.archive:archive",
    "fit": "cli.fit:fit",
    "browse": "cli.browse:browse",
    "connector": "cli.connector:app",
    "agent": "cli.agent:agent",
    "plant": "cli.plant:app",
}


class LazyGroup(TyperGroup):
    """Looks a command up in COMMANDS when it is asked for (click's documented pattern for lazy subcommands)."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; where its configuration cannot be used, a line for each problem and exit code 78."""
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            for problem in error.problems:
                err.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(exit_codes.BAD_CONFIGURATION) from error

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the command; None where the name is unknown."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found = getattr(import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            # Locals of a failing command could hold a secret.
            single = typer.Typer(pretty_exceptions_show_locals=False, add_completion=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, pretty_exceptions_show_locals=False, add_completion=False)


@app.callback()
def main() -> None:
    """process-twin: a digital twin for process plants that lives on Kafka."""


if __name__ == "__main__":
    app()
