import socket
from pathlib import Path

import pytest

from outpace.cli.credentials import Credentials
from outpace.cli.front import refuse_if_taken
from outpace.cli.greet import Answer, answer_line, curl_line
from outpace.cli.up import wanted_models
from outpace.fleet.record import claim
from outpace.settings import Settings, settings_from
from outpace.values.errors import Conflict, InvalidInput
from outpace.values.home import Home


def test_models_by_name_and_by_file() -> None:
    assert wanted_models(None) == {"smollm2-135m-instruct": "smollm2-135m-instruct"}
    assert wanted_models(["none"]) == {}
    assert wanted_models(["echo", "/m/Tiny v1.gguf", "echo"]) == {
        "echo": "echo",
        "Tiny-v1": "/m/Tiny v1.gguf",
    }


@pytest.mark.parametrize("given", [["none", "echo"], ["/a/x.gguf", "/b/x.gguf"]])
def test_models_that_contradict_each_other(given: list[str]) -> None:
    with pytest.raises(InvalidInput, match="--model"):
        wanted_models(given)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    Home(tmp_path).make()
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = first.getsockname()[1], second.getsockname()[1]
    return Settings(home=str(tmp_path), port=ports[0], admin_port=ports[1])


def test_free_ports_and_an_idle_home_are_fine(settings: Settings) -> None:
    refuse_if_taken(settings)


def test_a_taken_port_names_the_option(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.admin_port))
        other.listen()
        with pytest.raises(Conflict, match=f"port {settings.admin_port} .* --admin-port"):
            refuse_if_taken(settings)


def test_the_same_home_twice_is_refused(settings: Settings) -> None:
    with claim(Home(Path(settings.home))), pytest.raises(Conflict, match="outpace down"):
        refuse_if_taken(settings)


def test_an_address_of_another_machine_is_refused(settings: Settings) -> None:
    elsewhere = Settings(home=settings.home, host="203.0.113.1", port=settings.port)
    with pytest.raises(InvalidInput, match="--port: cannot listen on"):
        refuse_if_taken(elsewhere)


def test_settings_come_from_option_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_HOME", "/elsewhere")
    monkeypatch.setenv("OUTPACE_PORT", "9000")
    monkeypatch.setenv("OUTPACE_GRACE_S", "2.5")
    settings = settings_from({"port": 9100, "workers": None})
    assert (settings.home, settings.port, settings.grace_s, settings.workers) == ("/elsewhere", 9100, 2.5, 1)
    monkeypatch.setenv("OUTPACE_WORKERS", "many")
    with pytest.raises(InvalidInput, match="workers"):
        settings_from({})


def test_the_answers_line_and_the_curl_line(tmp_path: Path) -> None:
    answer = Answer(text="The capital\nis Paris.", completion_tokens=14, ttft_s=0.096, duration_s=0.206)
    assert answer_line(answer).endswith("   The capital is Paris.   14 tokens · 96 ms to first · 118 tok/s")
    credentials = Credentials(base_url="http://127.0.0.1:8000/v1", admin_url="", api_key="sk-k", admin_key="")
    line = curl_line(credentials, "it's", Home(tmp_path))
    assert "sk-k" not in line
    assert f"keys show --home {tmp_path}" in line
