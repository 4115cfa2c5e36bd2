"""Weights of the Hugging Face hub, at one commit; the only file that knows huggingface_hub."""

import contextlib
import logging
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub import errors
from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE
from huggingface_hub.file_download import http_get
from huggingface_hub.utils.tqdm import tqdm

from outpace.catalogue.cards import HubSource
from outpace.catalogue.sources.order import Fetched, FetchOrder, Report, require_space, sha256_of
from outpace.values.errors import SourceUnreachable, WeightsInvalid

_SHA256 = re.compile(r"^[0-9a-f]{64}$")


def fetch_hub(source: HubSource, order: FetchOrder, endpoint: str | None = None) -> Fetched:
    """Download one file, continuing a partial one. Raises SourceUnreachable or WeightsInvalid.

    For large files the hub names the SHA-256 of what it is about to send: that is the promise.
    """
    # Its warnings would stand between our progress bar and our one line of error.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    revision = source.revision or "main"
    with _translating(source):
        url = huggingface_hub.hf_hub_url(source.repo, source.file, revision=revision, endpoint=endpoint)
        metadata = huggingface_hub.get_hf_file_metadata(url, endpoint=endpoint)
        _check_size(source, metadata.size, order)
        path = order.folder / f"{sha256(str(metadata.etag).encode()).hexdigest()[:16]}.part"
        require_space(order.folder, (metadata.size or 0) - _usable_bytes(path, metadata.size))
        if metadata.size is not None and metadata.size > MAX_HTTP_DOWNLOAD_SIZE:
            path = _download_huge(source, revision, order, metadata.size, endpoint)
        else:
            _download(url, path, order.report, metadata.size)
    promise = metadata.etag if metadata.etag and _SHA256.match(metadata.etag) else None
    return Fetched(path=path, sha256=sha256_of(path), promised_sha256=promise)


def _usable_bytes(path: Path, size_bytes: int | None) -> int:
    """Bytes of the partial file; one that is longer than the whole is no part of it and goes."""
    have_bytes = path.stat().st_size if path.exists() else 0
    if size_bytes is not None and have_bytes > size_bytes:
        path.unlink()
        return 0
    return have_bytes


def _download(url: str, path: Path, report: Report, size_bytes: int | None) -> None:
    """`hf_hub_download` throws a partial file away at its end; the function below it can go on."""
    with path.open("ab") as file:
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=_headers(),
            expected_size=size_bytes,
            tqdm_class=_reporting(report, size_bytes),
        )


def _headers() -> dict[str, str]:
    token = huggingface_hub.get_token()
    return {"authorization": f"Bearer {token}"} if token else {}


def _download_huge(
    source: HubSource, revision: str, order: FetchOrder, size_bytes: int, endpoint: str | None
) -> Path:
    """Files that the hub sends only through its chunk store, from the start each time."""
    path = huggingface_hub.hf_hub_download(
        source.repo,
        source.file,
        revision=revision,
        local_dir=order.folder,
        endpoint=endpoint,
        tqdm_class=_reporting(order.report, size_bytes),
    )
    return Path(path)


def _check_size(source: HubSource, size_bytes: int | None, order: FetchOrder) -> None:
    if order.size_bytes is not None and size_bytes is not None and size_bytes != order.size_bytes:
        raise WeightsInvalid(
            f"the hub's {source.file} of {source.repo} has {size_bytes:,} bytes, "
            f"the model's card says {order.size_bytes:,}"
        )


@contextlib.contextmanager
def _translating(source: HubSource) -> Iterator[None]:
    name = f"{source.file} of {source.repo} at {source.revision or 'main'}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceUnreachable(
            f"{source.repo} wants its licence accepted: do so on the hub, then set HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise SourceUnreachable(
            f"the hub has no {name}, or not for this user; a private one needs HF_TOKEN"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise SourceUnreachable(f"the hub has no {name}") from error
    # The hub's client lets its transport's errors through.
    except (httpx2.HTTPError, errors.XetDownloadError) as error:
        raise SourceUnreachable(f"the hub could not send {name}: {_one_line(error)}") from error
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise
        raise SourceUnreachable(f"the hub could not be reached for {name}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _reporting(report: Report, total_bytes: int | None) -> Any:
    """A tqdm class that tells us instead of the terminal."""

    def start(self: Any, *_: object, initial: float = 0, **__: object) -> None:
        super(tqdm, self).__init__(disable=True)
        self.done_bytes = int(initial)

    def update(self: Any, n: float | None = 1) -> None:
        self.done_bytes += int(n or 0)
        report(self.done_bytes, total_bytes)

    return type("Reporting", (tqdm,), {"__init__": start, "update": update})
