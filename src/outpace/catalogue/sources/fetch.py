"""From a source's kind to the code that fetches it."""

import importlib
from collections.abc import Callable

from outpace.catalogue.cards import FileSource, HttpsSource, HubSource, PypiSource, Source
from outpace.catalogue.sources.order import Fetched, FetchOrder

# Imported only when called: the hub's client alone takes longer to import than the gateway.
_FETCHERS: dict[type[Source], str] = {
    PypiSource: "outpace.catalogue.sources.pypi:fetch_pypi",
    HubSource: "outpace.catalogue.sources.hub:fetch_hub",
    HttpsSource: "outpace.catalogue.sources.https:fetch_https",
    FileSource: "outpace.catalogue.sources.local:fetch_file",
}


def fetch(source: Source, order: FetchOrder) -> Fetched:
    """Fetch `source` into the order's folder. Raises SourceUnreachable or WeightsInvalid."""
    module, name = _FETCHERS[type(source)].split(":")
    fetcher: Callable[[Source, FetchOrder], Fetched] = getattr(importlib.import_module(module), name)
    return fetcher(source, order)


def can_resume(source: Source) -> bool:
    """True when a fetch continues from the partial file of an earlier one."""
    return isinstance(source, HubSource | HttpsSource)


def describe(source: Source) -> str:
    """The source in one word, as lineage and messages name it."""
    match source:
        case PypiSource(package=package, version=version, member=member):
            return f"pypi:{package}=={version}/{member}"
        case HubSource(repo=repo, file=file, revision=revision):
            return f"hf:{repo}@{revision or 'main'}/{file}"
        case HttpsSource(url=url):
            return url
        case FileSource(path=path):
            return f"file:{path}"
