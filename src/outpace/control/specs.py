"""Deployment files: a table of plain values becomes a `DeploymentSpec`, or is refused by its wrong key."""

import hashlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from outpace.control.placing import ANYWHERE, check_placement
from outpace.values.deployment import DeploymentSpec, Replicas, Standby
from outpace.values.errors import InvalidInput
from outpace.values.money import FREE, TOKENS_PER_MTOK, Price, format_usd, parse_price

AUTO, OFF = "auto", "off"
# YAML reads a bare `off` as false.
_SWITCHES = ("speculation", "variants")
MOST_REPLICAS = 64
_MOST_STARTS = 3600
# Processes without a model; more than starts at once are of no use.
MOST_IMPORTED = 16
_KEYS = tuple(field.name for field in msgspec.structs.fields(DeploymentSpec))
# Names become parts of file names, socket paths, URLs and metric labels.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# The engine knows its own methods; a draft is a model's name or the path of a GGUF.
_SPECULATION = re.compile(r"[a-z][a-z0-9-]{0,31}|draft:[^\x00-\x1f]+")
_LONGEST = 1000
_MOST_SETTINGS = 64
# They guide how many replicas there are.
_FOR_SCALING = ("objective", "traffic")

ListPrice = Callable[[str], Price | None]


def parse_spec(document: object, list_price: ListPrice) -> DeploymentSpec:
    """The spec in a deployment file's table; `list_price` tells a catalogue model's price for `price: auto`.

    Raises InvalidInput naming the key.
    """
    if not isinstance(document, dict):
        raise InvalidInput(None, "a deployment is a JSON object with at least `name` and `model`")
    for key in document:
        if key not in _KEYS:
            raise InvalidInput(str(key)[:100], f"is not known; a deployment has {', '.join(_KEYS)}")
    fields = _without_auto(document)
    price = fields.pop("price", None if "price" in fields else AUTO)
    spec = _convert(fields)
    _check(spec)
    if spec.external is not None:
        spec = msgspec.structs.replace(spec, engine="external")
    return msgspec.structs.replace(spec, price=_price(price, spec, list_price))


def require_price(spec: DeploymentSpec, billing: str) -> None:
    """Raises InvalidInput for an unpriced deployment where billing is required: missing never means free."""
    if billing == "required" and spec.price is None:
        raise InvalidInput(
            "price", "is missing, and billing is required here; write prices, or `price: free`"
        )


def spec_document(spec: DeploymentSpec) -> dict[str, Any]:
    """The spec as a deployment file's table; parsing it gives the same spec."""
    document: dict[str, Any] = msgspec.to_builtins(spec)
    document["price"] = price_document(spec.price)
    return document


def price_document(price: Price | None) -> dict[str, str] | None:
    """A price as a deployment file has it; None when unpriced."""
    if price is None:
        return None
    return {
        "input_usd_per_mtok": format_usd(price.input_pusd * TOKENS_PER_MTOK),
        "output_usd_per_mtok": format_usd(price.output_pusd * TOKENS_PER_MTOK),
        "cached_input_usd_per_mtok": format_usd(price.cached_input_pusd * TOKENS_PER_MTOK),
        "usd_per_request": format_usd(price.request_pusd),
    }


# Between a spec's digest and the artifact that serves it.
VARIANT = "-"


def digest(spec: DeploymentSpec) -> str:
    """Equal for specs whose replicas are interchangeable: price, count and expectations do not matter."""
    facts = (spec.model, spec.engine, spec.precision, spec.kv_precision, spec.speculation, spec.external)
    # A spec without a placement is of the version that it was of before there were placements.
    where = () if spec.placement == ANYWHERE else (spec.placement,)
    encoded = msgspec.json.encode((facts, sorted(spec.engine_settings.items()), *where))
    return hashlib.sha256(encoded).hexdigest()[:16]


def same_spec(one: DeploymentSpec, other: DeploymentSpec) -> bool:
    """Their replicas are interchangeable."""
    return digest(one) == digest(other)


