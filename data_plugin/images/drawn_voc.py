"""Drawn images with known objects in PASCAL VOC layout: a small data set to try everything on without a download."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_plugin.utils.errors import UserError

Colour = tuple[int, int, int]
Point = tuple[float, float]

SMALLEST_SIDE = 64
"""Pixels that a drawn image must at least be wide and high for its objects to be recognisable."""

_FINE = 3
"""Objects are drawn this many times larger and then reduced, for smooth edges."""


@dataclass(frozen=True)
class DrawnObject:
    """One object of a drawing.

    Args:
        name: its VOC class.
        box: left, top, right, bottom in pixels, 1-based and inclusive as in VOC.
    """

    name: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Drawing:
    """A drawn image.

    Args:
        image: the image.
        background: the same image without its objects.
        objects: what was drawn on it, the nearest last.
    """

    image: Image.Image
    background: Image.Image
    objects: Sequence[DrawnObject]


def draw_voc(
    root: Path, train: int, test: int, size: tuple[int, int] = (320, 240), seed: int = 0, unlabelled: int = 0
) -> Path:
    """Write a VOC2007 data set of drawn objects.

    Args:
        root: the folder that gets ``VOC2007/{JPEGImages,Annotations,ImageSets/Main}``.
        train: images of the split ``trainval``, at least 1.
        test: images of the split ``test``, at least 1.
        size: width and height of the images in pixels.
        seed: the same seed gives the same images, whatever the numbers of images.
        unlabelled: further images in ``JPEGImages`` that are in no split and have no annotation.

    Returns:
        The folder ``root / "VOC2007"``.

    Raises:
        UserError: if a split would be empty or the images are smaller than :data:`SMALLEST_SIDE`.
    """
    if train < 1 or test < 1 or unlabelled < 0:
        raise UserError(
            f"{train} training, {test} test and {unlabelled} unlabelled images; expected 1, 1 and 0 at least"
        )
    if min(size) < SMALLEST_SIDE:
        raise UserError(f"images of {size[0]}x{size[1]} pixels are too small to draw; the least is {SMALLEST_SIDE}")
    folder = root / "VOC2007"
    photographs, annotations, splits = folder / "JPEGImages", folder / "Annotations", folder / "ImageSets" / "Main"
    for each in (photographs, annotations, splits):
        each.mkdir(parents=True, exist_ok=True)
    for kind, (split, count) in enumerate({"trainval": train, "test": test, "": unlabelled}.items()):
        names = [f"{kind}{number:05d}" for number in range(count)]
        for number, name in enumerate(names):
            drawing = draw(np.random.default_rng([seed, kind, number]), size)
            drawing.image.save(photographs / f"{name}.jpg", quality=92)
            if split:
                _annotation(name, drawing).write(annotations / f"{name}.xml")
        if split:
            (splits / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def draw(generator: np.random.Generator, size: tuple[int, int]) -> Drawing:
    """Draw one to four objects, none of which hides more than a fifth of another, on a random background.

    Args:
        generator: decides everything about the image.
        size: width and height in pixels.
    """
    background = _background(generator, size)
    image = background.copy()
    objects: list[DrawnObject] = []
    wanted = int(generator.integers(1, 5))
    tries = 0
    while not objects or (len(objects) < wanted and tries < 4 * wanted):
        tries += 1
        name = str(generator.choice(CLASSES))
        sprite = _sprite(generator, name, min(size))
        if sprite.width > size[0] or sprite.height > size[1]:
            continue
        left = int(generator.integers(0, size[0] - sprite.width + 1))
        top = int(generator.integers(0, size[1] - sprite.height + 1))
        box = (left + 1, top + 1, left + sprite.width, top + sprite.height)
        if any(_hidden(box, other.box) > 0.2 for other in objects):
            continue
        image.paste(sprite, (left, top), sprite)
        objects.append(DrawnObject(name, box))
    return Drawing(image, background, objects)


def _sprite(generator: np.random.Generator, name: str, side: int) -> Image.Image:
    """One object in a random colour, size and pose on a transparent image that it fills to the edges."""
    picture, aspect = _PICTURES[name]
    area = (side * generator.uniform(0.25, 0.65)) ** 2
    stretch = aspect * generator.uniform(0.85, 1.2)
    pen = _Pen(generator, round((area * stretch) ** 0.5), round((area / stretch) ** 0.5))
    picture(pen)
    sprite = pen.layer.rotate(float(generator.uniform(-8, 8)), Image.Resampling.NEAREST, expand=True)
    if generator.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.resize((sprite.width // _FINE, sprite.height // _FINE), Image.Resampling.BOX)
    # Faint rims would widen the box by pixels that nobody sees.
    sprite.putalpha(sprite.getchannel("A").point(lambda alpha: alpha if alpha >= 96 else 0))
    return sprite.crop(sprite.getchannel("A").getbbox())


class _Pen:
    """Draws on a transparent layer in coordinates from 0 to 1."""

    def __init__(self, generator: np.random.Generator, width: int, height: int) -> None:
        self.layer = Image.new("RGBA", (width * _FINE, height * _FINE))
        self._draw = ImageDraw.Draw(self.layer)
        hue, saturation, value = generator.random(), generator.uniform(0.45, 0.95), generator.uniform(0.45, 0.95)
        self.colour = _rgb(hue, saturation, value)
        self.shade = _rgb(hue, saturation, 0.6 * value)
        self.second = _rgb(generator.random(), generator.uniform(0.3, 0.9), generator.uniform(0.4, 0.95))
        self.dark = _rgb(hue, 0.2, generator.uniform(0.08, 0.2))
        self.glass = _rgb(generator.uniform(0.5, 0.6), generator.uniform(0.15, 0.4), generator.uniform(0.75, 0.95))
        self.skin = _rgb(generator.uniform(0.05, 0.09), generator.uniform(0.3, 0.6), generator.uniform(0.4, 0.95))
        self.leaf = _rgb(generator.uniform(0.22, 0.4), generator.uniform(0.5, 0.9), generator.uniform(0.35, 0.75))

    def area(self, colour: Colour, *points: Point) -> None:
        self._draw.polygon([self._at(point) for point in points], fill=colour)

    def box(self, colour: Colour, left: float, top: float, right: float, bottom: float, round_: float = 0.0) -> None:
        radius = round_ * min(self.layer.size)
        self._draw.rounded_rectangle((*self._at((left, top)), *self._at((right, bottom))), radius, fill=colour)

    def oval(self, colour: Colour, left: float, top: float, right: float, bottom: float) -> None:
        self._draw.ellipse((*self._at((left, top)), *self._at((right, bottom))), fill=colour)

    def wheel(self, x: float, y: float, radius: float) -> None:
        """A round wheel; the radius is in units of the height."""
        across = radius * self.layer.height / self.layer.width
        self.oval(self.dark, x - across, y - radius, x + across, y + radius)
        self.oval((170, 170, 175), x - across / 2, y - radius / 2, x + across / 2, y + radius / 2)

    def _at(self, point: Point) -> Point:
        return (point[0] * (self.layer.width - 1), point[1] * (self.layer.height - 1))


def _aeroplane(pen: _Pen) -> None:
    pen.area(pen.shade, (0.48, 0.45), (0.62, 0.45), (0.42, 0.02), (0.33, 0.02))
    pen.area(pen.colour, (0.02, 0.05), (0.12, 0.05), (0.26, 0.45), (0.1, 0.5))
    pen.box(pen.colour, 0.06, 0.38, 0.98, 0.66, round_=0.14)
    pen.area(pen.shade, (0.42, 0.56), (0.62, 0.56), (0.36, 0.98), (0.26, 0.98))
    for x in (0.3, 0.4, 0.5, 0.6, 0.7):
        pen.oval(pen.glass, x, 0.44, x + 0.05, 0.53)
    pen.area(pen.glass, (0.84, 0.42), (0.92, 0.42), (0.96, 0.5), (0.84, 0.5))


def _boat(pen: _Pen) -> None:
    pen.box(pen.dark, 0.47, 0.0, 0.51, 0.75)
    pen.area((245, 240, 228), (0.53, 0.03), (0.53, 0.66), (0.93, 0.66))
    pen.area(pen.second, (0.45, 0.12), (0.45, 0.66), (0.12, 0.66))
    pen.area(pen.colour, (0.0, 0.72), (1.0, 0.72), (0.82, 1.0), (0.16, 1.0))
    pen.area(pen.shade, (0.06, 0.82), (0.94, 0.82), (0.88, 0.9), (0.11, 0.9))


def _bottle(pen: _Pen) -> None:
    pen.box(pen.second, 0.36, 0.0, 0.64, 0.08)
    pen.area(pen.colour, (0.38, 0.08), (0.62, 0.08), (0.62, 0.25), (0.95, 0.42), (0.05, 0.42), (0.38, 0.25))
    pen.box(pen.colour, 0.03, 0.38, 0.97, 1.0, round_=0.15)
    pen.box((240, 236, 220), 0.03, 0.52, 0.97, 0.8)
    pen.box(pen.second, 0.2, 0.6, 0.8, 0.72)
    pen.box(pen.shade, 0.8, 0.42, 0.92, 0.52)


def _bus(pen: _Pen) -> None:
    pen.box(pen.colour, 0.0, 0.0, 1.0, 0.86, round_=0.08)
    pen.box(pen.second, 0.0, 0.55, 1.0, 0.64)
    for left in (0.05, 0.24, 0.43, 0.62):
        pen.box(pen.glass, left, 0.12, left + 0.15, 0.46)
    pen.box(pen.glass, 0.83, 0.12, 0.98, 0.78)
    for x in (0.2, 0.7):
        pen.wheel(x, 0.85, 0.15)


def _car(pen: _Pen) -> None:
    pen.area(pen.colour, (0.2, 0.45), (0.32, 0.02), (0.66, 0.02), (0.82, 0.45))
    pen.area(pen.glass, (0.27, 0.42), (0.36, 0.1), (0.48, 0.1), (0.48, 0.42))
    pen.area(pen.glass, (0.52, 0.42), (0.52, 0.1), (0.63, 0.1), (0.75, 0.42))
    pen.box(pen.colour, 0.0, 0.38, 1.0, 0.82, round_=0.14)
    pen.box(pen.shade, 0.02, 0.64, 0.98, 0.7)
    pen.box((250, 235, 170), 0.93, 0.46, 0.99, 0.58)
    for x in (0.22, 0.78):
        pen.wheel(x, 0.79, 0.2)


def _person(pen: _Pen) -> None:
    pen.area(pen.second, (0.28, 0.55), (0.5, 0.55), (0.44, 0.97), (0.22, 0.97))
    pen.area(pen.second, (0.5, 0.55), (0.72, 0.55), (0.78, 0.97), (0.56, 0.97))
    pen.box(pen.dark, 0.14, 0.95, 0.46, 1.0)
    pen.box(pen.dark, 0.54, 0.95, 0.86, 1.0)
    pen.area(pen.shade, (0.26, 0.22), (0.36, 0.26), (0.14, 0.58), (0.0, 0.55))
    pen.area(pen.shade, (0.74, 0.22), (0.64, 0.26), (0.86, 0.58), (1.0, 0.55))
    pen.box(pen.colour, 0.24, 0.2, 0.76, 0.58, round_=0.1)
    pen.oval(pen.skin, 0.3, 0.0, 0.7, 0.2)
    pen.oval(pen.dark, 0.3, 0.0, 0.7, 0.07)


def _pottedplant(pen: _Pen) -> None:
    pen.box(pen.leaf, 0.47, 0.2, 0.53, 0.62)
    for tip, base in (((0.02, 0.2), 0.5), ((0.98, 0.16), 0.5), ((0.25, 0.0), 0.45), ((0.76, 0.02), 0.45)):
        x, y = tip
        pen.area(pen.leaf, (0.5, 0.62), (0.6 * x + 0.3, 0.4 * y + 0.2), tip, (0.7 * x + 0.05, 0.3 * y + base))
    pen.oval(pen.leaf, 0.38, 0.05, 0.62, 0.5)
    pen.area(pen.colour, (0.24, 0.66), (0.76, 0.66), (0.66, 1.0), (0.34, 1.0))
    pen.box(pen.shade, 0.2, 0.6, 0.8, 0.69)


def _tvmonitor(pen: _Pen) -> None:
    pen.box(pen.dark, 0.0, 0.0, 1.0, 0.8, round_=0.05)
    pen.box(pen.colour, 0.05, 0.06, 0.95, 0.72)
    pen.area(pen.second, (0.05, 0.72), (0.35, 0.3), (0.6, 0.72))
    pen.oval((250, 240, 190), 0.68, 0.14, 0.82, 0.34)
    pen.area(pen.dark, (0.44, 0.78), (0.56, 0.78), (0.6, 0.94), (0.4, 0.94))
    pen.box(pen.dark, 0.24, 0.93, 0.76, 1.0)


_PICTURES: dict[str, tuple[Callable[[_Pen], None], float]] = {
    "aeroplane": (_aeroplane, 2.0),
    "boat": (_boat, 1.0),
    "bottle": (_bottle, 0.38),
    "bus": (_bus, 2.0),
    "car": (_car, 2.1),
    "person": (_person, 0.42),
    "pottedplant": (_pottedplant, 0.75),
    "tvmonitor": (_tvmonitor, 1.25),
}
"""How each class is drawn, and its width over its height."""

CLASSES = tuple(_PICTURES)
"""The VOC classes that are drawn."""


def _background(generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A two-colour gradient or a horizon, under a coarse and a fine texture and a few faint blotches or lines."""
    width, height = size
    first, second = (
        np.array(_rgb(generator.random(), generator.uniform(0.05, 0.5), generator.uniform(0.25, 0.95)))
        for _ in range(2)
    )
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle = generator.uniform(0, 2 * np.pi)
    mix = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) + 0.5
    if generator.random() < 0.4:
        mix = 0.85 * (y > generator.uniform(0.3, 0.7)) + 0.15 * mix
    mix = np.clip(mix, 0, 1)[..., None]
    pixels = (1 - mix) * first + mix * second
    for cells, strength in ((int(generator.integers(3, 12)), 22.0), (int(generator.integers(40, 90)), 10.0)):
        coarse = Image.fromarray(generator.normal(0, 1, (cells, cells)).astype(np.float32))
        texture = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
        pixels = pixels + generator.uniform(0.3, 1.0) * strength * texture[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    clutter = image.copy()
    pen = ImageDraw.Draw(clutter)
    for _ in range(int(generator.integers(0, 9))):
        colour = _rgb(generator.random(), generator.uniform(0.0, 0.5), generator.uniform(0.2, 0.9))
        left, top = generator.uniform(-0.2, 1.0) * width, generator.uniform(-0.2, 1.0) * height
        right, bottom = left + generator.uniform(0.05, 0.5) * width, top + generator.uniform(0.05, 0.5) * height
        if generator.random() < 0.5:
            pen.ellipse((left, top, right, bottom), fill=colour)
        else:
            pen.line((left, top, right, bottom), fill=colour, width=int(generator.integers(2, 8)))
    blurred = clutter.filter(ImageFilter.GaussianBlur(float(generator.uniform(0.5, 4))))
    return Image.blend(image, blurred, float(generator.uniform(0.2, 0.6)))


def _hidden(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over the area of the smaller box."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    areas = ((each[2] - each[0] + 1) * (each[3] - each[1] + 1) for each in (box, other))
    return max(width, 0) * max(height, 0) / min(areas)


def _annotation(name: str, drawing: Drawing) -> ElementTree.ElementTree[ElementTree.Element]:
    root = ElementTree.Element("annotation")
    _child(root, "folder", "VOC2007")
    _child(root, "filename", f"{name}.jpg")
    shape = _child(root, "size")
    for field, value in (("width", drawing.image.width), ("height", drawing.image.height), ("depth", 3)):
        _child(shape, field, str(value))
    _child(root, "segmented", "0")
    for item in drawing.objects:
        node = _child(root, "object")
        for field, text in (("name", item.name), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            _child(node, field, text)
        box = _child(node, "bndbox")
        for field, value in zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True):
            _child(box, field, str(value))
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _child(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = text
    return child


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return (round(255 * red), round(255 * green), round(255 * blue))
