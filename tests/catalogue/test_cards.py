"""Cards: what ships is whole, and what is wrong is refused by file and field."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.catalogue.cards import HubSource, parse_cards, read_cards, shipped_cards
from outpace.values.errors import InvalidInput

CARD = """
id = "tiny"
family = "tiny"
publisher = "us"
tasks = ["chat"]
parameters = 1000
licence = "MIT"
context_tokens = 64
source = "here"
checked_on = "2026-11-23"

[[artifacts]]
precision = "f32"
size_bytes = 10
sha256 = "{hash}"
sources = [{{ kind = "file", path = "/weights.gguf" }}]
""".format(hash="a" * 64)


def test_every_shipped_card_loads_and_has_a_price_with_a_source() -> None:
    cards = shipped_cards()
    assert {"smollm2-135m-instruct", "smollm2-135m-embed", "echo"} <= set(cards)
    for card in cards.values():
        assert card.list_price is not None, card.id
        assert card.list_price.source
        assert card.source
        assert card.checked_on


def test_the_parts_of_every_shipped_architecture_add_up_to_its_parameters() -> None:
    for card in shipped_cards().values():
        if card.architecture:
            assert card.architecture.parameters == pytest.approx(card.parameters, rel=0.001), card.id


def test_every_shipped_artifact_is_pinned_to_one_content() -> None:
    for card in shipped_cards().values():
        for weights in card.artifacts:
            pinned = all(isinstance(source, HubSource) and source.revision for source in weights.sources)
            assert weights.sha256 or pinned, card.id


def test_the_embedding_model_shares_the_weights_of_the_chat_model() -> None:
    cards = shipped_cards()
    assert cards["smollm2-135m-embed"].artifacts == cards["smollm2-135m-instruct"].artifacts
    assert cards["smollm2-135m-embed"].tasks == ("embeddings",)


def test_release_day_becomes_seconds_since_the_epoch() -> None:
    assert parse_cards([("tiny.toml", CARD)])["tiny"].created_s == 1_795_392_000


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('licence = "MIT"', "", "licence"),
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "license"),
        ('id = "tiny"', 'id = "../tiny"', "id"),
        ('tasks = ["chat"]', "tasks = []", "tasks"),
        ('tasks = ["chat"]', 'tasks = ["sing"]', "tasks"),
        ("parameters = 1000", 'parameters = "many"', "parameters"),
        ("size_bytes = 10", "size_bytes = -1", "size_bytes"),
        ("a" * 64, "xyz", "sha256"),
        ('sha256 = "' + "a" * 64 + '"', "", "sha256"),
        ('kind = "file"', 'kind = "ftp"', "ftp"),
        ('path = "/weights.gguf"', 'path = "/weights.gguf", mode = 1', "mode"),
        ('"2026-11-23"', '"23.11.2026"', "checked_on"),
        ('family = "tiny"', 'family = "tiny', "TOML"),
        ('family = "tiny"', 'base = "nobody"', "nobody"),
        ('precision = "f32"', 'precision = "F32"', "lower case"),
        ('family = "tiny"', 'family = "tiny"\nprice = { input_usd_per_mtok = "0.1" }', "output_usd_per_mtok"),
        ('family = "tiny"', 'family = "tiny"\nprice = "cheap"', "price"),
    ],
)
def test_a_wrong_card_is_refused_by_file_and_field(old: str, new: str, named: str) -> None:
    assert old in CARD
    with pytest.raises(InvalidInput, match=named) as refused:
        parse_cards([("tiny.toml", CARD.replace(old, new))])
    assert "tiny.toml" in str(refused.value)


def test_a_price_without_a_source_is_refused() -> None:
    priced = (
        CARD
        + '\n[price]\ninput_usd_per_mtok = "0.1"\noutput_usd_per_mtok = "0.1"\nchecked_on = "2026-11-23"\n'
    )
    with pytest.raises(InvalidInput, match="source"):
        parse_cards([("tiny.toml", priced)])


def test_a_hub_file_needs_a_hash_or_a_revision() -> None:
    hub = 'sources = [{ kind = "hf", repo = "a/b", file = "c.gguf"%s }]'
    unhashed = CARD.replace('sha256 = "' + "a" * 64 + '"', 'verify = "hub"')
    loose = unhashed.replace('sources = [{ kind = "file", path = "/weights.gguf" }]', hub % "")
    pinned = unhashed.replace(
        'sources = [{ kind = "file", path = "/weights.gguf" }]', hub % (', revision = "' + "0" * 40 + '"')
    )
    with pytest.raises(InvalidInput, match="revision"):
        parse_cards([("tiny.toml", loose)])
    assert parse_cards([("tiny.toml", pinned)])["tiny"].artifacts[0].verify == "hub"


def test_a_file_named_otherwise_than_its_card_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"tiny\.toml"):
        parse_cards([("other.toml", CARD)])


def test_two_cards_of_one_id_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(CARD)
    (tmp_path / "tiny2.toml").write_text(CARD)
    with pytest.raises(InvalidInput, match="same id"):
        read_cards(tmp_path)


def test_unknown_precision_lists_what_there_is() -> None:
    card = shipped_cards()["smollm2-135m-instruct"]
    with pytest.raises(InvalidInput, match="q4_1"):
        card.weights("fp64")
    assert card.weights("Q4_1") is card.weights("auto")


@given(st.text(max_size=200))
def test_any_text_is_a_card_or_a_refusal(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_cards([("tiny.toml", text)])
