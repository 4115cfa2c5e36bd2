import stat
from pathlib import Path

from outpace.cli.credentials import read_credentials, write_credentials
from outpace.settings import Settings
from outpace.values.home import Home


def test_keys_are_kept_and_addresses_renewed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = write_credentials(home, Settings(home=str(tmp_path), port=8000))
    second = write_credentials(home, Settings(home=str(tmp_path), port=9000))
    assert (second.api_key, second.admin_key) == (first.api_key, first.admin_key)
    assert first.api_key != first.admin_key
    assert second.base_url == "http://127.0.0.1:9000/v1"
    assert read_credentials(home) == second


def test_only_the_owner_can_read_them(tmp_path: Path) -> None:
    write_credentials(Home(tmp_path), Settings(home=str(tmp_path)))
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]


def test_urls_are_such_that_this_machine_can_use_them(tmp_path: Path) -> None:
    def base_url(host: str) -> str:
        return write_credentials(Home(tmp_path), Settings(home=str(tmp_path), host=host)).base_url

    assert base_url("0.0.0.0") == "http://127.0.0.1:8000/v1"
    assert base_url("::") == "http://[::1]:8000/v1"
    assert base_url("fd00::1") == "http://[fd00::1]:8000/v1"
