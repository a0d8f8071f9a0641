"""``osqtwist sign-in``."""

from __future__ import annotations

import webbrowser

import click

from osqtwist.cli.console import Operator


@click.command("sign-in")
@click.option("--open", "opens", is_flag=True, help="Open it in this machine's browser.")
@click.pass_obj
def sign_in(operator: Operator, opens: bool) -> None:
    """
    Print a link that signs a browser in as you: once, within a minute.

    The pages are on the server's --admin-port.
    """
    made = operator.call(lambda client: client.post("api", "v1", "links"))
    url = operator.door.server + made["path"] if operator.door.server else made["url"]
    if operator.as_json:
        operator.json({"url": url, "expires_in": made["expires_in"]})
        return
    click.echo(url)
    if opens and not webbrowser.open(url):
        click.echo("osqtwist: there is no browser on this machine that can be opened", err=True)
