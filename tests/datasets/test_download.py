"""Downloads from a local server: whole and checked, or nothing at all."""

import hashlib
import io
import itertools
import os
import shutil
import signal
import sys
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import zarr
from recede.datasets import download as module
from recede.datasets.download import Published, download

MEMBER = "archive/replay.zarr"
STATE = np.arange(40, dtype=np.float32).reshape(20, 2)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The bytes of a zip archive with a store and a file beside it."""
    folder = tmp_path_factory.mktemp("published")
    group = zarr.create_group(folder / "replay.zarr", zarr_format=2)
    array = group.create_array("data/state", shape=STATE.shape, dtype=STATE.dtype, chunks=(8, 2))
    array[:] = STATE
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as writer:
        for path in sorted((folder / "replay.zarr").rglob("*")):
            writer.write(path, f"archive/{path.relative_to(folder)}")
        writer.writestr("archive/readme.txt", "beside the store")
        writer.writestr("archive/replay.zarr.old/data", "another name with the same beginning")
    return content.getvalue()


@pytest.fixture
def serve():
    """Serve bytes with a claimed length; yields their address."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in answers:
                self.send_error(404)
                return
            content, claimed = answers[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(claimed))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def at(name, content=None, claimed=None):
        if content is not None:
            answers[f"/{name}"] = content, len(content) if claimed is None else claimed
        return f"http://127.0.0.1:{server.server_port}/{name}"

    yield at
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _published(monkeypatch):
    digest = hashlib.sha256(STATE.tobytes()).hexdigest()
    entry = Published("http://127.0.0.1:9/none.zip", MEMBER, {"data/state": digest}, 10_000, "numbers, public domain")
    monkeypatch.setitem(module.PUBLISHED, "numbers", entry)


def test_a_download_holds_what_was_published(serve, archive, tmp_path, monkeypatch):
    address = serve("good.zip", archive)
    entry = module.PUBLISHED["numbers"]
    monkeypatch.setitem(module.PUBLISHED, "numbers", replace(entry, url=address))
    path = tmp_path / "new" / "folder" / "numbers.zarr"
    assert download("numbers", path).source == "numbers, public domain"
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["data/state"][:], STATE)
    assert [file.name for file in path.parent.iterdir()] == ["numbers.zarr"]
    assert not (path / "readme.txt").exists()


def test_a_mirror_may_be_given(serve, archive, tmp_path):
    download("numbers", tmp_path / "numbers.zarr", url=serve("mirror.zip", archive))
    assert (tmp_path / "numbers.zarr/data/state/.zarray").is_file()


def changed(archive, change):
    """The archive with changed members; change: from {name: bytes} to {name: bytes}."""
    with zipfile.ZipFile(io.BytesIO(archive)) as reader:
        members = {name: reader.read(name) for name in reader.namelist() if not name.endswith("/")}
    change(members)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return content.getvalue()


def with_other_rows(members):
    members[f"{MEMBER}/data/state/0.0"] = members[f"{MEMBER}/data/state/1.0"]


def without_the_store(members):
    for name in [name for name in members if name.startswith(f"{MEMBER}/")]:
        del members[name]


def without_the_array(members):
    for name in [name for name in members if name.startswith(f"{MEMBER}/data/state/")]:
        del members[name]


def without_a_chunk(members):
    del members[f"{MEMBER}/data/state/1.0"]


def with_another_array(members):
    for name in (".zarray", "0.0"):
        members[f"{MEMBER}/data/img/{name}"] = members[f"{MEMBER}/data/state/{name}"]


def with_another_file(members):
    members[f"{MEMBER}/data/run.py"] = b"print()"


def with_a_bomb(members):
    members[f"{MEMBER}/data/state/0.1"] = bytes(10_001)


def encrypted(archive):
    """The archive as if its members were encrypted."""
    content = bytearray(archive)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        begin = content.find(signature)
        while begin >= 0:
            content[begin + flags] |= 1
            begin = content.find(signature, begin + 4)
    return bytes(content)


def with_a_damaged_chunk(members):
    members[f"{MEMBER}/data/state/0.0"] = members[f"{MEMBER}/data/state/0.0"][:-9]


