"""From what a user calls a model to what control needs to serve it."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import msgspec

from outpace.catalogue import gguf
from outpace.catalogue.cards import Card, Weights, shipped_cards
from outpace.catalogue.folders import read_folder
from outpace.catalogue.gguf import GgufFacts
from outpace.catalogue.store import ArtifactStore
from outpace.values.deployment import Task
from outpace.values.errors import InvalidInput, ModelNotFound
from outpace.values.money import Price

# What serves checkpoint folders unless the deployment says otherwise.
FOLDER_ENGINE = "vllm"
# Architectures whose output is a vector, by the names of llama.cpp.
_ENCODERS = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"}
)
# A user-defined token that is built like a mark between messages, not like a word or a space.
_MARK = re.compile(r"^(<\|.*\|>|<｜.*｜>|\[/?[A-Z_]+\]|</?(s|bos|eos|start_of_turn|end_of_turn)>)$")


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A model that may be served: its card or its file's facts, and where its weights lie."""

    # Catalogue id, or the name made from the file's.
    model: str
    # The one engine that this model runs on, or `auto`.
    engine: str
    tasks: tuple[Task, ...]
    context_tokens: int
    owned_by: str
    created_s: int
    precision: str
    # None while a pull is needed, and for engines without weights.
    artifact_path: Path | None
    # What to pull; None when nothing is needed.
    to_pull: Weights | None = None
    card: Card | None = None
    vocabulary: int | None = None
    control_texts: tuple[str, ...] = ()
    has_chat_template: bool = False
    has_tools: bool = False
    # None: unpriced.
    price: Price | None = None

    @property
    def needs_pull(self) -> bool:
        """The weights are not on this machine."""
        return self.to_pull is not None


def resolve(
    model: str, precision: str, store: ArtifactStore, cards: Mapping[str, Card] | None = None
) -> Resolved:
    """The model called `model`: a catalogue id, or the path of a GGUF or a checkpoint folder of the user's own.

    Raises ModelNotFound with near names, WeightsInvalid for a file that an engine must not open, and
    InvalidInput for a precision that the model does not have.
    """
    card = find_card(model, cards)
    if card is not None:
        return _of_card(card, precision, store)
    if model.lower().endswith(".gguf"):
        return _of_file(Path(model).expanduser(), precision)
    if "/" in model and Path(model).expanduser().is_dir():
        return _of_folder(Path(model).expanduser(), precision)
    raise not_found(model, cards)


def find_card(model: str, cards: Mapping[str, Card] | None = None) -> Card | None:
    """The card with exactly this id; names are looked up, never joined into a path."""
    return (shipped_cards() if cards is None else cards).get(model)


def not_found(model: str, cards: Mapping[str, Card] | None = None) -> ModelNotFound:
    """The refusal of an unknown name, with the names nearest to it."""
    known = shipped_cards() if cards is None else cards
    near = get_close_matches(model[:100].lower(), known, n=3, cutoff=0.4)
    advice = f"did you mean {', '.join(near)}?" if near else "it is not in the catalogue;"
    return ModelNotFound(
        f"no model {model[:60]!r}: {advice} `outpace models` lists all; "
        "a path to a .gguf file or a Hugging Face folder works too"
    )


def _of_card(card: Card, precision: str, store: ArtifactStore) -> Resolved:
    weights = card.weights(precision)
    path = store.find(weights) if weights else None
    facts = gguf.read(path) if path else None
    return Resolved(
        model=card.id,
        engine=card.engine,
        tasks=card.tasks,
        context_tokens=card.context_tokens,
        owned_by=card.publisher,
        created_s=card.created_s,
        precision=weights.precision if weights else "none",
        artifact_path=path,
        to_pull=weights if weights and path is None else None,
        card=card,
        vocabulary=facts.vocabulary if facts else card.vocabulary,
        control_texts=_marks(facts) if facts else (),
        has_chat_template=bool(facts and facts.chat_template),
        has_tools=bool(facts and facts.mentions_tools),
        price=card.price,
    )


def _of_file(path: Path, precision: str) -> Resolved:
    facts = gguf.read(path)
    own = facts.precision or "unknown"
    if precision not in ("auto", own):
        raise InvalidInput("precision", f"{path.name} is {own}; say `auto` or pick another file")
    if not facts.context_tokens:
        raise InvalidInput("model", f"{path.name} does not say how long its context is")
    return Resolved(
        model=name_of_file(path),
        engine="auto",
        tasks=_tasks(facts),
        context_tokens=facts.context_tokens,
        owned_by="local",
        created_s=int(path.stat().st_mtime),
        precision=own,
        artifact_path=path.absolute(),
        vocabulary=facts.vocabulary or None,
        control_texts=_marks(facts),
        has_chat_template=facts.chat_template is not None,
        has_tools=facts.mentions_tools,
    )


def _of_folder(path: Path, precision: str) -> Resolved:
    facts = read_folder(path)
    if precision not in ("auto", facts.precision):
        raise InvalidInput(
            "precision", f"{path.name} is {facts.precision}; say `auto` or `outpace quantize` it"
        )
    return Resolved(
        model=name_of_file(path.absolute()),
        # llama.cpp reads no checkpoint folders.
        engine=FOLDER_ENGINE,
        tasks=("chat", "completions") if facts.has_chat_template else ("completions",),
        context_tokens=facts.context_tokens,
        owned_by="local",
        created_s=int(path.stat().st_mtime),
        precision=facts.precision,
        artifact_path=path.absolute(),
        vocabulary=facts.vocabulary,
        control_texts=facts.control_texts,
        has_chat_template=facts.has_chat_template,
        has_tools=facts.mentions_tools,
    )


def name_of_file(path: Path) -> str:
    """A model name out of a file's: its stem, with what a name cannot hold as dashes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:96]
    return name or "model"


def _tasks(facts: GgufFacts) -> tuple[Task, ...]:
    """Without a template of its own, a model's chat would be a guess."""
    if facts.architecture in _ENCODERS:
        return ("embeddings",)
    return ("chat", "completions") if facts.chat_template else ("completions",)


def _marks(facts: GgufFacts) -> tuple[str, ...]:
    """Texts that a prompt's content must not turn into tokens of their own."""
    user_defined = (text for text in facts.user_defined_texts if _MARK.match(text))
    return (*facts.control_texts, *user_defined)
