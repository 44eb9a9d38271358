import functools
import hashlib
import http.server
import io
import json
import socket
import tarfile
import threading

import pytest

from medseg3d.checks import ConfigError, InputError
from medseg3d.download import download
from medseg3d.task import load_task

pytest.importorskip("monai")


def archive(members) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


DATASET = json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "background"}, "training": []}).encode()
GOOD = {"Task04_Hippocampus/dataset.json": DATASET, "Task04_Hippocampus/imagesTs/a.nii.gz": b"voxels"}


@pytest.fixture
def server(tmp_path):
    """Serve a folder on 127.0.0.1; gives a function that puts an archive there, and the list of requests."""
    folder = tmp_path / "served"
    folder.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(self.path)

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()

    def serve(content: bytes) -> dict[str, str]:
        (folder / "data.tar").write_bytes(content)
        url = f"http://127.0.0.1:{httpd.server_port}/data.tar"
        return {"url": url, "checksum": hashlib.md5(content).hexdigest()}

    serve.requests = requests
    yield serve
    httpd.shutdown()
    httpd.server_close()


def test_fetch_once_verify_and_unpack(tmp_path, server):
    where = server(archive(GOOD))
    root = download("hippocampus", tmp_path / "data", progress=False, **where)
    assert root == tmp_path / "data/Task04_Hippocampus"
    assert (root / "imagesTs/a.nii.gz").read_bytes() == b"voxels"
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["Task04_Hippocampus"]
    assert download(load_task("hippocampus"), tmp_path / "data", **where) == root
    assert len(server.requests) == 1


def test_address_and_checksum_from_the_environment(tmp_path, server, monkeypatch):
    content = archive(GOOD)
    monkeypatch.setenv("MEDSEG3D_DOWNLOAD_URL", server(content)["url"])
    monkeypatch.setenv("MEDSEG3D_DOWNLOAD_CHECKSUM", hashlib.sha256(content).hexdigest())
    assert (download("hippocampus", tmp_path, progress=False) / "dataset.json").is_file()


def test_a_mirror_must_hold_the_file_that_monai_knows(tmp_path, server):
    where = server(archive(GOOD))
    with pytest.raises(InputError, match=r"9d24dba78a72977dbd1d2e110310f31b.*E-CHECKSUM"):  # MONAI's md5 of Task04
        download("hippocampus", tmp_path / "data", url=where["url"], progress=False)
    assert not (tmp_path / "data/Task04_Hippocampus").exists()


def test_a_complete_archive_is_used_and_a_damaged_one_fetched_again(tmp_path, server):
    content = archive(GOOD)
    where = server(content)
    (tmp_path / "Task04_Hippocampus.tar").write_bytes(content)
    download("hippocampus", tmp_path, progress=False, **where)
    assert server.requests == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other/Task04_Hippocampus.tar").write_bytes(content[:100])
    download("hippocampus", tmp_path / "other", progress=False, **where)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "members",
    [
        {"../evil.txt": b"x"},
        {"/medseg3d-evil.txt": b"x"},
        {"Task04_Hippocampus/link": "/etc/passwd"},
        {"other.txt": b"x"},
    ],
    ids=["upwards", "absolute", "link", "no data set"],
)
def test_unsafe_archives_are_refused(tmp_path, server, members):
    where = server(archive(members if "other.txt" in members else GOOD | members))
    with pytest.raises(InputError, match="E-ARCHIVE"):
        download("hippocampus", tmp_path / "data", progress=False, **where)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["Task04_Hippocampus.tar"]
    assert not (tmp_path / "evil.txt").exists()


def test_without_network(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data.tar"
    with pytest.raises(InputError, match=r"could not be fetched.*check the network.*E-DOWNLOAD"):
        download("hippocampus", tmp_path, url=url, checksum="0" * 32, progress=False)


def test_file_that_is_not_there(tmp_path, server):
    where = server(archive(GOOD))
    with pytest.raises(InputError, match="404"):
        download("hippocampus", tmp_path, url=where["url"] + "x", checksum="0" * 32, progress=False)


def test_wrong_usage(tmp_path):
    with pytest.raises(ConfigError, match=r"'acdc' has no data set.*hippocampus"):
        download("acdc", tmp_path)
    with pytest.raises(ConfigError, match="Task99_Nose"):
        download("Task99_Nose", tmp_path)
    with pytest.raises(ConfigError, match="has 3 characters"):
        download("spleen", tmp_path, url="http://x", checksum="abc")
    with pytest.raises(ConfigError, match="must start with http"):
        download("spleen", tmp_path, url="file:///etc/passwd", checksum="0" * 32)
    (tmp_path / "Task09_Spleen").mkdir()
    with pytest.raises(ConfigError, match="move it away"):
        download("spleen", tmp_path, url="http://x", checksum="0" * 32)
