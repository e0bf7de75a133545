"""The command line: shmcache serve | doctor | hot | purge."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import click

from shmcache import ConfigError

from .config import load

WRONG_SETTING = 2
NOT_CONFIRMED = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shmcache", message="shmcache %(version)s")
def commands() -> None:
    """One cache for all the worker processes of a host."""


@commands.command()
@click.option("--config", "path", metavar="FILE", help="TOML file; flags overrule it.")
@click.option("--origin", metavar="URL", help="What to cache: http://HOST[:PORT].")
@click.option("--bind", metavar="HOST:PORT", help="Where to listen. [127.0.0.1:8080]")
@click.option("--workers", type=int, metavar="N", help="Processes that answer. [2]")
@click.option("--l1-size", metavar="SIZE", help="Of the shared memory. [64MiB]")
@click.option(
    "--l1-name", metavar="NAME", help="Of the segment. [from user and bind address]"
)
@click.option(
    "--l1-keep",
    is_flag=True,
    default=None,
    help="Leave the segment at a clean stop, for a warm restart.",
)
@click.option(
    "--l1-record-bytes",
    type=int,
    metavar="N",
    help="Expected size of a stored response, for the size of the index. [300]",
)
@click.option(
    "--l2",
    metavar="URL",
    help="redis://..., rediss://..., unix://..., embedded, none, or auto: "
    "SHMCACHE_L2, else none. [auto]",
)
@click.option("--admin", metavar="HOST:PORT", help="Answers /stats and /purge. [off]")
@click.option(
    "--default-ttl",
    type=float,
    metavar="SECONDS",
    help="For a 200 that says nothing of its freshness. [0]",
)
def serve(path: str | None, **flags: Any) -> None:
    """Run the server: workers that share one cache in front of an origin."""
    from .arbiter import Application  # gunicorn, aiohttp: not for --help

    Application(lambda: load(path, flags)).run()


@commands.command()
@click.argument("name", required=False)
@click.option("--clean", is_flag=True, help="Remove the segments that nobody holds.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(name: str | None, clean: bool, as_json: bool) -> int:
    """Check segments, live or left over: NAME, or all of this user.

    Exit codes: 0 all well, 1 faults found (or NAME not cleaned), 2 wrong use.
    """
    from .doctor import FAULTS, WELL, examine, sweep

    if not clean:
        said, code = examine(_segments(name), as_json)
    else:
        said, left = sweep(_segments(name), as_json)
        code = FAULTS if name and left else WELL
    click.echo(said)
    return code


@commands.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs; all 64 of each.")
def hot(name: str | None, as_json: bool) -> int:
    """The keys hit most, and those whose computes took longest in all."""
    from shmcache import SegmentError

    from .doctor import WELL, hottest

    try:
        click.echo(hottest(_segments(name), as_json))
    except SegmentError as e:
        raise click.ClickException(str(e)) from None
    return WELL


@commands.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option("--tag", multiple=True, metavar="LABEL", help="Of Cache-Tag and others.")
@click.option("--prefix", multiple=True, metavar="URL", help="It, and all below it.")
@click.option("--group", multiple=True, metavar="NAME", help="Of Cache-Groups, with...")
@click.option("--host", metavar="HOST", help="... the host whose group it is.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Make it stale in place of removing it.")
@click.option("--wait", type=float, metavar="SECONDS", help="For other hosts. [1]")
@click.option("--admin", metavar="HOST:PORT", help="The admin listener.")
@click.option("--token-file", metavar="FILE", help="Else SHMCACHE_PURGE_TOKEN.")
@click.option("--config", "path", metavar="FILE", help="The server's: has both.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def purge(
    urls: tuple[str, ...],
    path: str | None,
    admin: str | None,
    token_file: str | None,
    as_json: bool,
    **wishes: Any,
) -> int:
    """Remove stored responses on all hosts.

    A running server is asked, by its admin listener. A URL is as clients ask for it:
    http://example.org/blog?page=2. Exit codes: 0 purged, and every live host has
    confirmed; 1 purged here, but not all have; 2 wrong use, or refused.
    """
    from .client import Failed, settings

    said = {name: value for name, value in wishes.items() if value not in (None, ())}
    said["all"] = said.pop("everything")
    try:
        answer = settings(path, admin, token_file).purge({"url": urls} | said)
    except (ConfigError, Failed) as e:
        raise click.ClickException(str(e)) from None
    click.echo(json.dumps(answer) if as_json else answer["words"])
    return 0 if answer["confirmed"] == answer["hosts"] else NOT_CONFIRMED


def _segments(name: str | None) -> list[str]:
    from .doctor import segments

    try:
        return segments(name)
    except LookupError as e:
        raise click.ClickException(str(e.args[0])) from None


def main() -> None:
    """The entry point: a wrong option is one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # keys are of any script
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = commands.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        sys.exit(WRONG_SETTING)
    except click.ClickException as e:
        print(f"shmcache: {e.format_message()}", file=sys.stderr)
        sys.exit(WRONG_SETTING)
    except click.Abort:
        sys.exit(130)
    sys.exit(code or 0)
