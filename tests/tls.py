"""Redis behind TLS: its own where the redis-server has it, or a relay's before it.

The redis-server of the wheel has none, so each kind of fleet is had with relays too: a
Cluster whose nodes announce the ports of their relays, and a Sentinel of a few lines,
which names a relay.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hiredis

from tests.fleets import (
    SERVICE,
    ClusterNodes,
    Each,
    Watched,
    redis_cluster,
    redis_watched,
)
from tests.helpers import free_port
from tests.redis_server import RedisServer, executable, redis_server


class Certificates:
    """An authority, and files: its own certificate, a server's of `names`, and a
    client's."""

    def __init__(self, folder: Path, *names: str) -> None:
        import trustme

        ca = trustme.CA()
        server, client = ca.issue_cert(*names), ca.issue_cert("client@example.com")
        self.ca_file = folder / "ca.pem"
        self.server_file = folder / "server.pem"
        self.key_file = folder / "server.key"
        self.client_file = folder / "client.pem"
        ca.cert_pem.write_to_path(str(self.ca_file))
        server.private_key_pem.write_to_path(str(self.key_file))
        for blob in server.cert_chain_pems:
            blob.write_to_path(str(self.server_file), append=True)
        client.private_key_and_cert_chain_pem.write_to_path(str(self.client_file))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        """Of a server."""
        server.configure_cert(self.context)
        ca.configure_trust(self.context)

    def settings(self, *extra: str) -> list[tuple[str, str]]:
        """Of a redis-server that has TLS."""
        return [
            ("tls-cert-file", str(self.server_file)),
            ("tls-key-file", str(self.key_file)),
            ("tls-ca-cert-file", str(self.ca_file)),
            ("tls-auth-clients", "no"),
            *((name, "yes") for name in extra),
        ]


@contextmanager
def certificates(*names: str) -> Iterator[Certificates]:
    with tempfile.TemporaryDirectory() as folder:
        yield Certificates(Path(folder), *names)


def speaks_tls() -> bool:
    """Whether the redis-server of the tests has TLS of its own."""
    command = [executable(), "--port", "0", "--tls-port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run(command, cwd=folder, capture_output=True, timeout=10)
    return b"Bad directive" not in said.stdout + said.stderr


# --- relays -----------------------------------------------------------------------

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


class TlsServer:
    """Ends TLS and serves what is in it, in a thread of its own."""

    def __init__(self, own: Certificates, serve: Serve, port: int = 0) -> None:
        self._context = own.context
        self._serve_one = serve
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="tls-server")
        self.port = port

    def demand_client_certificate(self) -> None:
        self._context.verify_mode = ssl.CERT_REQUIRED

    def __enter__(self) -> TlsServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        listening = await asyncio.start_server(
            self._accept, "localhost", self.port, ssl=self._context,
            family=socket.AF_INET,
        )  # fmt: skip
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        listening.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, *client: Any) -> None:
        task = asyncio.get_running_loop().create_task(self._serve_one(*client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def relay_to(server: RedisServer) -> Serve:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(str(server.socket))
        except BaseException:  # refused, or ended meanwhile
            writer.transport.abort()
            raise
        copies = [
            asyncio.create_task(_copy(reader, back)),
            asyncio.create_task(_copy(there, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (writer, back):  # first: what follows may be cancelled
                end.transport.abort()
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)

    return relay


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        to.write(data)
        await to.drain()


def naming(named: Callable[[], int]) -> Serve:
    """A Sentinel that names a port of this host, whatever it is asked."""

    async def name(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                commands.feed(data)
                while commands.gets() is not False:
                    port = str(named())
                    reply = f"*2\r\n$9\r\n127.0.0.1\r\n${len(port)}\r\n{port}\r\n"
                    writer.write(reply.encode())
        finally:
            writer.transport.abort()

    return name


# --- one Redis, a Cluster, Sentinel -----------------------------------------------


class TlsRedis:
    """A Redis behind a relay."""

    def __init__(self, relay: TlsServer, own: Certificates) -> None:
        self.client_file = own.client_file
        self.url = f"rediss://localhost:{relay.port}/0?ssl_ca_certs={own.ca_file}"


@contextmanager
def tls_redis(
    prepare: Callable[[TlsServer], None] = lambda relay: None,
) -> Iterator[TlsRedis]:
    """`prepare` sees the relay before it listens."""
    with redis_server() as server, certificates("localhost") as own:
        relay = TlsServer(own, relay_to(server))
        prepare(relay)
        with relay:
            yield TlsRedis(relay, own)


@contextmanager
def tls_cluster(*, native: bool) -> Iterator[tuple[ClusterNodes, str]]:
    """A Cluster and its URL; its nodes are named by their address."""
    with ExitStack() as stack:
        own = stack.enter_context(certificates("127.0.0.1"))
        relays: dict[int, int] = {}

        def announced(port: int) -> tuple[str, ...]:
            relays[port] = free_port()
            return "--cluster-announce-port", str(relays[port])

        each = _each(own, "tls-cluster") if native else announced
        nodes = stack.enter_context(redis_cluster(each=each))
        for node in nodes.nodes if relays else ():
            relay = TlsServer(own, relay_to(node), relays[node.port])
            stack.enter_context(relay)
        ports = [relays.get(node.port, node.port) for node in nodes.nodes]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield nodes, f"rediss+cluster://{hosts}?ssl_ca_certs={own.ca_file}"


class TlsWatched:
    """A master and its replica, and who names the master, all behind TLS."""

    def __init__(self, url: str, fail_over: Callable[[], None]) -> None:
        self.url = url
        self.fail_over = fail_over


@contextmanager
def tls_watched(*, native: bool) -> Iterator[TlsWatched]:
    with certificates("127.0.0.1") as own, ExitStack() as stack:
        if native:
            watched: Watched = stack.enter_context(
                redis_watched(each=_each(own, "tls-replication"), lines=_lines(own))
            )
            port, fail_over = watched.sentinel.port, watched.fail_over
        else:
            watched = stack.enter_context(redis_watched())
            fronts = {
                server.port: stack.enter_context(TlsServer(own, relay_to(server)))
                for server in (watched.master, watched.replica)
            }
            named = [watched.master.port]

            def fail_over() -> None:
                watched.fail_over()
                named[0] = watched.named()

            sentinel = TlsServer(own, naming(lambda: fronts[named[0]].port))
            port = stack.enter_context(sentinel).port
        options = f"ssl_ca_certs={own.ca_file}"
        url = f"rediss+sentinel://127.0.0.1:{port}/{SERVICE}?{options}"
        yield TlsWatched(url, fail_over)


def _each(own: Certificates, *extra: str) -> Each:
    """Flags of a server whose port speaks TLS alone."""

    def flags(port: int) -> tuple[str, ...]:
        settings = [("port", "0"), ("tls-port", str(port)), *own.settings(*extra)]
        return tuple(word for name, value in settings for word in (f"--{name}", value))

    return flags


def _lines(own: Certificates) -> Each:
    """The same of a Sentinel, which speaks TLS to those that it watches."""

    def lines(port: int) -> tuple[str, ...]:
        return (
            "port 0",
            f"tls-port {port}",
            *(f"{name} {value}" for name, value in own.settings("tls-replication")),
        )

    return lines
