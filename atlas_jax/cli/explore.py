"""`atlas-jax explore`: a page on a run, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas_jax.cli.console import Terminal, keep_compiled_programs, reports_errors
from atlas_jax.cli.search import RunArgument

EPILOG = "Example: atlas-jax explore runs/quickstart --port 8000"


@reports_errors
def explore(
    run: RunArgument,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; another than this machine's asks for a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    token: Annotated[
        str | None, typer.Option(help="To ask for. [default: none here, a new one elsewhere]")
    ] = None,
    lift: Annotated[
        Path | None, typer.Option(help="Result of atlas-jax lift, for the tab Bridge.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address as JSON and nothing else.")
    ] = False,
) -> None:
    """A page to search, read, steer and compare a run; it writes nothing and needs no network.

    Needs the extra: pip install 'atlas-jax[explore]'.
    """
    import json
    import threading

    from atlas_jax.explorer.explored import Explored
    from atlas_jax.explorer.server import listen, make_app, serve

    keep_compiled_programs()
    explored = Explored(run, lift)
    at = listen(host, port, token)
    terminal = Terminal(quiet=as_json)

    def say(address: str) -> None:
        if as_json:
            typer.echo(json.dumps({"address": address}))
        terminal.line(f"{address}  (Ctrl+C ends it)")

    app = make_app(explored, at.token)
    explored.warm()
    # In a store that was never asked for them, the top texts take a pass over all rows.
    threading.Thread(target=explored.read_tops, daemon=True).start()
    serve(app, at, say)
