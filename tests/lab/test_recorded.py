from pathlib import Path

import pytest

from outpace.lab.recorded import Scale, load
from outpace.values.errors import InvalidInput


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_users_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "mine.jsonl",
        '{"prompt": "Hello", "max_tokens": 5, "at_s": 2}\n\n'
        '{"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]}\n',
    )
    first, second = load(path, Scale(time=0.5))
    assert (first.turns[0].text, first.turns[0].output_tokens, first.at_s) == ("Hello", 5, 1.0)
    assert second.before == ({"role": "system", "content": "Be short."},)
    assert second.turns[0].text == "Why?"


def test_an_azure_trace_is_scaled(tmp_path: Path) -> None:
    rows = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,396,109\n"
    )
    first, second = load(
        write(tmp_path, "azure.csv", rows), Scale(time=0.5, tokens=0.5, most_output_tokens=30)
    )
    assert first.at_s == 0.0
    assert second.at_s == pytest.approx(2.0)
    assert len(first.turns[0].text.split()) == 187
    assert (first.turns[0].output_tokens, second.turns[0].output_tokens) == (22, 30)
    assert first.turns[0].text != second.turns[0].text


def test_equal_block_ids_are_an_equal_prefix(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "mooncake.jsonl",
        '{"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [7, 8]}\n'
        '{"timestamp": 3000, "input_length": 1000, "output_length": 5, "hash_ids": [7, 9]}\n',
    )
    first, second = (talk.turns[0].text.split() for talk in load(path))
    assert first[:512] == second[:512]
    assert first[512:] != second[512:]
    assert load(path)[1].at_s == 3.0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"prompt": "x", "messages": []}\n', "line 1: prompt: give either"),
        ("a.jsonl", '{"prompt": "x"}\n{"promt": "x"}\n', "line 2: .*promt"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}\n', "must be the user's"),
        ("a.jsonl", "\n", "holds no request"),
        ("a.csv", "a,b\n1,2\n", "TIMESTAMP, ContextTokens"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "line 2"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        load(write(tmp_path, name, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "none.jsonl")
