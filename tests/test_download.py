"""01_prepare.py --download against a server on this machine."""

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


def archive_of(folder, *extra):
    """Return the bytes of a small archive in the published format, with further members (name, content or link)."""
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
    """Serves {path: bytes}; the first answer for a path in `cut` ends after half, all for one in `stuck` stop there."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.stuck, self.asked = {}, set(), set(), []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0].strip("/")
        start = self.headers.get("Range")
        server.asked.append((path, start))
        if path not in server.files:
            return self.send_error(404)
        whole = server.files[path]
        first = int(start[6:-1]) if start else 0
        content = whole[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        if path in server.cut | server.stuck:
            server.cut.discard(path)
            content = content[: len(content) // 2]
        self.wfile.write(content)
        if path in server.stuck:
            self.connection.settimeout(None)  # the script's, in the same process, counts for new connections of all
            self.rfile.read()  # until the other side is gone

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server()
    monkeypatch.setenv("DIVITA_PUBLISHED", f"http://127.0.0.1:{server.server_port}")
    (tmp_path / "source").mkdir()
    serve(server, monkeypatch, archive_of(tmp_path / "source"))
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


def whole(out):
    assert listing(out) == ["mtgc.csv", f"{NAME}.zarr"]
    assert (out / "mtgc.csv").read_bytes() == LABELS
    representation = divita.open_representation(out, NAME)
    assert np.array_equal(representation["tt1"], np.ones((3, 4)))
    return True


def failed(result, *told):
    assert result.code == 2, result.err
    last = result.err.splitlines()[-1]
    assert "Traceback" not in result.err and all(word in last for word in told), last
    return True


def test_download(fetch, server, tmp_path):
    result = fetch()
    assert result.code == 0, result.err
    assert f"next: python 02_train.py --data {tmp_path / 'out'} --image {NAME} --video none" in result.out
    assert whole(tmp_path / "out")
    asked = len(server.asked)
    assert fetch().code == 0 and len(server.asked) == asked  # nothing is fetched twice


def test_a_cut_connection_leaves_nothing(fetch, server, tmp_path):
    server.cut = {"mtgc.csv", f"{NAME}.zarr.tar.gz"}
    for name in ("mtgc.csv", f"{NAME}.zarr.tar.gz"):
        assert failed(fetch(), f"{name}: cannot be downloaded", "got only", "run the same command again", "curl -fLC -")
        assert name not in listing(tmp_path / "out") and not list((tmp_path / "out").glob(".[!l]*"))
    assert fetch().code == 0 and whole(tmp_path / "out")


def test_wrong_md5(fetch, server, tmp_path):
    right = server.files[f"{NAME}.zarr.tar.gz"]
    server.files[f"{NAME}.zarr.tar.gz"] = right[:-1] + b"x"
    assert failed(fetch(), "md5", "does not match", "run the same command again")
    assert listing(tmp_path / "out") == ["mtgc.csv"]
    server.files[f"{NAME}.zarr.tar.gz"] = right
    assert fetch().code == 0 and whole(tmp_path / "out")


def test_not_found_and_no_server(fetch, server, tmp_path, monkeypatch):
    del server.files[f"{NAME}.zarr.tar.gz"]
    assert failed(fetch(), "404", f"{NAME}.zarr.tar.gz")
    monkeypatch.setenv("DIVITA_PUBLISHED", "http://127.0.0.1:9")
    assert failed(fetch(tmp_path / "other"), "refused")


def test_a_server_that_says_nothing_more(fetch, server, tmp_path, monkeypatch):
    monkeypatch.setattr(divita, "DOWNLOAD_TIMEOUT", 0.5)
    server.stuck = {f"{NAME}.zarr.tar.gz"}
    assert failed(fetch(), "timed out", "run the same command again")
    assert listing(tmp_path / "out") == ["mtgc.csv"]


def test_a_killed_download_leaves_nothing_half(fetch, server, tmp_path):
    server.stuck, server.files["mtgc.csv"] = {"mtgc.csv"}, LABELS * 10**4
    out = tmp_path / "out"
    job = Job(tmp_path / "log", "--download", NAME, "--out", out, DIVITA_PUBLISHED=os.environ["DIVITA_PUBLISHED"])
    while not any(path.stat().st_size for path in out.glob(f"{divita.TEMPORARY}*")):
        assert job.process.is_alive(), job.text()
    job.process.kill()
    job.end()
    assert [name.startswith(divita.TEMPORARY) for name in listing(out)] == [True]
    server.stuck, server.files["mtgc.csv"] = set(), LABELS
    assert fetch().code == 0 and whole(out)


def test_a_file_that_lies_there_whole_is_taken(fetch, server, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{NAME}.zarr.tar.gz").write_bytes(server.files[f"{NAME}.zarr.tar.gz"])
    assert fetch().code == 0 and whole(tmp_path / "out")
    assert server.asked == [("mtgc.csv", None)]


@pytest.mark.parametrize("name", ["mtgc.csv", f"{NAME}.zarr.tar.gz"])
def test_a_file_that_is_not_whole_is_completed_by_the_command_that_the_error_names(fetch, server, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_bytes(server.files[name][:9])
    result = fetch()
    assert failed(result, f"{path}: its MD5 is not the published", "complete it with curl", "or remove it")
    assert path.read_bytes() == server.files[name][:9]  # it may be the user's own
    if shutil.which("curl"):
        command = result.err.partition("complete it with ")[2].partition(" or remove it")[0]
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        assert path.read_bytes() == server.files[name] and server.asked[-1] == (name, "bytes=9-")
    else:
        path.unlink()
    assert fetch().code == 0 and whole(tmp_path / "out")


def test_an_archive_that_is_none(fetch, server, tmp_path, monkeypatch):
    for archive in (b"no archive", server.files[f"{NAME}.zarr.tar.gz"][:-300]):
        serve(server, monkeypatch, archive)
        assert failed(fetch(), f"{NAME}.zarr.tar.gz: cannot be unpacked", "remove it")
        (tmp_path / "out" / f"{NAME}.zarr.tar.gz").unlink()
        assert listing(tmp_path / "out") == ["mtgc.csv"]


@pytest.mark.parametrize("member", [("../outside", b"x"), ("/tmp/outside-of-divita", b"x"), ("link", "/etc/passwd"),
                                    (f"{NAME}.zarr/link", "../../../outside")])  # fmt: skip
def test_an_archive_that_reaches_outside(fetch, server, tmp_path, monkeypatch, member):
    serve(server, monkeypatch, archive_of(tmp_path / "source", member))
    result = fetch()
    if member[0].startswith("/"):  # lands inside, without the slash, and is not taken along
        assert result.code == 0 and whole(tmp_path / "out")
    else:
        assert failed(result, "cannot be unpacked")
        assert listing(tmp_path / "out") == ["mtgc.csv", f"{NAME}.zarr.tar.gz"]
    assert not (tmp_path / "outside").exists() and not os.path.exists("/tmp/outside-of-divita")


def test_unknown_name(script, tmp_path):
    assert failed(script("01_prepare.py", "--download", "nonsense", "--out", tmp_path), "nonsense")


def test_full_disk(fetch, server, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        noise = np.random.default_rng(0).bytes(2 * 10**5)
        serve(server, monkeypatch, archive_of(tmp_path / "source", (f"{NAME}.zarr/tt1/9.9", noise)))
        assert failed(fetch(small), "run the same command again")
        subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
        assert fetch(small).code == 0 and whole(small)
    finally:
        subprocess.run(["umount", small], check=True)
