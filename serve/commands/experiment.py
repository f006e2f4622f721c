"""twinserve experiment: its sub-commands, each in a file of its own."""

from __future__ import annotations

import typer

from serve.commands import (
    experimentcheck,
    experimentlist,
    experimentpower,
    experimentreplay,
    experimentreport,
    experimentshadows,
    experimentstart,
    experimentstop,
)

app = typer.Typer(help="Experiments: A/B tests of arms inside one endpoint.", no_args_is_help=True)
app.command("check")(experimentcheck.check)
app.command("start")(experimentstart.start)
app.command("stop")(experimentstop.stop)
app.command("list")(experimentlist.list_experiments)
app.command("report")(experimentreport.report)
app.command("shadows")(experimentshadows.shadows)
app.command("replay")(experimentreplay.replay)
app.command("power")(experimentpower.power)
