"""The one command. Each sub-command is loaded from its own room when it is called, so that a till loads no central."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "edge": ("edge.cli", "edge", "The till: take documents, keep them, hand them to central when it asks."),
    "central": (
        "central.cli",
        "central",
        "The central server: ask tills, commit what they answer, show what is there.",
    ),
    "broker": ("broker.cli", "broker", "The embedded broker, and the tokens and access rules of any broker."),
    "ca": ("ca.cli", "ca", "Own certificate authority: one identity for each till, and what was revoked."),
    "demo": ("fleet.demo", "demo", "A broker, central and tills on this machine, with a proof at the end."),
    "hook": ("edge.hook", "hook", "How a POS's own tool is told to ring after each document."),
    "wire": ("wire.cli", "wire", "Read what travels."),
}


class Rooms(click.Group):
    """Knows the sub-commands by name and imports one only when it is called."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names in the order of a document's way."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import the room of one sub-command; says which extra to install if a library is missing."""
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as missing:
            extra = {"amqtt": "broker", "cryptography": "ca"}.get(missing.name or "", "central")
            text = f"`tillstream {name}` needs {missing.name}; install it with: pip install 'tillstream[{extra}]'"
            raise click.ClickException(text) from missing
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the sub-commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.command(cls=Rooms)
@click.version_option(package_name="tillstream")
def main() -> None:
    """Upload each receipt from store tills to the central server, exactly once, over MQTT."""


if __name__ == "__main__":
    main()
