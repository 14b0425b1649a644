"""01_prepare.py --download against a server on this machine."""

import hashlib
import http.server
import io
import os
import subprocess
import tarfile
import threading

import numpy as np
import pytest
import zarr

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
    """Serves {path: bytes}; cuts the first answer for a path in `cut` after half; `ranges` False ignores Range."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.asked, self.status = {}, set(), True, [], None
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0].strip("/")
        start = self.headers.get("Range")
        server.asked.append((path, start))
        if path not in server.files or server.status:
            return self.send_error(server.status or 404)
        first = int(start[6:-1]) if start and server.ranges else 0
        content = server.files[path][first:]
        if first and not content:
            return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if path in server.cut:
            server.cut.discard(path)
            content = content[: len(content) // 2]
        self.wfile.write(content)

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


@pytest.fixture
def fetch(script, server, tmp_path, monkeypatch):
    """Run the download as the script would, with the MD5 of the test's labels instead of the published ones."""
    real = hashlib.file_digest

    def digest(file, kind):
        found = real(file, kind)
        if kind == "md5" and found.hexdigest() == hashlib.md5(LABELS).hexdigest():
            return type("Digest", (), {"hexdigest": lambda self: "d730579950345b2c0f9c4a9779bd9d44"})()
        return found

    monkeypatch.setattr(hashlib, "file_digest", digest)
    return lambda out=tmp_path / "out": script("01_prepare.py", "--download", NAME, "--out", out)


def whole(out):
    assert sorted(path.name for path in out.iterdir()) == ["mtgc.csv", f"{NAME}.zarr"]
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


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_connection(fetch, server, tmp_path, ranges):
    server.cut, server.ranges = {f"{NAME}.zarr.tar.gz"}, ranges
    assert failed(fetch(), "the connection was cut", "goes on")
    assert fetch().code == 0 and whole(tmp_path / "out")
    assert server.asked[-1][1] is not None  # it asked for the rest


def test_wrong_md5(fetch, server, tmp_path):
    right = server.files[f"{NAME}.zarr.tar.gz"]
    server.files[f"{NAME}.zarr.tar.gz"] = right[:-1] + b"x"
    assert failed(fetch(), "MD5", "run the same command again")
    assert not list((tmp_path / "out").glob("*.part"))
    server.files[f"{NAME}.zarr.tar.gz"] = right
    assert fetch().code == 0 and whole(tmp_path / "out")


def test_not_found_and_no_server(fetch, server, tmp_path, monkeypatch):
    del server.files[f"{NAME}.zarr.tar.gz"]
    assert failed(fetch(), "404", f"{NAME}.zarr.tar.gz")
    monkeypatch.setenv("DIVITA_PUBLISHED", "http://127.0.0.1:9")
    assert failed(fetch(), "refused")


@pytest.mark.parametrize("status", [503, 429, 403])
def test_a_server_that_is_busy_costs_nothing(fetch, server, tmp_path, status):
    server.cut = {f"{NAME}.zarr.tar.gz"}
    assert failed(fetch(), "the connection was cut", "goes on")
    part = tmp_path / "out" / f"{NAME}.zarr.tar.gz.part"
    have, server.status = part.read_bytes(), status
    assert failed(fetch(), str(status)) and part.read_bytes() == have
    server.status = None
    assert fetch().code == 0 and whole(tmp_path / "out")
    assert server.asked[-1][1] == f"bytes={len(have)}-"


@pytest.mark.parametrize("more", [b"", b"x"])
def test_a_part_that_is_complete_or_too_long(fetch, server, tmp_path, more):
    (tmp_path / "out").mkdir()
    part = tmp_path / "out" / f"{NAME}.zarr.tar.gz.part"
    part.write_bytes(server.files[f"{NAME}.zarr.tar.gz"] + more)
    if more:
        assert failed(fetch(), "416") and not part.exists()
    assert fetch().code == 0 and whole(tmp_path / "out")
    assert sum(path.endswith(".gz") for path, _ in server.asked) == (2 if more else 0)


@pytest.mark.parametrize("member", [("../outside", b"x"), ("/tmp/outside-of-divita", b"x"), ("link", "/etc/passwd"),
                                    (f"{NAME}.zarr/link", "../../../outside")])  # fmt: skip
def test_an_archive_that_reaches_outside(fetch, server, tmp_path, monkeypatch, member):
    serve(server, monkeypatch, archive_of(tmp_path / "source", member))
    result = fetch()
    if member[0].startswith("/"):  # lands inside, without the slash, and is not taken along
        assert result.code == 0 and whole(tmp_path / "out")
    else:
        assert failed(result, "cannot be unpacked")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"mtgc.csv", f"{NAME}.zarr.tar.gz"}
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
