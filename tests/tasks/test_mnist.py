"""MNIST's files: their content, their sources, and error messages about wrong files."""

import gzip
import hashlib
import struct
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch

from fwagents.tasks import mnist
from fwagents.tasks.mnist import load_mnist

LABELS = [b"\0\0\x08\x01" + struct.pack(">I", 3) + bytes([7, 0, 9]), b"\0\0\x08\x01" + struct.pack(">I", 2) + b"\1\2"]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def images(first, last):
    return b"\0\0\x08\x03" + struct.pack(">III", last - first, 28, 28) + PIXELS[first:last].tobytes()


WHOLE = {
    "train-images-idx3-ubyte": images(0, 3),
    "train-labels-idx1-ubyte": LABELS[0],
    "t10k-images-idx3-ubyte": images(3, 5),
    "t10k-labels-idx1-ubyte": LABELS[1],
}


def write(folder, gzipped=False, **replaced):
    folder.mkdir(exist_ok=True)
    for name, content in WHOLE.items():
        content = replaced.get(name, content)
        (folder / f"{name}.gz" if gzipped else folder / name).write_bytes(
            gzip.compress(content, mtime=0) if gzipped else content
        )
    return folder


def check(data):
    assert [leaf.dtype for leaf in data] == [torch.uint8, torch.int64] * 2
    np.testing.assert_array_equal(data.train_images, PIXELS[:3])
    np.testing.assert_array_equal(data.test_images, PIXELS[3:])
    assert data.train_labels.tolist() == [7, 0, 9]
    assert data.test_labels.tolist() == [1, 2]


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FWAGENTS_MNIST", raising=False)
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(mnist, "MIRRORS", ())


@pytest.mark.parametrize("gzipped", [False, True])
def test_reads_plain_and_gzipped_files(tmp_path, gzipped):
    check(load_mnist(write(tmp_path, gzipped)))


def test_the_argument_wins_over_the_environment_and_that_over_the_cache(tmp_path, monkeypatch):
    write(tmp_path / "here")
    monkeypatch.setenv("FWAGENTS_MNIST", str(tmp_path / "here"))
    check(load_mnist())
    with pytest.raises(FileNotFoundError, match=r"elsewhere has neither train-images-idx3-ubyte nor .*\.gz"):
        load_mnist(tmp_path / "elsewhere")
    monkeypatch.setenv("FWAGENTS_MNIST", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere has neither"):
        load_mnist()
    check(load_mnist(tmp_path / "here"))
    monkeypatch.setenv("FWAGENTS_MNIST", "")  # an empty variable counts as unset
    with pytest.raises(FileNotFoundError, match=r"is not in .*cache"):
        load_mnist()


def header(*numbers):
    return b"".join([b"\0\0\x08", bytes([len(numbers)]), struct.pack(f">{len(numbers)}I", *numbers)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", LABELS[0], "begins with 00 00 08 01, expected 00 00 08 03: .* 3 dimensions"),
        ("t10k-labels-idx1-ubyte", images(3, 5), "begins with 00 00 08 03, expected 00 00 08 01"),
        ("t10k-images-idx3-ubyte", b"", "begins with nothing, expected 00 00 08 03"),
        ("t10k-images-idx3-ubyte", b"<html>Not Found", "begins with 3c 68 74 6d, expected"),
        ("train-images-idx3-ubyte", images(0, 3)[:10], "has 10 bytes, expected a header of 16"),
        ("train-images-idx3-ubyte", images(0, 3)[:-1], "has 2367 bytes, expected 2368 for 3 entries"),
        ("train-labels-idx1-ubyte", LABELS[0] + b"\0", "has 12 bytes, expected 11 for 3 entries"),
        ("train-images-idx3-ubyte", header(3, 20, 28) + bytes(1680), "3 x 20 x 28 bytes, expected N x 28 x 28"),
        ("train-images-idx3-ubyte", header(0, 28, 28), "0 x 28 x 28 bytes, expected N x 28 x 28, N at least 1"),
        ("train-labels-idx1-ubyte", header(2) + b"\1\2", "has 2 labels, expected 3, one an image"),
        ("t10k-labels-idx1-ubyte", header(2) + b"\1\x0a", "has the label 10, expected 0 to 9"),
    ],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name, content, message, gzipped):
    with pytest.raises(ValueError, match=f"{name}.*{message}") as error:
        load_mnist(write(tmp_path, gzipped, **{name: content}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-8] + bytes(8),
        lambda packed: packed[:20] + b"\xff" * 20 + packed[40:],
        lambda packed: b"<html>",
    ],
    ids=["cut short", "wrong checksum", "garbled", "no gzip at all"],
)
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = write(tmp_path, gzipped=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is damaged: .*expected a whole gzip file"):
        load_mnist(tmp_path)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Return a function that serves folders as mirrors on this machine and returns the list of requests."""
    monkeypatch.setenv("NO_PROXY", "*")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    def start(*mirrors):
        write(tmp_path / "published", gzipped=True)
        sums = {
            name: hashlib.sha256((tmp_path / "published" / f"{name}.gz").read_bytes()).hexdigest() for name in WHOLE
        }
        monkeypatch.setattr(mnist, "CHECKSUMS", sums)
        root = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(mnist, "MIRRORS", tuple(f"{root}/{mirror}/" for mirror in mirrors))
        return asked

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield start
        server.shutdown()


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_downloads_once(tmp_path, serve, capsys):
    asked = serve("published", "absent")
    check(load_mnist())
    assert asked == [f"/published/{name}.gz" for name in WHOLE]
    assert "100%" in capsys.readouterr().err
    assert cached(tmp_path) == sorted(f"{name}.gz" for name in WHOLE)
    check(load_mnist())
    assert len(asked) == 4


def test_the_second_mirror_steps_in(tmp_path, serve, capsys):
    asked = serve("absent", "published")
    check(load_mnist(progress=False))
    assert len(asked) > 4
    assert "100%" not in capsys.readouterr().err


def test_a_wrong_checksum_is_refused_and_nothing_of_it_kept(tmp_path, serve):
    serve("altered")
    write(tmp_path / "altered", gzipped=True, **{"train-labels-idx1-ubyte": header(3) + b"\1\1\1"})
    with pytest.raises(
        FileNotFoundError, match=r"train-labels-idx1-ubyte\.gz is not in .*hash.*does not match"
    ) as error:
        load_mnist(progress=False)
    assert "\n" not in str(error.value)
    assert cached(tmp_path) == ["train-images-idx3-ubyte.gz"]


def test_a_download_cut_short_is_refused_and_the_next_mirror_asked(tmp_path, serve):
    serve("cut", "published")
    for path in write(tmp_path / "cut", gzipped=True).iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    check(load_mnist(progress=False))
    assert cached(tmp_path) == sorted(f"{name}.gz" for name in WHOLE)


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path, serve):
    serve("published")
    write(tmp_path / "cache", gzipped=True)
    (tmp_path / "cache" / "t10k-images-idx3-ubyte.gz").write_bytes(b"half of it")
    check(load_mnist(progress=False))


def test_no_mirror_answers(tmp_path, serve):
    serve("absent", "absent too")
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3-ubyte\.gz .*absent/: 404.*; .*absent too/: 404"
    ) as error:
        load_mnist(progress=False)
    assert "\n" not in str(error.value)


def test_checksums_are_of_the_four_files():
    assert list(mnist.CHECKSUMS) == list(WHOLE)
    assert {len(bytes.fromhex(sum)) for sum in mnist.CHECKSUMS.values()} == {32}
