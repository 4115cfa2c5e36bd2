"""The tokenizer that comes out of a GGUF cuts text as llama.cpp does."""

import json
from pathlib import Path

import pytest
from tests.weights import smollm2_gguf
from tokenizers import Tokenizer

from outpace.precision import tokenizer_files
from outpace.precision.tokenizer_files import write_tokenizer
from outpace.values.errors import InvalidInput

__all__ = ["smollm2_gguf"]

# What llama.cpp's /tokenize answers for this model (xllamacpp 2026.10.11549, 2026-11-25).
_LLAMACPP = {
    "Hello world 1234 it's  ok\n\n  x": [
        *(19556, 905, 216, 33, 34, 35, 36, 357, 506, 216, 10907, 8866, 1792),
    ],
    "<|im_start|>user\nGrüße 東京 😀<|im_end|>\n": [
        *(1, 4093, 198, 27302, 7170, 34878, 85, 17097, 247, 126, 16736, 122, 40303, 218, 2, 198),
    ],
    "def f(x):\n    return x**2": [1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34],
}


@pytest.fixture(scope="module")
def folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(smollm2_gguf, made)
    return made


@pytest.mark.parametrize("text", _LLAMACPP)
def test_it_cuts_text_as_llama_cpp_does(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    numbers = tokenizer.encode(text).ids
    assert numbers == _LLAMACPP[text]
    assert tokenizer.decode(numbers, skip_special_tokens=False) == text


def test_the_config_names_end_and_template(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    assert config["eos_token"] == "<|im_end|>"
    assert "<|im_start|>" in config["chat_template"]
    assert config["model_max_length"] == 8192


def test_a_tokenizer_of_another_kind_is_refused(
    smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_files, "keys_of", lambda _: {"tokenizer.ggml.model": "llama"})
    with pytest.raises(InvalidInput, match="Hugging Face folder"):
        write_tokenizer(smollm2_gguf, tmp_path)
    assert list(tmp_path.iterdir()) == []
