"""`GET /v1/models` for one key: only what it may use, in OpenAI's shape."""

import msgspec

from outpace.values.errors import ModelNotFound
from outpace.values.snapshot import DeploymentEntry, KeyEntry, Snapshot

_ENCODE = msgspec.json.Encoder().encode


def models_body(snapshot: Snapshot, key: KeyEntry) -> bytes:
    """The list of deployments that the key may call, by name."""
    entries = [_model(entry) for name, entry in sorted(snapshot.deployments.items()) if _may_use(key, name)]
    return _ENCODE({"object": "list", "data": entries})


def model_body(snapshot: Snapshot, key: KeyEntry, name: str) -> bytes:
    """One deployment. Raises ModelNotFound, also for what the key may not use: it need not know that it exists."""
    entry = snapshot.deployments.get(name)
    if entry is None or not _may_use(key, name):
        raise ModelNotFound
    return _ENCODE(_model(entry))


def _may_use(key: KeyEntry, name: str) -> bool:
    return key.models is None or name in key.models


def _model(entry: DeploymentEntry) -> dict[str, object]:
    return {"id": entry.name, "object": "model", "created": entry.created, "owned_by": entry.owned_by}
