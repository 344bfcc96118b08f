import numpy as np
import pytest
from PIL import Image

from data_plugin import UserError
from data_plugin.images.image_folder import ImageFolder


def write_image(path, value=0, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_images_of_all_sub_folders_come_in_sorted_order_and_nothing_else_does(tmp_path):
    for name in ("b/2.png", "a/x/1.JPEG", "c.jpg", "a/.hidden.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "b" / "labels.txt").write_text("1")
    assert ImageFolder(tmp_path).names == ["a/x/1.JPEG", "b/2.png", "c.jpg"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_mode_is_read_as_rgb(tmp_path, mode):
    Image.new("RGB", (8, 6), (204, 204, 204)).convert(mode).save(tmp_path / "image.tif")
    image = ImageFolder(tmp_path).read(0)
    assert image.mode == "RGB"
    assert image.size == (8, 6)
    assert np.abs(np.asarray(image).astype(int) - 204).max() <= 1


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="missing is not a folder"):
        ImageFolder(tmp_path / "missing")
    with pytest.raises(UserError, match=r"file\.jpg is not a folder"):
        ImageFolder(tmp_path / "file.jpg")
    with pytest.raises(UserError, match="empty holds no image file"):
        ImageFolder(tmp_path / "empty")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_an_empty_and_a_foreign_file_are_not_read(tmp_path, suffix):
    for name in ("0whole", "1truncated"):
        write_image(tmp_path / f"{name}.{suffix}", size=(200, 200))
    whole = (tmp_path / f"0whole.{suffix}").read_bytes()
    (tmp_path / f"1truncated.{suffix}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / f"2empty.{suffix}").write_bytes(b"")
    (tmp_path / f"3text.{suffix}").write_text("no image")
    images = ImageFolder(tmp_path)
    assert [images.read(index) is not None for index in range(4)] == [True, False, False, False]


def test_the_fingerprint_changes_with_names_and_sizes_only(tmp_path):
    for root in ("one", "two"):
        for index in range(3):
            write_image(tmp_path / root / f"{index}.png", index)
    before = ImageFolder(tmp_path / "one").fingerprint()
    assert ImageFolder(tmp_path / "two").fingerprint() == before
    (tmp_path / "two" / "2.png").rename(tmp_path / "two" / "3.png")
    assert ImageFolder(tmp_path / "two").fingerprint() != before
    write_image(tmp_path / "one" / "2.png", 2, size=(50, 50))
    assert ImageFolder(tmp_path / "one").fingerprint() != before
