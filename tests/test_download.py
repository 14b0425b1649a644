"""01_prepare.py --download from a local server."""

import hashlib
import http.server
import io
import os
import shlex
import shutil
import subprocess
import tarfile
import threading

import numpy as np
import pytest
import zarr
from films import Job

import divita

NAME = "trailers_i_shufflenet_fpc24"
LABELS = b"mid,drama,war,split0\ntt1,1,0,0\n"


def make_archive(folder, *extra):
    """Return the bytes of a small archive in the published format; extra: members (name, content or link)."""
    group = zarr.open_group(folder / f"{NAME}.zarr", mode="w", zarr_format=2)
    group.create_array("tt1", data=np.ones((3, 4), np.float32))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder / f"{NAME}.zarr", f"{NAME}.zarr")
        for name, content in extra:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves {path: bytes}; paths in `cut` are truncated to half once, those in `stuck` always stall at half."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.stuck, self.requests = {}, set(), set(), []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0].strip("/")
        start = self.headers.get("Range")
        server.requests.append((path, start))
        if path not in server.files:
            return self.send_error(404)
        complete = server.files[path]
        first = int(start[6:-1]) if start else 0
        content = complete[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(complete) - 1}/{len(complete)}")
        self.end_headers()
        if path in server.cut | server.stuck:
            server.cut.discard(path)
            content = content[: len(content) // 2]
        self.wfile.write(content)
        if path in server.stuck:
            self.connection.settimeout(None)  # the script sets a global default, in the same process
            self.rfile.read()  # until the client disconnects

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server()
    monkeypatch.setenv("DIVITA_PUBLISHED", f"http://127.0.0.1:{server.server_port}")
    (tmp_path / "source").mkdir()
    serve(server, monkeypatch, make_archive(tmp_path / "source"))
    yield server
    server.shutdown()
    server.server_close()


def serve(server, monkeypatch, archive):
    server.files = {"mtgc.csv": LABELS, f"{NAME}.zarr.tar.gz": archive}
    monkeypatch.setitem(divita.PUBLISHED, NAME, ("shufflenet2d", hashlib.md5(archive).hexdigest()))
    monkeypatch.setattr(divita, "LABELS_MD5", hashlib.md5(LABELS).hexdigest())


@pytest.fixture
def fetch(script, server, tmp_path):
    return lambda out=tmp_path / "out": script("01_prepare.py", "--download", NAME, "--out", out)


def listing(folder):
    """Return the names in a folder, sorted, without the lock."""
    return sorted(set(os.listdir(folder)) - {".lock"})


def is_complete(out):
    assert listing(out) == ["mtgc.csv", f"{NAME}.zarr"]
    assert (out / "mtgc.csv").read_bytes() == LABELS
    representation = divita.open_representation(out, NAME)
    assert np.array_equal(representation["tt1"], np.ones((3, 4)))
    return True


def has_failed(result, *words):
    assert result.code == 2, result.err
    last = result.err.splitlines()[-1]
    assert "Traceback" not in result.err and all(word in last for word in words), last
    return True


def test_downloaded_files_are_complete_and_kept(fetch, server, tmp_path):
    result = fetch()
    assert result.code == 0, result.err
    assert f"next: python 02_train.py --data {tmp_path / 'out'} --image {NAME} --video none" in result.out
    assert is_complete(tmp_path / "out")
    count = len(server.requests)
    assert fetch().code == 0 and len(server.requests) == count  # no second download


def test_a_lost_connection_leaves_no_partial_file(fetch, server, tmp_path):
    server.cut = {"mtgc.csv", f"{NAME}.zarr.tar.gz"}
    for name in ("mtgc.csv", f"{NAME}.zarr.tar.gz"):
        assert has_failed(
            fetch(), f"{name}: cannot be downloaded", "got only", "run the same command again", "curl -fLC -"
        )
        assert name not in listing(tmp_path / "out") and not list((tmp_path / "out").glob(".[!l]*"))
    assert fetch().code == 0 and is_complete(tmp_path / "out")


def test_a_wrong_md5_is_an_error(fetch, server, tmp_path):
    right = server.files[f"{NAME}.zarr.tar.gz"]
    server.files[f"{NAME}.zarr.tar.gz"] = right[:-1] + b"x"
    assert has_failed(fetch(), "md5", "does not match", "run the same command again")
    assert listing(tmp_path / "out") == ["mtgc.csv"]
    server.files[f"{NAME}.zarr.tar.gz"] = right
    assert fetch().code == 0 and is_complete(tmp_path / "out")


def test_missing_file_and_missing_server_are_errors(fetch, server, tmp_path, monkeypatch):
    del server.files[f"{NAME}.zarr.tar.gz"]
    assert has_failed(fetch(), "404", f"{NAME}.zarr.tar.gz")
    monkeypatch.setenv("DIVITA_PUBLISHED", "http://127.0.0.1:9")
    assert has_failed(fetch(tmp_path / "other"), "refused")


def test_a_stalled_download_times_out(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(divita, "DOWNLOAD_TIMEOUT", 0.5)
    server.stuck = {f"{NAME}.zarr.tar.gz"}
    assert has_failed(fetch(), "timed out", "run the same command again")
    assert listing(tmp_path / "out") == ["mtgc.csv"]


def test_a_killed_download_leaves_no_partial_file(fetch, server, tmp_path):
    server.stuck, server.files["mtgc.csv"] = {"mtgc.csv"}, LABELS * 10**4
    out = tmp_path / "out"
    job = Job(tmp_path / "log", "--download", NAME, "--out", out, DIVITA_PUBLISHED=os.environ["DIVITA_PUBLISHED"])
    while not any(path.stat().st_size for path in out.glob(f"{divita.TEMPORARY}*")):
        assert job.process.is_alive(), job.text()
    job.process.kill()
    job.end()
    assert [name.startswith(divita.TEMPORARY) for name in listing(out)] == [True]
    server.stuck, server.files["mtgc.csv"] = set(), LABELS
    assert fetch().code == 0 and is_complete(out)


def test_complete_files_are_kept(fetch, server, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{NAME}.zarr.tar.gz").write_bytes(server.files[f"{NAME}.zarr.tar.gz"])
    assert fetch().code == 0 and is_complete(tmp_path / "out")
    assert server.requests == [("mtgc.csv", None)]


@pytest.mark.parametrize("name", ["mtgc.csv", f"{NAME}.zarr.tar.gz"])
def test_the_command_in_the_message_completes_a_partial_file(fetch, server, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_bytes(server.files[name][:9])
    result = fetch()
    assert has_failed(result, f"{path}: its MD5 is not the published", "complete it with curl", "or remove it")
    assert path.read_bytes() == server.files[name][:9]  # it may be the user's
    if shutil.which("curl"):
        command = result.err.partition("complete it with ")[2].partition(" or remove it")[0]
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        assert path.read_bytes() == server.files[name] and server.requests[-1] == (name, "bytes=9-")
    else:
        path.unlink()
    assert fetch().code == 0 and is_complete(tmp_path / "out")


def test_damaged_archives_are_errors(fetch, server, tmp_path, monkeypatch):
    for archive in (b"no archive", server.files[f"{NAME}.zarr.tar.gz"][:-300]):
        serve(server, monkeypatch, archive)
        assert has_failed(fetch(), f"{NAME}.zarr.tar.gz: cannot be unpacked", "remove it")
        (tmp_path / "out" / f"{NAME}.zarr.tar.gz").unlink()
        assert listing(tmp_path / "out") == ["mtgc.csv"]


@pytest.mark.parametrize("member", [("../outside", b"x"), ("/tmp/outside-of-divita", b"x"), ("link", "/etc/passwd"),
                                    (f"{NAME}.zarr/link", "../../../outside")])  # fmt: skip
def test_archive_members_outside_the_folder_are_rejected(fetch, server, tmp_path, monkeypatch, member):
    serve(server, monkeypatch, make_archive(tmp_path / "source", member))
    result = fetch()
    if member[0].startswith("/"):  # unpacked inside, without the slash, and removed
        assert result.code == 0 and is_complete(tmp_path / "out")
    else:
        assert has_failed(result, "cannot be unpacked")
        assert listing(tmp_path / "out") == ["mtgc.csv", f"{NAME}.zarr.tar.gz"]
    assert not (tmp_path / "outside").exists() and not os.path.exists("/tmp/outside-of-divita")


def test_an_unknown_name_is_an_error(script, tmp_path):
    assert has_failed(script("01_prepare.py", "--download", "nonsense", "--out", tmp_path), "nonsense")


def test_a_full_disk_is_an_error_and_a_rerun_finishes(fetch, server, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        noise = np.random.default_rng(0).bytes(2 * 10**5)
        serve(server, monkeypatch, make_archive(tmp_path / "source", (f"{NAME}.zarr/tt1/9.9", noise)))
        assert has_failed(fetch(small), "run the same command again")
        subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
        assert fetch(small).code == 0 and is_complete(small)
    finally:
        subprocess.run(["umount", small], check=True)
