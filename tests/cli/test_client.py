import socket

import msgspec
import pytest
from tests.cli.conftest import FakeAdmin

from outpace.cli.client import AdminClient, AdminRefused, Unreachable, path_of
from outpace.cli.credentials import NothingHere
from outpace.values.home import Home


def test_answers_and_leaves_out_what_is_not_given(admin: FakeAdmin, home: Home) -> None:
    admin.answers["GET", "/admin/usage?model=a%2Fb"] = 200, [{"requests": 3}]
    assert AdminClient(home).get("/admin/usage", model="a/b", key_id=None) == [{"requests": 3}]


def test_refusal_is_told_in_the_platforms_words(admin: FakeAdmin, home: Home) -> None:
    refusal = {"error": {"message": "exists with another spec", "code": "conflict", "param": "name"}}
    admin.answers["POST", "/admin/deployments"] = 409, refusal
    with pytest.raises(AdminRefused, match="exists with another spec") as raised:
        AdminClient(home).post("/admin/deployments", {"name": "chat"})
    assert (raised.value.code, raised.value.status, raised.value.param) == ("conflict", 409, "name")


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", {"error": "text"}])
def test_an_error_that_is_no_envelope_still_reads(admin: FakeAdmin, home: Home, body: object) -> None:
    admin.answers["GET", "/admin/status"] = 500, body
    with pytest.raises(AdminRefused, match="answered 500"):
        AdminClient(home).get("/admin/status")


def test_nothing_running_names_the_remedy(home: Home) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    credentials = msgspec.json.decode(home.credentials.read_bytes())
    home.credentials.write_bytes(msgspec.json.encode(credentials | {"admin_url": f"http://127.0.0.1:{port}"}))
    with pytest.raises(Unreachable, match="outpace up"):
        AdminClient(home).get("/admin/status")


def test_damaged_credentials_name_the_file(home: Home) -> None:
    home.credentials.write_text("{")
    with pytest.raises(NothingHere, match=r"credentials\.json is damaged"):
        AdminClient(home)


def test_a_name_cannot_leave_its_place_in_a_path() -> None:
    assert path_of("deployments", "../keys?x#y") == "/admin/deployments/..%2Fkeys%3Fx%23y"
