"""Names: a catalogue id or a file of the user's own, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.catalogue.samples import file_weights, number, pairs, tiny_gguf, word

from outpace.catalogue.cards import Card, shipped_cards
from outpace.catalogue.listing import listing
from outpace.catalogue.resolve import find_card, name_of_file, resolve
from outpace.catalogue.store import ArtifactStore
from outpace.values.errors import InvalidInput, ModelNotFound, WeightsInvalid
from outpace.values.money import parse_price


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def card_of(folder: Path) -> Card:
    return Card(
        id="tiny",
        family="tiny",
        publisher="us",
        tasks=("chat",),
        parameters=80,
        licence="MIT",
        source="here",
        checked_on="2026-11-23",
        context_tokens=64,
        artifacts=(file_weights(folder, tiny_gguf()),),
    )


def test_a_card_before_and_after_its_pull(tmp_path: Path, store: ArtifactStore) -> None:
    cards = {"tiny": card_of(tmp_path)}
    before = resolve("tiny", "auto", store, cards)
    assert before.needs_pull
    assert before.artifact_path is None
    assert before.to_pull is not None
    path = store.pull("tiny", before.to_pull)
    after = resolve("tiny", "f32", store, cards)
    assert (after.needs_pull, after.artifact_path, after.precision) == (False, path, "f32")
    assert (after.vocabulary, after.context_tokens, after.owned_by) == (6, 64, "us")
    assert after.control_texts == ("<|endoftext|>", "<|im_start|>")
    assert after.has_chat_template
    assert after.has_tools
    assert after.price is None
    assert listing(cards["tiny"], store)["pulled"] is True


def test_the_default_model_has_a_price_and_a_vocabulary_before_its_pull(store: ArtifactStore) -> None:
    resolved = resolve("smollm2-135m-instruct", "auto", store)
    assert resolved.price == parse_price({"input_usd_per_mtok": "0.01", "output_usd_per_mtok": "0.02"})
    assert (resolved.vocabulary, resolved.context_tokens) == (49_152, 8_192)
    assert resolved.tasks == ("chat", "completions")


def test_a_model_without_weights_needs_no_pull(store: ArtifactStore) -> None:
    resolved = resolve("echo", "auto", store)
    assert (resolved.engine, resolved.needs_pull, resolved.artifact_path) == ("echo", False, None)


def test_a_file_of_the_users_own(
    tmp_path: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "My Model (v2).gguf").write_bytes(tiny_gguf())
    monkeypatch.chdir(tmp_path)
    resolved = resolve("My Model (v2).gguf", "auto", store)
    assert resolved.model == "My-Model-v2"
    assert resolved.artifact_path == tmp_path / "My Model (v2).gguf"
    assert (resolved.tasks, resolved.context_tokens) == (("chat", "completions"), 64)
    assert (resolved.price, resolved.owned_by, resolved.needs_pull) == (None, "local", False)
    with pytest.raises(InvalidInput, match="f32"):
        resolve("My Model (v2).gguf", "q8_0", store)


def test_a_file_without_a_template_does_not_chat(tmp_path: Path, store: ArtifactStore) -> None:
    path = tmp_path / "base.gguf"
    path.write_bytes(tiny_gguf(pairs()[:-1]))
    assert resolve(str(path), "auto", store).tasks == ("completions",)


def test_an_encoder_embeds(tmp_path: Path, store: ArtifactStore) -> None:
    path = tmp_path / "bert.gguf"
    path.write_bytes(tiny_gguf([word("general.architecture", "bert"), number("bert.context_length", 512)]))
    assert resolve(str(path), "auto", store).tasks == ("embeddings",)


@pytest.mark.parametrize("content", [tiny_gguf([word("general.architecture", "llama")]), b"no", b""])
def test_a_file_that_cannot_be_served_is_refused(
    tmp_path: Path, store: ArtifactStore, content: bytes
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises((WeightsInvalid, InvalidInput), match=r"bad\.gguf"):
        resolve(str(path), "auto", store)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, store: ArtifactStore) -> None:
    with pytest.raises(WeightsInvalid, match="cannot be read"):
        resolve(str(tmp_path / "missing.gguf"), "auto", store)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a/../smollm2-135m-instruct",
        "smollm2-135m-instruct ",
        "SmolLM2-135M-Instruct",
        "smollm2-135m-instruct\0",
        "ѕmollm2-135m-instruct",
        "https://example.org/model",
        "x" * 10_000,
        "",
        "a\nb",
    ],
)
def test_names_are_looked_up_exactly_and_shown_safely(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        resolve(name, "auto", store)
    said = str(refused.value)
    assert len(said) < 400
    assert said.isprintable()


def test_near_names_are_offered(store: ArtifactStore) -> None:
    with pytest.raises(ModelNotFound, match="smollm2-135m-instruct"):
        resolve("smolm2-135-instruct", "auto", store)


@given(st.text(max_size=300))
def test_the_name_of_any_file_is_a_plain_one(stem: str) -> None:
    name = name_of_file(Path(stem.replace("\0", "")) if stem else Path("x"))
    assert 0 < len(name) <= 96
    assert name.isascii()
    assert "/" not in name


def test_every_shipped_card_is_found_and_lists(store: ArtifactStore) -> None:
    for model, card in shipped_cards().items():
        assert find_card(model) is card
        listed = listing(card, store)
        assert listed["id"] == model
        assert listed["pulled"] is (not card.artifacts)
