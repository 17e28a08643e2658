import errno
import os
import subprocess
import sys

import pytest
from recede.files import check_writable, read_json, whole_file, whole_folder, write_json, write_text


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


def test_a_folder_that_may_not_be_replaced_is_kept(tmp_path):
    path = tmp_path / "store"
    with pytest.raises(OSError, match="not empty"), whole_folder(path, replace=False) as folder:  # noqa: PT012
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

    monkeypatch.setattr("pathlib.Path.write_text", full)
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
