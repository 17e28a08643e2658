import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recede.files import (
    check_writable,
    exclusive,
    read_json,
    scratch_folder,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "folder"
    with pytest.raises(FileNotFoundError), whole_folder(path) as folder:  # noqa: PT012
        (folder / "a").write_text("half")
        assert not path.exists()
        (folder / "nowhere" / "b").write_text("never")
    assert list(path.parent.iterdir()) == []
    for content in ("first", "second"):
        with whole_folder(path) as folder:
            (folder / content).write_text(content)
        assert [file.name for file in path.iterdir()] == [content]
    assert list(path.parent.iterdir()) == [path]


def test_impossible_json_keeps_the_old_file(tmp_path):
    path = tmp_path / "notes.json"
    write_json(path, {"a": 1})
    for impossible in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, impossible)
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "film.mp4"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:  # noqa: PT012
        partial.write_bytes(b"half")
        assert not path.exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for content in (b"first", b"second"):
        with whole_file(path) as partial:
            partial.write_bytes(content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_no_two_writers_share_a_partial_file(tmp_path, whole):
    with whole(tmp_path / "a.mp4") as first, whole(tmp_path / "a.mp4") as second:
        assert first != second
        for partial in (first, second):
            assert partial.match(f".a.{os.getpid()}.*.partial.mp4")
            if whole is whole_file:
                partial.write_text("content")


WRITER = """
import sys
from pathlib import Path
from recede.files import exclusive, scratch_folder, whole_file, whole_folder

folder = Path(sys.argv[1])
with (
    exclusive(folder, "being tried"),
    whole_file(folder / "a.mp4") as film,
    whole_folder(folder / "b") as whole,
    scratch_folder(folder / "b") as scratch,
):
    (whole / "half").touch()
    (scratch / "half").touch()
    print(film, whole, scratch, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_deleted_and_what_a_living_one_writes_is_not(tmp_path):
    others = [tmp_path / ".a.partial.mp4", tmp_path / ".b.1.partial", tmp_path / ".a.txt"]
    for path in others:
        path.touch()

    def write():
        write_text(tmp_path / "a.mp4", "text")
        with whole_folder(tmp_path / "b"), scratch_folder(tmp_path / "b"):
            pass

    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            partials = [tmp_path / line for line in process.stdout.readline().split()]
            write()
            assert all(path.exists() for path in partials)
            with pytest.raises(ValueError, match=f"{tmp_path} is being tried by another process: .*another out="):
                exclusive(tmp_path, "being tried").__enter__()
        finally:
            process.kill()
    assert all(path.exists() for path in partials)
    write()
    assert not any(path.exists() for path in partials)
    assert all(path.exists() for path in others)


def test_a_folder_of_one_writer_keeps_its_content_and_is_deleted_if_nothing_was_written(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir()
    for folder in (new, old):
        with pytest.raises(KeyError), exclusive(folder, "being tried"):
            raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    with exclusive(new, "being tried"):
        (new / "a").touch()
    dead = new / f".a.{2**22 + 1}.0123abcd.partial"
    dead.mkdir()
    with exclusive(new, "being tried"):
        assert not dead.exists()
    assert (new / "a").exists()


def test_a_folder_that_may_not_be_replaced_is_kept(tmp_path):
    path = tmp_path / "store"
    refused = pytest.raises(FileExistsError, match=f"{path} .*use another out=")
    with refused, whole_folder(path, replace=False) as folder:
        (folder / "late").touch()
        path.mkdir()  # by another writer, in the meantime
        (path / "early").touch()
    assert [file.name for file in path.iterdir()] == ["early"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(
        OSError, match=r"notes.txt could not be written \(No space left on device\).*has room"
    ) as caught:
        write_text(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_whatever_the_locale(tmp_path):
    code = "import sys, pathlib, recede.files as f; f.write_text(pathlib.Path(sys.argv[1]), '\\u03c3')"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=environment, check=True)
    assert (tmp_path / "a").read_bytes() == "σ".encode()


@pytest.mark.parametrize(
    ("content", "message"), [('{"a": ', "is damaged"), ("[1]", r"must hold a JSON object, got \[1\]")]
)
def test_json_that_is_no_object_is_an_error_with_its_name(tmp_path, content, message):
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(ValueError, match=rf"notes\.json {message}"):
        read_json(tmp_path / "notes.json")


@pytest.mark.parametrize("name", ["file", "file/below", "link", "locked", "locked/below"])
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "locked" and access(path, mode))
    with pytest.raises(ValueError, match=f"{name}.*give another out="):
        check_writable(tmp_path / name)
    check_writable(tmp_path)
    check_writable(tmp_path / "new/folder")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("marker", ["zarr.json", ".zgroup"])
@pytest.mark.parametrize("out", ["store", "store/", "store/new/folder"])
def test_nothing_is_written_among_demonstrations(tmp_path, monkeypatch, marker, out):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / marker).touch()
    check_writable(tmp_path / "beside")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / out, Path(out)):
        with pytest.raises(ValueError, match=rf"got {path}, but {tmp_path / 'store'} is a store: give another out="):
            check_writable(path)