def same_version(one: str | None, other: str | None) -> bool:
    """Two digests are of one spec, whatever artifact or variant serves it."""
    return one is not None and other is not None and one.split(VARIANT)[0] == other.split(VARIANT)[0]


def notes_on(spec: DeploymentSpec) -> list[str]:
    """What of a spec has no effect in this version; told to the user, never silent."""
    default = DeploymentSpec(name=spec.name)
    notes = [
        f"{key} has no effect while replicas.max equals replicas.min: it guides how many there are"
        for key in _FOR_SCALING
        if getattr(spec, key) != getattr(default, key)
    ]
    return [] if spec.replicas.max > max(1, spec.replicas.min) else notes


def check_name(name: str, param: str = "name") -> str:
    """A name that is safe in paths, URLs and labels. Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(param, "1 to 96 letters, digits and . _ - only, starting with a letter or digit")
    return name


def check_count(replicas: object, bounds: Replicas) -> int | None:
    """A number of replicas that a person may want; None for `auto`. Raises InvalidInput."""
    if replicas == AUTO:
        return None
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise InvalidInput("replicas", "a whole number, or `auto` for as many as the load needs")
    if replicas == 0 and bounds.min == 0:
        return 0
    if not 1 <= replicas <= MOST_REPLICAS:
        raise InvalidInput(
            "replicas",
            f"between 1 and {MOST_REPLICAS}; `replicas: {{min: 0}}` in its file lets a deployment sleep, "
            "`outpace stop` ends it",
        )
    return replicas


def _without_auto(document: dict[str, Any]) -> dict[str, Any]:
    """Keys that say `auto` are as if they were not there; so are those of the tables one level below."""
    fields: dict[str, Any] = {}
    for key, value in document.items():
        if value == AUTO and key not in ("name", "model"):
            continue
        if value is False and key in _SWITCHES:
            value = OFF
        fields[key] = {k: v for k, v in value.items() if v != AUTO} if isinstance(value, dict) else value
    replicas = fields.get("replicas")
    if isinstance(replicas, dict) and "min" in replicas:
        fields["replicas"] = {"max": replicas["min"] or 1, **replicas}
    return fields


def _convert(fields: dict[str, Any]) -> DeploymentSpec:
    try:
        return msgspec.convert(fields, DeploymentSpec)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$.")
        raise InvalidInput(path.rstrip("`") or None, problem[:1].lower() + problem[1:]) from error


def _check(spec: DeploymentSpec) -> None:
    check_name(spec.name)
    _check_replicas(spec)
    _check_expectations(spec)
    _check_choices(spec)
    check_placement(spec)
    if len(spec.engine_settings) > _MOST_SETTINGS:
        raise InvalidInput("engine_settings", f"at most {_MOST_SETTINGS} settings")
    if spec.external is not None or spec.engine == "external":
        _check_external(spec)
    elif not spec.model:
        raise InvalidInput(
            "model", "is missing; `outpace models` lists the catalogue, a .gguf path works too"
        )
    elif len(spec.model) > _LONGEST or not spec.model.isprintable():
        raise InvalidInput("model", f"at most {_LONGEST} printable characters")


def _check_replicas(spec: DeploymentSpec) -> None:
    replicas = spec.replicas
    if replicas.min < 0:
        raise InvalidInput("replicas.min", "at least 0, which lets the deployment sleep between requests")
    if replicas.max < 1:
        raise InvalidInput("replicas.max", "at least 1; `outpace stop` ends a deployment")
    if not 0 < replicas.idle_s < float("inf"):
        raise InvalidInput("replicas.idle_s", "seconds without a request, above 0")
    if replicas.min > 0 and replicas.idle_s != Replicas().idle_s:
        raise InvalidInput("replicas.idle_s", "has a meaning only with `replicas.min: 0`")
    if not 1 <= replicas.starts_per_hour <= _MOST_STARTS:
        raise InvalidInput("replicas.starts_per_hour", f"between 1 and {_MOST_STARTS}")
    if replicas.max < replicas.min:
        raise InvalidInput("replicas.max", f"is smaller than replicas.min ({replicas.min})")
    if max(replicas.min, replicas.max) > MOST_REPLICAS:
        raise InvalidInput("replicas.max", f"at most {MOST_REPLICAS}")
    _check_standby(spec)


def _check_standby(spec: DeploymentSpec) -> None:
    standby = spec.replicas.stands_by
    if not 0 <= standby.loaded <= MOST_REPLICAS:
        raise InvalidInput("replicas.standby.loaded", f"between 0 and {MOST_REPLICAS}")
    if not 0 <= standby.imported <= MOST_IMPORTED:
        raise InvalidInput("replicas.standby.imported", f"between 0 and {MOST_IMPORTED}")
    if spec.external is not None and standby != Standby():
        raise InvalidInput("replicas.standby", "leave it out; nothing is started for an external API")


def _check_expectations(spec: DeploymentSpec) -> None:
    if not 0 < spec.objective.percentile < 100:
        raise InvalidInput("objective.percentile", "between 0 and 100, such as 95")
    positive = {
        "objective.ttft_ms": spec.objective.ttft_ms,
        "objective.itl_ms": spec.objective.itl_ms,
        "traffic.rate": spec.traffic.rate,
        "traffic.input_tokens": spec.traffic.input_tokens,
        "traffic.output_tokens": spec.traffic.output_tokens,
    }
    for name, value in positive.items():
        # `not >` also refuses NaN.
        if value is not None and not 0 < value < float("inf"):
            raise InvalidInput(name, "must be above 0")


def _check_choices(spec: DeploymentSpec) -> None:
    for name in ("engine", "precision", "kv_precision"):
        check_name(getattr(spec, name), name)
    if spec.variants not in (AUTO, OFF):
        raise InvalidInput("variants", f"{spec.variants[:40]!r} is neither `auto` nor `off`")
    if not _SPECULATION.fullmatch(spec.speculation) or len(spec.speculation) > _LONGEST:
        raise InvalidInput("speculation", "`auto`, `off`, a method such as `ngram`, or `draft:MODEL`")


def _check_external(spec: DeploymentSpec) -> None:
    external = spec.external
    if external is None:
        raise InvalidInput("external", "is missing; it has base_url, model and api_key_env")
    if spec.engine not in (AUTO, "external"):
        raise InvalidInput("engine", f"{spec.engine!r} contradicts the table `external`; leave it out")
    if spec.model is not None:
        raise InvalidInput("model", "leave it out; external.model is the name at the other side")
    for name in ("precision", "kv_precision", "speculation", "variants"):
        if getattr(spec, name) != AUTO:
            raise InvalidInput(name, "leave it out; the other side chooses its own")
    if not external.model or len(external.model) > _LONGEST or not external.model.isprintable():
        raise InvalidInput("external.model", f"1 to {_LONGEST} printable characters")
    if external.api_key_env is not None and not _VARIABLE.fullmatch(external.api_key_env):
        raise InvalidInput(
            "external.api_key_env", "is the name of an environment variable, not the key itself"
        )
    _check_url(external.base_url)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or len(url) > _LONGEST or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidInput("external.base_url", "a URL such as https://api.example.com/v1")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("external.base_url", "must not hold a name or password; use api_key_env")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise InvalidInput("external.base_url", "must end with the path: no ? and no #")


def _price(given: object, spec: DeploymentSpec, list_price: ListPrice) -> Price | None:
    if given is None:
        return None
    if given == AUTO:
        return list_price(spec.model) if spec.model else None
    if given == "free":
        return FREE
    if not isinstance(given, dict):
        raise InvalidInput("price", "`auto`, `free`, null for unpriced, or a table with input_usd_per_mtok …")
    return parse_price(given)
