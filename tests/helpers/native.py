"""Datasets in the layouts of the converters' formats, and what converting them gives."""

from __future__ import annotations

from PIL import Image

from d2tiny.data.tools.converters import convert_dataset

# Of each format: folder of the images, folder of the labels, ending of the images, ending of the labels.
LAYOUT = {
    "visdrone": ("images", "annotations", ".jpg", ".txt"),
    "dota": ("images", "labelTxt", ".png", ".txt"),
    "voc": ("JPEGImages", "Annotations", ".jpg", ".xml"),
    "dior": ("JPEGImages-trainval", "Annotations/Horizontal Bounding Boxes", ".jpg", ".xml"),
    "yolo": ("images", "labels", ".png", ".txt"),
}
SIZE = (100, 80)


def picture(path, size=SIZE, **more):
    """Write a picture of one colour of (width, height) px, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 110, 70)).save(path, **more)


def native(root, name, labels, size=SIZE):
    """Write a dataset in its own layout: an image for each label file; None leaves the label file out."""
    images, texts, image_ending, text_ending = LAYOUT[name]
    (root / texts).mkdir(parents=True, exist_ok=True)
    for stem, text in labels.items():
        picture(root / images / (stem + image_ending), size)
        if text is not None:
            (root / texts / (stem + text_ending)).write_bytes(text if isinstance(text, bytes) else text.encode())
    if name == "yolo":
        (root / "classes.txt").write_text("car\nship\n")
    return root


def voc_object(name="ship", corners=(11, 21, 31, 41), difficult=""):
    """Return an object of a VOC xml."""
    x1, y1, x2, y2 = corners
    tag = f"<difficult>{difficult}</difficult>" if difficult != "" else ""
    box = f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
    return f"<object><name>{name}</name>{tag}{box}</object>"


def voc_xml(*objects, filename="a.jpg", size=SIZE, head=""):
    """Return a VOC xml."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"{head}<annotation><filename>{filename}</filename>{stated}{''.join(objects)}</annotation>"


def convert(name, source, **options):
    """Convert without a progress bar."""
    return convert_dataset(name, source, progress=False, **options)


def found(findings):
    """Return (severity, what) → count."""
    return {(entry["severity"], entry["what"]): entry["count"] for entry in findings.to_dict()}


def objects(result):
    """Return (image, class, box, area, ignored) of each annotation."""
    data = result.data
    images = {i["id"]: i["file_name"] for i in data["images"]}
    classes = {c["id"]: c["name"] for c in data["categories"]}
    return [
        (images[a["image_id"]], classes[a["category_id"]], tuple(a["bbox"]), a["area"], a["iscrowd"])
        for a in data["annotations"]
    ]


# A trapezoid: parallel sides of 10 and 20 px, 10 px apart: (10 + 20) / 2 * 10 = 150 px², hull 20×10 = 200 px².
QUAD = "10 10 20 10 25 20 5 20"
# A label of each format that converts.
GOOD = {
    "visdrone": "10,20,8,6,1,4,0,0\n",
    "dota": f"{QUAD} ship 0\n",
    "voc": voc_object(),
    "yolo": "0 0.5 0.5 0.2 0.1\n",
}
