"""Weights behind a URL: resumable, bounded, and never led to a private address by a redirect."""

import asyncio
import ipaddress
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from outpace.catalogue.cards import HttpsSource
from outpace.catalogue.sources.order import CHUNK_BYTES, Fetched, FetchOrder, require_space, sha256_of
from outpace.values.errors import OutpaceError, SourceUnreachable, WeightsInvalid

_MAX_REDIRECTS = 5
# A file without a size on record may still not fill the disk.
_MAX_BYTES = 2 * 10**12
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def fetch_https(source: HttpsSource, order: FetchOrder) -> Fetched:
    """Download a URL, continuing a partial file. Raises SourceUnreachable or WeightsInvalid."""
    path = order.folder / "download.part"
    try:
        asyncio.run(_download(source.url, path, order))
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceUnreachable(
            f"{_shown(source.url)} broke off: {reason}; pull again to continue"
        ) from error
    return Fetched(path=path, sha256=sha256_of(path))


async def _download(url: str, path: Path, order: FetchOrder) -> None:
    first = urlsplit(url)
    resolver = _PublicResolver(trusted_host=first.hostname or "")
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
    async with aiohttp.ClientSession(
        connector=connector, timeout=_TIMEOUT, auto_decompress=False, trust_env=True
    ) as session:
        target = first
        for _ in range(_MAX_REDIRECTS + 1):
            _check_target(target, first)
            moved = await _get(session, target, path, order)
            if moved is None:
                return
            target = urlsplit(urljoin(target.geturl(), moved))
    raise SourceUnreachable(f"{_shown(url)} redirects more than {_MAX_REDIRECTS} times")


async def _get(
    session: aiohttp.ClientSession, target: SplitResult, path: Path, order: FetchOrder
) -> str | None:
    """One GET: writes the file and returns None, or returns where the server redirects to."""
    have_bytes = path.stat().st_size if path.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have_bytes}-"} if have_bytes else {})
    async with session.get(target.geturl(), headers=headers, allow_redirects=False) as answer:
        if answer.status in (301, 302, 303, 307, 308):
            return answer.headers.get("Location") or ""
        if answer.status == 416 and have_bytes:
            if answer.headers.get("Content-Range") == f"bytes */{have_bytes}":
                return None
            # What is there does not fit what the server has: start over.
            path.unlink()
            return target.geturl()
        if answer.status not in (200, 206):
            raise SourceUnreachable(f"{_shown(target.geturl())} answered {answer.status} {answer.reason}")
        await _write(answer, path, _start_byte(answer, have_bytes), order)
    return None


def _start_byte(answer: aiohttp.ClientResponse, have_bytes: int) -> int:
    """Where the body belongs in the file: 0 when the server ignored the range."""
    if answer.status == 200:
        return 0
    found = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    if not found or int(found[1]) != have_bytes:
        raise SourceUnreachable(f"{_shown(str(answer.url))} sent another range than asked for")
    return have_bytes


async def _write(answer: aiohttp.ClientResponse, path: Path, start_byte: int, order: FetchOrder) -> None:
    limit_bytes = order.size_bytes or _MAX_BYTES
    total_bytes = order.size_bytes or (
        start_byte + answer.content_length if answer.content_length is not None else None
    )
    require_space(path.parent, (total_bytes or 0) - start_byte)
    done_bytes = start_byte
    with path.open("r+b" if start_byte else "wb") as file:
        file.seek(start_byte)
        file.truncate()
        async for piece in answer.content.iter_chunked(CHUNK_BYTES):
            done_bytes += len(piece)
            if done_bytes > limit_bytes:
                raise WeightsInvalid(f"{_shown(str(answer.url))} sends more than {limit_bytes:,} bytes")
            file.write(piece)
            order.report(done_bytes, total_bytes)
    if order.size_bytes is not None and done_bytes < order.size_bytes:
        raise SourceUnreachable(
            f"{_shown(str(answer.url))} ended after {done_bytes:,} of {order.size_bytes:,} bytes; pull again"
        )


def _check_target(target: SplitResult, first: SplitResult) -> None:
    """Only https, or http on loopback; a redirect may leave the first host only for public addresses."""
    host = target.hostname or ""
    if target.scheme == "http" and _is_loopback(host) and _is_loopback(first.hostname or ""):
        return
    if target.scheme != "https" or not host:
        raise SourceUnreachable(f"{_shown(target.geturl())} is not https; weights come only over https")
    if host != first.hostname and _is_private_literal(host):
        raise _private(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private_literal(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _private(host: str) -> OutpaceError:
    return SourceUnreachable(f"redirected to {host}, which is not a public address: refused")


class _PublicResolver(AbstractResolver):
    """Resolves the first host freely and every other host only to public addresses."""

    def __init__(self, trusted_host: str) -> None:
        self._trusted_host = trusted_host
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of `host`. Raises SourceUnreachable when one of them is not public."""
        found = await self._resolver.resolve(host, port, family)
        if host != self._trusted_host and any(_is_private_literal(each["host"]) for each in found):
            raise _private(host)
        return found

    async def close(self) -> None:
        """Nothing is kept."""
        await self._resolver.close()


def _shown(url: str) -> str:
    """The URL without user, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:200]