def flipped(archive):
    """The archive with one wrong bit in the compressed data of its largest member."""
    with zipfile.ZipFile(io.BytesIO(archive)) as reader:
        member = max(reader.infolist(), key=lambda file: file.compress_size)
    content = bytearray(archive)
    content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 16
    return bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda a: changed(a, with_other_rows),
            "'numbers': the SHA-256 of data/state",
        ),
        (
            lambda a: changed(a, without_the_array),
            "'numbers': .*data/state",
        ),
        (lambda a: changed(a, without_a_chunk), "'numbers': .*data/state/1.0 is missing"),
        (lambda a: changed(a, with_a_bomb), "at most 10000 bytes, got 1.*another mirror"),
        (encrypted, "zip archive .*encrypted.*url= of a mirror"),
        (lambda a: changed(a, with_a_damaged_chunk), "'numbers': .* is damaged"),
        (lambda a: changed(a, without_the_store), "holds no folder archive/replay.zarr"),
        (lambda a: b"<html>not found</html>", "zip archive .*url= of a mirror"),
        (lambda a: b"", "zip archive"),
        (lambda a: a[: len(a) // 2], "zip archive"),
        (flipped, "zip archive"),
    ],
)
def test_other_content_is_refused_and_leaves_nothing(serve, archive, tmp_path, damage, message):
    address = serve("bad.zip", damage(archive))
    with pytest.raises(ValueError, match=message) as error:
        download("numbers", tmp_path / "numbers.zarr", url=address)
    assert str(error.value).startswith(address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("add", "first"), [(with_another_array, "data/img/"), (with_another_file, "data/run.py")])
def test_files_that_no_digest_covers_are_left_out(serve, archive, tmp_path, capsys, add, first):
    download("numbers", tmp_path / "plain.zarr", url=serve("plain.zip", archive))
    assert "left out" not in capsys.readouterr().out
    download("numbers", tmp_path / "more.zarr", url=serve("more.zip", changed(archive, add)))
    assert f"'{first}" in capsys.readouterr().out
    plain, more = (
        {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("plain.zarr", "more.zarr")
    )
    assert plain == more


def test_an_archive_cannot_write_elsewhere(serve, archive, tmp_path):
    def add(members):
        members[f"{MEMBER}/../../../../../escaped"] = b"dot dot"
        members[f"{MEMBER}//escaped"] = b"slashes"
        members[str(tmp_path / "absolute")] = b"absolute"

    (tmp_path / "target").mkdir()
    address = serve("evil.zip", changed(archive, add))
    download("numbers", tmp_path / "target" / "numbers.zarr", url=address)
    assert [file.name for file in tmp_path.iterdir()] == ["target"]
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["numbers.zarr"]
    assert not list(tmp_path.rglob("escaped"))
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_a_failed_download_is_an_os_error_with_the_address(serve, archive, tmp_path):
    refused = serve("missing.zip").rsplit(":", 1)[0] + ":1/closed.zip"
    for address, message in ((serve("missing.zip"), "404"), (refused, "refused")):
        with pytest.raises(OSError, match=f"{address} .*{message}.*url= of a mirror"):
            download("numbers", tmp_path / "numbers.zarr", url=address)
    with pytest.raises(ValueError, match="unknown url type"):
        download("numbers", tmp_path / "numbers.zarr", url="numbers.zip")
    assert not list(tmp_path.iterdir())


def test_a_connection_that_breaks_off_leaves_nothing(serve, archive, tmp_path):
    address = serve("short.zip", archive[:-100], claimed=len(archive))
    with pytest.raises((ValueError, OSError), match=address):
        download("numbers", tmp_path / "numbers.zarr", url=address)
    assert not list(tmp_path.iterdir())


def test_an_existing_path_is_not_overwritten(serve, archive, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for path in before:
        with pytest.raises(FileExistsError, match=f"{path} already exists"):
            download("numbers", path, url=serve("good.zip", archive))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ValueError, match="no published demonstrations 'push': did you mean 'pusht'"):
        download("push", tmp_path / "push.zarr")


def test_every_publication_has_digests_to_check():
    for name, entry in module.PUBLISHED.items():
        assert entry.url.startswith("https://") or name == "numbers"
        assert entry.sha256
        assert all(len(bytes.fromhex(digest)) == 32 for digest in entry.sha256.values())


OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock")


def run_and_kill(address, path, moment):
    """Download in a process of its own that dies at its file operation number `moment`; return its exit status."""
    child = os.fork()
    if not child:
        left = itertools.count(moment, -1)

        def die(event, _):
            if event in OPERATIONS and not next(left):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        try:
            download("numbers", path, url=address)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow  # some hundred kills
def test_a_killed_download_leaves_nothing_that_looks_whole_and_the_next_one_clears_up(serve, archive, tmp_path):
    address, path = serve("good.zip", archive), tmp_path / "numbers.zarr"
    moments, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        status = run_and_kill(address, path, moments)
        if path.exists():
            np.testing.assert_array_equal(zarr.open_group(path, mode="r")["data/state"][:], STATE)
            shutil.rmtree(path)
        else:
            assert status == -signal.SIGKILL
        moments += 1
    assert moments > 10
    assert not list(tmp_path.iterdir())
