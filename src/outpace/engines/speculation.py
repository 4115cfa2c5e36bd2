"""How each engine is told to guess tokens ahead: the deployment key `speculation` in an engine's own settings."""

from outpace.values.errors import InvalidInput

Settings = dict[str, str | int | float | bool]

OFF = "off"
# `draft:MODEL` names a smaller model with the same tokenizer.
DRAFT = "draft:"
# Methods by engine, without drafts; `ngram` is the one that is taken when no kind is named.
METHODS: dict[str, dict[str, Settings]] = {
    "llamacpp": {
        # Guesses least often wrong of all kinds, and so costs least on a full replica (docs/lab/LOG.md, 2026-11-25).
        "ngram": {"speculation": "ngram_mod"},
        "ngram-simple": {"speculation": "ngram_simple"},
        "ngram-mod": {"speculation": "ngram_mod"},
        "ngram-map-k": {"speculation": "ngram_map_k"},
        "ngram-map-k4v": {"speculation": "ngram_map_k4v"},
        "ngram-cache": {"speculation": "ngram_cache"},
    },
    "openvino": {"ngram": {"speculation": "lookup"}},
    "sglang": {"ngram": {"speculation": "ngram"}},
    "vllm": {"ngram": {"speculation": "ngram"}},
}
# Engines that are told per request whether to guess; the others do what they were launched with.
SWITCHED = frozenset({"openvino"})
# Engines that take a draft model, with the setting for its weights and those that go with it.
_DRAFTS: dict[str, tuple[str, Settings]] = {
    "llamacpp": ("draft_path", {"speculation": "draft"}),
    "openvino": ("draft_path", {"speculation": "draft"}),
    "vllm": ("draft_model", {"speculation": "draft"}),
}


def speculation_settings(engine: str, method: str, draft_path: str | None = None) -> Settings:
    """The engine settings of a method; empty for `off`. Raises InvalidInput listing what the engine has."""
    if method in (OFF, "none"):
        return {}
    if method.startswith(DRAFT) and engine in _DRAFTS:
        name, others = _DRAFTS[engine]
        if draft_path is None:
            raise InvalidInput("speculation", f"the weights of {method.removeprefix(DRAFT)} are not here")
        return {**others, name: draft_path}
    found = METHODS.get(engine, {}).get(method)
    if found is None:
        raise InvalidInput(
            "speculation",
            f"{method[:60]!r} is not known to {engine}; there is {', '.join(methods_of(engine))}",
        )
    return dict(found)


def methods_of(engine: str) -> tuple[str, ...]:
    """What the key may say for an engine."""
    drafts = ("draft:MODEL",) if engine in _DRAFTS else ()
    return ("auto", OFF, *METHODS.get(engine, {}), *drafts)


def speculation_names(engine: str) -> frozenset[str]:
    """The engine settings that choose a way of speculation."""
    own = {name for method in METHODS.get(engine, {}).values() for name in method}
    if engine in _DRAFTS:
        own |= {_DRAFTS[engine][0], *_DRAFTS[engine][1]}
    return frozenset(own)


def require_same_tokens(draft: str, draft_sha256: str, model: str, model_sha256: str) -> None:
    """Refuse a draft model with another vocabulary: what it guesses would be other words. Raises InvalidInput."""
    if not draft_sha256 or draft_sha256 != model_sha256:
        raise InvalidInput(
            "speculation",
            f"{draft} has another tokenizer than {model}, so its guesses mean nothing there; "
            f"take a smaller model of the same family, or `ngram`",
        )


def require_no_speculation_settings(engine: str, settings: Settings) -> None:
    """Refuse a method that comes as an engine setting: `auto` would not know of it. Raises InvalidInput."""
    for name in sorted(speculation_names(engine) & set(settings)):
        raise InvalidInput(
            f"engine_settings.{name}", "say `speculation` instead, which `auto` and status know"
        )
