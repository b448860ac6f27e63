"""`python -m bench`: this server and Synapse, the same work, side by side. See README.md here."""

import asyncio
import shlex
import sys
from pathlib import Path

import click
import uvloop

from bench.report import as_json, tables, write_page
from bench.runs import NAMES, Figure, Plan, measure_all
from bench.scenarios import FULL, PROFILED, QUICK

SERVERS = ("ours", "synapse")
DATABASES = ("sqlite", "postgresql")


@click.command()
@click.option("--server", "servers", multiple=True, type=click.Choice(SERVERS), default=SERVERS)
@click.option(
    "--database", "databases", multiple=True, type=click.Choice(DATABASES), default=DATABASES
)
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice(NAMES), default=NAMES)
@click.option("--quick", is_flag=True, help="Small sizes, to try things out; figures are coarse.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
@click.option(
    "--page",
    type=click.Path(path_type=Path, exists=True),
    help="Write the tables into this page, between its marks.",
)
@click.option("--presence", is_flag=True, help="Switch presence on, on both servers.")
@click.option(
    "--profile", is_flag=True, help="Say where our server spends its time, on larger sizes."
)
def main(
    servers: tuple[str, ...],
    databases: tuple[str, ...],
    scenarios: tuple[str, ...],
    quick: bool,
    json_path: Path | None,
    page: Path | None,
    presence: bool,
    profile: bool,
) -> None:
    """Measure CPU time an operation, throughput, waiting and memory of homeservers."""
    sizes = QUICK if quick else PROFILED if profile else FULL
    plan = Plan(sizes, scenarios, _tell, profile, presence)

    async def run() -> list[Figure]:
        figures: list[Figure] = []
        for database in databases:
            for server in ("ours",) if profile else servers:
                figures += await measure_all(server, database, plan)
        return figures

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(run())
    click.echo("\n" + tables(figures))
    if json_path is not None:
        json_path.write_text(as_json(figures))
    if page is not None:
        write_page(page, _command(servers, databases, scenarios, quick), figures)
    if any(figure.failure for figure in figures):
        sys.exit(1)


def _command(*given: tuple[str, ...] | bool) -> str:
    """The command that takes the same figures, without where they were written to."""
    words = ["python", "-m", "bench"]
    everything = (("--server", SERVERS), ("--database", DATABASES), ("--scenario", NAMES))
    for (option, names), chosen in zip(everything, given, strict=False):
        if isinstance(chosen, tuple) and set(chosen) != set(names):
            words += [word for name in chosen for word in (option, name)]
    return shlex.join([*words, *(["--quick"] if given[-1] else [])])


def _tell(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
